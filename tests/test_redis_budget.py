"""
`RedisBudget` against a real redis-server: what is shared, and what happens without it.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest
import redis.asyncio
import trustme
from conftest import KEY, captured_locals
from redis_server import RedisServer, free_port, one_for_all, one_of_its_own, running  # noqa: F401 - fixtures
from scripted import OK, ScriptedTransport, status

from crowdtwist_async import (
    ClientClosedError,
    CrowdTwistClient,
    CrowdTwistError,
    RateLimitError,
    RetryPolicy,
    TransportError,
)
from crowdtwist_async._secrets import Secret
from crowdtwist_async.budgets import _connection
from crowdtwist_async.budgets import redis as redis_budget
from crowdtwist_async.budgets._address import Address
from crowdtwist_async.budgets.redis import RedisBudget

pytestmark = pytest.mark.asyncio
PASSWORD = KEY.replace("/", "%2F").replace("%27", "%2527")
"""The key of all tests, as a URL has it: the canary looks for it everywhere."""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a machine be slow: nothing here depends on how soon Redis answers."""
    monkeypatch.setattr(_connection, "_PATIENCE", 30.0)
    monkeypatch.setattr(redis_budget, "LATE", 30.0)
    monkeypatch.setattr("crowdtwist_async.budgets._lease.LATE", 30.0)
    # A new key would make every test wait for a second.
    monkeypatch.setattr(redis_budget, "_LOST", 0.0)


@pytest.fixture(name="key")
def new_key() -> str:
    """A key that no other test has."""
    return f"test {uuid4()}"


@asynccontextmanager
async def asked(server: RedisServer) -> AsyncIterator[redis.asyncio.Redis]:
    """The server, to be looked at."""
    async with redis.asyncio.Redis.from_url(server.url) as client:
        yield client


async def refused(call: Callable[[], Awaitable[object]]) -> CrowdTwistError:
    """The error that a call raises."""
    with pytest.raises(CrowdTwistError) as caught:
        await call()
    return caught.value


async def waits(budget: RedisBudget, count: int) -> list[float]:
    """Reserve so many at once, as it were."""
    return [await budget.reserve() for _ in range(count)]


async def test_permits_come_evenly_spaced_from_all_who_name_the_key(
    shared_redis: RedisServer, key: str
) -> None:
    """Two budgets of one key are one; the permits of both together are an interval apart."""
    async with RedisBudget(shared_redis.url, key=key, per_minute=1, burst=1) as one:
        async with RedisBudget(shared_redis.url, key=key, per_minute=1, burst=1) as other:
            seconds = [await budget.reserve() for budget in (one, other, one, one, other)]
    assert [0.0, 60.0, 120.0, 180.0, 240.0] == pytest.approx(seconds, abs=30)


async def test_another_key_is_another_budget(shared_redis: RedisServer, key: str) -> None:
    """Two programs share a Redis, and no permits."""
    async with RedisBudget(shared_redis.url, key=key, per_minute=1, burst=1) as one:
        async with RedisBudget(shared_redis.url, key=f"{key} 2", per_minute=1, burst=1) as other:
            assert [0.0, 0.0] == [await one.reserve(), await other.reserve()]
            assert await one.reserve() > 30


async def test_a_burst_goes_at_once_after_an_idle_time(shared_redis: RedisServer, key: str) -> None:
    """As with a `RateBudget`; a key that is new begins without one."""
    async with RedisBudget(shared_redis.url, key=key, per_minute=1, burst=3) as budget:
        assert [0.0, 60.0, 120.0] == pytest.approx(await waits(budget, 3), abs=30)
        async with asked(shared_redis) as server:
            await server.hset(key, "next", 0)
        assert [0.0, 0.0, 0.0, 60.0] == pytest.approx(await waits(budget, 4), abs=30)


async def test_several_permits_at_once(shared_redis: RedisServer, key: str) -> None:
    """They are paid for by whoever comes next."""
    async with RedisBudget(shared_redis.url, key=key, per_minute=1, burst=1) as budget:
        assert 0.0 == await budget.reserve(5)
        assert 240 < await budget.reserve() <= 300


async def test_redis_is_not_asked_for_every_permit(shared_redis: RedisServer, key: str) -> None:
    """Under load one question brings ten."""
    async with RedisBudget(shared_redis.url, key=key) as budget, asked(shared_redis) as server:
        await budget.reserve()
        before = (await server.info("commandstats"))["cmdstat_evalsha"]["calls"]
        for _ in range(300):
            await asyncio.sleep(await budget.reserve())
        assert (await server.info("commandstats"))["cmdstat_evalsha"]["calls"] - before <= 60


async def test_a_pause_is_for_everybody(shared_redis: RedisServer, key: str) -> None:
    """Who has nothing leased hears of it with the next permit; a shorter pause changes nothing."""
    async with RedisBudget(shared_redis.url, key=key) as one, RedisBudget(shared_redis.url, key=key) as other:
        await one.reserve()
        await one.penalize(300)
        await one.penalize(100)
        assert 200 < await one.reserve() <= 300
        assert 200 < await other.reserve() <= 301


async def test_a_pause_that_redis_forgot_is_told_again(shared_redis: RedisServer, key: str) -> None:
    """By whoever knows of it, with the next permit that it wants."""
    async with RedisBudget(shared_redis.url, key=key) as one, RedisBudget(shared_redis.url, key=key) as other:
        await one.penalize(300)
        async with asked(shared_redis) as server:
            await server.delete(key)
        assert 200 < await one.reserve() <= 300
        assert 200 < await other.reserve() <= 301


async def test_the_longest_pause_is_a_day(shared_redis: RedisServer, key: str) -> None:
    """A mistake of one process is not for ever."""
    async with RedisBudget(shared_redis.url, key=key) as budget:
        await budget.penalize(math.inf)
        assert 86_000 < await budget.reserve() <= 86_400


async def test_a_new_key_begins_with_a_pause(
    shared_redis: RedisServer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis may have lost it: permits that were leased before may still be used."""
    monkeypatch.setattr(redis_budget, "_LOST", 50.0)
    async with RedisBudget(shared_redis.url, key=key) as budget:
        assert 20 < await budget.reserve() <= 50


async def test_a_key_that_nobody_uses_is_forgotten(shared_redis: RedisServer, key: str) -> None:
    """After a day, or with the end of a longer pause."""
    async with RedisBudget(shared_redis.url, key=key) as budget, asked(shared_redis) as server:
        await budget.reserve()
        assert 86_000_000 < await server.pttl(key) <= 86_401_000
        await budget.penalize(50_000)
        assert 130_000_000 < await server.pttl(key) <= 136_401_000


async def test_a_script_that_redis_forgot_is_sent_again(shared_redis: RedisServer, key: str) -> None:
    """As after a restart."""
    async with RedisBudget(shared_redis.url, key=key) as budget, asked(shared_redis) as server:
        await budget.reserve(1)
        await server.script_flush()
        await budget.reserve(2)
        assert b"hash" == await server.type(key)


async def test_each_pays_its_own_price(shared_redis: RedisServer, key: str) -> None:
    """A process with a lower rate keeps to it, and takes more of the time that all share."""
    async with RedisBudget(shared_redis.url, key=key, per_minute=60, burst=1) as fast:
        async with RedisBudget(shared_redis.url, key=key, per_minute=1, burst=1) as slow:
            await slow.reserve()
            assert 30 < await fast.reserve() <= 60
            assert 30 < await slow.reserve() <= 61


async def test_cancelled_reservations_mix_up_no_answers(shared_redis: RedisServer, key: str) -> None:
    """Wherever they are cancelled: the next answers are right, and no connection is left."""
    chance = random.Random(1)
    async with RedisBudget(shared_redis.url, key=key, per_minute=600_000) as budget:
        for _ in range(300):
            with anyio.move_on_after(chance.random() * 0.002):
                await budget.reserve(chance.choice([1, 2]))
        await budget.penalize(100)
        assert 50 < await budget.reserve() <= 101
        async with asked(shared_redis) as server:
            assert b"hash" == await server.type(key)
            assert len(await server.client_list()) <= 3


async def test_closing_leaves_no_connection(shared_redis: RedisServer, key: str) -> None:
    """Also while permits are being asked for, and when the closing task is cancelled."""
    async with asked(shared_redis) as server:
        before = len(await server.client_list())
        for _ in range(20):
            budget = RedisBudget(shared_redis.url, key=key, per_minute=600_000)
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(until_closed, budget)
                await asyncio.sleep(0.01)
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await budget.aclose()
        with anyio.fail_after(60):
            while len(await server.client_list()) > before:  # noqa: ASYNC110 - the server does not say when
                await asyncio.sleep(0.01)


async def test_closing_that_asyncio_cancels_closes(shared_redis: RedisServer, key: str) -> None:
    """When the request that is under way has ended, and only then the cancellation is raised."""
    async with asked(shared_redis) as server:
        before = len(await server.client_list())
        budget = RedisBudget(shared_redis.url, key=key)
        await budget.reserve()
        async with budget._connected().gate:
            closing = asyncio.ensure_future(budget.aclose())
            for _ in range(2):
                await asyncio.sleep(0)
                closing.cancel()
        await asyncio.wait([closing])
        assert closing.cancelled()
        with anyio.fail_after(60):
            while len(await server.client_list()) > before:  # noqa: ASYNC110 - the server does not say when
                await asyncio.sleep(0.01)


async def until_closed(budget: RedisBudget) -> None:
    """Take permits until there are none."""
    with suppress(ClientClosedError):
        while True:
            await budget.reserve(2)


async def test_a_redis_that_is_gone_stops_every_call(redis_server: RedisServer, key: str) -> None:
    """With an error that says so, and nothing is sent; when it is there again, calls go on."""
    transport = ScriptedTransport()
    async with RedisBudget(redis_server.url, key=key) as budget:
        async with CrowdTwistClient(api_key=KEY, transport=transport, budget=budget) as client:
            await client.points_awaiting_fulfillment("7")
            redis_server.stop()
            with anyio.fail_after(60):
                while len(transport.requests) < 100:
                    error = None
                    try:
                        await client.points_awaiting_fulfillment("7")
                    except TransportError as raised:
                        error = raised
                        break
            assert type(error) is TransportError
            assert (
                f"the request budget at redis://127.0.0.1:{redis_server.port}/0 can't be asked:"
                " no connection (ConnectionError)"
            ) == error.reason
            assert ("points_awaiting_fulfillment", 0) == (error.endpoint, error.attempts)
            sent = len(transport.requests)
            await refused(lambda: client.points_awaiting_fulfillment("7"))
            assert sent == len(transport.requests)
            redis_server.start()
            await asyncio.sleep(1.0)
            await client.points_awaiting_fulfillment("7")


async def test_it_is_asked_once_a_second_while_it_is_gone(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls in between fail at once."""
    tries = 0
    grant = _connection.Connection.grant

    async def counting(*arguments: Any) -> Any:
        nonlocal tries
        tries += 1
        return await grant(*arguments)

    monkeypatch.setattr(_connection.Connection, "grant", counting)
    monkeypatch.setattr(redis_budget, "_DOWN", 3_600.0)
    redis_server.stop()
    async with RedisBudget(redis_server.url) as budget:
        for _ in range(20):
            await refused(budget.reserve)
        await refused(lambda: budget.penalize(1.0))
    assert 2 == tries


async def test_the_fallback_goes_on_alone(
    redis_server: RedisServer, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At its own rate, without a burst; a warning says so, and another that Redis is there again."""
    async with RedisBudget(redis_server.url, key=key, fallback_per_minute=6) as budget:
        redis_server.stop()
        assert 0.0 == await budget.reserve()
        assert 9 < await budget.reserve() <= 10
        assert 19 - 5 < await budget.reserve() <= 20
        [warning] = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert (
            f"the request budget at {redis_server.url} can't be asked: no connection (ConnectionError);"
            " going on alone with 6 requests a minute"
        ) == warning
        redis_server.start()
        await asyncio.sleep(1.0)
        assert await budget.reserve() < 5
        assert f"the request budget at {redis_server.url} answers again" == caplog.records[-1].message


async def test_the_fallback_heeds_a_pause(redis_server: RedisServer) -> None:
    """Also one that Redis can't be told of: it is told when it is there again."""
    async with RedisBudget(redis_server.url, fallback_per_minute=6) as budget:
        redis_server.stop()
        assert TransportError is type(await refused(lambda: budget.penalize(300)))
        assert 200 < await budget.reserve() <= 300
        redis_server.start()
        await asyncio.sleep(1.0)
        assert 200 < await budget.reserve() <= 300
        async with RedisBudget(redis_server.url) as other:
            assert 200 < await other.reserve() <= 301


async def test_a_redis_that_hangs_is_not_waited_for(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a second a try, two tries, and then none for a second."""
    async with RedisBudget(redis_server.url) as budget, asked(redis_server) as server:
        await budget.reserve()
        monkeypatch.setattr(_connection, "_PATIENCE", 0.5)
        await server.client_pause(600_000)
        error = await refused(lambda: budget.reserve(2))
        assert error.reason.endswith("can't be asked: no answer within 0.5 s")


async def test_a_redis_that_hangs_is_noticed_by_callers_with_little_time(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gives up before a try is over; what they waited counts together, and the fallback takes over."""
    async with (
        RedisBudget(redis_server.url, fallback_per_minute=600) as budget,
        asked(redis_server) as server,
    ):
        await budget.reserve()
        monkeypatch.setattr(_connection, "_PATIENCE", 0.5)
        await server.client_pause(600_000)
        given_up = 0
        for _ in range(10):
            with anyio.move_on_after(0.2) as scope:
                await budget.reserve(2)
            given_up += scope.cancelled_caught
        assert 1 <= given_up <= 3


async def test_answers_that_take_too_long_are_of_no_use(
    shared_redis: RedisServer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows how old their permits are."""
    async with RedisBudget(shared_redis.url, key=key) as budget:
        await budget.reserve()
        monkeypatch.setattr(redis_budget, "LATE", -1.0)
        monkeypatch.setattr("crowdtwist_async.budgets._lease.LATE", -1.0)
        for count in (1, 2):
            monkeypatch.setattr(budget, "_down_until", 0.0)
            error = await refused(lambda count=count: budget.reserve(count))  # type: ignore[misc]
            assert "its answers take longer than" in error.reason


async def test_a_429_seen_by_one_client_pauses_the_others(shared_redis: RedisServer, key: str) -> None:
    """Through their own budgets."""
    limited = ScriptedTransport(status(429, retry_after="100"))
    fine = ScriptedTransport(OK)
    once = RetryPolicy(max_attempts=1)
    async with RedisBudget(shared_redis.url, key=key) as one, RedisBudget(shared_redis.url, key=key) as other:
        async with CrowdTwistClient(api_key=KEY, transport=limited, budget=one, retry=once) as sees_it:
            async with CrowdTwistClient(api_key=KEY, transport=fine, budget=other) as hears_of_it:
                assert RateLimitError is type(await refused(lambda: sees_it.points_awaiting_fulfillment("7")))
                with anyio.move_on_after(0.5) as waiting:
                    await hears_of_it.points_awaiting_fulfillment("7")
    assert waiting.cancelled_caught
    assert [] == fine.requests


async def test_a_wrong_password_is_told_without_it(tmp_path: Path) -> None:
    """In no text, no log, no local of a frame."""
    with running(tmp_path, "--requirepass", "right") as server:
        async with RedisBudget(f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0") as budget:
            error = await refused(budget.reserve)
            assert (
                f"the request budget at redis://***@127.0.0.1:{server.port}/0 can't be asked:"
                " it refuses the user or the password"
            ) == error.reason
            assert KEY not in captured_locals(error) + repr(budget)
        async with RedisBudget(f"redis://:right@127.0.0.1:{server.port}/0") as budget:
            await budget.reserve()


async def test_a_user_without_leave_is_told(tmp_path: Path) -> None:
    """Redis can let a user do other things alone."""
    with running(tmp_path, "--user", "reader", "on", ">right", "~*", "+get") as server:
        async with RedisBudget(f"redis://reader:right@127.0.0.1:{server.port}") as budget:
            assert "its user may not run the script" in (await refused(budget.reserve)).reason


async def test_the_user_of_the_page_has_all_that_it_needs(tmp_path: Path) -> None:
    """The commands that `docs/sharing.md` lets it run, on the keys that it names."""
    page = Path(__file__).parent.parent / "docs" / "sharing.md"
    [line] = re.findall("^ACL SETUSER (.*)$", page.read_text(), re.MULTILINE)
    with running(tmp_path, "--user", *line.split()) as server:
        async with RedisBudget(
            f"redis://crowdtwist:password@127.0.0.1:{server.port}", key="program-201"
        ) as budget:
            await budget.reserve()
            await budget.penalize(1.0)


async def test_a_key_of_another_kind_is_an_error(shared_redis: RedisServer, key: str) -> None:
    """What somebody else keeps there stays."""
    async with RedisBudget(shared_redis.url, key=key) as budget, asked(shared_redis) as server:
        await server.set(key, "text")
        assert "the key holds something else: name another" in (await refused(budget.reserve)).reason
        assert b"text" == await server.get(key)


async def test_a_database_that_there_is_none_of_is_told(shared_redis: RedisServer) -> None:
    """It has 16, where nobody set another number."""
    async with RedisBudget(f"redis://127.0.0.1:{shared_redis.port}/99") as budget:
        assert "it has no database of that number" in (await refused(budget.reserve)).reason


@pytest.fixture(name="tls")
def over_tls(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The port of a server that speaks TLS as `localhost`, and its authority."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    for name, blob in {
        "ca.pem": authority.cert_pem,
        "key.pem": certificate.private_key_pem,
        "cert.pem": certificate.cert_chain_pems[0],
    }.items():
        blob.write_to_path(tmp_path / name)
    port = free_port()
    files = [f"--tls-{name}-file" for name in ("ca-cert", "key", "cert")]
    paths = [str(tmp_path / name) for name in ("ca.pem", "key.pem", "cert.pem")]
    options = [text for pair in zip(files, paths, strict=True) for text in pair]
    with running(tmp_path, "--tls-port", str(port), "--tls-auth-clients", "no", *options):
        yield port, tmp_path / "ca.pem"


async def test_rediss_checks_the_certificate_and_its_name(tls: tuple[int, Path]) -> None:
    """Only the authority that is named, and only the host that was asked for."""
    port, authority = tls
    async with RedisBudget(f"rediss://localhost:{port}?ssl_ca_certs={authority}") as budget:
        await budget.reserve()
    for url in (f"rediss://127.0.0.1:{port}?ssl_ca_certs={authority}", f"rediss://localhost:{port}"):
        async with RedisBudget(url) as budget:
            assert "can't be asked: no connection" in (await refused(budget.reserve)).reason


async def test_a_socket_of_this_machine(tmp_path: Path) -> None:
    """It needs no TLS."""
    path = tmp_path / "redis.sock"
    with running(tmp_path, "--unixsocket", str(path)):
        async with RedisBudget(f"unix://{path}") as budget:
            assert f"RedisBudget('unix://{path}', " in repr(budget)
            await budget.reserve()


async def test_a_closed_one_is_of_no_use() -> None:
    """Closing twice is fine, also before it was used."""
    budget = RedisBudget("redis://localhost")
    await budget.aclose()
    await budget.aclose()
    error = await refused(budget.reserve)
    assert (ClientClosedError, "the RedisBudget is closed: keep it open for as long as its clients") == (
        type(error),
        error.reason,
    )


async def test_it_belongs_to_one_process(shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that was forked would share its connection."""
    async with RedisBudget(shared_redis.url) as budget:
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: -1)
            for call in (budget.reserve, lambda: budget.penalize(1.0), budget.aclose):
                assert "before a fork" in (await refused(call)).reason


async def test_an_error_is_followed_by_a_new_connection(shared_redis: RedisServer, key: str) -> None:
    """After a failover the name may lead to another server, while the old one answers on."""
    async with asked(shared_redis) as server:
        await server.set(key, "text")
        before = (await server.info("stats"))["total_connections_received"]
        connection = _connection.Connection(Address(Secret(shared_redis.url), "", encrypted=False))
        try:
            for _ in range(3):
                assert "the key holds something else: name another" == await connection.grant(key, [1] * 8)
        finally:
            await connection.aclose()
        assert 3 == (await server.info("stats"))["total_connections_received"] - before
