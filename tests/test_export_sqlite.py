"""
SQLite: rows and marks in one file and one transaction.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from outputs import (
    FULL,
    POINTS,
    SPARSE,
    commit,
    expected,
    exported,
    mark_of,
    opened,
    purchases_of,
    query,
    row_of,
    stored,
    written,
)

from crowdtwist_async import OutputMismatchError, StorageError
from crowdtwist_async.export.rows import columns

TYPES = {"text": "TEXT", "json": "TEXT", "instant": "TEXT", "integer": "INTEGER", "boolean": "INTEGER"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A place for an output."""
    return tmp_path / "out.sqlite"


@pytest.mark.parametrize("name", ["points", "rewards", "purchases"])
def test_an_empty_output_has_its_table(path: Path, name: str) -> None:
    """Named as the endpoint, with the columns and types that the model gives."""
    written(path, name, [])

    found = query(path, f"SELECT name, type FROM pragma_table_info('{name}')")

    assert [(column, TYPES[kind]) for column, kind in columns(name).items()] == found


def test_values_have_types(path: Path) -> None:
    """Integers of 64 bits, 0 and 1 for booleans, ISO 8601 with a Z, JSON that SQLite reads, nulls."""
    rows = [row_of("rewards", FULL | {"num_points": -(2**63), "new": {"a": 1}}), row_of("rewards", SPARSE)]
    written(path, "rewards", rows)

    [full, sparse] = query(
        path,
        "SELECT requested_id, num_points, is_enabled, is_phone_number_required, date_start, segment_name,"
        " json_extract(_extra, '$.new.a'), extra_data FROM rewards ORDER BY rowid",
    )

    assert ("7", -(2**63), 1, 0, "2017-03-28T08:00:00Z", "New York Members", 1) == full[:-1]
    assert FULL["extra_data"] == json.loads(full[-1])
    assert (None, None, None) == sparse[5:]


def test_a_text_of_digits_stays_a_text(path: Path) -> None:
    """An id with leading zeros would lose them as a number."""
    written(path, "points", [row_of("points", POINTS, "007")])

    assert [("007", "text", "integer")] == query(
        path, "SELECT requested_id, typeof(requested_id), typeof(user_id) FROM points"
    )


def test_rows_are_there_with_their_mark(path: Path) -> None:
    """Other programs see neither before the commit, and both after it."""
    marks = "SELECT requested_id FROM members"
    with closing(opened(path)) as target:
        target.writer.write(purchases_of("a"))
        assert ([], []) == (stored(path), query(path, marks))
        target.writer.commit([mark_of("a", rows=2)])
        assert (expected("a"), [("a",)]) == (stored(path), query(path, marks))


_KILLED = """
import os, sys
from pathlib import Path
from outputs import mark_of, opened, purchases_of
target = opened(Path(sys.argv[1]))
target.ledger._connection.execute("PRAGMA cache_size = 5")
target.writer.write(purchases_of("b", 2000))
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_is_undone(path: Path) -> None:
    """Its rows are in the file, its journal beside it, and the file is whole again when it is opened."""
    exported(path, "a")
    size = path.stat().st_size
    subprocess.run([sys.executable, "-c", _KILLED, path], cwd=Path(__file__).parent, check=False, timeout=60)
    assert path.stat().st_size > size
    assert path.with_name("out.sqlite-journal").exists()

    with closing(opened(path)) as target:
        assert expected("a") == stored(path)
        commit(target, "b")
    assert expected("a", "b") == stored(path)


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE purchases",
        "DELETE FROM purchases WHERE purchase_id = '1'",
        "INSERT INTO purchases SELECT * FROM purchases",
    ],
    ids=["dropped", "deleted", "doubled"],
)
def test_a_table_with_other_rows_is_refused(path: Path, change: str) -> None:
    """Its members are marked as done, so that going on would lose or double rows."""
    exported(path, "a")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(change)

    with pytest.raises(OutputMismatchError, match="lacks rows that its ledger names, or has others: put it"):
        opened(path)


def test_what_others_added_is_left(path: Path) -> None:
    """An index and a table of the reader's own do not disturb."""
    exported(path, "a")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE INDEX mine ON purchases (requested_id)")
        connection.execute("CREATE TABLE notes AS SELECT 1 AS note")

    with closing(opened(path)) as target:
        commit(target, "b")

    assert expected("a", "b") == stored(path)
    assert [(1,)] == query(path, "SELECT note FROM notes")


def test_a_column_that_was_added_is_told(path: Path) -> None:
    """Rows have no value for it."""
    exported(path, "a")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ALTER TABLE purchases ADD COLUMN mine TEXT")

    with closing(opened(path)) as target:
        with pytest.raises(
            StorageError, match="out.sqlite can't be written: table purchases has 11 columns but"
        ):
            commit(target, "b")


def test_a_full_disk_loses_no_row(path: Path) -> None:
    """Neither rows nor marks of the commit that failed are there; the next run adds them once."""
    with closing(opened(path)) as target:
        commit(target, "a")
        target.ledger._connection.execute("PRAGMA max_page_count = 1")
        with pytest.raises(
            StorageError, match="out.sqlite can't be written: database or disk is full. Put that"
        ):
            commit(target, "b", count=2000)

    with closing(opened(path)) as target:
        assert expected("a") == stored(path)
        commit(target, "b")
    assert expected("a", "b") == stored(path)


@pytest.mark.parametrize("made", ["TABLE notes (text)", "VIEW notes AS SELECT 1"], ids=["table", "view"])
def test_what_somebody_has_added_is_not_removed(path: Path, made: str) -> None:
    """To go on leaves it alone, and to begin anew is refused while it is there."""
    exported(path, "a")
    query(path, f"CREATE {made}")
    query(path, "CREATE TABLE zebras (text)")
    with closing(opened(path)) as target:
        commit(target, "b")

    with pytest.raises(
        OutputMismatchError, match="holds 'notes', a table or view that no export made. It is left as it is"
    ):
        opened(path, fresh=True)
    assert expected("a", "b") == stored(path)

    query(path, f"DROP {made.split(maxsplit=1)[0]} notes")
    query(path, "DROP TABLE zebras")
    query(path, "CREATE INDEX ours ON purchases (requested_id)")
    opened(path, fresh=True).close()
    assert [] == stored(path)
