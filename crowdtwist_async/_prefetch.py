"""
Fetching pages before they are wanted: the same walk, over pages that are already on their way.

`PageWalk` still decides page by page, so the items, their order and the errors are those of the
walk without prefetching; only where the counts say that pages are to come, they are asked for early.

No page is asked for while another of the walk waits for a slot, for the request budget, or for the end
of its host's pause: pages that are served later than their deadline would end the walk.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from crowdtwist_async._page_walk import PageWalk, Route, left_behind
from crowdtwist_async._progress import METER, RunStats
from crowdtwist_async._protocol import Call
from crowdtwist_async._tasks import cancelled_elsewhere, tasks_of_block
from crowdtwist_async._walk import Seen
from crowdtwist_async.models import Page

T = TypeVar("T")


@asynccontextmanager
async def prefetching(route: Route[T], ahead: int) -> AsyncIterator[PageWalk[T]]:
    """
    Give a walk whose next pages are fetched while one is processed.

    Leaving cancels what is under way. An error of the caller's own passes as it is.
    """
    async with tasks_of_block() as tasks:
        walk = PageWalk(route.fetched_by(_Ahead(route, ahead, tasks).fetch))
        try:
            yield walk
        finally:
            walk.over = True


class _Coming(Generic[T]):
    """A page that was asked for, and what came of it."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()
        self.outcome: Page[T] | Exception | None = None
        """Set before `done`; none, if it was cancelled with the block."""


class _Ahead(Generic[T]):
    """Keeps as many pages on their way, or held, as are allowed."""

    def __init__(self, route: Route[T], ahead: int, tasks: TaskGroup) -> None:
        self._route = route
        self._ahead = ahead
        self._tasks = tasks
        # A cancelled request is under way until its connection is closed.
        self._room = anyio.Semaphore(ahead, fast_acquire=True)
        self._line = anyio.Lock(fast_acquire=True)
        self._stats = RunStats(one_host=True)
        self._coming: dict[int, _Coming[T]] = {}
        self._last: int | None = None
        """The last page that the counts know of; `None` before the first page."""
        self._rows_left = math.inf if route.max_items is None else route.max_items + route.start.taken
        self._given: set[int] = set()
        """Pages that the walk got: going backward it keeps those that it reads in search of the end."""
        self._given_below = 1
        """All pages before this one are given."""

    async def fetch(self, call: Call[Page[T]]) -> Page[T]:
        """The page that the walk wants now; wanted twice, it is fetched twice."""
        number = 1 if call.page is None else call.page
        size = call.page_size
        wanted = [number, *self._following(number, self._rows_left - size, size)][: self._ahead]
        coming = self._keep(call, wanted)[number]
        await coming.done.wait()
        del self._coming[number]
        if coming.outcome is None:
            raise left_behind()
        if isinstance(coming.outcome, Exception):
            try:
                raise coming.outcome
            finally:
                del coming  # as in `PageWalk.next_page`
        self._look_beyond(call, coming.outcome)
        return coming.outcome

    def _look_beyond(self, call: Call[Page[T]], page: Page[T]) -> None:
        """Ask for what follows a page, while that page is processed."""
        self._last = max(Seen.of(page, call.page_size).counted_pages, default=1)
        self._given.add(page.number)
        while self._given_below in self._given:
            self._given.discard(self._given_below)
            self._given_below += 1
        if page.number > 1 or not self._route.reverse:
            # Backward, the rows of page 1 are the last, and it is read first to find the end.
            self._rows_left -= len(page)
        if len(page) or page.number < 1:
            self._keep(call, self._following(page.number, self._rows_left, call.page_size)[: self._ahead])

    def _following(self, number: int, rows_left: float, size: int) -> Sequence[int]:
        """The pages that come after this one, by the counts and by how many rows are wanted."""
        if self._last is None or rows_left <= 0:
            return ()
        most = self._ahead if rows_left == math.inf else min(self._ahead, -int(-rows_left // size))
        if self._route.reverse:
            lower = range(number - 1, self._given_below - 1, -1)
            return list(islice((page for page in lower if page not in self._given), most))
        first = max(number + 1, 1)
        return range(first, min(first + most, self._last + 1))

    def _keep(self, call: Call[Page[T]], numbers: Sequence[int]) -> dict[int, _Coming[T]]:
        """Have just these pages on their way or held."""
        for number in self._coming.keys() - set(numbers):
            self._coming.pop(number).scope.cancel()
        for number in numbers:
            if number not in self._coming:
                coming = self._coming[number] = _Coming()
                self._tasks.start_soon(self._fetch, call.at_page(number), coming)
        return self._coming

    async def _fetch(self, call: Call[Page[T]], coming: _Coming[T]) -> None:
        METER.set((*METER.get(), self._stats))
        try:
            with coming.scope:
                async with self._room:
                    async with self._line:
                        await self._stats.until_none_waits()
                    coming.outcome = await self._route.fetch(call)
        except Exception as error:  # noqa: BLE001 - the walk raises it when it gets there
            coming.outcome = error
        except anyio.get_cancelled_exc_class():
            if not cancelled_elsewhere():
                raise
            coming.outcome = RuntimeError("what the transport waited for was cancelled elsewhere")
        finally:
            coming.done.set()
