"""
The request-rate budget on a clock that only the test moves.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdtwist_async import ConfigurationError, RateBudget


class Clock:
    """Seconds that go forward when the test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def run(scenario: Callable[[], Awaitable[list[float]]]) -> list[float]:
    """Run a scenario, which never really waits."""

    async def main() -> list[float]:
        return await scenario()

    return asyncio.run(main())


def waits(budget: RateBudget, count: int) -> list[float]:
    """Reserve so many permits at one moment; return the seconds that each has to wait."""

    async def scenario() -> list[float]:
        return [await budget.reserve() for _ in range(count)]

    return run(scenario)


def penalize(budget: RateBudget, seconds: float) -> None:
    """Pause a budget."""
    asyncio.run(budget.penalize(seconds))


def test_a_burst_goes_at_once_and_the_rest_is_evenly_spaced() -> None:
    """After an idle time, `burst` permits wait for nothing, each further one an interval more."""
    budget = RateBudget(per_minute=240, burst=3, clock=Clock())
    assert [0.0, 0.0, 0.0, 0.25, 0.5, 0.75] == waits(budget, 6)


def test_a_burst_of_one_is_none() -> None:
    """Every permit but the first waits its turn."""
    budget = RateBudget(per_minute=60, burst=1, clock=Clock())
    assert [0.0, 1.0, 2.0] == waits(budget, 3)


def test_several_permits_count_as_so_many() -> None:
    """The permits taken together are paid for by whoever comes next."""
    budget = RateBudget(per_minute=60, burst=1, clock=Clock())

    async def scenario() -> list[float]:
        return [await budget.reserve(5), await budget.reserve()]

    assert [0.0, 5.0] == run(scenario)


def test_idle_time_refills_the_burst_and_no_more() -> None:
    """An hour of idling is worth as much as a few intervals."""
    clock = Clock()
    budget = RateBudget(per_minute=60, burst=2, clock=clock)
    assert [0.0, 0.0, 1.0] == waits(budget, 3)

    clock.now += 3600
    assert [0.0, 0.0, 1.0] == waits(budget, 3)


def test_a_part_of_the_idle_time_refills_a_part_of_the_burst() -> None:
    """One interval is worth one permit."""
    clock = Clock()
    budget = RateBudget(per_minute=60, burst=3, clock=clock)
    waits(budget, 3)

    clock.now += 1
    assert [0.0, 1.0] == waits(budget, 2)


def test_the_default_stays_below_the_contract() -> None:
    """9,700 a minute and a burst of 10 leave room below 10,000 in any minute."""
    budget = RateBudget()
    assert (9_700, 10) == (budget.per_minute, budget.burst)
    assert "RateBudget(per_minute=9700, burst=10)" == repr(budget)


def test_the_default_clock_goes_forward() -> None:
    """Without a clock of its own, a budget lets its burst through and then paces."""
    first, *_, last = waits(RateBudget(per_minute=1, burst=2), 3)
    assert 0.0 == first
    assert 59 < last <= 60


@pytest.mark.parametrize("used", [0, 1, 3, 4], ids=lambda used: f"{used}-used")
def test_after_a_pause_permits_come_evenly_spaced(used: int) -> None:
    """No burst follows a pause, whatever was used of it before."""
    budget = RateBudget(per_minute=240, burst=4, clock=Clock())
    waits(budget, used)
    penalize(budget, 30)

    assert [30.0, 30.25, 30.5, 30.75, 31.0, 31.25] == waits(budget, 6)


@pytest.mark.parametrize("pauses", [(30, 10), (10, 30), (30, 30)], ids=str)
def test_the_later_of_two_pauses_counts(pauses: tuple[float, float]) -> None:
    """Ten replies with the same `Retry-After` are one pause, not ten."""
    budget = RateBudget(per_minute=60, clock=Clock())
    for seconds in pauses:
        penalize(budget, seconds)

    assert [30.0, 31.0] == waits(budget, 2)


def test_a_pause_that_ends_sooner_does_not_shorten_one_under_way() -> None:
    """A later pause is later by the clock, not by its length."""
    clock = Clock()
    budget = RateBudget(per_minute=60, clock=clock)
    penalize(budget, 30)
    clock.now += 25
    penalize(budget, 4)

    assert [5.0] == waits(budget, 1)


def test_a_pause_does_not_bring_a_long_line_forward() -> None:
    """Who waits longer than the pause anyway, waits as before."""
    budget = RateBudget(per_minute=60, burst=1, clock=Clock())
    waits(budget, 100)
    penalize(budget, 5)

    assert [100.0] == waits(budget, 1)


def test_some_time_after_a_pause_the_burst_is_back() -> None:
    """A pause is no lasting punishment."""
    clock = Clock()
    budget = RateBudget(per_minute=60, burst=3, clock=clock)
    penalize(budget, 10)

    clock.now += 3600
    assert [0.0, 0.0, 0.0, 1.0] == waits(budget, 4)


def test_without_a_ceiling_nobody_waits() -> None:
    """`math.inf` switches pacing off, also for many permits at one moment."""
    assert {0.0} == set(waits(RateBudget(per_minute=math.inf, clock=Clock()), 1000))


def test_without_a_ceiling_a_pause_still_counts() -> None:
    """Pacing is the client's wish, a pause the server's."""
    clock = Clock()
    budget = RateBudget(per_minute=math.inf, clock=clock)
    penalize(budget, 5)
    assert [5.0, 5.0] == waits(budget, 2)

    clock.now += 5
    assert [0.0, 0.0] == waits(budget, 2)


@pytest.mark.parametrize(
    "per_minute", [0, -1, math.nan, -math.inf, True, "100", None, 9e-5, 1e12 + 1, 10**400], ids=repr
)
def test_a_rate_that_is_not_positive_is_refused(per_minute: Any) -> None:
    """Nothing would ever be sent; what is beyond the outermost rates is refused too."""
    with pytest.raises(ConfigurationError, match="^per_minute must be a positive number"):
        RateBudget(per_minute=per_minute)


@pytest.mark.parametrize("burst", [0, -1, 1.0, True, "10", None, math.inf, 10**12 + 1, 10**400], ids=repr)
def test_a_burst_below_one_is_refused(burst: Any) -> None:
    """Even spacing is a burst of one; what no arithmetic can do is refused too, with the bound."""
    with pytest.raises(ConfigurationError, match="^burst must be an int from 1 to 1,000,000,000,000$"):
        RateBudget(burst=burst)


def sent_at(clock: Clock, budget: RateBudget, gaps: list[float], pauses: dict[int, float]) -> list[float]:
    """The moments at which a client that waits in line sends."""

    async def scenario() -> list[float]:
        moments = []
        for number, gap in enumerate(gaps):
            clock.now += gap
            if number in pauses:
                await budget.penalize(pauses[number])
            clock.now += await budget.reserve()
            moments.append(clock.now)
        return moments

    return run(scenario)


# Binary fractions of a minute, so that the clock adds up without rounding.
RATES = st.sampled_from([15.0, 30.0, 60.0, 120.0, 240.0])
GAPS = st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.125, 1.0, 7.5, 30.0, 59.875, 60.0, 300.0]), max_size=40)
PAUSES = st.dictionaries(st.integers(0, 400), st.sampled_from([0.0, 0.5, 20.0, 60.0, 90.0]), max_size=3)


@settings(deadline=None, max_examples=50)
@given(RATES, st.integers(1, 12), GAPS, PAUSES)
def test_no_minute_ever_passes_the_ceiling(
    per_minute: float, burst: int, gaps: list[float], pauses: dict[int, float]
) -> None:
    """Any 60 seconds hold at most `per_minute` and `burst` requests, with idle times and pauses in between."""
    clock = Clock(now=0.0)
    budget = RateBudget(per_minute=per_minute, burst=burst, clock=clock)
    # Each gap is followed by a rush, which is what would pass the ceiling.
    moments = sent_at(clock, budget, [gap for each in gaps or [0.0] for gap in (each, *[0.0] * 9)], pauses)

    for first, moment in enumerate(moments):
        in_window = sum(1 for later in moments[first:] if later <= moment + 60)
        assert in_window <= per_minute + burst


@settings(deadline=None, max_examples=50)
@given(RATES, st.integers(1, 12), st.floats(0, 300), st.integers(0, 30), st.integers(1, 30))
def test_a_pause_is_kept_and_followed_by_no_burst(
    per_minute: float, burst: int, pause: float, before: int, after: int
) -> None:
    """However much was sent before, nothing goes in the pause, and then one request an interval."""
    clock = Clock(now=0.0)
    budget = RateBudget(per_minute=per_minute, burst=burst, clock=clock)
    waits(budget, before)
    penalize(budget, pause)
    moments = waits(budget, after)

    assert pause <= moments[0] + 1e-9
    spaces = [later - sooner for sooner, later in pairwise(moments)]
    assert all(math.isclose(60 / per_minute, space, abs_tol=1e-6) for space in spaces)


@settings(deadline=None, max_examples=50)
@given(GAPS)
def test_without_a_ceiling_no_pattern_ever_waits(gaps: list[float]) -> None:
    """Nobody waits, whether the requests come in a rush or with gaps."""
    clock = Clock(now=0.0)
    moments = sent_at(clock, RateBudget(per_minute=math.inf, clock=clock), gaps, {})
    assert sum(gaps) == (moments[-1] if moments else 0.0)


def test_a_permit_is_there_at_once_or_not() -> None:
    """The answer is a bool either way."""
    budget = RateBudget(per_minute=60, burst=2, clock=Clock())
    assert [True, True, False] == [budget.take_at_once() for _ in range(3)]


@settings(deadline=None)
@given(RATES, st.integers(1, 12), st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=40))
def test_taking_at_once_is_reserving_without_a_wait(
    per_minute: float, burst: int, steps: list[tuple[float, bool]]
) -> None:
    """A permit is there at once exactly when `reserve` would not make anybody wait, and it is the same one."""
    clock = Clock(now=0.0)
    either, reserved = (RateBudget(per_minute, burst, clock=clock) for _ in range(2))
    for gap, at_once in steps:
        clock.now += gap
        if at_once and either.take_at_once():
            assert [0.0] == waits(reserved, 1)
        else:
            [seconds] = waits(either, 1)
            assert [seconds] == waits(reserved, 1)
            assert not at_once or seconds > 0


@pytest.mark.parametrize("per_minute", [1e-4, 1e12], ids=repr)
def test_the_outermost_rates_are_rates(per_minute: float) -> None:
    """From a request a week to more than any machine sends."""
    assert per_minute == RateBudget(per_minute=per_minute).per_minute


@pytest.mark.parametrize("burst", [1, 10**12], ids=repr)
def test_the_outermost_bursts_are_bursts(burst: int) -> None:
    """From even spacing to all that the highest rate has in a minute."""
    assert burst == RateBudget(burst=burst).burst
