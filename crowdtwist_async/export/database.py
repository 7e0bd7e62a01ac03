"""
Files of SQLite: whose they are, and what is in them, before anything of them is changed.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from crowdtwist_async.errors import OutputMismatchError
from crowdtwist_async.export.rows import MODELS
from crowdtwist_async.export.storage import PRIVATE, foreign, make_private

APPLICATION = 0x43547765
"""In the file's header: a SQLite file without it is somebody else's."""
_APPLICATION_AT = slice(68, 72)
_LEDGER = {"export_state", "members", "failures", "parts"}
OWN = frozenset({*_LEDGER, *MODELS})
_TABLES = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%'"


def is_new(path: Path, discard: Callable[[], None] | None) -> bool:
    """Check whose file it is, which is made if need be; empty it if told."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE)
    try:
        _undo_interrupted(path)
        if os.fstat(file).st_size:
            _check_header(path)
        if os.fstat(file).st_nlink > 1:
            raise OutputMismatchError(
                f"{path} has other names too, by hard links, and SQLite's journal would be beside one alone:"
                " remove the others, or put a copy in its place"
            )
        if discard is not None:
            check_tables(path)
            discard()
            # SQLite removes a journal that lies beside an empty file.
            os.ftruncate(file, 0)
            os.fsync(file)
        is_empty = not os.fstat(file).st_size
        if is_empty:
            make_private(file, PRIVATE)
        return is_empty
    finally:
        os.close(file)


def connect(path: Path, **options: Any) -> sqlite3.Connection:
    """Connect to a file by a name that SQLite takes for nothing else: `file:x` is a URI to it."""
    connection: sqlite3.Connection = sqlite3.connect(path.absolute(), **options)
    return connection


def _undo_interrupted(path: Path) -> None:
    """Let SQLite undo what a crash interrupted, its own creation too; other files it leaves as they are."""
    with suppress(sqlite3.DatabaseError, UnicodeDecodeError), closing(connect(path)) as connection:
        connection.execute("PRAGMA page_count")


def _check_header(path: Path) -> None:
    """Refuse a file that no export wrote."""
    with path.open("rb") as file:
        header = file.read(_APPLICATION_AT.stop)
    ours = APPLICATION.to_bytes(4, "big")
    if not header.startswith(b"SQLite format 3\0") or header[_APPLICATION_AT] != ours:
        raise foreign(path, "is there already, and was written by no export")


def check_tables(path: Path) -> None:
    """Refuse to remove a database to which somebody has added tables or views."""
    found: set[str] = set()
    with suppress(sqlite3.DatabaseError, UnicodeDecodeError), closing(connect(path)) as connection:
        found = {name for (name,) in connection.execute(_TABLES)}
    if _LEDGER.issubset(found) and (others := found - OWN):
        raise foreign(path, f"holds {min(others)!r}, a table or view that no export made")
