"""
`python -m benchmarks.resilience`: what outages, faults and cancels cost, and what prefetch and fan-out hold.

Each figure is printed with its bound and a verdict; nothing fails. About 75 seconds, on Linux.
"""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import repeat
from pathlib import Path

from benchmarks.cancels import report_cancels
from benchmarks.server import running
from crowdtwist_async import (
    ConnectionFailedError,
    CrowdTwistClient,
    CrowdTwistError,
    RateBudget,
    Reply,
    Request,
    RetryPolicy,
)

_POINTS = b'{"user_id": 7, "total_points_awaiting_fulfillment": 40, "bonus_points_awaiting_fulfillment": 10}'
_HASTY = RetryPolicy(initial=0.001, max_delay=0.01)
_SEEDS = (1, 2, 3)
_PAGES = 14
_PAGE_SECONDS = 0.05
_ROUND_TRIPS = 3
"""Of 14 pages with 8 on their way: page 1, pages 2 to 9, pages 10 to 14."""
_FEW_KEYS, _MANY_KEYS = 20_000, 200_000
Answer = Callable[[], Reply | CrowdTwistError]


class _InProcess:
    """A transport that asks a function, after one turn of the event loop."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def send(self, _: Request, /) -> Reply | CrowdTwistError:
        await asyncio.sleep(0)
        return self._answer()

    async def aclose(self) -> None:
        """Nothing is open."""


def _client(answer: Answer) -> CrowdTwistClient:
    budget = RateBudget(per_minute=math.inf)
    return CrowdTwistClient(api_key="bench", transport=_InProcess(answer), budget=budget, retry=_HASTY)


def _good() -> Reply:
    return Reply(200, {}, _POINTS)


def _refused() -> CrowdTwistError:
    return ConnectionFailedError("refused")


def _status(code: int, **headers: str) -> Answer:
    return lambda: Reply(code, {name.replace("_", "-"): value for name, value in headers.items()}, b"")


def _faulty(seed: int, share: float) -> Answer:
    """Fail so often with what a retry mends."""
    chance = random.Random(seed)
    faults = (_refused, _status(500), _status(502), _status(503), _status(429, retry_after="0"))

    def answer() -> Reply | CrowdTwistError:
        return chance.choice(faults)() if chance.random() < share else _good()

    return answer


def _bounded(figure: float, bound: float, *, least: bool = False) -> str:
    """The bound and the verdict."""
    good = figure >= bound if least else figure <= bound
    return f"(bound {bound:g}: {'within' if good else 'OUTSIDE'})"


async def _calls(answer: Answer, calls: int) -> tuple[float, float]:
    """Make so many calls, 64 at once; return the share of success, and the requests a call."""
    good = 0
    numbers = iter(range(calls))
    async with _client(answer) as client:

        async def worker() -> None:
            nonlocal good
            for _ in numbers:
                with suppress(CrowdTwistError):
                    await client.points_awaiting_fulfillment("7")
                    good += 1

        await asyncio.gather(*(worker() for _ in range(64)))
        return good / calls, client.stats.requests / calls


def _report_outages() -> None:
    print("A full outage, 1,000 calls")
    outages = {"503": _status(503), "connection failures": _refused, "429": _status(429, retry_after="0")}
    for name, answer in outages.items():
        _, requests = asyncio.run(_calls(answer, 1_000))
        print(f"{name:<20} {requests:.3f} requests a call {_bounded(requests, 1.1)}")


def _report_faults() -> None:
    print("\nA request in ten failing at random, 20,000 calls")
    for seed in _SEEDS:
        share, requests = asyncio.run(_calls(_faulty(seed, 0.1), 20_000))
        print(
            f"seed {seed:<15} {share:.3%} succeed {_bounded(share, 0.999, least=True)},"
            f" {requests:.3f} requests a call {_bounded(requests, 1.12)}"
        )


async def _walk_seconds(url: str, ahead: int, rounds: int) -> float:
    """The median time of a walk, on connections that are there."""
    budget = RateBudget(per_minute=math.inf)
    seconds = []
    async with CrowdTwistClient(api_key="bench", api_url=url, pos_url=url, budget=budget) as client:
        for _ in range(rounds + 1):
            started = time.perf_counter()
            rewards = await client.iter_user_rewards("7").collect(prefetch=ahead)
            seconds.append(time.perf_counter() - started)
            assert len(rewards) == 10 * _PAGES
    return statistics.median(seconds[1:])


def _report_prefetch() -> None:
    print(f"\nA walk of {_PAGES} pages of {_PAGE_SECONDS * 1e3:.0f} ms")
    with running(_PAGES, _PAGE_SECONDS) as url:
        for ahead in (1, 4, 8):
            seconds = asyncio.run(_walk_seconds(url, ahead, rounds=5))
            trips = seconds / _PAGE_SECONDS
            bound = _bounded(trips, 1.3 * _ROUND_TRIPS) if ahead == 8 else ""
            print(f"prefetch={ahead:<11} {seconds * 1e3:.0f} ms, {trips:.2f} round trips {bound}".rstrip())


async def _fan_out(keys: int) -> None:
    async with (
        _client(_good) as client,
        client.fan_out(client.points_awaiting_fulfillment, repeat("7", keys)) as outcomes,
    ):
        async for outcome in outcomes:
            outcome.unwrap()


def _peak_kib() -> int:
    # `getrusage` would begin with the peak of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def _peak_mib(keys: int) -> float:
    """The most memory of a process that fans out over so many keys."""
    command = [sys.executable, "-m", "benchmarks.resilience", "--fan-out", str(keys)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024


def _report_memory() -> None:
    print("\nPeak memory of a fan-out")
    few, many = _peak_mib(_FEW_KEYS), _peak_mib(_MANY_KEYS)
    print(f"{_FEW_KEYS:,} keys          {few:.1f} MiB")
    print(f"{_MANY_KEYS:,} keys         {many:.1f} MiB, {many - few:+.1f} {_bounded(many - few, 10)}")


def main() -> None:
    """Run and print."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--fan-out"]:
        asyncio.run(_fan_out(int(arguments[1])))
        print(_peak_kib())
        return
    _report_outages()
    _report_faults()
    report_cancels()
    _report_prefetch()
    _report_memory()


if __name__ == "__main__":
    main()
