"""
Tasks that last as long as a block, and whose cancellation one of them met.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup


@asynccontextmanager
async def tasks_of_block(end: Callable[[], None] | None = None) -> AsyncIterator[TaskGroup]:
    """
    A task group whose tasks end when its block is left.

    What the block raises passes as it is, not in the group that a task group would make of it, and
    is not lost to a cancellation that comes at the same time.

    Args:
        end: Makes the tasks end; by default they are cancelled.
    """
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            try:
                yield tasks
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001 - raised below, outside the task group
                failure = error
            (end or tasks.cancel_scope.cancel)()
    except BaseExceptionGroup as group:
        # A task ends in nothing but what is to end the program, a SystemExit say.
        failure = group.exceptions[0]
    finally:
        if failure is not None:
            raise failure


def cancelled_elsewhere() -> bool:
    """Whether a cancellation is that of another task: on asyncio, who awaits that gets it too."""
    return anyio.current_effective_deadline() != -math.inf
