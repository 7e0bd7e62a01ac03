"""
The three endpoints as plain functions: arguments to a `Call`, a call to a `Request`, JSON to a model.

Nothing here does I/O. What a whole reply means, errors included, is in `_replies`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import date
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from urllib.parse import quote

from attrs import evolve, frozen

from crowdtwist_async._arguments import (
    MAX_PAGE_SIZE,
    checked_dates,
    checked_flag,
    checked_id_type,
    checked_integer,
    checked_page_size,
    checked_user_id,
)
from crowdtwist_async._config import Base, Settings
from crowdtwist_async._convert import checked_object, known_names, structure, structure_list
from crowdtwist_async._secrets import Secret
from crowdtwist_async._signing import sign
from crowdtwist_async.errors import DecodeError
from crowdtwist_async.models import (
    IdType,
    Page,
    Paging,
    PointsAwaitingFulfillment,
    Purchase,
    Reward,
)
from crowdtwist_async.transports import Request

T = TypeVar("T")

_POS_ID_TYPES = frozenset({IdType.ID, IdType.EMAIL, IdType.THIRD_PARTY_ID, IdType.MOBILE_PHONE_NUMBER})
_POINTS_PATH = "/fulfillment/users"
_POINTS_PARAMETERS = {
    IdType.EMAIL: "email_address",
    IdType.MOBILE_PHONE_NUMBER: "mobile_phone_number",
    IdType.THIRD_PARTY_ID: "third_party_id",
}
# First of the links that a text may hold; the API's own sample is no parseable URL.
_PAGE_IN_LINK = r"[?&;]page=(-?[0-9]{1,18})(?![0-9])"


class Endpoint(NamedTuple):
    """What sets one endpoint apart."""

    name: str
    """The client's coroutine."""
    host: Literal["api", "pos"]
    """The api host takes the key in the query, or a signature; the pos host the key in a header."""
    id_types: frozenset[IdType]
    """The id types that it takes."""
    entries: str = ""
    """The name of the array that holds a page's entries, on the paginated endpoints."""
    model: type = object
    """The class of an entry, or of the whole reply."""
    template: str = ""
    """The path of a user's id."""


POINTS = Endpoint(
    "points_awaiting_fulfillment",
    "pos",
    _POS_ID_TYPES,
    model=PointsAwaitingFulfillment,
    template=f"{_POINTS_PATH}/{{user_id}}",
)
REWARDS = Endpoint(
    "user_rewards", "api", frozenset(IdType), "rewards", Reward, "/v2.1/users/{user_id}/rewards"
)
PURCHASES = Endpoint(
    "user_purchases", "pos", _POS_ID_TYPES, "purchases", Purchase, "/users/{user_id}/purchases"
)


@frozen(repr=False)
class Call(Generic[T]):
    """
    One call with checked arguments, free of the key; its repr shows no user id.

    No tuple: crash reporters print those of a frame entry by entry.
    """

    endpoint: Endpoint
    base: Base
    path: str
    """Percent-encoded."""
    query: str
    """Encoded, without the page and the key."""
    user_id: str
    id_type: IdType
    decode: Callable[[Any, Call[T]], T]
    """Turns the decoded body of a good reply into what the call returns."""
    page: int | None = None
    page_size: int = MAX_PAGE_SIZE
    """Entries that a full page holds."""
    parent: Any = None
    """OpenTelemetry's context of the walk that it is a page of."""

    def __repr__(self) -> str:
        return f"Call(endpoint={self.endpoint.name!r}, host={self.base.host!r}, page={self.page})"

    def at_page(self, page: int) -> Call[T]:
        """The same call for another page."""
        return evolve(self, page=page)

    @property
    def template(self) -> str:
        """The path with a name in place of the user id, if one is in it."""
        by_parameter = self.endpoint is POINTS and self.id_type in _POINTS_PARAMETERS
        return _POINTS_PATH if by_parameter else self.endpoint.template

    def fingerprint(self, direction: str) -> str:
        """24 bits that tell one walk from another, and too few to tell who the user is."""
        text = "\0".join((self.base.origin, self.base.path, self.path, self.query, direction))
        return hashlib.sha256(text.encode()).hexdigest()[:6]

    def request(self, settings: Settings, timeout: float) -> Request:
        """What to send for one attempt."""
        query = self.query
        if self.page is not None:
            query = f"{query}&page={self.page}" if query else f"page={self.page}"
        on_api = self.endpoint.host == "api"
        signing = settings.signing if on_api else None
        request = Request(
            endpoint=self.endpoint.name,
            origin=self.base.origin,
            path=self.base.path + self.path,
            query=query,
            secret_query=settings.key_query if on_api and signing is None else None,
            secret_header=None if on_api else settings.key_header,
            timeout=timeout,
        )
        if signing is not None:
            request.signed = sign(signing, request.target, settings.wall_clock())
        return request


def points_call(
    settings: Settings, user_id: str | int | Secret, id_type: str
) -> Call[PointsAwaitingFulfillment]:
    """`points_awaiting_fulfillment`: the id in the path, any other kind of id in the query."""
    user, kind = _checked_user(POINTS, user_id, id_type)
    parameter = _POINTS_PARAMETERS.get(kind)
    return Call(
        endpoint=POINTS,
        base=settings.pos,
        path=_POINTS_PATH if parameter else f"{_POINTS_PATH}/{_encoded(user)}",
        query=_query({parameter: user}) if parameter else "",
        user_id=user,
        id_type=kind,
        decode=_read_points,
    )


def rewards_call(
    settings: Settings,
    user_id: str | int | Secret,
    *,
    id_type: str,
    page: int | None = None,
    page_size: int | None = None,
    include_soldout: bool | None = None,
) -> Call[Page[Reward]]:
    """`user_rewards`."""
    number, size = _checked_page(page), checked_page_size(page_size)
    soldout = checked_flag(include_soldout, "include_soldout")
    user, kind = _checked_user(REWARDS, user_id, id_type)
    return Call(
        endpoint=REWARDS,
        base=settings.api,
        path=f"/v2.1/users/{_encoded(user)}/rewards",
        query=_query(
            {
                "id_type": kind,
                "page_size": None if size is None else str(size),
                "include_soldout": None if soldout is None else str(soldout).lower(),
            }
        ),
        user_id=user,
        id_type=kind,
        decode=_read_page,
        page=number,
        page_size=size or MAX_PAGE_SIZE,
    )


def purchases_call(
    settings: Settings,
    user_id: str | int | Secret,
    *,
    id_type: str,
    page: int | None = None,
    date_start: date | str | None = None,
    date_end: date | str | None = None,
) -> Call[Page[Purchase]]:
    """`user_purchases`."""
    number, (start, end) = _checked_page(page), checked_dates(date_start, date_end)
    user, kind = _checked_user(PURCHASES, user_id, id_type)
    return Call(
        endpoint=PURCHASES,
        base=settings.pos,
        path=f"/users/{_encoded(user)}/purchases",
        query=_query(
            {
                "id_type": kind,
                "date_start": start.isoformat() if start else None,
                "date_end": end.isoformat() if end else None,
            }
        ),
        user_id=user,
        id_type=kind,
        decode=_read_page,
        page=number,
    )


def page_in_link(link: str | None) -> int | None:
    """The page number that a link names; a placeholder or a link without one has none."""
    match = re.search(_PAGE_IN_LINK, link or "")
    return int(match[1]) if match else None


def _checked_user(endpoint: Endpoint, user_id: object, id_type: object) -> tuple[str, IdType]:
    """The last of a call's checks: no error after it shows the id in its traceback."""
    kind = checked_id_type(id_type, endpoint.id_types, endpoint.name)
    return checked_user_id(user_id), kind


def _checked_page(page: int | None) -> int | None:
    """Any integer: the reference has rules for pages out of range."""
    return None if page is None else checked_integer(page, "page")


def _encoded(text: str) -> str:
    """Percent-encode with no safe characters, so that an id can't change the path."""
    return quote(text, safe="")


def _query(parameters: dict[str, str | None]) -> str:
    return "&".join(f"{name}={_encoded(value)}" for name, value in parameters.items() if value is not None)


def _read_points(body: Any, call: Call[PointsAwaitingFulfillment]) -> PointsAwaitingFulfillment:
    points = structure(body, PointsAwaitingFulfillment)
    asked = call.user_id
    is_number = call.id_type is IdType.ID and asked.isascii() and asked.isdigit()
    if is_number and (asked.lstrip("0") or "0") != str(points.user_id):
        error = DecodeError("the reply is about another user than the one asked for")
        error.path = "user_id"
        raise error
    return points


def _read_page(body: Any, call: Call[Page[T]]) -> Page[T]:
    sent, endpoint = checked_object(body), call.endpoint
    if not has_entries(sent, endpoint):
        error = DecodeError("a required field is missing")
        error.path = endpoint.entries
        raise error
    return Page(
        items=structure_list(entries_of(sent, endpoint), endpoint.model, endpoint.entries),
        paging=structure(sent.get("paging"), Paging, "paging"),
        number=page_number(call),
        raw=body,
    )


def has_entries(body: dict[str, Any], endpoint: Endpoint) -> bool:
    """
    Whether a body has a page's entries.

    The reference's rewards sample has the fields of one reward beside `paging`, and no array.
    """
    return endpoint.entries in body or (endpoint is REWARDS and "id" in body and "title" in body)


def entries_of(body: dict[str, Any], endpoint: Endpoint) -> Any:
    """What stands where a page's entries belong, in a body that has them."""
    if endpoint.entries in body:
        return body[endpoint.entries]
    known = known_names(Reward)
    return [{name: value for name, value in body.items() if name in known}]


def empty_page(call: Call[Any], body: Any) -> Page[Any]:
    """The page that stands for `no_data`: the client has no rewards."""
    return Page(items=(), paging=Paging(total=0, pages=0), number=page_number(call), raw=body)


def page_number(call: Call[Any]) -> int:
    """The page that the server takes a call for."""
    return 1 if call.page is None else call.page
