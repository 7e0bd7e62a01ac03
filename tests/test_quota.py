"""
The retry quota: its table, its bounds, and what it makes of an outage and of everyday faults.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence

import pytest
from conftest import KEY
from hypothesis import given
from hypothesis import strategies as st
from scripted import OK, Outcome, ScriptedTransport, status

from crowdtwist_async import (
    ConnectionFailedError,
    CrowdTwistError,
    RateBudget,
    RateLimitError,
    Reply,
    Request,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
)
from crowdtwist_async._config import make_settings
from crowdtwist_async._progress import Stats
from crowdtwist_async._protocol import points_call
from crowdtwist_async._quota import CAPACITY, RetryQuota
from crowdtwist_async._secrets import Secret
from crowdtwist_async._send import Options, Sender

SETTINGS = make_settings(api_key=Secret(KEY), api_url="http://localhost:1", pos_url="http://localhost:1")
CALL = points_call(SETTINGS, "7", "id")
AT_ONCE = Options(10.0, None, RetryPolicy(initial=0))

ERRORS: dict[str, tuple[CrowdTwistError, int]] = {
    "connection": (ConnectionFailedError("cut"), 14),
    "timeout": (RequestTimeoutError("slow"), 14),
    "5xx": (ServerError("no"), 14),
    "429": (RateLimitError("too many"), 5),
}


@pytest.mark.parametrize(("error", "cost"), ERRORS.values(), ids=ERRORS)
def test_a_retry_costs_by_its_error(error: CrowdTwistError, cost: int) -> None:
    """A transient fault costs 14 of 500 tokens, being throttled 5."""
    quota = RetryQuota()
    assert (500, cost, 500 - cost) == (CAPACITY, quota.take(error), quota.tokens)


@pytest.mark.parametrize(
    ("error", "retries", "left"),
    [(ServerError("no"), 35, 10), (RateLimitError("no"), 100, 0)],
    ids=["transient", "throttled"],
)
def test_a_full_quota_affords_so_many_retries(error: CrowdTwistError, retries: int, left: int) -> None:
    """What is left then is too little, and stays."""
    quota = RetryQuota()
    afforded = sum(quota.take(error) is not None for _ in range(200))
    assert (retries, left) == (afforded, quota.tokens)


@pytest.mark.parametrize(
    ("capacity", "error", "left"),
    [
        (14, ServerError("no"), 0),
        (13, ServerError("no"), None),
        (5, RateLimitError("no"), 0),
        (4, RateLimitError("no"), None),
    ],
    ids=["exactly", "one short", "429 exactly", "429 one short"],
)
def test_the_last_tokens_can_be_spent(capacity: int, error: CrowdTwistError, left: int | None) -> None:
    """A retry is paid in full or not made; one that is not made costs nothing."""
    quota = RetryQuota(capacity)
    cost = quota.take(error)
    assert (left is not None, capacity if left is None else left) == (cost is not None, quota.tokens)


@pytest.mark.parametrize(
    ("spent", "cost", "tokens"),
    [(10, 14, 374), (10, 5, 365), (10, 0, 361), (0, 14, 500), (0, 0, 500), (1, 14, 500)],
    ids=["transient", "throttled", "no retry", "full", "full, no retry", "filled up"],
)
def test_a_success_gives_back(spent: int, cost: int, tokens: int) -> None:
    """It gives what its last retry cost, or one, and never more than there was."""
    quota = RetryQuota()
    for _ in range(spent):
        quota.take(ServerError("no"))
    quota.give_back(cost)
    assert tokens == quota.tokens


@given(st.lists(st.sampled_from(["take", "throttled", 0, 5, 14]), max_size=200), st.integers(0, 600))
def test_the_tokens_stay_within_their_bounds(steps: list[str | int], capacity: int) -> None:
    """Whatever happens in whichever order, the books balance, and no retry is made on credit."""
    quota = RetryQuota(capacity)
    for step in steps:
        before = quota.tokens
        if isinstance(step, int):
            quota.give_back(step)
            assert min(capacity, before + max(step, 1)) == quota.tokens
        else:
            cost = quota.take(RateLimitError("no") if step == "throttled" else ServerError("no"))
            assert before - (cost or 0) == quota.tokens
        assert 0 <= quota.tokens <= capacity


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_an_outage_is_bounded_whatever_its_errors(throttled: list[bool]) -> None:
    """Without a success, no mixture of errors is retried for more than the capacity."""
    quota = RetryQuota()
    costs = [quota.take(RateLimitError("no") if each else ServerError("no")) for each in throttled]
    assert sum(cost or 0 for cost in costs) <= 500


def call_all(
    outcomes: Sequence[Outcome], calls: int, *, at_once: int = 1
) -> tuple[list[CrowdTwistError], Stats]:
    """Make so many calls, so many of them at once; return their errors, and what was sent."""

    async def main() -> tuple[list[CrowdTwistError], Stats]:
        sender = Sender(SETTINGS, ScriptedTransport(*outcomes), RateBudget(math.inf), 64)
        errors: list[CrowdTwistError] = []
        numbers = iter(range(calls))

        async def call() -> None:
            for _ in numbers:
                try:
                    await sender.send(CALL, AT_ONCE)
                except CrowdTwistError as error:
                    errors.append(error)

        await asyncio.gather(*[call() for _ in range(at_once)])
        return errors, sender.stats

    return asyncio.run(main())


async def no_reply(request: Request) -> CrowdTwistError:
    """Fail with an error of this attempt's own."""
    return ConnectionFailedError("refused")


OUTAGES: dict[str, Outcome] = {
    "refused": no_reply,
    "500": status(500),
    "503 at once": status(503, retry_after="0"),
    "429 at once": status(429, retry_after="0"),
    "HTML": status(200, b"<html>"),
}


@pytest.mark.parametrize(
    ("outage", "calls", "at_once"),
    [
        ("refused", 350, 1),
        ("refused", 350, 350),
        ("500", 350, 64),
        ("503 at once", 350, 1),
        ("429 at once", 1000, 1000),
        ("HTML", 350, 1),
    ],
    ids=["refused", "refused, all at once", "500", "503", "429, all at once", "HTML"],
)
def test_an_outage_costs_a_tenth_more_requests_at_most(
    outage: str, calls: int, at_once: int, caplog: pytest.LogCaptureFixture
) -> None:
    """However a full outage is met, every tenth call is repeated at most, and each gets its real error."""
    caplog.set_level("CRITICAL", "crowdtwist_async")
    errors, stats = call_all([OUTAGES[outage]], calls, at_once=at_once)

    assert calls == len(errors)
    assert 1 == len({type(error) for error in errors})
    assert calls < stats.requests <= calls + calls // 10
    assert calls + stats.retries == stats.requests == sum(error.attempts or 0 for error in errors)


@pytest.mark.parametrize(("successes", "requests"), [(3, 1), (4, 2)], ids=["too few", "enough"])
def test_calls_recover_after_an_outage(
    successes: int, requests: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Each success gives one token back: the 10 that an outage leaves need four for the next retry."""
    caplog.set_level("CRITICAL", "crowdtwist_async")
    outage, then = [status(500)] * 85, [OK] * successes
    errors, stats = call_all([*outage, *then, status(500), OK], 50 + successes + 1)

    assert (85 + successes + requests, 52 - requests) == (stats.requests, len(errors))


def random_faults(seed: int, share: float) -> Outcome:
    """Fail at random with what passes, so often."""
    chance = random.Random(seed)
    faults: tuple[Reply | None, ...] = (
        None,
        status(500),
        status(502),
        status(503),
        status(429, retry_after="0"),
    )

    async def reply(request: Request) -> Reply | CrowdTwistError:
        if chance.random() >= share:
            return OK
        return chance.choice(faults) or ConnectionFailedError("reset")

    return reply


def test_everyday_faults_hardly_reach_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    """With one request in ten failing, 99.9 % of 5,000 calls succeed, at 1.12 requests each."""
    caplog.set_level("CRITICAL", "crowdtwist_async")
    errors, stats = call_all([random_faults(2026, 0.1)], 5_000, at_once=64)

    assert len(errors) <= 5
    assert 5_000 < stats.requests <= 5_600


@pytest.mark.parametrize("seed", range(5))
def test_twice_the_everyday_faults_are_no_outage(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """With one request in five failing, the quota still affords what four attempts can mend."""
    caplog.set_level("CRITICAL", "crowdtwist_async")
    errors, stats = call_all([random_faults(seed, 0.2)], 600, at_once=16)

    assert len(errors) <= 6
    assert stats.requests <= 810


UNKNOWN = status(404, b'{"system": "pos", "reason": "user_not_found", "description": "", "message": "no"}')
REFUSED = [UNKNOWN, status(400, b"{}"), status(403, b"{}")]


@pytest.mark.parametrize("answer", REFUSED, ids=["unknown", "bad", "not allowed"])
def test_an_answer_that_is_an_error_gives_back_too(answer: Outcome) -> None:
    """Retries work where the API answers after them, though it knows nobody: as many are made as are needed."""
    errors, stats = call_all([status(503, retry_after="0"), answer] * 50, 50)

    assert (100, 50) == (stats.requests, stats.retries)
    assert not any(isinstance(error, ServerError) for error in errors)
    assert 50 == len(errors)
