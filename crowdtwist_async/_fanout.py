"""
Fan-out: one call for each of many keys, a bounded number at once, in constant memory.

Workers read the keys as they go, and each key ends in an `Outcome`. One worker waits for the next key;
when it comes and no other waits, another worker is started, until there are as many as are allowed. A
permit of the window is taken with a key and given back when the consumer takes its outcome, so a slow
consumer, or a slow first key of an ordered run, holds up the reading of keys and not the memory.

No key is begun while a call of the run waits for a slot or for the request budget, in the pause of a 429, or
in that of a host which outlasts the deadline of a call: served later than that, calls would fail.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Generic, NamedTuple, TypeVar, cast

import anyio
from anyio.abc import TaskGroup

from crowdtwist_async._keys import reading
from crowdtwist_async._pager import Pager
from crowdtwist_async._progress import METER, RunStats
from crowdtwist_async._tasks import cancelled_elsewhere, tasks_of_block
from crowdtwist_async.errors import (
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    CrowdTwistError,
)

K = TypeVar("K")
V = TypeVar("V")

_FATAL = (AuthenticationError, ConfigurationError, ClientClosedError)
"""Errors that every other key would meet as well: they end the run."""
_WINDOW = 4
"""Outcomes that may be begun and not taken yet, as a multiple of the concurrency."""


class Outcome(NamedTuple, Generic[K, V]):
    """What came of one key: a value or an error."""

    key: K
    value: V | None = None
    error: CrowdTwistError | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.error is None

    def unwrap(self) -> V:
        """
        Return the value.

        Raises:
            CrowdTwistError: The key's error.
        """
        error, value = self.error, self.value
        if error is not None:
            del self  # a tuple with the key, which a crash reporter would print
            raise error
        return cast("V", value)

    def __repr__(self) -> str:
        """Keys are members' ids, so they stay out of logs."""
        return f"Outcome(value={self.value!r}, error={self.error!r})"


class FanOut(AsyncIterator[Outcome[K, V]]):
    """The outcomes of a run, as they come or in the order of the keys; and its counters."""

    def __init__(
        self,
        call: Callable[[K], Any],
        keys: AsyncIterator[K],
        concurrency: int,
        *,
        ordered: bool,
        sit_out_pause: Callable[[RunStats], Awaitable[None]],
        stats: RunStats,
        tasks: TaskGroup,
    ) -> None:
        self.done = 0
        """Keys that ended, failed ones included."""
        self.failed = 0
        """Keys that ended in an error."""
        self.in_flight = 0
        """Keys that are being worked on."""
        self.over = False
        """Set when the block is left."""
        self._stats = stats
        self._call = call
        self._keys = keys
        self._ordered = ordered
        self._concurrency = concurrency
        self._sit_out_pause = sit_out_pause
        self._tasks = tasks
        self._workers = 0
        self._window = anyio.Semaphore(concurrency * _WINDOW)
        self._reading = anyio.Lock()
        self._begun = 0
        self._taken = 0
        self._exhausted = False
        self._failure: Exception | None = None
        self._ready: deque[Outcome[K, V]] = deque()
        self._early: dict[int, Outcome[K, V]] = {}
        """Of an ordered run: what came before its turn."""
        self._changed = anyio.Event()

    @property
    def requests(self) -> int:
        """Requests that the run has sent, retries included."""
        return self._stats.requests

    @property
    def retries(self) -> int:
        """Requests of the run that were sent again after a failure."""
        return self._stats.retries

    @property
    def permit_seconds(self) -> float:
        """Seconds that the run's requests waited for permits, all together."""
        return self._stats.permit_seconds

    async def __anext__(self) -> Outcome[K, V]:
        while not self._ready:
            if self._failure is not None:
                raise self._failure
            if self._exhausted and self.done == self._begun:
                raise StopAsyncIteration
            if self.over:
                raise ClientClosedError("the fan-out is over: use its outcomes inside its `async with`")
            if self._changed.is_set():
                self._changed = anyio.Event()
            await self._changed.wait()
        self._window.release()
        return self._ready.popleft()

    def start_worker(self) -> None:
        """Start one more of the run's tasks."""
        self._workers += 1
        self._tasks.start_soon(self._work)

    async def _work(self) -> None:
        """Work on keys until there are none."""
        if self._stats not in METER.get():
            METER.set((*METER.get(), self._stats))
        try:
            while (begun := await self._begin()) is not None:
                if self._workers < self._concurrency and self.in_flight + 1 == self._workers:
                    self.start_worker()
                outcome = await self._end(begun)
                self._put(begun.number, outcome)
        except Exception as error:  # noqa: BLE001 - raised to the consumer, not in a group
            self._failure = self._failure or error
        except anyio.get_cancelled_exc_class():
            # It would end the block as if the consumer had left it.
            if not cancelled_elsewhere():
                raise
            self._failure = self._failure or RuntimeError("what the call waited for was cancelled elsewhere")
        finally:
            # Also when the block was left: whoever waits for an outcome then is told.
            self._changed.set()

    async def _begin(self) -> _Begun[K] | None:
        """Take the next key, when the window has room for its outcome."""
        await self._window.acquire()
        async with self._reading:
            await self._stats.until_none_waits()
            await self._sit_out_pause(self._stats)
            if self._stopped():
                return None
            try:
                begun = _Begun(self._begun, await anext(self._keys))
            except StopAsyncIteration:
                self._exhausted = True
                return None
            if self._stopped():
                # The run failed while a slow iterator gave this key.
                return None
            self._begun += 1
        return begun

    def _stopped(self) -> bool:
        """Whether no key is begun any more."""
        return self._exhausted or self._failure is not None

    async def _end(self, begun: _Begun[K]) -> Outcome[K, V]:
        self.in_flight += 1
        try:
            pending: Any = self._call(begun.key)
            if not isinstance(pending, Pager) and not inspect.isawaitable(pending):
                raise TypeError(f"call must return an awaitable or a Pager, not {type(pending).__name__}")
            value: Any = await (pending.collect() if isinstance(pending, Pager) else pending)
            return Outcome(begun.key, value)
        except StopAsyncIteration:
            # It would end the outcomes as if there were no more.
            raise RuntimeError("the call raised StopAsyncIteration: give anext() a default") from None
        except _FATAL:
            raise
        except CrowdTwistError as error:
            self.failed += 1
            return Outcome(begun.key, error=error.with_traceback(None))
        finally:
            self.in_flight -= 1

    def _put(self, number: int, outcome: Outcome[K, V]) -> None:
        self.done += 1
        if self._ordered:
            self._early[number] = outcome
            while self._taken in self._early:
                self._ready.append(self._early.pop(self._taken))
                self._taken += 1
        else:
            self._ready.append(outcome)
        self._changed.set()


@asynccontextmanager
async def fanning_out(
    call: Callable[[K], Awaitable[V] | Pager[Any]],
    keys: Iterable[K] | AsyncIterable[K],
    concurrency: int,
    *,
    ordered: bool,
    sit_out_pause: Callable[[RunStats], Awaitable[None]],
) -> AsyncIterator[FanOut[K, V]]:
    """Run the workers as long as the block lasts; an error of the caller's own passes as it is."""
    stats = RunStats()
    async with reading(keys, stats) as source, tasks_of_block() as tasks:
        run: FanOut[K, V] = FanOut(
            call, source, concurrency, ordered=ordered, sit_out_pause=sit_out_pause, stats=stats, tasks=tasks
        )
        run.start_worker()
        try:
            yield run
        finally:
            run.over = True


class _Begun(Generic[K]):
    """A key that was read; frames that hold it show no user in a traceback."""

    def __init__(self, number: int, key: K) -> None:
        self.number = number
        self.key = key
