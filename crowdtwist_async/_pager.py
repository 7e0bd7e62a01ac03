"""
`Pager`: the rows of one user over all pages, item by item or page by page.

The iterators are classes, not generators, so leaving a loop early leaves nothing to close.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio

from crowdtwist_async._arguments import checked_integer
from crowdtwist_async._cursor import Position
from crowdtwist_async._page_walk import PageWalk, Route
from crowdtwist_async._prefetch import prefetching
from crowdtwist_async._tasks import Block
from crowdtwist_async.errors import CrowdTwistError
from crowdtwist_async.models import Page

if TYPE_CHECKING:
    from crowdtwist_async._telemetry import WalkRecord

T = TypeVar("T")


class Pager(Generic[T]):
    """
    The rows of one user, over all pages: `async for item in pager`.

    Every `async for` walks afresh, with one request a page, made when its first row is wanted. Tasks that
    take from one iterator, such as the `items` of a prefetch, share its rows: each goes to one of them.
    """

    def __init__(self, route: Route[T]) -> None:
        self._route = route
        self._latest = PageWalk(route)

    def __repr__(self) -> str:
        return f"<Pager of {self._route.call.endpoint.name}>"

    def __aiter__(self) -> AsyncIterator[T]:
        self._latest = PageWalk(self._route)
        return _Items(_Rows(self._latest))

    def pages(self) -> AsyncIterator[Page[T]]:
        """
        Walk page by page, each page whole and as the server sent it.

        With `max_items` the walk ends with the page that reaches it; with a cursor it begins
        with the page that holds the next row.
        """
        self._latest = PageWalk(self._route)
        return _Pages(_Rows(self._latest))

    def prefetch(self, ahead: int) -> AbstractAsyncContextManager[Prefetched[T]]:
        """
        Walk with the next pages on their way: `async with pager.prefetch(4) as items`.

        The same items in the same order, with the same errors, as without; after the first page
        up to `ahead` requests are on the way, and so many pages held. Where the counts are too
        high, as many requests may be in vain. Leaving the block cancels what is under way.

        Args:
            ahead: Pages to fetch ahead, 1 or more.

        Raises:
            InvalidArgumentError: `ahead` is below 1.
        """
        checked_integer(ahead, "ahead", least=1)
        return Block(self._prefetched(ahead), "async with pager.prefetch(4) as items")

    @asynccontextmanager
    async def _prefetched(self, ahead: int) -> AsyncIterator[Prefetched[T]]:
        async with prefetching(self._route, ahead) as walk:
            self._latest = walk
            rows = _Rows(walk)
            try:
                yield Prefetched(walk, rows)
            finally:
                rows.leave()

    async def collect(self, prefetch: int = 1) -> list[T]:
        """
        Walk to the end.

        Args:
            prefetch: Pages on their way at once; 1 fetches page by page.

        Returns:
            All items. The list grows with the walk: iterate to keep memory constant.

        Raises:
            CrowdTwistError: Its cursor is where the walk began, as no item was handed out.
        """
        checked_integer(prefetch, "prefetch", least=1)
        try:
            if prefetch == 1:
                return [item async for item in self]
            async with self.prefetch(prefetch) as items:
                return [item async for item in items]
        except CrowdTwistError as error:
            error.cursor = self._route.cursor(self._route.start)
            raise

    async def first(self) -> T | None:
        """Return the first item, or `None`: one request, where the first page is not empty."""
        async for item in self:
            return item
        return None

    @property
    def cursor(self) -> str:
        """
        Where the latest walk stands: `iter_...(cursor=...)` yields exactly the rest.

        Holds no user id and no key. It points at a row of a page, so it is exact as long as
        the data do not change.
        """
        return self._latest.cursor

    @property
    def total(self) -> int | None:
        """The rows in all, as the latest page says; `None` before it, or if it does not say."""
        return self._latest.total


class Prefetched(Generic[T]):
    """The items of one walk, fetched ahead: `async for item in items`."""

    def __init__(self, walk: PageWalk[T], rows: _Rows[T]) -> None:
        self._walk = walk
        self._rows = rows

    def __aiter__(self) -> AsyncIterator[T]:
        # The same rows each time: a second loop goes on where the first one stopped.
        return _Items(self._rows)

    def pages(self) -> AsyncIterator[Page[T]]:
        """
        Walk page by page, as `Pager.pages` does, from where the walk stands.

        After items were taken one by one it begins with the page that holds the next one, whole,
        and items after pages begin behind them.
        """
        return _Pages(self._rows)

    @property
    def cursor(self) -> str:
        """Where this walk stands: valid after every item that was taken, whatever was fetched ahead."""
        return self._walk.cursor

    @property
    def total(self) -> int | None:
        """The rows in all, as the latest page that was taken says."""
        return self._walk.total


class _Rows(Generic[T]):
    """How far the rows of one walk are taken, by item and by page alike, and by however many tasks."""

    def __init__(self, walk: PageWalk[T]) -> None:
        self._walk = walk
        self._most = math.inf if walk.route.max_items is None else walk.route.max_items
        self._given = 0
        self._page: Page[T] | None = None
        self._taken = 0
        """Of the page."""
        self._is_reading = False
        """Whether a task waits for the next page."""
        self._read_on: anyio.Event | None = None
        """What others wait for meanwhile."""
        self._over = False
        self._record: WalkRecord | None = None
        """Who tells OpenTelemetry of the walk, from its first page to its end, or to an error."""

    def __del__(self) -> None:
        # A loop that is left early drops its iterator.
        if self._record is not None:
            self.leave()

    def leave(self) -> None:
        """Take no more rows."""
        self._end_record()

    async def item(self) -> T:
        """Take the next row; backward, the rows of a page come last to first."""
        while not len(page := await self._unread()):
            pass
        self._take(page, 1)
        return page.items[-self._taken if self._walk.route.reverse else self._taken - 1]

    async def page(self) -> Page[T]:
        """Take all that is left of the page that holds the next row, or an empty one."""
        page = await self._unread()
        self._take(page, len(page) - self._taken)
        return page

    async def _unread(self) -> Page[T]:
        """The page that holds the next row, or an empty one on the way there."""
        if (page := self._begun()) is not None:
            return page
        while self._is_reading:
            self._read_on = self._read_on or anyio.Event()
            await self._read_on.wait()
        self._is_reading = True
        try:
            return await self._read()
        finally:
            self._is_reading = False
            if self._read_on is not None:
                self._read_on.set()
                self._read_on = None

    async def _read(self) -> Page[T]:
        while (page := self._begun()) is None:
            following = await self._next_page()
            if following is None:
                raise StopAsyncIteration
            self._taken = _taken_before(self._walk.route, following) if self._page is None else 0
            self._page = following
            if not len(following):
                return following
        return page

    def _begun(self) -> Page[T] | None:
        """The page that was read last, if rows of it are left."""
        self._walk.check_open()
        if self._given >= self._most:
            self._end_record(complete=True)
            raise StopAsyncIteration
        return self._page if self._page is not None and self._taken < len(self._page) else None

    async def _next_page(self) -> Page[T] | None:
        telemetry = self._walk.route.telemetry()
        if telemetry is None or self._over:
            return await self._walk.next_page()
        if self._record is None and (record := telemetry.walk(self._walk.route.call)) is not None:
            self._record, self._walk.context = record, record.context
            record.items = -self._given
        try:
            page = await self._walk.next_page()
        except BaseException as error:
            self._end_record(error)
            raise
        if page is None:
            self._over = True
            self._end_record(complete=True)
        elif self._record is not None:
            self._record.pages += 1
        return page

    def _end_record(self, error: BaseException | None = None, *, complete: bool = False) -> None:
        if self._record is not None:
            record, self._record, self._walk.context = self._record, None, None
            record.items += self._given
            record.ended(error, complete=complete)

    def _take(self, page: Page[T], rows: int) -> None:
        self._given += rows
        self._taken += rows
        self._walk.position = Position(page.number, self._taken)


class _Pages(AsyncIterator[Page[T]]):
    """One walk, page by page."""

    def __init__(self, rows: _Rows[T]) -> None:
        self._rows = rows

    def __anext__(self) -> Awaitable[Page[T]]:
        return self._rows.page()


class _Items(AsyncIterator[T]):
    """One walk, item by item."""

    def __init__(self, rows: _Rows[T]) -> None:
        self._rows = rows

    def __anext__(self) -> Awaitable[T]:
        return self._rows.item()


def _taken_before(route: Route[T], page: Page[T]) -> int:
    """Rows of the walk's first page that its cursor says are taken."""
    return min(route.start.taken, len(page)) if route.start.page == page.number else 0
