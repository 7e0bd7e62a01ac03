"""
Reading the members to export: one id a line, from a file or from what may be slow, such as a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Self, TextIO

import anyio
import anyio.from_thread
from anyio.lowlevel import current_token

from crowdtwist_async.errors import ConfigurationError


def read_ids(source: str) -> Iterator[str]:
    """
    Open a file, or standard input (`-`), and read ids from it lazily, one a line.

    White space around an id, a byte order mark and blank lines are dropped, and ids that came
    before: a member that is listed twice is exported once. The ids are kept in memory for that.

    Raises:
        ConfigurationError: The file can't be read, or is no UTF-8 text.
    """
    place = "on standard input" if source == "-" else f"in {source}"
    try:
        lines = _lines(source)
    except OSError as error:
        raise ConfigurationError(f"the ids {place} can't be read: {error.strerror}") from None
    return _read(lines, place)


def _read(lines: TextIO, place: str) -> Iterator[str]:
    try:
        with lines:
            yield from _ids_in(lines)
    except OSError as error:
        raise ConfigurationError(f"the ids {place} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"the ids {place} can't be read: they are no UTF-8 text") from None


class IdReader:
    """
    Takes ids off the event loop, each when it is asked for: `with IdReader(ids) as reader`.

    A read can't be interrupted, so leaving does not wait for one. Its thread is a daemon, which
    anyio's worker threads are not: the interpreter doesn't wait for it either.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self._ids = iter(ids)
        self._asked: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._next: str | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._asked.put(None)

    async def next(self) -> str | None:
        """The next id, or `None` after the last; one call at a time."""
        done = anyio.Event()
        self._asked.put(partial(anyio.from_thread.run_sync, done.set, token=current_token()))
        await done.wait()
        if self._failure is not None:
            raise self._failure
        return self._next

    def _read(self) -> None:
        while (answer := self._asked.get()) is not None:
            try:
                self._next = next(self._ids, None)
            except BaseException as error:  # noqa: BLE001 - raised by `next`
                self._failure = error
            with suppress(RuntimeError):  # the event loop has ended, and nobody waits
                answer()


def _lines(source: str) -> TextIO:
    if source != "-":
        return Path(source).open(encoding="utf-8-sig")
    if sys.stdin is None:
        raise ConfigurationError("standard input is closed: give --ids FILE")
    # Not sys.stdin itself: it has the locale's encoding, and an interpreter that ends while a
    # thread still reads it aborts.
    return open(sys.stdin.fileno(), encoding="utf-8-sig", closefd=False)


def _ids_in(lines: Iterable[str]) -> Iterator[str]:
    seen = {""}
    for line in lines:
        user_id = line.strip()
        if user_id not in seen:
            seen.add(user_id)
            yield user_id
