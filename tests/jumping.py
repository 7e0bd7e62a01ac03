"""
An asyncio event loop whose time jumps to what it would wait for, so that no pause takes any.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits for time, and only without a timer for a thread."""

    jumped = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """What has happened, or nothing: then the time is when it would have been waited for."""
        events = super().select(None if timeout is None else 0)
        if not events and timeout:
            self.jumped += timeout
        return events


class JumpingLoop(asyncio.SelectorEventLoop):
    """The loop; `run` returns what a coroutine returns."""

    def __init__(self) -> None:
        self._selector_that_jumps = _JumpingSelector()
        super().__init__(self._selector_that_jumps)

    def time(self) -> float:
        """Seconds, those that were jumped over included."""
        return super().time() + self._selector_that_jumps.jumped

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end."""
        return self.run_until_complete(coroutine)

    def left(self) -> list[str]:
        """The tasks that are still there."""
        return [repr(task) for task in asyncio.all_tasks(self)]

    def end(self) -> None:
        """Close it."""
        self.run(self.shutdown_asyncgens())
        self.run(self.shutdown_default_executor())
        self.close()
