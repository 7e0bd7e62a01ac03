"""
Leases of several processes from one clock, in virtual time: what is used when, whatever happens to them.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_server import RedisServer, one_for_all  # noqa: F401 - a fixture

from crowdtwist_async import RateBudget
from crowdtwist_async.budgets._lease import HORIZON, LATE, Lease

LOST = HORIZON + LATE
RATE, BURST, CEILING, WINDOW = 9_700, 10, 10_000, 60.0


class Model:
    """What the script does, in Python; its own test compares the two."""

    def __init__(self, per_minute: float, burst: int, lost: float = LOST) -> None:
        self.interval = 60.0 / per_minute
        self.slack = (burst - 1) * self.interval
        self._lost = lost
        self.state: tuple[float, float] | None = None

    def grant(self, now: float, needed: int, ahead: int, pause: float = -1.0) -> tuple[int, float]:
        """Give permits, and the seconds until the first."""
        if self.state is None:
            following = now + self._lost + self.slack
        else:
            following, seen = self.state
            if seen > now:
                following -= seen - now
        if pause >= 0:
            following = max(following, now + pause + self.slack)
        due = max(following, now)
        room = math.floor((now + HORIZON - (due - self.slack)) / self.interval) + 1
        granted = needed + max(0, min(ahead, room - needed))
        self.state = (due + granted * self.interval, now)
        return granted, due - self.slack - now


class Plan(NamedTuple):
    """What happens in one simulation."""

    per_minute: int
    burst: int
    processes: int
    seconds: float
    think: float
    """Seconds between two requests of a process, at most."""
    leg: float
    """Seconds that a message to or from Redis takes, at most."""
    stalls: float
    """The share of the events of a process that come late."""
    deaths: Sequence[float] = ()
    losses: Sequence[float] = ()
    """When Redis forgets everything."""
    pauses: Sequence[tuple[float, float]] = ()
    """When a process is told to pause, and for how long."""
    seed: int = 0


class Simulation:
    """Processes that lease permits of one clock, and when they use them."""

    def __init__(self, plan: Plan) -> None:
        self.used: list[tuple[float, int]] = []
        self.stalled_in_hand = 0
        self._plan = plan
        self._model = Model(plan.per_minute, plan.burst)
        self._leases = [Lease(self._model.interval) for _ in range(plan.processes)]
        self._paused_until = [-math.inf] * plan.processes
        self._dead: set[int] = set()
        self._chance = random.Random(plan.seed)
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[float], None]]] = []

    @property
    def moments(self) -> list[float]:
        """When permits were used, in order."""
        return [moment for moment, _ in self.used]

    def run(self) -> Simulation:
        """Let everything happen."""
        for process in range(self._plan.processes):
            self._at(0.0, partial(self._want, process))
        for number, moment in enumerate(self._plan.deaths):
            self._at(moment, partial(self._die, number))
        for moment in self._plan.losses:
            self._at(moment, lambda _: setattr(self._model, "state", None))
        for moment, seconds in self._plan.pauses:
            self._at(moment, partial(self._pause, seconds))
        while self._events and self._events[0][0] <= self._plan.seconds:
            now, _, event = heapq.heappop(self._events)
            event(now)
        self.used.sort()
        return self

    def _at(self, moment: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), event))

    def _late(self) -> float:
        if self._chance.random() >= self._plan.stalls:
            return 0.0
        return self._chance.choice([0.1, 0.6, 5.0])

    def _leg(self) -> float:
        return self._plan.leg * self._chance.random()

    def _want(self, who: int, now: float) -> None:
        if who in self._dead:
            return
        seconds = self._leases[who].take(now)
        if seconds is not None:
            late = self._late()
            self.stalled_in_hand += late > 0
            self._at(now + seconds + late, lambda moment: self._use(who, moment))
            return
        ahead = self._leases[who].wanted(now) - 1
        self._at(now + self._leg(), lambda moment: self._grant(who, ahead, now, moment))

    def _grant(self, who: int, ahead: int, asked: float, now: float) -> None:
        left = self._paused_until[who] - asked
        granted, wait = self._model.grant(now, 1, ahead, left if left > 0 else -1.0)
        answered = now + self._leg() + self._late()
        self._at(answered, lambda moment: self._fill(who, granted, wait, asked, moment))

    def _fill(self, who: int, granted: int, wait: float, asked: float, now: float) -> None:
        self._leases[who].fill(granted, wait, asked, now)
        self._want(who, now)

    def _use(self, who: int, now: float) -> None:
        if who in self._dead:
            return
        self.used.append((now, who))
        self._at(
            now + self._plan.think * self._chance.random() + self._late(),
            lambda moment: self._want(who, moment),
        )

    def _die(self, who: int, _: float) -> None:
        self._dead.add(who)

    def _pause(self, seconds: float, now: float) -> None:
        self._leases[0].clear()
        self._paused_until[0] = max(self._paused_until[0], now + seconds)
        self._model.grant(now, 0, 0, seconds)


PLANS = st.builds(
    Plan,
    per_minute=st.sampled_from([120, 2_400, RATE]),
    burst=st.integers(1, 12),
    processes=st.integers(1, 6),
    seconds=st.just(20.0),
    think=st.sampled_from([0.0, 0.02, 0.5, 3.0]),
    leg=st.sampled_from([0.0, 0.002, 0.1, 0.4]),
    stalls=st.sampled_from([0.0, 0.02, 0.3]),
    deaths=st.lists(st.floats(0, 20), max_size=3),
    losses=st.lists(st.floats(0, 20), max_size=3),
    pauses=st.lists(st.tuples(st.floats(0, 15), st.sampled_from([0.0, 1.0, 6.0])), max_size=2),
    seed=st.integers(0, 1_000),
)


def most_beyond(moments: Sequence[float], interval: float) -> float:
    """By how many permits the fullest of all spans of time passes its evenly spaced ones."""
    lowest, most = math.inf, -math.inf
    for number, moment in enumerate(moments):
        lowest = min(lowest, number - moment / interval)
        most = max(most, number + 1 - moment / interval - lowest)
    return most


@settings(deadline=None, max_examples=80)
@given(PLANS)
def test_no_span_of_time_ever_has_more_than_its_permits(plan: Plan) -> None:
    """
    However long it is, and whatever stalls, dies, or is forgotten: those of half a second more, the burst, and
    one that each process had in hand when it stalled.
    """
    simulation = Simulation(plan).run()
    # When Redis forgets a line that is longer than the horizon, each in it may still use one.
    spare = simulation.stalled_in_hand + len(plan.losses) * plan.processes
    interval = 60.0 / plan.per_minute
    assert most_beyond(simulation.moments, interval) <= LATE / interval + plan.burst + 1 + spare + 1e-6


def used_in_the_pause(plan: Plan) -> int:
    """Permits that are used in a pause of 6 seconds, from the second second of it on."""
    plan = plan._replace(losses=(), pauses=[(5.0, 6.0)], stalls=0.0)
    moments = Simulation(plan).run().moments
    return bisect_left(moments, 11.0 - 1e-6) - bisect_right(moments, 5.0 + HORIZON + LATE)


@settings(deadline=None, max_examples=50)
@given(PLANS)
def test_a_pause_reaches_everybody_within_a_second(plan: Plan) -> None:
    """
    Half a second of leases, half a second late at most: after that only what a process held already is sent.
    """
    assert used_in_the_pause(plan) <= plan.processes


def most_in_a_window(moments: Sequence[float]) -> int:
    """The most within 60 seconds."""
    return max(bisect_right(moments, begin + WINDOW) - number for number, begin in enumerate(moments))


UNDER_LOAD = Plan(RATE, BURST, processes=4, seconds=72.0, think=0.0, leg=0.001, stalls=0.0)


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(UNDER_LOAD, id="load"),
        pytest.param(UNDER_LOAD._replace(processes=1), id="one-process"),
        pytest.param(UNDER_LOAD._replace(processes=50), id="many-processes"),
        pytest.param(UNDER_LOAD._replace(processes=1, leg=0.02), id="far-redis"),
        pytest.param(UNDER_LOAD._replace(deaths=[30.0]), id="a-death"),
    ],
)
def test_processes_together_use_the_rate_and_keep_the_ceiling(plan: Plan) -> None:
    """
    95 % of the rate at least, and 10,000 in any minute at most.
    """
    moments = Simulation(plan).run().moments
    assert most_in_a_window(moments) <= CEILING
    assert bisect_left(moments, 72.0) - bisect_left(moments, 12.0) >= 0.95 * RATE


def test_a_pause_reaches_many_processes_as_soon() -> None:
    """
    However many there are, half a second is leased.
    """
    assert 0 == used_in_the_pause(UNDER_LOAD._replace(processes=60, seconds=12.0))


def test_several_processes_take_turns() -> None:
    """
    None of four gets less than three quarters of its share.
    """
    simulation = Simulation(UNDER_LOAD).run()
    counts = [sum(1 for _, who in simulation.used if who == process) for process in range(4)]
    assert min(counts) > 0.75 * len(simulation.used) / 4


def test_the_others_take_a_dead_process_s_share_within_a_second() -> None:
    """
    Its lease is all that is lost.
    """
    moments = Simulation(UNDER_LOAD._replace(deaths=[30.0])).run().moments
    assert bisect_left(moments, 31.0) - bisect_left(moments, 30.0) >= RATE / 60 - 11


def test_after_redis_forgot_everything_the_rate_is_kept() -> None:
    """
    Each loss costs a pause, and brings no burst.
    """
    moments = Simulation(UNDER_LOAD._replace(losses=[20.0, 25.0, 30.0, 35.0])).run().moments
    assert most_in_a_window(moments) <= 9_700 + BURST
    assert bisect_left(moments, 36.0) - bisect_left(moments, 35.0 + HORIZON) <= 5


@pytest.mark.parametrize("gap", [pytest.param(gap, id=f"{gap}-s") for gap in (0.05, 0.2, 0.3, 1.0, 10.0)])
def test_who_asks_rarely_wastes_little(gap: float) -> None:
    """
    After it has found its size, a process takes hardly more permits than it uses.
    """
    lease, model, taken = Lease(60 / RATE), Model(RATE, BURST, lost=0.0), 0
    for number in range(500):
        now = number * gap
        if lease.take(now) is None:
            granted, wait = model.grant(now, 1, lease.wanted(now) - 1)
            lease.fill(granted, wait, now, now)
            assert 0.0 == lease.take(now)
            taken += granted
    assert taken <= 1.1 * 500 + 10


def test_permits_that_waited_too_long_are_dropped() -> None:
    """
    Half a second after its moment a permit is gone; the next lease is as small as what was used of this one.
    """
    lease = Lease(0.01)
    assert 1 == lease.wanted(0.0)
    lease.fill(5, 0.0, 0.0, 0.1)
    assert 0.1 == lease.take(0.0)
    assert pytest.approx(0.01) == lease.take(0.1)
    assert 0.0 == lease.take(0.52)
    assert lease.take(0.6) is None
    assert 3 == lease.wanted(0.6)


def test_an_answer_that_took_too_long_is_dropped() -> None:
    """
    Nobody knows how old its permits are.
    """
    lease = Lease(0.01)
    lease.fill(5, 10.0, 0.0, 0.6)
    assert lease.take(0.6) is None


def test_leases_grow_to_a_sixteenth_of_a_second_and_begin_small_after_a_pause() -> None:
    """
    Doubling while they are used up at once.
    """
    lease, sizes = Lease(60 / RATE), []
    for _ in range(6):
        sizes.append(lease.wanted(0.0))
        lease.fill(sizes[-1], 0.0, 0.0, 0.0)
        while lease.take(0.0) is not None:
            pass
    assert [1, 2, 4, 8, 10, 10] == sizes
    lease.clear()
    assert 2 == lease.wanted(0.0)


@pytest.mark.parametrize(("away", "most"), [(0.0, 10), (0.05, 48), (0.2, 80)], ids=str)
def test_leases_from_a_server_far_away_are_larger(away: float, most: int) -> None:
    """
    While it is asked nobody has a permit; half a second's at most.
    """
    lease, size = Lease(60 / RATE), 0
    for _ in range(10):
        size = lease.wanted(away)
        lease.fill(size, 0.0, 0.0, away)
        while lease.take(away) is not None:
            pass
    assert most == size


STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 500, 6_186, 40_000, 900_000, 70_000_000, -2_000_000]),
        st.integers(0, 5),
        st.integers(0, 12),
        st.sampled_from([-1.0, -1.0, 0.0, 2.0, 30.0]),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([120, RATE]), st.integers(1, 12), STEPS, st.integers(0, 10**9))
def test_the_script_does_what_the_model_does(
    shared_redis: RedisServer,
    per_minute: int,
    burst: int,
    steps: list[tuple[int, int, int, float]],
    key: int,
) -> None:
    """
    In a real Redis, on a clock that the test moves, backward too.
    """
    model = Model(per_minute, burst)
    now = 1_790_000_000_000_000
    moments = [now := now + step[0] for step in steps]
    expected = [model.grant(at / 1e6, *step[1:]) for at, step in zip(moments, steps, strict=True)]

    async def run() -> list[Any]:
        redis = pytest.importorskip("redis.asyncio")
        from crowdtwist_async.budgets._script import GRANT

        async with redis.Redis.from_url(shared_redis.url) as client:
            script = client.register_script("local now = tonumber(ARGV[9])\n" + GRANT)
            await client.delete(str(key))
            return [
                await script(keys=[str(key)], args=_arguments(model, step, moment))
                for moment, step in zip(moments, steps, strict=True)
            ]

    granted = [(permits, float(wait) / 1e6) for permits, wait in asyncio.run(run())]
    assert [permits for permits, _ in expected] == [permits for permits, _ in granted]
    # A double holds microseconds of these days to a quarter of one.
    assert [wait for _, wait in expected] == pytest.approx([wait for _, wait in granted], abs=1e-4)


def _arguments(model: Model, step: tuple[int, int, int, float], moment: int) -> list[object]:
    _, needed, ahead, pause = step
    times = (model.interval, model.slack, pause, HORIZON, LOST, 60.0)
    return [needed, ahead, *[f"{1e6 * seconds:.6f}" for seconds in times], moment]


@settings(deadline=None, max_examples=100)
@given(st.sampled_from([120, 600]), st.integers(1, 12), st.lists(st.floats(0, 3), max_size=40))
def test_one_permit_at_a_time_is_a_rate_budget(per_minute: int, burst: int, gaps: list[float]) -> None:
    """
    Without anything ahead, the model and the budget of one process give the same waits.
    """
    now = 0.0
    model, budget = Model(per_minute, burst, lost=0.0), RateBudget(per_minute, burst, clock=lambda: now)
    model.grant(now, 0, 0)
    asyncio.run(budget.penalize(0.0))
    for gap in gaps:
        now += gap
        _, wait = model.grant(now, 1, 0)
        assert pytest.approx(asyncio.run(budget.reserve()), abs=1e-9) == max(wait, 0.0)
