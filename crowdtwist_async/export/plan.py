"""
What an export costs before it begins: every member takes a request, whatever it has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from attrs import frozen

from crowdtwist_async._budget import RateBudget
from crowdtwist_async._walk import MAX_PAGES
from crowdtwist_async.errors import ConfigurationError
from crowdtwist_async.export.shard import Shard

EXPORT_RATE = 5_000
"""Requests a minute of an export: half of the contract's ceiling stays with the program's live site."""
CEILING = 10_000
"""Requests a minute that the contract allows a program."""
WHOLE_RATE = 9_700
"""Requests a minute of a client that leaves nothing to others."""
_BURST = RateBudget().burst
_ALLOWED = f"the contract allows a program {CEILING:,} requests a minute, its live site included"


@frozen
class Plan:
    """
    The least that an export takes.

    Raises:
        ConfigurationError: A number can't be.
    """

    members: int
    per_minute: float = EXPORT_RATE
    pages_per_member: float = 1.0
    """The mean; a member without rows takes a request too. Points always take one."""

    def __attrs_post_init__(self) -> None:
        RateBudget(self.per_minute)  # refuses what no client takes
        if type(self.members) is not int or self.members < 0:
            raise ConfigurationError("members must be an int of 0 or more")
        pages = self.pages_per_member
        if type(pages) not in (int, float) or not 1 <= pages <= MAX_PAGES:
            raise ConfigurationError(
                f"pages_per_member must be a number from 1, as no member takes less than a request,"
                f" to {MAX_PAGES:,}, as none is walked further"
            )

    @property
    def requests(self) -> int:
        """Requests, if none has to be sent again."""
        return round(self.members * self.pages_per_member)

    @property
    def seconds(self) -> float:
        """The time at this rate."""
        return self.requests / self.per_minute * 60.0

    def __str__(self) -> str:
        least = f"{counted(self.members, 'member')}, at least {counted(self.requests, 'request')}"
        if self.per_minute == math.inf:
            return f"{least}, without a limit"
        return f"{least}: {duration(self.seconds)} at {self.per_minute:,.15g} requests a minute"


def warnings_of(per_minute: float, shard: Shard | None = None) -> Iterator[str]:
    """What is wrong with a rate: of one process, or of as many as there are shards."""
    if per_minute > CEILING:
        yield f"warning: {_ALLOWED}"
    elif shard is not None and shard.count * (per_minute + _BURST) > CEILING:
        each = CEILING // shard.count - _BURST
        remedy = f"give each --per-minute {each} or less" if each > 0 else "run fewer of them at once"
        yield (
            f"warning: --per-minute is that of one process: {shard.count:,} shards at {per_minute:,.15g} may"
            f" send {shard.count * (per_minute + _BURST):,.15g} in a minute, bursts of {_BURST} included, and"
            f" {_ALLOWED}: {remedy}"
        )


def warnings_of_ids(ids: str | None, column: str | None) -> Iterator[str]:
    """What is wrong with a file of ids, by its name."""
    if column is None and ids is not None and ids.lower().removesuffix(".gz").endswith(".csv"):
        yield "warning: each line of --ids is taken for one id: give --column NAME if it has columns"


def counted(number: int, noun: str) -> str:
    """A number and its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, length in (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} seconds"
