"""
What is httpx's own: the injected client, respx, idle connections; `test_transport_conformance` has the rest.

An injected client may be httpx2's as well, where that is installed: see `nox -s httpx2`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import respx
from carriers import ONCE
from conftest import KEY, leaks
from wire import POINTS, Exchange, WireServer, hang, reply

from crowdtwist_async import (
    AuthenticationError,
    CrowdTwistClient,
    DecodeError,
    HttpxTransport,
    Reply,
    Request,
    RequestTimeoutError,
    ResponseTooLargeError,
    RetryPolicy,
    TransportError,
    UnexpectedRedirectError,
)
from crowdtwist_async._secrets import Secret
from crowdtwist_async.transports.httpx import InjectedClientTransport

pytestmark = pytest.mark.anyio

AT_ONCE = RetryPolicy(initial=0)
REQUEST = Request("x", "http://127.0.0.1:1", "/", "")


@pytest.fixture(params=[name for name in ("httpx", "httpx2") if find_spec(name)])
def library(request: pytest.FixtureRequest) -> Any:
    """The library of the client that is injected."""
    return import_module(request.param)


def make_client(server: WireServer, **options: Any) -> CrowdTwistClient:
    """A client of a raw server, without retries unless they are asked for."""
    return CrowdTwistClient(
        **{"api_key": KEY, "api_url": server.url, "pos_url": server.url, "retry": ONCE, **options}
    )


async def test_an_injected_client_logs_no_user(library: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It tells the address of each request at INFO, and its connections tell more at DEBUG."""
    caplog.set_level(logging.DEBUG)
    with WireServer() as server:
        async with library.AsyncClient() as injected:
            async with make_client(server, http_client=injected) as client:
                with pytest.raises(DecodeError, match="about another user"):
                    await client.points_awaiting_fulfillment("11138266")
        told = [entry.getMessage() for entry in caplog.records if "HTTP Request" in entry.getMessage()]

        assert [f'HTTP Request: GET {server.url}/*** "HTTP/1.1 200 OK"'] == told
    assert not any("11138266" in entry.getMessage() for entry in caplog.records)


async def test_a_call_that_outlives_its_client_logs_no_user_either(
    library: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What is under way when the client is closed goes on, and its lines are masked until it has ended."""
    caplog.set_level(logging.INFO)
    closed = threading.Event()

    def answer_late(exchange: Exchange) -> None:
        closed.wait()
        reply(POINTS.replace(b"7", b"11138266"))(exchange)

    with WireServer(answer_late) as server:
        async with library.AsyncClient() as injected, anyio.create_task_group() as tasks:
            async with make_client(server, http_client=injected) as client:
                tasks.start_soon(client.points_awaiting_fulfillment, "11138266")
                while not server.heads:
                    await anyio.lowlevel.checkpoint()
            closed.set()
        told = [entry.getMessage() for entry in caplog.records if "HTTP Request" in entry.getMessage()]
        assert [f'HTTP Request: GET {server.url}/*** "HTTP/1.1 200 OK"'] == told
    assert [] == logging.getLogger(library.__name__).filters


async def test_an_injected_client_is_used_and_stays_open(library: Any) -> None:
    """A client of the user's own sends, and is not closed."""
    with WireServer() as server:
        async with library.AsyncClient(headers={"X-Mine": "yes"}) as injected:
            async with make_client(server, http_client=injected) as client:
                assert 7 == (await client.points_awaiting_fulfillment("7")).user_id
            assert not injected.is_closed
        assert b"X-Mine: yes" in server.heads[0]


async def test_an_injected_client_s_read_body_is_taken(library: Any) -> None:
    """An event hook that reads the body does not take it away."""

    async def read(response: Any) -> None:
        await response.aread()

    with WireServer() as server:
        async with library.AsyncClient(event_hooks={"response": [read]}) as injected:
            async with make_client(server, http_client=injected) as client:
                assert 7 == (await client.points_awaiting_fulfillment("7")).user_id


@pytest.mark.parametrize("refuses", [False, True], ids=["reads", "reads and raises"])
async def test_a_body_that_a_hook_has_read_is_bounded_too(library: Any, refuses: bool) -> None:
    """What is in memory by then is at least no page of this client's."""

    async def read(response: Any) -> None:
        await response.aread()
        if refuses:
            response.raise_for_status()

    answer = library.Response(500 if refuses else 200, content=b"x" * 101)
    mock = library.MockTransport(lambda _: answer)
    async with library.AsyncClient(transport=mock, event_hooks={"response": [read]}) as injected:
        outcome = await InjectedClientTransport(injected, max_body_bytes=100).send(REQUEST)

    assert isinstance(outcome, ResponseTooLargeError)


async def test_a_body_in_many_pieces_lets_others_run(library: Any) -> None:
    """What has arrived is read without a pause: thousands of pieces would block the event loop."""

    class Pieces(library.AsyncByteStream):  # type: ignore[misc]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for _ in range(1_000):
                yield b"x"

    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    mock = library.MockTransport(lambda _: library.Response(200, stream=Pieces()))
    async with library.AsyncClient(transport=mock) as injected, anyio.create_task_group() as tasks:
        tasks.start_soon(turn)
        outcome = await InjectedClientTransport(injected).send(REQUEST)
        tasks.cancel_scope.cancel()

    assert isinstance(outcome, Reply)
    assert b"x" * 1_000 == outcome.body
    assert turns >= 8


async def test_a_compressed_body_that_is_none_is_tried_again_also_when_a_hook_reads_it(library: Any) -> None:
    """As one that this client inflates itself."""
    headers = {"content-encoding": "gzip"}
    mock = library.MockTransport(lambda _: library.Response(200, headers=headers, content=b"not gzip"))
    async with library.AsyncClient(transport=mock) as injected:
        outcome = await InjectedClientTransport(injected).send(REQUEST)

    assert isinstance(outcome, DecodeError)
    assert outcome.retryable


@pytest.mark.parametrize(
    ("error", "phase"),
    [
        pytest.param("ConnectTimeout", "connect", id="connecting"),
        pytest.param("PoolTimeout", "connect", id="in-the-pool"),
        pytest.param("ReadTimeout", "response", id="reading"),
    ],
)
async def test_an_injected_client_s_timeouts(library: Any, error: str, phase: str) -> None:
    """A timeout of the user's client is a `RequestTimeoutError` of the phase."""

    def fail(request: Any) -> Any:
        raise getattr(library, error)("slow")

    async with library.AsyncClient(transport=library.MockTransport(fail)) as injected:
        outcome = await InjectedClientTransport(injected).send(
            Request("x", "http://127.0.0.1:1", "/", "", phase="response")
        )
    assert isinstance(outcome, RequestTimeoutError)
    assert phase == outcome.phase


async def test_an_injected_client_follows_no_redirect(library: Any) -> None:
    """A client that follows redirects by default does not for us."""
    with WireServer() as other, WireServer(reply(b"", "302 Found", [f"Location: {other.url}"])) as server:
        async with library.AsyncClient(follow_redirects=True) as injected:
            async with make_client(server, http_client=injected) as client:
                with pytest.raises(UnexpectedRedirectError):
                    await client.points_awaiting_fulfillment("7")
        assert 0 == other.connections


@respx.mock
async def test_respx_intercepts_the_default_transport(respx_mock: respx.MockRouter) -> None:
    """Users can test their own code with respx."""
    route = respx_mock.get("https://sb-pos201.crowdtwist.com/fulfillment/users/7").respond(
        json={"user_id": 7, "total_points_awaiting_fulfillment": 1, "bonus_points_awaiting_fulfillment": 0}
    )
    async with CrowdTwistClient(api_key=KEY, client_id=201, environment="sb-") as client:
        assert 1 == (await client.points_awaiting_fulfillment("7")).total_points_awaiting_fulfillment
    assert f"CTApiKey {KEY}" == route.calls.last.request.headers["X-CT-Authorization"]


def test_a_request_shows_neither_key_nor_user() -> None:
    """The repr of a request is safe to print; its URL and headers hold the key."""
    request = Request(
        "user_rewards",
        "https://h",
        "/v2.1/users/alice/rewards",
        "page=1",
        secret_query=Secret(f"api_key={KEY}"),
        secret_header=Secret(f"K {KEY}"),
    )
    assert not leaks(repr(request))
    assert "alice" not in repr(request)
    assert f"https://h/v2.1/users/alice/rewards?page=1&api_key={KEY}" == request.url
    assert f"K {KEY}" == request.headers["X-CT-Authorization"]
    assert "h" == request.host


async def test_an_injected_client_s_own_parameters_replace_nothing(library: Any) -> None:
    """Defaults of the user's client do not change what is asked for."""
    page = reply(b'{"purchases": [], "paging": {}}')
    with WireServer(page) as server:
        defaults: dict[str, Any] = {"params": {"x": "1"}, "base_url": "https://other.invalid/base"}
        async with library.AsyncClient(**defaults) as injected:
            async with make_client(server, http_client=injected) as client:
                await client.user_purchases("7", page=2, date_start="2026-01-01")
        assert ["/users/7/purchases?id_type=id&date_start=2026-01-01&page=2"] == server.targets


async def test_an_injected_client_s_pool_stays_usable_after_timeouts(library: Any) -> None:
    """Requests that wait in the user's smaller pool time out there, and leave it whole."""
    with WireServer(hang()) as silent, WireServer() as healthy:
        limits = library.Limits(max_connections=2)
        async with library.AsyncClient(limits=limits) as injected:
            async with make_client(silent, http_client=injected, timeout=0.1) as client:
                with contextlib.suppress(BaseExceptionGroup):
                    async with anyio.create_task_group() as tasks:
                        for _ in range(10):
                            tasks.start_soon(collect_failure, client)
            async with make_client(healthy, http_client=injected, timeout=2) as client:
                for _ in range(4):
                    assert 7 == (await client.points_awaiting_fulfillment("7")).user_id


async def collect_failure(client: CrowdTwistClient) -> None:
    """Make a call that is expected to time out."""
    with pytest.raises(RequestTimeoutError):
        await client.points_awaiting_fulfillment("7")


async def test_an_injected_client_s_raise_for_status_is_read(library: Any) -> None:
    """A hook that raises for a refused key does not disguise it."""

    async def check(response: Any) -> None:
        response.raise_for_status()

    with WireServer(reply(b"{}", "403 Forbidden")) as server:
        async with library.AsyncClient(event_hooks={"response": [check]}) as injected:
            async with make_client(server, http_client=injected, retry=AT_ONCE) as client:
                with pytest.raises(AuthenticationError):
                    await client.points_awaiting_fulfillment("7")
        assert 1 == len(server.heads)


async def test_a_closed_injected_client_is_told(library: Any) -> None:
    """What is wrong with the user's client is not taken for a network fault."""
    with WireServer() as server:
        injected = library.AsyncClient()
        await injected.aclose()
        async with make_client(server, http_client=injected, retry=AT_ONCE) as client:
            with pytest.raises(TransportError, match="is it closed") as caught:
                await client.points_awaiting_fulfillment("7")
    assert 1 == caught.value.attempts


async def test_an_injected_client_s_phase_is_followed(library: Any) -> None:
    """A server that accepts and is silent is no connection that hangs."""
    with WireServer(hang()) as server:
        async with library.AsyncClient() as injected:
            async with make_client(server, http_client=injected, timeout=0.1) as client:
                with pytest.raises(RequestTimeoutError) as caught:
                    await client.points_awaiting_fulfillment("7")
    assert "response" == caught.value.phase


async def test_what_a_burst_leaves_idle_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that are idle for too long are closed by the next request."""
    with WireServer() as server:
        transport = HttpxTransport()
        async with make_client(server, transport=transport) as client:
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(client.points_awaiting_fulfillment, "7")
            [idle] = transport._idle.values()
            before = len(idle)
            monkeypatch.setattr("crowdtwist_async.transports.httpx.KEEPALIVE_SECONDS", -1.0)
            await client.points_awaiting_fulfillment("7")
            assert (True, 1) == (before > 1, len(idle))


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_closing_that_asyncio_cancels_closes_all() -> None:
    """Its cancellation, which comes through a shield, is raised at the end."""
    with WireServer() as server:
        transport = HttpxTransport()
        client = make_client(server, transport=transport)
        await client.__aenter__()
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(client.points_awaiting_fulfillment, "7")
        connections = [connection for idle in transport._idle.values() for connection in idle]
        closing = asyncio.ensure_future(transport.aclose())
        for _ in range(2):
            await anyio.lowlevel.checkpoint()
            closing.cancel()
        await asyncio.wait([closing])

        assert closing.cancelled()
        assert len(connections) > 1
        assert not any(connection.is_usable for connection in connections)
        await client.aclose()
