"""
An output's place: what may be written there, what is left alone, and when it is complete.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import stat
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from outputs import (
    ASKED,
    SUFFIXES,
    commit,
    expected,
    exported,
    ledger_of,
    mark_of,
    opened,
    stored,
)

from crowdtwist_async import ConfigurationError, OutputLockedError, OutputMismatchError, StorageError
from crowdtwist_async.export.target import Target


@pytest.fixture(params=SUFFIXES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A place for an output of each format."""
    return tmp_path / f"out.{request.param}"


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {f"{file.relative_to(folder)}": file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# Names


@pytest.mark.parametrize("name", ["out.txt", "out", "out.jsonl.gz", ".jsonl", "out.CSV"])
def test_an_unknown_format_is_refused(tmp_path: Path, name: str) -> None:
    """The end of the name decides; nothing is made."""
    with pytest.raises(ConfigurationError, match="must end in .jsonl, .csv, .parquet, .sqlite, or be -$"):
        Target(str(tmp_path / name), "points")
    assert {} == contents(tmp_path)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "sqlite"])
def test_a_folder_is_refused(tmp_path: Path, suffix: str) -> None:
    """A file can't take its place."""
    folder = tmp_path / f"out.{suffix}"
    folder.mkdir()

    with pytest.raises(ConfigurationError, match=f"out.{suffix} is a folder: name a file in it$"):
        Target(str(folder), "points", fresh=True)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    """Before the first request."""
    with pytest.raises(ConfigurationError, match="the folder of .*out.csv is not there: make it first$"):
        Target(str(tmp_path / "missing" / "out.csv"), "points")


def test_a_folder_that_can_not_be_written_to_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first request."""
    monkeypatch.setattr(os, "access", lambda *_: False)

    with pytest.raises(ConfigurationError, match="the folder of .*out.csv can't be written to$"):
        Target(str(tmp_path / "out.csv"), "points")


@pytest.mark.parametrize("output", ["-", "out.jsonl", "out.parquet", "out.sqlite"])
def test_only_csv_is_disarmed(output: str) -> None:
    """The other formats have no formulas: whoever asks for it expects something else."""
    with pytest.raises(
        ConfigurationError, match="^disarming formulas is for CSV alone: no other format has any$"
    ):
        Target(output, "points", disarm_formulas=True)


def test_a_slash_after_a_folder_is_nothing(tmp_path: Path) -> None:
    """As a shell completes it: ledger and failures stand beside the folder, not in it."""
    for _ in range(2):
        with closing(Target(f"{tmp_path / 'out.parquet'}/", "purchases")) as target:
            target.begin(ASKED)
            target.writer.commit([mark_of("a", "failed")])
            assert str(tmp_path / "out.parquet.errors.jsonl") == target.write_errors("id")

    assert ["out.parquet", "out.parquet.errors.jsonl", "out.parquet.ledger.sqlite"] == sorted(
        file.name for file in tmp_path.iterdir()
    )


# What is there already


def _text(path: Path) -> None:
    path.write_text("precious")


def _link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


def _ours_without_its_ledger(path: Path) -> None:
    exported(path, "a")
    ledger_of(path).unlink()


def _ours_with_an_empty_ledger(path: Path) -> None:
    exported(path, "a")
    ledger_of(path).write_bytes(b"")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    "make", [_text, _link_to_nothing, _ours_without_its_ledger, _ours_with_an_empty_ledger]
)
def test_what_has_no_ledger_is_refused(tmp_path: Path, suffix: str, make: Callable[[Path], None]) -> None:
    """Whose ever it is, it would be cut to nothing."""
    path = tmp_path / f"out.{suffix}"
    make(path)
    before = contents(tmp_path)

    with pytest.raises(
        OutputMismatchError, match=r"is there already, and no ledger out\..* is beside it. It is"
    ):
        opened(path)
    assert before == contents(tmp_path)


def test_a_foreign_sqlite_file_is_refused(tmp_path: Path) -> None:
    """Its content is not an export's; nor is it removed."""
    path = tmp_path / "out.sqlite"
    path.write_text("precious")

    for fresh in (False, True):
        with pytest.raises(
            OutputMismatchError, match="is there already, and was written by no export. It is left"
        ):
            opened(path, fresh=fresh)
    assert {"out.sqlite": b"precious"} == contents(tmp_path)


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    """Whoever made it wants it there."""
    path = tmp_path / "out.parquet"
    path.mkdir()

    exported(path, "a")

    assert expected("a") == stored(path)


# Beginning anew


def test_fresh_replaces_what_an_export_wrote(path: Path) -> None:
    """Under other arguments as well; the ledger knows nothing of before."""
    exported(path, "a")

    with closing(Target(str(path), "purchases", fresh=True)) as target:
        target.begin({"endpoint": "purchases", "ids": "other"})
        assert (None, None) == (target.ledger.status_of("a"), target.completed_at)
        commit(target, "b")

    assert expected("b") == stored(path)


def test_fresh_begins_where_nothing_is(path: Path) -> None:
    """It may be given every time."""
    with closing(opened(path, fresh=True)) as target:
        commit(target, "a")

    assert expected("a") == stored(path)


def test_fresh_works_without_a_ledger(path: Path) -> None:
    """The output itself says whose it is."""
    exported(path, "a")
    if path.suffix != ".sqlite":
        ledger_of(path).unlink()

    with closing(opened(path, fresh=True)) as target:
        commit(target, "b")
    assert expected("b") == stored(path)


def test_fresh_works_with_a_damaged_ledger(path: Path) -> None:
    """Its header is enough to know it."""
    exported(path, "a")
    with ledger_of(path).open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 9000)
    with pytest.raises(OutputMismatchError, match="is damaged"):
        opened(path)

    with closing(opened(path, fresh=True)) as target:
        commit(target, "b")
    assert expected("b") == stored(path)


def _foreign_file(path: Path) -> None:
    path.write_text("precious")


def _foreign_folder(path: Path) -> None:
    path.mkdir()
    pq.write_table(pa.table({"x": [1]}), path / "theirs.parquet")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        pytest.param("out.jsonl", _foreign_file, id="jsonl"),
        pytest.param("out.csv", _foreign_file, id="csv"),
        pytest.param("out.jsonl", _link_to_nothing, id="link"),
        pytest.param("out.parquet", _foreign_file, id="no-folder"),
        pytest.param("out.parquet", _foreign_folder, id="parquet"),
        pytest.param("out.parquet", _link_to_nothing, id="linked-folder"),
    ],
)
@pytest.mark.parametrize("with_ledger", [False, True], ids=["without-ledger", "with-ledger"])
def test_fresh_removes_nothing_that_no_export_wrote(
    tmp_path: Path, name: str, make: Callable[[Path], None], with_ledger: bool
) -> None:
    """Whatever the ledger beside it says; the refusal says what to do."""
    path = tmp_path / name
    if with_ledger:
        Target(str(path), "purchases").close()
    make(path)
    before = contents(tmp_path)

    with pytest.raises(
        OutputMismatchError, match="It is left as it is: move it away, or name another output$"
    ):
        opened(path, fresh=True)

    assert before == contents(tmp_path)
    assert path.exists() or path.is_symlink()


def test_fresh_removes_nothing_that_another_export_writes(path: Path) -> None:
    """The lock comes first."""
    with closing(opened(path)) as target:
        commit(target, "a")
        with pytest.raises(OutputLockedError, match="another export is writing .*: wait until it ends"):
            opened(path, fresh=True)
        assert expected("a") == stored(path)


def test_an_output_that_was_begun_otherwise_is_refused(path: Path) -> None:
    """Before anything of it is touched."""
    exported(path, "a")
    before = contents(path.parent)

    with closing(Target(str(path), "purchases")) as target:
        with pytest.raises(
            OutputMismatchError, match="out.* was begun otherwise: the ids are not the same. Give"
        ):
            target.begin(ASKED | {"ids": "1f"})
    assert before == contents(path.parent)


# Complete


def test_it_is_complete_until_it_is_gone_on_with(path: Path) -> None:
    """To the second, in UTC."""
    with closing(opened(path)) as target:
        assert target.completed_at is None
        target.reopen()
        completed = target.complete()
    assert timedelta(seconds=-2) < completed - datetime.now(UTC) <= timedelta()

    with closing(opened(path)) as target:
        assert completed == target.completed_at
        target.reopen()
        assert target.completed_at is None


def test_age_is_checked_where_it_is_complete(tmp_path: Path) -> None:
    """One that is too old says when it was complete, and what to do."""
    with closing(opened(tmp_path / "out.jsonl")) as target:
        target.check_age(0.0)
        target.ledger.commit((), {"completed_at": "2026-01-31T00:00:00Z"})
        target.check_age(None)
        target.check_age(1e10)
        with pytest.raises(
            OutputMismatchError,
            match="was complete at 2026-01-31T00:00:00Z, which is longer ago than you allow:",
        ):
            target.check_age(60.0)


# Failed members


def test_failed_members_are_listed(path: Path) -> None:
    """Each an object a line, in order, for its owner alone; from the ledger, so that runs add up."""
    for user_id in ("b", "a"):
        with closing(opened(path)) as target:
            target.writer.commit([mark_of(user_id, "failed", error="ServerError", message='said "no"')])
            written = target.write_errors("email")

    errors = path.with_name(f"{path.name}.errors.jsonl")
    assert str(errors) == written
    assert [
        {
            "requested_id": user_id,
            "requested_id_type": "email",
            "error": "ServerError",
            "message": 'said "no"',
        }
        for user_id in "ab"
    ] == [json.loads(line) for line in errors.read_text().splitlines()]
    assert 0o600 == stat.S_IMODE(errors.stat().st_mode)


def test_the_list_goes_when_nobody_failed(path: Path) -> None:
    """A member that failed before has been exported since; without a list nothing happens."""
    with closing(opened(path)) as target:
        assert target.write_errors("id") is None
        target.writer.commit([mark_of("a", "failed")])
        target.write_errors("id")
        target.writer.commit([mark_of("a", "not_found")])
        assert target.write_errors("id") is None

    assert not path.with_name(f"{path.name}.errors.jsonl").exists()


def test_a_foreign_list_is_refused(path: Path) -> None:
    """Before anything is made; an empty one is nobody's."""
    errors = path.with_name(f"{path.name}.errors.jsonl")
    errors.write_text('{"id": 1}\n')

    for fresh in (False, True):
        with pytest.raises(
            OutputMismatchError, match="errors.jsonl is there already, and was written by no exp"
        ):
            Target(str(path), "purchases", fresh=fresh)
    assert {errors.name: b'{"id": 1}\n'} == contents(path.parent)

    errors.write_text("")
    opened(path).close()


def test_a_list_that_can_not_be_written_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one stays, whole."""
    with closing(opened(path)) as target:
        target.writer.commit([mark_of("a", "failed")])
        target.write_errors("id")
        before = contents(path.parent)[f"{path.name}.errors.jsonl"]
        monkeypatch.setattr(os, "fsync", _refuse)
        with pytest.raises(
            StorageError, match="errors.jsonl can't be written: Input/output error. Put that right"
        ):
            target.write_errors("email")

    errors = {name: content for name, content in contents(path.parent).items() if "errors" in name}
    assert {f"{path.name}.errors.jsonl": before} == errors


def _refuse(_: int) -> None:
    raise OSError(5, "Input/output error")


def test_a_full_disk_at_the_errors_file_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines that were not written end with the write, not on a ledger that is closed by then."""
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    target = opened(tmp_path / "out.csv")
    failed = [mark_of(user_id, "failed", error="ServerError", message="503") for user_id in "ab"]
    target.writer.commit(failed)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        with pytest.raises(StorageError, match="errors.jsonl can't be written: No space left") as caught:
            target.write_errors("id")
    target.close()
    del caught
    gc.collect()
    assert [] == unraisable


def test_a_database_with_several_names_is_refused(tmp_path: Path) -> None:
    """Its journal, and the lock, would be beside one of them alone."""
    path = tmp_path / "out.sqlite"
    exported(path, "a")
    (tmp_path / "other.sqlite").hardlink_to(path)
    before = path.read_bytes()
    with pytest.raises(OutputMismatchError, match="out.sqlite has other names too, by hard links"):
        Target(str(path), "purchases", fresh=True)
    assert before == path.read_bytes()


@pytest.mark.parametrize("way", ["symlink_to", "hardlink_to"])
def test_a_running_export_is_safe_by_any_name(path: Path, way: str) -> None:
    """A ledger lies beside a name, and an output may have several: rows would be torn, and both complete."""
    if path.suffix == ".parquet":
        way = "symlink_to"  # a folder has no hard links
    other = path.with_name(f"other{path.suffix}")
    with closing(opened(path)) as target:
        commit(target, "a")
        getattr(other, way)(path)
        with pytest.raises((OutputLockedError, OutputMismatchError), match=r"writing .*other\.|hard links"):
            Target(str(other), "purchases", fresh=True)
        commit(target, "b")
        target.complete()
    assert expected("a", "b") == stored(path)


def test_a_name_that_is_too_long_for_the_files_beside_it_is_told(path: Path) -> None:
    """SQLite itself says no more than that it is unable to open a file."""
    longest = os.pathconf(path.parent, "PC_NAME_MAX") - len(".ledger.sqlite-journal")
    fitting = path.with_name("x" * (longest - len(path.suffix)) + path.suffix)
    exported(fitting, "a")
    assert expected("a") == stored(fitting)
    for more in (1, 100):
        with pytest.raises(
            ConfigurationError, match=f"name has {longest + more} bytes, .*: {longest} at most$"
        ):
            Target(str(fitting.with_name("x" * more + fitting.name)), "purchases")


def test_a_name_that_sqlite_would_take_for_a_uri_is_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`file:out.sqlite` is a file of that name, and not `out.sqlite`."""
    monkeypatch.chdir(path.parent)
    exported(path, "theirs")
    own = Path(f"file:{path.name}")
    before = contents(path.parent)
    exported(own, "a")

    assert expected("a") == stored(own.absolute())
    assert before.items() <= contents(path.parent).items()
    private = [file for file in own.absolute().parent.iterdir() if file.name.startswith("file:")]
    assert {0} == {stat.S_IMODE(file.stat().st_mode) & 0o077 for file in private}
    with closing(opened(own)) as again:
        assert again.completed_at is not None


def test_a_disk_that_syncs_no_folders_and_has_no_modes_will_do(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of Windows's kind: files are synced, and the mode is nobody's loss."""
    fsync = os.fsync

    def files_alone(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fsync", files_alone)
    monkeypatch.setattr(os, "fchmod", refuse)
    monkeypatch.setattr(os, "chmod", refuse)
    umask = os.umask(0o277)
    try:
        exported(path, "a")
    finally:
        os.umask(umask)
    assert expected("a") == stored(path)


def test_a_folder_that_can_not_be_synced_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it should have been."""
    fsync = os.fsync

    def broken(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StorageError, match="can't be written: Input/output error"):
        exported(path, "a")


@pytest.mark.parametrize("umask", [0, 0o177, 0o777])
def test_files_are_private_whatever_the_umask(path: Path, umask: int) -> None:
    """Neither more nor less: what the user can't read is no output."""
    before = os.umask(umask)
    try:
        exported(path, "a")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.rglob("*") if file.is_file()}
    folders = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.rglob("*") if file.is_dir()}
    assert ({0o600}, {0o700} if path.suffix == ".parquet" else set()) == (modes, folders)


@pytest.mark.parametrize("name", ["in.parquet", "in.jsonl", "folder/in.csv"])
def test_an_output_within_an_output_is_refused(tmp_path: Path, name: str) -> None:
    """Readers take all that is in a Parquet folder for its table."""
    outer = tmp_path / "out.parquet"
    exported(outer, "a")
    (outer / "folder").mkdir()
    with pytest.raises(
        ConfigurationError, match=r"is in out\.parquet, which readers take for a Parquet output"
    ):
        Target(str(outer / name), "purchases")
    (tmp_path / "link").symlink_to(outer)
    with pytest.raises(ConfigurationError, match=r"is in out\.parquet"):
        Target(str(tmp_path / "link" / name), "purchases")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_fresh_names_the_output_that_it_can_not_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """And not the ledger beside it."""
    path = tmp_path / f"out.{suffix}"
    exported(path, "a")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StorageError, match=f"^.*/out.{suffix} can't be written: Permission denied"):
        Target(str(path), "purchases", fresh=True)
