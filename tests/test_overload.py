"""
More calls than the budget or the slots can serve in time: as many succeed as can, and all of them afterwards.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import anyio
import pytest
from conftest import KEY
from scripted import OK, ScriptedTransport, status
from virtual import make_budget, virtual

from crowdtwist_async import (
    CrowdTwistError,
    DeadlineExceededError,
    RateBudget,
    Reply,
    Request,
    RetryPolicy,
)
from crowdtwist_async._config import make_settings
from crowdtwist_async._protocol import points_call, rewards_call
from crowdtwist_async._reply_time import ReplyTime
from crowdtwist_async._secrets import Secret
from crowdtwist_async._send import Options, Sender

pytestmark = pytest.mark.anyio

SETTINGS = make_settings(api_key=Secret(KEY), api_url="http://localhost:1", pos_url="http://localhost:2")
CALL = points_call(SETTINGS, "7", "id")
REWARDS = status(200, b'{"rewards": [], "paging": {"total": 0, "pages": 0}}')
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

    async def come(self, per_second: float, seconds: float, options: Options = OPTIONS) -> None:
        """Let calls come for some seconds, and wait for the last to end."""
        self.succeeded, self.errors = 0, []
        async with anyio.create_task_group() as tasks:
            for _ in range(int(per_second * seconds)):
                tasks.start_soon(self._call, options)
                await anyio.sleep(1 / per_second)

    async def _call(self, options: Options) -> None:
        try:
            await self._sender.send(CALL, options)
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
    await load.come(times * capacity, 12)
    assert load.succeeded >= 12 * capacity
    assert {DeadlineExceededError} == {type(error) for error in load.errors}
    in_line = [error for error in load.errors if "waiting for" in error.reason]
    assert len(in_line) >= 0.7 * len(load.errors)
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


async def test_a_long_line_without_an_overload_refuses_nobody() -> None:
    """However long other replies take, and took an hour ago: there is a permit for each in time."""
    seconds = {"rewards": 3.0, "fulfillment": 8.0}

    async def answer(request: Request) -> Reply:
        is_rewards = "rewards" in request.path
        await anyio.sleep(seconds["rewards" if is_rewards else "fulfillment"])
        return REWARDS if is_rewards else OK

    sender = Sender(SETTINGS, ScriptedTransport(answer), make_budget(600), 64)
    patient = Options(10.0, None, RetryPolicy(max_attempts=1))
    for _ in range(6):
        await sender.send(CALL, patient)
    seconds["fulfillment"] = 0.05
    await anyio.sleep(3600)

    load = Load(sender)
    async with anyio.create_task_group() as tasks:
        for _ in range(60):
            tasks.start_soon(sender.send, rewards_call(SETTINGS, "7", id_type="id"), patient)
        await anyio.sleep(4.5)  # their line leaves those that come 1.5 of 2 seconds
        await load.come(9.9, 20)
    assert [] == load.errors


async def test_a_permit_that_is_there_is_taken_however_late_it_is() -> None:
    """Only waiting would be in vain: a retry may be served in what is left."""

    async def late(_: Request) -> Reply:
        await anyio.sleep(0.9)
        return status(503)

    transport = ScriptedTransport(late, late, OK)
    sender = Sender(SETTINGS, transport, Other(math.inf, clock=anyio.current_time), 64)
    times = sender._line.reply_times[CALL.endpoint.name]
    times.note(1e6)
    times.note_cut(anyio.current_time(), 1.0)
    await sender.send(CALL, Options(1.0, 2.0, RetryPolicy(initial=0)))
    assert 3 == len(transport.requests)


class Other(RateBudget):
    """A budget of another kind."""


class Moody(RateBudget):
    """A store that promises far too much once, as before an operator resets it."""

    def __init__(self, first: float) -> None:
        super().__init__(math.inf)
        self.asked = 0
        self.first_again = 0.0
        self._first = first

    async def reserve(self, n: int = 1, /) -> float:
        self.asked += n
        again, self.first_again = self.first_again, 0.0
        return self._first if self.asked == 1 else again


@pytest.mark.parametrize(("promise", "asked"), [(3600.0, 2), (64.0, 2), (62.0, 2), (61.0, 1)], ids=str)
async def test_a_promise_of_another_budget_is_believed_for_a_minute(promise: float, asked: int) -> None:
    """Only of a clock in this process it is known that its times come no nearer."""
    budget = Moody(promise)
    sender = Sender(SETTINGS, ScriptedTransport(), budget, 64)
    for _ in range(30):  # of two seconds each
        with pytest.raises(DeadlineExceededError):
            await sender.send(CALL, OPTIONS)
    assert 1 == budget.asked
    await anyio.sleep(0.5)
    await sender.send(CALL, OPTIONS)
    assert asked == budget.asked


async def test_calls_that_give_up_in_a_pause_do_not_put_off_its_end() -> None:
    """Each would take a permit of a budget that processes share: soon none would be near enough for anybody."""
    budget = Other(600, clock=anyio.current_time)
    load = Load(Sender(SETTINGS, ScriptedTransport(), budget, 64))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(load.come, 9, 30)
        await anyio.sleep(3)
        await budget.penalize(8.0)  # for a 429 that another process met
    assert load.succeeded >= 9 * (30 - 8)


async def test_replies_that_take_most_of_the_deadline_come_in_an_overload_too() -> None:
    """Who waits in line leaves enough for them."""

    async def answer(_: Request) -> Reply:
        await anyio.sleep(1.2)
        return OK

    load = Load(Sender(SETTINGS, ScriptedTransport(answer), make_budget(600), 64))
    await load.come(20, 20, Options(5.0, 2.0, RetryPolicy(max_attempts=1)))
    assert load.succeeded >= 0.8 * 10 * 20


def test_an_attempt_that_was_cut_teaches_until_the_next_reply() -> None:
    """How long it would have taken nobody knows: a call with much time must not spoil those with little."""
    times = ReplyTime()
    times.note(0.05)
    times.note_cut(0.0, 25.0)
    assert (1.6, 48.0) == (times.needed(2.0, 1.0), times.needed(60.0, 1.0))
    times.note(0.05)
    assert times.needed(2.0, 1.0) < 0.1
    times.note_cut(0.0, 0.2)
    assert 0.4 == times.needed(2.0, 1.0)
    times.note(0.3)
    assert 0.3 <= times.needed(2.0, 1.0) < 0.5


async def test_a_backlog_that_is_over_is_forgotten() -> None:
    """What was promised is believed for a minute again, as soon as a permit comes soon."""
    budget = Moody(300.0)
    sender = Sender(SETTINGS, ScriptedTransport(), budget, 64)
    permits = sender._line.permits
    await permits._seconds_to_permit()
    await anyio.sleep(61)
    budget.first_again = 300.0
    await permits._seconds_to_permit()
    assert 120.0 == permits._believed
    await anyio.sleep(121)
    assert (0.0, 60.0) == (await permits._seconds_to_permit(), permits._believed)


async def test_more_clients_than_permits_a_minute_use_them_all() -> None:
    """Each of them believes what it was promised: asking anew would put everybody off, and none would send."""
    transport, budget = ScriptedTransport(), Other(60, burst=1, clock=anyio.current_time)
    senders = [Sender(SETTINGS, transport, budget, 64) for _ in range(70)]
    patient = Options(1.0, 30.0, RetryPolicy(max_attempts=1))

    async def go_on(sender: Sender) -> None:
        while True:
            with suppress(CrowdTwistError):
                await sender.send(CALL, patient)

    async with anyio.create_task_group() as tasks:
        for sender in senders:
            tasks.start_soon(go_on, sender)
        await anyio.sleep(540)
        sent = len(transport.requests)
        await anyio.sleep(120)
        tasks.cancel_scope.cancel()
    assert len(transport.requests) - sent >= 0.9 * 120


async def test_replies_that_get_slower_in_an_overload_still_come() -> None:
    """What is known of them is from replies, and none would arrive: each call was sent too late for its own."""
    seconds = 0.02

    async def answer(_: Request) -> Reply:
        await anyio.sleep(seconds)
        return OK

    load = Load(Sender(SETTINGS, ScriptedTransport(answer), make_budget(600), 64))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(load.come, 12, 30)
        await anyio.sleep(10)
        seconds = 0.6
    assert load.succeeded >= 0.9 * 10 * 30


def test_the_first_reply_counts_for_an_eighth_as_any_other() -> None:
    """Once in the mean, and twice in how far replies stray: nothing was known of them before."""
    times = ReplyTime()
    times.note(0.8)
    times.note_cut(0.0, 0.1)
    assert math.isclose(3 * 0.8 / 8, times.needed(2.0, 1.0))


def test_what_replies_need() -> None:
    """Their smoothed mean and twice what they stray from it, in an overload; four fifths of a deadline at most."""
    times = ReplyTime()
    for _ in range(200):
        times.note(0.3)
    assert (0.0, 0.0) == (times.needed(2.0, 0.5), times.needed(2.0, 100.0))
    times.note_cut(100.0, 0.1)
    assert math.isclose(0.3, times.needed(2.0, 100.0), rel_tol=1e-3)
    assert (0.24, 0.0) == (times.needed(0.3, 100.0), times.needed(None, 100.0))
    assert times.needed(2.0, 109.9) > times.needed(2.0, 110.0) == 0.0
    for number in range(400):
        times.note(0.2 if number % 2 else 0.4)
    assert 0.45 <= times.needed(2.0, 100.0) <= 0.55
