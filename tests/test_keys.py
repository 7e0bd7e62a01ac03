"""
The keys of a fan-out that are read by a task of their own: generators with scopes, and how they end.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, nullcontext

import anyio
import pytest
from anyio.lowlevel import checkpoint
from conftest import KEY
from scripted import ScriptedTransport, status

from crowdtwist_async import (
    CrowdTwistClient,
    CrowdTwistError,
    FanOut,
    Prefetched,
    Purchase,
    RateBudget,
    Reply,
    Request,
)
from crowdtwist_async.emulator import Emulator

pytestmark = pytest.mark.anyio

_, USER = Emulator(members=2).member_ids()
"""She has 14 pages of purchases."""


@pytest.fixture
async def client() -> AsyncIterator[CrowdTwistClient]:
    """A client of two members."""
    emulator = Emulator(members=2, api_key=KEY)
    async with CrowdTwistClient(
        api_key=KEY, transport=emulator.transport(), budget=RateBudget(math.inf), max_in_flight=8
    ) as made:
        yield made


class ProgramEndError(BaseException):
    """As `SystemExit`, which asyncio lets through by itself."""


async def drain(context: AbstractAsyncContextManager[FanOut[str, object]]) -> list[object]:
    """The values of all keys."""
    async with context as outcomes:
        return [outcome.unwrap() async for outcome in outcomes]


async def leave(
    context: AbstractAsyncContextManager[FanOut[str, object]],
    error: Exception | None,
    *,
    settled: bool = False,
) -> None:
    """Take an outcome, then leave normally or with an error, perhaps when nobody goes on any more."""
    async with context as outcomes:
        await anext(outcomes)
        if settled:
            await anyio.wait_all_tasks_blocked()
        if error is not None:
            raise error


async def echo(key: str) -> str:
    """Work that takes a moment."""
    await checkpoint()
    return key


async def inner_fan_out(client: CrowdTwistClient) -> AsyncIterator[str]:
    async with client.fan_out(echo, map(str, range(25)), ordered=True) as outcomes:
        async for outcome in outcomes:
            yield outcome.unwrap()


async def prefetched(client: CrowdTwistClient) -> AsyncIterator[str]:
    async with client.iter_user_purchases(USER, max_items=25).prefetch(3) as purchases:
        async for purchase in purchases:
            yield str(purchase.purchase_id)


async def task_group(client: CrowdTwistClient) -> AsyncIterator[str]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.user_purchases, USER)
        for number in range(25):
            yield str(number)


async def scopes(_: CrowdTwistClient) -> AsyncIterator[str]:
    for number in range(25):
        with anyio.move_on_after(30):
            yield str(number)


sources = pytest.mark.parametrize("source", [inner_fan_out, prefetched, task_group, scopes])


@sources
async def test_a_generator_may_hold_scopes(
    client: CrowdTwistClient, source: Callable[[CrowdTwistClient], AsyncIterator[str]]
) -> None:
    """A scope is left by the task that entered it, however many work on the keys."""
    expected = [key async for key in source(client)]
    found = await drain(client.fan_out(echo, source(client), concurrency=7, ordered=True))
    assert expected == found
    assert 25 == len(found)


@sources
@pytest.mark.parametrize("error", [None, ValueError("mine")], ids=["break", "error"])
async def test_a_generator_with_scopes_is_left_amid_its_keys(
    client: CrowdTwistClient,
    source: Callable[[CrowdTwistClient], AsyncIterator[str]],
    error: Exception | None,
) -> None:
    """Nothing of it goes on, and an error of the caller's own passes as it is."""
    before = len(anyio.get_running_tasks())
    with nullcontext() if error is None else pytest.raises(ValueError, match="mine"):
        await leave(client.fan_out(echo, source(client), concurrency=2), error)
    assert before == len(anyio.get_running_tasks())


@sources
async def test_a_generator_with_scopes_is_cancelled(
    client: CrowdTwistClient, source: Callable[[CrowdTwistClient], AsyncIterator[str]]
) -> None:
    """A cancellation of the caller ends it too."""
    before = len(anyio.get_running_tasks())
    with anyio.CancelScope() as scope:
        async with client.fan_out(echo, source(client), concurrency=2) as outcomes:
            await anext(outcomes)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert before == len(anyio.get_running_tasks())


@pytest.mark.parametrize("own", [None, ValueError("mine")], ids=["break", "error"])
async def test_what_closing_a_generator_raises_is_raised(
    client: CrowdTwistClient, own: Exception | None
) -> None:
    """As itself, unless the caller has an error already."""

    async def keys() -> AsyncIterator[str]:
        try:
            for number in range(99):
                yield str(number)
        finally:
            raise OSError("closing failed")

    with pytest.raises((OSError, ValueError)) as caught:
        await leave(client.fan_out(echo, keys()), own)
    assert (OSError if own is None else ValueError) is type(caught.value)


@pytest.mark.parametrize("raised", [None, OSError("closing failed")], ids=["waits", "raises"])
async def test_a_generator_that_waits_is_cancelled_with_the_block(
    client: CrowdTwistClient, raised: Exception | None
) -> None:
    """What it raises then is raised too."""
    closed = []

    async def keys() -> AsyncIterator[str]:
        yield "0"
        try:
            await anyio.sleep_forever()
        finally:
            closed.append(True)
            if raised is not None:
                raise raised

    with nullcontext() if raised is None else pytest.raises(OSError, match="closing failed"):
        await leave(client.fan_out(echo, keys()), None, settled=True)
    assert [True] == closed


@pytest.mark.parametrize("raised", [OSError, ProgramEndError])
async def test_a_task_group_that_fails_while_it_is_closed_is_told(
    client: CrowdTwistClient, raised: type[BaseException]
) -> None:
    """Beside what ends the generator, which is in the same group."""

    async def fail() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise raised

    async def keys() -> AsyncIterator[str]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)
            for number in range(99):
                yield str(number)

    with pytest.raises(BaseExceptionGroup) as caught:
        await leave(client.fan_out(echo, keys()), None, settled=True)
    assert caught.value.split(raised)[1] is None


async def test_an_error_of_the_keys_ends_the_run(client: CrowdTwistClient) -> None:
    """It is raised as itself, with the line that raised it."""

    async def keys() -> AsyncIterator[str]:
        yield "0"
        raise OSError("the file is gone")

    with pytest.raises(OSError, match="the file is gone") as caught:
        await drain(client.fan_out(echo, keys()))
    assert "keys" == caught.traceback[-1].name


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_keys_that_wait_for_what_is_cancelled_elsewhere_end_the_run(client: CrowdTwistClient) -> None:
    """It would end the block as if it were left."""
    shared = asyncio.ensure_future(asyncio.sleep(3600))

    async def keys() -> AsyncIterator[str]:
        yield "0"
        shared.cancel()
        await shared

    with pytest.raises(RuntimeError, match="cancelled elsewhere"):
        await drain(client.fan_out(echo, keys()))


async def test_the_requests_of_the_keys_count(client: CrowdTwistClient) -> None:
    """With those of the calls: all that the run has sent."""
    async with client.fan_out(echo, prefetched(client)) as outcomes:
        assert 25 == len([outcome async for outcome in outcomes])
        assert 3 <= outcomes.requests == client.stats.requests


@pytest.mark.parametrize("where", ["call", "keys"])
async def test_what_ends_the_program_comes_as_itself(client: CrowdTwistClient, where: str) -> None:
    """Not in a group, which `except SystemExit` does not know."""

    async def call(key: str) -> None:
        if where == "call" and key == "3":
            raise ProgramEndError

    async def keys() -> AsyncIterator[str]:
        for number in range(9):
            yield str(number)
            if where == "keys" and number == 3:
                raise ProgramEndError

    with pytest.raises(ProgramEndError):
        await drain(client.fan_out(call, keys(), concurrency=2))


async def walk(context: AbstractAsyncContextManager[Prefetched[Purchase]]) -> list[object]:
    """All rows."""
    async with context as rows:
        return [row async for row in rows]


async def test_what_ends_the_program_comes_as_itself_out_of_a_prefetch() -> None:
    """A transport of one's own may raise it."""

    class Ending(ScriptedTransport):
        async def send(self, request: Request, /) -> Reply | CrowdTwistError:
            if self.requests:
                raise ProgramEndError
            return await super().send(request)

    transport = Ending(status(200, b'{"purchases": [], "paging": {"total": 30, "pages": 3}}'))
    async with CrowdTwistClient(api_key=KEY, transport=transport) as client:
        with pytest.raises(ProgramEndError):
            await walk(client.iter_user_purchases("7").prefetch(2))


class Keys:
    """What is iterated by a generator of its own, with a scope in it."""

    def __init__(self) -> None:
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            with anyio.CancelScope():
                for number in range(100):
                    yield f"{number}"
        finally:
            self.closed = True


async def test_a_generator_that_is_made_for_the_run_is_read_by_one_task(client: CrowdTwistClient) -> None:
    """And closed with the block: nobody else could."""
    keys = Keys()
    async with client.fan_out(echo, keys, concurrency=8) as outcomes:
        for _ in range(3):
            await anext(outcomes)

    assert keys.closed
