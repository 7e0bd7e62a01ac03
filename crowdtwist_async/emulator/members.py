"""
Members that are never stored: every id of a member, and every figure, follows from its index.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from crowdtwist_async.emulator.seeded import mix

FIRST_ID = 10_000_000
"""The CrowdTwist id of the first member; the others follow without gaps."""

LONGEST_HISTORY = 140
"""The most purchases of a member: 14 pages."""

_SALT_COUNT, _SALT_POINTS, _SALT_BONUS, _SALT_SEGMENTS = 1, 2, 3, 4
_MOST_DIGITS = 18


@dataclass(frozen=True, slots=True)
class _IdForm:
    """How an id type writes a member's number, and reads it back."""

    prefix: str = ""
    first: int = 0
    width: int = 0
    suffix: str = ""

    def write(self, index: int) -> str:
        return f"{self.prefix}{self.first + index:0{self.width}d}{self.suffix}"

    def read(self, text: str) -> int | None:
        digits = text[len(self.prefix) : len(text) - len(self.suffix)]
        if len(digits) > _MOST_DIGITS or not (digits.isascii() and digits.isdecimal()):
            return None
        index = int(digits) - self.first
        # Written back, so that `007` is not taken for `7`.
        return index if self.write(index) == text else None


_ID_FORMS = {
    "id": _IdForm(first=FIRST_ID),
    "email": _IdForm(prefix="member", first=FIRST_ID, suffix="@example.com"),
    "third_party_id": _IdForm(prefix="tp-", first=FIRST_ID),
    "username": _IdForm(prefix="member", first=FIRST_ID),
    "mobile_phone_number": _IdForm(prefix="555", width=7),
    "facebook_user_id": _IdForm(first=100_000_000_000_000),
    "twitter_user_id": _IdForm(first=2_000_000_000),
}


class Members:
    """
    A row of members, by index from 0.

    The first three are handy for tests: one page of purchases (1 to 10), exactly 14 pages
    (131 to 140), none at all. Of the others a third have none, half have 1 to 10, the rest up
    to 140.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self._seed = seed

    def find(self, user_id: str, id_type: str) -> int | None:
        """Return the member's index, or `None` for an id that nobody has."""
        form = _ID_FORMS.get(id_type)
        index = form.read(user_id) if form is not None else None
        return index if index is not None and 0 <= index < self.count else None

    def id_of(self, index: int) -> int:
        """Return the member's CrowdTwist id."""
        return FIRST_ID + index

    def ids(self, id_type: str) -> Iterator[str]:
        """Write every member's id, one at a time, in order."""
        if id_type not in _ID_FORMS:
            raise ValueError(f"id_type must be one of {', '.join(sorted(_ID_FORMS))}")
        return map(_ID_FORMS[id_type].write, range(self.count))

    def purchases(self, index: int) -> int:
        """How many purchases a member has, before any drift."""
        figure = mix(self._seed, _SALT_COUNT, index)
        share, figure = figure % 100, figure // 100
        if index == 0:
            return 1 + figure % 10
        if index == 1:
            return LONGEST_HISTORY - figure % 10
        if index == 2 or share < 33:
            return 0
        if share < 83:
            return 1 + figure % 10
        if share < 97:
            return 11 + figure % 30
        return 41 + figure % (LONGEST_HISTORY - 40)

    def points(self, index: int) -> tuple[int, int]:
        """The purchase points and the bonus points that await fulfillment."""
        total = mix(self._seed, _SALT_POINTS, index) % 80 * 50
        bonus = mix(self._seed, _SALT_BONUS, index) % 20 * 50
        return total, bonus

    def segments(self, index: int, number: int) -> int:
        """Which of `number` segments the member belongs to, as bits."""
        return mix(self._seed, _SALT_SEGMENTS, index) % (1 << number)
