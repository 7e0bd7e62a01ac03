"""
A call that blocks for as long as a terminal says nothing, off the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from threading import Thread
from typing import Any, Generic, TypeVar

import anyio
from anyio.lowlevel import current_token

T = TypeVar("T")


async def in_daemon_thread(call: Callable[[], T], *, to_its_end: bool = False) -> T:
    """
    Make a call in a thread of its own; a cancellation does not wait for it.

    The thread is a daemon, which anyio's worker threads are not: the interpreter doesn't wait either.

    Args:
        call: What to do.
        to_its_end: Whether a cancellation is raised only when the call is made.
    """
    made = ThreadedCall(call)
    if to_its_end:
        await wait_to_its_end(made.done)
    return await made.result()


class ThreadedCall(Generic[T]):
    """A call that a thread of its own makes; any number of tasks of this event loop may wait for it."""

    def __init__(self, call: Callable[[], T]) -> None:
        self.done = anyio.Event()
        self._results: list[T] = []
        self._failures: list[BaseException] = []
        call_soon = _caller()
        context = copy_context()

        def work() -> None:
            try:
                self._results.append(context.run(call))
            except BaseException as error:  # noqa: BLE001 - raised by `result`
                self._failures.append(error)
            with suppress(RuntimeError):  # the event loop has ended, and nobody waits
                call_soon(self.done.set)

        Thread(target=work, daemon=True).start()

    async def result(self) -> T:
        """Wait for what it returns, or raise what it raises."""
        await self.done.wait()
        if self._failures:
            raise self._failures[0]
        return self._results[0]


def _caller() -> Callable[[Callable[[], object]], object]:
    """
    What has this event loop make a call, from any thread: trio's method, or asyncio's.

    `anyio.from_thread` would wait for the call, which a loop that is being closed never makes.
    """
    loop: Any = current_token().native_token
    return getattr(loop, "run_sync_soon", None) or loop.call_soon_threadsafe  # type: ignore[no-any-return]


async def wait_to_its_end(done: anyio.Event) -> None:
    """Wait; a cancellation is raised only then."""
    with anyio.CancelScope(shield=True):
        try:
            await done.wait()
        except anyio.get_cancelled_exc_class():
            # Of the asyncio task itself, which no shield keeps out.
            await wait_to_its_end(done)
            raise
