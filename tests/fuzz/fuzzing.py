"""
Fuzzing: replies and arguments that nobody should send, by the million.

    python tests/fuzz/fuzzing.py                                          1,000,000 bodies and 100,000 arguments
    python tests/fuzz/fuzzing.py --bodies 10000 --ids 2000 --seed 7       fewer, and others
    python tests/fuzz/fuzzing.py --guided --bodies 1000000                bytes that atheris finds, guided by coverage
    python tests/fuzz/fuzzing.py --runs 2000 --steps 50                   walks and exports as state machines

The seeded generator makes 600,000 bodies a minute, twenty times as many as Hypothesis with its JSON strategies,
which has the properties in the tests. What goes wrong is kept in `crashes`, which `test_fuzz.py` replays.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import NamedTuple

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from bodies import make_reply
from cases import keep
from checks import CALLS, check_arguments, check_reply

LONGEST = 1.0
"""Seconds of this thread's work that one case may take."""
_MOST_WRONG = 20


class Tally(NamedTuple):
    """What came of some cases."""

    what: str
    outcomes: Counter[str]
    wrong: list[str]
    slowest: float
    slowest_number: int
    seconds: float

    def line(self) -> str:
        """The figures."""
        errors = ", ".join(f"{count:,} {name}" for name, count in self.outcomes.most_common())
        return (
            f"{self.outcomes.total():,} {self.what} in {self.seconds:.0f} seconds, {len(self.wrong)} wrong;"
            f" the slowest, number {self.slowest_number}, took {self.slowest * 1000:.1f} ms\n    {errors}"
        )


def fuzz_bodies(count: int, seed: int) -> Tally:
    """Read so many replies."""

    def one(number: int) -> str:
        dice = Random(f"body {seed} {number}")
        call = dice.randrange(len(CALLS))
        reply = make_reply(dice, CALLS[call].endpoint.name)
        started = time.thread_time()
        try:
            outcome = check_reply(call, reply)
            _check_time(started)
        except BaseException as error:
            keep(call, reply, error)
            raise
        return outcome

    return _tallied("bodies", count, one)


def fuzz_arguments(count: int, seed: int) -> Tally:
    """Make so many settings and calls."""

    def one(number: int) -> str:
        started = time.thread_time()
        outcome = check_arguments(Random(f"arguments {seed} {number}"))
        _check_time(started)
        return outcome

    return _tallied("ids, keys, dates, parameters and URLs", count, one)


def _check_time(started: float) -> None:
    took = time.thread_time() - started
    assert took < LONGEST, f"it took {took:.1f} seconds"


def _tallied(what: str, count: int, one: object) -> Tally:
    assert callable(one)
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    slowest, slowest_number, begun = 0.0, 0, time.perf_counter()
    for number in range(count):
        started = time.thread_time()
        try:
            outcomes[one(number)] += 1
        except Exception as error:  # noqa: BLE001 - any is what is looked for
            wrong.append(f"{what}, number {number}: {''.join(traceback.format_exception(error)[-3:])}")
            outcomes[f"WRONG {type(error).__name__}"] += 1
            if len(wrong) == _MOST_WRONG:
                break
        took = time.thread_time() - started
        if took > slowest:
            slowest, slowest_number = took, number
    return Tally(what, outcomes, wrong, slowest, slowest_number, time.perf_counter() - begun)


def run_machines(runs: int, steps: int, seed: int) -> int:
    """Run the state machines of walks and exports with the profile `nightly`; a violation raises."""
    from exporting import ExportMachine
    from hypothesis import HealthCheck, settings
    from hypothesis import seed as seeded
    from hypothesis.stateful import run_state_machine_as_test
    from walking import WalkMachine

    settings.register_profile(
        "nightly",
        max_examples=runs,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    for machine in (WalkMachine, ExportMachine):
        begun = time.perf_counter()
        run_state_machine_as_test(seeded(seed)(machine), settings=settings.get_profile("nightly"))
        seconds = time.perf_counter() - begun
        print(
            f"{machine.__name__}: {runs:,} runs of at most {steps} steps in {seconds:.0f} seconds, none wrong"
        )
    return 0


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Replies and arguments by the million.")
    parser.add_argument("--bodies", type=int, default=1_000_000)
    parser.add_argument("--ids", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true", help="bodies by coverage (atheris) instead")
    parser.add_argument("--runs", type=int, help="of each state machine, instead of bodies and arguments")
    parser.add_argument("--steps", type=int, default=50, help="of a run, at most")
    flags = parser.parse_args()
    if flags.runs:
        return run_machines(flags.runs, flags.steps, flags.seed)
    if flags.guided:
        # A process of its own: it follows only what it has loaded itself, and ends where it likes.
        guided = [
            sys.executable,
            str(Path(__file__).with_name("guided.py")),
            str(flags.bodies),
            str(flags.seed),
        ]
        return subprocess.run(guided, check=False).returncode
    tallies = [fuzz_bodies(flags.bodies, flags.seed), fuzz_arguments(flags.ids, flags.seed)]
    for tally in tallies:
        print(tally.line())
        print("\n".join(tally.wrong), end="")
    return 1 if any(tally.wrong for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
