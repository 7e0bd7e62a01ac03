"""
`python -m benchmarks.export [--quick]`: rows a second, CPU a row and peak memory of exports, by format.

Points of the emulator's members, in process and without pacing: one request and one row a member. Each
export is a process of its own. Nothing fails.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from benchmarks.figures import Figures
from crowdtwist_async.emulator import Emulator
from crowdtwist_async.export import export, read_ids

_SUFFIXES = (".jsonl", ".csv", ".sqlite", ".parquet")
_FEW_IDS = 1_000


class _Run(NamedTuple):
    """One export, as its process measured it."""

    rows: int
    seconds: float
    cpu: float
    peak_mib: float

    def __str__(self) -> str:
        rate = self.rows / self.seconds if self.rows else 0.0
        each = self.cpu / self.rows * 1e6 if self.rows else 0.0
        return (
            f"{self.rows:>9,} rows {self.seconds:>7.1f} s {rate:>7,.0f} rows/s"
            f" {each:>5.0f} us CPU a row {self.peak_mib:>6.1f} MiB"
        )


async def _export(members: int, ids: Path, output: Path) -> int:
    async with Emulator(members=members).client() as client:
        return (await export(client, "points", read_ids(ids), output)).rows


def _child(members: int, ids: Path, output: Path) -> None:
    started, cpu = time.perf_counter(), time.process_time()
    rows = asyncio.run(_export(members, ids, output))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    print(rows, seconds, cpu, peak / 1024)


def _run(members: int, lines: int, suffix: str) -> _Run:
    """Export so many members from a file of so many lines."""
    with tempfile.TemporaryDirectory() as folder:
        ids = Path(folder, "ids.txt")
        with ids.open("w") as file:
            file.writelines(f"{user_id}\n" for user_id in islice(cycle(_ids(members)), lines))
        command = [sys.executable, "-m", "benchmarks.export", "--child"]
        arguments = [str(members), str(ids), str(Path(folder, f"out{suffix}"))]
        printed = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True).stdout
    rows, seconds, cpu, peak = map(float, printed.split())
    return _Run(int(rows), seconds, cpu, peak)


def _ids(members: int) -> list[str]:
    return list(Emulator(members=members).member_ids())


def measure_export(members: int, rounds: int) -> list[Figures]:
    """Let the formats take turns."""
    rate: dict[str, list[float]] = {suffix: [] for suffix in _SUFFIXES}
    cpu: dict[str, list[float]] = {suffix: [] for suffix in _SUFFIXES}
    for _ in range(rounds):
        for suffix in _SUFFIXES:
            run = _run(members, members, suffix)
            rate[suffix].append(run.rows / run.seconds)
            cpu[suffix].append(run.cpu / run.rows * 1e6)
    about = f"export of {members:,} points, no pacing"
    return [
        Figures(f"{about}: rows", "a second", rate, _SUFFIXES[0]),
        Figures(f"{about}: CPU a row", "us", cpu, _SUFFIXES[0]),
    ]


def main() -> None:
    """Run and print."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--child"]:
        _child(int(arguments[1]), Path(arguments[2]), Path(arguments[3]))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a hundredth of it")
    scale = 100 if parser.parse_args().quick else 1
    for suffix in _SUFFIXES:
        print(f"{suffix:<9}", _run(100_000 // scale, 100_000 // scale, suffix), flush=True)
    print(f"{'.jsonl':<9}", _run(1_000_000 // scale, 1_000_000 // scale, ".jsonl"), flush=True)
    again = _run(_FEW_IDS, 10_000_000 // scale, ".jsonl")
    print(
        f"{10_000_000 // scale:,} ids, {_FEW_IDS:,} of them different:"
        f" {again.seconds:.1f} s, {again.peak_mib:.1f} MiB"
    )


if __name__ == "__main__":
    main()
