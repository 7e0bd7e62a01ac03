"""
The client that never waits: its pauses, timeouts and deadlines end as they would if the time had passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from conftest import KEY

from crowdtwist_async import (
    ClientClosedError,
    ConfigurationError,
    CrowdTwistClient,
    DeadlineExceededError,
    RateBudget,
    RateLimitError,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
)
from crowdtwist_async.emulator import Emulator, Fault
from crowdtwist_async.emulator.instant import InstantClock, discard, instant_client
from crowdtwist_async.emulator.server import EmulatorServer
from crowdtwist_async.export import export

pytestmark = pytest.mark.anyio

MEMBER = "10000001"
ONCE = RetryPolicy(max_attempts=1)
MakeClient = Callable[..., CrowdTwistClient]


@pytest.fixture
def clock() -> Iterator[InstantClock]:
    """The clock of a test, which must not take the time that it skips: half a minute, or it tells nothing."""
    started = time.monotonic()
    clock = InstantClock()
    yield clock
    assert clock.skipped < 30 or time.monotonic() - started < clock.skipped


@pytest.fixture
def emulator(clock: InstantClock) -> Emulator:
    """An emulator on that clock."""
    return Emulator(api_key=KEY, clock=clock.now, sleep=clock.delay)


@pytest.fixture
def make_client(emulator: Emulator, clock: InstantClock) -> Iterator[MakeClient]:
    """Make clients, which are discarded after the test."""
    with ExitStack() as made:

        def make(**options: Any) -> CrowdTwistClient:
            client = instant_client(emulator, clock, **options)
            made.callback(discard, client)
            return client

        yield make


async def test_pauses_before_retries_pass_at_once(
    make_client: MakeClient, emulator: Emulator, clock: InstantClock
) -> None:
    """Those of the policy, of a 429 and of a 503, each to its full length."""
    client = make_client(deadline=None)
    emulator.script(Fault.status(500), Fault.status(429, retry_after=100), Fault.status(503, retry_after=20))
    await client.points_awaiting_fulfillment(MEMBER)
    assert 120 <= clock.skipped < 121
    assert (4, 3) == (client.stats.requests, client.stats.retries)


async def test_a_pause_that_is_too_long_is_not_begun(
    make_client: MakeClient, emulator: Emulator, clock: InstantClock
) -> None:
    """As with a client that waits: beyond the deadline, or beyond what the policy accepts."""
    emulator.script(Fault.status(429, retry_after=40), Fault.status(429, retry_after=121))
    client = make_client()
    with pytest.raises(RateLimitError):
        await client.points_awaiting_fulfillment(MEMBER)
    other = make_client(deadline=None)
    with pytest.raises(RateLimitError):
        await other.points_awaiting_fulfillment(MEMBER)
    assert [429, 429] == [asked.status for asked in emulator.requests]


@pytest.mark.parametrize("fault", [Fault.delay(60), Fault.stall(60)], ids=["delay", "stall"])
async def test_an_attempt_times_out(
    fault: Fault, make_client: MakeClient, emulator: Emulator, clock: InstantClock
) -> None:
    """A delay beyond the timeout ends the attempt when the timeout would have."""
    emulator.script(fault)
    with pytest.raises(RequestTimeoutError) as caught:
        await make_client(retry=ONCE).points_awaiting_fulfillment(MEMBER)
    assert {"delay": "response", "stall": "body"}[fault.kind] == caught.value.phase
    assert (10, 10) == (clock.skipped, caught.value.elapsed)


async def test_a_delay_within_the_timeout_is_only_slow(
    make_client: MakeClient, emulator: Emulator, clock: InstantClock
) -> None:
    """The reply comes, and its time counts."""
    emulator.script(Fault.delay(9), Fault.delay(9))
    client = make_client(deadline=15)
    await client.points_awaiting_fulfillment(MEMBER)
    await client.points_awaiting_fulfillment(MEMBER)
    assert 18 == clock.skipped


async def test_a_budget_on_the_clock_paces(make_client: MakeClient, clock: InstantClock) -> None:
    """The waits pass at once, and the budget knows."""
    client = make_client(budget=RateBudget(60, burst=1, clock=clock.elapsed))
    for _ in range(40):
        await client.points_awaiting_fulfillment(MEMBER)
    assert 39 == pytest.approx(clock.skipped)


async def test_a_budget_on_another_clock_is_refused(make_client: MakeClient) -> None:
    """It would ask for the same waits again: soon no call would end before its deadline."""
    for budget in (RateBudget(60), RateBudget(clock=InstantClock().elapsed)):
        with pytest.raises(ConfigurationError, match="on its clock"):
            make_client(budget=budget)


async def test_no_budget_is_the_usual_one(
    make_client: MakeClient, emulator: Emulator, clock: InstantClock
) -> None:
    """Unpaced, and on the clock: the pause of a 429 passes once."""
    emulator.script(Fault.status(429, retry_after=20))
    client = make_client(budget=None)
    for _ in range(3):
        await client.points_awaiting_fulfillment(MEMBER)
    assert 20 <= clock.skipped < 21


async def test_a_deadline_ends_a_call(
    make_client: MakeClient, emulator: Emulator, clock: InstantClock
) -> None:
    """Attempts, pauses and delays add up to it."""
    emulator.script(*[Fault.delay(60)] * 9)
    with pytest.raises(DeadlineExceededError) as caught:
        await make_client(timeout=20).points_awaiting_fulfillment(MEMBER)
    assert (2, 30) == (caught.value.attempts, caught.value.elapsed)
    assert isinstance(caught.value.last_error, RequestTimeoutError)
    assert 30 == clock.skipped


async def test_calls_side_by_side_pause_together(
    make_client: MakeClient, emulator: Emulator, clock: InstantClock
) -> None:
    """A pause that a 503 asks for is not counted once for each call."""
    client = make_client()
    emulator.script(*[Fault.status(503, retry_after=5)] * 4)
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(client.points_awaiting_fulfillment, MEMBER)
    assert (8, 5) == (client.stats.requests, clock.skipped)


async def test_a_long_delay_is_not_skipped_before_short_pauses(
    make_client: MakeClient, emulator: Emulator, clock: InstantClock
) -> None:
    """Everything happens in the order of its time: one call's delay takes nothing of another's deadline."""
    client = make_client(timeout=50, deadline=60)
    hasty = client.with_options(deadline=35, retry=RetryPolicy(initial=10))
    emulator.script(Fault.delay(49, user="10000000"), *[Fault.reset(user=MEMBER)] * 2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.points_awaiting_fulfillment, "10000000")
        tasks.start_soon(hasty.points_awaiting_fulfillment, MEMBER)
    assert (49, 0, []) == (clock.skipped, clock.busy, clock._ends)


async def test_a_cancelled_pause_holds_up_nobody(
    make_client: MakeClient, emulator: Emulator, clock: InstantClock
) -> None:
    """Neither the pause nor the delay of a call that was cancelled is waited for."""
    client = make_client(deadline=None, timeout=100)
    emulator.script(Fault.delay(3, user="10000000"), Fault.status(429, retry_after=9, user=MEMBER))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.points_awaiting_fulfillment, "10000000")
        tasks.start_soon(client.points_awaiting_fulfillment, MEMBER)
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    await client.points_awaiting_fulfillment("10000002")
    assert (0, []) == (clock.busy, clock._ends)


async def test_an_export_asks_the_emulator(
    make_client: MakeClient, emulator: Emulator, tmp_path: Path
) -> None:
    """A program's own job runs with the client as well, through faults."""
    emulator.script(*[Fault.status(503), Fault.reset(), None] * 5)
    members = list(emulator.member_ids())[:30]
    report = await export(make_client(), "purchases", members, tmp_path / "purchases.csv")
    assert ("complete", sum(map(emulator.purchases_of, members))) == (report.status, report.rows)


async def test_the_ceiling_is_on_the_clock(make_client: MakeClient, clock: InstantClock) -> None:
    """What it asks to wait passes at once as well."""
    emulator = Emulator(api_key=KEY, per_minute=2, clock=clock.now, sleep=clock.delay)
    client = instant_client(emulator, clock, deadline=None)
    for _ in range(5):
        await client.points_awaiting_fulfillment(MEMBER)
    discard(client)
    assert 1 < emulator.stats.by_status[429]
    assert 110 < clock.skipped


async def test_entering_is_allowed_at_any_time(make_client: MakeClient) -> None:
    """Before the first call or after it; leaving closes the client."""
    for used in (False, True):
        client = make_client()
        if used:
            await client.points_awaiting_fulfillment(MEMBER)
        async with client:
            await client.points_awaiting_fulfillment(MEMBER)
        with pytest.raises(ClientClosedError):
            await client.points_awaiting_fulfillment(MEMBER)


def test_it_belongs_to_the_event_loop_of_its_first_call(make_client: MakeClient) -> None:
    """As every client belongs to one."""
    client = make_client()
    anyio.run(client.points_awaiting_fulfillment, MEMBER)
    with pytest.raises(ClientClosedError, match="another event loop"):
        anyio.run(client.points_awaiting_fulfillment, MEMBER)


async def test_a_discarded_client_is_closed(make_client: MakeClient) -> None:
    """Also for its views, and discarding twice does nothing more."""
    client = make_client()
    await client.points_awaiting_fulfillment(MEMBER)
    view = client.with_options(timeout=1)
    for _ in range(2):
        discard(client)
    with pytest.raises(ClientClosedError):
        await view.points_awaiting_fulfillment(MEMBER)


async def test_another_client_is_not_discarded(emulator: Emulator) -> None:
    """It has connections, which take an event loop to close."""
    async with emulator.client() as client:
        discard(client)
        await client.points_awaiting_fulfillment(MEMBER)


@pytest.mark.parametrize("option", ["transport", "http_client"])
def test_it_takes_no_other_transport(option: str, make_client: MakeClient) -> None:
    """It could not close that one."""
    options: dict[str, Any] = {option: None}
    with pytest.raises(ConfigurationError, match="own transport"):
        make_client(**options)


async def test_a_real_client_of_the_same_emulator_waits(emulator: Emulator) -> None:
    """Only who sleeps on the clock skips time: there the timeout ends a delay."""
    emulator.script(Fault.delay(60))
    async with emulator.client(retry=ONCE, timeout=0.05) as client:
        with pytest.raises(RequestTimeoutError):
            await client.points_awaiting_fulfillment(MEMBER)


async def test_over_a_socket_time_is_real(emulator: Emulator) -> None:
    """There the same emulator's delay meets the client's own timeout."""
    emulator.script(Fault.delay(60))
    async with EmulatorServer(emulator) as server:
        urls: dict[str, Any] = {"api_url": server.url, "pos_url": server.url}
        async with CrowdTwistClient(api_key=KEY, retry=ONCE, timeout=0.5, **urls) as client:
            with pytest.raises(RequestTimeoutError):
                await client.points_awaiting_fulfillment(MEMBER)


async def test_an_outage_ends_as_it_would(make_client: MakeClient, emulator: Emulator) -> None:
    """All attempts are made, and the last one's error is raised."""
    emulator.script(*[Fault.status(500)] * 9)
    with pytest.raises(ServerError) as caught:
        await make_client().points_awaiting_fulfillment(MEMBER)
    assert 4 == caught.value.attempts
