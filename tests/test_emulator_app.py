"""
Counting, the ceiling, and the parts of ASGI that are not an endpoint.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import anyio

from crowdtwist_async._secrets import Secret
from crowdtwist_async.emulator import Emulator, EmulatorStats, Fault
from crowdtwist_async.errors import CrowdTwistError
from crowdtwist_async.transports import Reply, Request


def purchases(user: str = "10000001", query: str = "") -> Request:
    """A request for purchases, by default of the member who has 14 pages."""
    return Request(
        endpoint="user_purchases",
        origin="http://localhost",
        path=f"/users/{user}/purchases",
        query=query,
        secret_header=Secret("CTApiKey emulator-key"),
    )


def points(user: str = "10000001") -> Request:
    """A request for the points of a member."""
    return Request(
        endpoint="points_awaiting_fulfillment",
        origin="http://localhost",
        path=f"/fulfillment/users/{user}",
        query="",
        secret_header=Secret("CTApiKey emulator-key"),
    )


def send(emulator: Emulator, *requests: Request) -> list[Reply | CrowdTwistError]:
    """Send requests one after the other, in process."""

    async def send_all() -> list[Reply | CrowdTwistError]:
        transport = emulator.transport()
        return [await transport.send(request) for request in requests]

    return anyio.run(send_all)


def statuses(replies: list[Reply | CrowdTwistError]) -> list[int | None]:
    """The HTTP statuses; `None` for a failed attempt."""
    return [reply.status if isinstance(reply, Reply) else None for reply in replies]


def test_stats_count_requests_rows_and_statuses() -> None:
    """Rows are those of whole 200 replies, and a points reply is one."""
    emulator = Emulator(faults=[Fault.reset(), Fault.truncate(), Fault.status(503), Fault.not_json()])
    faulty = [purchases() for _ in range(4)]

    send(emulator, *faulty, purchases(), purchases(query="page=14"), points(), purchases("nobody"))

    assert (8, 10 + 2 + 1) == (emulator.stats.requests, emulator.stats.rows)
    assert {"user_purchases": 7, "points_awaiting_fulfillment": 1} == emulator.stats.by_endpoint
    assert {200: 5, 503: 1, 404: 1} == emulator.stats.by_status


def test_stats_begin_anew() -> None:
    """What was taken before stays as it was."""
    emulator = Emulator()
    send(emulator, points())
    before = emulator.stats

    emulator.reset_stats()

    assert EmulatorStats() == emulator.stats
    assert 1 == before.requests


def test_unknown_paths_count_as_requests_alone() -> None:
    """They belong to no endpoint."""
    emulator = Emulator()
    request = points()
    request.path = "/v3"

    assert [404] == statuses(send(emulator, request))
    assert (1, {}) == (emulator.stats.requests, emulator.stats.by_endpoint)


def test_no_minute_has_more_than_the_ceiling() -> None:
    """The window slides: a place is free again 60 seconds after it was taken, not on the minute."""
    now = 1000.0
    emulator = Emulator(per_minute=2, clock=lambda: now)

    seen = {}
    for now in (1000.0, 1030.0, 1031.5, 1059.9, 1060.0, 1061.0, 1090.0):
        (reply,) = send(emulator, points())
        assert isinstance(reply, Reply)
        seen[now] = reply.status, reply.headers.get("retry-after")

    expected = {
        1000.0: (200, None),
        1030.0: (200, None),
        1031.5: (429, "29"),
        1059.9: (429, "1"),
        1060.0: (200, None),
        1061.0: (429, "29"),
        1090.0: (200, None),
    }
    assert expected == seen


def test_a_refused_request_takes_no_fault() -> None:
    """The script is for the requests that get past the ceiling."""
    emulator = Emulator(per_minute=1, clock=lambda: 0.0)
    send(emulator, points())
    emulator.script(Fault.status(500))

    assert [429] == statuses(send(emulator, points()))
    assert 1 == len(emulator.pending_faults)


def test_lifespan_is_answered() -> None:
    """A server that starts and stops the app hears that it may."""
    events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[str] = []

    async def receive() -> MutableMapping[str, Any]:
        return next(events)

    async def take(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])

    anyio.run(Emulator(), {"type": "lifespan"}, receive, take)

    assert ["lifespan.startup.complete", "lifespan.shutdown.complete"] == sent


def test_repr_holds_no_key() -> None:
    """The key may be a real one, of a program that is being imitated."""
    assert "Emulator(members=5)" == repr(Emulator(members=5, api_key="canary"))
