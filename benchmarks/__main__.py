"""
`python -m benchmarks [--quick]`: CPU per page of 10 rewards, this client against the naive httpx call.

The contenders take turns in every round of the same run; the figures are medians over the rounds. They
are reported and never fail anything.
"""

from __future__ import annotations

import asyncio
import math
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version

import httpx

from benchmarks.server import running
from crowdtwist_async import CrowdTwistClient, RateBudget

Page = Callable[[], Awaitable[object]]

_IN_FLIGHT = (1, 16, 64)


async def _cpu_per_page(page: Page, in_flight: int, pages: int) -> float:
    """Microseconds of CPU for one page, with so many requests at once."""
    share = pages // in_flight

    async def worker() -> None:
        for _ in range(share):
            await page()

    started = time.process_time()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return (time.process_time() - started) / (share * in_flight) * 1e6


async def _measure(url: str, rounds: int, pages: int) -> dict[int, dict[str, float]]:
    budget = RateBudget(per_minute=math.inf)
    limits = httpx.Limits(max_connections=None)
    async with (
        CrowdTwistClient(
            api_key="bench", api_url=url, pos_url=url, budget=budget, max_in_flight=200
        ) as client,
        httpx.AsyncClient(limits=limits) as naive,
    ):

        async def typed() -> object:
            return await client.user_rewards("1")

        async def untyped() -> object:
            reply = await naive.get(
                f"{url}/v2.1/users/1/rewards", params={"api_key": "bench", "id_type": "id"}
            )
            return reply.json()

        contenders: dict[str, Page] = {"crowdtwist_async": typed, "httpx + json": untyped}
        found: dict[int, dict[str, list[float]]] = {
            in_flight: {name: [] for name in contenders} for in_flight in _IN_FLIGHT
        }
        for turn in range(rounds + 1):
            for in_flight, figures in found.items():
                for name, page in contenders.items():
                    figure = await _cpu_per_page(page, in_flight, pages)
                    if turn:  # the first round warms up
                        figures[name].append(figure)
    return {
        in_flight: {name: statistics.median(figures) for name, figures in by_name.items()}
        for in_flight, by_name in found.items()
    }


def main() -> None:
    """Run and print."""
    quick = "--quick" in sys.argv[1:]
    with running() as url:
        found = asyncio.run(_measure(url, rounds=2 if quick else 9, pages=128 if quick else 640))
    print(f"Python {platform.python_version()}, httpx {version('httpx')}, cattrs {version('cattrs')}")
    print(f"{'in flight':>9}  {'httpx + json':>14}  {'this, typed':>14}  ratio")
    for in_flight, by_name in found.items():
        ours, theirs = by_name["crowdtwist_async"], by_name["httpx + json"]
        print(f"{in_flight:>9}  {theirs:>11,.0f} us  {ours:>11,.0f} us  {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
