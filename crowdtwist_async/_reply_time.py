"""
How long replies take: in an overload, whoever waits in line must have that much time left when it is served.
"""

from __future__ import annotations

_SHARE = 0.125
"""What the latest reply counts for."""
_DEVIATIONS = 2.0
_MOST_OF_DEADLINE = 0.8
_REMEMBERED = 10.0
"""Seconds for which an attempt that its deadline cut shows that there is an overload."""


class ReplyTime:
    """
    A smoothed mean of the seconds that replies took, and of how far they strayed from it.

    In an overload it is what lets calls succeed: all are served in turn, each when its deadline is near, and
    without it all of them too late. Otherwise it refuses nobody, however long a line is and replies were.
    """

    def __init__(self) -> None:
        self._mean = 0.0
        self._deviation = 0.0
        self._guess = 0.0
        """Seconds that are assumed after a cut attempt, until a reply says what they take."""
        self._overload_until = 0.0

    def note(self, seconds: float) -> None:
        """Take account of a reply."""
        if self._guess:
            # What the replies take that were not waited for is known now.
            self._mean, self._guess = max(self._mean, seconds), 0.0
        stray = seconds - self._mean
        self._mean += _SHARE * stray
        self._deviation += _SHARE * (abs(stray) - self._deviation)

    def note_cut(self, now: float, seconds: float) -> None:
        """
        Take account of an attempt that its deadline cut after so many seconds, and after a wait in line.

        How long the reply would have taken nobody knows: until the next one, twice as long is assumed, so
        that what is believed grows with replies that get slower, none of which would arrive.
        """
        self._overload_until = now + _REMEMBERED
        self._guess = max(2 * seconds, self._guess)

    def needed(self, deadline: float | None, now: float) -> float:
        """
        Seconds to leave for a reply.

        Never the whole deadline: whatever was learned, some are served, and what they meet is learned.
        """
        if deadline is None or now >= self._overload_until:
            return 0.0
        learned = max(self._mean + _DEVIATIONS * self._deviation, self._guess)
        return min(learned, _MOST_OF_DEADLINE * deadline)
