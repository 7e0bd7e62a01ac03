"""
The way to the budget, and the pauses that servers ask for, in a time that passes at once.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from conftest import KEY, captured_locals
from scripted import OK, ScriptedTransport, failed, limited, status
from virtual import Stopwatch, TimedTransport, make_budget, virtual

from crowdtwist_async import (
    Budget,
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    CrowdTwistError,
    DeadlineExceededError,
    RateBudget,
    RateLimitError,
    Reply,
    Request,
    RetryPolicy,
    ServerError,
    TransportError,
)
from crowdtwist_async._config import make_settings
from crowdtwist_async._permits import Permits, Turn
from crowdtwist_async._progress import RunStats
from crowdtwist_async._protocol import Call, points_call, rewards_call
from crowdtwist_async._secrets import Secret
from crowdtwist_async._send import Options, Sender

pytestmark = pytest.mark.anyio

SETTINGS = make_settings(api_key=Secret(KEY), api_url="http://localhost:1", pos_url="http://localhost:2")
POINTS_CALL = points_call(SETTINGS, "7", "id")
REWARDS_CALL = rewards_call(SETTINGS, "7", id_type="id")
POS, API = POINTS_CALL.base.origin, REWARDS_CALL.base.origin
REWARDS = status(200, b'{"rewards": [], "paging": {"total": 0, "pages": 0}}')
ONCE = RetryPolicy(max_attempts=1)
PATIENT = Options(10.0, None, RetryPolicy(initial=0))


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run on both event loops, in virtual time."""
    return virtual(request.param)


def make_permits(budget: Budget | None = None) -> Permits:
    """A client's way to a budget, on the virtual clock."""
    return Permits(budget or make_budget(), anyio.current_time, anyio.sleep)


async def take_in_line(permits: Permits, count: int) -> list[float]:
    """The seconds after which so many callers have their permits, in the order in which they came."""
    watch = Stopwatch()
    moments = [math.nan] * count

    async def take(number: int) -> None:
        await permits.take()
        moments[number] = watch.seconds

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(take, number)
            await checkpoint()
    return moments


async def test_permits_are_first_come() -> None:
    """Whoever comes first has the first permit, and each further one an interval later."""
    assert [0.0, 1.0, 2.0, 3.0, 4.0, 5.0] == await take_in_line(make_permits(), 6)


async def test_without_a_ceiling_nobody_waits() -> None:
    """An unpaced budget hands out everything at once."""
    assert [0.0] * 50 == await take_in_line(make_permits(make_budget(math.inf)), 50)


async def test_a_free_permit_costs_no_turn_of_the_event_loop() -> None:
    """Nobody else runs while it is taken: neither the lock nor a sleep of no seconds lets them."""
    permits, ran = make_permits(), []

    async def other() -> None:
        ran.append("other")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        await permits.take()
        ran.append("taken")
    assert ["taken", "other"] == ran


async def test_a_permit_is_taken_at_once_if_there_is_one() -> None:
    """Whoever takes it that way has a real one: the next comes an interval later."""
    permits = make_permits()
    assert [True, False] == [permits.take_at_once() for _ in range(2)]
    assert [1.0, 2.0] == await take_in_line(permits, 2)


async def test_nobody_takes_a_permit_past_the_line() -> None:
    """Who waits has come before, even where the budget would give one more."""
    budget = make_budget(60, burst=2)
    permits = make_permits(budget)
    await permits.heed(limited(5.0), POS, 120.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(permits.take)
        await anyio.sleep(1)
        budget._next = -math.inf
        permits._paused_until = -math.inf
        assert False is permits.take_at_once()


@pytest.mark.parametrize(("seconds", "taken"), [(2.0, False), (3.0, True)], ids=["in it", "at its end"])
async def test_no_permit_is_taken_at_once_in_a_pause(seconds: float, taken: bool) -> None:
    """A pause of this client counts whatever its budget says; at its end it is over."""
    permits = make_permits(make_budget(math.inf))
    permits._paused_until = anyio.current_time() + 3.0
    await anyio.sleep(seconds)
    assert taken is permits.take_at_once()


async def test_a_budget_of_another_kind_gives_nothing_at_once() -> None:
    """What it does before it answers may take any time, so it is not asked."""

    class Other(RateBudget):
        def take_at_once(self) -> bool:
            raise AssertionError("it was asked")

    assert False is make_permits(Other(math.inf)).take_at_once()


@pytest.mark.parametrize("cancelled", [1, 2, 3], ids=["at the head", "behind the head", "at the end"])
async def test_cancelling_costs_no_permit(cancelled: int) -> None:
    """Only the head of the line has reserved, and what it gives up is the next one's."""
    permits, watch = make_permits(), Stopwatch()
    scopes = [anyio.CancelScope() for _ in range(4)]
    got: list[float] = []

    async def take(number: int) -> None:
        with scopes[number]:
            await permits.take()
            got.append(watch.seconds)

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(take, number)
            await checkpoint()
        await anyio.sleep(0.5)
        scopes[cancelled].cancel()
    assert [0.0, 1.0, 2.0] == got


@pytest.mark.parametrize(
    ("later", "moments"),
    [(0.0, [1.0, 2.0]), (0.508, [1.008, 2.0]), (0.512, [2.0, 3.0])],
    ids=["ahead", "late", "too late"],
)
async def test_cancelling_the_whole_line_costs_one_permit_at_most(later: float, moments: list[float]) -> None:
    """What a hundred callers gave up together is used until it is 0.01 s old: kept, it would be a burst."""
    permits, watch = make_permits(), Stopwatch()
    with anyio.move_on_after(0.5):
        await take_in_line(permits, 100)
    await anyio.sleep(later)
    for moment in moments:
        await permits.take()
        assert moment == watch.seconds


async def test_a_permit_that_was_given_up_is_used_once() -> None:
    """And not by somebody who comes after the next 429."""
    permits, watch = make_permits(), Stopwatch()
    await permits.take()
    with anyio.move_on_after(0.25):
        await permits.take()
    assert [0.75, 1.75, 2.75] == await take_in_line(permits, 3)
    with anyio.move_on_after(0.25):
        await permits.take()
    await permits.heed(limited(7.0), POS, 120.0)
    await permits.take()
    assert 10.25 == watch.seconds


@pytest.mark.parametrize(
    ("retry_after", "longest", "seconds"),
    [(7.0, 120.0, 7.0), (None, 120.0, 1.0), (0.0, 120.0, 0.0), (86400.0, 120.0, 120.0), (7.0, 0.0, 0.0)],
    ids=["as asked", "unsaid", "none", "bounded", "not allowed"],
)
async def test_a_429_pauses_everybody(retry_after: float | None, longest: float, seconds: float) -> None:
    """The pause is the `Retry-After`, a second without one, and `max_retry_after` at most."""
    budget = make_budget(math.inf)
    permits = make_permits(budget)
    await permits.heed(limited(retry_after), POS, longest)

    assert [seconds] * 3 == await take_in_line(permits, 3)


@pytest.mark.parametrize("pauses", [(30.0, 10.0), (10.0, 30.0), (30.0, 30.0)], ids=str)
async def test_the_later_of_two_429s_counts(pauses: tuple[float, float]) -> None:
    """Replies of many calls to one throttling are one pause, not their sum."""
    permits = make_permits()
    for seconds in pauses:
        await permits.heed(limited(seconds), POS, 120.0)
    assert [30.0, 31.0] == await take_in_line(permits, 2)


@pytest.mark.parametrize(
    ("pauses", "end"),
    [({0.5: 10.0}, 10.5), ({0.5: 10.0, 5.0: 20.0}, 25.0), ({0.5: 10.0, 5.0: 2.0}, 10.5), ({0.5: 0.75}, 2.0)],
    ids=["one", "prolonged", "not shortened", "short"],
)
async def test_a_429_is_heeded_by_the_head_that_sleeps(pauses: dict[float, float], end: float) -> None:
    """The head has its permit already, and waits nevertheless."""
    permits, watch = make_permits(), Stopwatch()
    await permits.take()

    async def penalize() -> None:
        for moment, seconds in pauses.items():
            await anyio.sleep(moment - watch.seconds)
            await permits.heed(limited(seconds), POS, 120.0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(penalize)
        await permits.take()
        assert end == watch.seconds


async def test_the_pause_after_a_429_is_told_and_can_be_sat_out() -> None:
    """Also one that is prolonged meanwhile; when it is over, nobody waits."""
    permits, watch = make_permits(), Stopwatch()
    assert permits.pause() < 0
    await permits.heed(limited(0.5), POS, 120.0)
    assert 0.5 == pytest.approx(permits.pause())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(permits.sit_out_pause)
        await anyio.sleep(0.25)
        await permits.heed(limited(0.75), POS, 120.0)
        assert 0.75 == pytest.approx(permits.pause())

    assert (True, 1.0) == (permits.pause() <= 0, watch.seconds)
    await permits.sit_out_pause()
    assert 1.0 == watch.seconds


async def test_each_pause_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """However many calls meet it."""
    permits = make_permits()
    for _ in range(2):
        await permits.heed(limited(0.5), POS, 120.0)
        await permits.heed(limited(0.75), POS, 120.0)
        await permits.sit_out_pause()

    told = "the server wants no requests for 0.5 s: it answered 429"
    assert [told, told] == [record.message for record in caplog.records if record.name == "crowdtwist_async"]


async def test_nobody_bursts_after_a_429() -> None:
    """However many permits a budget hands out at once, after a pause they come one by one."""
    permits = make_permits(make_budget(60, burst=10))
    await permits.heed(limited(30.0), POS, 120.0)
    assert [30.0, 31.0, 32.0, 33.0] == await take_in_line(permits, 4)


async def test_the_head_that_sleeps_and_the_next_do_not_leave_a_pause_together() -> None:
    """The permit that the head had from before the pause is no second one at its end."""
    permits = make_permits()
    await permits.take()

    async def penalize() -> None:
        await anyio.sleep(0.5)
        await permits.heed(limited(9.5), POS, 120.0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(penalize)
        assert [10.0, 11.0, 12.0] == await take_in_line(permits, 3)


async def test_a_429_pauses_those_who_share_the_budget() -> None:
    """What one client was told holds for all on its budget."""
    budget = make_budget()
    told, other = make_permits(budget), make_permits(budget)
    await told.heed(limited(20.0), POS, 120.0)
    assert [20.0, 21.0] == await take_in_line(other, 2)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (failed(503, 7.0), 7.0),
        (failed(503, 86400.0), 30.0),
        (failed(503, None), 0.0),
        (failed(503, 0.0), 0.0),
        (failed(500, 7.0), 0.0),
        (limited(7.0), 0.0),
        (TransportError("cut"), 0.0),
    ],
    ids=["503", "503 for a day", "503 without a time", "503 for nothing", "500", "429", "no reply"],
)
async def test_a_503_with_a_time_pauses_its_host_alone(error: CrowdTwistError, seconds: float) -> None:
    """The host is left alone for as long as it asks, 30 s at most; the other one is not."""
    permits, watch = make_permits(), Stopwatch()
    await permits.heed(error, API, 120.0)

    assert (seconds, 0.0) == tuple(max(0.0, permits.host_pause(origin)) for origin in (API, POS))
    await permits.sit_out_host(POS)
    assert 0.0 == watch.seconds
    await permits.sit_out_host(API)
    assert seconds == watch.seconds


async def test_a_503_does_not_pause_the_budget() -> None:
    """Calls to the other host go on."""
    permits = make_permits()
    await permits.heed(failed(503, 20.0), API, 120.0)
    assert [0.0, 1.0] == await take_in_line(permits, 2)


@pytest.mark.parametrize("pauses", [(20.0, 5.0), (5.0, 20.0)], ids=str)
async def test_the_later_of_two_503s_counts(pauses: tuple[float, float]) -> None:
    """A shorter pause does not end a longer one, nor do they add up."""
    permits = make_permits()
    for seconds in pauses:
        await permits.heed(failed(503, seconds), API, 120.0)
    assert 20.0 == permits.host_pause(API)


async def test_a_host_s_pause_can_be_prolonged() -> None:
    """Who sits it out stays until the new end."""
    permits, watch = make_permits(), Stopwatch()
    await permits.heed(failed(503, 5.0), API, 120.0)

    async def prolong() -> None:
        await anyio.sleep(3)
        await permits.heed(failed(503, 9.0), API, 120.0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(prolong)
        await permits.sit_out_host(API)
    assert 12.0 == watch.seconds


@pytest.mark.parametrize(("left", "over"), [(5.0, False), (20.0, False), (20.5, True)], ids=str)
async def test_a_host_s_pause_is_sat_out_or_not_begun(left: float, over: bool) -> None:
    """Whoever has less time than it takes is told at once; after it, it is forgotten."""
    permits, watch = make_permits(), Stopwatch()
    await permits.heed(failed(503, 20.0), API, 120.0)

    assert over is await permits.sit_out_host(API, lambda: left)
    assert (20.0 if over else 0.0, not over) == (watch.seconds, permits.has_pause(API))


async def test_nobody_bursts_after_a_host_s_pause() -> None:
    """Ten callers who sat it out together send one by one."""
    permits, watch = make_permits(make_budget(60, burst=10)), Stopwatch()
    await permits.heed(failed(503, 20.0), API, 120.0)
    moments: list[float] = []

    async def send() -> None:
        await permits.sit_out_host(API)
        await permits.take()
        moments.append(watch.seconds)

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(send)
    assert [20.0 + number for number in range(10)] == moments


def make_sender(transport: ScriptedTransport, budget: Budget | None = None, slots: int = 64) -> Sender:
    """A sender in virtual time, by default unpaced."""
    return Sender(SETTINGS, transport, budget or make_budget(math.inf), slots)


def with_deadline(seconds: float | None) -> Options:
    """Options without retries."""
    return Options(10.0, seconds, ONCE)


async def raised(call: Callable[[], Awaitable[object]]) -> CrowdTwistError:
    """The error that a call ends with, in an hour at most."""
    with pytest.raises(CrowdTwistError) as caught, anyio.fail_after(3600):
        await call()
    return caught.value


async def test_all_calls_of_all_clients_wait_for_the_end_of_a_429() -> None:
    """After one 429, its own retry, its client's calls and another client's come one an interval."""
    budget = make_budget()
    ours, theirs = TimedTransport(status(429, retry_after="7"), OK), TimedTransport()
    told, other = make_sender(ours, budget), make_sender(theirs, budget)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(told.send, POINTS_CALL, PATIENT)
        await anyio.sleep(0.5)
        for sender in (told, told, other, other):
            tasks.start_soon(sender.send, POINTS_CALL, PATIENT)
    assert (4, 2) == (len(ours.moments), len(theirs.moments))
    assert [0.0, 7.0, 8.0, 9.0, 10.0, 11.0] == sorted(ours.moments + theirs.moments)


async def test_a_429_beyond_max_retry_after_is_raised_and_pauses_as_long_as_allowed() -> None:
    """The call that was told ends at once; the next waits for `max_retry_after`, not for a day."""
    transport = TimedTransport(status(429, retry_after="86400"), OK)
    sender = make_sender(transport)
    patience = Options(10.0, None, RetryPolicy(max_retry_after=40))

    assert isinstance(await raised(lambda: sender.send(POINTS_CALL, patience)), RateLimitError)
    await sender.send(POINTS_CALL, patience)
    assert [0.0, 40.0] == transport.moments


async def test_calls_to_a_host_wait_for_the_end_of_its_503() -> None:
    """Other calls to it wait as the one that was told, calls to the other host not at all."""
    pos, api = TimedTransport(status(503, retry_after="9"), OK), TimedTransport(REWARDS)

    class Both(ScriptedTransport):
        async def send(self, request: Request, /) -> Reply | CrowdTwistError:
            return await (pos if request.origin == POS else api).send(request)

    sender = make_sender(Both())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sender.send, POINTS_CALL, PATIENT)
        await anyio.sleep(0.5)
        tasks.start_soon(sender.send, POINTS_CALL, PATIENT)
        tasks.start_soon(sender.send, REWARDS_CALL, PATIENT)
    assert ([0.0, 9.0, 9.0], [0.5]) == (pos.moments, api.moments)


async def test_calls_that_were_all_told_by_a_503_do_not_burst_after_it() -> None:
    """Ten calls in flight that get the same `Retry-After` are sent again one by one, not together."""
    transport = TimedTransport(*[status(503, retry_after="20")] * 10, OK)
    sender = make_sender(transport, make_budget(60, burst=10))
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(sender.send, POINTS_CALL, PATIENT)
    assert [0.0] * 10 + [20.0 + number for number in range(10)] == transport.moments


async def test_a_503_is_heeded_by_a_call_that_waits_for_a_slot() -> None:
    """A call that came before the 503 and has sent nothing yet waits too."""
    transport = TimedTransport(status(503, retry_after="9"), OK)
    sender = make_sender(transport, slots=1)
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(sender.send, POINTS_CALL, PATIENT)
    assert [0.0, 9.0, 9.0] == transport.moments


async def test_a_503_is_heeded_by_a_call_that_waits_for_a_permit() -> None:
    """A permit that comes in the pause of its host is not used for it."""

    async def slow_503(request: Request) -> Reply:
        await anyio.sleep(0.5)
        return status(503, retry_after="9")

    transport = TimedTransport(slow_503, OK)
    sender = make_sender(transport, make_budget(60))
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(sender.send, POINTS_CALL, PATIENT)
    first, *others = transport.moments
    assert (0.0, 3) == (first, len(others))
    assert min(others) >= 9.5


@pytest.mark.parametrize(
    ("asked", "deadline", "seconds"),
    [("9", 9.4, 0.0), ("9", 9.5, None), ("9", None, None), ("3600", 31.5, 0.0), ("3600", 31.6, None)],
    ids=["too late", "in time", "no deadline", "bounded, too late", "bounded, in time"],
)
async def test_a_host_s_pause_that_ends_after_the_deadline_is_refused_at_once(
    asked: str, deadline: float | None, seconds: float | None
) -> None:
    """A call that can't be sent in time says so before it waits."""
    transport = TimedTransport(status(503, retry_after=asked), OK)
    sender = make_sender(transport)
    assert isinstance(await raised(lambda: sender.send(POINTS_CALL, with_deadline(None))), ServerError)

    if seconds is None:
        await sender.send(POINTS_CALL, with_deadline(deadline))
        assert [0.0, min(30.0, float(asked))] == transport.moments
        return
    error = await raised(lambda: sender.send(POINTS_CALL, with_deadline(deadline)))
    assert isinstance(error, DeadlineExceededError)
    assert (seconds, 0, [0.0]) == (error.elapsed, error.attempts, transport.moments)
    longest = min(30.0, float(asked))
    assert (True, longest) == (error.retryable, error.retry_after)
    assert f"in a pause that the host asked for by a 503: call again when it is over, in {longest} s" in str(
        error
    )


async def test_a_host_s_pause_that_is_prolonged_does_not_outlast_the_deadline() -> None:
    """Who sits out a pause that grows beyond the deadline leaves with it."""
    sender = make_sender(TimedTransport())
    await sender._line.permits.heed(failed(503, 5.0), POS, 120.0)

    async def prolong() -> None:
        await anyio.sleep(3)
        await sender._line.permits.heed(failed(503, 30.0), POS, 120.0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(prolong)
        error = await raised(lambda: sender.send(POINTS_CALL, with_deadline(8.0)))
    assert isinstance(error, DeadlineExceededError)
    assert (True, 0) == ((error.elapsed or 0.0) <= 8.1, error.attempts)


@pytest.mark.parametrize("code", [429, 503])
async def test_calls_that_are_refused_at_once_let_others_run(code: int) -> None:
    """One after the other in a pause: each could end without a turn of the event loop, and block it."""
    sender = make_sender(TimedTransport(status(code, retry_after="20"), OK))
    await raised(lambda: sender.send(POINTS_CALL, with_deadline(None)))
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while turns < 1000:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(turn)
        for _ in range(100):
            error = await raised(lambda: sender.send(POINTS_CALL, with_deadline(5.0)))
            assert isinstance(error, DeadlineExceededError)
        assert turns >= 50
        tasks.cancel_scope.cancel()


async def test_a_pause_that_comes_while_a_call_waits_for_a_permit_is_told() -> None:
    """As soon as its permit would have been used; what is left then is of no use."""
    sender = make_sender(TimedTransport(), make_budget(60, 1))
    await sender.send(POINTS_CALL, with_deadline(None))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sender._line.permits.heed, limited(100.0), POS, 120.0)
        error = await raised(lambda: sender.send(POINTS_CALL, with_deadline(5.0)))

    assert isinstance(error, DeadlineExceededError)
    assert (1.0, 99.0) == (error.elapsed, error.retry_after)


async def test_the_pause_of_a_host_takes_no_permit_from_calls_to_the_other() -> None:
    """Those in line for it step aside, with the permit that each would only have thrown away."""
    sender = make_sender(TimedTransport(OK, REWARDS), make_budget(60, 1))
    served: list[float] = []
    watch = Stopwatch()

    async def send(call: Call[Any], deadline: float | None) -> None:
        await sender.send(call, with_deadline(deadline))
        served.append(watch.seconds)

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(send, POINTS_CALL, None)
        await anyio.sleep(0.5)
        await sender._line.permits.heed(failed(503, 30.0), POS, 120.0)
        for _ in range(10):
            await anyio.sleep(1.1)
            await send(REWARDS_CALL, 2.0)
        assert 11 == len(served)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("looks", [[True], [False, True]], ids=["at-once", "when-it-comes"])
async def test_who_steps_aside_leaves_its_permit_to_the_next(looks: list[bool]) -> None:
    """Whether it finds out before it waits for one or after it."""
    permits = make_permits()
    await permits.take()
    watch, left = Stopwatch(), iter(looks)
    assert Turn.ASIDE is await permits.take(unwanted=lambda: next(left))
    assert Turn.TAKEN is await permits.take()
    assert 1.0 == watch.seconds


async def test_calls_behind_full_slots_are_refused_in_a_pause_too() -> None:
    """They would wait for a slot to their deadline, and be told to raise `max_in_flight`."""

    async def hang(_: Request) -> Reply:
        await anyio.sleep(1000)
        raise AssertionError  # pragma: no cover

    sender = make_sender(ScriptedTransport(hang), make_budget(math.inf), slots=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sender.send, POINTS_CALL, Options(2000.0, None, ONCE))
        await anyio.sleep(1)
        tasks.start_soon(raised, lambda: sender.send(POINTS_CALL, with_deadline(5.0)))
        await anyio.sleep(1)
        await sender._line.permits.heed(limited(100.0), POS, 120.0)
        error = await raised(lambda: sender.send(POINTS_CALL, with_deadline(5.0)))
        assert isinstance(error, DeadlineExceededError)
        assert (0.0, 100.0) == (error.elapsed, error.retry_after)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("cancelled", [False, True], ids=["whole", "cancelled"])
async def test_closing_amid_thousands_of_calls_lets_others_run(cancelled: bool) -> None:
    """They are ended some at a time, the first first; all of them, also if the closing is cancelled."""
    sender = make_sender(TimedTransport(), make_budget(1, 1))
    await sender.send(POINTS_CALL, with_deadline(None))
    errors: list[CrowdTwistError] = []
    turns: list[int] = []

    async def call() -> None:
        errors.append(await raised(lambda: sender.send(POINTS_CALL, with_deadline(None))))

    async def turn() -> None:
        while len(errors) < 1_200:
            turns.append(len(errors))
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        for _ in range(1_200):
            tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(turn)
        with anyio.CancelScope() as scope:
            if cancelled:
                scope.cancel()
            before = len(turns)
            await sender.waits.end()
            assert cancelled or len(turns) - before >= 6
    assert [ClientClosedError] * 1_200 == [type(error) for error in errors]


async def test_what_is_not_sent_again_is_no_retry() -> None:
    """Its pause ends, and no permit comes before its deadline; what the quota took is given back."""
    sender = make_sender(TimedTransport(status(503), OK), make_budget(1, 1))
    before = sender._quota.tokens
    policy = RetryPolicy(initial=0.001)
    error = await raised(lambda: sender.send(POINTS_CALL, Options(5.0, 5.0, policy)))
    assert isinstance(error, DeadlineExceededError)
    assert isinstance(error.last_error, ServerError)
    assert (1, 0, before) == (sender.stats.requests, sender.stats.retries, sender._quota.tokens)


async def test_what_a_cancelled_call_waited_for_a_permit_is_counted() -> None:
    """Whoever bounds calls from outside sees there that the rate is too low."""
    sender = make_sender(TimedTransport(), make_budget(1, 1))
    await sender.send(POINTS_CALL, with_deadline(None))
    with anyio.move_on_after(2):
        await sender.send(POINTS_CALL, with_deadline(None))
    assert 2.0 == sender.stats.permit_seconds


@pytest.mark.parametrize("ends_before", [2, 3], ids=["at-the-next-look", "later"])
async def test_a_call_that_steps_aside_takes_a_permit_all_the_same(
    monkeypatch: pytest.MonkeyPatch, ends_before: int
) -> None:
    """Its host's pause may end as it does so: it is sent with a permit of its own, and not refused."""
    budget = make_budget(60, 1)
    sender = make_sender(TimedTransport(), budget)
    await sender.send(POINTS_CALL, with_deadline(None))
    permits, looks = sender._line.permits, 0

    def host_pause(_: str) -> float:
        nonlocal looks
        looks += 1
        return 1.0 if 1 < looks < 1 + ends_before else -1.0

    monkeypatch.setattr(permits, "host_pause", host_pause)
    watch = Stopwatch()
    await sender.send(POINTS_CALL, with_deadline(30.0))
    assert 1.0 <= watch.seconds
    assert 1.0 == await budget.reserve()


async def test_a_pause_that_ends_with_the_deadline_is_not_begun_by_who_is_asked_for_it() -> None:
    """What is left then is too little for another attempt: the real error is raised at once."""
    transport = TimedTransport(status(503, retry_after="1"), OK)
    error = await raised(
        lambda: make_sender(transport).send(POINTS_CALL, Options(5.0, 1.04, RetryPolicy(initial=0)))
    )
    assert (ServerError, [0.0]) == (type(error), transport.moments)
    assert "Retry-After asks for 1 s, more than the deadline leaves" in error.reason


async def test_a_pause_that_another_client_met_is_told() -> None:
    """It shares the budget: its calls are refused at once as well, and say why."""
    budget = make_budget()
    told, other = (
        make_sender(TimedTransport(status(429, retry_after="60")), budget),
        make_sender(TimedTransport(), budget),
    )
    await raised(lambda: told.send(POINTS_CALL, with_deadline(None)))

    error = await raised(lambda: other.send(POINTS_CALL, with_deadline(5.0)))

    assert 0.0 == error.elapsed
    assert "in a pause that the server asked for by a 429: call again when it is over, in 60.0 s" in str(
        error
    )


async def test_a_permit_from_before_another_client_s_pause_is_not_used_after_it() -> None:
    """Who waited for one when the other client met the 429 would send together with the next."""
    budget = make_budget()
    told, other = make_permits(budget), make_permits(budget)
    watch, moments = Stopwatch(), list[float]()

    async def take() -> None:
        assert Turn.TAKEN is await other.take()
        moments.append(watch.seconds)

    assert Turn.TAKEN is await other.take()
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(take)
        await anyio.sleep(0.5)
        await told.heed(limited(20.0), POS, 120.0)
    assert [20.5, 21.5, 22.5] == moments


class Store:
    """A shared budget whose store fails in one of its methods."""

    def __init__(self, broken: str, *, hangs: bool = False) -> None:
        self._broken = broken
        self._hangs = hangs

    async def reserve(self, n: int = 1, /) -> float:
        """Fail, or let everybody through."""
        await self._work("reserve")
        return 0.0

    async def penalize(self, seconds: float, /) -> None:
        """Fail, or forget it."""
        await self._work("penalize")

    async def _work(self, method: str) -> None:
        if method == self._broken:
            if self._hangs:
                await anyio.sleep_forever()
            raise ConnectionError("redis://:hunter2@store:6379 is away")


@pytest.mark.parametrize("pauses", [(3.0, 1.0), (1.0, 3.0)], ids=str)
async def test_a_429_pauses_a_client_whose_budget_forgets_it(pauses: tuple[float, float]) -> None:
    """The client knows too, and the longer of two counts."""
    permits = make_permits(Store("nothing"))
    for seconds in pauses:
        await permits.heed(limited(seconds), POS, 120.0)
    assert [3.0, 3.0] == await take_in_line(permits, 2)


async def test_a_permit_that_was_given_up_before_a_pause_is_not_used_after_it() -> None:
    """It is from before: another is asked for."""

    class Slow(Store):
        asked = 0

        async def reserve(self, n: int = 1, /) -> float:
            self.asked += 1
            return 1.0

    budget, watch = Slow("nothing"), Stopwatch()
    permits = make_permits(budget)
    with anyio.move_on_after(0.5):
        await permits.take()
    await permits.heed(limited(0.25), POS, 120.0)
    await permits.take()
    assert (2, 1.5) == (budget.asked, watch.seconds)


async def test_a_budget_that_can_t_reserve_is_told_without_its_text() -> None:
    """Its text may hold a password, its class says enough; without a permit nothing is sent."""
    transport = ScriptedTransport()
    sender = make_sender(transport, Store("reserve"))
    error = await raised(lambda: sender.send(POINTS_CALL, PATIENT))
    assert (TransportError, "the request budget raised ConnectionError") == (type(error), error.reason)
    assert ("points_awaiting_fulfillment", "localhost:2", 0) == (error.endpoint, error.host, error.attempts)
    assert "hunter2" not in captured_locals(error)
    assert [] == transport.requests


@pytest.mark.parametrize(
    ("per_minute", "first"),
    [
        pytest.param(1, OK, id="permit"),
        pytest.param(math.inf, status(429, retry_after="60"), id="429"),
        pytest.param(math.inf, status(503, retry_after="20"), id="503"),
        pytest.param(math.inf, status(500), id="retry"),
    ],
)
async def test_closing_ends_every_wait_at_once(per_minute: float, first: Reply) -> None:
    """Who waits would only find out later; and nobody else who shares the budget waits for their permits."""
    reserved = []

    class Counted(RateBudget):
        async def reserve(self, n: int = 1, /) -> float:
            reserved.append(n)
            return await super().reserve(n)

    transport = ScriptedTransport(first)
    sender = make_sender(transport, Counted(per_minute, 1, clock=anyio.current_time))
    errors: list[CrowdTwistError] = []

    async def call() -> None:
        try:
            await sender.send(POINTS_CALL, Options(10.0, None, RetryPolicy(initial=30.0, max_delay=30.0)))
        except CrowdTwistError as error:
            errors.append(error)

    watch = Stopwatch()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await anyio.sleep(0.5)
        for _ in range(20):
            tasks.start_soon(call)
        await anyio.sleep(0.5)
        sent, taken = len(transport.requests), len(reserved)
        await sender.waits.end()
    assert 1.0 == watch.seconds
    assert (sent, taken) == (len(transport.requests), len(reserved))
    assert {ClientClosedError} == {type(error) for error in errors}
    assert len(errors) == 21 - (first is OK)
    assert isinstance(await raised(lambda: sender.send(POINTS_CALL, PATIENT)), ClientClosedError)
    assert sent == len(transport.requests)


async def test_closing_ends_the_wait_for_a_pause_to_end() -> None:
    """A fan-out that begins no key in a pause finds out that there will be no other."""
    sender = make_sender(ScriptedTransport(status(429, retry_after="60")))
    watch = Stopwatch()
    assert isinstance(await raised(lambda: sender.send(POINTS_CALL, with_deadline(None))), RateLimitError)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sender.sit_out_pause, RunStats())
        await anyio.sleep(0.5)
        await sender.waits.end()
    await sender.sit_out_pause(RunStats())
    assert 0.5 == watch.seconds


async def test_a_budget_that_promises_no_number_is_told() -> None:
    """Every comparison with NaN is false, so it would pace nothing."""

    class Odd(RateBudget):
        async def reserve(self, n: int = 1, /) -> float:
            return n * math.nan

    transport = ScriptedTransport()
    error = await raised(lambda: make_sender(transport, Odd(60)).send(POINTS_CALL, PATIENT))
    assert (ConfigurationError, []) == (type(error), transport.requests)
    assert "the request budget's reserve() returned NaN: it must return seconds" == error.reason


@pytest.mark.parametrize("kind", [TransportError, ConnectionFailedError])
async def test_a_budget_that_says_why_is_heard(kind: type[TransportError]) -> None:
    """An error of the tree passes as it is, but for the frames that it came from; it ends the call."""
    asked = []

    class Refusing(RateBudget):
        async def reserve(self, n: int = 1, /) -> float:
            asked.append(n)
            raise kind("the store refuses its password")

    transport = ScriptedTransport()
    error = await raised(lambda: make_sender(transport, Refusing()).send(POINTS_CALL, PATIENT))
    assert [1] == asked
    assert (kind, "the store refuses its password") == (type(error), error.reason)
    assert ("points_awaiting_fulfillment", "localhost:2", 0) == (error.endpoint, error.host, error.attempts)
    assert "reserve" not in [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert [] == transport.requests


@pytest.mark.parametrize(
    ("reply", "kind"),
    [(status(429, retry_after="1"), RateLimitError), (status(503, retry_after="1"), ServerError)],
    ids=["429", "503"],
)
async def test_a_budget_that_can_t_pause_hides_no_real_error(
    reply: Reply, kind: type[CrowdTwistError]
) -> None:
    """What the server said reaches the caller after all attempts, and nothing of the store's error."""
    sender = make_sender(ScriptedTransport(reply), Store("penalize"))
    error = await raised(lambda: sender.send(POINTS_CALL, PATIENT))
    assert (kind, 4) == (type(error), error.attempts)
    assert "hunter2" not in captured_locals(error)


async def test_a_budget_that_can_t_pause_does_not_end_calls_that_work() -> None:
    """A call that sat out a pause of its host is sent all the same."""
    transport = TimedTransport(status(503, retry_after="1"), OK)
    sender = make_sender(transport, Store("penalize"))
    await raised(lambda: sender.send(POINTS_CALL, with_deadline(None)))
    await sender.send(POINTS_CALL, PATIENT)
    assert [0.0, 1.0] == transport.moments


@pytest.mark.parametrize(
    ("method", "replies"),
    [
        ("reserve", ()),
        ("penalize", (status(429, retry_after="1"),)),
        ("penalize", (status(503, retry_after="1"), OK)),
    ],
    ids=["reserving", "after a 429", "after a host's pause"],
)
async def test_a_budget_that_hangs_does_not_outlast_the_deadline(
    method: str, replies: tuple[Reply, ...]
) -> None:
    """The store of a shared budget may be away: the call ends with its deadline all the same."""
    sender = make_sender(ScriptedTransport(*replies), Store(method, hangs=True))
    for _ in replies[1:]:
        await raised(lambda: sender.send(POINTS_CALL, with_deadline(None)))
    watch = Stopwatch()
    await raised(lambda: sender.send(POINTS_CALL, with_deadline(5.0)))
    assert 5.0 <= watch.seconds <= 5.1


async def test_a_call_that_waits_for_a_permit_in_vain_says_how_long() -> None:
    """The seconds that calls wait for permits are counted, those in vain too."""
    sender = make_sender(TimedTransport(), make_budget(1))
    await sender.send(POINTS_CALL, with_deadline(None))
    error = await raised(lambda: sender.send(POINTS_CALL, with_deadline(5.0)))
    assert isinstance(error, DeadlineExceededError)
    assert "fan_out" in str(error)
    assert (True, None) == (error.retryable, error.retry_after)
    assert (1, 5.0) == (sender.stats.requests, round(sender.stats.permit_seconds, 6))


async def test_a_call_that_waits_for_the_end_of_a_429_in_vain_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At once, as it would be in vain: it was told to the call that met it, and to the log, once."""
    told = status(429, retry_after="20")
    sender = make_sender(TimedTransport(told, told, OK))
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(raised, lambda: sender.send(POINTS_CALL, with_deadline(5.0)))

    error = await raised(lambda: sender.send(POINTS_CALL, with_deadline(5.0)))

    assert (
        "would pass in a pause that the server asked for by a 429: call again when it is over, in 20.0 s"
        in str(error)
    )
    assert isinstance(error, DeadlineExceededError)
    assert (0, 0.0, 20.0) == (error.attempts, round(error.elapsed or 0.0, 6), error.retry_after)
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert ["the server wants no requests for 20.0 s: it answered 429"] == warned


async def test_a_pause_that_outlasts_the_caller_is_not_waited_for() -> None:
    """At the head of the line, and when a 429 prolongs the pause that it sits out."""
    permits = make_permits()
    watch = Stopwatch()
    await permits.heed(limited(5.0), POS, 120.0)
    assert Turn.OVER is await permits.take(lambda: 5.0)
    assert 0.0 == watch.seconds

    async def prolong() -> None:
        await anyio.sleep(1.0)
        await permits.heed(limited(20.0), POS, 120.0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(prolong)
        assert Turn.OVER is await permits.take(lambda: 16.0)
    assert 5.0 == watch.seconds
    assert Turn.TAKEN is await permits.take(lambda: 16.5)


async def test_a_line_that_is_cancelled_and_served_keeps_its_order() -> None:
    """Whoever is left of a line is served in the order in which it came."""
    permits = make_permits(make_budget(600))
    served: list[int] = []

    async def take(number: int) -> None:
        with anyio.move_on_after(0.05 if number % 3 == 1 else math.inf):
            await permits.take()
            served.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(take, number)
            await checkpoint()
    assert [number for number in range(30) if number % 3 != 1] == served
