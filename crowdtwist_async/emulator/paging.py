"""
Which rows a page has, and which links: the rules that rewards and purchases share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_PAGE_SIZE = 10
"""Entries on a page at most; purchases can't ask for fewer."""


@dataclass(frozen=True, slots=True)
class Window:
    """One page of a list: its number as asked, its size, and the list's length."""

    number: int
    size: int
    total: int

    @property
    def pages(self) -> int:
        """How many pages the list has; an empty list has none."""
        return -(-self.total // self.size)

    @property
    def rows(self) -> slice:
        """The rows on this page; none out of range."""
        if not 1 <= self.number <= self.pages:
            return slice(0, 0)
        return slice((self.number - 1) * self.size, self.number * self.size)

    @property
    def next_page(self) -> int | None:
        """The page after this one; page 1, if this one is 0 or below."""
        following = max(self.number, 0) + 1
        return following if following <= self.pages or self.number <= 0 else None

    @property
    def prev_page(self) -> int | None:
        """The page before this one; the last, if this one is beyond it."""
        preceding = min(self.number - 1, self.pages)
        return preceding if preceding >= 1 else None

    def paging(self, link: Callable[[int], str], absent: str | None) -> dict[str, Any]:
        """The `paging` object, with `absent` where there is no page to link to."""
        return {
            "total": self.total,
            "pages": self.pages,
            "next_page": absent if self.next_page is None else link(self.next_page),
            "prev_page": absent if self.prev_page is None else link(self.prev_page),
        }


def page_number(text: str | None) -> int:
    """Read `page`: without one, or with one that is no integer, it is page 1."""
    number = _integer(text)
    return 1 if number is None else number


def page_size(text: str | None) -> int:
    """Read `page_size`: 10 without a usable one, and never more."""
    number = _integer(text)
    return MAX_PAGE_SIZE if number is None or number < 1 else min(number, MAX_PAGE_SIZE)


def _integer(text: str | None) -> int | None:
    """Read an optional integer; `int` alone would also take `1_0` and digits of other scripts."""
    digits = (text or "").removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()):
        return None
    try:
        return int(text or "")
    except ValueError:  # more digits than Python is willing to read
        return None
