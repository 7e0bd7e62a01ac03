"""
When to send again, and after how long.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from conftest import any_text
from hypothesis import example, given, settings

from crowdtwist_async import (
    APIStatusError,
    AuthenticationError,
    ConfigurationError,
    ConnectionFailedError,
    CrowdTwistError,
    DecodeError,
    RateLimitError,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
)
from crowdtwist_async._retry import delay_before_retry, explain_no_retry, read_retry_after

NOW = datetime(2015, 10, 21, 7, 28, tzinfo=UTC)


def worth_retrying(error: CrowdTwistError) -> CrowdTwistError:
    """An error that reading the reply has found to be passing."""
    error.retryable = True
    return error


def asking(error: APIStatusError, seconds: float) -> APIStatusError:
    """A passing error whose reply had a `Retry-After`."""
    error.retryable = True
    error.retry_after = seconds
    return error


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param("0", 0.0, id="zero"),
        pytest.param("20", 20.0, id="seconds"),
        pytest.param("007", 7.0, id="leading-zeros"),
        pytest.param(" 20 ", 20.0, id="spaces-around"),
        pytest.param("1.5", 1.5, id="fraction"),
        pytest.param("86400", 86400.0, id="a-day"),
        pytest.param("999999999999", 999999999999.0, id="longest"),
        pytest.param("Wed, 21 Oct 2015 07:28:20 GMT", 20.0, id="date"),
        pytest.param("Wednesday, 21-Oct-15 07:28:20 GMT", 20.0, id="rfc-850-date"),
        pytest.param("Wed Oct 21 07:28:20 2015", 20.0, id="asctime-date"),
        pytest.param("Wed, 21 Oct 2015 09:28:20 +0200", 20.0, id="date-with-offset"),
        pytest.param("Wed, 21 Oct 2015 07:28:20 -0000", 20.0, id="date-of-unknown-zone"),
        pytest.param("Wed, 21 Oct 2015 07:28:00 GMT", 0.0, id="date-now"),
        pytest.param("Tue, 20 Oct 2015 07:28:00 GMT", None, id="past-date"),
        pytest.param("Thu, 01 Jan 1970 00:00:00 GMT", None, id="epoch"),
        pytest.param("Fri, 31 Dec 9999 23:59:59 GMT", 251956888319.0, id="last-date"),
        pytest.param(None, None, id="missing"),
        pytest.param("", None, id="empty"),
        pytest.param("  ", None, id="blank"),
        pytest.param("-1", None, id="negative"),
        pytest.param("+5", None, id="plus"),
        pytest.param("nan", None, id="nan"),
        pytest.param("inf", None, id="inf"),
        pytest.param("-inf", None, id="minus-inf"),
        pytest.param("1e3", None, id="exponent"),
        pytest.param("0x10", None, id="hexadecimal"),
        pytest.param("1_000", None, id="underscore"),
        pytest.param("1.", None, id="dot-at-the-end"),
        pytest.param(".5", None, id="dot-at-the-start"),
        pytest.param("9" * 13, None, id="too-many-digits"),
        pytest.param("9" * 5000, None, id="thousands-of-digits"),
        pytest.param("\u0662\u0660", None, id="arabic-digits"),
        pytest.param("\u00b2", None, id="superscript-digit"),
        pytest.param("\uff12\uff10", None, id="full-width-digits"),
        pytest.param("20s", None, id="unit"),
        pytest.param("20 seconds", None, id="words"),
        pytest.param("soon", None, id="word"),
        pytest.param("null", None, id="null"),
        pytest.param("120, 60", None, id="several-headers"),
        pytest.param("20;", None, id="parameter"),
        pytest.param("2015-10-21T07:28:20Z", None, id="iso-date"),
        pytest.param("Mon, 01 Jan 100000 00:00:00 GMT", None, id="year-100000"),
        pytest.param("Wed, 21 Oct 2015 25:28:00 GMT", None, id="hour-25"),
        pytest.param("Wed, 31 Feb 2015 07:28:00 GMT", None, id="no-such-day"),
        pytest.param("Wed, 21 Oct 2015 07:28:00 +9999999", None, id="no-such-zone"),
        pytest.param("Wed, \u0662\u0661 Oct 2015 07:28:20 GMT", None, id="date-in-other-digits"),
        pytest.param("\x00", None, id="nul"),
    ],
)
def test_retry_after(header: str | None, expected: float | None) -> None:
    """Seconds or a date, and `None` for whatever is neither, so that the real error is never masked."""
    assert expected == read_retry_after(header, NOW)


def test_retry_after_counts_from_now() -> None:
    """Without another moment, a date is compared with the present."""
    assert read_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") is None
    assert (read_retry_after("Fri, 21 Oct 2165 07:28:00 GMT") or 0.0) > 86_400.0
    seconds = read_retry_after("Fri, 31 Dec 9999 23:59:59 GMT")
    assert seconds is not None
    assert seconds < 251956888319.0


@settings(deadline=None)
@given(any_text())
@example("1 Jan")
@example("0 0 0 0 0")
@example(", , , ,")
def test_any_retry_after_is_seconds_or_nothing(header: str) -> None:
    """Nothing that a gateway sends raises, or asks for a negative or endless pause."""
    seconds = read_retry_after(header, NOW)
    assert seconds is None or 0 <= seconds < math.inf


@pytest.mark.parametrize(
    ("attempts", "longest"),
    [(1, 0.2), (2, 0.4), (3, 0.8), (4, 1.6), (7, 12.8), (8, 20.0), (9, 20.0), (50, 20.0), (10**6, 20.0)],
    ids=str,
)
def test_pauses_double_up_to_the_longest(attempts: int, longest: float) -> None:
    """The pause is random between nothing and a bound that doubles with every attempt."""
    policy = RetryPolicy(max_attempts=10**7)
    error = ConnectionFailedError("reset")

    assert 0.0 == delay_before_retry(error, attempts, policy, jitter=lambda: 0.0)
    assert math.isclose(longest / 2, delay_before_retry(error, attempts, policy, jitter=lambda: 0.5) or 0.0)
    assert math.isclose(longest, delay_before_retry(error, attempts, policy, jitter=lambda: 1.0) or 0.0)


def test_pauses_differ_by_default() -> None:
    """Many clients that failed together must not come back together."""
    pauses = {
        delay_before_retry(ConnectionFailedError("reset"), 4, RetryPolicy(max_attempts=9)) for _ in range(20)
    }
    assert 1 < len(pauses)
    assert all(pause is not None and 0 <= pause <= 1.6 for pause in pauses)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ConnectionFailedError("reset"), id="connection"),
        pytest.param(RequestTimeoutError("slow"), id="timeout"),
        pytest.param(RateLimitError("429"), id="rate-limit"),
        pytest.param(worth_retrying(ServerError("503")), id="server"),
        pytest.param(worth_retrying(APIStatusError("408")), id="status"),
    ],
)
def test_passing_errors_are_retried_until_the_last_attempt(error: CrowdTwistError) -> None:
    """Four attempts are three retries."""
    decided = [delay_before_retry(error, attempts, RetryPolicy()) is not None for attempts in (1, 2, 3, 4, 5)]
    assert [True, True, True, False, False] == decided


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(AuthenticationError("403"), id="authentication"),
        pytest.param(ServerError("500 not_configured"), id="not-configured"),
        pytest.param(APIStatusError("404"), id="status"),
        pytest.param(DecodeError("expected an integer"), id="wrong-shape"),
        pytest.param(asking(APIStatusError("404"), 1.0), id="even-when-asked"),
    ],
)
def test_lasting_errors_are_raised_at_once(error: CrowdTwistError) -> None:
    """What will not change is not asked for again, not even with a `Retry-After`."""
    error.retryable = False
    assert delay_before_retry(error, 1, RetryPolicy()) is None


def test_a_body_that_is_no_json_is_retried_once() -> None:
    """The second such reply is no accident; other failures before it do not count."""
    error = worth_retrying(DecodeError("the body is not JSON in UTF-8"))
    assert delay_before_retry(error, 1, RetryPolicy()) is not None
    assert delay_before_retry(error, 3, RetryPolicy()) is not None
    assert delay_before_retry(error, 2, RetryPolicy(), unreadable=2) is None


def test_one_attempt_is_no_retry() -> None:
    """`max_attempts=1` switches retries off, also for what the server asked for."""
    policy = RetryPolicy(max_attempts=1)
    assert delay_before_retry(ConnectionFailedError("reset"), 1, policy) is None
    assert delay_before_retry(asking(RateLimitError("429"), 0.0), 1, policy) is None


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param(0.0, 0.0, id="zero"),
        pytest.param(7.5, 7.5, id="some"),
        pytest.param(120.0, 120.0, id="longest"),
        pytest.param(120.1, None, id="beyond"),
        pytest.param(86400.0, None, id="a-day"),
    ],
)
@pytest.mark.parametrize("cls", [RateLimitError, ServerError], ids=lambda cls: cls.__name__)
def test_what_the_server_asks_for_is_kept(
    cls: type[APIStatusError], asked: float, expected: float | None
) -> None:
    """A `Retry-After` replaces the client's own pause, zero included; beyond the bound the error is raised."""
    assert expected == delay_before_retry(asking(cls("later"), asked), 1, RetryPolicy(), jitter=lambda: 0.5)


@pytest.mark.parametrize(("jitter", "expected"), [(0.0, 1.0), (0.5, 1.2), (1.0, 1.4)], ids=str)
def test_a_rate_limit_without_a_wish_waits_a_second_at_least(jitter: float, expected: float) -> None:
    """Below a second, a 429 is not worth trying again."""
    delay = delay_before_retry(RateLimitError("429"), 2, RetryPolicy(), jitter=lambda: jitter)
    assert delay is not None
    assert math.isclose(expected, delay)


def test_pauses_can_be_switched_off() -> None:
    """Zero is a number, not a missing one."""
    policy = RetryPolicy(initial=0, max_delay=0, max_retry_after=0)
    assert 0 == delay_before_retry(ConnectionFailedError("reset"), 1, policy, jitter=lambda: 1.0)
    assert 0 == delay_before_retry(asking(ServerError("503"), 0.0), 1, policy)
    assert delay_before_retry(asking(ServerError("503"), 0.1), 1, policy) is None


def test_the_default_policy() -> None:
    """Four attempts, 0.2 s at first, 20 s at most, 120 s if the server asks for it."""
    policy = RetryPolicy()
    assert (4, 0.2, 20.0, 120.0) == (
        policy.max_attempts,
        policy.initial,
        policy.max_delay,
        policy.max_retry_after,
    )
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        policy.max_attempts = 5  # type: ignore[misc]  # that it can't be set is the point


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "4", None], ids=repr)
def test_attempts_are_integers_from_one(value: Any) -> None:
    """No attempt at all is no request."""
    with pytest.raises(ConfigurationError, match="^RetryPolicy's max_attempts must be an int, 1"):
        RetryPolicy(max_attempts=value)


@pytest.mark.parametrize("value", [-0.1, True, "1", None, math.nan, math.inf], ids=repr)
@pytest.mark.parametrize("name", ["initial", "max_delay", "max_retry_after"])
def test_pauses_are_finite_numbers_from_zero(name: str, value: Any) -> None:
    """An endless or negative pause is a mistake."""
    with pytest.raises(ConfigurationError, match=f"^RetryPolicy's {name} must be a number of seconds"):
        RetryPolicy(**{name: value})


@pytest.mark.parametrize(
    "error", [ConnectionFailedError("reset"), RateLimitError("slow down")], ids=["no-reply", "no-retry-after"]
)
def test_nothing_is_said_of_a_pause_that_nobody_asked_for(error: CrowdTwistError) -> None:
    """The client's own pause would have ended after the deadline."""
    said = str(error)

    explain_no_retry(error, 0.0, "the deadline leaves")

    assert said == str(error)
