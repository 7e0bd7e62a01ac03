"""
One request as the endpoints see it: which endpoint, which user, which parameters.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

POINTS = "points_awaiting_fulfillment"
REWARDS = "user_rewards"
PURCHASES = "user_purchases"

POINTS_PARAMETERS = {
    "email_address": "email",
    "mobile_phone_number": "mobile_phone_number",
    "third_party_id": "third_party_id",
}
"""The id type that each query parameter of the points endpoint stands for."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request, taken apart once."""

    method: str
    endpoint: str | None
    """The name of the client's coroutine; `None` for an unknown path."""
    user: str | None = field(repr=False)
    """The id in the path, percent-decoded exactly once, or in the query of the points endpoint."""
    in_path: bool
    """Whether `user` came from the path."""
    query: dict[str, str] = field(repr=False)
    authorization: str | None = field(repr=False)
    """The value of `X-CT-Authorization`."""
    timestamp: str | None = field(repr=False)
    """The value of `X-CT-Timestamp`."""
    uri: str = field(repr=False)
    """Path and query, as sent."""
    address: str = field(repr=False)
    """Scheme, host and path, as the caller wrote them."""
    raw_query: str = field(repr=False)

    def link(self, page: int) -> str:
        """Repeat the request's own URL, key included, with another page number."""
        parts = [part for part in self.raw_query.split("&") if part and part.partition("=")[0] != "page"]
        return f"{self.address}?{'&'.join([*parts, f'page={page}'])}"


def read_call(scope: Scope) -> Call:
    """Take an ASGI `http` scope apart."""
    # `path` is decoded, so a slash within an id is lost in it; not every server sends `raw_path`.
    path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
    raw_query = scope["query_string"].decode("latin-1")
    query = dict(parse_qsl(raw_query, keep_blank_values=True)) if raw_query else {}
    endpoint, user = route(path)
    in_path = user is not None
    if endpoint == POINTS and not in_path:
        user = next((query[name] for name in POINTS_PARAMETERS if name in query), None)
    headers = dict(scope["headers"])
    authorization, timestamp = headers.get(b"x-ct-authorization"), headers.get(b"x-ct-timestamp")
    return Call(
        method=scope["method"],
        endpoint=endpoint,
        user=user,
        in_path=in_path,
        query=query,
        authorization=None if authorization is None else authorization.decode("latin-1"),
        timestamp=None if timestamp is None else timestamp.decode("latin-1"),
        uri=f"{path}?{raw_query}" if raw_query else path,
        address=f"{scope['scheme']}://{headers.get(b'host', b'localhost').decode('latin-1')}{path}",
        raw_query=raw_query,
    )


def route(path: str) -> tuple[str | None, str | None]:
    """Find the endpoint of a percent-encoded path, and the decoded user id in it."""
    match path.split("/"):
        case ["", "fulfillment", "users"]:
            return POINTS, None
        case ["", "fulfillment", "users", user] if user:
            return POINTS, unquote(user)
        case ["", "v2.1", "users", user, "rewards"] if user:
            return REWARDS, unquote(user)
        case ["", "users", user, "purchases"] if user:
            return PURCHASES, unquote(user)
    return None, None
