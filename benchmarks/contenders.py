"""
The contenders: this client on each of its transports, and what people would use instead.

Each is opened as its users open it, and then gives one page for a page number. Who is not installed is
left out, and named.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import httpx

from benchmarks.ours import KEY, OUR_CLIENTS, OURS, OURS_AIOHTTP, OURS_INJECTED, Site
from benchmarks.shapes import pydantic_page
from benchmarks.streams import asyncio_streams

PATH = "/v2.1/users/1/rewards"
_PARAMETERS = {"api_key": KEY, "id_type": "id"}
Page = Callable[[int], Awaitable[Any]]


class Contender(NamedTuple):
    """One of them."""

    name: str
    open: Callable[[Site], AbstractAsyncContextManager[Page]]
    needs: tuple[str, ...] = ()
    """Modules."""

    @property
    def installed(self) -> bool:
        """Whether it can take part."""
        return all(found(name) for name in self.needs)


def found(module: str) -> bool:
    """Whether a module is there."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _ours(name: str) -> Callable[[Site], AbstractAsyncContextManager[Page]]:
    @asynccontextmanager
    async def opened(site: Site) -> AsyncIterator[Page]:
        async with OUR_CLIENTS[name](site) as client:
            yield lambda number: client.user_rewards("1", page=number)

    return opened


def _by_hand(http: Any, site: Site, read: Callable[[Any], Any]) -> Page:
    """A page over a client with httpx's interface, as everybody writes it."""

    async def page(number: int) -> Any:
        reply = await http.get(site.url + PATH, params={**_PARAMETERS, "page": number})
        reply.raise_for_status()
        return read(reply)

    return page


def _as_json(reply: Any) -> Any:
    return reply.json()


@asynccontextmanager
async def _httpx_json(site: Site) -> AsyncIterator[Page]:
    async with httpx.AsyncClient(verify=site.tls) as http:
        yield _by_hand(http, site, _as_json)


@asynccontextmanager
async def _httpx_unlimited(site: Site) -> AsyncIterator[Page]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(verify=site.tls, limits=limits) as http:
        yield _by_hand(http, site, _as_json)


@asynccontextmanager
async def _httpx_pydantic(site: Site) -> AsyncIterator[Page]:
    model = pydantic_page()
    async with httpx.AsyncClient(verify=site.tls) as http:
        yield _by_hand(http, site, lambda reply: model.model_validate_json(reply.content))


@asynccontextmanager
async def _httpx_on_aiohttp(site: Site) -> AsyncIterator[Page]:
    httpx_aiohttp = import_module("httpx_aiohttp")

    async with httpx_aiohttp.HttpxAiohttpClient(verify=site.tls) as http:
        yield _by_hand(http, site, _as_json)


@asynccontextmanager
async def _httpx2_json(site: Site) -> AsyncIterator[Page]:
    httpx2 = import_module("httpx2")

    async with httpx2.AsyncClient(verify=site.tls) as http:
        yield _by_hand(http, site, _as_json)


@asynccontextmanager
async def _aiohttp_pydantic(site: Site) -> AsyncIterator[Page]:
    aiohttp = import_module("aiohttp")

    model, tls = pydantic_page(), site.tls
    async with aiohttp.ClientSession() as session:

        async def page(number: int) -> Any:
            parameters = {**_PARAMETERS, "page": str(number)}
            async with session.get(
                site.url + PATH, params=parameters, ssl=tls, raise_for_status=True
            ) as reply:
                return model.model_validate_json(await reply.read())

        yield page


@asynccontextmanager
async def _openai(site: Site, client: str = "DefaultAsyncHttpxClient") -> AsyncIterator[Page]:
    openai = import_module("openai")

    model: Any = pydantic_page(openai.BaseModel)
    http = getattr(openai, client)(verify=site.tls)
    async with openai.AsyncOpenAI(api_key=KEY, base_url=site.url, http_client=http) as sdk:
        yield lambda number: sdk.get(PATH, cast_to=model, options={"params": {**_PARAMETERS, "page": number}})


def _openai_aiohttp(site: Site) -> AbstractAsyncContextManager[Page]:
    return _openai(site, "DefaultAioHttpClient")


@asynccontextmanager
async def _streams(site: Site) -> AsyncIterator[Page]:
    async with asyncio_streams(site.url, site.authority, f"{PATH}?api_key={KEY}&id_type=id") as page:
        yield page


NAIVE = "httpx + json"
NAIVE_UNLIMITED = "httpx + json, no limits"
HTTPX_PYDANTIC = "httpx + pydantic"
AIOHTTP_PYDANTIC = "aiohttp + pydantic"
OPENAI = "OpenAI SDK"
OPENAI_AIOHTTP = "OpenAI SDK, aiohttp"
FLOOR = "asyncio streams + msgspec"

CONTENDERS = (
    Contender(OURS, _ours(OURS)),
    Contender(OURS_INJECTED, _ours(OURS_INJECTED)),
    Contender(OURS_AIOHTTP, _ours(OURS_AIOHTTP), ("aiohttp", "crowdtwist_async.transports.aiohttp")),
    Contender(NAIVE, _httpx_json),
    Contender(NAIVE_UNLIMITED, _httpx_unlimited),
    Contender(HTTPX_PYDANTIC, _httpx_pydantic, ("pydantic",)),
    Contender("httpx on aiohttp + json", _httpx_on_aiohttp, ("httpx_aiohttp",)),
    Contender("httpx2 + json", _httpx2_json, ("httpx2",)),
    Contender(AIOHTTP_PYDANTIC, _aiohttp_pydantic, ("aiohttp", "pydantic")),
    Contender(OPENAI, _openai, ("openai",)),
    Contender(OPENAI_AIOHTTP, _openai_aiohttp, ("openai", "aiohttp")),
    Contender(FLOOR, _streams),
)


def taking_part(*names: str) -> list[Contender]:
    """The installed contenders, all or those named."""
    return [
        contender
        for contender in CONTENDERS
        if contender.installed and (not names or contender.name in names)
    ]


def left_out() -> list[str]:
    """The names of those that are not installed."""
    return [contender.name for contender in CONTENDERS if not contender.installed]


def pages_of(page: Any) -> int:
    """How many pages there are, whatever the contender's page is."""
    pages = page["paging"]["pages"] if isinstance(page, dict) else page.paging.pages
    return int(pages)


def import_everything() -> None:
    """So that no contender's measurement holds imports, or collects the garbage of another's."""
    for contender in taking_part():
        for module in contender.needs:
            import_module(module)
    gc.collect()
    gc.freeze()
