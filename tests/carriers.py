"""
The transports, for tests that all of them must pass: the same client, carried by another each time.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import httpx
import pytest
from conftest import KEY

from crowdtwist_async import CrowdTwistClient, HttpxTransport, RetryPolicy, Transport
from crowdtwist_async.transports.aiohttp import AiohttpTransport
from crowdtwist_async.transports.httpx import InjectedClientTransport

Carrier = Callable[..., AbstractAsyncContextManager[Transport]]
"""Opens a transport with these options."""

ONCE = RetryPolicy(max_attempts=1)


@asynccontextmanager
async def _httpx(**options: Any) -> AsyncIterator[Transport]:
    yield HttpxTransport(**options)


@cache
def _trusting(file: str | None) -> ssl.SSLContext:
    """The client's side of TLS; reading the usual authorities lasts longer than some faults."""
    return ssl.create_default_context(cafile=file) if file else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _careless(kind: type[Any]) -> Any:
    """A user's client; what it does by itself must not matter."""
    tls = _trusting(os.environ.get("SSL_CERT_FILE"))
    return kind(verify=tls, follow_redirects=True, auth=("someone", "sesame"))


@asynccontextmanager
async def _injected(**options: Any) -> AsyncIterator[Transport]:
    async with _careless(httpx.AsyncClient) as client:
        yield InjectedClientTransport(client, **options)


@asynccontextmanager
async def _httpx2(**options: Any) -> AsyncIterator[Transport]:
    async with _careless(import_module("httpx2").AsyncClient) as client:
        yield InjectedClientTransport(client, **options)


@asynccontextmanager
async def _aiohttp(**options: Any) -> AsyncIterator[Transport]:
    yield AiohttpTransport(**options)


def _over(*carriers: Carrier, loops: Sequence[str] = ("asyncio", "trio")) -> pytest.MarkDecorator:
    cases = [
        pytest.param(loop, carrier, id=f"{carrier.__name__.strip('_')}-{loop}")
        for carrier in carriers
        for loop in loops
        if (carrier, loop) != (_aiohttp, "trio")
    ]
    return pytest.mark.parametrize(("anyio_backend", "carrier"), cases)


# `nox -s httpx2` installs it.
_ALL = (_httpx, _injected, *([_httpx2] if find_spec("httpx2") else []), _aiohttp)

over_each = _over(*_ALL)
"""Run a test over every transport, on each event loop that it supports."""
over_our_own = _over(_httpx, _aiohttp)
"""Run a test over the transports that make their own connections."""
over_our_own_on_asyncio = _over(_httpx, _aiohttp, loops=["asyncio"])
"""The same for what only asyncio has."""


@asynccontextmanager
async def open_client(
    carrier: Carrier, url: str, *, max_body_bytes: int = 32 * 1024 * 1024, **options: Any
) -> AsyncIterator[CrowdTwistClient]:
    """A client of a server, without retries unless they are asked for."""
    settings: dict[str, Any] = {"api_key": KEY, "api_url": url, "pos_url": url, "retry": ONCE}
    async with carrier(max_body_bytes=max_body_bytes) as transport:
        async with CrowdTwistClient(**settings | options, transport=transport) as client:
            yield client
