"""
The ceiling: what reaches the server in any minute, whatever the callers, the replies and the clock do.
"""

from __future__ import annotations

import math
import random
import time
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext, suppress
from itertools import pairwise
from typing import NamedTuple, TypeVar

import anyio
import pytest
from conftest import KEY
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import OK, ScriptedTransport, status
from virtual import VirtualLoop

from crowdtwist_async import Budget, CrowdTwistError, RateBudget, Reply, Request, RetryPolicy
from crowdtwist_async._config import make_settings
from crowdtwist_async._permits import Permits
from crowdtwist_async._protocol import points_call
from crowdtwist_async._secrets import Secret
from crowdtwist_async._send import Options, Sender

T = TypeVar("T")
SETTINGS = make_settings(api_key=Secret(KEY), api_url="http://localhost:1", pos_url="http://localhost:1")
CALL = points_call(SETTINGS, "7", "id")
CEILING = 10_000
RATE = 9_700
WINDOW = 60.0


def run(scenario: Callable[[VirtualLoop], Awaitable[T]]) -> T:
    """Run a scenario in virtual time."""
    loop = VirtualLoop()

    async def main() -> T:
        return await scenario(loop)

    return anyio.run(main, backend_options={"loop_factory": lambda: loop})


def most_in_a_window(moments: Sequence[float]) -> int:
    """The most of these moments that lie within 60 seconds of one of them, both ends included."""
    ordered = sorted(moments)
    return max(
        (bisect_right(ordered, first + WINDOW) - number for number, first in enumerate(ordered)), default=0
    )


def least_in_a_window(moments: Sequence[float], start: float, end: float) -> int:
    """The fewest of these moments that lie within any 60 seconds between a start and an end."""
    ordered = sorted(moments)
    starts = [start, *[moment for moment in ordered if start < moment <= end - WINDOW], end - WINDOW]
    return min(bisect_right(ordered, first + WINDOW) - bisect_right(ordered, first) for first in starts)


async def sleep_late(seconds: float) -> None:
    """Sleep as a coarse system clock does: 15.6 ms at a time."""
    await anyio.sleep(math.ceil(seconds / 0.0156) * 0.0156)


class Load:
    """64 callers that take one permit after the other, and when they got them."""

    def __init__(self, loop: VirtualLoop, permits: Sequence[Permits], *, cancelled: float = 0.0) -> None:
        self.moments: list[float] = []
        self._loop = loop
        self.permits = permits
        self._cancelled = cancelled
        self._chance = random.Random(1)

    async def run(self, seconds: float) -> None:
        """Take permits for so long."""
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:
                for number in range(64):
                    tasks.start_soon(self._take, self.permits[number % len(self.permits)])

    async def stall(self, after: float, seconds: float) -> None:
        """Let the whole process stand still once."""
        await anyio.sleep(after)
        self._loop.now += seconds

    async def _take(self, permits: Permits) -> None:
        while True:
            gives_up = self._chance.random() < self._cancelled
            with anyio.move_on_after(self._chance.random() * 0.3) if gives_up else nullcontext():
                await permits.take()
                self.moments.append(self._loop.now)


def permits_of(
    budget: Budget, clients: int = 1, sleep: Callable[[float], Awaitable[None]] = anyio.sleep
) -> list[Permits]:
    """So many clients' ways to one budget."""
    return [Permits(budget, anyio.current_time, sleep) for _ in range(clients)]


async def under_steady_load(loop: VirtualLoop, seconds: float = 65) -> tuple[list[float], float]:
    load = Load(loop, permits_of(RateBudget(clock=loop.time)))
    await load.run(seconds)
    return load.moments, 1000.0


async def with_a_stall(loop: VirtualLoop) -> tuple[list[float], float]:
    load = Load(loop, permits_of(RateBudget(clock=loop.time)))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(load.stall, 5, 20)
        await load.run(90)
    return load.moments, 1025.0


async def after_idling(loop: VirtualLoop) -> tuple[list[float], float]:
    load = Load(loop, permits_of(RateBudget(clock=loop.time)))
    await load.run(5)
    await anyio.sleep(300)
    await load.run(65)
    return load.moments, 1305.0


async def with_a_third_cancelled(loop: VirtualLoop) -> tuple[list[float], float]:
    load = Load(loop, permits_of(RateBudget(clock=loop.time)), cancelled=1 / 3)
    await load.run(65)
    return load.moments, 1000.0


async def with_two_clients(loop: VirtualLoop) -> tuple[list[float], float]:
    load = Load(loop, permits_of(RateBudget(clock=loop.time), clients=2))
    await load.run(65)
    return load.moments, 1000.0


async def with_late_sleeps(loop: VirtualLoop) -> tuple[list[float], float]:
    load = Load(loop, permits_of(RateBudget(clock=loop.time), sleep=sleep_late))
    await load.run(65)
    return load.moments, 1000.0


@pytest.mark.parametrize(
    "scenario",
    [
        under_steady_load,
        with_a_stall,
        after_idling,
        with_a_third_cancelled,
        with_two_clients,
        with_late_sleeps,
    ],
    ids=lambda scenario: scenario.__name__,
)
def test_the_default_budget_keeps_the_contract_and_uses_it(
    scenario: Callable[[VirtualLoop], Awaitable[tuple[list[float], float]]],
) -> None:
    """No minute has more than 10,000 requests, and none under load less than 95 % of 9,700."""
    moments, loaded_from = run(scenario)

    assert most_in_a_window(moments) <= CEILING
    assert least_in_a_window(moments, loaded_from, max(moments)) >= 0.95 * RATE


class Plan(NamedTuple):
    """What happens in one run."""

    per_minute: int
    burst: int
    clients: int
    callers: int
    calls: int
    latency: float
    faults: float
    cancelled: float
    stalls: Sequence[tuple[float, float]]
    seed: int


PLANS = st.builds(
    Plan,
    per_minute=st.sampled_from([20, 60, 150]),
    burst=st.integers(1, 12),
    clients=st.integers(1, 3),
    callers=st.integers(1, 30),
    calls=st.integers(1, 8),
    latency=st.sampled_from([0.0, 0.1, 5.0]),
    faults=st.sampled_from([0.0, 0.1, 0.6]),
    cancelled=st.sampled_from([0.0, 0.3, 0.9]),
    stalls=st.lists(st.tuples(st.floats(0, 60), st.sampled_from([0.5, 20.0, 61.0])), max_size=3),
    seed=st.integers(0, 1000),
)


class Server(ScriptedTransport):
    """Answers late and with faults, and writes down when requests came."""

    def __init__(self, loop: VirtualLoop, plan: Plan, chance: random.Random) -> None:
        super().__init__()
        self.moments: list[float] = []
        self._loop = loop
        self._plan = plan
        self._chance = chance

    async def send(self, request: Request, /) -> Reply | CrowdTwistError:
        """Answer."""
        self.moments.append(self._loop.now)
        await anyio.sleep(self._plan.latency * self._chance.random())
        if self._chance.random() < self._plan.faults:
            return self._chance.choice([status(500), status(429), status(503, retry_after="2")])
        return OK


async def play(loop: VirtualLoop, plan: Plan) -> Server:
    """Let all callers make their calls, some of which give up; return what the server saw."""
    chance = random.Random(plan.seed)
    server = Server(loop, plan, chance)
    budget = RateBudget(plan.per_minute, plan.burst, clock=loop.time)
    senders = [Sender(SETTINGS, server, budget, 8) for _ in range(plan.clients)]

    async def call(sender: Sender) -> None:
        for _ in range(plan.calls):
            await anyio.sleep(chance.choice([0.0, 0.0, 1.0, 30.0]))
            gives_up = chance.random() < plan.cancelled
            with anyio.move_on_after(chance.random() * 20 if gives_up else math.inf):
                with suppress(CrowdTwistError):
                    await sender.send(CALL, Options(10.0, None, RetryPolicy()))

    async def stall(after: float, seconds: float) -> None:
        await anyio.sleep(after)
        loop.now += seconds

    async with anyio.create_task_group() as tasks:
        for after, seconds in plan.stalls:
            tasks.start_soon(stall, after, seconds)
        for number in range(plan.callers):
            tasks.start_soon(call, senders[number % plan.clients])
    assert len(server.moments) == sum(sender.stats.requests for sender in senders)
    return server


@settings(deadline=None, max_examples=40)
@given(PLANS)
def test_no_minute_ever_passes_the_ceiling(plan: Plan) -> None:
    """Rate and burst bound every minute, and beyond them only the one permit each client's head may hold."""
    server = run(lambda loop: play(loop, plan))
    assert most_in_a_window(server.moments) <= plan.per_minute + plan.burst + plan.clients


@pytest.mark.parametrize("seed", range(3))
def test_cancelling_behind_the_head_loses_no_permit(seed: int) -> None:
    """While others wait in front of those who give up, every permit is used."""
    chance = random.Random(seed)

    async def scenario(loop: VirtualLoop) -> int:
        load = Load(loop, permits_of(RateBudget(240, 5, clock=loop.time)))
        given_up = 0

        async def give_up_behind() -> None:
            nonlocal given_up
            while True:
                await anyio.sleep(chance.random())
                with anyio.move_on_after(chance.random() * 0.1):
                    await load.permits[0].take()
                given_up += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(give_up_behind)
            await load.run(120.1)
            tasks.cancel_scope.cancel()
        assert given_up > 500
        return len(load.moments)

    assert 5 + 2 * 240 == run(scenario)


def test_requests_under_load_are_evenly_spaced() -> None:
    """Once the burst is used, the server sees one request an interval, not ten at a time."""
    moments, _ = run(lambda loop: under_steady_load(loop, 10))
    spaces = [later - sooner for sooner, later in pairwise(moments[10:])]
    assert all(math.isclose(WINDOW / RATE, space, abs_tol=1e-6) for space in spaces)
    assert bisect_left(moments, 1000.0 + 1e-6) == 10


def test_a_reservation_takes_microseconds(record_property: Callable[[str, object], None]) -> None:
    """Reserving is arithmetic; the time is in the report."""

    async def reserve() -> float:
        budget = RateBudget(clock=lambda: 0.0)
        started = time.perf_counter()
        for _ in range(2000):
            await budget.reserve()
        return (time.perf_counter() - started) / 2000

    seconds = anyio.run(reserve)
    record_property("microseconds_per_reservation", round(seconds * 1e6, 2))
    assert seconds < 500e-6
