"""
SQLite: a table of rows beside the ledger's tables, in one file and one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from crowdtwist_async.export.formats import Format, Limits, Writer
from crowdtwist_async.export.ledger import Ledger, Mark
from crowdtwist_async.export.rows import Kind, Row, columns, flatten, iso
from crowdtwist_async.export.storage import changed, storing

_TYPES = {Kind.INTEGER: "INTEGER", Kind.BOOLEAN: "INTEGER"}


class SqliteWriter:
    """Inserts rows into the transaction that the next commit ends."""

    limits = Limits()

    def __init__(self, path: Path, ledger: Ledger, name: str) -> None:
        self._path = path
        self._ledger = ledger
        held = ", ".join(f'"{column}" {_TYPES.get(kind, "TEXT")}' for column, kind in columns(name).items())
        self._table = f'CREATE TABLE IF NOT EXISTS "{name}" ({held})'
        self._count = f'SELECT count(*) FROM "{name}"'  # noqa: S608 - one of three names
        places = ", ".join("?" * len(columns(name)))
        self._insert = f'INSERT INTO "{name}" VALUES ({places})'  # noqa: S608 - one of three names

    def recover(self) -> None:
        """Make the table, or count its rows; SQLite itself undoes what was not committed."""
        with storing(self._path):
            connection = self._ledger.open_transaction()
            connection.execute(self._table)
            [(rows,)] = connection.execute(self._count)
        if rows != self._ledger.totals().rows:
            raise changed(self._path, "lacks rows that its ledger names, or has others")
        self._ledger.commit(())

    def write(self, rows: Sequence[Row]) -> None:
        """Insert a member's rows."""
        with storing(self._path):
            self._ledger.open_transaction().executemany(
                self._insert, ([_value(value) for value in flatten(row)] for row in rows)
            )

    def commit(self, marks: Sequence[Mark]) -> None:
        """Commit rows and marks together."""
        self._ledger.commit(marks)

    def finish(self) -> None:
        """Do nothing: the table is there."""

    def close(self) -> None:
        """Do nothing: the file is the ledger's."""


def _value(value: Any) -> Any:
    return iso(value) if isinstance(value, datetime) else value


def _writer(path: Path, ledger: Ledger, name: str) -> Writer:
    return SqliteWriter(path, ledger, name)


def _discard(_: Path) -> None:
    """Nothing: the ledger, which is the same file, is emptied."""


FORMAT = Format(writer=_writer, discard=_discard, is_taken=lambda _: False)
