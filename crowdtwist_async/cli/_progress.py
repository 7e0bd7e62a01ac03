"""
What an export shows while it runs: a bar and a line on a terminal, a line every 30 seconds elsewhere.
"""

from __future__ import annotations

import math
import os
import sys
from threading import RLock
from types import TracebackType
from typing import Self

import anyio
import anyio.to_thread
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.control import Control
from rich.progress_bar import ProgressBar
from rich.segment import ControlType, Segment
from rich.text import Text

from crowdtwist_async.cli import say
from crowdtwist_async.cli._summary import CHECK_IDS, percent, title_of
from crowdtwist_async.export.places import STANDARD_OUTPUT
from crowdtwist_async.export.plan import Plan, counted, duration
from crowdtwist_async.export.report import ExportReport

REFRESH_SECONDS = 0.25
LOG_SECONDS = 30.0
_MANY = 1_000
"""Ids that are all unknown: there is hardly one that is not."""
_BAR = 40
"""Columns of the bar at most."""


def make_console(output: str, *, quiet: bool) -> Console:
    """The console for standard error; lines move on a terminal that shows nothing else."""
    rows_beside = output == STANDARD_OUTPUT and is_terminal(sys.stdout)
    moving = is_terminal(sys.stderr) and not rows_beside and os.environ.get("TERM") != "dumb"
    return _StandardError(
        stderr=True,
        quiet=quiet,
        force_terminal=moving,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=True,
    )


def is_terminal(stream: object) -> bool:
    """Whether somebody may look at it: a closed stream is `None`."""
    isatty = getattr(stream, "isatty", None)
    return isatty is not None and isatty()


class _StandardError(Console):
    def on_broken_pipe(self) -> None:
        """Raise what is handled; rich would redirect standard output, and end the process."""
        raise BrokenPipeError


class ProgressDisplay:
    """
    The plan, then how far the export is.

    Args:
        console: Where to.
        endpoint: What is exported.
        typed: Whether somebody types the ids: nothing moves until they are read.
    """

    def __init__(self, console: Console, endpoint: str, *, typed: bool = False) -> None:
        self.has_begun = False
        """The ids are read, and requests are made."""
        self.is_stopping = False
        """Only what is under way is finished."""
        self.report: ExportReport | None = None
        """The latest."""
        self._warned = False
        self._console = console
        self._endpoint = endpoint
        self._typed = typed
        self._footer = _Footer(console, self)
        self._printing = RLock()

    def __enter__(self) -> Self:
        if self._console.is_terminal and self._typed:
            self.say("Type one member id a line, and Ctrl-D after the last.")
        elif self._console.is_terminal:
            self._footer.is_shown = True
            self._redraw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._footer.is_shown = False
        self._redraw()
        if self._console.is_terminal and self._typed and not self.has_begun:
            self.say("")  # below what was typed last

    def show(self, report: ExportReport) -> None:
        """Take a report that fills."""
        self.report = report
        is_running = report.status == "running"
        if is_running and not self._warned and report.not_found == report.done >= _MANY:
            self._warned = True
            self.warn(f"warning: the API knows none of the first {_MANY:,} ids: {CHECK_IDS}; Ctrl-C stops")
        if is_running and not self.has_begun:
            self.has_begun = True
            self._footer.is_shown = self._console.is_terminal
            self.say(f"{title_of(report)}: {plan_of(report)}.")

    def say(self, sentence: str) -> None:
        """Print a sentence, above what moves."""
        self._print(Text(sentence))

    def warn(self, sentence: str) -> None:
        """Print a sentence, with `--quiet` too."""
        if self._console.quiet:
            say(sentence)
        else:
            self.say(f"crowdtwist: {sentence}")

    async def run(self) -> None:
        """Show how far it is, again and again."""
        while True:
            await anyio.sleep(REFRESH_SECONDS if self._console.is_terminal else LOG_SECONDS)
            # A terminal may be held (Ctrl-S), and must not hold up the export.
            await anyio.to_thread.run_sync(self._redraw if self._console.is_terminal else self._log)

    def _redraw(self) -> None:
        self._print(Control())

    def _log(self) -> None:
        if self.report is not None and self.has_begun:
            self.say(f"{title_of(self.report)}: {line_of(self.report)}")

    def _print(self, renderable: ConsoleRenderable) -> None:
        with self._printing:
            try:
                self._console.print(renderable)
            except OSError:
                # Whoever looked at it has gone: that is no reason to end the export.
                self._console.quiet = True

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        report = self.report
        if report is None:
            yield Text(f"{self._endpoint}: reading the ids", no_wrap=True, overflow="crop")
            return
        beside = f" {self._beside(report)}"
        width = min(_BAR, options.max_width - len(beside))
        if width > 0:
            yield ProgressBar(total=max(report.ids, 1), completed=report.done, width=width)
        yield Text(beside, no_wrap=True, overflow="crop")
        yield Text(state_of(report), no_wrap=True, overflow="ellipsis")

    def _beside(self, report: ExportReport) -> str:
        """What stands beside the bar: how long it takes yet, if it goes on."""
        if self.is_stopping:
            return "stopping"
        share = percent(report.done / max(report.ids, 1))
        if report.waiting is not None:
            return f"{share}, waiting for the API"
        if report.seconds_left is None:
            return share
        return f"{share}, {duration(report.seconds_left)} left"


class _Footer(RenderHook):
    """Lines that stay under what is printed, and leave nothing behind when the terminal is resized."""

    def __init__(self, console: Console, content: ProgressDisplay) -> None:
        self.is_shown = False
        self._content = content
        self._console = console
        self._widths: list[int] = []
        """Columns of each line that stands there; the cursor is at the beginning of the last."""
        console.push_render_hook(self)

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Print in the place of the lines, and print these again."""
        erased = self._erased()
        return [erased, *renderables, self] if self.is_shown else [erased, *renderables]

    def _erased(self) -> Control:
        """Erase the lines: a terminal that is narrower by now has wrapped them."""
        rows = [max(1, math.ceil(columns / self._console.width)) for columns in self._widths]
        self._widths = []
        if not rows:
            return Control()
        down = [(ControlType.CURSOR_DOWN, rows[-1] - 1)] if rows[-1] > 1 else []
        erase, up = (ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)
        return Control(ControlType.CARRIAGE_RETURN, *down, erase, *[up, erase] * (sum(rows) - 1))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # The last column stays free: a terminal wraps what reaches it in more than one way.
        within = options.update(width=max(options.max_width - 1, 1))
        lines = console.render_lines(self._content, within, pad=False)
        self._widths = [Segment.get_line_length(line) for line in lines]
        for number, line in enumerate(lines):
            if number:
                yield Segment.line()
            yield from line
        # What a user types, Ctrl-C for one, must not wrap either.
        yield Control(ControlType.CARRIAGE_RETURN)


def plan_of(report: ExportReport) -> str:
    """What is left to do before the first request."""
    left = max(report.ids - report.resumed, 0)
    plan = str(Plan(left, math.inf if report.per_minute is None else report.per_minute))
    return f"{counted(report.resumed, 'member')} done before; {plan}" if report.resumed else plan


def state_of(report: ExportReport) -> str:
    """How far it is, the most telling first: a narrow terminal cuts its end."""
    members = f"{report.done:,} of {counted(report.ids, 'member')}"
    if report.waiting is not None:
        return f"{members}; waiting: {report.waiting}"
    parts = [
        members,
        counted(report.rows, "row"),
        f"{report.failed:,} failed",
        f"{report.requests_per_second:,.{1 if 0 < report.requests_per_second < 1 else 0}f} req/s",
    ]
    if report.budget_use is not None:
        parts.append(f"{percent(report.budget_use)} of budget")
    return ", ".join(parts)


def line_of(report: ExportReport) -> str:
    """All in one line, for a log."""
    if report.waiting is not None or report.seconds_left is None:
        return state_of(report)
    return f"{state_of(report)}, {duration(report.seconds_left)} left"
