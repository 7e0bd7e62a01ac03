"""
Fan-out: what each key ends in, what ends the run, how much is begun and held, what is left behind.
"""

from __future__ import annotations

import asyncio
import gc
import math
import pickle
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from conftest import KEY, captured_locals
from reference_server import ReferenceServer, make_purchases, make_rewards
from scripted import OK, POINTS, status

from crowdtwist_async import CrowdTwistClient, FanOut, Outcome, RateBudget, RetryPolicy
from crowdtwist_async.errors import (
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    CrowdTwistError,
    InvalidArgumentError,
    PaginationDriftError,
    PaginationDriftWarning,
    ServerError,
    UserNotFoundError,
)
from crowdtwist_async.transports import Reply, Request

pytestmark = pytest.mark.anyio

NOT_FOUND = status(404, b'{"system": "pos", "reason": "user_not_found", "description": "", "message": "no"}')
FORBIDDEN = status(403, b'{"system": "pos", "reason": "invalid_auth", "description": "", "message": "no"}')
EMAIL = "alice@example.com"
WINDOW = 4
"""Keys that may be begun and not taken, as a multiple of the concurrency."""

both_orders = pytest.mark.parametrize("ordered", [False, True], ids=["as they come", "ordered"])


def points_of(user: str) -> Reply:
    """The points of a member, 40 in all."""
    return status(200, POINTS.replace(b"7", user.encode(), 1))


class Members:
    """
    A transport that answers for any member with their points, unless `answers` names something else.

    The requests for members in `held` wait until they are released.
    """

    def __init__(
        self, answers: dict[str, Reply | CrowdTwistError] | None = None, *, held: Iterable[str] = ()
    ) -> None:
        self.answers = answers or {}
        self.held = {user: anyio.Event() for user in held}
        self.asked: list[str] = []
        self.in_flight = 0
        self.most_in_flight = 0

    async def send(self, request: Request, /) -> Reply | CrowdTwistError:
        user = request.path.rsplit("/", 1)[1]
        self.asked.append(user)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await checkpoint()
            if user in self.held:
                await self.held[user].wait()
            return self.answers.get(user) or points_of(user)
        finally:
            self.in_flight -= 1

    async def aclose(self) -> None:
        pass

    def client(self, **options: Any) -> CrowdTwistClient:
        return CrowdTwistClient(
            **{
                "api_key": KEY,
                "transport": self,
                "budget": RateBudget(math.inf),
                "retry": RetryPolicy(max_attempts=1),
                **options,
            }
        )


class Keys(Iterator[str]):
    """The numbers from 0 as keys, read one by one, endless unless told; `read` says how many were."""

    def __init__(self, most: float = math.inf) -> None:
        self.read = 0
        self._most = most

    def __next__(self) -> str:
        if self.read >= self._most:
            raise StopIteration
        self.read += 1
        return str(self.read - 1)


async def settle() -> None:
    """Let all tasks go on until they wait for something that does not come by itself."""
    for _ in range(100):
        await checkpoint()


def tasks_alive() -> int:
    """How many tasks the event loop has."""
    return len(anyio.get_running_tasks())


async def drain(context: AbstractAsyncContextManager[FanOut[Any, Any]], into: list[Any]) -> None:
    """Loop over all outcomes, when those that can be there are there; `into` gets their keys."""
    async with context as run:
        await settle()
        async for outcome in run:
            into.append(outcome.key)  # noqa: PERF401 - those before an error count


def numbers(count: int) -> list[str]:
    """So many keys."""
    return [str(number) for number in range(count)]


@both_orders
async def test_each_key_ends_in_an_outcome(ordered: bool) -> None:
    """A value or an error each, and one bad key does not end the run."""
    members = Members({"3": NOT_FOUND, "5": status(500), "6": ConnectionFailedError("reset")})
    async with members.client() as client:
        async with client.fan_out(client.points_awaiting_fulfillment, numbers(9), ordered=ordered) as run:
            found = {outcome.key: outcome async for outcome in run}

    assert numbers(9) == sorted(found)
    assert {"3": UserNotFoundError, "5": ServerError, "6": ConnectionFailedError} == {
        key: type(outcome.error) for key, outcome in found.items() if not outcome.ok
    }
    assert 6 * [40] == [
        outcome.unwrap().total_points_awaiting_fulfillment for outcome in found.values() if outcome.ok
    ]
    assert (9, 3, 0, 9, 0) == (run.done, run.failed, run.in_flight, run.requests, run.retries)


@both_orders
async def test_no_keys_end_at_once(ordered: bool) -> None:
    """There is no outcome and no request, and a run that ended stays ended."""
    members = Members()
    async with members.client() as client:
        keys: list[str] = []
        async with client.fan_out(client.points_awaiting_fulfillment, keys, ordered=ordered) as run:
            assert [] == [outcome async for outcome in run]
            assert [] == [outcome async for outcome in run]
        assert [] == [outcome async for outcome in run]

    assert ([], 0) == (members.asked, run.done)


async def test_a_pager_is_collected() -> None:
    """A call may return a `Pager`: the value is the list of its items, the error has the cursor of the start."""
    with ReferenceServer(
        key=KEY,
        purchases={"7": make_purchases(33), "8": make_purchases(4), "9": []},
        rewards={"7": make_rewards(12)},
        points={},
    ) as server:
        async with CrowdTwistClient(api_key=KEY, api_url=server.url, pos_url=server.url) as client:
            async with client.fan_out(
                client.iter_user_purchases, ["7", "nobody", "8", "9"], ordered=True
            ) as run:
                outcomes = [outcome async for outcome in run]
            start = client.iter_user_purchases("nobody").cursor
            plain = await client.iter_user_purchases("7").collect()

    assert ["7", "nobody", "8", "9"] == [outcome.key for outcome in outcomes]
    assert [33, None, 4, 0] == [None if outcome.value is None else len(outcome.value) for outcome in outcomes]
    assert plain == outcomes[0].unwrap()
    assert isinstance(outcomes[1].error, UserNotFoundError)
    assert start == outcomes[1].error.cursor
    assert (4, 1, 4 + 1 + 1 + 1) == (run.done, run.failed, run.requests)


async def test_as_they_come() -> None:
    """A slow key holds up no other."""
    members = Members(held=["0"])
    async with members.client() as client:
        async with client.fan_out(client.points_awaiting_fulfillment, Keys(50), concurrency=2) as run:
            before = [(await anext(run)).key for _ in range(49)]
            members.held["0"].set()
            assert ["0"] == [outcome.key async for outcome in run]

    assert numbers(50)[1:] == before


@pytest.mark.parametrize("concurrency", [1, 3, 8])
async def test_a_slow_first_key_of_an_ordered_run_holds_up_a_window(concurrency: int) -> None:
    """The keys behind it are begun until the window is full, and come in order when it is done."""
    members = Members(held=["0"])
    keys = Keys(60)
    async with members.client() as client:
        async with client.fan_out(
            client.points_awaiting_fulfillment, keys, concurrency=concurrency, ordered=True
        ) as run:
            await settle()
            begun = 1 if concurrency == 1 else WINDOW * concurrency
            assert (begun, begun) == (keys.read, len(members.asked))
            assert (begun - 1, 1) == (run.done, run.in_flight)
            members.held["0"].set()
            found = [outcome.key async for outcome in run]

    assert numbers(60) == found


async def test_any_order_of_replies_gives_the_order_of_the_keys() -> None:
    """However the replies come, an ordered run gives the outcomes of the keys in turn."""
    turns = [7, 1, 5, 0, 3, 3, 9, 2, 0, 8, 4, 6, 1, 1, 7]

    async def call(key: int) -> int:
        for _ in range(turns[key]):
            await checkpoint()
        return -key

    async with Members().client() as client:
        for concurrency in (1, 2, 5, 40):
            async with client.fan_out(call, range(15), concurrency=concurrency, ordered=True) as run:
                assert [(key, -key) for key in range(15)] == [(out.key, out.unwrap()) async for out in run]


@both_orders
@pytest.mark.parametrize("concurrency", [1, 2, 7])
async def test_keys_are_read_as_they_are_needed(concurrency: int, ordered: bool) -> None:
    """However slow the consumer, never more than the window of keys is read beyond what it took."""
    members = Members()
    keys = Keys()
    async with members.client() as client:
        async with client.fan_out(
            client.points_awaiting_fulfillment, keys, concurrency=concurrency, ordered=ordered
        ) as run:
            ahead = set()
            for taken in range(1, 40):
                await anext(run)
                await settle()
                ahead.add(keys.read - taken)

    assert {WINDOW * concurrency} == ahead


@both_orders
async def test_async_keys(ordered: bool) -> None:
    """An async iterable is read as lazily, one key at a time, however long each takes to come."""
    reading = 0

    async def keys() -> AsyncIterator[str]:
        nonlocal reading
        for number in range(30):
            reading += 1
            assert 1 == reading
            await checkpoint()
            reading -= 1
            yield str(number)

    async with Members().client() as client:
        async with client.fan_out(client.points_awaiting_fulfillment, keys(), ordered=ordered) as run:
            found = [outcome.key async for outcome in run]

    assert numbers(30) == (found if ordered else sorted(found, key=int))


async def test_the_items_of_a_pager_as_keys() -> None:
    """A `Pager` is an async iterable like any other."""
    with ReferenceServer(
        key=KEY, purchases={"7": make_purchases(33)}, rewards={}, points={"7": (7, 1, 1)}
    ) as server:
        async with CrowdTwistClient(api_key=KEY, api_url=server.url, pos_url=server.url) as client:
            async with client.fan_out(
                lambda _: client.points_awaiting_fulfillment("7"), client.iter_user_purchases("7")
            ) as run:
                assert 33 * [True] == [outcome.ok async for outcome in run]


@both_orders
async def test_the_error_of_the_keys_is_raised_as_itself(ordered: bool) -> None:
    """After the outcomes of the keys before it that are there, and without another read."""
    mine = ValueError("mine")
    reads = 0

    def keys() -> Iterator[str]:
        nonlocal reads
        yield from numbers(3)
        reads += 1
        raise mine

    members = Members(held=["2"])
    found: list[str] = []
    async with members.client() as client:
        before = tasks_alive()
        with pytest.raises(ValueError, match="mine") as caught:
            await drain(client.fan_out(client.points_awaiting_fulfillment, keys(), ordered=ordered), found)
        assert (before, 0) == (tasks_alive(), members.in_flight)

    assert mine is caught.value
    assert 1 == reads
    assert ["0", "1"] == found


async def test_keys_that_can_not_be_read_are_an_error_of_entering() -> None:
    """What `iter` raises comes out as itself."""

    class Unreadable:
        def __iter__(self) -> Iterator[str]:
            raise OSError("no such file")

    async with Members().client() as client:
        with pytest.raises(OSError, match="no such file"):
            await drain(client.fan_out(client.points_awaiting_fulfillment, Unreadable()), [])


async def test_a_call_may_refuse_its_key() -> None:
    """An error of ours that the call raises before it awaits anything is that key's outcome."""
    members = Members()
    async with members.client() as client:
        async with client.fan_out(client.iter_user_purchases, [""], ordered=True) as walks:
            (walk,) = [outcome async for outcome in walks]
        async with client.fan_out(client.points_awaiting_fulfillment, ["1", "", "2"], ordered=True) as run:
            points = [outcome async for outcome in run]

    assert isinstance(walk.error, InvalidArgumentError)
    assert [True, False, True] == [outcome.ok for outcome in points]
    assert isinstance(points[1].error, InvalidArgumentError)
    assert ["1", "2"] == members.asked


def divide(key: str) -> Any:
    """A bug before the first await."""
    return 1 // int(key)


async def divide_later(key: str) -> int:
    """A bug after the first await."""
    await checkpoint()
    return 1 // int(key)


async def group(key: str) -> None:
    """An error that is a group by itself."""
    raise ExceptionGroup("theirs", [ValueError(key)])


@both_orders
@pytest.mark.parametrize(
    ("call", "error"),
    [
        pytest.param(divide, ZeroDivisionError, id="at once"),
        pytest.param(divide_later, ZeroDivisionError, id="later"),
        pytest.param(int, TypeError, id="no awaitable"),
        pytest.param(group, ExceptionGroup, id="a group of its own"),
    ],
)
async def test_errors_that_are_not_ours_are_raised_as_themselves(
    call: Callable[[str], Any], error: type[Exception], ordered: bool
) -> None:
    """The first one ends the run; it comes without a group around it, with the line that raised it."""
    keys = Keys()
    async with Members().client() as client:
        before = tasks_alive()
        with pytest.raises(error) as caught:
            await drain(client.fan_out(call, keys, concurrency=3, ordered=ordered), [])
        assert before == tasks_alive()

    assert type(caught.value) is error
    assert not isinstance(caught.value, ExceptionGroup) or "theirs" == caught.value.message
    assert keys.read <= 3 * WINDOW
    assert call is int or call.__name__ in {entry.name for entry in caught.traceback}


FATAL = pytest.mark.parametrize(
    "error", [AuthenticationError, ConfigurationError, ClientClosedError], ids=lambda kind: kind.__name__
)


@both_orders
@FATAL
async def test_errors_that_every_key_would_meet_end_the_run(
    error: type[CrowdTwistError], ordered: bool
) -> None:
    """They are raised as themselves, and no key is begun after them."""
    keys = Keys()
    fatal = error("no")
    began: list[str] = []

    async def call(key: str) -> str:
        began.append(key)
        await checkpoint()
        if key == "5":
            raise fatal
        return key

    found: list[str] = []
    async with Members().client() as client:
        with pytest.raises(error) as caught:
            await drain(client.fan_out(call, keys, concurrency=2, ordered=ordered), found)

    assert fatal is caught.value
    assert ["0", "1", "2", "3", "4"] == found[:5]
    assert len(began) <= 7


async def test_a_wrong_key_ends_the_run_at_its_first_reply() -> None:
    """A 403 of the server costs the requests that are under way, not one for each of the keys."""
    members = Members(dict.fromkeys(numbers(50), FORBIDDEN))
    async with members.client() as client:
        with pytest.raises(AuthenticationError):
            await drain(client.fan_out(client.points_awaiting_fulfillment, numbers(50), concurrency=4), [])

    assert len(members.asked) <= 4


async def test_nothing_is_begun_after_a_fatal_error_while_the_consumer_is_busy() -> None:
    """The key that comes after it is read, and not worked on."""
    more = anyio.Event()

    async def keys() -> AsyncIterator[str]:
        yield "0"
        await more.wait()
        yield "1"

    members = Members({"0": FORBIDDEN}, held=["0"])
    async with members.client() as client:
        async with client.fan_out(client.points_awaiting_fulfillment, keys(), concurrency=2) as run:
            await settle()
            members.held["0"].set()
            await settle()
            more.set()
            await settle()
            with pytest.raises(AuthenticationError):
                await anext(run)

    assert ["0"] == members.asked


async def test_a_client_that_is_not_open_ends_the_run() -> None:
    """The error says what to do, and is not repeated for each key."""
    client = Members().client()
    with pytest.raises(ClientClosedError, match="async with"):
        await drain(client.fan_out(client.points_awaiting_fulfillment, numbers(9)), [])


async def test_a_call_that_ends_an_iteration_does_not_end_the_outcomes() -> None:
    """As `anext` does for a member without rows: keys would be lost as if there were no more."""

    async def call(key: str) -> None:
        if key == "3":
            raise StopAsyncIteration

    async with Members().client() as client:
        with pytest.raises(RuntimeError, match="give anext.. a default"):
            await drain(client.fan_out(call, numbers(9), concurrency=1), [])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_cancelled_elsewhere_does_not_end_the_block() -> None:
    """asyncio gives the cancellation of a task to whoever awaits it; the block went on as if it were left."""
    shared = asyncio.ensure_future(asyncio.sleep(3600))

    async def call(key: str) -> None:
        if key == "3":
            shared.cancel()
            await shared

    async with Members().client() as client:
        with pytest.raises(RuntimeError, match="cancelled elsewhere"):
            await drain(client.fan_out(call, numbers(9), concurrency=1), [])


class OwnInterrupt(BaseException):
    """What a test runner or a framework raises past `except Exception`."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("mine"),
        ServerError("mine"),
        StopAsyncIteration("mine"),
        ExceptionGroup("mine", [ValueError()]),
        SystemExit(3),
        KeyboardInterrupt(),
        OwnInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_the_callers_own_error_passes_as_itself(error: BaseException) -> None:
    """Not in a group, and nothing is left behind it."""
    members = Members(held=numbers(99)[1:])

    async def fail() -> None:
        async with client.fan_out(client.points_awaiting_fulfillment, numbers(99), concurrency=5) as run:
            async for _ in run:
                await settle()
                raise error

    async with members.client() as client:
        before = tasks_alive()
        with pytest.raises(type(error)) as caught:
            await fail()
        assert before == tasks_alive()

    assert error is caught.value
    assert (0, 6) == (members.in_flight, len(members.asked))


async def test_the_callers_own_error_is_not_lost_to_a_cancellation() -> None:
    """An error that is raised in a scope that is cancelled already comes out, as it does without a fan-out."""
    members = Members(held=["1"])
    error = ValueError("mine")

    async def fail(scope: anyio.CancelScope) -> None:
        async with client.fan_out(client.points_awaiting_fulfillment, numbers(2)) as run:
            await anext(run)
            await settle()
            scope.cancel()
            raise error

    async with members.client() as client:
        with anyio.CancelScope() as scope:
            with pytest.raises(ValueError, match="mine") as caught:
                await fail(scope)

    assert error is caught.value
    assert 0 == members.in_flight


@both_orders
async def test_leaving_stops_at_once(ordered: bool) -> None:
    """After `break` nothing is under way, no task is left, and nothing more is read or asked."""
    members = Members(held=numbers(9)[2:])
    keys = Keys()
    async with members.client() as client:
        before = tasks_alive()
        async with client.fan_out(
            client.points_awaiting_fulfillment, keys, concurrency=3, ordered=ordered
        ) as run:
            async for _ in run:
                await settle()
                assert 3 == run.in_flight == members.in_flight
                break
        assert (before, 0, 0) == (tasks_alive(), members.in_flight, run.in_flight)
        seen = keys.read, len(members.asked), run.done
        await settle()

    assert (5, 5, 2) == seen == (keys.read, len(members.asked), run.done)


class OpenKeys:
    """Async generators of endless keys, which note what is under way when they are closed."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self.closed: list[int] = []

    async def generate(self) -> AsyncIterator[str]:
        try:
            for key in Keys():
                yield key
        finally:
            await checkpoint()
            self.closed.append(self._members.in_flight)


@both_orders
@pytest.mark.parametrize("error", [None, ValueError("mine")], ids=["break", "error"])
async def test_an_async_generator_of_keys_is_closed_with_the_block(
    error: Exception | None, ordered: bool
) -> None:
    """After the last call has ended, and before the block is left."""
    members = Members(held=numbers(99)[1:])
    keys = OpenKeys(members)
    async with members.client() as client:
        with suppress(ValueError):
            async with client.fan_out(
                client.points_awaiting_fulfillment, keys.generate(), concurrency=3, ordered=ordered
            ) as run:
                await anext(run)
                await settle()
                assert [] == keys.closed
                if error is not None:
                    raise error
        assert [0] == keys.closed


async def test_a_generator_of_keys_that_is_cancelled_while_it_waits_is_closed() -> None:
    """Its own cleaning up is done when the block is left."""
    closed = False

    async def keys() -> AsyncIterator[str]:
        nonlocal closed
        try:
            yield "0"
            await anyio.sleep_forever()
        finally:
            closed = True

    async with Members().client() as client:
        async with client.fan_out(client.points_awaiting_fulfillment, keys()) as run:
            await anext(run)
            await settle()
            assert not closed
        assert closed


async def test_a_stream_of_keys_stays_the_callers() -> None:
    """What is no generator is read, not closed."""
    members = Members()
    write, read = anyio.create_memory_object_stream[str](9)
    async with members.client() as client, write, read:
        for number in range(4):
            async with client.fan_out(client.points_awaiting_fulfillment, read) as run:
                write.send_nowait(str(number))
                assert str(number) == (await anext(run)).key


async def leave_normally(client: CrowdTwistClient, keys: Iterable[str]) -> FanOut[str, Any]:
    """Take an outcome, and leave."""
    async with client.fan_out(client.points_awaiting_fulfillment, keys, concurrency=2) as run:
        await anext(run)
    return run


async def leave_with_an_error(client: CrowdTwistClient, keys: Iterable[str]) -> FanOut[str, Any]:
    """Take an outcome, and fail."""
    with suppress(OwnInterrupt):
        async with client.fan_out(client.points_awaiting_fulfillment, keys, concurrency=2) as run:
            await anext(run)
            raise OwnInterrupt
    return run


async def leave_cancelled(client: CrowdTwistClient, keys: Iterable[str]) -> FanOut[str, Any]:
    """Take an outcome, and be cancelled."""
    with anyio.CancelScope() as scope:
        async with client.fan_out(client.points_awaiting_fulfillment, keys, concurrency=2) as run:
            await anext(run)
            scope.cancel()
            await checkpoint()
    return run


@pytest.mark.parametrize(
    "leave", [leave_normally, leave_with_an_error, leave_cancelled], ids=lambda leave: leave.__name__
)
async def test_after_the_block_the_outcomes_are_refused(
    leave: Callable[[CrowdTwistClient, Iterable[str]], Awaitable[FanOut[str, Any]]],
) -> None:
    """However the block was left, waiting for another outcome says what to do, instead of waiting for ever."""
    members = Members(held=numbers(9)[1:])
    async with members.client() as client:
        run = await leave(client, numbers(9))
        with anyio.fail_after(5):
            with pytest.raises(ClientClosedError, match="async with"):
                await anext(run)


@both_orders
async def test_cancelling_anywhere_leaves_nothing(ordered: bool) -> None:
    """Cancelled after any number of turns, it is out at once, and the client goes on."""
    members = Members()
    ended = False
    turns = 0
    async with members.client(max_in_flight=2) as client:
        before = tasks_alive()
        while not ended:
            turns += 1
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:

                    async def cancel(scope: anyio.CancelScope = scope, turns: int = turns) -> None:
                        for _ in range(turns):
                            await checkpoint()
                        scope.cancel()

                    tasks.start_soon(cancel)
                    async with client.fan_out(
                        client.points_awaiting_fulfillment, numbers(12), concurrency=3, ordered=ordered
                    ) as run:
                        async for _ in run:
                            await checkpoint()
                    ended = True
                    tasks.cancel_scope.cancel()
            assert (0, before) == (members.in_flight, tasks_alive())
            assert 0 == run.in_flight
        with anyio.fail_after(5):
            async with client.fan_out(client.points_awaiting_fulfillment, numbers(200)) as run:
                assert 200 == len([outcome async for outcome in run if outcome.ok])

    assert turns > 10


async def test_a_wait_for_an_outcome_can_be_cancelled_and_taken_up_again() -> None:
    """No outcome is lost by it."""
    members = Members(held=["0"])
    async with members.client() as client:
        async with client.fan_out(client.points_awaiting_fulfillment, ["0", "1"], ordered=True) as run:
            with anyio.move_on_after(0.01) as waiting:
                await anext(run)
            assert waiting.cancelled_caught
            members.held["0"].set()
            assert ["0", "1"] == [outcome.key async for outcome in run]


async def test_several_consumers_share_the_outcomes() -> None:
    """Each outcome comes to one of them, and all of them end."""
    members = Members()
    found: list[str] = []
    async with members.client() as client:
        async with client.fan_out(client.points_awaiting_fulfillment, numbers(60), concurrency=3) as run:

            async def consume() -> None:
                async for outcome in run:
                    found.append(outcome.key)
                    await checkpoint()

            with anyio.fail_after(5):
                async with anyio.create_task_group() as consumers:
                    for _ in range(4):
                        consumers.start_soon(consume)

    assert numbers(60) == sorted(found, key=int)


async def test_counters_tell_of_the_run_while_it_goes() -> None:
    """Done, failed and in flight add up at any moment."""
    members = Members({"1": NOT_FOUND}, held=["2", "3"])
    async with members.client() as client:
        async with client.fan_out(
            client.points_awaiting_fulfillment, numbers(6), concurrency=3, ordered=True
        ) as run:
            assert (0, 0, 0, 0) == (run.done, run.failed, run.in_flight, run.requests)
            await settle()
            assert (4, 1, 2, 6) == (run.done, run.failed, run.in_flight, run.requests)
            members.held["2"].set()
            members.held["3"].set()
            assert numbers(6) == [outcome.key async for outcome in run]
            assert (6, 1, 0, 6) == (run.done, run.failed, run.in_flight, run.requests)


async def test_counters_leave_out_what_others_send() -> None:
    """Calls of the same client beside the run, in its block and in other runs are not counted."""
    members = Members({"98": status(500)}, held=["99"])
    async with members.client(retry=RetryPolicy(max_attempts=3, initial=0)) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.points_awaiting_fulfillment, "99")
            await settle()
            async with client.fan_out(client.points_awaiting_fulfillment, numbers(4)) as run:
                await client.points_awaiting_fulfillment("7")
                async with client.fan_out(client.points_awaiting_fulfillment, ["98"]) as other:
                    assert [False] == [outcome.ok async for outcome in other]
                assert 4 == len([outcome async for outcome in run])
                members.held["99"].set()

    assert (4, 0) == (run.requests, run.retries)
    assert (3, 2, 1) == (other.requests, other.retries, other.failed)
    assert (9, 2) == (client.stats.requests, client.stats.retries)


async def test_counters_include_what_a_prefetching_walk_sends() -> None:
    """Its pages are fetched by tasks of its own, and are the run's requests all the same."""
    shelf = Shelf()
    async with CrowdTwistClient(api_key=KEY, transport=shelf, budget=RateBudget(math.inf)) as client:
        async with client.fan_out(
            lambda key: client.iter_user_purchases(key).collect(prefetch=3), numbers(4)
        ) as run:
            assert 4 * [50] == [len(outcome.unwrap()) async for outcome in run]

    assert 4 * 5 == run.requests == len(shelf.asked)


async def test_counters_include_what_a_fan_out_in_a_call_sends() -> None:
    """The requests of a run inside a run are those of both."""
    members = Members()
    async with members.client() as client:

        async def several(key: str) -> int:
            users = [digit + key for digit in "123"]
            async with client.fan_out(client.points_awaiting_fulfillment, users) as inner:
                found = [outcome.unwrap() async for outcome in inner]
            assert 3 == inner.requests
            return len(found)

        async with client.fan_out(several, numbers(4)) as run:
            assert 4 * [3] == [outcome.unwrap() async for outcome in run]

    assert 12 == run.requests == len(members.asked)


class SlowBudget:
    """A budget that lets each request wait the same time."""

    async def reserve(self, n: int = 1, /) -> float:
        return 0.01

    async def penalize(self, seconds: float, /) -> None:
        raise NotImplementedError


async def test_counters_tell_how_long_permits_took() -> None:
    """The seconds of the run's requests, and not those of others."""
    members = Members()
    async with members.client(budget=SlowBudget()) as client:
        await client.points_awaiting_fulfillment("7")
        beside = client.stats.permit_seconds
        async with client.fan_out(client.points_awaiting_fulfillment, numbers(3), concurrency=1) as run:
            assert 0.0 == run.permit_seconds
            assert 3 == len([outcome async for outcome in run])

    assert 0.03 <= run.permit_seconds
    assert pytest.approx(client.stats.permit_seconds) == beside + run.permit_seconds


async def peak_of(client: CrowdTwistClient, keys: int, *, ordered: bool) -> int:
    """The most bytes that a run over so many keys holds."""

    async def call(key: str) -> bytes:
        await checkpoint()
        return key.encode()

    gc.collect()
    tracemalloc.start()
    try:
        async with client.fan_out(call, Keys(keys), concurrency=16, ordered=ordered) as run:
            async for _ in run:
                pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@both_orders
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_memory_does_not_grow_with_the_keys(ordered: bool) -> None:
    """Ten times the keys take at most a quarter of a MiB more."""
    async with Members().client() as client:
        small = await peak_of(client, 300, ordered=ordered)
        large = await peak_of(client, 3_000, ordered=ordered)

    assert abs(large - small) < 2**18


@both_orders
@pytest.mark.parametrize("concurrency", [1, 3, 10])
async def test_never_more_keys_at_once_than_allowed(concurrency: int, ordered: bool) -> None:
    """The bound is kept at all times, and reached."""
    now = most = 0

    async def call(key: str) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        assert run.in_flight == now
        for _ in range(20 + int(key) % 4):
            await checkpoint()
        now -= 1

    async with Members().client() as client:
        async with client.fan_out(call, numbers(60), concurrency=concurrency, ordered=ordered) as run:
            async for _ in run:
                pass

    assert concurrency == most


@both_orders
async def test_few_keys_start_few_tasks(ordered: bool) -> None:
    """One for each key, and one that asked for another; a key that ends before the next comes shares its task."""
    members = Members(held=["1", "2"])
    more = anyio.Event()

    async def keys() -> AsyncIterator[str]:
        for _ in range(20):
            yield "0"
            await settle()
        yield "1"
        yield "2"
        await more.wait()

    async with members.client() as client:
        before = tasks_alive()
        async with client.fan_out(
            client.points_awaiting_fulfillment, keys(), concurrency=1000, ordered=ordered
        ) as run:
            for _ in range(20):
                await anext(run)
                # That which reads the keys, one that waits for the next and one that works.
                assert tasks_alive() - before <= 3
            while members.in_flight < 2:
                await checkpoint()
            await settle()
            assert (2, 4) == (run.in_flight, tasks_alive() - before)
            for event in members.held.values():
                event.set()
            more.set()
            assert ["1", "2"] == sorted([outcome.key async for outcome in run])


async def test_by_default_as_many_keys_at_once_as_requests() -> None:
    """Without `concurrency` it is the client's `max_in_flight`, for a view too."""
    members = Members(held=numbers(50))
    async with members.client(max_in_flight=7) as client:
        for view in (client, client.with_options(deadline=None)):
            async with view.fan_out(view.points_awaiting_fulfillment, numbers(50)) as run:
                await settle()
                assert (7, 7) == (run.in_flight, members.in_flight)

    assert 7 == members.most_in_flight


class Shelf:
    """A transport with the same five pages for every member, and points."""

    pages = 5

    def __init__(self, *, drift: bool = False) -> None:
        self.asked: list[str] = []
        self._drift = drift

    async def send(self, request: Request, /) -> Reply:
        await checkpoint()
        self.asked.append(request.endpoint)
        if request.endpoint == "points_awaiting_fulfillment":
            return OK
        number = int(request.query.split("page=")[1])
        count = 10 * self.pages + (self._drift and number == 2)
        total = b'"paging": {"total": %d, "pages": %d}' % (count, self.pages)
        entry = (
            b'{"purchase_id": "%d", "purchase_id_type": "order_id", "purchase_total": 1,'
            b' "total_points_awarded": 1, "total_points_earned": 1}'
        )
        rows = b", ".join(entry % row for row in range((number - 1) * 10, number * 10))
        return status(200, b'{%s, "purchases": [%s]}' % (total, rows))

    async def aclose(self) -> None:
        pass


async def test_prefetching_pagers_neither_deadlock_nor_starve_others() -> None:
    """With two slots for 32 page requests, every key ends, and another call waits for its place in line only."""
    shelf = Shelf()
    waited = []
    async with CrowdTwistClient(
        api_key=KEY, transport=shelf, budget=RateBudget(math.inf), max_in_flight=2
    ) as client:
        with anyio.fail_after(30):
            async with client.fan_out(
                lambda key: client.iter_user_purchases(key).collect(prefetch=4), numbers(40), concurrency=8
            ) as run:
                await settle()
                for _ in range(3):
                    before = len(shelf.asked)
                    await client.points_awaiting_fulfillment("7")
                    waited.append(shelf.asked.index("points_awaiting_fulfillment", before) - before)
                found = [outcome async for outcome in run]

    assert [50] * 40 == [len(outcome.unwrap()) for outcome in found]
    assert max(waited) <= 8 * 4 + 2
    assert {"user_purchases": 200, "points_awaiting_fulfillment": 3} == Counter(shelf.asked)
    assert 200 == run.requests


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_drift_in_a_run_is_told_where_the_loop_is_run(backend: str) -> None:
    """A worker has no frame of the caller's, and the event loop's own say nothing."""

    async def main() -> None:
        shelf = Shelf(drift=True)
        async with CrowdTwistClient(api_key=KEY, transport=shelf, budget=RateBudget(math.inf)) as client:
            async with client.fan_out(client.iter_user_purchases, ["7"]) as run:
                assert [50] == [len(outcome.unwrap()) async for outcome in run]

    with pytest.warns(PaginationDriftWarning) as caught:
        anyio.run(main, backend=backend)
    assert [__file__] == [warning.filename for warning in caught]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        pytest.param({"keys": "123"}, "^keys ", id="text"),
        pytest.param({"keys": b"123"}, "^keys ", id="bytes"),
        pytest.param({"keys": 123}, "^keys ", id="a number"),
        pytest.param({"keys": None}, "^keys ", id="no keys"),
        pytest.param(
            {"keys": Keys}, "^keys must be an iterable of keys, not a function: call it", id="class"
        ),
        pytest.param({"call": None}, "^call ", id="no call"),
        pytest.param({"call": "points"}, "^call ", id="a name"),
        pytest.param({"concurrency": 0}, "^concurrency ", id="concurrency 0"),
        pytest.param({"concurrency": -1}, "^concurrency ", id="concurrency -1"),
        pytest.param({"concurrency": True}, "^concurrency ", id="concurrency True"),
        pytest.param({"concurrency": "8"}, "^concurrency ", id="concurrency text"),
        pytest.param({"concurrency": 8.0}, "^concurrency ", id="concurrency float"),
        pytest.param({"ordered": 1}, "^ordered ", id="ordered 1"),
        pytest.param({"ordered": "yes"}, "^ordered ", id="ordered text"),
    ],
)
async def test_arguments_are_refused_by_the_call_itself(options: dict[str, Any], match: str) -> None:
    """Before the block is entered, a key is read, or anything is asked."""
    keys = Keys()
    async with Members().client() as client:
        arguments = {"call": client.points_awaiting_fulfillment, "keys": keys, **options}
        with pytest.raises(InvalidArgumentError, match=match):
            client.fan_out(**arguments)

    assert 0 == keys.read


@pytest.mark.parametrize("made", ["value", "pages"])
async def test_a_call_that_gives_nothing_to_wait_for_is_told(made: str) -> None:
    """Every key would meet it; Python's own sentence names a private class."""
    async with Members().client() as client:

        def call(key: str) -> Any:
            return key if made == "value" else client.iter_user_purchases(key).pages()

        kind = "str" if made == "value" else "_Pages"
        with pytest.raises(TypeError, match=f"^call must return an awaitable or a Pager, not {kind}$"):
            await drain(client.fan_out(call, ["1"]), [])


async def test_no_traceback_shows_a_user() -> None:
    """The frames of ours that an error passes hold no key, whether the error is ours or the call's own."""
    members = Members()
    members.answers = {"users": FORBIDDEN}
    async with members.client() as client:
        points = partial(client.points_awaiting_fulfillment, id_type="email")
        with pytest.raises(AuthenticationError) as ours:
            await drain(client.fan_out(points, [EMAIL]), [])
        with pytest.raises(ValueError, match="invalid literal") as theirs:
            await drain(client.fan_out(lambda _: divide("x"), [EMAIL]), [])

    assert ["users"] == members.asked
    assert EMAIL not in captured_locals(ours.value)
    assert EMAIL not in captured_locals(theirs.value)


def test_an_outcome_with_a_value() -> None:
    """It is ok, also when the value is `None` or false, and unwraps to the value."""
    for value in (7, 0, None, False):
        outcome: Outcome[str, object] = Outcome("7", value)
        assert (True, value, None) == (outcome.ok, outcome.unwrap(), outcome.error)


def test_an_outcome_with_an_error() -> None:
    """It is not ok, and unwrapping raises that error."""
    error = UserNotFoundError("no")
    outcome: Outcome[str, int] = Outcome("7", error=error)

    assert not outcome.ok
    assert outcome.value is None
    with pytest.raises(UserNotFoundError) as caught:
        outcome.unwrap()
    assert error is caught.value


def test_outcomes_pickle() -> None:
    """Key, value and error with its attributes come back."""
    error = PaginationDriftError("changed")
    error.cursor, error.endpoint = "1:2:3:abcdef", "user_rewards"
    good, bad = pickle.loads(pickle.dumps((Outcome("7", [1, 2]), Outcome(8, error=error))))

    assert Outcome("7", [1, 2]) == good
    assert (8, None, "changed") == (bad.key, bad.value, bad.error.reason)
    assert (PaginationDriftError, vars(error)) == (type(bad.error), vars(bad.error))


async def test_the_errors_of_outcomes_hold_no_frames() -> None:
    """Thousands of kept outcomes keep no traceback and no chain alive."""
    members = Members({"0": NOT_FOUND})
    async with members.client() as client:
        async with client.fan_out(client.points_awaiting_fulfillment, ["0"]) as run:
            (outcome,) = [outcome async for outcome in run]

    assert outcome.error is not None
    assert (None, None, None) == (
        outcome.error.__traceback__,
        outcome.error.__context__,
        outcome.error.__cause__,
    )


async def test_whoever_waits_for_an_outcome_is_told_when_the_block_is_left() -> None:
    """A task beside it would wait for good."""
    ends: list[BaseException] = []

    async def take(outcomes: FanOut[str, Any]) -> None:
        with pytest.raises(ClientClosedError, match="the fan-out is over") as caught:
            await anext(outcomes)
        ends.append(caught.value)

    async with Members(held=["1", "2"]).client() as client:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                async with client.fan_out(client.points_awaiting_fulfillment, ["1", "2"]) as outcomes:
                    for _ in range(2):
                        tasks.start_soon(take, outcomes)
                    await anyio.wait_all_tasks_blocked()
    assert 2 == len(ends)
