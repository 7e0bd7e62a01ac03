"""
This client, opened on each of its transports.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple

import httpx

from crowdtwist_async import CrowdTwistClient, RateBudget

KEY = "bench"
OURS = "crowdtwist_async"
OURS_INJECTED = "crowdtwist_async, injected httpx client"
OURS_AIOHTTP = "crowdtwist_async, aiohttp"
_MOST_IN_FLIGHT = 200


class Site(NamedTuple):
    """The server, and the certificate authority that vouches for it."""

    url: str
    authority: str | None = None

    @property
    def tls(self) -> ssl.SSLContext | bool:
        """What an HTTP client takes for `verify` or `ssl`."""
        return ssl.create_default_context(cafile=self.authority) if self.authority else True


def client_of(site: Site, **settings: Any) -> CrowdTwistClient:
    """A client without pacing, unless `settings` bring a budget."""
    settings = {"budget": RateBudget(per_minute=math.inf), "max_in_flight": _MOST_IN_FLIGHT, **settings}
    return CrowdTwistClient(api_key=KEY, api_url=site.url, pos_url=site.url, **settings)


@asynccontextmanager
async def _default(site: Site, **settings: Any) -> AsyncIterator[CrowdTwistClient]:
    async with client_of(site, **settings) as client:
        yield client


@asynccontextmanager
async def _injected(site: Site, **settings: Any) -> AsyncIterator[CrowdTwistClient]:
    limits = httpx.Limits(max_connections=_MOST_IN_FLIGHT, max_keepalive_connections=_MOST_IN_FLIGHT)
    async with (
        httpx.AsyncClient(verify=site.tls, limits=limits) as http,
        client_of(site, http_client=http, **settings) as client,
    ):
        yield client


@asynccontextmanager
async def _aiohttp(site: Site, **settings: Any) -> AsyncIterator[CrowdTwistClient]:
    from crowdtwist_async.transports.aiohttp import AiohttpTransport

    async with client_of(site, transport=AiohttpTransport(), **settings) as client:
        yield client


OUR_CLIENTS: dict[str, Callable[..., AbstractAsyncContextManager[CrowdTwistClient]]] = {
    OURS: _default,
    OURS_INJECTED: _injected,
    OURS_AIOHTTP: _aiohttp,
}
