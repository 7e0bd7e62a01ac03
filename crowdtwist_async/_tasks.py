"""
Tasks that last as long as a block, and whose cancellation one of them met.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import NoReturn, TypeVar

import anyio
from anyio.abc import TaskGroup

T_co = TypeVar("T_co", covariant=True)


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


class Block(AbstractAsyncContextManager[T_co]):
    """A block of `async with` that says so to who iterates over it instead of over what it gives."""

    def __init__(self, block: AbstractAsyncContextManager[T_co], usage: str) -> None:
        self._block = block
        self._usage = usage

    async def __aenter__(self) -> T_co:
        return await self._block.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._block.__aexit__(kind, error, traceback)

    def __aiter__(self) -> NoReturn:
        raise TypeError(f"this is a block, left when its work is over: {self._usage}")


def cancelled_elsewhere() -> bool:
    """Whether a cancellation is that of another task: on asyncio, who awaits that gets it too."""
    return anyio.current_effective_deadline() != -math.inf
