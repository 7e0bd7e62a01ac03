"""
The request-rate budget: at most so many requests a minute, evenly spaced, over everything that shares it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

from crowdtwist_async._arguments import not_of
from crowdtwist_async.errors import ConfigurationError

_SECONDS_PER_MINUTE = 60.0
_LEAST_PER_MINUTE = 1e-4
_MOST_PER_MINUTE = 1e12
_MOST_BURST = 10**12


class Budget(Protocol):
    """
    What a client asks before every request, retries included.

    When a `reserve` raises a `CrowdTwistError`, its call ends with that; after any other error with a
    `TransportError`, which has nothing of its text. When a `penalize` raises, nobody hears of it: the calls
    of that client pause all the same, other clients of the budget do not.
    """

    async def reserve(self, n: int = 1, /) -> float:
        """Take `n` permits; return the seconds to wait before using them."""
        ...

    async def penalize(self, seconds: float, /) -> None:
        """Let nobody send for so many seconds from now; a longer pause under way stays."""
        ...


class RateBudget:
    """
    A GCRA clock: permits come evenly spaced, after an idle time a few at once.

    One instance can be shared by clients of one event loop. A permit that was taken is not
    given back: the times after it are promised already.

    Args:
        per_minute: Requests a minute; `math.inf` switches pacing off. The API's contract
            allows a program 10,000, its live site included.
        burst: Permits that may be used at once after an idle time, 1 to 10**12.
        clock: Seconds that only go forward.

    Raises:
        ConfigurationError: `per_minute` or `burst` is not positive, or beyond what arithmetic can do.
    """

    def __init__(
        self, per_minute: float = 9_700, burst: int = 10, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.per_minute = per_minute
        self.burst = burst
        if not _is_rate(per_minute):
            raise ConfigurationError(
                f"per_minute must be a positive number of requests, or math.inf{not_of(per_minute)}"
            )
        if type(burst) is not int or not 1 <= burst <= _MOST_BURST:
            raise ConfigurationError(f"burst must be an int from 1 to {_MOST_BURST:,}")
        self._clock = clock
        self._interval = _SECONDS_PER_MINUTE / per_minute
        self._next = -math.inf
        """When the next permit would be due, were all of them evenly spaced."""
        self._slack = (burst - 1) * self._interval
        self._paused_until = -math.inf

    def __repr__(self) -> str:
        return f"RateBudget(per_minute={self.per_minute}, burst={self.burst})"

    async def reserve(self, n: int = 1, /) -> float:
        """Take `n` permits; return the seconds to wait before using them."""
        now = self._clock()
        due = max(self._next, now)
        self._next = due + n * self._interval
        return max(due - self._slack - now, 0.0)

    def take_at_once(self) -> bool:
        """Take a permit if it may be used now; return whether there was one."""
        now = self._clock()
        due = max(self._next, now)
        if due - self._slack > now:
            return False
        self._next = due + self._interval
        return True

    def pause(self) -> float:
        """Seconds of a pause that are left; 0 or less: none."""
        return self._paused_until - self._clock()

    async def penalize(self, seconds: float, /) -> None:
        """Let nobody send for so many seconds from now; a longer pause under way stays."""
        until = self._clock() + seconds
        self._paused_until = max(self._paused_until, until)
        # The slack on top lets the permits after the pause come evenly spaced, without a burst.
        self._next = max(self._next, until + self._slack)


def _is_rate(number: Any) -> bool:
    """Whether a number is a rate that arithmetic can do: from one request a week, to infinity."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    return _LEAST_PER_MINUTE <= number <= _MOST_PER_MINUTE or number == math.inf
