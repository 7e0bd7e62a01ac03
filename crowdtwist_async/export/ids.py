"""
Reading the members to export: one id a line, from a file or from what may be slow, such as a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import TextIO

import anyio
import anyio.from_thread
from anyio.lowlevel import current_token

from crowdtwist_async.errors import ConfigurationError


def read_ids(source: str) -> Iterator[str]:
    """
    Read ids lazily, one a line, from a file or from standard input (`-`).

    White space around an id, a byte order mark and blank lines are dropped.

    Raises:
        ConfigurationError: The file can't be read, or is no UTF-8 text.
    """
    place = "on standard input" if source == "-" else f"in {source}"
    try:
        with _lines(source) as lines:
            yield from _ids_in(lines)
    except OSError as error:
        raise ConfigurationError(f"the ids {place} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"the ids {place} can't be read: they are no UTF-8 text") from None


async def next_id(ids: Iterator[str]) -> str | None:
    """
    Take the next id, or `None` after the last, off the event loop.

    A cancelled call leaves its thread behind, as a read can't be interrupted. It is a daemon,
    which anyio's worker threads are not: the interpreter doesn't wait for it either.
    """
    token, done = current_token(), anyio.Event()
    user_id: str | None = None
    failure: BaseException | None = None

    def read() -> None:
        nonlocal user_id, failure
        try:
            user_id = next(ids, None)
        except BaseException as error:  # noqa: BLE001 - raised below
            failure = error
        with suppress(RuntimeError):  # the event loop has ended, and nobody waits
            anyio.from_thread.run_sync(done.set, token=token)

    Thread(target=read, daemon=True).start()
    await done.wait()
    if failure is not None:
        raise failure
    return user_id


def _lines(source: str) -> TextIO:
    if source != "-":
        return Path(source).open(encoding="utf-8-sig")
    if sys.stdin is None:
        raise ConfigurationError("standard input is closed: give --ids FILE")
    # Not sys.stdin itself: it has the locale's encoding, and an interpreter that ends while a
    # thread still reads it aborts.
    return open(sys.stdin.fileno(), encoding="utf-8-sig", closefd=False)


def _ids_in(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        user_id = line.strip()
        if user_id:
            yield user_id
