"""
What an export has committed, read from its files after a kill, as `kills` compares it.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

Row = tuple[Any, ...]


class State(NamedTuple):
    """What an output and its ledger hold."""

    rows: Counter[Row]
    members: dict[str, Row]
    """Status, rows, requests, drifted, by id."""
    failures: frozenset[Row]

    @property
    def failed(self) -> frozenset[Row]:
        """The failed members and their errors; the words tell seconds."""
        return frozenset(failure[:2] for failure in self.failures)

    def share(self, whole: State) -> float:
        """How much is done of what there will be."""
        done: int = sum(
            self.members.get(member, ("",))[0] == mark[0] for member, mark in whole.members.items()
        )
        return done / len(whole.members)

    def broken(self) -> str | None:
        """Whether a member has other rows than its mark says."""
        held = Counter(row[0] for row in self.rows.elements())
        noted = {member: mark[1] for member, mark in self.members.items() if mark[1]}
        wrong = {member for member in {*held, *noted} if held[member] != noted.get(member, 0)}
        return f"{len(wrong)} members have other rows than the ledger says" if wrong else None


NOTHING = State(Counter(), {}, frozenset())


class Output:
    """The files of one format in a folder."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.kind = kind
        self.path = folder / f"out.{kind}"
        self._ledger = self.path if kind == "sqlite" else folder / f"out.{kind}.ledger.sqlite"
        self.summary = folder / "summary.json"

    def state(self) -> State:
        """Read what is committed from copies: what reads a database may put it in order."""
        with tempfile.TemporaryDirectory() as copies:
            for file in self.folder.glob(f"{self._ledger.name}*"):
                shutil.copy(file, copies)
            copy = Path(copies, self._ledger.name)
            if not copy.exists():
                return NOTHING
            with closing(sqlite3.connect(copy)) as ledger:
                return self._state(ledger)

    def _state(self, ledger: sqlite3.Connection) -> State:
        [(checked,)] = ledger.execute("PRAGMA integrity_check")
        if checked != "ok":
            raise ValueError(f"the ledger is damaged: {checked}")
        tables = {name for (name,) in ledger.execute("SELECT name FROM sqlite_schema")}
        if "members" not in tables:
            return NOTHING
        marks = ledger.execute("SELECT requested_id, status, rows, requests, drifted FROM members")
        return State(
            Counter(getattr(self, f"_{self.kind}")(ledger, tables)),
            {mark[0]: mark[1:] for mark in marks},
            frozenset(ledger.execute("SELECT requested_id, error, message FROM failures")),
        )

    def _lines(self, ledger: sqlite3.Connection) -> bytes:
        """The committed part of a file of lines."""
        state = dict(ledger.execute("SELECT key, value FROM export_state"))
        committed = int(state.get("bytes", 0))
        content = self.path.read_bytes()[:committed] if committed else b""
        if len(content) != committed or not content.endswith(b"\n" if content else b""):
            raise ValueError("the committed bytes are not there, or don't end with a line")
        return content

    def _jsonl(self, ledger: sqlite3.Connection, _: set[str]) -> Iterator[Row]:
        for line in self._lines(ledger).splitlines():
            yield json.loads(line)["requested_id"], line

    def _csv(self, ledger: sqlite3.Connection, _: set[str]) -> Iterator[Row]:
        records = csv.reader(io.StringIO(self._lines(ledger).decode(), newline=""), strict=True)
        columns = len(next(records, ()))
        for record in records:
            if len(record) != columns:
                raise ValueError("a record has another number of cells than the header")
            yield tuple(record)

    def _parquet(self, ledger: sqlite3.Connection, _: set[str]) -> Iterator[Row]:
        import pyarrow.parquet as pq

        for name, rows, size in ledger.execute("SELECT name, rows, bytes FROM parts"):
            content = (self.path / name).read_bytes()
            table = pq.read_table(io.BytesIO(content))
            if (table.num_rows, len(content)) != (rows, size):
                raise ValueError("a part has another size than the ledger says")
            yield from (tuple(row.values()) for row in table.to_pylist())

    def _sqlite(self, ledger: sqlite3.Connection, tables: set[str]) -> Iterator[Row]:
        return iter(ledger.execute("SELECT * FROM purchases") if "purchases" in tables else ())

    def orphans(self, failed: bool) -> set[str]:
        """Files that are in the folder, or in that of the parts, and do not belong there."""
        belonging = {self.path.name, self._ledger.name, self.summary.name}
        belonging |= {f"{self.path.name}.errors.jsonl"} if failed else set()
        found = {file.name for file in self.folder.iterdir()}
        if self.kind == "parquet":
            with closing(sqlite3.connect(self._ledger)) as ledger:
                belonging |= {name for (name,) in ledger.execute("SELECT name FROM parts")}
            found |= {file.name for file in self.path.iterdir()}
        return found ^ belonging

    def errors(self) -> frozenset[Row]:
        """What the file of the failed members holds."""
        file = self.folder / f"{self.path.name}.errors.jsonl"
        lines = [json.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []
        return frozenset((line["requested_id"], line["error"], line["message"]) for line in lines)
