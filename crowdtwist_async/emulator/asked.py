"""
What the emulator remembers of a request: whom and what it asked for, and never the key.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from crowdtwist_async.emulator.calls import POINTS, POINTS_PARAMETERS, Call
from crowdtwist_async.emulator.paging import page_number

_PARAMETERS = ("page_size", "include_soldout", "date_start", "date_end")


@dataclass(slots=True)
class AskedRequest:
    """One request that the emulator got; its repr shows no user id."""

    endpoint: str | None
    """The name of the client's coroutine, such as `user_purchases`; `None` for an unknown path."""
    user: str | None = field(repr=False)
    """The id as the caller gave it."""
    id_type: str | None
    """What the id is, such as `email`."""
    page: int | None
    """The page, 1 when none was asked for; `None` where there are no pages."""
    parameters: dict[str, str]
    """Those of `page_size`, `include_soldout`, `date_start`, `date_end` that were sent, as they were."""
    status: int | None = None
    """The HTTP status of the answer; `None`: none yet, or the connection was reset before one."""


def asked_by(call: Call) -> AskedRequest:
    """Note a request, before it is answered."""
    return AskedRequest(
        endpoint=call.endpoint,
        user=call.user,
        id_type=_id_type(call),
        page=None if call.endpoint in (POINTS, None) else page_number(call.query.get("page")),
        parameters={name: call.query[name] for name in _PARAMETERS if name in call.query},
    )


def _id_type(call: Call) -> str | None:
    if call.user is None:
        return None
    if call.endpoint == POINTS and not call.in_path:
        return next(id_type for name, id_type in POINTS_PARAMETERS.items() if name in call.query)
    return call.query.get("id_type", "id")
