"""
Where rows come from: everything that one endpoint has for one member.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime
from typing import Any, Literal

from attrs import evolve, frozen

from crowdtwist_async._arguments import checked_dates, checked_id_type
from crowdtwist_async._progress import METER, Stats
from crowdtwist_async._protocol import POINTS, PURCHASES, REWARDS, Endpoint, entries_of, points_call
from crowdtwist_async.client import CrowdTwistClient
from crowdtwist_async.errors import InvalidArgumentError, PaginationLoopError
from crowdtwist_async.export.rows import Row, make_row
from crowdtwist_async.models import IdType, IdTypeText, Page

EndpointName = Literal["points", "rewards", "purchases"]
_ENDPOINTS = {"points": POINTS, "rewards": REWARDS, "purchases": PURCHASES}
_WALKS = 3
"""How often a member is walked in all while the counts change, or pages repeat."""


@frozen
class Source:
    """
    What to fetch for every member.

    Raises:
        InvalidArgumentError: An argument can't work for any member.
    """

    name: EndpointName
    id_type: IdType | IdTypeText = "id"
    include_soldout: bool | None = None
    date_start: date | str | None = None
    date_end: date | str | None = None

    def __attrs_post_init__(self) -> None:
        if self.name not in _ENDPOINTS:
            raise InvalidArgumentError(f"endpoint must be one of {', '.join(_ENDPOINTS)}")
        checked_id_type(self.id_type, self.endpoint.id_types, self.endpoint.name)
        start, end = checked_dates(self.date_start, self.date_end)
        if self.name != "purchases" and (start or end):
            raise InvalidArgumentError("date_start and date_end are for purchases alone")
        if start is not None and end is None and start > datetime.now(UTC).date():
            raise InvalidArgumentError(
                "date_start is in the future, and without date_end an export ends today (UTC): give both"
            )
        if self.name != "rewards" and self.include_soldout is not None:
            raise InvalidArgumentError("include_soldout is for rewards alone")

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint behind the name."""
        return _ENDPOINTS[self.name]

    @property
    def kind(self) -> IdType:
        """What the ids are."""
        return IdType(self.id_type)

    async def ask(self, client: CrowdTwistClient, user_id: str) -> None:
        """Make one request for a member, to see whether the API answers; forget what it says."""
        if self.name == "points":
            await client.points_awaiting_fulfillment(user_id, id_type=self.kind)
        else:
            await anext(self.pages(client, user_id), None)

    def pages(self, client: CrowdTwistClient, user_id: str) -> AsyncIterator[Page[Any]]:
        """A member's pages; after an error the next step asks for the same page again."""
        if self.name == "rewards":
            return client.iter_user_rewards(
                user_id, id_type=self.kind, include_soldout=self.include_soldout, on_drift="ignore"
            ).pages()
        return client.iter_user_purchases(
            user_id,
            id_type=self.kind,
            date_start=self.date_start,
            date_end=self.date_end,
            on_drift="ignore",
        ).pages()


class Member:
    """One member's rows, as far as they are fetched."""

    def __init__(self, source: Source, client: CrowdTwistClient, user_id: str) -> None:
        self.user_id = user_id
        self.rows: list[Row] = []
        self.drifted = False
        """The counts changed in the last of the walks: rows may be missing or doubled."""
        self.stats = Stats()
        self.pages = 0
        """Pages so far: how a try that got further is told from one that did not."""
        self.tries = 0
        """Tries since the last page that ended in a failure."""
        self._source = source
        self._client = client
        self._walks = 0
        self._left: AsyncIterator[Page[Any]] | None = None
        self._counts: tuple[Any, Any] = (None, None)

    async def fetch(self) -> None:
        """
        Fetch what is missing: one request a page, one for points; after an error, call it again.

        Raises:
            CrowdTwistError: The next page can't be had.
        """
        counted = METER.set((*METER.get(), self.stats))
        try:
            if self._source.name == "points":
                self.rows = [await self._points()]
            else:
                await self._walk()
        finally:
            METER.reset(counted)

    async def _walk(self) -> None:
        while True:
            try:
                page = await anext(self._walked(), None)
            except PaginationLoopError:
                # With ten rows more, each page is the one before it.
                if self._walks == _WALKS:
                    raise
                self._left = None
                continue
            if page is None:
                return
            self.pages += 1
            if self._changed(page):
                self.drifted = self._walks == _WALKS
                if not self.drifted:
                    self._left = None
                    continue
            self.rows += self._rows_of_page(page)

    def _walked(self) -> AsyncIterator[Page[Any]]:
        """The walk that is under way, or a new one."""
        if self._left is None:
            self._walks += 1
            self.rows, self._counts = [], (None, None)
            self._left = self._source.pages(self._client, self.user_id)
        return self._left

    def _changed(self, page: Page[Any]) -> bool:
        """Whether a count differs from the first that this walk saw."""
        known, now = self._counts, (page.total, page.pages)
        self._counts = (now[0] if known[0] is None else known[0], now[1] if known[1] is None else known[1])
        return any(new not in (None, old) for new, old in zip(now, self._counts, strict=True))

    def _rows_of_page(self, page: Page[Any]) -> Iterator[Row]:
        # The page of `no_data` is made by the client: its body has no entries.
        sent = entries_of(page.raw, self._source.endpoint) if page.items else []
        for item, entry in zip(page.items, sent, strict=True):
            yield make_row(self.user_id, self._source.id_type, item, entry)

    async def _points(self) -> Row:
        """The endpoint returns a model without its JSON; a row also holds what the model does not know."""
        settings = self._client._session.settings  # noqa: SLF001 - as said
        call: Any = points_call(settings, self.user_id, self._source.id_type)
        both = evolve(call, decode=lambda body, call_: (call.decode(body, call_), body))
        points, body = await self._client._send(both)  # noqa: SLF001 - as said
        return make_row(self.user_id, self._source.id_type, points, body)
