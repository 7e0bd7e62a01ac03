"""
The chart of the README: plain SVG, readable on light and dark pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from benchmarks.figures import Figures
from benchmarks.targets import is_ours

_WIDTH, _LABELS, _ROW, _BAR = 760, 290, 22, 14
_LONGEST = _WIDTH - _LABELS - 90
_OURS, _THEIRS, _INK = "#2f81f7", "#8b949e", "#7d8590"
_STYLE = f"text{{font:12px system-ui,sans-serif;fill:{_INK}}}.title{{font-weight:600}}"


def chart(panels: Sequence[Figures]) -> str:
    """Bars of the medians, the shortest first, one panel below the other."""
    parts: list[str] = []
    top = 8
    for figures in panels:
        parts += _panel(figures, top)
        top += (len(figures.rounds) + 2) * _ROW
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}"'
        f' viewBox="0 0 {_WIDTH} {top}" role="img"><style>{_STYLE}</style>'
    )
    return "\n".join([head, *parts, "</svg>\n"])


def _panel(figures: Figures, top: int) -> list[str]:
    names = sorted(figures.rounds, key=figures.median)
    longest = figures.median(names[-1])
    parts = [
        f'<text class="title" x="0" y="{top + _BAR}">{escape(figures.name)} ({escape(figures.unit)})</text>'
    ]
    for row, name in enumerate(names, start=1):
        figure, y = figures.median(name), top + row * _ROW
        colour = _OURS if is_ours(name) else _THEIRS
        length = max(1, round(_LONGEST * figure / longest))
        parts += [
            f'<text x="{_LABELS - 8}" y="{y + _BAR - 2}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LABELS}" y="{y}" width="{length}" height="{_BAR}" rx="2" fill="{colour}"/>',
            f'<text x="{_LABELS + length + 6}" y="{y + _BAR - 2}">{figure:,.{figures.digits}f}</text>',
        ]
    return parts
