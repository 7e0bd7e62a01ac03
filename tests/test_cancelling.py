"""
Callers that give up, on real sockets: nothing stays taken, and the next calls succeed.
"""

from __future__ import annotations

import asyncio
import math
import random
import socket
import ssl
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from anyio.lowlevel import checkpoint
from carriers import Carrier, open_client, over_our_own, over_our_own_on_asyncio
from wire import POINTS, Exchange, WireServer, hang, nothing_left, reply

from crowdtwist_async import CrowdTwistClient, PointsAwaitingFulfillment, RateBudget, RetryPolicy
from crowdtwist_async._quota import CAPACITY

pytestmark = pytest.mark.anyio

USERS = range(16)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Spare the thousands of requests here the lines that the HTTP library logs for each."""
    caplog.set_level("CRITICAL", "httpcore")


def open_unpaced(
    carrier: Carrier, server: WireServer, **options: Any
) -> AbstractAsyncContextManager[CrowdTwistClient]:
    """An unpaced client of a raw server."""
    settings: dict[str, Any] = {"budget": RateBudget(math.inf), "deadline": 5.0, "retry": RetryPolicy()}
    return open_client(carrier, server.url, **settings | options)


def slowly(exchange: Exchange) -> None:
    """Answer in two parts, each after a moment."""
    exchange.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    exchange.stopping.wait(0.005)
    exchange.send(f"HTTP/1.1 200 OK\r\nContent-Length: {len(POINTS)}\r\n\r\n".encode())
    exchange.stopping.wait(0.005)
    exchange.send(POINTS)


async def check_free(client: CrowdTwistClient, slots: int) -> None:
    """Make some calls more than there are slots, all at once: none waits for what was cancelled."""
    with anyio.fail_after(4):
        async with anyio.create_task_group() as tasks:
            for _ in range(slots + 8):
                tasks.start_soon(client.points_awaiting_fulfillment, "7")
    sender = client._session.sender
    assert slots == sender._line.slots.value
    assert not sender._line.permits._gate.locked()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of the tests' own."""
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The server's side of TLS, which the environment lets the client trust."""
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def cancel_at_random(client: CrowdTwistClient, in_flight: int, cancels: int, longest: float) -> int:
    """Keep so many calls in flight, every other with little patience, until so many were cancelled."""
    chance = random.Random(in_flight)
    cancelled = finished = 0

    async def call() -> None:
        nonlocal cancelled, finished
        while cancelled < cancels:
            patience = chance.random() * longest if chance.random() < 0.5 else math.inf
            with anyio.move_on_after(patience) as scope:
                await client.points_awaiting_fulfillment("7")
                finished += 1
            cancelled += scope.cancelled_caught

    async with anyio.create_task_group() as tasks:
        for _ in range(in_flight):
            tasks.start_soon(call)
    return finished


@over_our_own
@pytest.mark.parametrize(("in_flight", "slots"), [(16, 8), (64, 64)], ids=["16 on 8 slots", "64 on 64"])
async def test_cancelling_at_random_leaves_nothing_taken(
    carrier: Carrier, in_flight: int, slots: int
) -> None:
    """After 70 cancels at random moments all slots are free, and no task or socket is left."""
    tasks = len(anyio.get_running_tasks())
    with nothing_left():
        with WireServer(slowly) as server:
            async with open_unpaced(carrier, server, max_in_flight=slots) as client:
                finished = await cancel_at_random(client, in_flight, 70, 0.015)
                await check_free(client, slots)
                assert tasks == len(anyio.get_running_tasks())
    assert finished > 0


@over_our_own
async def test_cancelling_at_random_over_tls_leaves_nothing_taken(
    carrier: Carrier, tls: ssl.SSLContext
) -> None:
    """Cancels hit handshakes too, and those leave no socket either."""
    with nothing_left():
        with WireServer(slowly, tls=tls) as server:
            async with open_unpaced(carrier, server, max_in_flight=16) as client:
                await client.points_awaiting_fulfillment("7")
                await cancel_at_random(client, 16, 40, 0.02)
                await check_free(client, 16)


@over_our_own
async def test_cancelling_all_that_waits_for_permits_leaves_the_budget_alone(carrier: Carrier) -> None:
    """A line of sixty callers that give up costs the next caller one permit."""
    with WireServer() as server:
        budget = RateBudget(per_minute=6000, burst=1)
        async with open_unpaced(carrier, server, budget=budget) as client:
            with anyio.move_on_after(0.005):
                async with anyio.create_task_group() as tasks:
                    for _ in range(60):
                        tasks.start_soon(client.points_awaiting_fulfillment, "7")
            waited = await budget.reserve()
    assert waited <= 0.03


@over_our_own
async def test_cancelling_a_call_between_attempts_leaves_nothing_taken(carrier: Carrier) -> None:
    """A call that pauses before its next attempt holds nothing, and leaves at once."""

    def fail_for_user_1(exchange: Exchange) -> None:
        failure = reply(b"", "500 Internal Server Error")
        (failure if b"/users/1 " in exchange.head else reply())(exchange)

    with nothing_left():
        with WireServer(fail_for_user_1) as server:
            patient = RetryPolicy(initial=1000, max_delay=1000)
            async with open_unpaced(carrier, server, max_in_flight=1, retry=patient, deadline=None) as client:
                with anyio.fail_after(5):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(client.points_awaiting_fulfillment, "1")
                        # Its pause begins when the retry is paid for.
                        while client._session.sender._quota.tokens == CAPACITY:  # noqa: ASYNC110
                            await anyio.sleep(0.001)
                        tasks.cancel_scope.cancel()
                assert 1 == len(server.heads)
                await check_free(client, 1)


@over_our_own
@pytest.mark.parametrize("kept", [True, False], ids=["kept connection", "new connection"])
async def test_cancelling_at_every_await_leaves_nothing_taken(carrier: Carrier, kept: bool) -> None:
    """However many steps of the event loop a call was given, it can be cancelled without a trace."""
    with nothing_left():
        with WireServer() as server:
            async with open_unpaced(carrier, server, max_in_flight=1) as client:
                for steps in range(30):
                    if kept:
                        await client.points_awaiting_fulfillment("7")
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(client.points_awaiting_fulfillment, "7")
                        for _ in range(steps):
                            await checkpoint()
                        tasks.cancel_scope.cancel()
                await check_free(client, 1)


@over_our_own
async def test_move_on_after_ends_a_call(carrier: Carrier) -> None:
    """The scope is told, and the client goes on."""
    with nothing_left():
        with WireServer(hang(), reply()) as server:
            async with open_unpaced(carrier, server) as client:
                with anyio.move_on_after(0.03) as scope:
                    await client.points_awaiting_fulfillment("7")
                assert scope.cancelled_caught
                assert 7 == (await client.points_awaiting_fulfillment("7")).user_id


@over_our_own
async def test_a_scope_around_many_calls_ends_all(carrier: Carrier) -> None:
    """A caller's own deadline over a whole group is kept."""
    with nothing_left():
        with WireServer(hang()) as server:
            async with open_unpaced(carrier, server, max_in_flight=4) as client:
                with anyio.move_on_after(0.03) as scope:
                    async with anyio.create_task_group() as tasks:
                        for _ in range(20):
                            tasks.start_soon(client.points_awaiting_fulfillment, "7")
                assert anyio.current_time() - scope.deadline < 0.1
                assert 4 == client._session.sender._line.slots.value


@over_our_own_on_asyncio
async def test_asyncio_timeout_ends_a_call(carrier: Carrier) -> None:
    """`asyncio.timeout` raises its own `TimeoutError`, not one of ours."""
    with nothing_left():
        with WireServer(hang(), reply()) as server:
            async with open_unpaced(carrier, server) as client:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.03):
                        await client.points_awaiting_fulfillment("7")
                assert 7 == (await client.points_awaiting_fulfillment("7")).user_id


@over_our_own_on_asyncio
async def test_wait_for_ends_a_call(carrier: Carrier) -> None:
    """`asyncio.wait_for` does too."""
    with WireServer(hang(), reply()) as server:
        async with open_unpaced(carrier, server) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.points_awaiting_fulfillment("7"), 0.03)
            assert 7 == (await client.points_awaiting_fulfillment("7")).user_id


def answer_by_user(exchange: Exchange) -> None:
    """Leave user 0 without an answer, refuse user 1, answer the others."""
    user = exchange.head.split(b" ")[1].rpartition(b"/")[2]
    answer = reply(POINTS.replace(b"7", user, 1))
    refusal = reply(b'{"reason": "bad_request"}', "400 Bad Request")
    {b"0": hang(), b"1": refusal}.get(user, answer)(exchange)


async def call_in_a_group(client: CrowdTwistClient) -> None:
    """Call for all users in an `asyncio.TaskGroup`."""
    async with asyncio.TaskGroup() as tasks:
        for user in USERS:
            tasks.create_task(client.points_awaiting_fulfillment(str(user)))


@over_our_own_on_asyncio
async def test_a_task_group_cancels_the_siblings_of_a_failed_call(carrier: Carrier) -> None:
    """The error comes in the group's `ExceptionGroup`, alone, and the calls beside it leave nothing."""
    with nothing_left():
        with WireServer(answer_by_user) as server:
            async with open_unpaced(carrier, server, max_in_flight=4) as client:
                with pytest.raises(ExceptionGroup) as caught:
                    await call_in_a_group(client)
                await check_free(client, 4)
    assert ["BadRequestError"] == [type(error).__name__ for error in caught.value.exceptions]


@over_our_own_on_asyncio
async def test_gather_keeps_the_order_and_the_errors(carrier: Carrier) -> None:
    """With `return_exceptions` each call's place has its result, its error, or its cancellation."""
    with nothing_left():
        with WireServer(answer_by_user) as server:
            async with open_unpaced(carrier, server, max_in_flight=4) as client:
                calls = [asyncio.create_task(client.points_awaiting_fulfillment(str(user))) for user in USERS]
                asyncio.get_running_loop().call_later(0.04, calls[0].cancel)
                ended = await asyncio.gather(*calls, return_exceptions=True)
                await check_free(client, 4)
    names = [type(each).__name__ for each in ended]
    assert ["CancelledError", "BadRequestError", *["PointsAwaitingFulfillment"] * 14] == names


@over_our_own_on_asyncio
async def test_gather_that_is_cancelled_cancels_its_calls(carrier: Carrier) -> None:
    """All of them end, those that wait for a slot too."""
    with nothing_left():
        with WireServer(hang()) as server:
            async with open_unpaced(carrier, server, max_in_flight=4) as client:
                gathered = asyncio.gather(*[client.points_awaiting_fulfillment("7") for _ in USERS])
                asyncio.get_running_loop().call_later(0.03, gathered.cancel)
                with pytest.raises(asyncio.CancelledError):
                    await gathered
                await asyncio.sleep(0.01)
                assert 4 == client._session.sender._line.slots.value


@over_our_own_on_asyncio
async def test_a_task_that_is_cancelled_twice_leaves_nothing(carrier: Carrier) -> None:
    """A second cancellation, while the connection of the first closes, loses no slot and no socket."""
    with nothing_left():
        with WireServer(hang()) as server:
            async with open_unpaced(carrier, server, max_in_flight=1) as client:
                call = asyncio.create_task(client.points_awaiting_fulfillment("7"))
                await asyncio.sleep(0.03)
                for _ in range(3):
                    call.cancel()
                    await asyncio.sleep(0)
                with pytest.raises(asyncio.CancelledError):
                    await call
                assert 1 == client._session.sender._line.slots.value


@over_our_own_on_asyncio
async def test_shielded_calls_finish(carrier: Carrier) -> None:
    """A call that its caller shields goes on when the caller gives up."""
    with nothing_left():
        with WireServer(slowly) as server:
            async with open_unpaced(carrier, server) as client:
                call = asyncio.create_task(client.points_awaiting_fulfillment("7"))
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0):
                        await asyncio.shield(call)
                assert isinstance(await call, PointsAwaitingFulfillment)
