"""
A walk over all pages of a member, each contender in the way that it offers.

This client fetches ahead; a page fetched by hand leads to the next; dlt's REST client counts the pages.
Who gathers pages 2 to 14 by hand, in a program that knows this API, waits twice: that is measured too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module

from benchmarks.contenders import (
    AIOHTTP_PYDANTIC,
    NAIVE_UNLIMITED,
    PATH,
    Contender,
    Page,
    found,
    pages_of,
    taking_part,
)
from benchmarks.figures import Figures
from benchmarks.ours import KEY, OUR_CLIENTS, OURS, Site
from benchmarks.sites import site

PAGES = 14
_AHEAD = 8
DLT = "dlt"
BY_HAND = f"{AIOHTTP_PYDANTIC}, gathered by hand"
Walk = Callable[[], Awaitable[int]]
"""Walks once, and returns how many pages it saw."""
Opened = Callable[[Site], AbstractAsyncContextManager[Walk]]


def _ours(name: str, ahead: int) -> Opened:
    @asynccontextmanager
    async def opened(at: Site) -> AsyncIterator[Walk]:
        async with OUR_CLIENTS[name](at) as client:

            async def walk() -> int:
                return len(await client.iter_user_rewards("1").collect(prefetch=ahead)) // 10

            yield walk

    return opened


async def _one_by_one(page: Page) -> int:
    number = pages = 1
    while number <= pages:
        pages = pages_of(await page(number))
        number += 1
    return pages


async def _gathered(page: Page) -> int:
    first = await page(1)
    rest = await asyncio.gather(*(page(number) for number in range(2, pages_of(first) + 1)))
    return 1 + len(rest)


def _theirs(contender: Contender, way: Callable[[Page], Awaitable[int]]) -> Opened:
    @asynccontextmanager
    async def opened(at: Site) -> AsyncIterator[Walk]:
        async with contender.open(at) as page:
            yield lambda: way(page)

    return opened


@asynccontextmanager
async def _dlt(at: Site) -> AsyncIterator[Walk]:
    dlt = import_module("dlt.sources.helpers.rest_client")
    paginators = import_module("dlt.sources.helpers.rest_client.paginators")
    by_count = paginators.PageNumberPaginator(base_page=1, total_path="paging.pages")
    client = dlt.RESTClient(at.url)

    async def walk() -> int:
        parameters = {"api_key": KEY, "id_type": "id"}
        # It blocks, as it does for its users.
        return len(
            list(client.paginate(PATH, params=parameters, paginator=by_count, data_selector="rewards"))
        )

    yield walk


def walkers() -> dict[str, Opened]:
    """Those who take part, by name."""
    ways: dict[str, Opened] = {}
    for contender in taking_part():
        name = contender.name
        if name == NAIVE_UNLIMITED:
            continue  # one request at once: no different from the one with limits
        ways[name] = _ours(name, _AHEAD) if name in OUR_CLIENTS else _theirs(contender, _one_by_one)
        if name == OURS:
            ways[f"{OURS}, one page after the other"] = _ours(name, 1)
        if name == AIOHTTP_PYDANTIC:
            ways[BY_HAND] = _theirs(contender, _gathered)
    if found("dlt"):
        ways[DLT] = _dlt
    return ways


async def _one_round(opened: Opened, at: Site) -> float:
    """Milliseconds, on connections that are there."""
    async with opened(at) as walk:
        await walk()
        started = time.perf_counter()
        pages = await walk()
        seconds = time.perf_counter() - started
    assert pages == PAGES, pages
    return seconds * 1e3


def measure_walks(latencies: tuple[float, ...], rounds: int) -> list[Figures]:
    """Let the contenders take turns, at each latency (seconds a page)."""
    ways = walkers()
    measured = []
    for latency in latencies:
        taken: dict[str, list[float]] = {name: [] for name in ways}
        with site(PAGES, latency) as at:
            for _ in range(rounds):
                for name, opened in ways.items():
                    taken[name].append(asyncio.run(_one_round(opened, at)))
        measured.append(Figures(f"{PAGES}-page walk, {latency * 1e3:.0f} ms a page", "ms", taken, OURS))
    return measured
