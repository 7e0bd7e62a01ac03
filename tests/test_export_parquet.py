"""
Parquet: a folder of parts that readers take as one table.
"""

from __future__ import annotations

import importlib
import os
import stat
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from outputs import (
    FULL,
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

from crowdtwist_async import ConfigurationError, OutputMismatchError, StorageError
from crowdtwist_async.export.formats import parquet
from crowdtwist_async.export.rows import columns

TYPES = {
    "text": pa.string(),
    "json": pa.string(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
    "instant": pa.timestamp("us", tz="UTC"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A place for an output."""
    return tmp_path / "out.parquet"


def names(path: Path) -> list[str]:
    """What is in the folder."""
    return sorted(file.name for file in path.iterdir())


@pytest.mark.parametrize("name", ["points", "rewards", "purchases"])
def test_an_empty_output_has_its_columns(path: Path, name: str) -> None:
    """One part without rows, so that readers find the model's columns and types."""
    written(path, name, [])

    table = pq.read_table(path)

    assert [(column, TYPES[kind]) for column, kind in columns(name).items()] == [
        (field.name, field.type) for field in table.schema
    ]
    assert (0, ["part-000001.parquet"]) == (table.num_rows, names(path))


def test_values_have_types(path: Path) -> None:
    """Instants are UTC to the microsecond, integers have 64 bits, booleans one, and nulls are nulls."""
    rows = [
        row_of("rewards", FULL | {"num_points": -(2**63), "min_age": None, "new": [2**64]}),
        row_of("rewards", SPARSE | {"date_start": "2026-01-31T23:59:59.123456-02:00"}),
    ]
    written(path, "rewards", rows)

    [full, sparse] = pq.read_table(path).to_pylist()

    assert ("7", -(2**63), None, True) == (
        full["requested_id"],
        full["num_points"],
        full["min_age"],
        full["is_enabled"],
    )
    assert ("New York Members", f'{{"new":[{2**64}]}}') == (full["segment_name"], full["_extra"])
    assert datetime(2026, 2, 1, 1, 59, 59, 123456, tzinfo=UTC) == sparse["date_start"]
    assert (None, None, None) == (sparse["segment_name"], sparse["extra_data"], sparse["_extra"])


def test_parts_are_compressed(path: Path) -> None:
    """With zstd, every column of every row group."""
    written(path, "rewards", [row_of("rewards", FULL)] * 3)

    group = pq.read_metadata(path / "part-000001.parquet").row_group(0)

    assert {"ZSTD"} == {group.column(number).compression for number in range(group.num_columns)}


def test_every_commit_with_rows_is_a_part(path: Path) -> None:
    """Members without rows need none, and the numbers go on in the next run."""
    with closing(opened(path)) as target:
        commit(target, "a", "b")
        target.writer.commit([mark_of("nobody", "not_found")])
        commit(target, "c")
    with closing(opened(path)) as target:
        commit(target, "d")
        target.complete()

    assert [f"part-00000{number}.parquet" for number in (1, 2, 3)] == names(path)
    assert expected("a", "b", "c", "d") == stored(path)
    assert [("part-000001.parquet", 4), ("part-000002.parquet", 2), ("part-000003.parquet", 2)] == query(
        path.with_name("out.parquet.ledger.sqlite"), "SELECT name, rows FROM parts ORDER BY name"
    )


def test_a_part_has_many_row_groups(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one is held in memory; a member's rows may be in several."""
    monkeypatch.setattr(parquet, "_GROUP", 3)
    with closing(opened(path)) as target:
        target.writer.write(purchases_of("a", 7))
        assert [".part-000001.parquet.unfinished"] == names(path)
        target.writer.write(purchases_of("b", 1))
        target.writer.commit([mark_of("a", rows=7), mark_of("b", rows=1)])

    metadata = pq.read_metadata(path / "part-000001.parquet")
    assert [3, 3, 2] == [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    assert expected("a", count=7) + expected("b", count=1) == stored(path)


def test_a_part_that_is_not_complete_is_dropped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the run ends early, and by the next one when it was killed."""
    monkeypatch.setattr(parquet, "_GROUP", 1)
    with closing(opened(path)) as target:
        commit(target, "a")
        target.writer.write(purchases_of("b"))
        torn = path / ".part-000002.parquet.unfinished"
        content = torn.read_bytes()
    assert ["part-000001.parquet"] == names(path)

    torn.write_bytes(content)
    with closing(opened(path)) as target:
        assert ["part-000001.parquet"] == names(path)
        commit(target, "b")
    assert expected("a", "b") == stored(path)


def test_a_part_without_its_mark_is_removed(path: Path) -> None:
    """It had its name already, but the ledger does not know it."""
    with closing(opened(path)) as target:
        commit(target, "a")
        target.ledger._connection.execute("PRAGMA max_page_count = 1")
        target.writer.write(purchases_of("b"))
        with pytest.raises(StorageError, match="ledger.sqlite can't be written: database or disk is full"):
            target.writer.commit([mark_of("b", "failed", message="long" * 50_000)])
    assert ["part-000001.parquet", "part-000002.parquet"] == names(path)

    with closing(opened(path)) as target:
        assert (["part-000001.parquet"], None) == (names(path), target.ledger.status_of("b"))
        commit(target, "b")
    assert expected("a", "b") == stored(path)


def _remove(part: Path) -> None:
    part.unlink()


def _lengthen(part: Path) -> None:
    part.write_bytes(part.read_bytes() + b"\0")


def _empty(part: Path) -> None:
    part.write_bytes(b"")


@pytest.mark.parametrize("change", [_remove, _lengthen, _empty], ids=["missing", "longer", "empty"])
def test_a_part_that_is_not_as_it_was_is_refused(path: Path, change: Callable[[Path], None]) -> None:
    """Its members are marked as done; the other parts stay."""
    with closing(opened(path)) as target:
        commit(target, "a")
        commit(target, "b")
    change(path / "part-000001.parquet")

    with pytest.raises(
        OutputMismatchError, match="lacks a part that its ledger names, or has it in another size"
    ):
        opened(path)
    assert "part-000002.parquet" in names(path)


def test_an_output_that_is_gone_is_refused(path: Path) -> None:
    """Nothing takes its place: it can be put back."""
    exported(path, "a")
    path.rename(path.with_name("away"))

    with pytest.raises(OutputMismatchError, match="is not there any more: put it back as it was, or give"):
        opened(path)
    assert not path.exists()


@pytest.mark.parametrize("name", ["part-000009.parquet", "theirs.parquet", "part-00000-a1.snappy.parquet"])
def test_a_part_that_no_export_wrote_is_refused(path: Path, name: str) -> None:
    """Readers would take its rows as the export's; it is not touched, also not by --fresh."""
    exported(path, "a")
    pq.write_table(pa.table({"x": [1]}), path / name)
    content = (path / name).read_bytes()

    for fresh in (False, True):
        with pytest.raises(
            OutputMismatchError, match=f"{name} is a part that no export wrote, and would be read"
        ):
            opened(path, fresh=fresh)
    assert (content, True) == ((path / name).read_bytes(), (path / "part-000001.parquet").exists())


def test_a_torn_file_that_is_named_as_a_part_is_refused(path: Path) -> None:
    """A part gets its name when it is whole: this one is somebody else's."""
    exported(path, "a")
    (path / "part-000002.parquet").write_bytes(b"PAR1 torn")

    with pytest.raises(OutputMismatchError, match="part-000002.parquet is a part that no export wrote"):
        opened(path)


def test_other_files_in_the_folder_stay(path: Path) -> None:
    """Whatever they are, readers pass them over or are told to."""
    exported(path, "a")
    (path / "_SUCCESS").write_text("")

    with closing(opened(path, fresh=True)) as target:
        assert ["_SUCCESS"] == names(path)
        commit(target, "b")
    assert expected("b") == stored(path)


def test_a_linked_folder_is_written_to(path: Path) -> None:
    """The folder is on another disk; --fresh empties it, and the link stays."""
    elsewhere = path.with_name("elsewhere")
    elsewhere.mkdir()
    path.symlink_to(elsewhere)
    exported(path, "a")

    with closing(opened(path, fresh=True)) as target:
        commit(target, "b")

    assert (True, ["part-000001.parquet"]) == (path.is_symlink(), names(elsewhere))
    assert expected("b") == stored(path)


def test_only_its_owner_may_read_it(path: Path) -> None:
    """The folder, and each part from its first byte on."""
    umask = os.umask(0)
    try:
        exported(path, "a")
    finally:
        os.umask(umask)

    assert (0o700, 0o600) == (
        stat.S_IMODE(path.stat().st_mode),
        stat.S_IMODE((path / "part-000001.parquet").stat().st_mode),
    )


def test_a_part_is_on_the_disk_before_its_name_and_its_mark(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First its bytes, then its name, then the folder that holds the name, then the mark."""
    with closing(opened(path)) as target:
        calls: list[str] = []
        fsync, rename, note = os.fsync, Path.rename, target.ledger.commit

        def recording_fsync(descriptor: int) -> None:
            kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "part"
            calls.append(f"sync {kind} of {os.fstat(descriptor).st_size > 0}")
            fsync(descriptor)

        def recording_rename(old: Path, new: Path) -> Path:
            calls.append(f"rename {old.name} to {new.name}")
            return rename(old, new)

        def recording_note(*arguments: Any, **options: Any) -> None:
            calls.append(f"mark {options['part'][0]}")
            note(*arguments, **options)

        monkeypatch.setattr(os, "fsync", recording_fsync)
        monkeypatch.setattr(Path, "rename", recording_rename)
        monkeypatch.setattr(target.ledger, "commit", recording_note)
        commit(target, "a")

    assert [
        "sync part of True",
        "rename .part-000001.parquet.unfinished to part-000001.parquet",
        "sync folder of True",
        "mark part-000001.parquet",
    ] == calls


class FullDisk:
    """What `os.fdopen` gives: a file that takes some bytes, then none, also not when it is closed."""

    def __init__(self, room: int, descriptor: int, mode: str) -> None:
        self._file = open(descriptor, mode)  # noqa: SIM115 - it is closed as a part is
        self._room = room
        self.closed = False

    def write(self, content: bytes) -> int:
        """Take what there is room for."""
        self._room -= len(content)
        self.flush()
        return self._file.write(content)

    def flush(self) -> None:
        """Fail as a full disk does."""
        if self._room < 0:
            raise OSError(28, "No space left on device")

    def tell(self) -> int:
        """How much was taken."""
        return self._file.tell()

    def close(self) -> None:
        """Close it, and say that not all of it could be kept."""
        self._file.close()
        self.flush()


@pytest.mark.parametrize("room", [0, 100], ids=["none", "some"])
def test_a_full_disk_is_told_once(path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Closing the output fails as well, and hides nothing; the next run writes the rows."""
    with closing(opened(path)) as target:
        commit(target, "a")
        with monkeypatch.context() as full:
            full.setattr(os, "fdopen", partial(FullDisk, room))
            with pytest.raises(
                StorageError, match=r"out.parquet can't be written: No space left on device. Put"
            ):
                commit(target, "b")
    assert ["part-000001.parquet"] == names(path)

    with closing(opened(path)) as target:
        commit(target, "b")
    assert expected("a", "b") == stored(path)


def test_a_folder_that_is_removed_is_told(path: Path) -> None:
    """Its parts have no place."""
    with closing(opened(path)) as target:
        target.writer.write(purchases_of("a"))
        path.rmdir()
        with pytest.raises(
            StorageError, match="out.parquet can't be written: No such file or directory. Put"
        ):
            target.writer.commit([mark_of("a", rows=2)])


def test_without_pyarrow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The formats without it work all the same."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "crowdtwist_async.export.formats.parquet")

    with pytest.raises(ConfigurationError, match=r"pip install 'crowdtwist-async\[parquet\]'$"):
        importlib.import_module("crowdtwist_async.export.formats.parquet")


def test_a_part_that_was_added_to_a_complete_output_is_kept(path: Path) -> None:
    """It may be the only copy of somebody's rows; an export that is not complete removes its own strays."""
    exported(path, "a")
    other = path.with_name("other.parquet")
    exported(other, "b")
    added = path / "part-000002.parquet"
    (other / "part-000001.parquet").rename(added)

    with pytest.raises(OutputMismatchError, match="part-000002.* does not name, though it was complete: put"):
        opened(path)
    assert added.exists()
