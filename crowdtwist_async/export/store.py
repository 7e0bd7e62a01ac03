"""
What stores members: batches them, and commits them when a second or enough of them have passed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import anyio
import anyio.to_thread

from crowdtwist_async._threads import in_daemon_thread
from crowdtwist_async.errors import CrowdTwistError
from crowdtwist_async.export.formats import Writer
from crowdtwist_async.export.ledger import Mark
from crowdtwist_async.export.report import ExportReport
from crowdtwist_async.export.rows import Row, iso
from crowdtwist_async.export.source import Member

T = TypeVar("T")


class FileWork:
    """
    Work on files and databases: in threads, one call at a time, and none once it is closed.

    anyio waits for a thread whose caller is cancelled. A task that asyncio itself cancels does not:
    its thread works on, so the threads have a lock of their own.
    """

    def __init__(self) -> None:
        self.opened = ExitStack()
        """What is closed at the end; the calls themselves fill it, as a cancellation drops their results."""
        self._turns = anyio.Lock()
        self._alone = threading.Lock()
        self._closed = False

    async def do(self, call: Callable[[], T]) -> T:
        """Make a call."""
        async with self._turns:
            return await anyio.to_thread.run_sync(self._do_alone, call)

    def _do_alone(self, call: Callable[[], T]) -> T:
        with self._alone:
            if self._closed:
                raise RuntimeError("the export is over")
            return call()

    async def close(self) -> None:
        """Close what was opened, also when cancelled: the next export must find it unlocked."""
        await in_daemon_thread(self._close, to_its_end=True)

    def _close(self) -> None:
        with self._alone:
            self._closed = True
            self.opened.close()


class Ended:
    """A member that needs no more requests: its rows and its mark."""

    def __init__(self, member: Member, status: str, error: CrowdTwistError | None = None) -> None:
        self.rows: list[Row] = member.rows if status == "ok" else []
        self.mark = Mark(
            requested_id=member.user_id,
            status=status,
            rows=len(self.rows),
            requests=member.stats.requests,
            drifted=member.drifted and status == "ok",
            fetched_at=iso(datetime.now(UTC).replace(microsecond=0)),
            error="" if error is None else type(error).__name__,
            message="" if error is None else str(error),
        )


class Store:
    """
    Writes members as they end.

    Args:
        writer: Where to.
        work: Does what touches the files.
        report: Where they are counted.
        committed: Called with the marks of each commit, in the thread that made it.
        most: Members that may wait for being written.
    """

    def __init__(
        self,
        writer: Writer,
        work: FileWork,
        report: ExportReport,
        committed: Callable[[Sequence[Mark]], None],
        most: int,
    ) -> None:
        self._writer = writer
        self._work = work
        self._report = report
        self._committed = committed
        self._room = anyio.Semaphore(most)
        self._waiting: list[Ended] = []
        self._changed = anyio.Event()
        self._no_more = False
        self._marks: list[Mark] = []
        self._rows = 0
        self._due = 0.0

    async def put(self, ended: Ended) -> None:
        """Have a member stored, also if this is cancelled; waits while too many wait."""
        self._waiting.append(ended)
        self._changed.set()
        await self._room.acquire()

    def end(self) -> None:
        """Say that no more come."""
        self._no_more = True
        self._changed.set()

    async def store_all(self, progress: Callable[[], None]) -> None:
        """
        Store members until there are no more, and commit them all.

        Raises:
            StorageError: The output or the ledger can't be written.
        """
        last = False
        while not last:
            with anyio.move_on_after(self._due - time.monotonic() if self._marks else None):
                await self._changed.wait()
            self._changed = anyio.Event()
            last, batch, self._waiting = self._no_more, self._waiting, []
            await self._work.do(partial(self._store, batch, last))
            for _ in batch:
                self._room.release()
            progress()

    def _store(self, batch: Sequence[Ended], last: bool) -> None:  # noqa: FBT001 - called in a thread
        limits = self._writer.limits
        for member in batch:
            if not self._marks:
                self._due = time.monotonic() + limits.seconds
            if member.rows:
                self._writer.write(member.rows)
            self._marks.append(member.mark)
            self._rows += len(member.rows)
            self._count(member.mark)
            if len(self._marks) >= limits.members or self._rows >= limits.rows:
                self._commit()
        if self._marks and (last or time.monotonic() >= self._due):
            self._commit()

    def _commit(self) -> None:
        self._writer.commit(self._marks)
        self._committed(self._marks)
        self._marks, self._rows = [], 0

    def _count(self, mark: Mark) -> None:
        report = self._report
        if mark.status == "ok":
            report.members += 1
            report.without_rows += not mark.rows
            report.drifted += mark.drifted
            report.rows += mark.rows
        elif mark.status == "not_found":
            report.not_found += 1
        else:
            report.failed += 1
