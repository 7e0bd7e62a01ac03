"""
Merging shards: the same rows as without shards, all or nothing, and what is in the way of it.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import sqlite3
import stat
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from detours import ONCE, Detour
from outputs import ledger_of, query
from scripted import status
from shards import (
    COUNT,
    LAST_DAY,
    contents,
    copy_shards,
    emulator_of,
    ledger_of_shard,
    own,
    rows_of,
    shard_made,
    shards_made,
)

from crowdtwist_async import ConfigurationError, OutputLockedError, OutputMismatchError, StorageError
from crowdtwist_async.export import Shard, export, joining, locks, merge, merging
from crowdtwist_async.export.ledger import Ledger
from crowdtwist_async.export.shard import MERGED

FILES = ("jsonl", "csv", "sqlite")
MEMBERS = "SELECT requested_id, status, rows, requests, drifted FROM members ORDER BY 1"


@pytest.fixture(params=FILES)
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A place for an export of each format that is merged."""
    return tmp_path / f"out.{request.param}"


@pytest.fixture(params=(*FILES, "parquet"))
def any_output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A place for an export of each format."""
    return tmp_path / f"out.{request.param}"


def set_state(output: Path, key: str, value: str) -> None:
    """Change what a database says of itself."""
    with closing(sqlite3.connect(output)) as connection, connection:
        connection.execute("UPDATE export_state SET value = ? WHERE key = ?", (value, key))


def status_of(output: Path, status: str) -> str:
    """What is said of an output; a folder needs no merging."""
    return "not_needed" if output.suffix == ".parquet" else status


# What it makes


def test_merged_shards_are_the_export_without_shards(any_output: Path) -> None:
    """Seven that ran in any order, each twice: the same rows, once; the shards stay as they were."""
    output = any_output
    whole = output.with_name(f"whole{output.suffix}")
    shard_made(emulator_of(), whole, None)
    shards_made(emulator_of(), output, times=2)
    before = contents(output.parent)

    report = merge(output)

    assert rows_of(whole) == rows_of(output)
    assert len(rows_of(whole)) == report.rows
    assert query(ledger_of(whole), MEMBERS) == sorted(
        mark for index in range(COUNT) for mark in query(ledger_of_shard(output, index), MEMBERS)
    )
    after = contents(output.parent)
    assert before == {name: after[name] for name in before}
    assert after.keys() - before.keys() == (set() if output.is_dir() else {output.name})
    assert status_of(output, "merged") == report.status


def test_the_report_counts_all_shards(any_output: Path) -> None:
    """As that of one export would."""
    reports = shards_made(emulator_of(), any_output)

    report = merge(str(any_output))

    assert {
        "output": str(any_output),
        "endpoint": "purchases",
        "status": status_of(any_output, "merged"),
        "shards": COUNT,
        "members": sum(each.members for each in reports),
        "not_found": 0,
        "failed": 0,
        "drifted": 0,
        "rows": sum(each.rows for each in reports),
        "errors_file": None,
    } == report.as_dict()


def test_merged_lines_come_shard_after_shard(tmp_path: Path) -> None:
    """Those of CSV under one header."""
    output = tmp_path / "out.csv"
    copy_shards(output)
    merge(output)

    texts = [own(output, index).read_bytes() for index in range(COUNT)]
    header = texts[0].partition(b"\r\n")[0] + b"\r\n"
    assert header + b"".join(text.removeprefix(header) for text in texts) == output.read_bytes()


def test_a_merged_database_has_the_members_too(tmp_path: Path) -> None:
    """In the same tables as without shards."""
    output, whole = tmp_path / "out.sqlite", tmp_path / "whole.sqlite"
    shard_made(emulator_of(), whole, None)
    copy_shards(output)
    merge(output)

    tables = "SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name"
    assert query(whole, tables) == query(output, tables)
    assert query(whole, MEMBERS) == query(output, MEMBERS)
    assert [("ok",)] == query(output, "PRAGMA integrity_check")


def test_only_its_owner_may_read_it(output: Path) -> None:
    """As any output."""
    copy_shards(output)
    merge(output)

    assert 0o600 == stat.S_IMODE(output.stat().st_mode)


def test_merging_again_changes_nothing(any_output: Path) -> None:
    """It does not even write."""
    copy_shards(any_output)
    first = merge(any_output)
    before = contents(any_output.parent)

    again = merge(any_output)

    assert before == contents(any_output.parent)
    assert {**first.as_dict(), "status": again.status} == again.as_dict()
    assert status_of(any_output, "already_merged") == again.status


def test_a_link_stays_one(output: Path, tmp_path: Path) -> None:
    """What it leads to is written."""
    copy_shards(output)
    (tmp_path / "elsewhere").mkdir()
    output.symlink_to(tmp_path / "elsewhere" / output.name)

    merge(output)

    assert output.is_symlink()
    assert "already_merged" == merge(output).status


def test_shards_without_rows_make_an_empty_output(any_output: Path) -> None:
    """With its header, or its tables."""
    shards_made(emulator_of(), any_output, ids=[])

    assert 0 == merge(any_output).rows
    assert status_of(any_output, "already_merged") == merge(any_output).status
    if any_output.suffix == ".csv":
        assert any_output.read_bytes().startswith(b"requested_id,")
        assert 1 == len(any_output.read_bytes().splitlines())


# Failed members


def failing(*bad: str) -> Callable[[str], Any]:
    """Answers that fail some members for good."""
    return lambda user_id: status(400) if user_id in bad else None


def shards_with_failures(output: Path, *bad: str, **options: Any) -> None:
    """Shards of points, some of whose members fail."""
    emulator = emulator_of()

    async def make(shard: Shard) -> None:
        detour = Detour(emulator, failing(*bad))
        async with emulator.client(retry=ONCE, transport=detour) as client:
            await export(client, "points", list(emulator.member_ids()), output, shard=shard, **options)

    for index in range(COUNT):
        anyio.run(make, Shard(index, COUNT))


def test_failed_members_are_merged_too(any_output: Path) -> None:
    """In one file, which goes when nobody failed."""
    bad = ["10000003", "10000004", "10000005"]
    shards_with_failures(any_output, *bad)

    report = merge(any_output)

    assert (3, f"{any_output}.errors.jsonl") == (report.failed, report.errors_file)
    lines = Path(f"{any_output}.errors.jsonl").read_text().splitlines()
    assert bad == sorted(json.loads(line)["requested_id"] for line in lines)
    assert {"id"} == {json.loads(line)["requested_id_type"] for line in lines}

    shards_with_failures(any_output, retry_failed=True)
    if not any_output.is_dir():
        with pytest.raises(
            OutputMismatchError, match="is there already, and is not what its shards make now"
        ):
            merge(any_output)
    report = merge(any_output, fresh=True)

    assert (0, None) == (report.failed, report.errors_file)
    assert not Path(f"{any_output}.errors.jsonl").exists()


def test_a_full_disk_at_the_failed_members_leaves_nothing_open(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines that were not written end with the write, not on ledgers that are closed by then."""
    shards_with_failures(output, "10000003", "10000004", "10000005")
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    write = os.write

    def full(descriptor: int, content: bytes) -> int:
        if ".errors.jsonl" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        merge(output)
    del caught
    gc.collect()
    assert [] == unraisable


def test_a_strange_file_of_failed_members_is_kept(output: Path) -> None:
    """Nothing is merged."""
    copy_shards(output)
    errors = Path(f"{output}.errors.jsonl")
    errors.write_text("precious")

    with pytest.raises(OutputMismatchError, match="errors.jsonl is there already, and was written by no"):
        merge(output, fresh=True)

    assert "precious" == errors.read_text()
    assert not output.exists()


# What is in the way


def nothing_changed(output: Path, before: dict[str, Any]) -> bool:
    """Whether all files are as they were."""
    return before == contents(output.parent)


@pytest.mark.parametrize("count", [1, 6])
def test_a_missing_shard_is_named(any_output: Path, count: int) -> None:
    """The first that is not there."""
    copy_shards(any_output, range(count))
    before = contents(any_output.parent)

    with pytest.raises(
        OutputMismatchError, match=f"^shard {count}/7 of .* is not there: export it, and merge"
    ):
        merge(any_output)

    assert nothing_changed(any_output, before)


def test_no_shards_are_told(any_output: Path) -> None:
    """Also where an export without any is."""
    for _ in range(2):
        with pytest.raises(
            OutputMismatchError, match="^no shard of .* is there: export them with --shard i/n"
        ):
            merge(any_output)
        shard_made(emulator_of(), any_output, None)


def test_a_shard_that_is_not_complete_is_named(any_output: Path) -> None:
    """It may go on later."""
    copy_shards(any_output)
    with closing(sqlite3.connect(ledger_of_shard(any_output, 4))) as connection, connection:
        connection.execute("DELETE FROM export_state WHERE key = 'completed_at'")
    before = contents(any_output.parent)

    with pytest.raises(
        OutputMismatchError, match="^shard 4/7 of .* is not complete: export it again to go on, and merge"
    ):
        merge(any_output)

    assert nothing_changed(any_output, before)


@pytest.mark.parametrize("index", [0, 3, 6])
def test_a_shard_that_is_being_exported_is_named(any_output: Path, index: int) -> None:
    """It is not waited for."""
    copy_shards(any_output)
    path = ledger_of_shard(any_output, index)
    with closing(Ledger(path, "elsewhere")):
        with pytest.raises(
            OutputLockedError, match=f"^another export is writing shard {index}/7 of .*: wait"
        ):
            merge(any_output)


def test_shards_that_were_made_otherwise_are_named(any_output: Path) -> None:
    """Other ids, for one, or other days."""
    ids = list(emulator_of().member_ids())
    copy_shards(any_output)
    shard_made(emulator_of(), any_output, "5/7", ids, date_end="2026-09-29", fresh=True)
    with pytest.raises(
        OutputMismatchError,
        match=f"^shard 5/7 of .* was made otherwise than shard 0: date-end was {LAST_DAY} and is 2026-09-29",
    ):
        merge(any_output)

    shard_made(emulator_of(), any_output, "5/7", ids[:-1], fresh=True)
    with pytest.raises(OutputMismatchError, match="than shard 0: the ids are not the same. Export it as the"):
        merge(any_output)


def test_shards_of_two_numbers_are_told(any_output: Path) -> None:
    """They may have come from elsewhere."""
    copy_shards(any_output)
    other = own(any_output, 1, 3)
    if any_output.is_dir():
        other = any_output / "part-1-of-3-000001.parquet"
    other.write_bytes(b"")

    with pytest.raises(
        OutputMismatchError, match="has shards i/3 and i/7: move those away that are not meant"
    ):
        merge(any_output)


def test_a_ledger_of_another_shard_is_refused(any_output: Path) -> None:
    """Somebody has copied it."""
    copy_shards(any_output)
    ledger_of_shard(any_output, 3).write_bytes(ledger_of_shard(any_output, 2).read_bytes())

    with pytest.raises(OutputMismatchError, match="is the ledger of something else than shard 3/7"):
        merge(any_output)


@pytest.mark.parametrize("fresh", [False, True], ids=["", "fresh"])
def test_what_no_merge_made_is_kept(output: Path, fresh: bool) -> None:
    """Whatever it is."""
    copy_shards(output)
    output.write_text("precious")

    with pytest.raises(OutputMismatchError, match="is there already, and was written by no export"):
        merge(output, fresh=fresh)

    assert "precious" == output.read_text()


def test_an_export_in_its_place_is_kept(output: Path, tmp_path: Path) -> None:
    """One with its ledger, which came there from elsewhere."""
    copy_shards(output)
    (tmp_path / "elsewhere").mkdir()
    elsewhere = tmp_path / "elsewhere" / output.name
    shard_made(emulator_of(), elsewhere, None)
    for path in list(elsewhere.parent.iterdir()):
        path.rename(tmp_path / path.name)
    before = contents(tmp_path)

    with pytest.raises(OutputMismatchError, match="is made without --shard, as .* shows: go on without"):
        merge(output, fresh=True)

    assert before == contents(tmp_path)


def test_rows_that_are_gone_are_told(any_output: Path) -> None:
    """From a shard that its ledger calls complete."""
    output = any_output
    copy_shards(output)
    match output.suffix:
        case ".parquet":
            (output / "part-3-of-7-000001.parquet").unlink()
        case ".sqlite":
            with closing(sqlite3.connect(own(output, 3))) as connection, connection:
                connection.execute("DELETE FROM purchases WHERE rowid = 1")
        case _:
            os.truncate(own(output, 3), own(output, 3).stat().st_size - 1)

    with pytest.raises(
        OutputMismatchError, match="3-of-7.* (is not there any more|lacks rows|is shorter than)"
    ):
        merge(output)

    assert output.is_dir() or not output.exists()


def test_another_header_is_told(tmp_path: Path) -> None:
    """Somebody has edited the file."""
    output = tmp_path / "out.csv"
    copy_shards(output)
    path = own(output, 3)
    path.write_bytes(path.read_bytes().replace(b"purchase_total", b"PURCHASE_TOTAL", 1))

    with pytest.raises(OutputMismatchError, match="3-of-7.csv does not begin with its header"):
        merge(output)


def test_a_part_that_no_ledger_names_is_told(tmp_path: Path) -> None:
    """It would be read as one; a part under way is not."""
    output = tmp_path / "out.parquet"
    copy_shards(output)
    (output / ".part-3-of-7-000002.parquet.unfinished").write_bytes(b"torn")
    assert "not_needed" == merge(output).status
    (output / "part-3-of-7-000002.parquet").write_bytes(b"")

    with pytest.raises(
        OutputMismatchError, match="000002.parquet is a part that no shard's ledger names, and"
    ):
        merge(output)


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    """Its shards are known by their ledgers."""
    output = tmp_path / "out.parquet"
    copy_shards(output)
    for part in output.iterdir():
        part.unlink()
    output.rmdir()

    with pytest.raises(OutputMismatchError, match="out.parquet is not there any more"):
        merge(output)


def test_a_shard_that_changes_meanwhile_is_told(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the old and half of the new would be neither."""
    copy_shards(output)
    make = joining.joined_as

    def change_then_make(*arguments: Any) -> Any:
        with closing(sqlite3.connect(ledger_of_shard(output, 4))) as connection, connection:
            connection.execute("UPDATE export_state SET value = 'later' WHERE key = 'completed_at'")
        return make(*arguments)

    monkeypatch.setattr(merging, "joined_as", change_then_make)

    with pytest.raises(
        OutputMismatchError, match="^shard 4/7 of .* changed while it was merged: merge again$"
    ):
        merge(output)

    assert not output.exists()
    assert not list(output.parent.glob(".*"))


def test_a_full_disk_leaves_nothing(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says what helps."""
    copy_shards(output)
    before = contents(output.parent)
    sync = os.fsync

    def full(descriptor: int) -> None:
        if ".new" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(
        StorageError, match="out.* can't be written: No space left on device. Put that right and merge again$"
    ):
        merge(output)

    assert before == contents(output.parent)


def test_what_a_killed_merge_left_is_replaced(output: Path) -> None:
    """Its temporary file."""
    copy_shards(output)
    left = output.with_name(f".{output.name}.new")
    left.write_text("torn")

    assert "merged" == merge(output).status
    assert not left.exists()


def test_the_file_of_a_shard_that_is_gone_is_named(output: Path) -> None:
    """The rows, and not the ledger that tells of them."""
    copy_shards(output)
    gone = own(output, 3)
    gone.unlink()

    with pytest.raises(OutputMismatchError, match=f"^(shard 3/{COUNT} of .*|.*{gone.name}) is not there"):
        merge(output)
    assert not output.exists()


def test_what_somebody_has_added_to_a_merged_database_is_not_removed(tmp_path: Path) -> None:
    """Merging anew would."""
    output = tmp_path / "out.sqlite"
    copy_shards(output)
    merge(output)
    query(output, "CREATE TABLE notes (text)")
    set_state(output, MERGED, "others")

    with pytest.raises(OutputMismatchError, match="holds 'notes', a table or view that no export made"):
        merge(output, fresh=True)
    assert [] == query(output, "SELECT * FROM notes")


@pytest.mark.parametrize("place", ["-", "out.txt", "s3://bucket/out.jsonl", "missing/out.jsonl"])
def test_what_has_no_shards_is_refused(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigurationError):
        merge(place)


# Afterwards


def test_a_merged_output_is_not_exported_to(output: Path) -> None:
    """Neither while its shards are there, nor without them."""
    copy_shards(output)
    merge(output)
    before = output.read_bytes()

    with pytest.raises(
        OutputMismatchError, match="is made with --shard i/7, as .* shows: give the shard, move"
    ):
        shard_made(emulator_of(), output, None)
    for path in output.parent.glob("*-of-7*"):
        path.unlink()
    with pytest.raises(
        OutputMismatchError, match="is there already, and no ledger|shard was merged from 7 and is not given"
    ):
        shard_made(emulator_of(), output, None)

    assert before == output.read_bytes()
    assert "complete" == shard_made(emulator_of(), output, None, fresh=True).status


def test_shards_are_still_complete_afterwards(output: Path) -> None:
    """A scheduler may run them once more."""
    copy_shards(output)
    merge(output)

    assert {"already_complete"} == {report.status for report in shards_made(emulator_of(), output)}
    assert "already_merged" == merge(output).status


def test_many_shards_need_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may have a thousand open, or fewer: no more than two ledgers are."""
    output = tmp_path / "out.jsonl"
    shards_made(emulator_of(20), output, count=12)
    most: list[int] = []
    lock = locks.lock

    def counted(*arguments: Any) -> int:
        descriptor = lock(*arguments)
        most.append(len(locks._LOCKED))
        return descriptor

    monkeypatch.setattr("crowdtwist_async.export.ledger.lock", counted)
    merge(output)

    assert 2 == max(most)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_shard_that_has_grown_is_told(kind: str, tmp_path: Path) -> None:
    """As by an editor or a transfer that changes the ends of lines: it would be cut amid a row."""
    output = tmp_path / f"out.{kind}"
    copy_shards(output)
    shard = own(output, 3)
    shard.write_bytes(shard.read_bytes().replace(b"\n", b"\r\n") + b"\n")

    helps = "export its shard with --fresh .fresh=True., and merge again$"
    with pytest.raises(OutputMismatchError, match=f"3-of-7.* is longer than its ledger says: .*{helps}"):
        merge(output)
    assert not output.exists()


def test_what_sqlite_or_somebody_has_added_to_a_shard_is_left_there(tmp_path: Path) -> None:
    """Its statistics, or a table: the merged database has what an export makes."""
    output = tmp_path / "out.sqlite"
    copy_shards(output)
    with closing(sqlite3.connect(own(output, 0))) as connection, connection:
        connection.executescript("CREATE TABLE mine (x); ANALYZE")

    assert "merged" == merge(output).status
    tables = {name for (name,) in query(output, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert not tables & {"mine", "sqlite_stat1"}
