"""
Whom to fetch next: members that failed and are due, then those that were never begun.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from typing import NamedTuple

import anyio

from crowdtwist_async.export.ledger import Ledger, Mark
from crowdtwist_async.export.source import Member

_FIRST_DELAY = 0.2
_LONGEST_DELAY = 2.0
_CHUNK = 1_000
"""Ids that are read together: a thread takes longer to begin than to read them."""


class Begun(NamedTuple):
    """A member that failed, and when to try again."""

    due: float
    number: int
    member: Member


class MemberQueue:
    """
    The members of a run that are not done.

    Args:
        ids: All ids of the export.
        ledger: Knows those that are done.
        again: What of them is to be done again.
        most_waiting: Members that may wait for their next try before no new one is begun.
    """

    def __init__(self, ids: Iterator[str], ledger: Ledger, again: frozenset[str], most_waiting: int) -> None:
        self.answered: str | None = None
        """Somebody whom the API answered, in this run or an earlier one."""
        self._ids = ids
        self._ledger = ledger
        self._again = again
        self._most_waiting = most_waiting
        self._ready: deque[str] = deque()
        self._waiting: list[Begun] = []
        self._begun: set[str] = set()
        self._numbers = count()
        self._exhausted = False
        """No id is left to read."""

    @property
    def is_empty(self) -> bool:
        """Whether no member is left but those under way."""
        return self._exhausted and not self._ready and not self._waiting

    def due(self) -> Member | None:
        """A member whose next try is due."""
        if self._waiting and self._waiting[0].due <= anyio.current_time():
            return heapq.heappop(self._waiting).member
        return None

    def seconds_to_due(self) -> float | None:
        """Until the next try; `None`: nobody waits."""
        return max(0.0, self._waiting[0].due - anyio.current_time()) if self._waiting else None

    def new_id(self) -> str | None:
        """An id that was never begun, if one is read and the waiting are not too many."""
        return self._ready.popleft() if self._ready and not self.is_full else None

    @property
    def is_full(self) -> bool:
        """Whether so many wait that no new member should be begun."""
        return len(self._waiting) >= self._most_waiting

    @property
    def wants_ids(self) -> bool:
        """Whether ids should be read."""
        return not self._ready and not self._exhausted and not self.is_full

    def read(self) -> list[str]:
        """Read some ids, done or not; for as long as they take to come."""
        return list(islice(self._ids, _CHUNK))

    def take(self, ids: Sequence[str]) -> None:
        """Keep those that are not done, as the ledger knows."""
        self._ready += [user_id for user_id in ids if self._is_new(user_id)]
        self._exhausted = len(ids) < _CHUNK

    def _is_new(self, user_id: str) -> bool:
        if user_id in self._begun:
            return False
        status = self._ledger.status_of(user_id)
        if status is not None and status not in self._again:
            if status != "failed":
                self.answered = user_id
            return False
        self._begun.add(user_id)
        return True

    def put_back(self, member: Member) -> None:
        """Have a member that failed tried again, after a pause that grows with its tries."""
        delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** max(0, member.tries - 1))
        heapq.heappush(self._waiting, Begun(anyio.current_time() + delay, next(self._numbers), member))

    def known_id(self) -> str | None:
        """Somebody whom the API answered before, or else who was not begun or waits, another each time."""
        if self.answered is not None:
            return self.answered
        others = self._others()
        # The last first: those whose ids are near each other may fail together.
        return others[-1 - next(self._numbers) % len(others)] if others else None

    @property
    def choice(self) -> int:
        """From how many `known_id` chooses."""
        return 1 if self.answered is not None else len(self._others())

    def _others(self) -> Sequence[str]:
        return self._ready or [begun.member.user_id for begun in self._waiting]

    def committed(self, marks: Iterable[Mark]) -> None:
        """The ledger keeps these from being begun again."""
        self._begun.difference_update(mark.requested_id for mark in marks if mark.status not in self._again)
