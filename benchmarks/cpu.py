"""
CPU time for a page of 10 rewards, and pages a second, by how many requests are in flight.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time

from benchmarks.contenders import Contender, Page, import_everything, taking_part
from benchmarks.figures import Figures
from benchmarks.ours import OURS, Site
from benchmarks.rounds import in_a_new_process
from benchmarks.server import HELD
from benchmarks.sites import site

_WARM_UP = 20
"""Pages before the clock starts, on one connection."""
_LEAST_POOL = 100
"""The connections that every contender's pool may have."""


async def _ask(page: Page, in_flight: int, each: int, number: int = 1) -> None:
    async def worker() -> None:
        for _ in range(each):
            await page(number)

    await asyncio.gather(*(worker() for _ in range(in_flight)))


async def _open_connections(page: Page, in_flight: int) -> None:
    """Have as many open as will be in flight; what is read once, as certificates are, is read before that."""
    await _ask(page, 1, _WARM_UP)
    if in_flight > 1:
        await _ask(page, in_flight, 1, HELD + min(in_flight, _LEAST_POOL))
        await _ask(page, in_flight, 1)


async def _one_page(contender: Contender, at: Site, in_flight: int, each: int) -> tuple[float, float]:
    """Microseconds of CPU, and pages a second."""
    async with contender.open(at) as page:
        await _open_connections(page, in_flight)
        gc.collect()
        started, cpu = time.perf_counter(), time.process_time()
        await _ask(page, in_flight, each)
        cpu, seconds = time.process_time() - cpu, time.perf_counter() - started
    pages = in_flight * each
    return cpu / pages * 1e6, pages / seconds


def measure_cpu(levels: tuple[int, ...], rounds: int, pages: int, *, tls: bool = False) -> list[Figures]:
    """Let the contenders take turns; so many pages a contender, level and round."""
    taken = [in_a_new_process("benchmarks.cpu", int(tls), pages, *levels) for _ in range(rounds)]
    over = ", TLS" if tls else ""
    found = []
    for part, (name, unit) in enumerate([("CPU a page", "us"), ("pages", "a second")]):
        for row, level in enumerate(levels):
            figures = {
                contender: [turn[row][contender][part] for turn in taken] for contender in taken[0][row]
            }
            found.append(Figures(f"{name}, {level} in flight{over}", unit, figures, OURS))
    return found


def _one_round(levels: list[int], pages: int, *, tls: bool) -> list[dict[str, tuple[float, float]]]:
    """By level, what a page of each contender takes."""
    contenders = taking_part()
    import_everything()

    def all_of(level: int, pages: int) -> dict[str, tuple[float, float]]:
        each = max(2, pages // level)
        return {
            contender.name: asyncio.run(_one_page(contender, at, level, each)) for contender in contenders
        }

    with site(tls=tls) as at:
        all_of(min(16, max(levels)), pages // 2)  # warms up
        return [all_of(level, pages) for level in levels]


if __name__ == "__main__":
    over_tls, asked, *wanted = map(int, sys.argv[1:])
    print(json.dumps(_one_round(wanted, asked, tls=bool(over_tls))))
