"""
The bounds that the figures are held against; they are reported and never fail anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.contenders import AIOHTTP_PYDANTIC, NAIVE, NAIVE_UNLIMITED, OPENAI, OPENAI_AIOHTTP
from benchmarks.decode import PYDANTIC
from benchmarks.figures import Figures, Ratio, Target
from benchmarks.ours import OUR_CLIENTS, OURS, OURS_AIOHTTP
from benchmarks.walks import BY_HAND


class _Bound(NamedTuple):
    """A measure, the contender that it is about, the one that it is against, and the bound."""

    measure: str
    ours: str
    theirs: str
    bound: float


_BOUNDS = (
    *(_Bound("CPU a page, 1 in flight", OURS, theirs, 0.90) for theirs in (NAIVE, NAIVE_UNLIMITED)),
    *(_Bound("CPU a page, 16 in flight", OURS, theirs, 0.40) for theirs in (NAIVE, NAIVE_UNLIMITED)),
    *(_Bound("CPU a page, 64 in flight", OURS, theirs, 0.20) for theirs in (NAIVE, NAIVE_UNLIMITED)),
    *(_Bound(f"CPU a page, {level} in flight", OURS_AIOHTTP, AIOHTTP_PYDANTIC, 1.25) for level in (16, 64)),
    *(_Bound(f"CPU a page, {level} in flight", OURS, OPENAI, 0.25) for level in (16, 64)),
    *(_Bound(f"CPU a page, {level} in flight", OURS_AIOHTTP, OPENAI_AIOHTTP, 0.15) for level in (16, 64)),
    _Bound("decoding a page", OURS, PYDANTIC, 2.0),
)
_ALONE, _MANY = "CPU a page, 1 in flight", "CPU a page, 200 in flight"
_LEAST_SHARE = 0.95


def judged(measured: Iterable[Figures]) -> list[Target]:
    """The targets that were measured."""
    by_name = {figures.name: figures for figures in measured}
    found = []
    for bound in _BOUNDS:
        rounds = by_name[bound.measure].rounds if bound.measure in by_name else {}
        if bound.ours in rounds and bound.theirs in rounds:
            ratio = Ratio.of(rounds[bound.ours], rounds[bound.theirs])
            found.append(Target(f"{bound.measure}: {bound.ours} / {bound.theirs}", ratio, bound.bound))
    if _ALONE in by_name and _MANY in by_name:
        ratio = Ratio.of(by_name[_MANY].rounds[OURS], by_name[_ALONE].rounds[OURS])
        found.append(Target(f"{OURS}: CPU a page, 200 / 1 in flight", ratio, 1.2))
    for figures in by_name.values():
        if "-page walk, 100 ms" in figures.name:
            found.append(_walk(figures))
        if figures.name.startswith("fan-out of 2,000"):
            found.append(_share(figures))
    return found


def _walk(figures: Figures) -> Target:
    """Against the best of those that offer a walk, or are walked page by page."""
    peers = [name for name in figures.rounds if not name.startswith(OURS) and name != BY_HAND]
    best = min(peers, key=figures.median)
    ratio = Ratio.of(figures.rounds[OURS], figures.rounds[best])
    return Target(f"{figures.name}: {OURS} / the best peer ({best})", ratio, 0.30)


def _share(figures: Figures) -> Target:
    shares = figures.rounds[OURS]
    ratio = Ratio.of(shares, [100.0] * len(shares))
    return Target(f"{figures.name}: {OURS} / the budget's rate", ratio, _LEAST_SHARE, least=True)


def is_ours(name: str) -> bool:
    """Whether a contender is this client."""
    return name.startswith(tuple(OUR_CLIENTS))
