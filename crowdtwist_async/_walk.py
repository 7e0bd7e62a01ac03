"""
Which page comes next: pure decisions from what a page showed. The numbered rules are the design's.

Links are evidence, not addresses: only the page number in them is read. Counts and links are
checked against each other, so that rows are not lost because one of them is low; the price is at
worst one empty page.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from crowdtwist_async._protocol import page_in_link
from crowdtwist_async.errors import PaginationLoopError
from crowdtwist_async.models import Page

MAX_PAGES = 100_000
"""Pages after which a walk is taken for endless."""


class Seen(NamedTuple):
    """What one page showed."""

    number: int
    rows: int
    """Entries on the page."""
    total: int | None
    """Entries on all pages, if the server says so believably."""
    pages: int | None
    next_link: int | None
    """The page number in the link to the next page."""
    prev_link: int | None
    """The page number in the link to the previous page."""
    page_size: int
    read: int | None = None
    """Entries on this page and all before it, if the walk has read them all."""

    @classmethod
    def of(cls, page: Page[Any], page_size: int) -> Seen:
        """Read a page."""
        return cls(
            number=page.number,
            rows=len(page),
            total=page.total,
            pages=page.pages,
            next_link=page_in_link(page.paging.next_page),
            prev_link=page_in_link(page.paging.prev_page),
            page_size=page_size,
        )

    @property
    def position(self) -> int:
        """Rows up to and including this page."""
        return (self.number - 1) * self.page_size + self.rows

    @property
    def leads_on(self) -> bool:
        """Whether the link leads on, and fewer rows were read than there are: the pages are smaller."""
        is_short = self.read is not None and self.total is not None and self.read < self.total
        return is_short and self.next_link == self.number + 1

    @property
    def more_by_pages(self) -> bool:
        """Whether the page count says that pages are still to come."""
        return self.pages is not None and self.number < self.pages

    @property
    def more_by_total(self) -> bool:
        """Whether the total says that rows are still to come; one that is passed decides nothing."""
        return self.total is not None and self.position < self.total

    @property
    def counted_pages(self) -> list[int]:
        """The last page by each count that knows one."""
        by_total = None if self.total is None else -(-self.total // self.page_size)
        return [pages for pages in (self.pages, by_total) if pages]

    @property
    def lower_link(self) -> int | None:
        """The page below that a server out of its range links to, in either field."""
        links = [link for link in (self.prev_link, self.next_link) if link is not None]
        return max((link for link in links if 1 <= link < self.number), default=None)


def next_forward(seen: Seen) -> int | None:
    """
    Decide on the page after this one.

    Returns:
        The page to fetch, or `None`: the walk is over.

    Raises:
        PaginationLoopError: The link repeats or skips pages.
    """
    number, link = seen.number, seen.next_link
    # 1. Everything is seen.
    is_last = seen.pages is not None and number >= seen.pages and seen.position == seen.total
    if is_last and not seen.leads_on:
        return None
    # 2. An empty page.
    if seen.rows == 0:
        if number <= 0:
            return 1
        onward = link == number + 1 or (seen.more_by_pages and seen.more_by_total)
        return number + 1 if onward else None
    # 3. A readable link.
    if link is not None:
        if link != number + 1:
            raise _loop(number, link, "next")
        return link
    # 4. No readable link: the counts decide.
    return number + 1 if seen.more_by_pages or seen.more_by_total else None


def next_backward(seen: Seen) -> int | None:
    """
    Decide on the page before this one: the mirror image of `next_forward`.

    Returns:
        The page to fetch, or `None`: the walk is over.

    Raises:
        PaginationLoopError: The link repeats or skips pages.
    """
    number, link = seen.number, seen.prev_link
    # 1. Page 1 is the end, whatever its link says.
    if number <= 1:
        return None
    # 2. An empty page lies beyond the range, or in a hole; the server may use either link.
    if seen.rows == 0:
        return seen.lower_link or number - 1
    # 3. A readable link. 4. None: page 1 is still to come.
    if link is not None and link != number - 1:
        raise _loop(number, link, "previous")
    return number - 1


def _loop(number: int, link: int, which: str) -> PaginationLoopError:
    return PaginationLoopError(
        f"page {number} names page {link} as its {which} page: going there would repeat or skip rows"
    )
