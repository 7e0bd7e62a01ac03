"""
The keys of a fan-out: whatever they come from, one asynchronous iterator that its workers take turns at.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Generic, TypeVar

import anyio

from crowdtwist_async._progress import METER, RunStats
from crowdtwist_async._tasks import cancelled_elsewhere, tasks_of_block

K = TypeVar("K")


@asynccontextmanager
async def reading(keys: Iterable[K] | AsyncIterable[K], stats: RunStats) -> AsyncIterator[AsyncIterator[K]]:
    """
    Give the keys as long as the block lasts.

    Those of an async generator are read by one task, as its scopes and task groups belong to the task that
    enters them. That closes it with the block; other iterables stay the caller's.
    """
    source = aiter(keys) if isinstance(keys, AsyncIterable) else _OneByOne(keys)
    if not isinstance(source, AsyncGenerator):
        yield source
        return
    reader = _InOneTask(source)
    async with tasks_of_block(reader.stop) as tasks:
        tasks.start_soon(reader.read, stats)
        yield reader
    if reader.failure is not None:
        raise reader.failure


class _OneByOne(AsyncIterator[K]):
    """Any iterable, as an async one."""

    def __init__(self, keys: Iterable[K]) -> None:
        self._keys = iter(keys)

    async def __anext__(self) -> K:
        for key in self._keys:
            return key
        raise StopAsyncIteration


class _InOneTask(AsyncIterator[K]):
    """Reads one key whenever one is asked for, by one worker at a time."""

    def __init__(self, keys: AsyncGenerator[K, Any]) -> None:
        self.failure: Exception | None = None
        """What it raised when it was closed."""
        self._keys = keys
        self._scope = anyio.CancelScope()
        self._reads = False
        self._over = False
        self._wanted = anyio.Event()
        self._come = anyio.Event()
        self._answer: _Key[K] | Exception = StopAsyncIteration()

    async def __anext__(self) -> K:
        self._come = anyio.Event()
        self._wanted.set()
        await self._come.wait()
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer.key

    def stop(self) -> None:
        """Let the task end: at once, or by a cancellation if it waits for a key."""
        self._over = True
        self._wanted.set()
        if self._reads:
            self._scope.cancel()

    async def read(self, stats: RunStats) -> None:
        """The task; the requests that the keys take count for the run."""
        METER.set((*METER.get(), stats))
        try:
            with self._scope:
                # Left half-way, it would be closed some time later, by the event loop.
                async with aclosing(self._keys):
                    await self._read_all()
        except BaseExceptionGroup as group:
            # A task group of the generator's puts even what ends it into a group.
            rest = group.split(GeneratorExit)[1]
            if isinstance(rest, ExceptionGroup):
                self.failure = rest
            elif rest is not None:
                raise rest from None
        except Exception as error:  # noqa: BLE001 - raised where the block is left
            self.failure = error

    async def _read_all(self) -> None:
        while await self._is_wanted():
            self._reads = True
            self._answer = await self._next()
            self._reads = False
            self._come.set()

    async def _is_wanted(self) -> bool:
        """Wait for somebody who wants a key; return whether there will be one."""
        await self._wanted.wait()
        self._wanted = anyio.Event()
        return not self._over

    async def _next(self) -> _Key[K] | Exception:
        try:
            return _Key(await anext(self._keys))
        except Exception as error:
            if self._over:
                raise
            return error
        except anyio.get_cancelled_exc_class():
            if not cancelled_elsewhere():
                raise
            return RuntimeError("what the keys waited for was cancelled elsewhere")


class _Key(Generic[K]):
    """A key that was read; frames that hold it show no user in a traceback."""

    def __init__(self, key: K) -> None:
        self.key = key
