"""
One walk over the pages of one user: asks `_walk` where to go, and a client for the pages.

Between two pages it holds numbers and the page just read, and a step that fails or is cancelled
changes nothing: asking again repeats it.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
from attrs import evolve

from crowdtwist_async._arguments import OnDrift
from crowdtwist_async._cursor import Position
from crowdtwist_async._protocol import Call
from crowdtwist_async._walk import MAX_PAGES, Seen, next_backward, next_forward
from crowdtwist_async.errors import (
    ClientClosedError,
    CrowdTwistError,
    PaginationDriftError,
    PaginationDriftWarning,
    PaginationError,
    PaginationLoopError,
)
from crowdtwist_async.models import Page

if TYPE_CHECKING:
    from crowdtwist_async._telemetry import Telemetry

T = TypeVar("T")

_NOT_THE_CALLER = {"crowdtwist_async", "anyio", "asyncio", "contextlib", "outcome", "trio", "uvloop"}
"""Packages whose frames stand between a walk and the code that wants its rows."""


class Route(Generic[T]):
    """What a walk goes over, and how."""

    def __init__(
        self,
        *,
        call: Call[Page[T]],
        fetch: Callable[[Call[Page[T]]], Awaitable[Page[T]]],
        reverse: bool,
        start: Position,
        max_items: int | None,
        on_drift: OnDrift,
        telemetry: Callable[[], Telemetry | None] = lambda: None,
    ) -> None:
        self.call = call
        self.fetch = fetch
        self.reverse = reverse
        self.start = start
        self.max_items = max_items
        self.on_drift: OnDrift = on_drift
        self.telemetry = telemetry
        """What tells OpenTelemetry of the walk, once the client is open."""

    def fetched_by(self, fetch: Callable[[Call[Page[T]]], Awaitable[Page[T]]]) -> Route[T]:
        """The same route with its pages from elsewhere."""
        return Route(
            call=self.call,
            fetch=fetch,
            reverse=self.reverse,
            start=self.start,
            max_items=self.max_items,
            on_drift=self.on_drift,
            telemetry=self.telemetry,
        )

    def cursor(self, position: Position) -> str:
        """The text for a place in this walk."""
        return position.cursor(fingerprint(self.call, reverse=self.reverse))


def fingerprint(call: Call[Page[T]], *, reverse: bool) -> str:
    """What tells the cursors of one walk from those of another."""
    return call.fingerprint("backward" if reverse else "forward")


class PageWalk(Generic[T]):
    """One walk, page by page."""

    def __init__(self, route: Route[T]) -> None:
        self.route = route
        self.position = route.start
        """Where a walk that stops now goes on; whoever takes rows off a page moves it."""
        self.total: int | None = None
        """What the latest page says."""
        self.over = False
        """Set when the block of a prefetch is left."""
        self.context: Any = None
        """OpenTelemetry's, for the calls of the pages."""
        self._page: Page[T] | None = None
        self._fetched = 0
        self._ahead: dict[int, Page[T]] = {}
        """Pages that were read in search of the last one, going backward."""
        self._counts: tuple[int | None, int | None] = (None, None)
        """`total` and `pages` as the walk's first pages said."""
        self._drift_told = False
        self._read = (0, 0)
        """The latest page that was read after all before it, and the rows so far."""
        self._total_is_wrong = False
        """Set when more rows came than it says."""
        self._began: float | None = None

    @property
    def cursor(self) -> str:
        """Where this walk stands."""
        return self.route.cursor(self.position)

    def check_open(self) -> None:
        """
        Refuse to go on after the block of a prefetch.

        Raises:
            ClientClosedError: It is left.
        """
        if self.over:
            raise left_behind()

    async def next_page(self) -> Page[T] | None:
        """
        Fetch the next page, or return `None`: the walk is over.

        Raises:
            CrowdTwistError: With the cursor of where to go on.
        """
        if self._began is None:
            self._began = anyio.current_time()
        try:
            if self._page is not None:
                following = await self._following(self._page)
                if following is None:
                    return None
                self.position = Position(following)
            self._page = await self._unrepeated(await self._number())
        except CrowdTwistError as error:
            located = self._located(error)
        else:
            return self._page
        try:
            raise located from None
        finally:
            del located  # or it would keep itself, and so the walk: its traceback has this frame

    async def _following(self, page: Page[T]) -> int | None:
        seen = self._seen(page)
        if not self.route.reverse:
            return next_forward(seen)
        beyond = seen.number == self.route.start.page and seen.rows == 0 and seen.number > 1
        if beyond and seen.lower_link is None:
            # Begun beyond the range, and no link leads back: look for the last page below.
            return await self._last_page(below=seen.number)
        return next_backward(seen)

    async def _number(self) -> int:
        if self.position.page is not None:
            return self.position.page
        return await self._last_page()

    async def _last_page(self, below: float = math.inf) -> int:
        """Find where a backward walk starts: from page 1 to where the counts point, and on from there."""
        page = await self._read_ahead(1)
        counted = self._seen(page).counted_pages if len(page) else []
        for last in sorted({last for last in counted if 1 < last < below}, reverse=True):
            found = await self._read_ahead(last)
            if len(found):
                page = found
                break
            if link := self._seen(found).lower_link:
                return link
            below = last
        while (following := next_forward(self._seen(page))) is not None and following < below:
            page = await self._read_ahead(following)
        return page.number

    async def _read_ahead(self, number: int) -> Page[T]:
        if number not in self._ahead:
            self._ahead[number] = await self._fetch(number)
        return self._ahead[number]

    async def _unrepeated(self, number: int) -> Page[T]:
        """The page, asked for once more if it repeats the one before: a stale cache may have sent it."""
        page = self._ahead.pop(number) if number in self._ahead else await self._fetch(number)
        if self._repeats(page):
            page = await self._fetch(number)
            if self._repeats(page):
                raise PaginationLoopError(
                    f"page {number} holds the same rows as the page before it, asked twice"
                )
        return page

    def _repeats(self, page: Page[T]) -> bool:
        return self._page is not None and len(page) > 0 and page.items == self._page.items

    async def _fetch(self, number: int) -> Page[T]:
        if self._fetched >= MAX_PAGES:
            raise PaginationLoopError(f"{MAX_PAGES:,} pages are read and the walk does not end")
        call = self.route.call.at_page(number)
        page = await self.route.fetch(call if self.context is None else evolve(call, parent=self.context))
        self._fetched += 1
        self.total = page.total
        self._check_drift(page)
        return page

    def _seen(self, page: Page[T]) -> Seen:
        seen = Seen.of(page, self.route.call.page_size)
        if page.number == self._read[0] + 1:
            self._read = page.number, self._read[1] + len(page)
        if page.number == self._read[0]:
            seen = seen._replace(read=self._read[1])
        if seen.rows and seen.total is not None and seen.position > seen.total:
            self._total_is_wrong = True
        return seen._replace(total=None) if self._total_is_wrong else seen

    def _check_drift(self, page: Page[T]) -> None:
        """Tell once when a count differs from the first that the walk saw."""
        (total, pages), self._counts = self._counts, _first_known(self._counts, (page.total, page.pages))
        changed = page.total not in (None, self._counts[0]) or page.pages not in (None, self._counts[1])
        if not changed or self._drift_told or self.route.on_drift == "ignore":
            return
        said = (
            f"the counts changed during the walk, from {total} rows on {pages} pages"
            f" to {page.total} on {page.pages}: rows may be missing or doubled"
        )
        if self.route.on_drift == "raise":
            raise PaginationDriftError(said)
        self._drift_told = True
        message = f"{self.route.call.endpoint.name}: {said}"
        warnings.warn(message, PaginationDriftWarning, stacklevel=_frames_to_caller())

    def _located(self, error: CrowdTwistError) -> CrowdTwistError:
        """The error with the cursor, and the walk's own errors with where."""
        error.cursor = self.cursor
        if isinstance(error, PaginationError):
            error.endpoint = self.route.call.endpoint.name
            error.host = self.route.call.base.host
            error.attempts = self._fetched
            error.elapsed = anyio.current_time() - (self._began or 0.0)
        return error.with_traceback(None)


def left_behind() -> ClientClosedError:
    """The error for who takes rows of a prefetch after its block."""
    return ClientClosedError("the prefetch is over: use its items inside its `async with`")


def _first_known(
    before: tuple[int | None, int | None], now: tuple[int | None, int | None]
) -> tuple[int | None, int | None]:
    total, pages = (new if old is None else old for old, new in zip(before, now, strict=True))
    return total, pages


def _frames_to_caller() -> int:
    """
    How far up the user's own `async for` is, for a warning that points there.

    A walk in a task of its own, such as a fan-out's, has none: there it is what runs the loop.
    """
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_THE_CALLER:
        frame, level = frame.f_back, level + 1
    return level
