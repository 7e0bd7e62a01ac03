"""
Run every test file many times, each time in another random order: what fails now and then.

    python tests/repeat.py --times 50                every file 50 times, for hours
    python tests/repeat.py --times 2 -k walk pager   some files, by parts of their names

What was run is kept in `--state`, so that the same command goes on where it was stopped; a round takes every
file once before the next one begins. The seed of a run is its round: `pytest --randomly-seed=7` repeats round 7.
Runs of a file count only for the code that they ran: the package, the tests' helpers and that file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "crowdtwist_async"
STATE = Path(".pytest_cache", "repeat.jsonl")
LONGEST = 1_800.0
"""Seconds that one run of one file may take."""
_NOTHING_RUN = 5
"""What pytest ends with when a file has no test that can be run here."""


class Ran(NamedTuple):
    """One run of one file."""

    file: str
    seed: int
    code: int
    seconds: float
    said: str
    """The names of what failed, and the last line."""
    ran: str
    """The digest of what was run."""

    @property
    def is_right(self) -> bool:
        return self.code in (0, _NOTHING_RUN)


def files(parts: list[str]) -> list[str]:
    """The test files whose names have one of these parts, or all."""
    names = sorted(path.name for path in TESTS.glob("test_*.py"))
    return [name for name in names if not parts or any(part in name for part in parts)]


@cache
def digest(file: str) -> str:
    """What tells whether a run of this file would run the same code."""
    helpers = [path for path in TESTS.rglob("*.py") if not path.match("test_*.py")]
    found = hashlib.sha256()
    for path in sorted([*PACKAGE.rglob("*.py"), *helpers, TESTS / file]):
        found.update(f"{path.relative_to(TESTS.parent)}\0".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def run(file: str, seed: int) -> Ran:
    """Run one file in the order of a seed."""
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", f"--randomly-seed={seed}"]
    begun = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, str(TESTS / file)],
            cwd=TESTS.parent,
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        code, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired:
        code, output = -1, f"it did not end in {LONGEST:.0f} seconds"
    failed = re.findall(r"^(?:FAILED|ERROR) \S+", output, re.MULTILINE)
    last = output.strip().splitlines()[-1:] or [""]
    seconds = round(time.monotonic() - begun, 1)
    return Ran(file, seed, code, seconds, "; ".join([*failed, *last]), digest(file))


def run_all(wanted: Iterable[tuple[str, int]], at_once: int) -> Iterator[Ran]:
    """Run some at once, in this order, and tell each as it ends."""
    pool = ThreadPoolExecutor(at_once)
    try:
        for ran in as_completed([pool.submit(run, file, seed) for file, seed in wanted]):
            yield ran.result()
    finally:
        pool.shutdown(cancel_futures=True)


def earlier(state: Path) -> list[Ran]:
    """What was run before, of the same code."""
    if not state.exists():
        return []
    runs = [Ran(**json.loads(line)) for line in state.read_text().splitlines()]
    return [ran for ran in runs if (TESTS / ran.file).exists() and ran.ran == digest(ran.file)]


def summary(runs: list[Ran]) -> str:
    """What failed, how often, and with which seeds."""
    wrong = [ran for ran in runs if not ran.is_right]
    rounds = len({ran.seed for ran in runs})
    seconds, names = sum(ran.seconds for ran in runs), {ran.file for ran in runs}
    lines = [
        f"{len(runs)} runs of {len(names)} files in {rounds} orders, {seconds:.0f} seconds: {len(wrong)} failed"
    ]
    lines += [f"  {ran.file} with seed {ran.seed} ({ran.seconds:.0f} s): {ran.said}" for ran in wrong]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Run every test file many times, in random orders.")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument(
        "-k", nargs="+", default=[], metavar="PART", help="files whose names have one of these"
    )
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="files at once")
    parser.add_argument("--state", type=Path, default=STATE, help="what was run; remove it to begin anew")
    flags = parser.parse_args(arguments)
    wanted = [(file, seed) for seed in range(1, flags.times + 1) for file in files(flags.k)]
    runs = {(ran.file, ran.seed): ran for ran in earlier(flags.state)}
    runs = {one: runs[one] for one in wanted if one in runs}
    flags.state.parent.mkdir(parents=True, exist_ok=True)
    with flags.state.open("a") as state:
        for ran in run_all([one for one in wanted if one not in runs], flags.at_once):
            runs[ran.file, ran.seed] = ran
            state.write(json.dumps(ran._asdict()) + "\n")
            state.flush()
            _tell(len(runs), len(wanted), ran)
    text = summary([*runs.values()])
    flags.state.with_suffix(".txt").write_text(text + "\n")
    print(text)
    return 0 if all(ran.is_right for ran in runs.values()) else 1


def _tell(number: int, count: int, ran: Ran) -> None:
    what = "passed" if ran.is_right else f"FAILED: {ran.said}"
    print(f"{number} of {count}: {ran.file}, seed {ran.seed}, {ran.seconds:.0f} s, {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
