"""
`python -m benchmarks.plan [--members 600] [--per-minute 600] [--only NAME ...]`: a plan against the clock.

Each endpoint of the emulator, over a socket, that answers more than the ceiling with a 429; the client's
budget is the ceiling. A burst of ten comes before the first interval, hence the emulator allows as many
more. The requests of rewards and purchases are counted beforehand, from what the members have. Then points
in seven shards at once, each with a seventh of the ceiling: the plan is that of the largest. Ends with 1 if
a plan is off by more than 10 %.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, cast

from crowdtwist_async import CrowdTwistClient, RateBudget
from crowdtwist_async.emulator import Emulator
from crowdtwist_async.emulator.server import EmulatorServer
from crowdtwist_async.export import EndpointName, ExportReport, IdSource, Plan, Shard, export

_PAGE = 10
_BURST = 10
_SHARDS = 7
_RUNS = ["points", "purchases", "rewards", "shards"]
_MOST_OFF = 0.1
_KEY = "emulator-key"


class _Compared(NamedTuple):
    """A plan and the run that it was made for."""

    name: str
    plan: Plan
    report: ExportReport

    @property
    def off(self) -> float:
        """By how much of the measured seconds the plan is wrong."""
        return self.plan.seconds / self.report.seconds - 1

    def __str__(self) -> str:
        return (
            f"{self.name:<16} {self.plan.members:>6,} members {self.plan.requests:>6,} requests,"
            f" {self.report.requests:>6,} made, {self.report.retries} retries: planned"
            f" {self.plan.seconds:.1f} s, measured {self.report.seconds:.1f} s, {self.off:+.1%}"
        )


def _pages(emulator: Emulator, name: str) -> float:
    """Pages that a member has in the mean, one at least."""
    count: dict[str, Callable[[str], int]] = {
        "points": lambda _: 1,
        "purchases": emulator.purchases_of,
        "rewards": emulator.rewards_of,
    }
    pages = [max(1, math.ceil(count[name](user_id) / _PAGE)) for user_id in emulator.member_ids()]
    return sum(pages) / len(pages)


async def _compare(name: EndpointName, members: int, per_minute: int, folder: Path) -> _Compared:
    emulator = Emulator(members=members, per_minute=per_minute + _BURST)
    plan = Plan(members, per_minute, _pages(emulator, name))
    budget = RateBudget(per_minute, burst=_BURST)
    async with (
        EmulatorServer(emulator) as server,
        CrowdTwistClient(api_key=_KEY, api_url=server.url, pos_url=server.url, budget=budget) as client,
    ):
        report = await export(client, name, emulator.member_ids(), folder / f"{name}.jsonl")
    return _Compared(name, plan, report)


async def _compare_shards(members: int, per_minute: int, folder: Path) -> _Compared:
    """The shard that took longest, and the plan of the one that has most members."""
    emulator = Emulator(members=members, per_minute=per_minute + _SHARDS)
    ids = IdSource(emulator.member_ids)
    shards = [Shard(index, _SHARDS) for index in range(_SHARDS)]

    async def run(shard: Shard) -> ExportReport:
        budget = RateBudget(per_minute / _SHARDS, burst=1)  # ten would be a tenth of so few members
        async with CrowdTwistClient(
            api_key=_KEY, api_url=server.url, pos_url=server.url, budget=budget
        ) as client:
            return await export(client, "points", ids, folder / "shards.parquet", shard=shard)

    async with EmulatorServer(emulator) as server:
        reports = await asyncio.gather(*map(run, shards))
    largest = max(ids.of(shard).count().ids for shard in shards)
    slowest = max(reports, key=lambda report: report.seconds)
    return _Compared(f"points, {_SHARDS} shards", Plan(largest, per_minute / _SHARDS), slowest)


async def _compare_all(names: list[str], members: int, per_minute: int) -> list[_Compared]:
    """All at once: each has a program of its own."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            _compare_shards(members, per_minute, Path(folder))
            if name == "shards"
            else _compare(cast("EndpointName", name), members, per_minute, Path(folder))
            for name in names
        ]
        return await asyncio.gather(*runs)


def main() -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan", description=__doc__)
    parser.add_argument("--members", type=int, default=600)
    parser.add_argument("--per-minute", type=int, default=600)
    parser.add_argument("--only", nargs="+", choices=_RUNS, default=_RUNS)
    arguments = parser.parse_args()
    compared = asyncio.run(_compare_all(arguments.only, arguments.members, arguments.per_minute))
    print(f"{datetime.now(UTC):%Y-%m-%d}, a ceiling of {arguments.per_minute:,} requests a minute:")
    for each in compared:
        print(each)
    return int(any(abs(each.off) > _MOST_OFF for each in compared))


if __name__ == "__main__":
    sys.exit(main())
