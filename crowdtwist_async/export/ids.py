"""
The members to export: a file, standard input, or any iterable, read twice in constant memory.

The first reading counts them and takes their digest, which tells a resumed export whether it is the
same; the second feeds the run. What can't be read twice is kept in a temporary file.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager, nullcontext, suppress
from hashlib import blake2b
from heapq import merge
from itertools import count, takewhile
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import anyio.to_thread

from crowdtwist_async._threads import in_daemon_thread
from crowdtwist_async.errors import ConfigurationError, InvalidArgumentError
from crowdtwist_async.export.aside import AT_ONCE, Aside, Kept, chunked, encoded
from crowdtwist_async.export.shard import Shard

_GZIP = b"\x1f"
"""The first byte; the second may come later through a pipe. As text it is white space."""
_DIGEST_BYTES = 16


class IdCount(NamedTuple):
    """What the first reading found."""

    ids: int
    """Ids in all, each time that one is listed."""
    blank: int
    """Lines without an id."""
    digest: str
    """The same for the same ids in the same order, those of all shards."""
    other_shards: int = 0
    """Ids that belong to other shards: they are not among `ids`."""


class IdSource:
    """
    Ids that can be read more than once.

    Args:
        lines: Reads them from the start; an empty text is a blank line.
        shard: Which of them are meant; by default all.
        path: The file that they are in.
    """

    def __init__(
        self, lines: Callable[[], Iterator[str]], shard: Shard | None = None, path: Path | None = None
    ) -> None:
        self._lines = lines
        self._shard = shard
        self.path = path
        self._digest: str | None = None

    def of(self, shard: Shard | None) -> IdSource:
        """Those of the same that belong to a shard."""
        return self if shard is None else IdSource(self._lines, shard, self.path)

    def count(self) -> IdCount:
        """Read all of them once."""
        ids = lines = held = 0
        digest = blake2b(digest_size=_DIGEST_BYTES)
        for some in chunked(self._lines()):
            named = list(filter(None, some))
            digest.update(encoded(named))
            lines += len(some)
            ids += len(named)
            held += len(named if self._shard is None else self._shard.held(named))
        self._digest = digest.hexdigest()
        return IdCount(held, lines - ids, self._digest, ids - held)

    def read(self) -> Iterator[str]:
        """
        Read them again, without the blank ones.

        Raises:
            ConfigurationError: They are not those that were counted.
        """
        digest = blake2b(digest_size=_DIGEST_BYTES)
        for some in chunked(self._lines()):
            named = list(filter(None, some))
            digest.update(encoded(named))
            yield from named if self._shard is None else self._shard.held(named)
        if self._digest not in (None, digest.hexdigest()):
            raise ConfigurationError(
                "the ids changed while they were exported: put them back as they were, and export again"
            )


def read_ids(source: str | os.PathLike[str], column: str | None = None) -> IdSource:
    """
    Name a file of ids, or standard input (`-`).

    One id a line, or a CSV file with a header and a `column`; UTF-8, with or without a byte order
    mark, gzip or not. White space around an id is dropped.

    Raises:
        ConfigurationError: While reading, if it can't be read, is no UTF-8 text, or lacks the column.
    """
    place = "on standard input" if source == "-" else f"in {os.fspath(source)}"

    def lines() -> Iterator[str]:
        with _told(place), _opened(source) as binary:
            text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
            yield from map(str.strip, text if column is None else _cells(text, column))

    kept = Kept(lines())
    path = None if source == "-" else Path(source)
    return IdSource(lambda: lines() if _is_file(source) else kept(), path=path)


async def collect_ids(user_ids: Any) -> IdSource:
    """
    Make a source of what `export` takes.

    Raises:
        InvalidArgumentError: It is no iterable of texts.
    """
    if isinstance(user_ids, IdSource):
        return user_ids
    if isinstance(user_ids, Path):
        return read_ids(user_ids)
    if isinstance(user_ids, list | tuple | range):
        return IdSource(lambda: _all_checked(user_ids))
    if isinstance(user_ids, set | frozenset):
        # Another process has the same set in another order.
        ordered = await in_daemon_thread(lambda: _in_order(user_ids))
        return IdSource(lambda: iter(ordered))
    if isinstance(user_ids, AsyncIterable):
        return await _put_aside(user_ids)
    if isinstance(user_ids, str | bytes | bytearray | io.IOBase) or not isinstance(user_ids, Iterable):
        raise InvalidArgumentError(
            "user_ids must be an iterable of ids, or a file of them: a Path, or read_ids(path, column=)"
        )
    wanted = True
    kept = Kept(takewhile(lambda _: wanted, _all_checked(user_ids)))
    try:
        await in_daemon_thread(kept)
    finally:
        wanted = False  # the thread goes on after a cancellation, and there may be no end of them
    return IdSource(kept)


def _all_checked(user_ids: Iterable[object]) -> Iterator[str]:
    return map(_checked, user_ids, count(1))


def _in_order(user_ids: Iterable[object]) -> list[str]:
    """Sort ids some at a time: while all of a million are sorted at once, no event loop gets to run."""
    return list(merge(*map(sorted, chunked(_all_checked(user_ids)))))


def _checked(user_id: Any, number: int) -> str:
    """An id as text. What is wrong with its content fails the one member, later."""
    try:
        # A subclass, such as numpy's, has a text that msgspec and SQLite take.
        text = str(user_id) if type(user_id) is int else str.__str__(user_id)
        if text.encode():
            return text
        problem = "empty"
    except TypeError:
        problem = f"of type {type(user_id).__name__}"
    except ValueError:
        problem = "no text that UTF-8 can encode"
    raise InvalidArgumentError(
        f"user_ids must hold texts, or ints, and number {number:,} is {problem}: correct it or leave it out"
    )


def _is_file(source: str | os.PathLike[str]) -> bool:
    """Whether it can be read twice; what is not there says so when it is read."""
    try:
        return source != "-" and stat.S_ISREG(Path(source).stat().st_mode)
    except OSError:
        return True


async def _put_aside(user_ids: AsyncIterable[Any]) -> IdSource:
    # A generator that is left between two ids holds what it opened until it is collected.
    closing = aclosing(user_ids) if isinstance(user_ids, AsyncGenerator) else nullcontext()
    async with closing:
        aside = await anyio.to_thread.run_sync(Aside)
        numbers = count(1)
        some: list[str] = []
        async for user_id in user_ids:
            some.append(_checked(user_id, next(numbers)))
            if len(some) == AT_ONCE:
                await anyio.to_thread.run_sync(aside.add, some)
                some = []
        await anyio.to_thread.run_sync(aside.add, some)
        return IdSource(aside.lines)


@contextmanager
def _told(place: str) -> Iterator[None]:
    """Say of a failure to read where it was."""
    try:
        yield
    except UnicodeDecodeError:
        problem = "they are no UTF-8 text; save them as UTF-8"
    except (EOFError, zlib.error, gzip.BadGzipFile):
        problem = "the gzip data is damaged or cut short; pack or copy them again"
    except csv.Error:
        problem = (
            "they are no CSV; look for a quote that is not closed, or that stands inside a cell, or for a"
            f" cell of more than {csv.field_size_limit():,} characters"
        )
    except OSError as error:
        problem = f"{error.strerror}; give a file that can"
    else:
        return
    raise ConfigurationError(f"the ids {place} can't be read: {problem}")


@contextmanager
def _opened(source: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    plain = _standard_input() if source == "-" else Path(source).open("rb")  # noqa: SIM115
    with plain:
        if plain.peek(len(_GZIP)).startswith(_GZIP):
            with gzip.open(plain) as unpacked:
                yield cast("IO[bytes]", unpacked)
        else:
            yield plain


def _standard_input() -> io.BufferedReader:
    """
    Open it anew.

    `sys.stdin` itself has the locale's encoding, and an interpreter that ends while a thread still
    reads it aborts.
    """
    try:
        descriptor = sys.stdin.fileno()
    except (AttributeError, ValueError):
        raise ConfigurationError("standard input is closed: give --ids FILE") from None
    with suppress(AttributeError, OSError):  # on Windows
        # One that another process has set otherwise would seem to be empty.
        os.set_blocking(descriptor, True)
    return open(descriptor, "rb", closefd=False)


def _cells(text: Iterable[str], column: str) -> Iterator[str]:
    """The cells of one column; a row that ends before it has a blank one."""
    rows = csv.reader(text, strict=True)
    header = [name.strip() for name in next(rows, [])]
    if column not in header:
        raise ConfigurationError(
            f"the ids' first line names no column {column}: check --column, and that commas part the columns"
        )
    if header.count(column) > 1:
        raise ConfigurationError(f"the ids' first line names the column {column} twice: rename one of them")
    place = header.index(column)
    for row in rows:
        yield row[place] if place < len(row) else ""
