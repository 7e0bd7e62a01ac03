"""
JSON Lines and CSV as files: what was not committed is cut off, and what is not ours is left alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from outputs import ASKED, commit, expected, exported, ledger_of, mark_of, opened, purchases_of, query, stored

from crowdtwist_async import OutputMismatchError, StorageError
from crowdtwist_async.export.rows import columns
from crowdtwist_async.export.target import Target

HEADERS = {"jsonl": b"", "csv": ",".join(columns("purchases")).encode() + b"\r\n"}


@pytest.fixture(params=["jsonl", "csv"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A place for an output of either format."""
    return tmp_path / f"out.{request.param}"


@pytest.mark.parametrize(
    "tail", [b'{"requested_id":"b","req', b'b,id,"', b"\0" * 5000], ids=["object", "record", "zeros"]
)
def test_a_torn_tail_is_cut(path: Path, tail: bytes) -> None:
    """What a crash left after the last commit is gone before anything is added."""
    with closing(opened(path)) as target:
        commit(target, "a")
    with path.open("ab") as file:
        file.write(tail)

    with closing(opened(path)) as target:
        assert expected("a") == stored(path)
        commit(target, "b")

    assert expected("a", "b") == stored(path)


def test_rows_without_their_mark_are_cut(path: Path) -> None:
    """They were in the file already, but not in the ledger."""
    with closing(opened(path)) as target:
        commit(target, "a")
        committed = path.stat().st_size
        target.writer.write(purchases_of("b", 5000))
        assert committed < path.stat().st_size

    with closing(opened(path)):
        assert committed == path.stat().st_size
    assert expected("a") == stored(path)


def test_a_header_that_was_interrupted_is_written_again(path: Path) -> None:
    """The file was made, and the process killed before its first commit."""
    with closing(Target(str(path), "purchases")) as target:
        target.ledger.begin(ASKED)
    path.write_bytes(HEADERS[path.suffix[1:]][:5])

    exported(path, "a")

    assert expected("a") == stored(path)
    assert path.read_bytes().startswith(HEADERS[path.suffix[1:]])


def test_an_output_without_rows_that_is_gone_is_begun_again(path: Path) -> None:
    """Nothing is lost with it."""
    exported(path)
    path.unlink()

    exported(path)

    assert HEADERS[path.suffix[1:]] == path.read_bytes()


def test_an_output_that_is_gone_is_refused(path: Path) -> None:
    """Its members are marked as done, so that going on would lose them."""
    exported(path, "a")
    path.unlink()

    with pytest.raises(OutputMismatchError, match="is not there any more: put it back as it was, or give"):
        opened(path)
    assert not path.exists()


def test_a_complete_output_that_is_longer_is_refused(path: Path) -> None:
    """Somebody has added to it since, and it stays as it is."""
    exported(path, "a")
    with path.open("ab") as file:
        file.write(b"TOTAL\n")
    content = path.read_bytes()

    with pytest.raises(
        OutputMismatchError, match="is longer than its ledger says, though it was complete: put"
    ):
        opened(path)
    assert content == path.read_bytes()


def test_an_output_that_is_shorter_is_refused(path: Path) -> None:
    """It stays as it is."""
    exported(path, "a", "b")
    content = path.read_bytes()[:-1]
    path.write_bytes(content)

    with pytest.raises(OutputMismatchError, match="is shorter than its ledger says: put it back"):
        opened(path)
    assert content == path.read_bytes()


def _replace_by_text(path: Path) -> None:
    path.write_text("precious, and longer than what stood here\n" * 100)


def _replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("replace", [_replace_by_text, _replace_by_pipe], ids=["text", "pipe"])
def test_what_took_the_place_of_an_output_is_refused(path: Path, replace: Callable[[Path], None]) -> None:
    """It has nothing of an export, and is not touched."""
    exported(path, "a")
    replace(path)
    before = path.stat()

    with pytest.raises(OutputMismatchError, match="is no output of an export. It is left as it is: move"):
        opened(path)
    assert (before.st_size, before.st_mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)


def test_going_on_through_a_link_keeps_it(path: Path) -> None:
    """A complete output was moved to a larger disk, and linked to."""
    exported(path, "a")
    elsewhere = path.with_name(f"elsewhere{path.suffix}")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)

    with closing(opened(path)) as target:
        commit(target, "b")

    assert path.is_symlink()
    assert expected("a", "b") == stored(elsewhere)


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_an_output_that_vanishes_is_told_at_the_next_commit(path: Path, replaced: bool) -> None:
    """Rows would go to a file without a name, and be marked as done."""
    with closing(opened(path)) as target:
        commit(target, "a")
        path.rename(path.with_name("moved"))
        if replaced:
            path.write_text("something else")
        with pytest.raises(OutputMismatchError, match="was moved away or removed while it was written: put"):
            commit(target, "b")

    assert [("a",)] == query(ledger_of(path), "SELECT requested_id FROM members")


def test_only_its_owner_may_read_it(path: Path) -> None:
    """It holds members' data, and so does its ledger."""
    umask = os.umask(0)
    try:
        exported(path, "a")
    finally:
        os.umask(umask)

    assert {0o600} == {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}


def _record(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: list[str]) -> None:
    original = getattr(owner, name)

    def recording(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, recording)


def test_rows_are_on_the_disk_before_their_mark(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other way round, a power cut could leave a mark without rows."""
    with closing(opened(path)) as target:
        calls: list[str] = []
        _record(monkeypatch, os, "write", calls)
        _record(monkeypatch, os, "fsync", calls)
        _record(monkeypatch, target.ledger, "commit", calls)
        commit(target, "a")

    assert ["write", "fsync", "commit"] == calls


def test_a_new_name_is_on_the_disk_before_its_first_mark(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is synced as well, also when the file was made by a run that was killed."""
    synced: list[str] = []
    fsync = os.fsync

    def recording(descriptor: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    for _ in range(2):
        with closing(Target(str(path), "purchases")) as target:
            synced.clear()
            target.begin(ASKED)
            assert "folder" == synced[0]


def test_short_writes_are_completed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may take a part of what it is given."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, bytes(content[:7])))

    exported(path, "a", "b")

    assert expected("a", "b") == stored(path)


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_what_the_disk_refuses_is_not_marked(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """An error of the disk is told, and the next run writes the same rows once."""
    with closing(opened(path)) as target:
        commit(target, "a")
        with monkeypatch.context() as broken:
            broken.setattr(os, call, _refuse)
            with pytest.raises(StorageError, match=f"{path.name} can't be written: Input/output error. Put"):
                commit(target, "b")

    with closing(opened(path)) as target:
        assert [None, "ok"] == [target.ledger.status_of("b"), target.ledger.status_of("a")]
        commit(target, "b")
    assert expected("a", "b") == stored(path)


def test_a_disk_that_fails_at_the_end_hides_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing writes nothing: what counts was synced before."""
    target = opened(path)
    commit(target, "a")
    close = os.close

    def failing(descriptor: int) -> None:
        is_output = os.path.samestat(os.fstat(descriptor), path.stat())
        close(descriptor)
        if is_output:
            _refuse()

    monkeypatch.setattr(os, "close", failing)
    target.close()

    exported(path, "b")
    assert expected("a", "b") == stored(path)


def _refuse(*_: object) -> None:
    raise OSError(5, "Input/output error")


def test_a_ledger_that_is_full_marks_nothing(path: Path) -> None:
    """The rows are on the disk by then, and are cut off again."""
    with closing(opened(path)) as target:
        commit(target, "a")
        target.ledger._connection.execute("PRAGMA max_page_count = 1")
        target.writer.write(purchases_of("b"))
        with pytest.raises(
            StorageError, match="ledger.sqlite can't be written: database or disk is full. Put"
        ):
            target.writer.commit([mark_of("b", "failed", message="long" * 50_000)])
        assert expected("a", "b") == stored(path)

    with closing(opened(path)) as target:
        assert [None, "ok"] == [target.ledger.status_of("b"), target.ledger.status_of("a")]
        assert expected("a") == stored(path)


@pytest.mark.parametrize("change", [(b"\n", b"\r\n"), (b"a", b"aa")], ids=["ends of lines", "texts"])
def test_an_output_that_was_saved_anew_is_refused(path: Path, change: tuple[bytes, bytes]) -> None:
    """Its committed rows end elsewhere: cutting it there would lose some."""
    with closing(opened(path)) as target:
        commit(target, "a")
    saved = path.read_bytes().replace(*change)
    path.write_bytes(saved)

    with pytest.raises(OutputMismatchError, match="was changed: its committed rows do not end where"):
        opened(path)

    assert saved == path.read_bytes()


def test_a_link_stays_one_when_it_is_begun_anew(path: Path, tmp_path: Path) -> None:
    """The rows go to where it leads."""
    place = tmp_path / "elsewhere"
    exported(path, "a")
    path.rename(place)
    path.symlink_to(place)

    with closing(opened(path, fresh=True)) as target:
        commit(target, "b")

    assert path.is_symlink()
    assert expected("b") == stored(path)
