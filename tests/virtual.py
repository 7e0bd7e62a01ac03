"""
Event loops on which waiting takes no time, and what tells when something happened there.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

import anyio
from scripted import Outcome, ScriptedTransport
from trio.testing import MockClock

from crowdtwist_async import CrowdTwistError, RateBudget, Reply, Request


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on which waiting takes no time: when nothing else is to do, the clock jumps."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        """Seconds of virtual time."""
        return self.now


class _Jump(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("every task waits for another")
            self._loop.now += timeout
        return ready


def virtual(backend: str) -> tuple[str, dict[str, Any]]:
    """A backend of anyio's, in virtual time."""
    if backend == "asyncio":
        return "asyncio", {"loop_factory": VirtualLoop}
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._started = anyio.current_time()

    @property
    def seconds(self) -> float:
        """Rounded to what clocks add up to."""
        return round(anyio.current_time() - self._started, 6)


class TimedTransport(ScriptedTransport):
    """Writes down when each request came."""

    def __init__(self, *outcomes: Outcome) -> None:
        super().__init__(*outcomes)
        self.watch = Stopwatch()
        self.moments: list[float] = []

    async def send(self, request: Request, /) -> Reply | CrowdTwistError:
        """Play the next outcome."""
        self.moments.append(self.watch.seconds)
        return await super().send(request)


def make_budget(per_minute: float = 60, burst: int = 1) -> RateBudget:
    """A budget on the virtual clock; by default a permit a second."""
    return RateBudget(per_minute, burst, clock=anyio.current_time)
