"""
What an export costs: requests, and the time that they take.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis.strategies import floats, integers

from crowdtwist_async import ConfigurationError
from crowdtwist_async.export import Plan
from crowdtwist_async.export.plan import WHOLE_RATE, counted, duration


def test_five_million_members_take_a_night() -> None:
    """At one page each, and the whole of what a program may send; half of it is the default."""
    whole = Plan(5_000_000, WHOLE_RATE)
    half = Plan(5_000_000)

    assert ("5,000,000 members, at least 5,000,000 requests: 8.6 hours at 9,700 requests a minute") == str(
        whole
    )
    assert ("5,000,000 members, at least 5,000,000 requests: 16.7 hours at 5,000 requests a minute") == str(
        half
    )
    assert 5_000_000 / 9_700 * 60 == pytest.approx(whole.seconds)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        pytest.param(
            Plan(0), "0 members, at least 0 requests: 0.0 seconds at 5,000 requests a minute", id="none"
        ),
        pytest.param(
            Plan(1), "1 member, at least 1 request: 0.0 seconds at 5,000 requests a minute", id="one"
        ),
        pytest.param(
            Plan(1_000, 500, 2.5),
            "1,000 members, at least 2,500 requests: 5.0 minutes at 500 requests a minute",
            id="pages",
        ),
        pytest.param(
            Plan(2, 0.5),
            "2 members, at least 2 requests: 4.0 minutes at 0.5 requests a minute",
            id="less-than-one",
        ),
        pytest.param(
            Plan(9, 12_345_678.5),
            "9 members, at least 9 requests: 0.0 seconds at 12,345,678.5 requests a minute",
            id="odd-rate",
        ),
        pytest.param(Plan(7, math.inf), "7 members, at least 7 requests, without a limit", id="no-limit"),
        pytest.param(
            Plan(10, 60, 100_000),
            "10 members, at least 1,000,000 requests: 11.6 days at 60 requests a minute",
            id="longest-walks",
        ),
    ],
)
def test_a_plan_says_what_it_takes(plan: Plan, said: str) -> None:
    """Members, requests, time and rate."""
    assert said == str(plan)


def test_no_time_passes_without_a_limit() -> None:
    """None that could be known before."""
    assert 0.0 == Plan(7, math.inf).seconds


@given(members=integers(0, 10**9), pages=floats(1, 100_000))
def test_requests_are_the_members_times_the_mean(members: int, pages: float) -> None:
    """A whole number, never less than one each, and the product but for the rounding of binary fractions."""
    requests = Plan(members, pages_per_member=pages).requests

    assert isinstance(requests, int)
    assert members <= requests
    assert members * pages == pytest.approx(requests, abs=0.5)


@pytest.mark.parametrize("members", [10, 1_000_000])
def test_a_binary_fraction_adds_no_request(members: int) -> None:
    """1.1 is a little more than 1.1."""
    assert members * 11 // 10 == Plan(members, pages_per_member=1.1).requests


@pytest.mark.parametrize(
    "rate", [0, -1, -0.5, math.nan, -math.inf, "5000", None, True, 1e-9, 1e300], ids=repr
)
def test_a_rate_that_no_client_takes_is_refused(rate: Any) -> None:
    """A plan for it would be for no export."""
    with pytest.raises(
        ConfigurationError,
        match="^per_minute must be a positive number of requests, or math.inf(, not (bool|str|NoneType))?$",
    ):
        Plan(1, rate)


@pytest.mark.parametrize(
    "pages", [0, 0.99, -1, math.nan, math.inf, 100_001, 1e308, "2", None, True], ids=repr
)
def test_pages_that_no_member_has_are_refused(pages: Any) -> None:
    """A member without rows takes a request, and a walk ends after 100,000."""
    with pytest.raises(ConfigurationError) as caught:
        Plan(1, pages_per_member=pages)

    assert (
        "pages_per_member must be a number from 1, as no member takes less than a request,"
        " to 100,000, as none is walked further"
    ) == str(caught.value)


@pytest.mark.parametrize("members", [-1, 1.0, "5", None, True], ids=repr)
def test_members_that_can_not_be_are_refused(members: Any) -> None:
    """They are counted."""
    with pytest.raises(ConfigurationError, match="^members must be an int of 0 or more$"):
        Plan(members)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        pytest.param(0.0, "0.0 seconds", id="zero"),
        pytest.param(119.9, "119.9 seconds", id="seconds"),
        pytest.param(120.0, "2.0 minutes", id="minutes"),
        pytest.param(7_199.0, "120.0 minutes", id="nearly-two-hours"),
        pytest.param(7_200.0, "2.0 hours", id="hours"),
        pytest.param(172_800.0, "2.0 days", id="days"),
        pytest.param(1e9, "11,574.1 days", id="years"),
    ],
)
def test_a_time_has_the_unit_that_suits_it(seconds: float, said: str) -> None:
    """At least two of it."""
    assert said == duration(seconds)


@pytest.mark.parametrize(("number", "said"), [(0, "0 rows"), (1, "1 row"), (1_234, "1,234 rows")])
def test_a_number_has_its_noun(number: int, said: str) -> None:
    """In the plural unless there is one."""
    assert said == counted(number, "row")
