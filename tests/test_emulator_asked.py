"""
What the emulator remembers of requests: all that was asked, a bounded number of them, and never the key.
"""

from __future__ import annotations

import sys
from typing import Any

import anyio
import pytest
from conftest import KEY, leaks

from crowdtwist_async import CrowdTwistClient, CrowdTwistError, Request, RetryPolicy
from crowdtwist_async.emulator import AskedRequest, Emulator, Fault

pytestmark = pytest.mark.anyio

ONCE = RetryPolicy(max_attempts=1)


async def ask(client: CrowdTwistClient, *users: str) -> None:
    """Ask for the points of members, whatever comes of it."""
    for user in users:
        try:
            await client.points_awaiting_fulfillment(user)
        except CrowdTwistError:
            continue


async def test_requests_are_remembered_as_they_were_asked() -> None:
    """The user, what the id is, the page and the parameters, in the order in which they came."""
    emulator = Emulator(api_key=KEY)
    async with emulator.client() as client:
        await client.points_awaiting_fulfillment("10000001")
        await client.points_awaiting_fulfillment("member10000001@example.com", id_type="email")
        await client.user_rewards("tp-10000001", id_type="third_party_id", page_size=5, include_soldout=True)
        await client.user_purchases("10000001", page=3, date_start="2026-01-01", date_end="2026-01-31")
    rewards: dict[str, str] = {"page_size": "5", "include_soldout": "true"}
    purchases: dict[str, str] = {"date_start": "2026-01-01", "date_end": "2026-01-31"}
    points = "points_awaiting_fulfillment"
    assert (
        AskedRequest(points, "10000001", "id", None, {}, 200),
        AskedRequest(points, "member10000001@example.com", "email", None, {}, 200),
        AskedRequest("user_rewards", "tp-10000001", "third_party_id", 1, rewards, 200),
        AskedRequest("user_purchases", "10000001", "id", 3, purchases, 200),
    ) == emulator.requests


async def test_every_end_of_a_request_is_remembered() -> None:
    """A reset has no status, a cut reply the one that it began with, and a 429 of the ceiling its own."""
    emulator = Emulator(api_key=KEY, per_minute=5)
    emulator.script(Fault.reset(), Fault.truncate(), Fault.status(503))
    async with emulator.client(retry=ONCE) as client:
        await ask(client, "10000001", "10000001", "10000001", "nobody", "10000001", "10000001")
    assert [None, 200, 503, 400, 200, 429] == [asked.status for asked in emulator.requests]


async def test_a_request_that_nobody_waits_for_is_remembered() -> None:
    """Also when the answer never came."""
    emulator = Emulator(api_key=KEY)
    emulator.script(Fault.delay(60))
    async with emulator.client(retry=ONCE, timeout=0.05) as client:
        await ask(client, "10000001")
    assert [None] == [asked.status for asked in emulator.requests]


async def test_an_unknown_path_is_remembered_without_its_words() -> None:
    """Neither the path nor the query of a request that the API does not know is kept."""
    emulator = Emulator(api_key=KEY)
    await emulator.transport().send(Request("x", "http://localhost", "/what/ever", f"page=2&api_key={KEY}"))
    assert (AskedRequest(None, None, None, None, {}, 404),) == emulator.requests


async def test_neither_the_key_nor_users_are_shown() -> None:
    """The key is nowhere in what is remembered, and the user in no repr."""
    emulator = Emulator(api_key=KEY)
    async with emulator.client() as client:
        await client.user_rewards("10000001")
        await client.user_purchases("10000001")
    for asked in emulator.requests:
        assert not leaks(f"{asked.user}{asked.parameters}{asked!r}")
        assert "10000001" not in repr(asked)


@pytest.mark.parametrize(("kept", "expected"), [(2, ["8", "9"]), (0, [])], ids=["two", "none"])
async def test_only_the_latest_are_kept(kept: int, expected: list[str]) -> None:
    """However many there were."""
    emulator = Emulator(api_key=KEY, keep_requests=kept)
    async with emulator.client() as client:
        await ask(client, *map(str, range(10)))
    assert expected == [asked.user for asked in emulator.requests]
    assert 10 == emulator.stats.requests


def test_a_million_requests_cost_no_memory() -> None:
    """By default a thousand are kept, which is less than a megabyte."""
    emulator = Emulator(api_key=KEY)

    async def ask_often() -> None:
        async with emulator.client() as client:
            await ask(client, *["10000001"] * 1_100)

    anyio.run(ask_often)
    kept: Any = emulator.requests
    assert 1_000 == len(kept)
    assert sum(sys.getsizeof(asked) + sys.getsizeof(asked.parameters) for asked in kept) < 1_000_000


async def test_counting_anew_forgets_them() -> None:
    """What comes after `reset_stats` is all that is there."""
    emulator = Emulator(api_key=KEY)
    async with emulator.client() as client:
        await ask(client, "10000001")
        emulator.reset_stats()
        await ask(client, "10000002")
    assert ["10000002"] == [asked.user for asked in emulator.requests]


def test_a_negative_number_is_refused() -> None:
    """Before anything is asked."""
    with pytest.raises(ValueError, match="keep_requests"):
        Emulator(keep_requests=-1)
