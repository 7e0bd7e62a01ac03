"""
Disks: full ones, broken ones, ones without locks. All end in one sentence, and lose nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from conftest import KEY
from outputs import SUFFIXES

from crowdtwist_async import ConfigurationError, OutputMismatchError, StorageError
from crowdtwist_async.export.locks import lock
from crowdtwist_async.export.storage import (
    check_in_place,
    create,
    remove_file,
    replace_file,
    storing,
    write_all,
)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(OSError(28, "No space left on device"), "No space left on device", id="full"),
        pytest.param(OSError("odd"), "OSError", id="without-a-reason"),
        pytest.param(sqlite3.OperationalError("disk I/O error"), "disk I/O error", id="sqlite"),
    ],
)
def test_a_disk_is_told_in_one_sentence(error: Exception, reason: str) -> None:
    """What could not be written, why, and what to do."""
    with pytest.raises(StorageError) as caught:
        with storing("out.jsonl"):
            raise error
    assert (
        f"out.jsonl can't be written: {reason}. Put that right and export again: it goes on from what was"
        " committed" == str(caught.value)
    )


def test_a_program_that_holds_a_database_is_told(tmp_path: Path) -> None:
    """What it is that is in the way, and what to do about it."""
    path = tmp_path / "ledger"
    with closing(sqlite3.connect(path)) as reader, closing(sqlite3.connect(path, timeout=0)) as writer:
        writer.execute("CREATE TABLE members (requested_id)")
        reader.execute("BEGIN").execute("SELECT * FROM members").fetchall()
        writer.execute("INSERT INTO members VALUES (1)")
        with pytest.raises(StorageError) as caught, storing(path):
            writer.commit()

    assert (
        f"{path} can't be written: another program has held it in a transaction for longer than an export"
        " waits. End that program, or its transaction, and export again: it goes on from what was committed"
        == str(caught.value)
    )


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), ValueError("a bug")], ids=repr)
def test_other_errors_are_left(error: Exception) -> None:
    """A reader that has gone, and what is no disk's fault."""
    with pytest.raises(type(error)) as caught:
        with storing("out.jsonl"):
            raise error
    assert error is caught.value


def test_writing_ends_when_all_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system takes what it likes."""
    descriptor = create(tmp_path / "file")
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, content: write(file, bytes(content[:3])))

    write_all(descriptor, b"0123456789")
    write_all(descriptor, b"")
    os.close(descriptor)

    assert b"0123456789" == (tmp_path / "file").read_bytes()


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """What an earlier run left beside it is not reused, and a failure keeps the old one."""
    path = tmp_path / "summary.json"
    (tmp_path / ".summary.json.new").symlink_to(tmp_path / "elsewhere")
    replace_file(path, iter([b"old", b"er"]))

    def failing() -> object:
        yield b"new"
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        replace_file(path, failing())  # type: ignore[arg-type]  # an iterator that fails

    assert {"summary.json": b"older"} == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


def test_a_file_is_removed_with_what_was_to_replace_it(tmp_path: Path) -> None:
    """A crash left that beside it."""
    path = tmp_path / "out.jsonl.errors.jsonl"
    path.write_text("old")
    path.with_name(f".{path.name}.new").write_text("torn")

    remove_file(path)

    assert [] == list(tmp_path.iterdir())


def test_a_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two exports could write to one output there; nothing is made."""
    monkeypatch.setitem(sys.modules, "fcntl", None)

    with pytest.raises(
        ConfigurationError, match="lock them as Linux and macOS do: run it there, or write to -$"
    ):
        lock(tmp_path / "ledger", "out.jsonl")
    assert [] == list(tmp_path.iterdir())


def test_a_disk_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network disks have none; the file is not kept open."""
    tried: list[int] = []

    def refuse(descriptor: int, _: int) -> None:
        tried.append(descriptor)
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)

    with pytest.raises(StorageError) as caught, storing("ledger"):
        lock(tmp_path / "ledger", "out.jsonl")
    assert (
        "out.jsonl can't be locked: No locks available. Write to a file system that has locks, or to an object"
        " store" == str(caught.value)
    )
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(tried[0])


@pytest.mark.parametrize("other", [None, b"same"], ids=["removed", "replaced"])
def test_a_file_that_lost_its_name_is_told(tmp_path: Path, other: bytes | None) -> None:
    """A file of the same content in its place is another one."""
    path = tmp_path / "file"
    descriptor = create(path)
    try:
        check_in_place(os.fstat(descriptor), path)
        path.unlink()
        if other is not None:
            path.write_bytes(other)
        with pytest.raises(
            OutputMismatchError, match="file was moved away or removed while it was written: put"
        ):
            check_in_place(os.fstat(descriptor), path)
    finally:
        os.close(descriptor)


_FULL_DISKS = """
import json, resource, sys
from pathlib import Path

import anyio

from crowdtwist_async.emulator import Emulator
from crowdtwist_async.errors import StorageError
from crowdtwist_async.export import export
from crowdtwist_async.export.formats import Limits, lines, parquet, sqlite
from outputs import ledger_of, query, stored

suffix, key, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
lines.LineWriter.limits = sqlite.SqliteWriter.limits = Limits(seconds=600, members=4)
parquet.ParquetWriter.limits = Limits(seconds=600, members=18)
parquet._GROUP = 10  # many of them make a part larger than the ledger


async def run(output):
    emulator = Emulator(members=30, api_key=key)
    async with emulator.client() as client:
        return await export(client, "purchases", ["nobody", *emulator.member_ids()], output, concurrency=1)


def found(output):
    marks = query(ledger_of(output), "SELECT requested_id, status, rows FROM members ORDER BY 1")
    return sorted(stored(output)), marks


def largest(output):
    return max(file.stat().st_size for file in output.parent.rglob("*") if file.is_file())


def place(name):
    (folder / name).mkdir()
    return folder / name / f"out.{suffix}"


whole = place("whole")
anyio.run(run, whole)
said = []
for number, share in enumerate((0.0, 0.1, 0.3, 0.5, 0.7, 0.9)):
    output = place(f"{number}")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 + int(share * largest(whole)), unlimited[1]))
    try:
        anyio.run(run, output)
        said.append("nothing")
    except Exception as error:
        said.append(f"{type(error).__name__}: {error}")
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    report = anyio.run(run, output)
    left = {file.name for file in output.parent.rglob("*")} ^ {file.name for file in whole.parent.rglob("*")}
    left = {name for name in left if not name.startswith("part-")}
    if (report.status, sorted(left), found(output)) != ("complete", [], found(whole)):
        said[-1] = f"{said[-1]}, and then {report} {left}"
print(json.dumps({"rows": len(found(whole)[0]), "said": said}))
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_export_goes_on_after_a_full_disk(tmp_path: Path, suffix: str) -> None:
    """Wherever a file could not grow any more: it is told, and the same export ends with every row once."""
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", _FULL_DISKS, suffix, KEY, tmp_path],
        cwd=Path(__file__).parent,
        capture_output=True,
        timeout=180,
        check=False,
    )

    assert ("", 0) == (child.stderr.decode(), child.returncode)
    result = json.loads(child.stdout)
    assert result["rows"] > 250
    assert 6 == len(result["said"])
    said = [text for text in result["said"] if not text.startswith("StorageError: ")]
    assert [] == said
    assert {True} == {text.endswith("it goes on from what was committed") for text in result["said"]}
