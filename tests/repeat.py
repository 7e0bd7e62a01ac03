"""
Run all tests many times, each time in another random order: what fails now and then.

    python tests/repeat.py --times 50                all test files 50 times, for hours
    python tests/repeat.py --times 2 -k walk pager   some files, by parts of their names
    python tests/repeat.py --first 26 --times 50     what another machine has left of them

What was run is kept in `--state`, so that the same command goes on where it was stopped. The seed of a run is
its number: `pytest --randomly-seed=7` repeats run 7. A file's result counts for the code that it ran, the package,
the tests' helpers and the file itself, and is wanted anew when that changes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "crowdtwist_async"
STATE = Path(".pytest_cache", "repeat.jsonl")
LONGEST = 3_600.0
"""Seconds that one run may take."""
OPTIONS = ("-q", "--tb=short", "-n", "auto", "-p", "no:cacheprovider")


class Ran(NamedTuple):
    """What one file came to in one run."""

    file: str
    seed: int
    tests: int
    """How many there were: none where the file wants what is not here."""
    failed: list[str]
    """Their names."""
    code: str
    """The digest of what was run."""


def files(parts: list[str]) -> list[str]:
    """The test files whose names have one of these parts, or all."""
    names = sorted(path.name for path in TESTS.glob("test_*.py"))
    return [name for name in names if not parts or any(part in name for part in parts)]


@cache
def digest(file: str) -> str:
    """What tells whether a run of this file would run the same code."""
    tests = [path for path in TESTS.rglob("*.py") if not path.match("test_*.py") or path.name == file]
    found = hashlib.sha256()
    for path in sorted([*PACKAGE.rglob("*.py"), *tests]):
        found.update(f"{path.relative_to(TESTS.parent)}\0".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def run(chosen: list[str], seed: int) -> tuple[list[Ran], str]:
    """Run these files in the order of a seed; also what pytest said."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        where = [str(TESTS / file) for file in chosen]
        command = [sys.executable, "-m", "pytest", *OPTIONS, f"--randomly-seed={seed}"]
        try:
            done = subprocess.run(
                [*command, f"--junitxml={report}", *where],
                cwd=TESTS.parent,
                capture_output=True,
                text=True,
                timeout=LONGEST,
                check=False,
            )
            code, said = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            code, said = -1, f"it did not end in {LONGEST:.0f} seconds"
        found = results(report.read_text()) if report.exists() else {}
    if code and not any(failed for file, (_, failed) in found.items() if file in chosen):
        # It failed as a whole: no file has passed.
        found = {file: (0, [f"pytest ended with {code}"]) for file in chosen}
    return [Ran(file, seed, *found.get(file, (0, [])), digest(file)) for file in chosen], said


def results(report: str) -> dict[str, tuple[int, list[str]]]:
    """How many tests each file of a JUnit report has, and which failed."""
    found: dict[str, tuple[int, list[str]]] = defaultdict(lambda: (0, []))
    for case in ET.fromstring(report).iter("testcase"):
        # A file that can't be imported is a case without a class, and a crash one with its path.
        names = re.findall(r"\btest_\w+", f"{case.get('classname')} {case.get('name')}")
        file = f"{names[0]}.py" if names else ""
        count, failed = found[file]
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(str(case.get("name")))
        found[file] = count + 1, failed
    return dict(found)


def earlier(state: Path) -> list[Ran]:
    """What was run before, of the same code."""
    if not state.exists():
        return []
    runs = [Ran(**json.loads(line)) for line in state.read_text().splitlines()]
    return [ran for ran in runs if ran.code == digest(ran.file)]


def summary(runs: list[Ran]) -> str:
    """What failed, how often, and with which seeds."""
    wrong = [ran for ran in runs if ran.failed]
    orders, names = len({ran.seed for ran in runs}), {ran.file for ran in runs}
    count = sum(ran.tests for ran in runs)
    lines = [f"{len(names)} files in {orders} orders, {count:,} tests: {len(wrong)} failed"]
    return "\n".join(lines + [f"  {ran.file} with seed {ran.seed}: {', '.join(ran.failed)}" for ran in wrong])


def missing(chosen: list[str], seeds: range, runs: list[Ran]) -> Iterator[tuple[int, list[str]]]:
    """The files that have no result yet, by seed."""
    done = {(ran.file, ran.seed) for ran in runs}
    for seed in seeds:
        if left := [file for file in chosen if (file, seed) not in done]:
            yield seed, left


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Run all tests many times, in random orders.")
    parser.add_argument("--times", type=int, default=50, metavar="SEED", help="the last one")
    parser.add_argument("--first", type=int, default=1, metavar="SEED", help="where to begin")
    parser.add_argument(
        "-k", nargs="+", default=[], metavar="PART", help="files whose names have one of these"
    )
    parser.add_argument("--state", type=Path, default=STATE, help="what was run; remove it to begin anew")
    flags = parser.parse_args(arguments)
    chosen, before = files(flags.k), earlier(flags.state)
    seeds = range(flags.first, flags.times + 1)
    runs = [ran for ran in before if ran.file in chosen and ran.seed in seeds]
    flags.state.parent.mkdir(parents=True, exist_ok=True)
    for seed, left in missing(chosen, seeds, runs):
        begun = time.monotonic()
        ended, said = run(left, seed)
        runs += ended
        with flags.state.open("a") as state:
            state.writelines(json.dumps(ran._asdict()) + "\n" for ran in ended)
        if any(ran.failed for ran in ended):
            flags.state.with_suffix(f".{seed}.log").write_text(said)
        print(f"seed {seed}, {time.monotonic() - begun:.0f} s: {summary(ended)}", flush=True)
    text = summary(runs)
    flags.state.with_suffix(".txt").write_text(text + "\n")
    print(text)
    return 1 if any(ran.failed for ran in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
