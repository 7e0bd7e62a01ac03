"""
The store: batches, commits when they are due, and the threads that touch the files.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest
from outputs import purchases_of

from crowdtwist_async import ServerError, StorageError
from crowdtwist_async.emulator import Emulator
from crowdtwist_async.export.formats import Limits
from crowdtwist_async.export.ledger import Mark
from crowdtwist_async.export.report import ExportReport
from crowdtwist_async.export.rows import Row
from crowdtwist_async.export.source import Member, Source
from crowdtwist_async.export.store import Ended, FileWork, Store

pytestmark = pytest.mark.anyio

LONG = 60.0
"""Seconds after which no test commits."""


class Written:
    """A writer that keeps what it is given, and may fail."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.batches: list[Sequence[Row]] = []
        self.commits: list[list[str]] = []
        self.committed = threading.Semaphore(0)
        self.before: Callable[[], object] = lambda: None

    def write(self, rows: Sequence[Row]) -> None:
        """Keep a member's rows."""
        self.before()
        self.batches.append(rows)

    def commit(self, marks: Sequence[Mark]) -> None:
        """Keep whose they are."""
        self.commits.append([mark.requested_id for mark in marks])
        self.committed.release()

    recover = finish = close = lambda self: None


class Bench:
    """A store and what comes of it."""

    def __init__(self, limits: Limits, most: int = 100) -> None:
        self.writer = Written(limits)
        self.report = ExportReport("out.jsonl", "purchases")
        self.marks: list[Mark] = []
        self.told = 0
        self.store = Store(self.writer, FileWork(), self.report, self.marks.extend, most)

    async def run(self) -> None:
        """Store until the end."""

        def tell() -> None:
            self.told += 1

        await self.store.store_all(tell)


def ended(user_id: str, rows: int = 2, status: str = "ok", *, drifted: bool = False) -> Ended:
    """A member that is done."""
    member = Member(Source("purchases"), Emulator().client(), user_id)
    member.rows, member.drifted, member.stats.requests = purchases_of(user_id, rows), drifted, 3
    return Ended(member, status, ServerError("no") if status == "failed" else None)


async def test_everything_is_committed_at_the_end() -> None:
    """In one commit, if nothing was due before; every member's rows together."""
    bench = Bench(Limits(seconds=LONG))

    for user_id in ("1", "2", "3"):
        await bench.store.put(ended(user_id, rows=int(user_id) - 1))
    bench.store.end()
    await bench.run()

    assert [["1", "2", "3"]] == bench.writer.commits
    assert [1, 2] == [len(rows) for rows in bench.writer.batches]
    assert ["1", "2", "3"] == [mark.requested_id for mark in bench.marks]
    assert 1 == bench.told


async def test_nothing_is_no_commit() -> None:
    """An export in which everybody is done."""
    bench = Bench(Limits())

    bench.store.end()
    await bench.run()

    assert [] == bench.writer.commits


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        pytest.param(Limits(seconds=LONG, members=2), [2, 2, 1], id="members"),
        pytest.param(Limits(seconds=LONG, rows=5), [3, 2], id="rows"),
        pytest.param(Limits(seconds=LONG), [5], id="neither"),
    ],
)
async def test_enough_members_or_rows_are_a_commit(limits: Limits, expected: list[int]) -> None:
    """Also within one batch."""
    bench = Bench(limits)

    for number in range(5):
        await bench.store.put(ended(str(number)))
    bench.store.end()
    await bench.run()

    assert expected == [len(marks) for marks in bench.writer.commits]


async def test_time_is_a_commit() -> None:
    """Also when no further member comes; the time begins with the first that waits."""
    bench = Bench(Limits(seconds=0.05))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bench.run)
            for number in range(2):
                await bench.store.put(ended(str(number)))
                assert await anyio.to_thread.run_sync(bench.writer.committed.acquire, True, 30)
            bench.store.end()

    assert [["0"], ["1"]] == bench.writer.commits


async def test_members_wait_for_room() -> None:
    """Memory stays bounded where the disk is slower than the API; whoever waits is stored all the same."""
    bench = Bench(Limits(seconds=LONG), most=2)
    for user_id in ("1", "2"):
        await bench.store.put(ended(user_id))

    with anyio.move_on_after(0.01) as waiting:
        await bench.store.put(ended("3"))
    assert waiting.cancelled_caught

    bench.store.end()
    await bench.run()
    assert [["1", "2", "3"]] == bench.writer.commits


async def test_members_are_counted_by_their_end() -> None:
    """As they are written."""
    bench = Bench(Limits())

    for each in (
        ended("1"),
        ended("2", rows=0),
        ended("3", drifted=True),
        ended("4", status="not_found"),
        ended("5", status="failed", drifted=True),
    ):
        await bench.store.put(each)
    bench.store.end()
    await bench.run()

    report = bench.report
    assert (3, 1, 1) == (report.members, report.not_found, report.failed)
    assert (1, 1, 4) == (report.without_rows, report.drifted, report.rows)
    assert [("ok", 2), ("ok", 0), ("ok", 2), ("not_found", 0), ("failed", 0)] == [
        (mark.status, mark.rows) for mark in bench.marks
    ]
    assert [3] * 5 == [mark.requests for mark in bench.marks]
    assert ("ServerError", "no", False) == (
        bench.marks[4].error,
        bench.marks[4].message,
        bench.marks[4].drifted,
    )


async def test_a_writer_that_fails_ends_it() -> None:
    """As it is, and nothing is committed."""
    bench = Bench(Limits())

    def fail() -> None:
        raise StorageError("the disk is full")

    bench.writer.before = fail
    await bench.store.put(ended("1"))
    with pytest.raises(StorageError, match="^the disk is full$"):
        await bench.run()

    assert ([], []) == (bench.writer.commits, bench.marks)


async def test_the_writer_is_called_by_one_thread_at_a_time() -> None:
    """It is not made for two; and never by the event loop's own."""
    work = FileWork()
    here, now, most = threading.get_ident(), 0, 0

    def touch() -> None:
        nonlocal now, most
        assert threading.get_ident() != here
        now, most = now + 1, max(most, now + 1)
        time.sleep(0.002)
        now -= 1

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(work.do, touch)

    assert 1 == most


async def test_closing_waits_for_the_call_that_nobody_waits_for() -> None:
    """And closes what that opened; later calls, such as one that a thread had not begun, do nothing."""
    work, begun = FileWork(), threading.Event()
    order: list[str] = []

    def open_slowly() -> None:
        begun.set()
        time.sleep(0.03)
        work.opened.callback(order.append, "closed")
        order.append("opened")

    def do_alone() -> Any:
        return work._do_alone(open_slowly)

    thread = threading.Thread(target=do_alone)
    thread.start()
    await anyio.to_thread.run_sync(begun.wait)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await work.close()
    thread.join()

    assert ["opened", "closed"] == order
    with pytest.raises(RuntimeError, match="^the export is over$"):
        await work.do(open_slowly)
    assert ["opened", "closed"] == order
