"""
One page for each of many members at a latency of 300 ms, under a rate of 10,000 a minute.

All are paced by the same budget, 64 requests at once; what counts is the share of its rate that they use.
"""

from __future__ import annotations

import asyncio
import time

from benchmarks.contenders import Page, taking_part
from benchmarks.figures import Figures
from benchmarks.ours import OUR_CLIENTS, OURS, Site
from benchmarks.sites import site
from crowdtwist_async import CrowdTwistClient, RateBudget

PER_MINUTE = 10_000
_IN_FLIGHT = 64


async def _ours(client: CrowdTwistClient, members: int) -> None:
    async with client.fan_out(client.user_rewards, range(members)) as outcomes:
        async for outcome in outcomes:
            outcome.unwrap()


async def _theirs(page: Page, members: int, budget: RateBudget) -> None:
    keys = iter(range(members))

    async def worker() -> None:
        for _ in keys:
            await asyncio.sleep(await budget.reserve())
            await page(1)

    await asyncio.gather(*(worker() for _ in range(_IN_FLIGHT)))


async def _seconds(name: str, at: Site, members: int) -> float:
    budget = RateBudget(PER_MINUTE)
    if name in OUR_CLIENTS:
        async with OUR_CLIENTS[name](at, budget=budget, max_in_flight=_IN_FLIGHT) as client:
            started = time.perf_counter()
            await _ours(client, members)
            return time.perf_counter() - started
    (contender,) = taking_part(name)
    async with contender.open(at) as page:
        started = time.perf_counter()
        await _theirs(page, members, budget)
        return time.perf_counter() - started


def measure_fan_out(members: int, rounds: int, latency: float, names: tuple[str, ...]) -> Figures:
    """Let the named contenders take turns."""
    taken: dict[str, list[float]] = {contender.name: [] for contender in taking_part(*names)}
    with site(1, latency) as at:
        for _ in range(rounds):
            for name, shares in taken.items():
                rate = members / asyncio.run(_seconds(name, at, members))
                shares.append(100 * rate / (PER_MINUTE / 60))
    name = f"fan-out of {members:,} members, {latency * 1e3:.0f} ms a page"
    return Figures(name, f"% of {PER_MINUTE:,}/min", taken, OURS, digits=1)
