"""
What is the aiohttp transport's own; what all transports do alike is in `test_transport_conformance`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import aiohttp
import anyio
import pytest
from conftest import KEY, leaks
from wire import PAGE, POINTS, WireServer, raw, reply

from crowdtwist_async import (
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    CrowdTwistClient,
    Reply,
    Request,
    RetryPolicy,
    TransportError,
)
from crowdtwist_async.transports import aiohttp as module
from crowdtwist_async.transports.aiohttp import AiohttpTransport

pytestmark = pytest.mark.anyio

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


def make_client(server: WireServer, transport: AiohttpTransport) -> CrowdTwistClient:
    """A client of a raw server, without retries."""
    return CrowdTwistClient(
        api_key=KEY,
        api_url=server.url,
        pos_url=server.url,
        transport=transport,
        retry=RetryPolicy(max_attempts=1),
    )


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_says_on_trio_that_it_needs_asyncio() -> None:
    """Before any request, and in one sentence."""
    with WireServer() as server:
        async with make_client(server, AiohttpTransport()) as client:
            with pytest.raises(ConfigurationError, match="runs on asyncio only"):
                await client.points_awaiting_fulfillment("7")
        assert 0 == server.connections


def test_says_what_to_install_where_aiohttp_is_not() -> None:
    """The module needs an extra; the package does not need the module."""
    program = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "import crowdtwist_async\n"
        "try: import crowdtwist_async.transports.aiohttp\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert "AiohttpTransport needs aiohttp: pip install 'crowdtwist-async[aiohttp]'" == done.stdout.strip()


def test_needs_no_httpx_of_its_own() -> None:
    """What the package's front loads aside, its module and what that imports are free of httpx."""
    program = (
        "import importlib.util, sys, types\n"
        "sys.modules['httpx'] = None\n"
        "front = types.ModuleType('crowdtwist_async')\n"
        "front.__path__ = importlib.util.find_spec('crowdtwist_async').submodule_search_locations\n"
        "sys.modules['crowdtwist_async'] = front\n"
        "from crowdtwist_async.transports.aiohttp import AiohttpTransport\n"
        "print(AiohttpTransport.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert "AiohttpTransport" == done.stdout.strip()


@on_asyncio
async def test_an_instrumented_aiohttp_sees_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instrumentations add a trace to each new session, which would see the URL with the key."""
    seen: list[str] = []
    init = aiohttp.ClientSession.__init__

    async def see(session: Any, context: Any, params: aiohttp.TraceRequestStartParams) -> None:
        seen.append(str(params.url))

    def instrumented(self: Any, *arguments: Any, **options: Any) -> None:
        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(see)
        init(self, *arguments, **{**options, "trace_configs": [trace]})

    monkeypatch.setattr(aiohttp.ClientSession, "__init__", instrumented)
    with WireServer(reply(PAGE)) as server:
        async with make_client(server, AiohttpTransport()) as client:
            await client.user_rewards("7")
        async with aiohttp.ClientSession() as theirs:
            await theirs.get(f"{server.url}/mine")
        assert [f"{server.url}/mine"] == seen


@on_asyncio
async def test_the_key_is_in_none_of_aiohttp_s_reports(caplog: pytest.LogCaptureFixture) -> None:
    """In debug mode aiohttp and asyncio tell of responses and connections that were left open."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    acts = (
        reply(PAGE),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", reset=True),
        reply(status="302 Found"),
    )
    with WireServer(*acts) as server:
        async with make_client(server, AiohttpTransport()) as client:
            await client.user_rewards("7")
            for _ in range(2):
                with pytest.raises(TransportError):
                    await client.user_rewards("7")
    loop.set_debug(False)
    assert not leaks(caplog.text)
    assert "nclosed" not in caplog.text


@on_asyncio
async def test_idle_connections_are_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is not used again when the server may have dropped it."""
    monkeypatch.setattr(module, "_KEEPALIVE_SECONDS", 0.01)
    with WireServer() as server:
        async with make_client(server, AiohttpTransport()) as client:
            await client.points_awaiting_fulfillment("7")
            await anyio.sleep(0.03)
            await client.points_awaiting_fulfillment("7")
        assert 2 == server.connections


@on_asyncio
async def test_a_closed_transport_is_told() -> None:
    """It belongs to one client: its sessions end with it."""
    with WireServer() as server:
        transport = AiohttpTransport()
        request = Request("x", server.url, "/", "")
        assert isinstance(await transport.send(request), Reply)
        await transport.aclose()
        await transport.aclose()
        outcome = await transport.send(request)
    assert isinstance(outcome, ClientClosedError)
    assert 1 == len(server.heads)


@on_asyncio
async def test_bytes_behind_the_body_break_the_connection() -> None:
    """aiohttp drops a reply that comes in one piece with more than it should have: it is tried again."""
    whole = f"HTTP/1.1 200 OK\r\nContent-Length: {len(POINTS)}\r\n\r\n".encode() + POINTS + b"{}"
    with WireServer(raw(whole, close=True)) as server:
        async with make_client(server, AiohttpTransport()) as client:
            with pytest.raises(ConnectionFailedError) as caught:
                await client.points_awaiting_fulfillment("7")
    assert caught.value.retryable


@on_asyncio
async def test_what_aiohttp_should_not_raise_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text may hold the URL, so it is not repeated."""

    def fail(*_: Any, **__: Any) -> None:
        raise LookupError(KEY)

    monkeypatch.setattr(aiohttp.ClientSession, "get", fail)
    with WireServer() as server:
        async with make_client(server, AiohttpTransport()) as client:
            with pytest.raises(TransportError, match="aiohttp raised LookupError"):
                await client.points_awaiting_fulfillment("7")
