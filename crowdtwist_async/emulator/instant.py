"""
A client for tests: open from its first call, closed without an event loop, and never really waiting.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint

from crowdtwist_async._budget import RateBudget
from crowdtwist_async._send import Sender
from crowdtwist_async._session import Session
from crowdtwist_async.client import CrowdTwistClient
from crowdtwist_async.emulator.app import Emulator
from crowdtwist_async.errors import ConfigurationError, CrowdTwistError
from crowdtwist_async.transports import Reply, Request

if TYPE_CHECKING:
    from crowdtwist_async._telemetry import Telemetry

_attempt: ContextVar[tuple[float, anyio.CancelScope] | None] = ContextVar("attempt", default=None)
"""When the attempt under way is out of time, and its scope; none on a socket, where time is real."""


class InstantClock:
    """
    A clock on which pauses pass at once: it jumps to their end, and stands still in between.

    Clients from `instant_client` sleep on it, and so does an `Emulator(sleep=clock.delay)` for them.
    """

    def __init__(self) -> None:
        self.skipped = 0.0
        """Seconds that pauses and delays would have taken, those side by side once."""
        self.busy = 0
        """Attempts under way that no delay holds up."""
        self._ends: list[float] = []

    def __repr__(self) -> str:
        return f"InstantClock(skipped={self.skipped:.3f})"

    def now(self) -> float:
        """The seconds that were skipped on top of the real ones, for an emulator's ceiling."""
        return time.monotonic() + self.skipped

    def elapsed(self) -> float:
        """The seconds that were skipped alone."""
        return self.skipped

    async def pause(self, seconds: float) -> None:
        """Jump to the end of a pause."""
        await self._jump(self.skipped + seconds)

    async def delay(self, seconds: float) -> None:
        """
        Delay a reply: an attempt that is out of time by then ends now, as it would have then.

        Where a request comes over a socket, it really waits.
        """
        attempt = _attempt.get()
        if attempt is None:
            await anyio.sleep(seconds)
            return
        out_of_time, scope = attempt
        end = self.skipped + seconds
        self.busy -= 1
        try:
            await self._jump(min(end, out_of_time))
        finally:
            self.busy += 1
        if end >= out_of_time:
            scope.cancel()
            await checkpoint()

    async def _jump(self, end: float) -> None:
        """Let everything happen that would have happened by then, and go there."""
        self._ends.append(end)
        try:
            await checkpoint()
            while self.busy or min(self._ends) < end:
                await checkpoint()
        finally:
            self._ends.remove(end)
        self.skipped = max(self.skipped, end)


class _InstantSender(Sender):
    """Sends by an instant clock."""

    def __init__(self, *arguments: Any, time: InstantClock, **options: Any) -> None:
        super().__init__(*arguments, clock=time.elapsed, sleep=time.pause, **options)
        self._time = time

    async def _exchange(self, request: Request) -> Reply | CrowdTwistError | None:
        with anyio.CancelScope() as scope:
            token = _attempt.set((self._time.skipped + request.timeout, scope))
            self._time.busy += 1
            try:
                return await super()._exchange(request)
            finally:
                self._time.busy -= 1
                _attempt.reset(token)
        return None


class _InstantSession(Session):
    """Opens itself, on the event loop of its first call."""

    def __init__(self, time: InstantClock, **parts: Any) -> None:
        super().__init__(**parts)
        self._time = time

    @property
    def telemetry(self) -> Telemetry | None:
        # A walk asks before its first call.
        self._open_if_new()
        return super().telemetry

    @property
    def sender(self) -> Sender:
        self._open_if_new()
        return super().sender

    def open(self) -> None:
        if self.state == "open":
            self._check_place()
        else:
            super().open()

    def _open_if_new(self) -> None:
        if self.state == "new":
            self.open()

    def _make_sender(self, kind: Callable[..., Sender] = _InstantSender) -> Sender:
        return super()._make_sender(partial(kind, time=self._time))

    def discard(self) -> None:
        """Close; nothing is connected, so there is nothing to await."""
        if self._sender is not None and not self._closed:
            self._sender.waits.refuse()
            self._let_go()
        self._closed = True


def instant_client(emulator: Emulator, clock: InstantClock, **options: Any) -> CrowdTwistClient:
    """
    Return a client that asks an emulator in process, on whatever event loop its first call is made.

    It has no connections, so it takes no event loop to open and to close it: it need not be entered,
    and `discard` closes it. `async with client` works as well. Its pauses pass at once.

    Args:
        emulator: What answers.
        clock: What the pauses pass on.
        options: Of `CrowdTwistClient`, but for `transport` and `http_client`. A `RateBudget` must be on
            `clock.elapsed`.

    Raises:
        ConfigurationError: An option can't work.
    """
    if options.keys() & {"transport", "http_client"}:
        raise ConfigurationError("a client in process has its own transport, and takes no http_client")
    if options.get("budget") is None:
        options["budget"] = RateBudget(per_minute=math.inf, clock=clock.elapsed)
    if not _keeps_time(options["budget"], clock):
        raise ConfigurationError(
            "a RateBudget of a client in process must be on its clock:"
            " RateBudget(60, clock=crowdtwist_clock.elapsed)"
        )
    client = emulator.client(**options)
    made = client._session  # noqa: SLF001 - its settings are checked; they are for another session
    client._session = _InstantSession(  # noqa: SLF001 - as above
        clock,
        settings=made.settings,
        transport=emulator.transport(),
        budget=made.budget,
        max_in_flight=made.max_in_flight,
    )
    return client


def _keeps_time(budget: Any, clock: InstantClock) -> bool:
    """Whether a budget notices that its waits have passed."""
    if not isinstance(budget, RateBudget):
        return True
    return budget._clock == clock.elapsed  # noqa: SLF001 - its only reader


def discard(client: CrowdTwistClient) -> None:
    """Close an instant client, if it is not closed."""
    session = client._session  # noqa: SLF001 - as above
    if isinstance(session, _InstantSession):
        session.discard()
