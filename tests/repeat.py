"""
Run every test file many times, each time in another random order: what fails now and then.

    python tests/repeat.py --times 50                every file 50 times, for hours
    python tests/repeat.py --times 2 -k walk pager   some files, by parts of their names

What was run is kept in `--state`, so that the same command goes on where it was stopped; a round takes every
file once before the next one begins. The seed of a run is its round: `pytest
--randomly-seed=7` repeats round 7.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).parent
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

    @property
    def is_right(self) -> bool:
        return self.code in (0, _NOTHING_RUN)


def files(parts: list[str]) -> list[str]:
    """The test files whose names have one of these parts, or all."""
    names = sorted(path.name for path in TESTS.glob("test_*.py"))
    return [name for name in names if not parts or any(part in name for part in parts)]


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
    return Ran(file, seed, code, round(time.monotonic() - begun, 1), "; ".join([*failed, *last]))


def earlier(state: Path) -> list[Ran]:
    """What was run before."""
    if not state.exists():
        return []
    return [Ran(**json.loads(line)) for line in state.read_text().splitlines()]


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
    parser.add_argument("--state", type=Path, default=STATE, help="what was run; remove it to begin anew")
    flags = parser.parse_args(arguments)
    runs = earlier(flags.state)
    done = {(ran.file, ran.seed) for ran in runs}
    chosen = files(flags.k)
    wanted = [(file, seed) for seed in range(1, flags.times + 1) for file in chosen]
    flags.state.parent.mkdir(parents=True, exist_ok=True)
    for number, (file, seed) in enumerate(wanted, 1):
        if (file, seed) in done:
            continue
        ran = run(file, seed)
        runs.append(ran)
        with flags.state.open("a") as state:
            state.write(json.dumps(ran._asdict()) + "\n")
        _tell(number, len(wanted), ran)
    ours: list[Any] = [ran for ran in runs if (ran.file, ran.seed) in set(wanted)]
    text = summary(ours)
    flags.state.with_suffix(".txt").write_text(text + "\n")
    print(text)
    return 0 if all(ran.is_right for ran in ours) else 1


def _tell(number: int, count: int, ran: Ran) -> None:
    what = "passed" if ran.is_right else f"FAILED: {ran.said}"
    print(f"{number} of {count}: {ran.file}, seed {ran.seed}, {ran.seconds:.0f} s, {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
