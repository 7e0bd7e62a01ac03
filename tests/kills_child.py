"""
The processes that `kills` kills: the export command, with failpoints in what the package calls.

`python kills_child.py FORMAT` forks one for each line of its standard input, the JSON of an `Order`, and
answers with two numbers: the process that begins, and then its exit code. Nothing in the package knows of this:
`os`, `sqlite3` and `pyarrow` are patched, and commits and parts are made small.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sqlite3
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from threading import Thread
from typing import Any, NamedTuple

import anyio._backends._asyncio  # noqa: F401 - so that no process imports it again

import crowdtwist_async.cli._app  # noqa: F401 - as said
from crowdtwist_async import cli
from crowdtwist_async.cli import _connect
from crowdtwist_async.emulator import Emulator, Fault
from crowdtwist_async.export.formats import Limits, lines, sqlite

PARQUET = "parquet"
CALLS = ("fsync", "ftruncate", "mkdir", "rename", "replace", "unlink")
STATEMENTS = ("BEGIN", "CREATE", "INSERT", "DELETE", "COMMIT")
SPLIT = ("write", "file write", "INSERT rows")
"""Kinds of which half can be done."""
COMMIT, PART = Limits(3_600.0, 15, 200), Limits(3_600.0, 25, 400)
"""Members and rows for which a commit, and a part of Parquet, is due."""
GROUP, BUFFER = 70, 6_000
"""Rows of a row group, and bytes that are written together."""

_write, _kill = os.write, os.kill


class Failpoint(NamedTuple):
    """Where the process ends."""

    kind: str
    number: int
    """Of the calls of this kind, from 1."""
    when: str
    """`before`, `half` (only the first half is done), `during` (from another thread) or `after`."""
    signal: int = signal.SIGKILL
    delay: float = 0.0
    """Seconds from the beginning of the call: `during` alone."""


class Order(NamedTuple):
    """What the process is to do."""

    arguments: list[str]
    """Of the command."""
    failing: list[str]
    """Members whom the API refuses."""
    failpoint: Failpoint | None
    note: str
    """A file for what the failpoint did."""
    calls: str
    """A file for the number of calls of each kind, and their mean seconds."""
    said: str
    """A file for standard error."""


class Failpoints:
    """Counts calls, and ends the process at one of them."""

    def __init__(self, at: Failpoint | None, note: str) -> None:
        self.counts: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._at = at
        self._note = note

    def call(self, kind: str, whole: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Make a call, unless the process ends before it or within it."""
        self.counts[kind] += 1
        at = self._at
        if at is None or at[:2] != (kind, self.counts[kind]):
            return self._timed(kind, whole)
        if at.when == "half" and half is not None:
            half()
        if at.when in ("before", "half"):
            self._end(at.when)
        if at.when == "during":
            self._say("during")
            Thread(target=self._end_later, daemon=True).start()
        try:
            return whole()
        finally:  # also a call that fails, as removing what is not there
            if at.when in ("during", "after"):
                self._end("after")

    def around(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, each call of which is one of this kind."""

        def call(*arguments: Any, **named: Any) -> Any:
            return self.call(kind, partial(function, *arguments, **named))

        return call

    def _timed(self, kind: str, whole: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        try:
            return whole()
        finally:
            self.seconds[kind] += time.perf_counter() - begun

    def _end_later(self) -> None:
        if self._at is not None:
            time.sleep(self._at.delay)
            _kill(os.getpid(), self._at.signal)

    def _end(self, when: str) -> None:
        self._say(when)
        if self._at is not None:
            _kill(os.getpid(), self._at.signal)

    def _say(self, when: str) -> None:
        descriptor = os.open(self._note, os.O_WRONLY | os.O_APPEND)
        _write(descriptor, f"{when}\n".encode())
        os.close(descriptor)


def patch_system(points: Failpoints) -> None:
    """Put failpoints into what changes files."""
    opened = os.open

    def write(descriptor: int, content: Any) -> int:
        half = bytes(content[: len(content) // 2])
        done: int = points.call(
            "write", lambda: _write(descriptor, content), lambda: _write(descriptor, half)
        )
        return done

    def create(path: Any, flags: int, *arguments: Any, **named: Any) -> Any:
        if not flags & os.O_CREAT:
            return opened(path, flags, *arguments, **named)
        return points.call("create", lambda: opened(path, flags, *arguments, **named))

    for name in CALLS:
        setattr(os, name, points.around(name, getattr(os, name)))
    for name, patched in (("write", write), ("open", create), ("fdopen", partial(open_file, points))):
        setattr(os, name, patched)


def open_file(points: Failpoints, descriptor: int, _: str) -> io.BufferedWriter:
    """`os.fdopen` for writing bytes, with failpoints in what reaches the system."""

    class File(io.FileIO):
        def write(self, content: Any, /) -> int:
            whole = super().write
            half = bytes(content[: len(content) // 2])
            done: int = points.call("file write", lambda: whole(content), lambda: whole(half))
            return done

    return io.BufferedWriter(File(descriptor, "wb"))


def patch_sqlite(points: Failpoints) -> None:
    """Put failpoints around the statements that change a database."""

    class Connection(sqlite3.Connection):
        def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
            whole = partial(super().execute, statement, *parameters)
            kind = statement.split(maxsplit=1)[0]
            found: sqlite3.Cursor = points.call(kind, whole) if kind in STATEMENTS else whole()
            return found

        def executemany(self, statement: str, rows: Iterable[Any], /) -> sqlite3.Cursor:
            insert, every = super().executemany, list(rows)
            found: sqlite3.Cursor = points.call(
                "INSERT rows",
                lambda: insert(statement, every),
                lambda: insert(statement, every[: (len(every) + 1) // 2]),
            )
            return found

        def executescript(self, script: str, /) -> sqlite3.Cursor:
            whole = super().executescript
            found: sqlite3.Cursor = points.call("script", lambda: whole(script))
            return found

    setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Connection))  # noqa: B010 - for mypy


def patch_parquet(points: Failpoints) -> None:
    """Put failpoints around row groups and footers, and make the groups small."""
    import pyarrow.parquet as pq

    from crowdtwist_async.export.formats import parquet

    for name in ("write_table", "close"):
        setattr(pq.ParquetWriter, name, points.around(name, getattr(pq.ParquetWriter, name)))
    change(parquet, _GROUP=GROUP)
    change(parquet.ParquetWriter, limits=PART)


def make_small() -> None:
    """Have many commits, and many writes between them."""
    for writer in (lines.LineWriter, sqlite.SqliteWriter):
        change(writer, limits=COMMIT)
    change(lines, _BUFFERED=BUFFER)


def change(place: Any, **values: Any) -> None:
    """Give attributes that are there other values."""
    for name, value in values.items():
        assert hasattr(place, name), f"{place} has no {name} any more"
        setattr(place, name, value)


def refuse(failing: Sequence[str]) -> None:
    """Make the emulator of the command refuse these members, each time that it is asked."""
    faults = [Fault.status(400, user=user_id) for user_id in failing]
    change(_connect, Emulator=partial(Emulator, faults=faults))


def export(order: Order) -> int:
    """Run the command that is ordered, and say when it begins."""
    points = Failpoints(order.failpoint, order.note)
    os.dup2(os.open(order.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), sys.stderr.fileno())
    make_small()
    refuse(order.failing)
    patch_system(points)
    patch_sqlite(points)
    if PARQUET in sys.argv:
        patch_parquet(points)
    say(os.getpid())
    code = cli.main(order.arguments)
    means = {kind: (count, points.seconds[kind] / count) for kind, count in points.counts.items()}
    with open(order.calls, "w") as file:  # noqa: PTH123 - `os` is patched
        json.dump(means, file)
    return code


def say(number: int) -> None:
    """Tell the harness a number."""
    _write(sys.stdout.fileno(), b"%d\n" % number)


def main() -> int:
    """Run what is ordered, each order in a process of its own: it has the imports already."""
    if PARQUET in sys.argv:
        import pyarrow as pa

        import crowdtwist_async.export.formats.parquet  # noqa: F401 - as said

        pa.array([""])  # the first imports pandas, where it is installed
    for line in sys.stdin:
        order = Order(*json.loads(line))
        process = os.fork()
        if not process:
            return export(order._replace(failpoint=order.failpoint and Failpoint(*order.failpoint)))
        _, status = os.waitpid(process, 0)
        say(os.waitstatus_to_exitcode(status))
    return 0


if __name__ == "__main__":
    sys.exit(main())
