"""
What an export shows while it runs, on a terminal that is resized and elsewhere.
"""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from command import (  # noqa: F401 - fixtures
    MEMBERS,
    USER,
    Command,
    emulated,
    in_this_process,
    no_account,
    python_m,
)
from rich.console import Console

from crowdtwist_async.cli import _progress
from crowdtwist_async.cli._progress import ProgressDisplay, line_of, make_console, plan_of
from crowdtwist_async.cli._summary import summary_of
from crowdtwist_async.emulator import Emulator
from crowdtwist_async.export import ExportReport

PATIENCE = 60.0
CODES = r"\x1b\[([0-9;]*)([A-Za-z])|([^\x1b])"


def report(**counts: Any) -> ExportReport:
    """How far an export of 20 members is."""
    return ExportReport("out.jsonl", "points", **{"ids": 20, **counts})


class Screen:
    """A terminal's rows: what it shows after what was written, also when its width changes."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._rows: list[str] = [""]
        self._wrapped: list[bool] = [False]
        """Whether a row is the rest of the one before."""
        self._row = self._column = 0

    def write(self, text: str) -> int:
        """Take text and control codes."""
        for code in re.finditer(CODES, text):
            number, letter, character = code.groups()
            if character is not None:
                self._put(character)
            elif letter == "A":
                self._row = max(0, self._row - int(number))
            elif letter == "B":
                self._row = min(len(self._rows) - 1, self._row + int(number))
            elif letter == "K":
                assert "2" == number
                self._rows[self._row] = ""
            else:
                assert "m" == letter, "the cursor is left alone"
        return len(text)

    def flush(self) -> None:
        """Show everything: it is shown at once."""

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._next_row(wrapped=False)
        else:
            if self._column == self.width:
                self._next_row(wrapped=True)
            row = self._rows[self._row].ljust(self._column)
            self._rows[self._row] = row[: self._column] + character + row[self._column + 1 :]
            self._column += 1

    def _next_row(self, *, wrapped: bool) -> None:
        self._row, self._column = self._row + 1, 0
        if self._row == len(self._rows):
            self._rows.append("")
            self._wrapped.append(False)
        self._wrapped[self._row] = wrapped

    def resize(self, width: int) -> None:
        """Wrap all lines anew, the cursor staying where it is in its line."""
        lines: list[str] = []
        for row, wrapped in zip(self._rows, self._wrapped, strict=True):
            if wrapped:
                lines[-1] += row
            else:
                lines.append(row)
        line = sum(not wrapped for wrapped in self._wrapped[: self._row + 1]) - 1
        assert (0, False) == (self._column, self._wrapped[self._row]), "the cursor begins a line"
        self.width, self._rows, self._wrapped = width, [], []
        for number, text in enumerate(lines):
            if number == line:
                self._row = len(self._rows)
            parts = [text[at : at + width] for at in range(0, len(text), width)] or [""]
            self._rows += parts
            self._wrapped += [False, *[True] * (len(parts) - 1)]

    @property
    def lines(self) -> list[str]:
        """The rows, without the empty ones at the end."""
        return "\n".join(row.rstrip() for row in self._rows).rstrip().splitlines()


class Terminal:
    """A display on a screen."""

    def __init__(self, width: int, **options: Any) -> None:
        self.screen = Screen(width)
        self.console = Console(
            file=self.screen,  # type: ignore[arg-type]  # as much of a file as is needed
            force_terminal=True,
            color_system=None,
            width=width,
            soft_wrap=True,
            highlight=False,
            legacy_windows=False,
            _environ={},
        )
        self.display = ProgressDisplay(self.console, "points", **options)

    @property
    def lines(self) -> list[str]:
        """What the screen shows, the bar's strokes taken for one."""
        return [re.sub("[━╸╺]+", "━", line) for line in self.screen.lines]

    def redraw(self) -> None:
        """Have it drawn again, as it is several times a second."""
        self.display._redraw()

    def resize(self, width: int) -> None:
        """Make the terminal wider or narrower."""
        self.screen.resize(width)
        self.console.width = width


# On a terminal


def test_it_says_what_it_waits_for_before_the_plan() -> None:
    """The ids of a large file take a while."""
    terminal = Terminal(80)

    with terminal.display:
        assert ["points: reading the ids"] == terminal.lines
        terminal.display.show(report())
        first = terminal.lines

    assert [
        "points: 20 members, at least 20 requests, without a limit.",
        " 0%",
        "0 of 20 members, 0 rows, 0 failed, 0 req/s",
    ] == first
    assert first[:1] == terminal.lines


def test_a_bar_and_a_line_move_under_what_is_said() -> None:
    """Members, rows, failures, requests a second, the share of the budget, and the time that is left."""
    terminal = Terminal(80)
    with terminal.display:
        terminal.display.show(report(per_minute=300.0))
        terminal.display.show(
            report(members=9, failed=1, rows=1234, requests=10, seconds=4.0, per_minute=300.0)
        )
        terminal.redraw()
        terminal.display.say("a sentence")
        shown = terminal.lines

    assert [
        "points: 20 members, at least 20 requests: 4.0 seconds at 300 requests a minute.",
        "a sentence",
        "━ 50%, 4.0 seconds left",
        "10 of 20 members, 1,234 rows, 1 failed, 2 req/s, 50% of budget",
    ] == shown
    assert shown[:2] == terminal.lines


@pytest.mark.parametrize("widths", [(200, 80), (80, 200), (80, 30), (80, 30, 80), (80, 12, 200, 25)], ids=str)
def test_resizing_leaves_nothing_behind(widths: tuple[int, ...]) -> None:
    """A terminal that is made narrower wraps the lines that stand there."""
    first, *others = widths
    terminal = Terminal(first)
    filled = report(members=10, rows=1234, requests=10, seconds=4.0, per_minute=300.0)
    with terminal.display:
        terminal.display.show(report())
        terminal.display.show(filled)
        terminal.redraw()
        for width in others:
            terminal.resize(width)
            terminal.redraw()
            assert all(len(line) < width for line in terminal.screen.lines[-2:])
            assert 1 == "".join(terminal.lines).count("10 of 20")
            assert "━" not in "".join(terminal.lines[:-2])

    terminal.resize(200)
    assert ["points: 20 members, at least 20 requests, without a limit."] == terminal.lines


def test_a_narrow_terminal_cuts_the_line() -> None:
    """A line that is too long would wrap, and the next would not replace it."""
    terminal = Terminal(26)
    with terminal.display:
        terminal.display.show(report())
        terminal.display.show(report(members=10, seconds=4.0))
        terminal.redraw()

        assert ["━ 50%, 4.0 seconds left", "10 of 20 members, 0 rows…"] == terminal.lines[-2:]


def test_nothing_is_drawn_where_somebody_types() -> None:
    """The ids of a terminal come first; only then something moves."""
    terminal = Terminal(80, typed=True)
    with terminal.display:
        terminal.redraw()
        assert ["Type one member id a line, and Ctrl-D after the last."] == terminal.lines
        terminal.screen.write("10000001\n")
        terminal.redraw()
        assert ["10000001"] == terminal.lines[1:]
        terminal.display.show(report(ids=1))

    assert [
        "Type one member id a line, and Ctrl-D after the last.",
        "10000001",
        "points: 1 member, at least 1 request, without a limit.",
    ] == terminal.lines


def test_what_is_said_after_typing_begins_a_line() -> None:
    """Ctrl-C leaves the cursor behind what was typed."""
    terminal = Terminal(80, typed=True)
    with terminal.display:
        terminal.screen.write("100^C")
    terminal.screen.write("interrupted")

    assert ["100^C", "interrupted"] == terminal.lines[1:]


def test_an_outage_is_shown_as_long_as_it_lasts() -> None:
    """With what the API says; how long it takes is not known."""
    terminal = Terminal(80)
    with terminal.display:
        terminal.display.show(report())
        terminal.display.show(report(members=10, seconds=1.0, waiting="503 unavailable"))
        terminal.redraw()

        assert ["━ 50%, waiting for the API", "10 of 20 members; waiting: 503 unavailable"] == terminal.lines[
            1:
        ]


def test_stopping_is_shown_instead_of_the_time() -> None:
    """What is left is left for the next run."""
    terminal = Terminal(80)
    with terminal.display:
        terminal.display.show(report())
        terminal.display.show(report(members=10, seconds=1.0))
        terminal.display.is_stopping = True
        terminal.redraw()

        assert "━ stopping" == terminal.lines[-2]


@contextmanager
def at_a_terminal(*arguments: object, typing: bool = False) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The command in a process of its own, and the other end of its terminal."""
    outer, inner = pty.openpty()
    try:
        with subprocess.Popen(
            python_m(*arguments),
            stdin=inner if typing else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=inner,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        ) as running:
            os.close(inner)
            try:
                yield running, outer
            finally:
                running.kill()
    finally:
        os.close(outer)


def shown_until(outer: int, ends: Callable[[str], bool] = lambda _: False) -> str:
    """What the terminal was sent until a condition holds, or until the process ended."""
    said = b""
    end = time.monotonic() + PATIENCE
    while not ends(said.decode(errors="ignore")):
        readable, _, _ = select.select([outer], [], [], max(0.0, end - time.monotonic()))
        assert readable, "it takes too long"
        try:
            some = os.read(outer, 65_536)
        except OSError:  # Linux says so when the process has closed its end
            some = b""
        if not some:
            break
        said += some
    return said.decode()


def test_a_terminal_is_left_as_it_was(tmp_path: Path) -> None:
    """The bar has gone after a signal, the summary is there, and the cursor was never hidden."""
    out = tmp_path / "out.jsonl"
    flags = ["--emulator", "--members", "5000", "--per-minute", "600"]
    with at_a_terminal("export", "points", *flags, "-o", out, "--concurrency", 1) as (running, outer):
        said = shown_until(outer, lambda text: "of 5,000 members, " in text and " left" in text)
        running.send_signal(signal.SIGINT)
        said += shown_until(outer)
        code = running.wait(PATIENCE)

    screen = Screen(80)
    screen.write(said.replace("\r\n", "\n"))
    assert (75, False) == (code, "\x1b[?25" in said)
    assert "points: 5,000 members, at least 5,000 requests: 8.3 minutes at 600 requests a minute." == "".join(
        screen.lines[:2]
    )
    assert "Stopping when the members under way are done. A second signal stops at once." == screen.lines[2]
    assert screen.lines[3].startswith("points: ")
    assert "━" not in "".join(screen.lines)


def test_ids_can_be_typed(tmp_path: Path) -> None:
    """Until Ctrl-D; then the export begins."""
    out = tmp_path / "out.jsonl"
    arguments = ["export", "points", "--emulator", "--ids", "-", "-o", out]
    with at_a_terminal(*arguments, typing=True) as (running, outer):
        said = shown_until(outer, lambda text: "Ctrl-D after the last.\r\n" in text)
        os.write(outer, b"10000001\n\x04")
        said += shown_until(outer)
        code = running.wait(PATIENCE)

    lines = said.replace("^D\b\b", "").split("\r\n")
    assert 0 == code
    assert ["Type one member id a line, and Ctrl-D after the last.", "10000001"] == lines[:2]
    assert [USER] == [json.loads(line)["requested_id"] for line in out.read_text().splitlines()]


# Elsewhere


class Tty(io.StringIO):
    """A text file that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.mark.parametrize(
    ("stderr", "stdout", "output", "term", "moves"),
    [
        pytest.param(Tty, io.StringIO, "out.jsonl", "xterm", True, id="terminal"),
        pytest.param(Tty, Tty, "out.jsonl", "xterm", True, id="terminal-for-both"),
        pytest.param(Tty, io.StringIO, "-", "xterm", True, id="rows-elsewhere"),
        pytest.param(Tty, Tty, "-", "xterm", False, id="rows-between"),
        pytest.param(Tty, Tty, "out.jsonl", "dumb", False, id="dumb"),
        pytest.param(io.StringIO, Tty, "out.jsonl", "xterm", False, id="file"),
        pytest.param(type(None), Tty, "out.jsonl", "xterm", False, id="closed"),
    ],
)
def test_lines_move_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch,
    stderr: Callable[[], Any],
    stdout: Callable[[], Any],
    output: str,
    term: str,
    moves: bool,
) -> None:
    """On one that can move the cursor and shows no rows; a variable that forces colors changes nothing."""
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", stderr())
    monkeypatch.setattr(sys, "stdout", stdout())

    assert moves == make_console(output, quiet=False).is_terminal


class Watched(io.StringIO):
    """A log that tells when it has some text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen = threading.Event()
        self._text = text

    def write(self, text: str) -> int:
        """Take some."""
        if self._text in text:
            self.seen.set()
        return super().write(text)


def test_a_line_comes_now_and_then_where_nothing_moves(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, crowdtwist: Command
) -> None:
    """Nothing before the ids are read; then the plan, and how far it is, until the summary."""
    log = Watched("0 of 12 members")
    answer = emulator.__call__

    async def held(*arguments: Any) -> None:
        assert await anyio.to_thread.run_sync(log.seen.wait, PATIENCE)
        await answer(*arguments)

    monkeypatch.setattr(_progress, "LOG_SECONDS", 0.01)
    monkeypatch.setattr(Emulator, "__call__", lambda _, *arguments: held(*arguments))
    monkeypatch.setattr(sys, "stderr", log)

    assert 0 == crowdtwist("export", "points", "--emulator", "-o", "-").code

    plan, first, *_ = log.getvalue().splitlines()
    assert "points: 12 members, at least 12 requests, without a limit." == plan
    assert re.fullmatch(r"points: 0 of 12 members, 0 rows, 0 failed, [\d.]+ req/s", first)
    assert "\x1b" not in log.getvalue()


@pytest.mark.anyio
async def test_a_line_comes_with_every_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 30 seconds, and not before there is something to tell."""
    slept: list[float] = []
    log = io.StringIO()
    display = ProgressDisplay(Console(file=log, force_terminal=False, soft_wrap=True), "points")

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            display.show(report(members=1, rows=1, requests=1, seconds=2.0))
        if len(slept) == 4:
            raise TimeoutError

    monkeypatch.setattr("crowdtwist_async.cli._progress.anyio.sleep", sleep)
    with pytest.raises(TimeoutError), display:
        await display.run()

    assert [30.0] * 4 == slept
    line = "points: 1 of 20 members, 1 row, 0 failed, 0.5 req/s, 38.0 seconds left"
    assert [
        "points: 20 members, at least 20 requests, without a limit.",
        line,
        line,
    ] == log.getvalue().splitlines()


class Unread(io.StringIO):
    """A standard error that fails after its first line."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str) -> int:
        """Take one line."""
        if self.getvalue():
            raise self._error
        return super().write(text)


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "Input/output error")], ids=repr)
def test_an_export_goes_on_when_nobody_looks_any_more(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, crowdtwist: Command, error: OSError
) -> None:
    """The terminal was closed, or the reader of the log has gone; rows on standard output still count."""
    log = Unread(error)
    monkeypatch.setattr(sys, "stderr", log)

    ended = crowdtwist("export", "points", "--emulator", "-o", "-")

    assert (0, MEMBERS) == (ended.code, len(ended.rows))
    assert "points: 12 members, at least 12 requests, without a limit.\n" == log.getvalue()


# In words


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param({"ids": 1}, "1 member, at least 1 request, without a limit", id="one"),
        pytest.param(
            {"per_minute": 10.0, "members": 5, "resumed": 5},
            "5 members done before; 15 members, at least 15 requests: 90.0 seconds at 10 requests a minute",
            id="goes-on",
        ),
        pytest.param(
            {"resumed": 1, "members": 1},
            "1 member done before; 19 members, at least 19 requests, without a limit",
            id="one-before",
        ),
    ],
)
def test_the_plan_says_what_is_left(counts: dict[str, Any], expected: str) -> None:
    """Not what was done before."""
    assert expected == plan_of(report(**counts))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param({"ids": 1}, "0 of 1 member, 0 rows, 0 failed, 0 req/s", id="one"),
        pytest.param(
            {"members": 10, "rows": 1, "requests": 40, "seconds": 4.0, "per_minute": 300.0},
            "10 of 20 members, 1 row, 0 failed, 10 req/s, 100% of budget, 4.0 seconds left",
            id="more-than-the-budget-at-first",
        ),
        pytest.param(
            {"members": 10, "seconds": 4.0, "waiting": "503 busy"},
            "10 of 20 members; waiting: 503 busy",
            id="outage",
        ),
    ],
)
def test_a_line_tells_all(counts: dict[str, Any], expected: str) -> None:
    """With the time that is left, where there is a pace."""
    assert expected == line_of(report(**counts))


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param(
            {"output": "-", "status": "stopped", "members": 3},
            [
                "points: 3 members, 0 rows, 0 requests, 0.0 seconds. Written to standard output.",
                "Stopped after 3 of 20 ids.",
            ],
            id="standard-output-stopped",
        ),
        pytest.param(
            {"output": "-", "status": "complete", "members": 19, "failed": 1},
            [
                "points: 19 members, 0 rows, 0 requests, 0.0 seconds. Written to standard output.",
                "Failed members: 1. Export to a file to learn which.",
            ],
            id="standard-output-failed",
        ),
        pytest.param(
            {"status": "complete", "members": 20, "without_rows": 2, "drifted": 1, "rows": 9, "requests": 10}
            | {"seconds": 4.0, "per_minute": 300.0},
            [
                "points: 20 members, 9 rows, 10 requests, 4.0 seconds. Written to out.jsonl.",
                "Members without rows: 2. Members whose counts kept changing: 1. Budget used: 50%.",
            ],
            id="counts",
        ),
    ],
)
def test_the_summary_tells_what_is_not_zero(counts: dict[str, Any], expected: list[str]) -> None:
    """In few lines, and nothing of going on where that can't be."""
    assert expected == list(
        summary_of(ExportReport(**{"output": "out.jsonl", "endpoint": "points", "ids": 20, **counts}))
    )


@pytest.mark.parametrize(
    ("fresh", "command"), [(False, "The same command"), (True, "The same command without --fresh")]
)
def test_the_summary_names_the_command_that_goes_on(fresh: bool, command: str) -> None:
    """With `--fresh` it would begin anew again."""
    report = ExportReport("out.jsonl", "points", ids=20, status="stopped", members=3)
    told = list(summary_of(report, fresh=fresh))
    assert f"Stopped after 3 of 20 ids. {command} goes on with out.jsonl." == told[-1]
