"""
Models and replies made by hand, for tests that need no emulator.

`make_points`, `make_purchase`, `make_reward` and `make_page` have a sensible value for every field;
`as_json` gives what a server sends for one of them, and `make_reply` a whole reply. For tests with the
emulator see `crowdtwist_async.pytest_plugin`, whose clock is the `InstantClock`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar, overload

from attrs import AttrsInstance, evolve, fields

from crowdtwist_async._convert import structure
from crowdtwist_async.emulator.instant import InstantClock
from crowdtwist_async.models import (
    ExtraData,
    Page,
    Paging,
    PointsAwaitingFulfillment,
    Purchase,
    Reward,
)
from crowdtwist_async.transports import Reply

__all__ = [
    "InstantClock",
    "as_json",
    "make_page",
    "make_points",
    "make_purchase",
    "make_reply",
    "make_reward",
]

T = TypeVar("T", bound=Purchase | Reward)

_PAGE_SIZE = 10
_ENTRIES: dict[type, str] = {Purchase: "purchases", Reward: "rewards"}
_POINTS = PointsAwaitingFulfillment(
    user_id=10_000_001, total_points_awaiting_fulfillment=150, bonus_points_awaiting_fulfillment=50
)
_PURCHASE = Purchase(
    last_date_purchased=datetime(2026, 1, 31, 12, tzinfo=UTC),
    purchase_id="order_1",
    purchase_id_type="order_id",
    purchase_total=100,
    total_points_awarded=100,
    total_points_earned=100,
    points_awaiting_fulfillment=0,
)
_REWARD = Reward(
    id="1",
    group_id=1,
    title="Free coffee",
    description="A cup of coffee.",
    current_quantity=10,
    num_points=500,
    date_start=datetime(2026, 1, 1, tzinfo=UTC),
    is_enabled=True,
    category_id=1,
    no_end_date=True,
    total_quantity=100,
    max_per_user=1,
    is_shipping_required=False,
    is_phone_number_required=False,
    is_min_age_required=False,
    is_digital_download=False,
    total_coupons=0,
    remaining_coupons=0,
    image="https://cdn.example.com/1.jpg",
)


def make_points(**changes: Any) -> PointsAwaitingFulfillment:
    """
    Make the points of member 10000001: 150 points and 50 bonus points await fulfillment.

    Args:
        changes: Fields of `PointsAwaitingFulfillment` with other values.
    """
    return evolve(_POINTS, **changes)


def make_purchase(**changes: Any) -> Purchase:
    """
    Make a purchase of 100 points on 2026-01-31, all of them awarded.

    Args:
        changes: Fields of `Purchase` with other values.
    """
    return evolve(_PURCHASE, **changes)


def make_reward(**changes: Any) -> Reward:
    """
    Make a reward of 500 points, in stock, for everyone, without an end; what may be null is.

    Args:
        changes: Fields of `Reward` with other values.
    """
    return evolve(_REWARD, **changes)


@overload
def make_page(*, number: int = ..., pages: int | None = ..., total: int | None = ...) -> Page[Purchase]: ...


@overload
def make_page(
    items: Iterable[T],
    *,
    of: type[T] | None = ...,
    number: int = ...,
    pages: int | None = ...,
    total: int | None = ...,
) -> Page[T]: ...


@overload
def make_page(
    *, of: type[T], number: int = ..., pages: int | None = ..., total: int | None = ...
) -> Page[T]: ...


def make_page(
    items: Iterable[Any] = (),
    *,
    of: type[Any] | None = None,
    number: int = 1,
    pages: int | None = None,
    total: int | None = None,
) -> Page[Any]:
    """
    Make a page of purchases or of rewards, with the links and the body that a server would send.

    Args:
        items: The entries, all of one kind.
        of: `Purchase` or `Reward`, where there are no entries to tell it; by default `Purchase`.
        number: The page's number.
        pages: How many pages there are; by default this is the last.
        total: How many entries there are; by default all other pages are full. The pages of one walk
            must agree on it, or the walk reports a drift.

    Raises:
        TypeError: The entries are not purchases alone, or rewards alone.
    """
    entries = tuple(items)
    kind = type(entries[0]) if entries else of or Purchase
    if kind not in _ENTRIES or any(type(entry) is not kind for entry in entries):
        raise TypeError("a page has purchases or rewards, all of one kind: make_purchase() or make_reward()")
    pages = (number if entries else 0) if pages is None else pages
    others = max(pages - 1, 0) if 1 <= number <= pages else pages
    total = others * _PAGE_SIZE + len(entries) if total is None else total
    before = min(number - 1, pages)
    paging = {
        "total": total,
        "pages": pages,
        "next_page": _link(kind, number + 1) if number < pages else None,
        "prev_page": _link(kind, before) if before >= 1 else None,
    }
    raw = {_ENTRIES[kind]: [as_json(entry) for entry in entries], "paging": paging}
    return Page(items=entries, paging=structure(paging, Paging), number=number, raw=raw)


def as_json(made: AttrsInstance | Page[Any]) -> dict[str, Any]:
    """
    Give the JSON object that a server would send: the client reads it back as it was.

    Args:
        made: Points, a purchase, a reward, or a page, whose `raw` it is.
    """
    if isinstance(made, Page):
        return dict(made.raw)
    return {field.name: _plain(getattr(made, field.name), type(made)) for field in fields(type(made))}


def make_reply(
    body: AttrsInstance | Mapping[str, Any] | bytes = b"",
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """
    Make the reply of a `Transport` of your own.

    Args:
        body: A model or a page, decoded JSON, or the body as sent.
        status: The HTTP status.
        headers: The headers.
    """
    if not isinstance(body, bytes):
        body = json.dumps(dict(body) if isinstance(body, Mapping) else as_json(body)).encode()
    named = {name.lower(): value for name, value in (headers or {}).items()}
    return Reply(status, {"content-type": "application/json", **named}, body)


def _plain(value: Any, model: type) -> Any:
    """One field as the API writes it: flags are 1 and 0, the dates of rewards unix seconds."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, ExtraData):
        return dict(value)
    if isinstance(value, datetime):
        seconds = (value - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
        if model is Reward and not value.microsecond:
            return int(seconds)
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return as_json(value) if hasattr(type(value), "__attrs_attrs__") else value


def _link(kind: type, page: int) -> str:
    if kind is Reward:
        return f"https://api.crowdtwist.com/v2.1/users/10000001/rewards?page={page}"
    return f"https://pos.crowdtwist.com/users/10000001/purchases?page={page}"
