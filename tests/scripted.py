"""
A `Transport` that plays a script, and a clock that never really waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from anyio.lowlevel import checkpoint

from crowdtwist_async import CrowdTwistError, RateLimitError, Reply, Request, ServerError

POINTS = b'{"user_id": 7, "total_points_awaiting_fulfillment": 40, "bonus_points_awaiting_fulfillment": 10}'

Outcome = Reply | CrowdTwistError | Callable[[Request], Awaitable[Reply | CrowdTwistError]]


def status(code: int, body: bytes = b"", **headers: str) -> Reply:
    """A reply with a status; underscores in header names are hyphens."""
    return Reply(code, {name.replace("_", "-"): value for name, value in headers.items()}, body)


OK = status(200, POINTS)


def limited(retry_after: float | None) -> RateLimitError:
    """A 429."""
    error = RateLimitError("too many")
    error.status, error.retry_after = 429, retry_after
    return error


def failed(code: int, retry_after: float | None) -> ServerError:
    """A 5xx."""
    error = ServerError("no")
    error.status, error.retry_after = code, retry_after
    return error


class ScriptedTransport:
    """Ends each request with the next outcome; the last repeats."""

    def __init__(self, *outcomes: Outcome) -> None:
        self._outcomes: Sequence[Outcome] = outcomes or (OK,)
        self.requests: list[Request] = []
        self.closed = 0
        self.in_flight = 0
        self.most_in_flight = 0

    async def send(self, request: Request, /) -> Reply | CrowdTwistError:
        """Play the next outcome."""
        number = len(self.requests)
        self.requests.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await checkpoint()
            outcome = self._outcomes[min(number, len(self._outcomes) - 1)]
            return await outcome(request) if callable(outcome) else outcome
        finally:
            self.in_flight -= 1

    async def aclose(self) -> None:
        """Count how often it is closed."""
        self.closed += 1


class FakeTime:
    """A clock that `sleep` moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        """The time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Move the clock at once."""
        self.slept.append(seconds)
        self.now += seconds
        await checkpoint()
