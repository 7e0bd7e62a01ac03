"""
The pages on sharding and capacity: their recipes run, as each scheduler would run them, and their figures hold.

`sh` and `python` blocks run as they are, from top to bottom; what a scheduler runs gets the variable that it
sets, for three of the shards. Airflow, Slurm and Kubernetes themselves are not there: a stand-in of a few
lines maps Airflow's task.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import anyio
import pytest
from blocks import MEMBERS, ROOT, Block, blocks_of, emulated, python, run, shell
from conftest import KEY, leaks
from shards import LAST_DAY, rows_of

from crowdtwist_async import CrowdTwistClient
from crowdtwist_async.emulator import Emulator
from crowdtwist_async.export import Plan, Shard, export
from crowdtwist_async.export.plan import duration

SHARDING = ROOT / "docs" / "sharding.md"
CAPACITY = ROOT / "docs" / "capacity.md"
COUNT = 7
RUN_BY_PROCESSES = (0, 3, 6)
"""Of the shards that a scheduler would run by a process each, those that a test does too."""
AIRFLOW = {
    "__init__.py": "",
    "sdk/__init__.py": """
def dag(**options):
    return lambda function: function

class _Mapped:
    def __init__(self, function):
        self._function = function

    def expand(self, **mapped):
        [(name, values)] = mapped.items()
        for value in reversed(values):
            self._function(**{name: value}, ds="2026-09-30")
        return self

    def __rshift__(self, other):
        return other

def task(*functions, **options):
    if functions:
        return lambda: functions[0](ds="2026-09-30")
    return _Mapped
""",
    "sdk/exceptions.py": """
class AirflowException(Exception): ...
class AirflowFailException(AirflowException): ...
""",
}


@pytest.fixture(name="environment")
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What the blocks need: the emulator, a folder with the ids, and the stand-in for Airflow."""
    for name, text in AIRFLOW.items():
        path = tmp_path / "stand_in" / "airflow" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with emulated(folder) as environment:
        environment["PYTHONPATH"] += f":{tmp_path / 'stand_in'}"
        yield environment


def ran(command: list[str], environment: dict[str, str]) -> str:
    """Run a block that does not fail; return what it printed."""
    done = run(command, environment, Path.cwd())
    assert 0 == done.returncode, done.stderr
    assert "Traceback" not in done.stderr
    assert not leaks(done.stdout + done.stderr)
    return done.stdout


def the_block(word: str, page: Path = SHARDING) -> Block:
    """The one block that holds a word, with no pauses between its requests."""
    [block] = [block for block in blocks_of(page) if word in block.text]
    return block._replace(text=re.sub(r"(per-minute\W+)700", r"\g<1>9000", block.text))


def export_others(output: str, environment: dict[str, str]) -> None:
    """The shards that no process of its own exports."""

    async def export_each() -> None:
        url = environment["CROWDTWIST_API_URL"]
        async with CrowdTwistClient(api_key=KEY, api_url=url, pos_url=url) as client:
            for index in {*range(COUNT)} - {*RUN_BY_PROCESSES}:
                shard = Shard(index, COUNT)
                await export(client, "purchases", Path("members.txt"), output, date_end=LAST_DAY, shard=shard)

    anyio.run(export_each)


def assert_complete(output: str) -> None:
    """Every purchase of every member is there once."""
    emulator = Emulator(members=MEMBERS)
    found = [(row[0], row[3]) for row in rows_of(Path(output))]
    assert sum(map(emulator.purchases_of, emulator.member_ids())) == len(found) == len(set(found))


# Recipes


def test_every_block_is_run_by_a_test() -> None:
    """A new one is of a language, and has a word, that a test below knows."""
    known = {
        "sh": ["for i in", "sha256sum", "xargs"],
        "python": ["RateBudget", "airflow"],
        "bash": ["parallel -j", "SLURM_ARRAY_TASK_ID"],
        "yaml": ["JOB_COMPLETION_INDEX"],
    }

    blocks = blocks_of(SHARDING)
    assert sum(map(len, known.values())) == len(blocks)
    for block in blocks:
        assert any(word in block.text for word in known[block.language])


def test_a_loop_runs_shards(environment: dict[str, str]) -> None:
    """One after the other; then they are merged."""
    ran(shell(the_block("for i in").text), environment)

    assert_complete("purchases.jsonl")


def test_a_program_runs_shards(environment: dict[str, str]) -> None:
    """By the same functions as the command."""
    printed = ran(python(the_block("RateBudget").text), environment)

    assert f"shards=3, members={MEMBERS}" in printed


@pytest.mark.parametrize("user_id", ["10000001", "alice@example.com", "Zoë"])
def test_a_shell_knows_the_shard_of_a_member(environment: dict[str, str], user_id: str) -> None:
    """The same as the package."""
    text = the_block("sha256sum").text.replace("10000001", user_id)
    [index] = [index for index in range(COUNT) if Shard(index, COUNT).holds(user_id)]

    assert f"{user_id} is in shard {index}/{COUNT}\n" == ran(shell(text), environment)


def test_xargs_runs_shards(environment: dict[str, str]) -> None:
    """Seven processes at once."""
    ran(shell(the_block("xargs").text), environment)

    assert_complete("xargs.csv")


@pytest.mark.skipif(shutil.which("parallel") is None, reason="GNU parallel is not on every machine")
def test_gnu_parallel_runs_shards(environment: dict[str, str]) -> None:
    """Seven processes at once, into one folder."""
    ran(shell(the_block("parallel -j").text), environment)

    assert_complete("parallel.parquet")
    assert 1 + COUNT == len(Path("shards.log").read_text().splitlines())


def test_slurm_would_run_shards(environment: dict[str, str]) -> None:
    """Each task of the array has its number in the environment; a second run changes nothing."""
    text = the_block("SLURM_ARRAY_TASK_ID").text
    [array] = re.findall(r"^#SBATCH --array=0-(\d+)$", text, re.MULTILINE)
    for index in [*RUN_BY_PROCESSES, 0]:
        ran(shell(text), {**environment, "SLURM_ARRAY_TASK_ID": str(index)})
    export_others("slurm.parquet", environment)
    ran(shell("crowdtwist merge slurm.parquet"), environment)

    assert COUNT - 1 == int(array)
    assert_complete("slurm.parquet")


def test_kubernetes_would_run_shards(environment: dict[str, str]) -> None:
    """Each pod has its index in the environment."""
    text = the_block("JOB_COMPLETION_INDEX").text
    [script] = re.findall(r"^ +- \|\n((?: {14}.*\n)+)", text, re.MULTILINE)
    for index in RUN_BY_PROCESSES:
        ran(["sh", "-c", dedent(script)], {**environment, "JOB_COMPLETION_INDEX": str(index)})
    export_others("kubernetes.csv", environment)
    ran(shell("crowdtwist merge kubernetes.csv"), environment)

    assert f"completions: {COUNT}" in text
    assert_complete("kubernetes.csv")


def test_airflow_would_run_shards(environment: dict[str, str]) -> None:
    """One mapped instance a shard, then the merge."""
    ran(python(the_block("import dag, task").text), environment)

    assert_complete("airflow-2026-09-30.csv")


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        pytest.param(0, "", id="complete"),
        pytest.param(3, "", id="failed-members"),
        pytest.param(1, "AirflowException: exit code 1:", id="failed"),
        pytest.param(2, "AirflowFailException: exit code 2:", id="usage"),
        pytest.param(4, "AirflowFailException: exit code 4:", id="key-refused"),
        pytest.param(75, "AirflowException: exit code 75:", id="stopped"),
    ],
)
def test_the_airflow_task_maps_exit_codes(
    environment: dict[str, str], tmp_path: Path, code: int, ending: str
) -> None:
    """What a retry can mend is retried, and what it can't is not."""
    command = tmp_path / "crowdtwist"
    command.write_text(f"#!/bin/sh\nexit {code}\n")
    command.chmod(0o700)
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    done = run(python(the_block("import dag, task").text), environment, Path.cwd())

    last = done.stderr.splitlines()[-1] if done.stderr else ""
    assert last.removeprefix("airflow.sdk.exceptions.").startswith(ending)
    assert bool(ending) == bool(done.returncode)


# Arithmetic


def table_after(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its own heading."""
    below = CAPACITY.read_text().partition(f"\n## {heading}\n")[2]
    _, _, *rows = re.findall(r"^\|(.*)\|$", below.partition("\n## ")[0], re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in rows]


def number(text: str) -> int:
    """A number with its commas."""
    return int(text.replace(",", ""))


def test_the_page_plans_your_own_list(environment: dict[str, str]) -> None:
    """By the command; its blocks are all run here."""
    [block] = [block for block in blocks_of(CAPACITY) if block.language]

    assert f"purchases: {MEMBERS} members, at least {2 * MEMBERS} requests" in ran(
        shell(block.text), environment
    )


def test_the_hours_of_one_program() -> None:
    """As the plan has them."""
    rows = table_after("One program")

    assert 9 == len(rows)
    for members, pages, *told in rows:
        usual, whole = (Plan(number(members), rate, int(pages)) for rate in (5_000, 9_700))
        assert [f"{usual.requests:,}", duration(usual.seconds), duration(whole.seconds)] == told


def test_the_hours_of_several_programs() -> None:
    """Each has its share of the members."""
    rows = table_after("Several programs")

    assert 3 == len(rows)
    for members, *told in rows:
        assert [
            duration(Plan(number(members) // programs, 9_700).seconds) for programs in (1, 2, 5, 10)
        ] == told


def test_the_other_figures_follow() -> None:
    """From the rates, and from the requests that a client has on their way."""
    text = " ".join(CAPACITY.read_text().split())
    client = CrowdTwistClient(api_key=KEY, client_id=201)._session.max_in_flight

    for figure in (
        f"{8 * 60 * 5_000:,} requests at 5,000",
        f"{8 * 60 * 9_700:,} at 9,700",
        f"{client} requests on their way",
        f"within {client / 9_700 * 60:.3f} seconds",
        f"the process reaches {client * 60:,}",
        f"one at {7 * 1_418:,}",
        f"reach {3 * 3_200:,}",
    ):
        assert figure in text


def test_the_measured_run_is_within_a_tenth() -> None:
    """And its plan is what this release plans."""
    rows = table_after("A real run")

    assert ["points", "purchases", "rewards"] == [row[0] for row in rows]
    for name, planned, made, predicted, measured, off in rows:
        plan = Plan(600, 600, mean_pages(name))
        seconds = float(measured.removesuffix(" seconds"))
        assert (planned, f"{plan.seconds:.1f} seconds") == (f"{plan.requests:,}", predicted)
        assert planned == made.partition(" + ")[0]
        assert pytest.approx(plan.seconds / seconds - 1, abs=0.001) == float(off.removesuffix(" %")) / 100
        assert abs(plan.seconds / seconds - 1) < 0.1


def test_the_shards_of_the_measured_run_are_as_told() -> None:
    """The largest decides how long it takes."""
    sizes = [sum(map(Shard(i, COUNT).holds, Emulator(members=600).member_ids())) for i in range(COUNT)]
    text = " ".join(CAPACITY.read_text().split())

    assert f"{min(sizes)} to {max(sizes)} a shard" in text
    assert f"the largest, {max(sizes)} members, says {Plan(max(sizes), 600 / COUNT).seconds:.1f}." in text


def mean_pages(name: str) -> float:
    """Of the emulator's first 600 members."""
    emulator = Emulator(members=600)
    count: dict[str, Callable[[str], int]] = {
        "points": lambda _: 1,
        "purchases": emulator.purchases_of,
        "rewards": emulator.rewards_of,
    }
    return sum(max(1, math.ceil(count[name](user_id) / 10)) for user_id in emulator.member_ids()) / 600
