"""
Budget use where the ceiling is enforced: an emulator that answers 429 above 10,000 requests a minute.

Members are asked for as fast as the client lets them, on the client's default budget.
"""

from __future__ import annotations

import asyncio
import time
from itertools import cycle, takewhile

from benchmarks.figures import Figures
from crowdtwist_async.emulator import Emulator

CEILING = 10_000
ANSWERED, SENT = "answered", "sent, those refused with 429 included"
_MEMBERS = 1_000


async def _shares(seconds: float) -> tuple[float, float]:
    """The requests that were answered and all that were sent, in per cent of the ceiling."""
    emulator = Emulator(members=_MEMBERS, per_minute=CEILING)
    async with emulator.client(budget=None) as client:
        ending = time.perf_counter() + seconds
        keys = takewhile(lambda _: time.perf_counter() < ending, cycle(emulator.member_ids()))
        async with client.fan_out(client.points_awaiting_fulfillment, keys) as outcomes:
            answered = sum([outcome.ok async for outcome in outcomes])
        allowed = CEILING / 60 * seconds
        return 100 * answered / allowed, 100 * client.stats.requests / allowed


def measure_enforced(seconds: float, rounds: int) -> Figures:
    """Run for so many seconds, again and again; the first of them are spent on the budget's small burst."""
    runs = [asyncio.run(_shares(seconds)) for _ in range(rounds)]
    taken = {ANSWERED: [answered for answered, _ in runs], SENT: [sent for _, sent in runs]}
    return Figures(f"use of an enforced ceiling, {seconds:.0f} s", "% of 10,000/min", taken, SENT, digits=1)
