"""
The ledger: which members are done, in a SQLite file that only one export holds at a time.

    members(requested_id, status, rows, requests, drifted, fetched_at)   status: ok, not_found or failed
    failures(requested_id, error, message)                               why a member failed
    parts(name, rows, bytes)                                             the files of a Parquet output
    export_state(key, value)                                             what was asked for, and how far it is

A member stands in it if and only if its rows are in the output.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from crowdtwist_async.errors import OutputMismatchError
from crowdtwist_async.export.database import APPLICATION, connect, is_new
from crowdtwist_async.export.locks import lock, unlock
from crowdtwist_async.export.rows import SCHEMA_VERSION
from crowdtwist_async.export.storage import (
    TEMPORARY_LEDGER,
    changed,
    check_in_place,
    check_version,
    difference,
    storing,
    sync_folder,
)

COMPLETED_AT = "completed_at"
"""The key of the state that says when all was done."""
_BUSY_SECONDS = 30.0
"""How long a reader of the ledger may hold up a commit."""
_FAILURES_AT_ONCE = 1_000
_DAMAGE = {None, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
"""SQLite's codes for a file that is not what it should be; none comes with a text that is no UTF-8."""
_TABLES = f"""
PRAGMA application_id = {APPLICATION};
CREATE TABLE export_state (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE members (
    requested_id TEXT PRIMARY KEY,
    status TEXT NOT NULL CHECK (status IN ('ok', 'not_found', 'failed')),
    rows INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    drifted INTEGER NOT NULL,
    fetched_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE failures (
    requested_id TEXT PRIMARY KEY, error TEXT NOT NULL, message TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE parts (name TEXT PRIMARY KEY, rows INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
"""


class Mark(NamedTuple):
    """What the ledger notes of one member."""

    requested_id: str
    status: str
    rows: int
    requests: int
    drifted: bool
    fetched_at: str
    error: str = ""
    message: str = ""


class Totals(NamedTuple):
    """The members of the ledger, counted."""

    ok: int
    not_found: int
    failed: int
    without_rows: int
    drifted: int
    rows: int


class Ledger:
    """
    The ledger of one output, locked.

    Args:
        path: Its file; `None` keeps it in a temporary one, for an output that can't be gone on with.
        place: What it belongs to, for errors.
        discard: Removes the output; the ledger is emptied too, in place, so that its lock holds on.

    Raises:
        OutputLockedError: Another export holds it.
        OutputMismatchError: The file is no ledger, is damaged, or is of another version.
        StorageError: It can't be written.
    """

    def __init__(self, path: Path | None, place: str, discard: Callable[[], None] | None = None) -> None:
        self._path = path
        self._name = path or TEMPORARY_LEDGER
        self._place = place
        self._lock: int | None = None
        self._is_new = True
        with storing(self._name):
            if path is None:
                self._connection = self._connected(is_new=True)
                return
            self._lock = lock(path, place)
            was_there = path.exists()
            try:
                self._is_new = is_new(path, discard)
                self._connection = self._connected(is_new=self._is_new)
                self._opened = path.stat()
            except BaseException:
                if not was_there and path.exists() and not path.stat().st_size:
                    path.unlink()
                self._unlock()
                raise

    def _connected(self, *, is_new: bool) -> sqlite3.Connection:
        options: dict[str, Any] = {
            "timeout": _BUSY_SECONDS,
            "isolation_level": None,
            "check_same_thread": False,
        }
        path = self._path
        connection = sqlite3.connect("", **options) if path is None else connect(path, **options)
        try:
            if is_new:
                connection.executescript(f"PRAGMA synchronous = FULL;BEGIN;{_TABLES}COMMIT;")
                if self._path is not None:
                    sync_folder(self._path.parent)
            else:
                self._check(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        """Refuse a ledger that can't be trusted."""
        version = None
        try:
            connection.execute("PRAGMA synchronous = FULL")
            [(found,)] = connection.execute("PRAGMA quick_check(1)")
            state = dict(connection.execute("SELECT key, value FROM export_state"))
            version = state.get("schema_version", str(SCHEMA_VERSION))
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if _primary_code(error) not in _DAMAGE:
                raise
            found = str(error)
        if found != "ok":
            raise changed(f"the ledger {self._path}", f"is damaged ({found.splitlines()[-1]})")
        check_version(version, str(SCHEMA_VERSION), f"the ledger {self._path}")

    def remove_if_new(self) -> None:
        """Remove it, if it has begun just now."""
        if self._is_new and self._path is not None:
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close it, without what is not committed, and let others in."""
        self._connection.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            unlock(self._lock)
            self._lock = None

    # State

    def get(self, key: str) -> str | None:
        """A value of the state, or `None`."""
        found = self._found("SELECT value FROM export_state WHERE key = ?", key)
        return str(found[0][0]) if found else None

    def state(self) -> dict[str, str]:
        """All of it."""
        return dict(self._found("SELECT key, value FROM export_state"))

    def _found(self, query: str, *values: object) -> list[Any]:
        with storing(self._name):
            return self._connection.execute(query, values).fetchall()

    def begin(self, asked: Mapping[str, str]) -> None:
        """
        Note what is asked for, or check that it is the same as before.

        Raises:
            OutputMismatchError: It is not.
        """
        wanted = {"schema_version": str(SCHEMA_VERSION), **asked}
        had = self.state()
        if "schema_version" not in had:
            self.commit((), wanted)
            return
        other = [difference(key, had.get(key), now) for key, now in wanted.items() if had.get(key, "") != now]
        if other:
            raise OutputMismatchError(
                f"{self._place} was begun otherwise: {', '.join(other)}. Give what it was begun with,"
                " name another output, or give --fresh (fresh=True) to begin anew"
            )

    # Members

    def status_of(self, user_id: str) -> str | None:
        """`ok`, `not_found`, `failed`, or `None`: not done."""
        found = self._found("SELECT status FROM members WHERE requested_id = ?", user_id)
        return str(found[0][0]) if found else None

    def totals(self) -> Totals:
        """Count the members."""
        [counts] = self._found(
            "SELECT count(*) FILTER (WHERE status = 'ok'), count(*) FILTER (WHERE status = 'not_found'),"
            " count(*) FILTER (WHERE status = 'failed'), count(*) FILTER (WHERE status = 'ok' AND rows = 0),"
            " coalesce(sum(drifted), 0), coalesce(sum(rows), 0) FROM members"
        )
        return Totals(*counts)

    def failures(self) -> Iterator[tuple[str, str, str]]:
        """The failed members, why, and in which words: some at a time, so that no statement stays open."""
        latest = ""
        while found := self._found(
            "SELECT requested_id, error, message FROM failures"
            " WHERE requested_id > ? ORDER BY requested_id LIMIT ?",
            latest,
            _FAILURES_AT_ONCE,
        ):
            yield from found
            latest = found[-1][0]

    def parts(self) -> dict[str, int]:
        """The names of the part files, and their bytes."""
        return dict(self._found("SELECT name, bytes FROM parts"))

    # Writing

    def open_transaction(self) -> sqlite3.Connection:
        """Begin a transaction, if none is open: for rows that live in the same file."""
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def commit(
        self,
        marks: Iterable[Mark],
        state: Mapping[str, str | None] | None = None,
        part: tuple[str, int, int] | None = None,
    ) -> None:
        """
        Note members, state and a part in one transaction, with what it already holds.

        Raises:
            StorageError: It can't be written.
        """
        with storing(self._name):
            if self._path is not None:
                check_in_place(self._opened, self._path)
            connection = self.open_transaction()
            try:
                _note(connection, marks, state or {}, part)
                connection.execute("COMMIT")
            except BaseException:
                # What is asked for next would be answered with what is not committed.
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise


def _note(
    connection: sqlite3.Connection,
    marks: Iterable[Mark],
    state: Mapping[str, str | None],
    part: tuple[str, int, int] | None,
) -> None:
    for mark in marks:
        connection.execute("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?, ?, ?)", mark[:6])
        connection.execute("DELETE FROM failures WHERE requested_id = ?", mark[:1])
        if mark.status == "failed":
            connection.execute("INSERT INTO failures VALUES (?, ?, ?)", (mark[0], *mark[6:]))
    for key, value in state.items():
        connection.execute("DELETE FROM export_state WHERE key = ?", (key,))
        if value is not None:
            connection.execute("INSERT INTO export_state VALUES (?, ?)", (key, value))
    if part is not None:
        connection.execute("INSERT INTO parts VALUES (?, ?, ?)", part)


def _primary_code(error: Exception) -> int | None:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
