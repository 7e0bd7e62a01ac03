"""
More calls than the budget or the slots can serve in time: as many succeed as can, and all of them afterwards.
"""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest
from conftest import KEY
from scripted import OK, ScriptedTransport
from virtual import make_budget, virtual

from crowdtwist_async import CrowdTwistError, DeadlineExceededError, Reply, Request, RetryPolicy
from crowdtwist_async._config import make_settings
from crowdtwist_async._protocol import points_call
from crowdtwist_async._reply_time import ReplyTime
from crowdtwist_async._secrets import Secret
from crowdtwist_async._send import Options, Sender

pytestmark = pytest.mark.anyio

SETTINGS = make_settings(api_key=Secret(KEY), api_url="http://localhost:1", pos_url="http://localhost:2")
CALL = points_call(SETTINGS, "7", "id")
OPTIONS = Options(1.0, 2.0, RetryPolicy(max_attempts=1))


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run on both event loops, in virtual time."""
    return virtual(request.param)


async def slow(_: Request) -> Reply:
    """What a server needs."""
    await anyio.sleep(0.3)
    return OK


class Load:
    """Calls that come at a rate of their own, whatever becomes of them."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self.succeeded = 0
        self.errors: list[CrowdTwistError] = []

    async def come(self, per_second: float, seconds: float) -> None:
        """Let calls come for some seconds, and wait for the last to end."""
        self.succeeded, self.errors = 0, []
        async with anyio.create_task_group() as tasks:
            for _ in range(int(per_second * seconds)):
                tasks.start_soon(self._call)
                await anyio.sleep(1 / per_second)

    async def _call(self) -> None:
        try:
            await self._sender.send(CALL, OPTIONS)
        except CrowdTwistError as error:
            self.errors.append(error)
        else:
            self.succeeded += 1


@pytest.mark.parametrize(
    ("per_minute", "slots", "capacity"),
    [pytest.param(600, 64, 10, id="permits"), pytest.param(math.inf, 3, 10, id="slots")],
)
@pytest.mark.parametrize("times", [1.3, 2, 10])
async def test_an_overload_takes_no_more_than_its_share(
    per_minute: float, slots: int, capacity: float, times: float
) -> None:
    """Served in turn, each call would be served when its time is over, and none would succeed."""
    load = Load(Sender(SETTINGS, ScriptedTransport(slow), make_budget(per_minute), slots))
    await load.come(times * capacity, 30)
    assert load.succeeded >= 0.9 * 30 * capacity
    assert {DeadlineExceededError} == {type(error) for error in load.errors}
    in_line = [error for error in load.errors if "would pass waiting for" in error.reason]
    assert len(in_line) >= 0.9 * len(load.errors)
    await load.come(0.8 * capacity, 10)
    assert [] == load.errors


async def test_calls_that_replies_are_too_slow_for_are_served_all_the_same() -> None:
    """What was learned from a slow server does not outlast it."""
    seconds = 1.8

    async def answer(_: Request) -> Reply:
        await anyio.sleep(seconds)
        return OK

    load = Load(Sender(SETTINGS, ScriptedTransport(answer), make_budget(math.inf), 2))
    patient = Options(5.0, None, RetryPolicy(max_attempts=1))
    for _ in range(20):
        await load._sender.send(CALL, patient)
    seconds = 0.2
    await load.come(20, 20)
    assert load.succeeded >= 0.8 * 20 * 10


def test_what_replies_need() -> None:
    """Their smoothed mean and twice what they stray from it; of a deadline the half at most."""
    times = ReplyTime()
    assert 0.0 == times.needed(2.0)
    for _ in range(200):
        times.note(0.3)
    assert math.isclose(0.3, times.needed(2.0), rel_tol=1e-3)
    assert (0.25, 0.0) == (times.needed(0.5), times.needed(None))
    for number in range(400):
        times.note(0.2 if number % 2 else 0.4)
    assert 0.45 <= times.needed(2.0) <= 0.55
