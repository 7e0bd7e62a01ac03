"""
Locks of outputs where they are not those of a local Linux disk, and what their files leave.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from outputs import SUFFIXES, commit, expected, exported, ledger_of, opened, stored

from crowdtwist_async import OutputLockedError, OutputMismatchError, StorageError
from crowdtwist_async.export import Shard, locks
from crowdtwist_async.export.ledger import Ledger
from crowdtwist_async.export.locks import lock, locking, unlock
from crowdtwist_async.export.target import Target


@pytest.fixture(params=SUFFIXES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A place for an output of each format."""
    return tmp_path / f"out.{request.param}"


def left_in(folder: Path) -> list[str]:
    """The lock files in a folder and below."""
    return sorted(file.name for file in folder.rglob("*.lock"))


@pytest.fixture
def nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `flock` do what Linux makes of it on NFS: a lock of all bytes, of the kind that SQLite takes."""
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            real(descriptor, operation)  # a folder's is known to its machine alone
            return
        kinds = {fcntl.LOCK_SH: fcntl.F_RDLCK, fcntl.LOCK_EX: fcntl.F_WRLCK, fcntl.LOCK_UN: fcntl.F_UNLCK}
        kind = kinds[operation & ~fcntl.LOCK_NB]
        asked = struct.pack("hhqqixxxx", kind, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, asked)

    monkeypatch.setattr(fcntl, "flock", flock)


needs_linux = pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="only Linux has these locks")


@needs_linux
@pytest.mark.usefixtures("nfs")
def test_an_export_works_on_nfs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own lock does not keep its own SQLite out, and keeps others out."""
    monkeypatch.setattr("crowdtwist_async.export.ledger._BUSY_SECONDS", 0.1)
    with closing(opened(path)) as target:
        commit(target, "a")
        with pytest.raises(OutputLockedError):
            Target(str(path), "purchases")
        commit(target, "b")
        target.complete()
    assert expected("a", "b") == stored(path)
    exported_again = opened(path, fresh=True)
    commit(exported_again, "c")
    exported_again.close()
    assert expected("c") == stored(path)


def test_a_lock_leaves_nothing(path: Path) -> None:
    """Whatever the export ends with."""
    with closing(opened(path)):
        assert left_in(path.parent)
    assert [] == left_in(path.parent)
    with closing(opened(path)):
        with pytest.raises(OutputLockedError):
            Target(str(path), "purchases", fresh=True)
    assert [] == left_in(path.parent)


def test_a_lock_file_that_a_kill_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """The system has dropped the lock itself."""
    path = tmp_path / "out.jsonl"
    (tmp_path / ".out.jsonl.ledger.sqlite.lock").touch()

    exported(path, "a")

    assert expected("a") == stored(path)
    assert [] == left_in(tmp_path)


def renamed(path: Path) -> None:
    """What NFS does to a file that is removed while somebody has it open."""
    path.rename(path.with_name(".nfs0001"))


@pytest.mark.parametrize("removed", [Path.unlink, renamed], ids=["removed", "renamed"])
def test_a_lock_that_ends_at_this_moment_is_taken_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: Callable[[Path], None]
) -> None:
    """Its file was opened while it was held, and is gone: whoever comes next would make another."""
    path = tmp_path / "ledger"
    held = lock(path, "out")
    hold = locks.hold

    def late(descriptor: int, *arguments: Any, **options: Any) -> int:
        with monkeypatch.context() as disk:
            disk.setattr(Path, "unlink", removed)
            unlock(held)
        return hold(descriptor, *arguments, **options)

    monkeypatch.setattr(locks, "hold", late)
    with pytest.raises(OutputLockedError, match="another export is writing out"):
        lock(path, "out")
    monkeypatch.undo()
    with locking(path, "out"):
        assert [".ledger.lock"] == left_in(tmp_path)
    assert [] == left_in(tmp_path)
    assert not locks._LOCKED


def test_a_lock_that_can_not_be_checked_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could have it any more, as long as the program runs."""

    def stale(*_: object) -> bool:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as broken:
        broken.setattr(locks, "is_in_place", stale)
        with pytest.raises(OSError, match="Stale"):
            lock(tmp_path / "ledger", "out")
    with locking(tmp_path / "ledger", "out"):
        pass
    assert not locks._LOCKED


def test_a_lock_file_of_another_user_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is hidden, and what else there is may be this user's."""
    real = os.open

    def refuse(place: Any, *arguments: Any) -> int:
        if str(place).endswith(".lock"):
            raise PermissionError(13, "Permission denied")
        return real(place, *arguments)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(
        StorageError, match=r"/\.out\.jsonl\.ledger\.sqlite\.lock is not yours: another user's"
    ):
        Target(str(tmp_path / "out.jsonl"), "purchases")


def test_a_refused_export_leaves_no_ledger(tmp_path: Path) -> None:
    """With one, the next try would take the other's parts for its own that were not committed."""
    path, other = tmp_path / "out.parquet", tmp_path / "other.parquet"
    with closing(opened(path)) as target:
        other.symlink_to(path)
        for _ in range(2):
            with pytest.raises(OutputLockedError):
                opened(other)
        commit(target, "a")
        target.complete()
    with pytest.raises(OutputMismatchError, match="no ledger other.parquet.ledger.sqlite is beside it"):
        opened(other)
    assert expected("a") == stored(path)
    exported(path)
    assert expected("a") == stored(path)


def test_a_refused_export_keeps_the_ledger_that_it_would_have_gone_on_with(path: Path) -> None:
    """Only one that was begun at this moment goes."""
    exported(path, "a")
    if path.suffix == ".sqlite":
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DELETE FROM purchases")
    else:
        for file in [*path.glob("*.parquet")] or [path]:
            file.unlink()
    with pytest.raises(OutputMismatchError):
        opened(path)
    assert ledger_of(path).is_file()


def test_a_lock_that_a_killed_shard_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """Also when its other files were removed."""
    path = tmp_path / "out.parquet"
    path.mkdir()
    (path / ".part-0-of-2.lock").touch()

    exported(path, "a")

    assert expected("a") == stored(path)


def test_a_link_stands_for_what_it_leads_to(tmp_path: Path) -> None:
    """Two names of one database are one lock."""
    (tmp_path / "data").mkdir()
    link = tmp_path / "out.sqlite"
    link.symlink_to(tmp_path / "data" / "real.sqlite")
    with closing(Ledger(link, "out.sqlite")):
        assert [".real.sqlite.lock"] == left_in(tmp_path)
        with pytest.raises(OutputLockedError):
            Ledger(tmp_path / "data" / "real.sqlite", "real.sqlite")


def test_a_link_that_is_changed_meanwhile_unlocks_nothing_else(tmp_path: Path) -> None:
    """What it leads to now may be locked by another export."""
    link = tmp_path / "out.sqlite"
    link.symlink_to("first")
    held = lock(link, "out")
    link.unlink()
    link.symlink_to("second")
    with locking(tmp_path / "second", "second"):
        unlock(held)
        with pytest.raises(OutputLockedError):
            lock(link, "out")


def test_a_shard_of_a_folder_is_locked_by_any_name(tmp_path: Path) -> None:
    """Its ledger is beside a name of the folder, which may have several; other shards may be written."""
    path, other = tmp_path / "out.parquet", tmp_path / "other.parquet"
    with closing(opened(path, shard=Shard(0, 2))) as target:
        commit(target, "a")
        other.symlink_to(path)
        with pytest.raises(OutputLockedError, match=r"this shard of .*other\.parquet"):
            opened(other, shard=Shard(0, 2), fresh=True)
        with closing(opened(path, shard=Shard(1, 2))) as beside:
            commit(beside, "b")
            beside.complete()
        target.complete()
    assert sorted(expected("a", "b")) == sorted(stored(path))
    assert [] == left_in(tmp_path)
