"""
A CrowdTwist program, the vendor's word for one client's instance: its members and its rewards.
"""

from __future__ import annotations

from crowdtwist_async.emulator.calls import PURCHASES, REWARDS
from crowdtwist_async.emulator.catalogue import SEGMENTS, Catalogue
from crowdtwist_async.emulator.members import Members
from crowdtwist_async.emulator.purchases import History


class Program:
    """
    Everything that the endpoints read.

    It only holds what was shifted by hand, so a million members take no more room than ten.
    """

    def __init__(self, members: int, rewards: int, seed: int) -> None:
        self.members = Members(members, seed)
        self.catalogue = Catalogue(rewards, seed)
        self._seed = seed
        self._shifts: dict[tuple[str, int], int] = {}

    def history(self, index: int) -> History:
        """A member's purchases as they are now."""
        seeded = self.members.purchases(index)
        shift = self._shifts.get((PURCHASES, index), 0)
        return History(self._seed, index, seeded, max(0, seeded + shift))

    def rewards(self, index: int, *, include_soldout: bool) -> tuple[bytes, ...]:
        """A member's rewards as they are now, each as JSON."""
        mask = self.members.segments(index, len(SEGMENTS))
        rows = self.catalogue.visible(mask, include_soldout=include_soldout)
        shift = self._shifts.get((REWARDS, index), 0)
        if shift <= 0:
            return rows[-shift:]
        return (*(self.catalogue.newcomer(number) for number in reversed(range(shift))), *rows)

    def shift(self, endpoint: str, index: int, added: int) -> None:
        """Insert rows at the front of a member's list, or remove some from there."""
        self._shifts[endpoint, index] = self._shifts.get((endpoint, index), 0) + added
