"""
How long replies take: whoever waits in line must have that much time left when it is served.
"""

from __future__ import annotations

_SHARE = 0.125
"""What the latest reply counts for."""
_DEVIATIONS = 2.0


class ReplyTime:
    """
    A smoothed mean of the seconds that replies took, and of how far they strayed from it.

    Without it an overload takes everybody's success: all are served in turn, each when its deadline is near,
    and all of them too late.
    """

    def __init__(self) -> None:
        self._mean = 0.0
        self._deviation = 0.0

    def note(self, seconds: float) -> None:
        """Take account of a reply."""
        stray = seconds - self._mean
        self._mean += _SHARE * stray
        self._deviation += _SHARE * (abs(stray) - self._deviation)

    def needed(self, deadline: float | None) -> float:
        """
        Seconds to leave for a reply.

        Half of the deadline at most: whatever was learned, some are served, and what they meet is learned.
        """
        return 0.0 if deadline is None else min(self._mean + _DEVIATIONS * self._deviation, deadline / 2)
