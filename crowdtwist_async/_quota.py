"""
The retry quota: how many retries a client affords while little succeeds.

Retries help against single faults and make an outage worse. Each takes tokens; an answer, also one that
refuses the request, gives the tokens of its last retry back, or one. So a full outage costs 35 retries in
all, 100 if every reply is a 429, and one request in ten failing costs nothing in the long run. The figures
are the rule of AWS's SDKs of 2026.
"""

from __future__ import annotations

from crowdtwist_async.errors import CrowdTwistError, RateLimitError

CAPACITY = 500
TRANSIENT_COST = 14
THROTTLED_COST = 5
_REWARD = 1


class RetryQuota:
    """The tokens of one client."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self.tokens = capacity

    def take(self, error: CrowdTwistError) -> int | None:
        """Pay for a retry after this error; return what it cost, or `None`: it can't be afforded."""
        cost = THROTTLED_COST if isinstance(error, RateLimitError) else TRANSIENT_COST
        if cost > self.tokens:
            return None
        self.tokens -= cost
        return cost

    def give_back(self, cost: int) -> None:
        """Book an answer whose last retry cost so much; 0: it needed none."""
        self.tokens = min(self._capacity, self.tokens + (cost or _REWARD))
