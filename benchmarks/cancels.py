"""
What cancelling leaves behind: slots, tasks and sockets, after a thousand cancels at random moments.

Against a server in a process of its own. Linux only: sockets are counted in `/proc`.
"""

from __future__ import annotations

import asyncio
import gc
import math
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.server import running
from crowdtwist_async import CrowdTwistClient, RateBudget

_CANCELS = 1_000
_PAGES = 6
_SECONDS = 0.005
"""What the server takes for a page."""
Work = Callable[[CrowdTwistClient], Awaitable[object]]


async def _call(client: CrowdTwistClient) -> None:
    await client.user_rewards("7")


async def _walk(client: CrowdTwistClient) -> None:
    async for _ in client.iter_user_rewards("7"):
        pass


async def _prefetch(client: CrowdTwistClient) -> None:
    async with client.iter_user_rewards("7").prefetch(4) as items:
        async for _ in items:
            pass


async def _fan_out(client: CrowdTwistClient) -> None:
    async with client.fan_out(client.user_rewards, range(12), concurrency=4) as outcomes:
        async for outcome in outcomes:
            outcome.unwrap()


_RUNS: tuple[tuple[str, Work, int], ...] = (
    ("16 calls", _call, 16),
    ("64 calls", _call, 64),
    ("200 calls", _call, 200),
    ("16 walks", _walk, 16),
    ("16 prefetch(4)", _prefetch, 16),
    ("16 fan-outs", _fan_out, 16),
)


def _open_sockets() -> int:
    gc.collect()
    names = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            names.append(str(link.readlink()))
        except OSError:  # the listing's own
            continue
    return sum(name.startswith("socket:") for name in names)


async def _cancel_at_random(client: CrowdTwistClient, work: Work, at_once: int) -> tuple[int, int]:
    """Keep so many at work until a thousand were cancelled; return how many were, and how many finished."""
    for _ in range(2):  # the first round makes the connections
        started = time.monotonic()
        await asyncio.gather(*(work(client) for _ in range(at_once)))
        longest = 2 * (time.monotonic() - started)
    chance = random.Random(at_once)
    cancelled = finished = 0

    async def worker() -> None:
        nonlocal cancelled, finished
        while cancelled < _CANCELS:
            try:
                async with asyncio.timeout(chance.random() * longest):
                    await work(client)
                finished += 1
            except TimeoutError:
                cancelled += 1

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return cancelled, finished


async def _run(url: str, name: str, work: Work, at_once: int) -> str:
    sockets = _open_sockets()
    budget = RateBudget(per_minute=math.inf)
    async with CrowdTwistClient(
        api_key="bench", api_url=url, pos_url=url, budget=budget, max_in_flight=at_once
    ) as client:
        cancelled, finished = await _cancel_at_random(client, work, at_once)
        tasks = len(asyncio.all_tasks()) - 1
        pages = await asyncio.gather(*(client.user_rewards(f"{at_once}-at-once") for _ in range(at_once)))
        stuck = at_once - max(page.total or 0 for page in pages)
    await asyncio.sleep(0.1)  # the event loop closes sockets in its next turns
    left = _open_sockets() - sockets
    verdict = "clean" if stuck == tasks == left == 0 else "LEFTOVERS"
    return (
        f"{name:<15} {cancelled:>6,} cancelled, {finished:>6,} finished;"
        f" slots stuck: {stuck}, tasks left: {tasks}, sockets left: {left} ({verdict}, expected 0)"
    )


def report_cancels() -> None:
    """Run and print."""
    print(f"\nCancels at random moments, pages of {_SECONDS * 1e3:.0f} ms")
    with running(_PAGES, _SECONDS) as url:
        for run in _RUNS:
            print(asyncio.run(_run(url, *run)))
