"""
How far calls are: one while it is sent, and all of a client's together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

from crowdtwist_async._protocol import Call
from crowdtwist_async.errors import CrowdTwistError, DeadlineExceededError

if TYPE_CHECKING:
    from crowdtwist_async._telemetry import CallRecord

T = TypeVar("T")


class Stats:
    """What was sent so far."""

    def __init__(self) -> None:
        self.requests = 0
        """Requests, retries included."""
        self.retries = 0
        """Requests that were sent again after a failure."""
        self.permit_seconds = 0.0
        """Seconds that calls waited for the budget, all together."""

    def __repr__(self) -> str:
        waited = f"permit_seconds={self.permit_seconds:.1f}"
        return f"Stats(requests={self.requests}, retries={self.retries}, {waited})"


class RunStats(Stats):
    """What a run has sent, and how many of its calls wait now."""

    def __init__(self, *, one_host: bool = False) -> None:
        super().__init__()
        self.one_host = one_host
        """Whether all calls go to one host: one that sits out its pause is in line then."""
        self.waiting = 0
        """Calls in line for a slot or a permit."""
        self.paused: set[str] = set()
        """Hosts whose pause outlasts what calls of the run have."""
        self._served = anyio.Event()

    async def until_none_waits(self) -> None:
        """Wait until no call waits for a slot or a permit."""
        while self.waiting:
            self._served = anyio.Event()
            await self._served.wait()

    def note_waiting(self, change: int) -> None:
        """Count a call that begins or ends to wait."""
        self.waiting += change
        if not self.waiting:
            self._served.set()


METER: ContextVar[tuple[Stats, ...]] = ContextVar("METER", default=())
"""Where the current task and those that it starts are counted, beside the client's own count."""


class Progress(Generic[T]):
    """How far one call is; it holds no key, as it stays in the frame that raises."""

    def __init__(
        self, call: Call[T], started: float, deadline: float | None, stats: tuple[Stats, ...]
    ) -> None:
        self.call = call
        self.stats = stats
        """Where its requests are counted."""
        self.started = started
        self.deadline = deadline
        self.attempts = 0
        self.uncounted = 0
        """Attempts on a connection that the server had closed already."""
        self.unreadable = 0
        """Attempts whose reply could not be read."""
        self.refused = False
        """Set when there was no attempt: what the budget raises ends the call."""
        self.retry_cost = 0
        """What the quota took for the latest retry."""
        self.last_error: CrowdTwistError | None = None
        self.slot_seconds = 0.0
        """Seconds in line for slots."""
        self.permit_seconds = 0.0
        """Seconds in line for permits."""
        self.record: CallRecord | None = None
        """Who tells OpenTelemetry of it."""

    @property
    def _runs(self) -> list[RunStats]:
        """Those that the call belongs to."""
        return [stats for stats in self.stats if isinstance(stats, RunStats)]

    def meets_pause(self) -> None:
        """Let its runs know that its host has asked for a pause that is too long for a call."""
        for run in self._runs:
            run.paused.add(self.call.base.origin)

    @contextmanager
    def in_line(self, *, for_host: bool = False) -> Iterator[None]:
        """Let its runs know that it waits; for the end of a host's pause, those that ask no other."""
        runs = [run for run in self._runs if run.one_host or not for_host]
        for run in runs:
            run.note_waiting(1)
        try:
            yield
        finally:
            for run in runs:
                run.note_waiting(-1)

    def left(self, now: float) -> float:
        """Seconds until the deadline."""
        return math.inf if self.deadline is None else self.started + self.deadline - now

    def deadline_passed(self, doing: str, *, ahead: bool = False) -> DeadlineExceededError:
        """The error for a deadline that passed while doing something, or would pass."""
        verb = "would pass" if ahead else "passed"
        error = DeadlineExceededError(f"the deadline of {self.deadline} s {verb} {doing}")
        error.last_error = self.last_error
        return error

    def pause_too_long(self, asked_by: str, seconds: float) -> DeadlineExceededError:
        """The error for a pause that ends after the deadline."""
        error = self.deadline_passed(
            f"in a pause that the {asked_by}: call again when it is over, in {seconds:.1f} s", ahead=True
        )
        error.retry_after = seconds
        return error

    def completed(self, error: CrowdTwistError, now: float) -> CrowdTwistError:
        """The error with where, how often and how long."""
        error.endpoint = self.call.endpoint.name
        error.host = self.call.base.host
        error.attempts = self.attempts
        error.elapsed = now - self.started
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return error
