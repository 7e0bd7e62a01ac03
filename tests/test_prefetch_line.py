"""
Prefetched walks that have to wait, for the budget or for slots: no page is begun that would be served too late.
"""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest
from conftest import KEY
from virtual import Stopwatch, make_budget, virtual

from crowdtwist_async import CrowdTwistClient, CrowdTwistError, Reply, Request
from crowdtwist_async.emulator import Emulator

pytestmark = pytest.mark.anyio

USERS = list(Emulator(members=40).member_ids())
ROWS, PAGES = 132, 14


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run on both event loops, in virtual time."""
    return virtual(request.param)


class Slow:
    """An emulator that takes some seconds for a reply, and writes down when each request came."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._transport = Emulator(members=40, api_key=KEY).transport()
        self._seconds = seconds
        self._watch = Stopwatch()
        self.moments: list[float] = []

    async def send(self, request: Request, /) -> Reply | CrowdTwistError:
        self.moments.append(self._watch.seconds)
        await anyio.sleep(self._seconds)
        return await self._transport.send(request)

    async def aclose(self) -> None:
        await self._transport.aclose()


def client_of(transport: Slow, per_minute: float = math.inf, **options: Any) -> CrowdTwistClient:
    """A client whose calls have little time."""
    return CrowdTwistClient(
        api_key=KEY, transport=transport, budget=make_budget(per_minute), **{"deadline": 2.0, **options}
    )


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("ahead", [1, 3, 8, 40])
async def test_a_slow_budget_ends_no_walk(ahead: int, reverse: bool) -> None:
    """A permit a second, and two seconds for each page: as without a prefetch, and no permit is lost."""
    transport = Slow()
    async with client_of(transport, 60) as client:
        rows = await client.iter_user_purchases(USERS[1], reverse=reverse).collect(prefetch=ahead)
    assert ROWS == len({row.purchase_id for row in rows}) == len(rows)
    assert [float(second) for second in range(PAGES)] == transport.moments


async def test_few_slots_end_no_walk() -> None:
    """However many pages at once are wanted."""
    async with client_of(Slow(0.6), max_in_flight=2) as client:
        assert ROWS == len(await client.iter_user_purchases(USERS[1]).collect(prefetch=14))


async def test_a_fast_budget_is_used_up() -> None:
    """Ten permits a second, with replies that take one: as many pages are on their way as are allowed."""
    transport = Slow(1.0)
    async with client_of(transport, 600) as client:
        assert ROWS == len(await client.iter_user_purchases(USERS[1]).collect(prefetch=13))
    assert [0.0, *(round(1.0 + number / 10, 6) for number in range(PAGES - 1))] == transport.moments


async def test_a_fan_out_of_prefetched_walks_fails_no_key() -> None:
    """Each of its walks has a line of its own, and the run another."""
    transport = Slow(0.2)
    async with client_of(transport, 600) as client:
        async with client.fan_out(
            lambda user: client.iter_user_purchases(user).collect(prefetch=8), USERS, ordered=True
        ) as outcomes:
            found = [len(outcome.unwrap()) async for outcome in outcomes]
    emulator = Emulator(members=40)
    assert [emulator.purchases_of(user) for user in USERS] == found
