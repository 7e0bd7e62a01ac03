"""
The client as a web app uses it: many handlers at once, whose callers may go away at any moment.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import httpx
import pytest
from conftest import KEY

from crowdtwist_async import CrowdTwistClient, CrowdTwistError, RateBudget, RetryPolicy, UserNotFoundError
from crowdtwist_async.emulator import Emulator, Fault
from crowdtwist_async.emulator.server import EmulatorServer


async def handle(client: CrowdTwistClient, user_id: str) -> tuple[int, str]:
    """A request handler, as the README has it."""
    hasty = client.with_options(timeout=1, deadline=2, retry=RetryPolicy(max_attempts=2))
    try:
        points = await hasty.points_awaiting_fulfillment(user_id)
    except UserNotFoundError:
        return 404, "no such member"
    except CrowdTwistError as error:
        return 503, str(error)
    return 200, str(points.total_points_awaiting_fulfillment)


def open_sockets() -> int:
    """How many sockets this process holds."""
    names = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            names.append(str(link.readlink()))
        except OSError:
            continue
    return sum(name.startswith("socket:") for name in names)


@pytest.mark.asyncio
async def test_callers_that_go_away_leave_nothing() -> None:
    """200 handlers at once, a third of them cancelled at random moments: all slots and sockets come back."""
    emulator = Emulator(api_key=KEY)
    chance = random.Random(1)
    async with EmulatorServer(emulator) as server:
        async with httpx.AsyncClient(trust_env=False) as first:
            await first.get(server.url)  # from here on the server's own sockets are there
        before = open_sockets()
        emulator.script(*[None, Fault.reset(), None, Fault.status(503), Fault.truncate()] * 5)
        options = {"api_url": server.url, "pos_url": server.url}
        budget = RateBudget(per_minute=float("inf"))
        async with CrowdTwistClient(api_key=KEY, budget=budget, max_in_flight=32, **options) as client:  # type: ignore[arg-type]  # by name
            handlers = [
                asyncio.create_task(handle(client, str(10_000_000 + number))) for number in range(200)
            ]
            leaving = [handler for handler in handlers if chance.random() < 1 / 3]
            for handler in leaving:
                await asyncio.sleep(chance.random() * 0.003)
                handler.cancel()
            ended = await asyncio.gather(*handlers, return_exceptions=True)
            answered = [end for end in ended if isinstance(end, tuple)]
            assert len(handlers) - len(leaving) <= len(answered)
            assert {200} <= {status for status, _ in answered} <= {200, 503}
            assert not emulator.pending_faults
            assert [404] * 40 == [(await handle(client, "nobody"))[0] for _ in range(40)]
            assert 32 == client._session.sender._line.slots.value
            assert len(asyncio.all_tasks()) <= 2
        async with asyncio.timeout(2):
            # The server closes its ends when it notices.
            while open_sockets() > before:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
