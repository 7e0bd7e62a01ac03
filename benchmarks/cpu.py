"""
CPU time for a page of 10 rewards, and pages a second, by how many requests are in flight.
"""

from __future__ import annotations

import asyncio
import gc
import time

from benchmarks.contenders import Contender, Page, taking_part
from benchmarks.figures import Figures
from benchmarks.ours import OURS, Site
from benchmarks.sites import site

_WARM_UP = 2
"""Pages of each worker before the clock starts: the first opens its connection."""


async def _ask(page: Page, in_flight: int, each: int) -> None:
    async def worker() -> None:
        for _ in range(each):
            await page(1)

    await asyncio.gather(*(worker() for _ in range(in_flight)))


async def _one_round(contender: Contender, at: Site, in_flight: int, each: int) -> tuple[float, float]:
    """Microseconds of CPU a page, and pages a second."""
    async with contender.open(at) as page:
        await _ask(page, in_flight, min(_WARM_UP, each) if in_flight > 1 else 10 * _WARM_UP)
        gc.collect()
        started, cpu = time.perf_counter(), time.process_time()
        await _ask(page, in_flight, each)
        cpu, seconds = time.process_time() - cpu, time.perf_counter() - started
    pages = in_flight * each
    return cpu / pages * 1e6, pages / seconds


def measure_cpu(levels: tuple[int, ...], rounds: int, pages: int, *, tls: bool = False) -> list[Figures]:
    """Let the contenders take turns; so many pages a contender, level and round."""
    contenders = taking_part()
    cpu, rate = _empty(levels, contenders), _empty(levels, contenders)
    with site(tls=tls) as at:
        for _ in range(rounds):
            for level in levels:
                for contender in contenders:
                    taken = asyncio.run(_one_round(contender, at, level, max(2, pages // level)))
                    cpu[level][contender.name].append(taken[0])
                    rate[level][contender.name].append(taken[1])
    over = ", TLS" if tls else ""
    found = [Figures(f"CPU a page, {level} in flight{over}", "us", cpu[level], OURS) for level in levels]
    found += [Figures(f"pages, {level} in flight{over}", "a second", rate[level], OURS) for level in levels]
    return found


def _empty(levels: tuple[int, ...], contenders: list[Contender]) -> dict[int, dict[str, list[float]]]:
    return {level: {contender.name: [] for contender in contenders} for level in levels}
