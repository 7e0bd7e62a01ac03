"""
`python tests/kills.py [--kills 200] [--format jsonl] [--seed 0]`: kill exports anywhere, and resume them.

Every round exports the same members, kills the command one to three times, and lets it finish. Kills are
failpoints (`kills_child`), or come at a random instant; some rounds end runs with SIGTERM instead. After
each, what the ledger says must be readable and must be all that there is of a member; in the end, rows,
ledger and files must be those of an export that nothing stopped.

The rounds: `plain`; `failing`, where the API refuses some members for good; `repaired`, where these come
with `--retry-failed` in the end; `retry`, where `--retry-failed` itself is killed; `fresh`, where
`--fresh` is killed over an earlier export.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from kills_child import SPLIT, Failpoint, Order
from kills_output import NOTHING, Output, State

import crowdtwist_async
from crowdtwist_async.emulator import Emulator

FORMATS = ("jsonl", "csv", "parquet", "sqlite")
MEMBERS = 300
CONCURRENCY = 16
UNKNOWN = 10
"""Ids that nobody has; as many are listed twice."""
FAILING = 3
"""Every third member fails, where some do."""
COMPLETE, FAILED, COMPLETE_WITH_FAILURES, STOPPED, INTERRUPTED = 0, 1, 3, 75, 130
LONGEST = 120.0
"""Seconds that a run may take."""
AT_RANDOM = 0.2
"""The share of kills that no failpoint makes."""
TERMINATED = 0.1
"""The share of interruptions that are SIGTERM."""
OFTEN = 2
"""Calls of a kind that make it likelier to be chosen."""
ENOUGH = 10
"""Problems after which a series ends."""
MOST_ROUNDS = 5
"""Rounds for a kill."""
CHILD = Path(__file__).with_name("kills_child.py")
EXPECTED_KINDS = {
    "jsonl": {"create", "write", "fsync", "ftruncate", "BEGIN", "INSERT", "COMMIT"},
    "csv": {"create", "write", "fsync", "ftruncate", "BEGIN", "INSERT", "COMMIT"},
    "parquet": {"write_table", "close", "file write", "fsync", "rename", "BEGIN", "INSERT", "COMMIT"},
    "sqlite": {"BEGIN", "INSERT rows", "INSERT", "COMMIT"},
}
"""Without them the failpoints have lost the package."""


class Scenario(NamedTuple):
    """One kind of round."""

    flags: tuple[str, ...] = ()
    """Of the runs that are killed."""
    failing: bool = False
    """Whether the API refuses some members in these runs."""
    begins: str | None = None
    """The scenario in whose output it begins."""
    last_flags: tuple[str, ...] = ()
    """Of the run that is not killed."""
    ends: str = "plain"
    """The scenario with the same output."""


SCENARIOS = {
    "plain": Scenario(),
    "failing": Scenario(failing=True, ends="failing"),
    "repaired": Scenario(failing=True, last_flags=("--retry-failed",)),
    "retry": Scenario(("--retry-failed",), begins="failing", last_flags=("--retry-failed",)),
    "fresh": Scenario(("--fresh",), begins="plain"),
}
ROUNDS = ("plain", "retry", "plain", "repaired", "plain", "failing", "plain", "retry", "plain", "fresh")


class Instant(NamedTuple):
    """A signal that comes from outside."""

    signal: int
    seconds: float
    """After the command has begun."""


class Ended(NamedTuple):
    """How a run ended."""

    code: int
    fired: str | None
    """What the failpoint did."""
    said: str
    """Standard error."""
    seconds: float


class Whole(NamedTuple):
    """What comes of an export that nothing stops."""

    state: State
    calls: dict[str, tuple[int, float]]
    """How many of each kind, and their mean seconds."""
    seconds: float


class Tally:
    """What a series of kills came to."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.kills = self.at_random = self.with_rows = 0
        """All, those without a failpoint, and those of runs that had committed rows."""
        self.failpoints: Counter[tuple[str, str]] = Counter()
        self.terminated: Counter[int] = Counter()
        """Exit codes after SIGTERM."""
        self.not_reached = self.rounds = 0
        self.lost = self.doubled = self.unreadable = 0
        self.problems: list[str] = []
        self.seconds = 0.0

    @property
    def is_right(self) -> bool:
        """Whether nothing went wrong, and the kills came where they had to."""
        return not (self.problems or self.lost or self.doubled or self.unreadable) and self.with_rows > 0

    def lines(self) -> Iterator[str]:
        """The summary."""
        yield (
            f"{self.kind}: {self.kills} kills in {self.rounds} rounds and {self.seconds:.0f} seconds,"
            f" {self.with_rows} of runs that had committed rows; {self.at_random} at random instants"
        )
        kinds = sorted({kind for kind, _ in self.failpoints})
        for kind in kinds:
            ways = {way: count for (name, way), count in self.failpoints.items() if name == kind}
            yield f"  {kind}: {', '.join(f'{ways[way]} {way}' for way in sorted(ways))}"
        codes = ", ".join(f"{count} ended with {code}" for code, count in sorted(self.terminated.items()))
        yield f"  SIGTERM: {codes or 'none'}; {self.not_reached} kills not reached: the run was complete"
        yield f"  lost {self.lost}, doubled {self.doubled}, unreadable {self.unreadable}"
        yield from (f"  WRONG: {problem}" for problem in self.problems)


class Series:
    """
    Kills of one format.

    Args:
        kind: The format.
        folder: An empty one, for everything.
        seed: The same seed makes the same kills, as far as their instants are not random.
        members: How many are exported.
    """

    def __init__(self, kind: str, folder: Path, seed: int = 0, members: int = MEMBERS) -> None:
        self.tally = Tally(kind)
        self._kind = kind
        self._seed = seed
        self._members = members
        self._folder = folder
        self._output = Output(folder / "output", kind)
        self._ids, self._failing = folder / "ids.txt", _write_ids(folder / "ids.txt", members)
        self._wholes: dict[str, Whole] = {}

    def run(self, kills: int) -> Tally:
        """Kill so many times."""
        begun, tally = time.perf_counter(), self.tally
        with closing(Command(self._kind, self._folder)) as self._command:
            self._check_plain()
            while tally.kills < kills and len(tally.problems) < ENOUGH:
                if tally.rounds == MOST_ROUNDS * kills:
                    raise RuntimeError(f"{tally.kills} kills in {tally.rounds} rounds: most are not reached")
                name = ROUNDS[tally.rounds % len(ROUNDS)]
                dice = random.Random(f"{self._seed} {self._kind} {tally.rounds}")
                most = min(dice.choice((1, 2, 3, 3)), kills - tally.kills)
                tally.rounds += 1
                done: list[str] = []
                try:
                    self._round(name, dice, most, done)
                except WrongError as error:
                    tally.problems.append(f"{error}, in round {tally.rounds} ({name}: {'; '.join(done)})")
        tally.seconds = time.perf_counter() - begun
        return tally

    # What nothing stops

    def _whole(self, name: str) -> Whole:
        """A round without kills, to compare with, and to see which calls there are."""
        if name not in self._wholes:
            scenario = SCENARIOS[name]
            self._begin(scenario)
            ended = self._run(scenario, None, scenario.flags)
            if ended.code != _complete(scenario):
                raise RuntimeError(f"an export that nothing stops ends with {ended.code}: {ended.said}")
            calls = json.loads(self._command.calls.read_text())
            self._wholes[name] = Whole(self._output.state(), calls, ended.seconds)
            shutil.copytree(self._output.folder, self._folder / name)
        return self._wholes[name]

    def _check_plain(self) -> None:
        """Check what all is compared with."""
        whole = self._whole("plain")
        missing = EXPECTED_KINDS[self._kind] - {*whole.calls}
        if missing:
            raise RuntimeError(f"the package makes no call of these kinds any more: {', '.join(missing)}")
        emulator = Emulator(members=self._members)
        rows = {user_id: emulator.purchases_of(user_id) for user_id in emulator.member_ids()}
        if Counter(row[0] for row in whole.state.rows.elements()) != Counter(rows):
            raise RuntimeError("an export that nothing stops has not the rows of the emulator")

    def _begin(self, scenario: Scenario) -> None:
        if scenario.begins is not None:
            self._whole(scenario.begins)
        shutil.rmtree(self._output.folder, ignore_errors=True)
        if scenario.begins is None:
            self._output.folder.mkdir()
        else:
            shutil.copytree(self._folder / scenario.begins, self._output.folder)

    # A round

    def _round(self, name: str, dice: random.Random, most: int, done: list[str]) -> None:
        scenario, whole = SCENARIOS[name], self._whole(name)
        end = self._whole(scenario.ends).state
        self._begin(scenario)
        state = self._checked(scenario, NOTHING)
        for _ in range(most):
            stop = self._stop(whole, dice, left=1 - state.share(end))
            done.append(_told(stop))
            ended = self._run(scenario, stop, scenario.flags)
            killed = self._count(scenario, stop, ended)
            before, state = state, self._checked(scenario, state)
            if ended.code == STOPPED and (orphans := self._output.orphans(bool(state.failures))):
                raise WrongError(f"it stopped, and left {', '.join(sorted(orphans))}")
            self.tally.with_rows += killed and state.rows.total() > before.rows.total()
            if not killed and ended.code != STOPPED:
                break
        self._finish(scenario, state)

    def _stop(self, whole: Whole, dice: random.Random, *, left: float) -> Failpoint | Instant:
        """What ends the next run."""
        ending = signal.SIGTERM if dice.random() < TERMINATED and self.tally.kills else signal.SIGKILL
        if not self.tally.kills:
            # The first comes late, so that the shortest series has a kill after commits with rows.
            return Failpoint("COMMIT", whole.calls["COMMIT"][0] * 3 // 4, "before")
        if dice.random() < AT_RANDOM:
            return Instant(ending, dice.uniform(0.0, whole.seconds))
        kinds = sorted(whole.calls)
        # Calls that every commit makes deserve more kills than those that are made once.
        [kind] = dice.choices(kinds, [min(whole.calls[kind][0], OFTEN) for kind in kinds])
        count, mean = whole.calls[kind]
        # A run that resumes makes fewer calls.
        number = dice.randint(1, max(1, min(count, round(count * left))))
        ways = ["before", "after"]
        if ending == signal.SIGKILL:
            ways += ["during", "during", *(["half"] if kind in SPLIT else [])]
        return Failpoint(kind, number, dice.choice(ways), ending, dice.uniform(0.0, 0.7 * mean))

    def _count(self, scenario: Scenario, stop: Failpoint | Instant, ended: Ended) -> bool:
        """Count how a run ended; return whether it was killed."""
        tally, fired = self.tally, ended.fired
        if ended.code == -signal.SIGKILL and stop.signal == signal.SIGKILL:
            if isinstance(stop, Failpoint) and fired is None:
                raise WrongError("the run was killed by something else")
            tally.kills += 1
            if isinstance(stop, Failpoint):
                tally.failpoints[stop.kind, str(fired)] += 1
            else:
                tally.at_random += 1
            return True
        if stop.signal == signal.SIGTERM and ended.code in (STOPPED, INTERRUPTED, -signal.SIGTERM):
            tally.terminated[ended.code] += 1
            return False
        if ended.code != _complete(scenario) or (fired is not None and stop.signal == signal.SIGKILL):
            raise WrongError(f"the run ended with {ended.code}: {ended.said.strip()}")
        tally.not_reached += 1
        return False

    def _checked(self, scenario: Scenario, before: State) -> State:
        """What is committed; it must be readable, whole, and hold what was committed before."""
        if "--fresh" in scenario.flags:
            return NOTHING
        try:
            state = self._output.state()
        except Exception as error:
            self.tally.unreadable += 1
            raise WrongError(f"what is committed can't be read: {error!r}") from error
        missing = before.rows - state.rows
        foreign = state.rows - self._whole(scenario.ends).state.rows
        self.tally.lost += missing.total()
        self.tally.doubled += foreign.total()
        if missing or foreign:
            raise WrongError(f"{missing.total()} committed rows are gone, {foreign.total()} are too many")
        if problem := state.broken():
            raise WrongError(problem)
        return state

    def _finish(self, scenario: Scenario, before: State) -> None:
        """Let it finish, and compare everything."""
        last = scenario._replace(failing=scenario.failing and not scenario.last_flags)
        ended = self._run(last, None, scenario.last_flags)
        if "--fresh" in scenario.flags and ended.code == FAILED and "--fresh" in ended.said:
            # Half of the old output was removed: it says so, and the same command begins anew.
            ended = self._run(last, None, scenario.flags)
        if ended.code != _complete(last):
            self.tally.unreadable += 1
            raise WrongError(f"it does not go on, and ends with {ended.code}: {ended.said.strip()}")
        self._compare(scenario, before)

    def _compare(self, scenario: Scenario, before: State) -> None:
        state, expected = self._output.state(), self._whole(scenario.ends).state
        lost, doubled = expected.rows - state.rows, state.rows - expected.rows
        self.tally.lost += lost.total()
        self.tally.doubled += doubled.total()
        summary = json.loads(self._output.summary.read_text())
        new = [mark for member, mark in state.members.items() if before.members.get(member) != mark]
        orphans = self._output.orphans(bool(expected.failures))
        wrong = {
            f"{lost.total()} rows lost, {doubled.total()} doubled": bool(lost or doubled),
            "the ledger has other members": state.members != expected.members,
            "other members failed": state.failed != expected.failed,
            "the errors file is not what the ledger says": self._output.errors() != state.failures,
            f"files that do not belong there or are not there: {', '.join(sorted(orphans))}": bool(orphans),
            f"the summary counts {summary['rows']} rows": summary["rows"] != expected.rows.total(),
            "members were fetched that were done": "--fresh" not in scenario.flags
            and summary["requests"] != sum(mark[2] for mark in new),
        }
        if any(wrong.values()):
            raise WrongError(", ".join(problem for problem, is_so in wrong.items() if is_so))

    def _run(self, scenario: Scenario, stop: Failpoint | Instant | None, flags: Sequence[str]) -> Ended:
        """Run the command to its end, whatever that is."""
        arguments = [
            "export",
            "purchases",
            "--emulator",
            "--members",
            str(self._members),
            "--ids",
            str(self._ids),
        ]
        arguments += ["-o", str(self._output.path), "--summary", str(self._output.summary)]
        arguments += ["--concurrency", str(CONCURRENCY), "--quiet", *flags]
        return self._command.run(arguments, self._failing if scenario.failing else [], stop)


class Command:
    """Runs the command, in a process that others start: they need not import everything each time."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._note, self.calls, self._said = (folder / name for name in ("note", "calls", "said"))
        root = str(Path(crowdtwist_async.__file__).parents[1])
        self._parent = subprocess.Popen(
            [sys.executable, str(CHILD), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ | {"PYTHONPATH": root},
        )

    def close(self) -> None:
        """End the process that starts the others."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.close()
        self._parent.wait(LONGEST)
        self._parent.stdout.close()

    def run(self, arguments: list[str], failing: list[str], stop: Failpoint | Instant | None) -> Ended:
        """
        Run it until it ends.

        Raises:
            WrongError: It does not end.
        """
        assert self._parent.stdin is not None
        self._note.write_text("")
        failpoint = stop if isinstance(stop, Failpoint) else None
        order = Order(arguments, failing, failpoint, *map(str, (self._note, self.calls, self._said)))
        self._parent.stdin.write(json.dumps(order).encode() + b"\n")
        process = self._number(LONGEST)
        assert process is not None, "no process begins"
        begun = time.perf_counter()
        code = self._number(stop.seconds) if isinstance(stop, Instant) else None
        if code is None and isinstance(stop, Instant):
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(process, stop.signal)
        if code is None and (code := self._number(LONGEST)) is None:
            os.kill(process, signal.SIGKILL)
            self._number(LONGEST)
            raise WrongError(f"the run did not end in {LONGEST:.0f} seconds")
        fired = self._note.read_text().split()
        seconds = time.perf_counter() - begun
        return Ended(code, fired[-1] if fired else None, self._said.read_text(), seconds)

    def _number(self, seconds: float) -> int | None:
        """The next number, if it comes within some seconds."""
        assert self._parent.stdout is not None
        if not select.select([self._parent.stdout], [], [], seconds)[0]:
            return None
        line = self._parent.stdout.readline()
        if not line:
            raise RuntimeError("the process that starts the others has ended")
        return int(line)


class WrongError(Exception):
    """What went wrong in a round."""


def _write_ids(path: Path, members: int) -> list[str]:
    """Write the ids to export; return those that fail where some do."""
    known = list(Emulator(members=members).member_ids())
    unknown = [str(int(known[-1]) + 1 + number) for number in range(UNKNOWN)]
    every = [*known, *unknown, *known[:UNKNOWN]]
    random.Random(members).shuffle(every)
    path.write_text("".join(f"{user_id}\n" for user_id in every))
    return known[::FAILING]


def _complete(scenario: Scenario) -> int:
    return COMPLETE_WITH_FAILURES if scenario.failing else COMPLETE


def _told(stop: Failpoint | Instant) -> str:
    name = signal.Signals(stop.signal).name
    if isinstance(stop, Instant):
        return f"{name} after {stop.seconds:.3f} seconds"
    return f"{name} {stop.when} {stop.kind} number {stop.number}"


def run(kinds: Sequence[str], kills: int, seed: int, folder: Path) -> Iterator[Tally]:
    """Kill exports of some formats, as many at once as there are processors."""

    def series(kind: str) -> Tally:
        place = folder / kind
        place.mkdir()
        return Series(kind, place, seed).run(kills)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        yield from threads.map(series, kinds)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Kill exports anywhere, and resume them.")
    parser.add_argument("--kills", type=int, default=200, help="of each format")
    parser.add_argument("--format", choices=FORMATS, action="append", help="by default all")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    begun, kills, right = time.perf_counter(), 0, True
    folder = Path(tempfile.mkdtemp(prefix="crowdtwist-kills-"))
    for tally in run(flags.format or FORMATS, flags.kills, flags.seed, folder):
        print("\n".join(tally.lines()), flush=True)
        kills, right = kills + tally.kills, right and tally.is_right
    if right:
        shutil.rmtree(folder)
    end = "every row exactly once" if right else f"WRONG, see {folder}"
    print(f"{kills} kills in {time.perf_counter() - begun:.0f} seconds: {end}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
