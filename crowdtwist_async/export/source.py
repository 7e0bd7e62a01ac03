"""
Where rows come from: everything that one endpoint has for one member.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from typing import Any

from attrs import frozen

from crowdtwist_async._arguments import checked_dates, checked_id_type
from crowdtwist_async._protocol import POINTS, PURCHASES, REWARDS, Endpoint, entries_of, points_call
from crowdtwist_async.client import CrowdTwistClient
from crowdtwist_async.errors import PaginationDriftError
from crowdtwist_async.export.rows import Row, make_row
from crowdtwist_async.models import Page

_ENDPOINTS = {"points": POINTS, "rewards": REWARDS, "purchases": PURCHASES}
_WALKS = 3
"""How often a member is walked in all while the counts change: such rows may be doubled, or not all."""


@frozen
class Source:
    """
    What to fetch for every member.

    Raises:
        InvalidArgumentError: An argument can't work for any member.
    """

    name: str
    """`points`, `rewards` or `purchases`."""
    id_type: str = "id"
    include_soldout: bool | None = None
    date_start: date | str | None = None
    date_end: date | str | None = None

    def __attrs_post_init__(self) -> None:
        checked_id_type(self.id_type, self.endpoint.id_types, self.endpoint.name)
        checked_dates(self.date_start, self.date_end)

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint behind the name."""
        return _ENDPOINTS[self.name]

    async def rows(self, client: CrowdTwistClient, user_id: str) -> list[Row]:
        """
        Fetch all rows of one member: one request a page, one for points.

        Raises:
            CrowdTwistError: The member's rows can't be had as a whole.
        """
        if self.name == "points":
            return [await self._points(client, user_id)]
        for _ in range(_WALKS - 1):
            with suppress(PaginationDriftError):
                return await self._walked(client, user_id)
        return await self._walked(client, user_id)

    async def _walked(self, client: CrowdTwistClient, user_id: str) -> list[Row]:
        pages: Any = self._pager(client, user_id).pages()
        return [row async for page in pages for row in self._rows_of_page(page, user_id)]

    def _pager(self, client: CrowdTwistClient, user_id: str) -> Any:
        if self.name == "rewards":
            return client.iter_user_rewards(
                user_id, id_type=self.id_type, include_soldout=self.include_soldout, on_drift="raise"
            )
        return client.iter_user_purchases(
            user_id,
            id_type=self.id_type,
            date_start=self.date_start,
            date_end=self.date_end,
            on_drift="raise",
        )

    def _rows_of_page(self, page: Page[Any], user_id: str) -> Iterator[Row]:
        # The page of `no_data` is made by the client: its body has no entries.
        sent = entries_of(page.raw, self.endpoint) if page.items else []
        for item, entry in zip(page.items, sent, strict=True):
            yield make_row(user_id, self.id_type, item, entry)

    async def _points(self, client: CrowdTwistClient, user_id: str) -> Row:
        """The endpoint returns a model without its JSON; a row also holds what the model does not know."""
        call: Any = points_call(client._session.settings, user_id, self.id_type)  # noqa: SLF001 - as said
        both = call._replace(decode=lambda body, call_: (call.decode(body, call_), body))
        points, body = await client._send(both)  # noqa: SLF001 - as said
        return make_row(user_id, self.id_type, points, body)
