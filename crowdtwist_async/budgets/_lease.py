"""
Permits that a process holds ahead, each with the moment that it is for: arithmetic without any I/O.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

LATE = 0.5
"""Seconds after its moment at which a permit is dropped: used later, those of a stall would be a burst."""
HORIZON = 0.5
"""Seconds for which permits are leased ahead at most."""
_SHARE = 1 / 16
"""Seconds of the whole rate in one lease, so that several processes take turns."""
_ROUND_TRIPS = 6
"""To a server far away, as long as so many of them: while it is asked, nobody has a permit."""
_MOST = 1_000
"""Permits in one lease at most, however high the rate."""


class _Permit(NamedTuple):
    earliest: float
    """The moment it is for, if the server answered as soon as it was asked."""
    latest: float
    """The same, if it answered just before its answer arrived."""


class Lease:
    """
    What is left of the last lease, and how many permits the next one should have.

    That number doubles while leases are used up at once, and falls to what was used of one that was not: who
    asks rarely holds nothing that others could use.

    Args:
        interval: Seconds from one permit to the next.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._most = self._at_once(_SHARE)
        self._permits: deque[_Permit] = deque()
        self._size = 1
        self._used = 0
        self._dropped = False
        self._last = -float("inf")
        """The latest moment of the lease."""

    def take(self, now: float) -> float | None:
        """Take a permit; return the seconds until it may be used, or `None`: there is none."""
        while self._permits:
            permit = self._permits.popleft()
            if now <= permit.earliest + LATE:
                self._used += 1
                return max(permit.latest - now, 0.0)
            self._dropped = True
        return None

    def wanted(self, now: float) -> int:
        """How many permits to ask for, now that there is none left."""
        if self._dropped:
            self._size = max(self._used, 1)
        elif now <= self._last + LATE / 2:
            self._size = min(2 * self._size, self._most)
        return self._size

    def fill(self, granted: int, wait: float, asked: float, answered: float) -> None:
        """
        Keep what the server gave, if its answer is not late itself.

        Args:
            granted: How many permits.
            wait: Seconds from its answer to the first; less than 0: it is there already.
            asked: When it was asked, on the clock of this process.
            answered: When the answer was there.
        """
        self._most = self._at_once(min(max(_SHARE, _ROUND_TRIPS * (answered - asked)), HORIZON))
        moments = [max(wait + number * self._interval, 0.0) for number in range(granted)]
        self._used, self._dropped, self._last = (
            0,
            answered > asked + LATE,
            answered + max(moments, default=0.0),
        )
        if not self._dropped:
            self._permits = deque(_Permit(asked + moment, answered + moment) for moment in moments)

    def _at_once(self, seconds: float) -> int:
        """Permits for so many seconds, in one lease."""
        return min(max(1, int(seconds / self._interval)), _MOST)

    def clear(self) -> None:
        """Drop everything, and begin small."""
        self._permits.clear()
        self._size, self._dropped = 1, False
