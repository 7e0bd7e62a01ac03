"""
A call that blocks for as long as a terminal says nothing, off the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from threading import Thread
from typing import TypeVar

import anyio
import anyio.from_thread
from anyio.lowlevel import current_token

T = TypeVar("T")


async def in_daemon_thread(call: Callable[[], T]) -> T:
    """
    Make a call in a thread of its own; a cancellation does not wait for it.

    The thread is a daemon, which anyio's worker threads are not: the interpreter doesn't wait either.
    """
    done = anyio.Event()
    results: list[T] = []
    failures: list[BaseException] = []
    token = current_token()
    context = copy_context()

    def work() -> None:
        try:
            results.append(context.run(call))
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)
        with suppress(RuntimeError):  # the event loop has ended, and nobody waits
            anyio.from_thread.run_sync(done.set, token=token)

    Thread(target=work, daemon=True).start()
    await done.wait()
    if failures:
        raise failures[0]
    return results[0]
