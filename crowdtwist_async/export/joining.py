"""
What merging makes of shards, by format: lines one after the other, or tables; parts are only checked.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import msgspec

from crowdtwist_async.errors import OutputMismatchError
from crowdtwist_async.export.database import OWN, check_tables, connect
from crowdtwist_async.export.formats import csv, jsonl
from crowdtwist_async.export.formats.lines import BYTES, looks_ours
from crowdtwist_async.export.ledger import Ledger
from crowdtwist_async.export.shard import MERGED
from crowdtwist_async.export.storage import changed, foreign, replace_file, replacing

_AT_ONCE = 1 << 20
_LACKS = "lacks rows that its ledger names, or has others"
Shards = Callable[[], Iterator[tuple[Path, Ledger]]]
"""Opens the shards one after the other: where the rows of each are, and its ledger."""


class Joined(Protocol):
    """A file that is made of shards."""

    def is_made(self, shards: Shards, /) -> bool:
        """Whether it is there, as these shards make it."""
        ...

    def make(self, shards: Shards, /, *, fresh: bool) -> None:
        """
        Make it, whole or not at all.

        Args:
            shards: What of.
            fresh: Whether it may take the place of an earlier one.

        Raises:
            OutputMismatchError: A shard is damaged, or something else is there.
        """


def joined_as(path: Path, states: Sequence[Mapping[str, str]]) -> Joined:
    """
    The file at a path.

    Args:
        path: Its name tells the format.
        states: What the ledger of each shard says.
    """
    # A link stays one.
    real = Path(os.path.realpath(path))
    if path.suffix == ".sqlite":
        return _Database(real, states)
    if path.suffix == ".csv":
        return _Lines(real, states, csv.BEGINS, csv.header(states[0]["endpoint"]))
    return _Lines(real, states, jsonl.BEGINS, b"")


class _Lines:
    """The lines of each, under one header."""

    def __init__(self, path: Path, states: Sequence[Mapping[str, str]], begins: bytes, header: bytes) -> None:
        self._path = path
        self._begins = begins
        self._header = header
        lines = [max(int(state[BYTES]) - len(header), 0) for state in states]
        self._bytes = len(header) + sum(lines)

    def is_made(self, shards: Shards, /) -> bool:
        if not self._path.is_file() or self._path.stat().st_size != self._bytes:
            return False
        with self._path.open("rb") as file:
            return all(file.read(len(some)) == some for some in self._content(shards))

    def make(self, shards: Shards, /, *, fresh: bool) -> None:
        if self._path.exists():
            _check_replaceable(self._path, ours=looks_ours(self._path, self._begins), fresh=fresh)
        replace_file(self._path, self._content(shards))

    def _content(self, shards: Shards) -> Iterator[bytes]:
        yield self._header
        for path, ledger in shards():
            left = int(ledger.state()[BYTES])
            if not path.is_file():
                raise _shard_changed(path, "is not there any more")
            with path.open("rb") as file:
                if (size := os.fstat(file.fileno()).st_size) != left:
                    kind = "shorter" if size < left else "longer"
                    raise _shard_changed(path, f"is {kind} than its ledger says")
                if file.read(len(self._header)) != self._header:
                    raise _shard_changed(path, "does not begin with its header")
                left -= len(self._header)
                while left > 0 and (some := file.read(min(left, _AT_ONCE))):
                    left -= len(some)
                    yield some


class _Database:
    """The rows, members and failures of each in one table each."""

    def __init__(self, path: Path, states: Sequence[Mapping[str, str]]) -> None:
        self._path = path
        self._table = states[0]["endpoint"]
        self._state = {
            **{key: states[0][key] for key in states[0] if key not in ("completed_at", "shard")},
            "shard": f"merged from {len(states)}",
        }

    def is_made(self, shards: Shards, /) -> bool:
        return self._merged() == _digest(shards)

    def _merged(self) -> str | None:
        """Of what it was merged; `None`: it was not."""
        if not self._path.is_file():
            return None
        try:
            with closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True)) as connection:
                found = dict(connection.execute("SELECT key, value FROM export_state"))
        except sqlite3.DatabaseError:
            return None
        return found.get(MERGED)

    def make(self, shards: Shards, /, *, fresh: bool) -> None:
        if self._path.exists():
            _check_replaceable(self._path, ours=self._merged() is not None, fresh=fresh)
            check_tables(self._path)
        with replacing(self._path) as (beside, _), closing(_connected(beside)) as connection:
            for number, (path, ledger) in enumerate(shards()):
                connection.execute("ATTACH DATABASE ? AS shard", (os.fsencode(path.absolute()),))
                if not number:
                    self._copy_tables(connection)
                self._copy_rows(connection, path, ledger)
                connection.execute("DETACH DATABASE shard")
            state = {**self._state, MERGED: _digest(shards)}
            connection.executemany("INSERT INTO export_state VALUES (?, ?)", state.items())

    def _copy_tables(self, connection: sqlite3.Connection) -> None:
        """Those of an export: a shard may have others since, SQLite's own statistics for one."""
        [(application,)] = connection.execute("PRAGMA shard.application_id").fetchall()
        connection.execute(f"PRAGMA main.application_id = {int(application)}")
        tables = connection.execute(
            "SELECT name, sql FROM shard.sqlite_master WHERE type = 'table'"
        ).fetchall()
        for name, table in tables:
            if name in OWN:
                connection.execute(table)

    def _copy_rows(self, connection: sqlite3.Connection, path: Path, ledger: Ledger) -> None:
        connection.execute("BEGIN")
        # S608: the table is one of three.
        rows = connection.execute(
            f'INSERT INTO main."{self._table}" SELECT * FROM shard."{self._table}" ORDER BY rowid'  # noqa: S608
        ).rowcount
        if rows != ledger.totals().rows:
            raise _shard_changed(path, _LACKS)
        connection.execute("INSERT INTO main.members SELECT * FROM shard.members")
        connection.execute("INSERT INTO main.failures SELECT * FROM shard.failures")
        connection.execute("COMMIT")


def _digest(shards: Shards) -> str:
    """What tells the shards from those that they were before: a second may see two exports of one."""
    found = [(sorted(ledger.state().items()), ledger.totals()) for _, ledger in shards()]
    return blake2b(msgspec.json.encode(found), digest_size=16).hexdigest()


def _connected(path: Path) -> sqlite3.Connection:
    """A database that is synced when it is whole, and thrown away otherwise."""
    connection = connect(path, isolation_level=None)
    connection.execute("PRAGMA main.journal_mode = OFF")
    connection.execute("PRAGMA main.synchronous = OFF")
    return connection


def _shard_changed(path: Path, what: str) -> OutputMismatchError:
    return changed(path, what, "export its shard with --fresh (fresh=True), and merge again")


def _check_replaceable(path: Path, *, ours: bool, fresh: bool) -> None:
    if not ours:
        raise foreign(path, "is there already, and was written by no export")
    if not fresh:
        raise OutputMismatchError(
            f"{path} is there already, and is not what its shards make now: give --fresh (fresh=True) to"
            " replace it, or move it away"
        )


def check_parts(folder: Path, shards: Iterator[tuple[Path, Ledger]]) -> None:
    """
    Check that a folder holds the parts of its shards, and no others.

    Raises:
        OutputMismatchError: It does not.
    """
    if not folder.is_dir():
        raise _shard_changed(folder, "is not there any more")
    left = {part.name: part.stat().st_size for part in folder.glob("[!.]*.parquet")}
    for _, ledger in shards:
        for name, size in ledger.parts().items():
            if left.pop(name, None) != size:
                raise _shard_changed(
                    folder / name, "is not there any more, or in another size than its ledger says"
                )
    for name in left:
        raise foreign(folder / name, "is a part that no shard's ledger names, and would be read as one")
