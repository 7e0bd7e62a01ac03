"""
Fan-outs that have to wait, for the budget, for slots or for a pause: nothing is begun that would be served too late.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import anyio
import pytest
from conftest import KEY
from scripted import OK, status
from virtual import Stopwatch, TimedTransport, make_budget, virtual

from crowdtwist_async import CrowdTwistClient, Reply, Request, RetryPolicy, ServerError

pytestmark = pytest.mark.anyio

both_orders = pytest.mark.parametrize("ordered", [False, True], ids=["as they come", "ordered"])


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run on both event loops, in virtual time."""
    return virtual(request.param)


def client_of(transport: TimedTransport, per_minute: float = math.inf, **options: Any) -> CrowdTwistClient:
    """A client with the defaults, but for the time."""
    budget = make_budget(per_minute)
    return CrowdTwistClient(api_key=KEY, transport=transport, budget=budget, **options)


async def ends_of(client: CrowdTwistClient, keys: int, **options: Any) -> Counter[str]:
    """What the keys of a run end in."""
    users = ["7"] * keys
    async with client.fan_out(client.points_awaiting_fulfillment, users, **options) as run:
        return Counter([type(outcome.error).__name__ if outcome.error else "ok" async for outcome in run])


@both_orders
async def test_a_slow_budget_fails_no_key(ordered: bool) -> None:
    """A permit a second for 64 keys at once, each with 30 seconds: all come, and no permit is lost."""
    transport = TimedTransport()
    async with client_of(transport, 60) as client:
        assert {"ok": 100} == await ends_of(client, 100, ordered=ordered)

    assert [float(second) for second in range(100)] == transport.moments


async def test_a_fast_budget_is_used_up() -> None:
    """Holding keys back costs no permit: 10 a second, with replies that take 3 seconds."""

    class Slow(TimedTransport):
        async def send(self, request: Request, /) -> Reply:
            await super().send(request)
            await anyio.sleep(3.0)
            return OK

    transport = Slow()
    async with client_of(transport, 600) as client:
        assert {"ok": 200} == await ends_of(client, 200)

    assert 19.9 == transport.moments[-1]


async def test_others_do_not_hold_up_a_run() -> None:
    """Calls beside it that wait all the time: it takes its turns."""
    transport = TimedTransport()
    async with client_of(transport, 60, deadline=None) as client, anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(client.points_awaiting_fulfillment, "7")
        watch = Stopwatch()
        assert {"ok": 5} == await ends_of(client, 5)
        assert watch.seconds < 40


async def test_few_slots_fail_no_key() -> None:
    """However many keys at once are allowed."""

    class Slow(TimedTransport):
        async def send(self, request: Request, /) -> Reply:
            await anyio.sleep(5.0)
            return OK

    async with client_of(Slow(), max_in_flight=2) as client:
        assert {"ok": 60} == await ends_of(client, 60, concurrency=60)


@both_orders
async def test_no_key_is_begun_in_a_pause(ordered: bool) -> None:
    """A 429 fails the keys that are under way, and no others."""
    transport = TimedTransport(OK, OK, OK, OK, OK, status(429, retry_after="100"), OK)
    async with client_of(transport, retry=RetryPolicy(max_attempts=1)) as client:
        ends = await ends_of(client, 150, concurrency=4, ordered=ordered)

    assert 1 == ends.pop("RateLimitError")
    assert ends.pop("DeadlineExceededError", 0) <= 3
    assert ends.keys() == {"ok"}
    assert all(moment in (0.0, 100.0) for moment in transport.moments)


@both_orders
@pytest.mark.parametrize("deadline", [5.0, 26.0], ids=["longer", "nearly-as-long"])
async def test_no_key_is_begun_in_the_pause_of_a_host(ordered: bool, deadline: float) -> None:
    """A 503 whose pause leaves too little of the deadline fails the keys that are under way, and no others."""
    transport = TimedTransport(OK, OK, OK, OK, OK, status(503, retry_after="25"), OK)
    async with client_of(transport, deadline=deadline, retry=RetryPolicy(max_attempts=1)) as client:
        ends = await ends_of(client, 150, concurrency=4, ordered=ordered)

    assert 1 == ends.pop("ServerError")
    assert ends.pop("DeadlineExceededError", 0) <= 3
    assert ends.keys() == {"ok"}
    assert {0.0, 25.0} == set(transport.moments)


async def test_a_pause_of_a_host_that_others_met_costs_a_key_at_most() -> None:
    """A run learns of it from its first call there."""
    transport = TimedTransport(status(503, retry_after="25"), OK)
    async with client_of(transport, deadline=5.0, retry=RetryPolicy(max_attempts=1)) as client:
        with pytest.raises(ServerError):
            await client.points_awaiting_fulfillment("7")
        ends = await ends_of(client, 200, concurrency=64)

    assert {"DeadlineExceededError": 1, "ok": 199} == ends


async def test_a_short_pause_of_a_host_holds_up_no_key_of_another() -> None:
    """Calls to that host sit it out in their deadline; nothing would be won."""
    transport = TimedTransport(status(503, retry_after="8"), OK)
    async with client_of(transport) as client:

        async def call(key: int) -> object:
            if key:
                return await client.points_awaiting_fulfillment("7")
            return await client.user_rewards("7")

        async with client.fan_out(call, range(100), concurrency=8) as run:
            ends = [outcome.key async for outcome in run if outcome.ok or not outcome.key]

    assert 100 == len(ends)
    assert 99 == transport.moments.count(0.0) - 1
