"""
One client's way to the budget: a first-come gate, and the pauses that a server asks for.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum, auto

import anyio

from crowdtwist_async._budget import Budget, RateBudget
from crowdtwist_async._retry import RATE_LIMIT_LEAST
from crowdtwist_async.errors import (
    APIStatusError,
    ConfigurationError,
    CrowdTwistError,
    RateLimitError,
)

logger = logging.getLogger("crowdtwist_async")
_NOT_A_NUMBER = "the request budget's reserve() returned NaN: it must return seconds"
_LATE_MOST = 0.01
"""Seconds for which a permit that somebody gave up is as good as new: a task that slept can be as late."""
_AHEAD_MOST = 1.0
"""Seconds ahead for which a permit of another kind of budget is kept however long ago it was asked for."""
_BELIEVED = 60.0
"""
Seconds for which one further ahead is kept: the budget may be reset, and have earlier ones. If each call
asked anew, it would put off those of all who share it: nobody would get one for as long as calls come.
"""
_HOST_PAUSE_MOST = 30.0
"""Seconds of a 503's `Retry-After` that the other calls to its host wait at most."""


class Turn(Enum):
    """How the wait for a permit ended."""

    TAKEN = auto()
    ASIDE = auto()
    """It is not wanted now."""
    OVER = auto()
    """There is no time left for it."""


class Permits:
    """Hands out the budget's permits, each used at once."""

    def __init__(
        self, budget: Budget, clock: Callable[[], float], sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._budget = budget
        self._clock = clock
        self._sleep = sleep
        self._gate = anyio.Lock(fast_acquire=True)
        self._paused_until = -math.inf
        self._promise = -math.inf
        """When the budget's latest permit may be used, as long as nobody has."""
        self._promised_at = -math.inf
        self._believed = _BELIEVED
        """Longer where asking anew only put the permit off, until one comes soon."""
        self._host_paused_until: dict[str, float] = {}

    def take_at_once(self) -> bool:
        """
        Take a permit if nobody waits for one and it may be used now; return whether there was one.

        Never from a budget of another kind: what it does before it answers may take any time.
        """
        if type(self._budget) is not RateBudget or self._gate.locked() or self.pause() > 0:
            return False
        return self._budget.take_at_once()

    async def take(
        self,
        left: Callable[[], float] = lambda: math.inf,
        needed: Callable[[], float] = lambda: 0.0,
        unwanted: Callable[[], bool] = lambda: False,
    ) -> Turn:
        """
        Wait for a permit: first come, first served.

        Only the head of the line reserves and sleeps, so a caller that is cancelled behind it costs
        nothing. The permit of one that gives up there is the next one's: under load each of them has
        little time left, and all permits would be lost.

        Args:
            left: Seconds that the caller has left.
            needed: Of these, seconds without which a permit is of no use.
            unwanted: Whether it could not be used now, as in its host's pause: calls to others may go first.

        Returns:
            How it ended; a 429's pause that ends after the caller's time is not begun.
        """
        async with self._gate:
            while max(self.pause(), 0.0) < left():
                if unwanted():
                    return Turn.ASIDE
                seconds = max(await self._seconds_to_permit(), self.pause())
                if seconds > 0 and seconds > (spare := left() - needed()):
                    # The next may have more time; and a loop of calls that are refused at once would spin.
                    await self._sleep(max(spare, 0.0))
                    break
                if seconds > 0:
                    await self._sleep(seconds)
                if unwanted():
                    return Turn.ASIDE  # the permit is for who comes next
                self._promise = -math.inf
                if self.pause() <= 0:
                    return Turn.TAKEN
                # A 429 came in the meantime: this permit is from before its pause.
        return Turn.OVER

    async def _seconds_to_permit(self) -> float:
        """
        Take the permit that somebody gave up, or the budget's next; return the seconds until then.

        Raises:
            ConfigurationError: They are no number: every comparison with it is false, so nothing would wait.
        """
        now = self._clock()
        is_certain = type(self._budget) is RateBudget or now < self._promised_at + self._believed
        if not -_LATE_MOST <= self._promise - now <= (math.inf if is_certain else _AHEAD_MOST):
            seconds = await self._budget.reserve()
            if math.isnan(seconds):
                raise ConfigurationError(_NOT_A_NUMBER)
            self._promised_at = self._clock()
            anew = self._promised_at + seconds
            if now < self._promise <= anew:
                self._believed *= 2  # there was no reset: what was promised holds
            else:
                self._promise = anew
            if anew <= self._promised_at + _AHEAD_MOST:
                self._believed = _BELIEVED
        return max(self._promise - self._clock(), 0.0)

    async def heed(self, error: CrowdTwistError, origin: str, longest: float) -> None:
        """
        Let everybody wait as the server asks: after a 429 for any host, after a 503 for this one.

        Args:
            error: What an attempt ended with.
            origin: The host that it was sent to.
            longest: The longest pause after a 429, in seconds.
        """
        if isinstance(error, RateLimitError):
            asked = RATE_LIMIT_LEAST if error.retry_after is None else error.retry_after
            seconds = min(asked, longest)
            if self.pause() <= 0:
                logger.warning("the server wants no requests for %.1f s: it answered 429", seconds)
            self._paused_until = max(self._paused_until, self._clock() + seconds)
            self._promise = -math.inf
            await self._penalize(seconds)
        elif isinstance(error, APIStatusError) and error.status == 503 and error.retry_after:
            until = self._clock() + min(error.retry_after, _HOST_PAUSE_MOST)
            self._host_paused_until[origin] = max(self._host_paused_until.get(origin, until), until)

    def pause(self) -> float:
        """Seconds of a 429's pause that are left, if another client met it too; 0 or less: none."""
        own = self._paused_until - self._clock()
        return max(own, self._budget.pause()) if type(self._budget) is RateBudget else own

    async def sit_out_pause(self) -> None:
        """Wait for the end of a 429's pause."""
        while (seconds := self.pause()) > 0:
            await self._sleep(seconds)

    def host_pause(self, origin: str) -> float:
        """Seconds that calls to a host still have to wait; 0 or less: none."""
        until = self._host_paused_until.get(origin)
        return -math.inf if until is None else until - self._clock()

    def has_pause(self, origin: str) -> bool:
        """Whether a host has asked for a pause that nobody has sat out yet."""
        return origin in self._host_paused_until

    async def sit_out_host(self, origin: str, left: Callable[[], float] = lambda: math.inf) -> bool:
        """
        Wait for the end of a host's pause, and let nobody burst after it.

        Args:
            origin: The host.
            left: Seconds that the caller has left.

        Returns:
            Whether it is over; a pause that ends after the caller's time is not begun.
        """
        while (seconds := self.host_pause(origin)) > 0:
            if seconds >= left():
                return False
            await self._sleep(seconds)
        if self._host_paused_until.pop(origin, None) is not None:
            await self._penalize(0.0)
        return True

    async def _penalize(self, seconds: float) -> None:
        # A budget that is broken says so when the next permit is wanted; here it must not hide
        # what the server said.
        with suppress(Exception):
            await self._budget.penalize(seconds)
