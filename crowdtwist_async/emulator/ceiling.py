"""
The requests a minute that the emulator lets pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from crowdtwist_async.emulator.counts import check_count

WINDOW = 60.0
"""Seconds; the contract names a minute without saying where it begins, so any minute counts."""


class Ceiling:
    """
    A sliding window: at most `per_minute` admissions in any 60 seconds.

    A refused request does not count, so a caller that waits as told gets in.
    """

    def __init__(self, per_minute: int | None, clock: Callable[[], float]) -> None:
        if per_minute is not None:
            check_count(per_minute, "per_minute", least=1)
        self._per_minute = per_minute
        self._clock = clock
        self._admitted: deque[float] = deque()

    def admit(self) -> float:
        """Return 0.0 and count the request, or return the seconds until the next may come."""
        if self._per_minute is None:
            return 0.0
        now = self._clock()
        while self._admitted and self._admitted[0] <= now - WINDOW:
            self._admitted.popleft()
        if len(self._admitted) >= self._per_minute:
            return self._admitted[0] + WINDOW - now
        self._admitted.append(now)
        return 0.0
