"""
The run: members through a few workers into a store, until none is left or something ends it for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import anyio
from anyio.abc import TaskGroup
from attrs import frozen

from crowdtwist_async._progress import METER, RunStats
from crowdtwist_async._retry import RetryPolicy
from crowdtwist_async._threads import in_daemon_thread
from crowdtwist_async.client import CrowdTwistClient
from crowdtwist_async.errors import (
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    CrowdTwistError,
    InvalidArgumentError,
    UserNotFoundError,
)
from crowdtwist_async.export.outage import Outage, is_from_elsewhere, may_pass, most_tries
from crowdtwist_async.export.queue import MemberQueue
from crowdtwist_async.export.report import ExportReport
from crowdtwist_async.export.source import Member, Source
from crowdtwist_async.export.store import Ended, FileWork, Store
from crowdtwist_async.export.target import Target

_FATAL = (AuthenticationError, ClientClosedError, ConfigurationError)
_NOT_CONFIGURED = "not_configured"
_WAITING = 4
"""Members that may wait for another try, as a multiple of the concurrency."""
_OTHERS = 10
"""Members that are asked for, while nobody was answered, before all are taken to meet the same answer."""
_TELL_SECONDS = 1.0
"""How old the report gets while nothing ends."""
_DRAIN_SECONDS = 5.0
"""For which members under way are finished when a run is to stop: a server may ask for pauses of minutes."""
_ONCE = RetryPolicy(max_attempts=1)


@frozen
class Pace:
    """How a run goes about it."""

    concurrency: int = 64
    """Members at once."""
    max_outage: float = 900.0
    """Seconds that an API which does not answer is waited for."""
    retry_failed: bool = False
    """Whether members that failed before are tried again."""


class Run:
    """One run of an export."""

    def __init__(
        self,
        client: CrowdTwistClient,
        source: Source,
        target: Target,
        report: ExportReport,
        work: FileWork,
        *,
        pace: Pace,
        stop: anyio.Event,
        progress: Callable[[ExportReport], None] | None = None,
    ) -> None:
        # A member may wait for its turn, and for a server that asks for a pause, as long as it takes.
        self._client = client.with_options(deadline=None)
        self._hasty = client.with_options(deadline=None, retry=_ONCE)
        self._source = source
        self._target = target
        self._report = report
        self._pace = pace
        self._stop = stop
        self._progress = progress
        self._outage = Outage(self._ask, pace.max_outage, self._sleep, stop.is_set)
        self._work = work
        self._stats = RunStats(one_host=True)
        self._started = anyio.current_time()
        self._in_flight = 0
        self._under_way: set[anyio.CancelScope] = set()
        self._workers = 0
        """As many as there was work for at once."""
        self._changed = anyio.Event()
        self._reading = anyio.Lock()
        self._beginning = anyio.Lock(fast_acquire=True)
        self._coming = anyio.CancelScope()
        self._watching = anyio.CancelScope()
        self._telling = anyio.CancelScope()
        self._failure: Exception | None = None

    async def finish(self, ids: Iterator[str]) -> bool:
        """
        Fetch and store all members that are not done.

        Returns:
            Whether all are; not when the run was to stop.

        Raises:
            OutageError: The API did not answer for too long.
            CrowdTwistError: One that every other member would meet as well.
            BrokenPipeError: Nobody reads standard output any more.
        """
        again = frozenset({"failed"} if self._pace.retry_failed else ())
        self._queue = MemberQueue(ids, self._target.ledger, again, _WAITING * self._pace.concurrency)
        store = Store(
            self._target.writer, self._work, self._report, self._queue.committed, self._pace.concurrency
        )
        counted = METER.set((*METER.get(), self._stats))
        try:
            await self._fetch_and_store(store)
        finally:
            METER.reset(counted)
        if self._failure is not None:
            raise self._failure
        self.tell()
        return self._queue.is_empty

    async def _fetch_and_store(self, store: Store) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._guarded, group.cancel_scope, store.store_all, self.tell)
            group.start_soon(self._wake_on_stop)
            group.start_soon(self._guarded, group.cancel_scope, self._keep_telling)
            async with anyio.create_task_group() as members:
                self._start_worker(members, store)
            # What is fetched is stored, also when the run ends in a failure.
            store.end()
            self._watching.cancel()
            self._telling.cancel()

    async def _guarded(
        self, scope: anyio.CancelScope, work: Callable[..., object], *arguments: object
    ) -> None:
        """Keep a failure as it is, and end the other tasks of its group, which would wrap it in a group."""
        try:
            await work(*arguments)  # type: ignore[misc]  # a coroutine function
        except Exception as error:  # noqa: BLE001 - raised by `finish`
            self._failure = self._failure or error
            scope.cancel()

    def _start_worker(self, members: TaskGroup, store: Store) -> None:
        self._workers += 1
        members.start_soon(self._guarded, members.cancel_scope, self._fetch_members, members, store)

    async def _fetch_members(self, members: TaskGroup, store: Store) -> None:
        while (member := await self._next()) is not None:
            self._in_flight += 1
            if self._in_flight == self._workers < self._pace.concurrency:
                self._start_worker(members, store)
            try:
                end = await self._in_time(member)
            finally:
                self._in_flight -= 1
                self._wake()
            if end is not None:
                await store.put(end)

    async def _next(self) -> Member | None:
        """The next member to try; `None` ends the worker."""
        while True:
            await self._outage.over()
            async with self._beginning:
                # Members that wait in line would all have to be finished before a run can stop.
                await self._stats.until_none_waits()
            if self._stop.is_set():
                return None
            if (member := self._queue.due()) is not None:
                return member
            if (user_id := self._queue.new_id()) is not None:
                return Member(self._source, self._client, user_id)
            if self._queue.wants_ids:
                await self._read_ids()
            elif self._queue.is_empty and not self._in_flight:
                return None
            else:
                with anyio.move_on_after(self._queue.seconds_to_due()):
                    await self._changed.wait()

    async def _read_ids(self) -> None:
        async with self._reading:
            if self._queue.wants_ids and not self._stop.is_set():
                with anyio.CancelScope() as self._coming:
                    ids = await in_daemon_thread(self._queue.read)
                    await self._work.do(partial(self._queue.take, ids))
        self._wake()

    async def _in_time(self, member: Member) -> Ended | None:
        """What a member ends with; when the run stops and it takes too long, it is left for the next run."""
        with anyio.CancelScope() as scope:
            self._under_way.add(scope)
            try:
                return await self._fetched(member)
            finally:
                self._under_way.discard(scope)
        self._queue.put_back(member)
        return None

    async def _fetched(self, member: Member) -> Ended | None:
        """What a member ends with, or `None`: it is tried again later."""
        pages = member.pages
        try:
            await member.fetch()
        except UserNotFoundError:
            self._note_answer(member)
            return Ended(member, "not_found")
        except CrowdTwistError as error:
            if _meets_all(error):
                raise
            if member.pages > pages:
                member.tries = 0
                self._note_answer(member)
            return await self._failed(member, error)
        self._note_answer(member)
        return Ended(member, "ok")

    def _note_answer(self, member: Member) -> None:
        self._outage.succeeded()
        self._queue.answered = member.user_id

    async def _failed(self, member: Member, error: CrowdTwistError) -> Ended | None:
        if not may_pass(error) and not is_from_elsewhere(error):
            if not isinstance(error, InvalidArgumentError):  # raised before any request
                self._outage.succeeded()
            return Ended(member, "failed", error)
        await self._outage.failed(member, error)
        if member.tries >= most_tries(error) and not self._stop.is_set():
            if member.pages or self._queue.answered != member.user_id:
                return Ended(member, "failed", error)
            member.tries = 0  # nobody else could be asked for, and its own request was answered
        self._queue.put_back(member)
        return None

    async def _ask(self, failed: Member) -> None:
        """Make a request that an API in order answers; where nobody was answered yet, for some in turn."""
        for left in range(min(max(self._queue.choice, 1), _OTHERS) - 1, -1, -1):
            try:
                self._queue.answered = await self._ask_for(self._queue.known_id() or failed.user_id, failed)
                return
            except CrowdTwistError as error:
                if not left or not is_from_elsewhere(error):
                    raise

    async def _ask_for(self, user_id: str, failed: Member) -> str:
        """Ask for somebody, and return for whom."""
        try:
            await self._source.ask(self._hasty, user_id)
        except InvalidArgumentError:
            # An id that was not begun may be none that can be asked for.
            user_id = failed.user_id
            await self._source.ask(self._hasty, user_id)
        return user_id

    async def _sleep(self, seconds: float) -> None:
        self.tell()
        with anyio.move_on_after(seconds):
            await self._stop.wait()

    async def _wake_on_stop(self) -> None:
        with self._watching:
            await self._stop.wait()
            self._coming.cancel()
            self._wake()
            await anyio.sleep(_DRAIN_SECONDS)
            for scope in tuple(self._under_way):
                scope.cancel()

    async def _keep_telling(self) -> None:
        """A member with many pages, or a slow rate, ends nothing for a while."""
        with self._telling:
            while True:
                await anyio.sleep(_TELL_SECONDS)
                self.tell()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def tell(self) -> None:
        """Bring the report up to date, and call the progress callback."""
        self._report.requests = self._stats.requests
        self._report.retries = self._stats.retries
        self._report.waiting = self._outage.reason
        self._report.seconds = anyio.current_time() - self._started
        if self._progress is not None and self._failure is None:
            self._progress(self._report)


def _meets_all(error: CrowdTwistError) -> bool:
    """Whether every other member would meet this error as well."""
    if isinstance(error, ConnectionFailedError):
        # A certificate that can't be trusted, a version of TLS, a proxy that refuses.
        return not error.retryable
    return isinstance(error, _FATAL) or getattr(error, "code", None) == _NOT_CONFIGURED
