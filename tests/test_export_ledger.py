"""
The ledger: one export holds it, and none goes on with one that can't be trusted.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from outputs import ASKED, mark_of, query

from crowdtwist_async import OutputLockedError, OutputMismatchError, StorageError
from crowdtwist_async.export import database
from crowdtwist_async.export import ledger as module
from crowdtwist_async.export.ledger import Ledger, Totals

FRESH = "put it back as it was, or give --fresh"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A place for a ledger."""
    return tmp_path / "out.jsonl.ledger.sqlite"


def made(path: Path, members: int = 500) -> bytes:
    """A ledger of some members, closed; its bytes."""
    with closing(Ledger(path, "out.jsonl")) as ledger:
        ledger.begin(ASKED)
        ledger.commit([mark_of(f"{number:05}", "failed", message="m" * 100) for number in range(members)])
    return path.read_bytes()


def test_it_remembers(path: Path) -> None:
    """Members, why they failed, parts and state: also in the next run, and for other programs."""
    with closing(Ledger(path, "out.jsonl")) as ledger:
        ledger.begin(ASKED)
        ledger.commit(
            [mark_of("a", rows=3), mark_of("b", "not_found"), mark_of("c", "failed", error="E", message="m")],
            {"bytes": "40"},
            ("part-000001.parquet", 3, 40),
        )

    with closing(Ledger(path, "out.jsonl")) as ledger:
        ledger.begin(ASKED)
        assert ["ok", "not_found", "failed", None] == [ledger.status_of(user_id) for user_id in "abcd"]
        assert ("40", None) == (ledger.get("bytes"), ledger.get("unknown"))
        assert ([("c", "E", "m")], {"part-000001.parquet": 40}) == (list(ledger.failures()), ledger.parts())
    assert [("a", "ok", 3, 4, 0, "2026-01-31T00:00:00Z")] == query(path, "SELECT * FROM members LIMIT 1")


def test_totals_count_members(path: Path) -> None:
    """Each by its status; rows and drift of all."""
    with closing(Ledger(path, "out.jsonl")) as ledger:
        assert Totals(0, 0, 0, 0, 0, 0) == ledger.totals()
        drifted = mark_of("a", rows=3)._replace(drifted=True)
        ledger.commit([drifted, mark_of("b"), mark_of("c", "not_found"), mark_of("d", "failed")])
        assert Totals(ok=2, not_found=1, failed=1, without_rows=1, drifted=1, rows=3) == ledger.totals()


def test_a_member_that_is_tried_again_stands_once(path: Path) -> None:
    """Its failure is forgotten when it succeeds, and replaced when it fails otherwise."""
    with closing(Ledger(path, "out.jsonl")) as ledger:
        ledger.commit([mark_of("a", "failed", error="Old"), mark_of("b", "failed", error="Old")])
        ledger.commit([mark_of("a", rows=2), mark_of("b", "failed", error="New")])

        assert [("b", "New", "")] == list(ledger.failures())
        assert Totals(ok=1, not_found=0, failed=1, without_rows=0, drifted=0, rows=2) == ledger.totals()


def test_many_failures_are_read_some_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, in order, and no statement stays open in between."""
    monkeypatch.setattr(module, "_FAILURES_AT_ONCE", 2)
    with closing(Ledger(path, "out.jsonl")) as ledger:
        ledger.commit([mark_of(user_id, "failed", error="E") for user_id in "edcba"])

        assert list("abcde") == [user_id for user_id, _, _ in ledger.failures()]


def test_failures_that_nobody_read_to_the_end_lock_nobody_out(path: Path) -> None:
    """A program may keep the error that ended the reading, and so, in its frames, what was read from."""
    ledger = Ledger(path, "out.jsonl")
    ledger.commit([mark_of("a", "failed", error="E"), mark_of("b", "failed", error="E")])
    reading = ledger.failures()
    assert ("a", "E", "") == next(reading)
    ledger.open_transaction().execute("DELETE FROM members WHERE requested_id = 'a'")
    ledger.close()

    with closing(sqlite3.connect(path, timeout=0)) as other, other:
        other.execute("DELETE FROM members WHERE requested_id = 'b'")
    assert [("a",)] == query(path, "SELECT requested_id FROM members")
    del reading


def test_state_can_be_forgotten(path: Path) -> None:
    """`None` removes it."""
    with closing(Ledger(path, "out.jsonl")) as ledger:
        ledger.commit((), {"completed_at": "now"})
        ledger.commit((), {"completed_at": None})

        assert ledger.get("completed_at") is None


def test_a_temporary_one_works_without_a_file() -> None:
    """For an output that can't be gone on with."""
    with closing(Ledger(None, "-")) as ledger:
        ledger.begin(ASKED)
        ledger.commit([mark_of("a", rows=1)])

        assert ("ok", 1) == (ledger.status_of("a"), ledger.totals().rows)


def test_a_temporary_one_that_can_not_be_made_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no path of its own that an error could give."""

    def full(*_: Any, **__: Any) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite3, "connect", full)
    with pytest.raises(
        StorageError, match=r"^the temporary ledger can't be written: database or disk is full"
    ):
        Ledger(None, "-")


# Locks

_HOLDER = """
import sys
from pathlib import Path
from typing import Any
from crowdtwist_async.export.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), "out.jsonl")
print("held", flush=True)
sys.stdin.read()
"""


_FORKED = """
import os, sys, threading
from pathlib import Path
from crowdtwist_async.export import locks
from crowdtwist_async.export.ledger import Ledger

def again():
    Ledger(path, "out.jsonl").close()

def fork(meanwhile=lambda: None, child=lambda: None):
    (go, let), (done, tell) = os.pipe(), os.pipe()
    if not os.fork():
        try:
            os.close(let)
            os.close(1)
            if os.read(go, 1):
                child()
                os.write(tell, b"x")
                sys.stdin.read()
        finally:
            os._exit(0)
    os.close(tell)
    meanwhile()
    os.write(let, b"x")
    assert os.read(done, 1)

path = Path(sys.argv[1])
ledger = Ledger(path, "out.jsonl")
"""
"""A child that lives until standard input ends; it does its part when the parent has done what it does meanwhile."""
_HELD = "print('held', flush=True); sys.stdin.read()"
_FULL = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
descriptors = []

def fill():
    try:
        while True:
            descriptors.append(os.dup(0))
    except OSError:
        pass

def empty():
    while descriptors:
        os.close(descriptors.pop())

os.register_at_fork(before=fill, after_in_parent=empty)
fork(child=lambda: os.fstat(ledger._lock))
"""
_LOCKING = """
import fcntl
ledger.close()
flock, locking, forking = fcntl.flock, threading.Event(), threading.Event()

def waiting(*arguments):
    locking.set()
    forking.wait()
    flock(*arguments)

fcntl.flock = waiting
thread = threading.Thread(target=locks.lock, args=(path, "out.jsonl"))
thread.start()
locking.wait()
os.register_at_fork(before=forking.set)
fork(thread.join)
"""


@contextmanager
def held_elsewhere(path: Path, program: str = _HOLDER) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the ledger, or has done what it says it does."""
    holder = subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with holder:
        try:
            assert holder.stdout is not None
            assert b"held\n" == holder.stdout.readline()
            yield holder
        finally:
            holder.kill()


def test_two_processes_do_not_write_together(path: Path) -> None:
    """The second is refused at once, and the first keeps its lock."""
    with held_elsewhere(path):
        for _ in range(2):
            with pytest.raises(
                OutputLockedError, match="^another export is writing out.jsonl: wait until it ends, or stop"
            ):
                Ledger(path, "out.jsonl", lambda: None)


def test_closing_twice_lets_go_of_nothing_else(path: Path) -> None:
    """The second time its descriptor may be that of another ledger."""
    ledger = Ledger(path, "out.jsonl")
    ledger.close()
    other = path.with_name("other.sqlite")
    with closing(Ledger(other, "other.jsonl")):
        ledger.close()
        with pytest.raises(OutputLockedError):
            Ledger(other, "other.jsonl")


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(_HOLDER, id="alone"),
        pytest.param(f"{_FORKED}fork()\n{_HELD}", id="with-a-child"),
        pytest.param(f"{_FORKED}{_FULL}{_HELD}", id="with-a-child-that-can-open-nothing"),
        pytest.param(f"{_FORKED}{_LOCKING}{_HELD}", id="with-a-child-that-was-forked-while-it-locked"),
    ],
)
def test_a_killed_process_holds_no_lock(path: Path, program: str) -> None:
    """The system lets go of it, also where a child that it forked lives on: there is nothing to clean up."""
    with held_elsewhere(path, program) as holder:
        holder.kill()
        holder.wait()
        Ledger(path, "out.jsonl").close()


@pytest.mark.parametrize("then", ["fork(ledger.close); again()", "fork(ledger.close, again)"])
def test_a_forked_child_keeps_no_lock(path: Path, then: str) -> None:
    """It lives on after the export during which it was forked, and nobody is locked out."""
    with held_elsewhere(path, f"{_FORKED}{then}\n{_HELD}"):
        Ledger(path, "out.jsonl").close()


def test_a_forked_child_does_not_unlock(path: Path) -> None:
    """It closes what it has of its parent's ledger, and the parent still holds it."""
    with held_elsewhere(path, f"{_FORKED}fork(child=ledger.close)\n{_HELD}"):
        with pytest.raises(OutputLockedError):
            Ledger(path, "out.jsonl")


def test_a_program_that_is_being_started_keeps_no_lock(path: Path) -> None:
    """Until it runs, it has copies of all descriptors."""
    ledger = Ledger(path, "out.jsonl")
    assert ledger._lock is not None
    copy = os.dup(ledger._lock)
    ledger.close()

    Ledger(path, "out.jsonl").close()
    os.close(copy)


def test_it_is_locked_within_a_process_too(path: Path) -> None:
    """Until it is closed, or could not be opened."""
    first = Ledger(path, "out.jsonl")
    with pytest.raises(OutputLockedError):
        Ledger(path, "out.jsonl")
    first.close()
    path.write_bytes(b"precious")
    for _ in range(2):
        with pytest.raises(OutputMismatchError):
            Ledger(path, "out.jsonl")


# Files that can't be trusted


def _truncated(content: bytes) -> bytes:
    return content[: len(content) // 4096 // 2 * 4096]


def _overwritten(content: bytes) -> bytes:
    return content[:8192] + b"\xff" * (len(content) - 8192)


def _schema_gone(content: bytes) -> bytes:
    return content[:100] + bytes(4096 - 100) + content[4096:]


def _tables_renamed(content: bytes) -> bytes:
    return content.replace(b"export_state", b"export_stage")


def _no_text(content: bytes) -> bytes:
    return content.replace(b"schema_version", b"schema\xff\xfeersion")


def _odd_schema(content: bytes) -> bytes:
    return content.replace(b"value TEXT NOT NULL", b"value TEXT N\xc6\xffNULL", 1)


@pytest.mark.parametrize(
    "damage", [_truncated, _overwritten, _schema_gone, _tables_renamed, _no_text, _odd_schema]
)
def test_a_damaged_ledger_is_refused(path: Path, damage: Callable[[bytes], bytes]) -> None:
    """In one line, and it is left as it is."""
    content = damage(made(path))
    path.write_bytes(content)

    with pytest.raises(OutputMismatchError, match=rf"^the ledger .*{path.name} is damaged \(.+\): {FRESH}"):
        Ledger(path, "out.jsonl")
    assert content == path.read_bytes()


@pytest.mark.parametrize("damage", [_truncated, _overwritten, _schema_gone, _tables_renamed, _odd_schema])
def test_a_damaged_ledger_can_be_begun_anew(path: Path, damage: Callable[[bytes], bytes]) -> None:
    """Its header says that an export wrote it; what is left beside it goes too."""
    content = damage(made(path))
    path.write_bytes(content)
    discarded: list[int] = []
    for journal in ("-journal", "-wal", "-shm"):
        path.with_name(path.name + journal).write_bytes(b"left")

    with closing(Ledger(path, "out.jsonl", lambda: discarded.append(path.stat().st_size))) as ledger:
        ledger.begin({"endpoint": "points"})
        assert (0, "points") == (ledger.totals().failed, ledger.get("endpoint"))

    assert [len(content)] == discarded
    assert [path] == list(path.parent.iterdir())


def _theirs(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE members (requested_id)")


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(_theirs, id="another-sqlite"),
        pytest.param(lambda path: path.write_bytes(b"precious\n"), id="text"),
        pytest.param(lambda path: path.write_bytes(made(path)[:60]), id="less-than-a-header"),
    ],
)
@pytest.mark.parametrize("fresh", [False, True])
def test_what_is_no_ledger_is_refused(path: Path, make: Callable[[Path], object], fresh: bool) -> None:
    """It is left as it is, and so is the output."""
    make(path)
    content = path.read_bytes()
    discarded: list[None] = []

    with pytest.raises(
        OutputMismatchError, match="is there already, and was written by no export. It is left"
    ):
        Ledger(path, "out.jsonl", (lambda: discarded.append(None)) if fresh else None)
    assert (content, []) == (path.read_bytes(), discarded)


@pytest.mark.parametrize("version", ["2", "new"])
def test_another_version_is_refused(path: Path, version: str) -> None:
    """A newer release may have written other columns."""
    made(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE export_state SET value = ? WHERE key = 'schema_version'", (version,))

    with pytest.raises(
        OutputMismatchError,
        match=f"is of version {version}, and this release writes 1: go on with the release that began it",
    ):
        Ledger(path, "out.jsonl")


def test_an_empty_file_becomes_a_ledger(path: Path) -> None:
    """A process was killed between making the file and writing to it; nobody else may read it now."""
    path.touch(0o644)

    made(path)

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("was_there", [True, False], ids=["empty before", "made for it"])
def test_a_ledger_that_can_not_be_begun_leaves_what_was_there(path: Path, was_there: bool) -> None:
    """An empty file of before stays; one that was made for it goes."""
    if was_there:
        path.touch()

    def refuse() -> None:
        raise OutputMismatchError("not now")

    with pytest.raises(OutputMismatchError, match="^not now$"):
        Ledger(path, "out.jsonl", refuse)
    assert was_there is path.exists()


_KILLED_AT_ITS_CREATION = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.executescript("PRAGMA cache_size = 1; BEGIN; CREATE TABLE export_state (key, value)")
for _ in range(200):
    connection.execute("INSERT INTO export_state VALUES (?, ?)", ("key", "long" * 200))
os.kill(os.getpid(), 9)
"""


def test_a_creation_that_was_interrupted_is_undone(path: Path) -> None:
    """Half of the tables are there, and a journal: SQLite makes it an empty file again."""
    subprocess.run([sys.executable, "-c", _KILLED_AT_ITS_CREATION, path], check=False, timeout=60)
    journal = path.with_name(path.name + "-journal")
    assert path.stat().st_size
    assert journal.stat().st_size

    made(path)

    assert not journal.exists()
    assert [(500,)] == query(path, "SELECT count(*) FROM members")


# Arguments


def test_other_arguments_are_named(path: Path) -> None:
    """All that differ, with what they were; ids only as such."""
    with closing(Ledger(path, "out.jsonl")) as ledger:
        ledger.begin({"endpoint": "purchases", "date_start": "2026-01-01", "date_end": "", "ids": "0f"})
        with pytest.raises(OutputMismatchError) as caught:
            ledger.begin({"endpoint": "points", "date_start": "", "date_end": "2026-01-31", "ids": "1f"})

    assert (
        "out.jsonl was begun otherwise: endpoint was purchases and is points, date-start was 2026-01-01 and is"
        " not given, date-end was not given and is 2026-01-31, the ids are not the same. Give what it was begun"
        " with, name another output, or give --fresh (fresh=True) to begin anew" == str(caught.value)
    )


def test_the_same_arguments_go_on(path: Path) -> None:
    """However often; what else the state holds does not matter."""
    for _ in range(3):
        with closing(Ledger(path, "out.jsonl")) as ledger:
            ledger.begin(ASKED)
            ledger.commit((), {"bytes": "7"})


# Disks


def test_a_full_disk_is_told(path: Path) -> None:
    """What was committed before is kept, and nothing else."""
    with closing(Ledger(path, "out.jsonl")) as ledger:
        ledger.commit([mark_of("a")])
        ledger._connection.execute("PRAGMA max_page_count = 1")
        with pytest.raises(
            StorageError,
            match=rf"{path.name} can't be written: database or disk is full\. Put that right and export again: it",
        ):
            ledger.commit([mark_of("b", "failed", message="long" * 50_000)])

    with closing(Ledger(path, "out.jsonl")) as ledger:
        assert ["ok", None] == [ledger.status_of("a"), ledger.status_of("b")]


def test_a_ledger_that_is_removed_is_told(path: Path) -> None:
    """Marks would go to a file without a name."""
    with closing(Ledger(path, "out.jsonl")) as ledger:
        path.unlink()
        with pytest.raises(
            OutputMismatchError, match=f"was moved away or removed while it was written: {FRESH}"
        ):
            ledger.commit([mark_of("a")])


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda ledger: ledger.get("key"), id="get"),
        pytest.param(lambda ledger: ledger.status_of("a"), id="status"),
        pytest.param(lambda ledger: ledger.totals(), id="totals"),
        pytest.param(lambda ledger: ledger.parts(), id="parts"),
        pytest.param(lambda ledger: list(ledger.failures()), id="failures"),
        pytest.param(lambda ledger: ledger.commit(()), id="commit"),
    ],
)
def test_a_ledger_that_others_hold_too_long_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[Ledger], object]
) -> None:
    """A program that writes to it is waited for, but not for ever."""
    made(path)
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.0)
    with closing(Ledger(path, "out.jsonl")) as ledger, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(
            StorageError, match=rf"{path.name} can't be written: another program has held it in .* End that"
        ):
            use(ledger)


def test_a_ledger_that_can_not_be_read_is_not_called_damaged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beginning anew would be the wrong advice."""
    made(path)
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.0)
    monkeypatch.setattr(database, "_undo_interrupted", lambda _: None)
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match=r"can't be written: another program has held it .* End that"):
            Ledger(path, "out.jsonl")


def test_a_ledger_that_can_not_be_made_is_told(path: Path) -> None:
    """A folder has its name."""
    path.mkdir()

    with pytest.raises(StorageError, match=rf"{path.name} can't be written: Is a directory\. Put that right"):
        Ledger(path, "out.jsonl")


def test_a_new_ledger_is_on_the_disk_with_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is synced, and every commit waits for the disk, also in the next run."""
    synced: list[bool] = []
    fsync = os.fsync

    def recording(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    for _ in range(2):
        with closing(Ledger(path, "out.jsonl")) as ledger:
            assert [(2,)] == ledger._connection.execute("PRAGMA synchronous").fetchall()

    assert [True] == synced


def test_a_second_ledger_of_the_same_process_never_opens_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing it again would drop the locks that SQLite holds for the first."""
    path = tmp_path / "out.jsonl.ledger.sqlite"
    first = Ledger(path, "out.jsonl")
    opened: list[object] = []
    real = os.open

    def noted(place: Any, *arguments: Any) -> int:
        opened.append(Path(place))
        return real(place, *arguments)

    monkeypatch.setattr(os, "open", noted)
    with pytest.raises(OutputLockedError):
        Ledger(path, "out.jsonl")
    first.close()
    Ledger(path, "out.jsonl").close()

    assert 1 == opened.count(path)


def test_a_ledger_is_written_from_any_thread(tmp_path: Path) -> None:
    """The threads of an event loop take turns."""
    with closing(Ledger(tmp_path / "ledger.sqlite", "out")) as ledger, ThreadPoolExecutor(1) as thread:
        thread.submit(ledger.commit, (), {"key": "value"}).result()
        assert "value" == ledger.get("key")


def test_a_closed_ledger_is_closed(tmp_path: Path) -> None:
    """Nothing more is read, and nothing keeps its file open."""
    ledger = Ledger(tmp_path / "ledger.sqlite", "out")
    ledger.close()

    with pytest.raises(StorageError, match="closed database"):
        ledger.get("key")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux lists what a process has open")
def test_a_closed_ledger_keeps_nothing_open(tmp_path: Path) -> None:
    """A program may export many thousand times."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        Ledger(tmp_path / "ledger.sqlite", "out").close()

    assert before == len(list(Path("/proc/self/fd").iterdir()))


def test_closing_it_twice_closes_nothing_else(tmp_path: Path) -> None:
    """The descriptor of its lock is somebody else's by then."""
    ledger = Ledger(tmp_path / "ledger.sqlite", "out")
    ledger.close()
    descriptors = [os.open(tmp_path, os.O_RDONLY) for _ in range(8)]
    ledger.close()

    for descriptor in descriptors:
        assert stat.S_ISDIR(os.fstat(descriptor).st_mode)
        os.close(descriptor)


def test_what_is_begun_anew_is_emptied_on_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is written to it: after a power failure no old member counts as done."""
    made(path)
    sizes: list[int] = []
    fsync = os.fsync

    def recording(descriptor: int) -> None:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):
            sizes.append(found.st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    Ledger(path, "out.jsonl", lambda: None).close()
    assert [0] == sizes


def test_what_could_not_be_committed_is_not_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader holds it up for too long: the report of the run that ends then would tell more than there is."""
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.01)
    with closing(Ledger(path, "out.jsonl")) as ledger, closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN").execute("SELECT * FROM members").fetchall()
        with pytest.raises(StorageError, match="another program has held it"):
            ledger.commit([mark_of("a"), mark_of("b", "failed", error="ServerError", message="no")])

        assert (0, 0) == (ledger.totals().ok, ledger.totals().failed)
        assert [] == list(ledger.failures())
