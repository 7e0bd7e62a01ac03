"""
Every block of every page in `docs` runs, from top to bottom in one folder, as a reader would.

Airflow weighs more than everything else together, so a stand-in of a few lines is on the path in its place:
it has the four names that the recipe imports, and runs no task.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest
from blocks import MEMBERS, ROOT, Block, blocks_of, emulated, python, run, shell
from conftest import leaks
from redis_server import one_for_all  # noqa: F401 - a fixture

from crowdtwist_async.emulator import Emulator
from crowdtwist_async.export import Plan
from crowdtwist_async.export.rows import columns

ELSEWHERE = {
    "api-rulings",
    "capacity",
    "dask",
    "deployment",
    "design",
    "errors",
    "object-stores",
    "openapi",
    "sharding",
    "signing",
    "telemetry",
    "testing",
}
"""Pages that need none of these tools: other modules run them."""
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.stem not in ELSEWHERE]
EXPORTING = ROOT / "docs" / "exporting.md"
AIRFLOW = {
    "__init__.py": "",
    "sdk/__init__.py": """
def dag(**options):
    return lambda function: function

def task(**options):
    return lambda function: lambda *arguments: None
""",
    "sdk/exceptions.py": """
class AirflowException(Exception): ...
class AirflowFailException(AirflowException): ...
""",
}


@pytest.fixture(name="environment")
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What the blocks need: the emulator, the stand-in for Airflow, and a dlt that keeps to itself."""
    stand_in = tmp_path / "stand_in"
    for name, text in AIRFLOW.items():
        path = stand_in / "airflow" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with emulated(folder) as environment:
        environment["PYTHONPATH"] += f":{stand_in}"
        yield {**environment, "RUNTIME__DLTHUB_TELEMETRY": "false", "DLT_DATA_DIR": str(tmp_path / "dlt")}


def run_python(text: str, environment: dict[str, str]) -> None:
    """Run a whole program, which complains about nothing."""
    ran = run(python(text), environment, Path.cwd())
    assert (0, "") == (ran.returncode, ran.stderr), ran.stderr
    assert not leaks(ran.stdout)


def run_shell(text: str, environment: dict[str, str]) -> None:
    """Run lines of which none fails."""
    ran = run(shell(text), environment, Path.cwd())
    assert 0 == ran.returncode, ran.stderr
    assert not leaks(ran.stdout + ran.stderr)


def run_sql(text: str, _: dict[str, str]) -> None:
    """Run a query that finds something, on what its first line names: `-- sqlite3 [FLAGS] FILE` or `-- duckdb`."""
    line = re.match(r"-- (?:sqlite3 .*?(\S+)|duckdb)\n", text)
    assert line is not None
    if line[1] is None:
        assert duckdb.connect().execute(text).fetchall()
        return
    with closing(sqlite3.connect(f"file:{line[1]}?mode=ro", uri=True)) as database:
        assert database.execute(text).fetchall()


RUNNERS: dict[str, Callable[[str, dict[str, str]], None]] = {
    "python": run_python,
    "sh": run_shell,
    "sql": run_sql,
}


def the_block(word: str) -> Block:
    """The one block of the page on exporting that holds a word."""
    [block] = [block for block in blocks_of(EXPORTING) if word in block.text]
    return block


def run_the_block(word: str, environment: dict[str, str]) -> None:
    """Run it alone."""
    block = the_block(word)
    RUNNERS[block.language](block.text, environment)


def rows_of(database: str, query: str) -> list[Any]:
    """What a query on a DuckDB file finds."""
    with duckdb.connect(database) as connection:
        found: list[Any] = connection.execute(query).fetchall()
    return found


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_all_blocks_run_from_top_to_bottom(
    page: Path, environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    """
    Each works on what those before it left. Blocks without a language are to be read.
    """
    blocks = blocks_of(page)
    if any("CROWDTWIST_BUDGET" in block.text for block in blocks):
        environment["CROWDTWIST_BUDGET"] = request.getfixturevalue("shared_redis").url
    for block in blocks:
        if block.language:
            RUNNERS[block.language](block.text, environment)


def test_nightly_outputs_are_upserted(environment: dict[str, str]) -> None:
    """
    Days that overlap give each purchase once, and what was exported last replaces what was there.
    """
    run_the_block("nightly()", environment)
    exported = rows_of(":memory:", "SELECT purchase_id FROM read_parquet('purchases-*.parquet/*.parquet')")
    run_the_block("INSERT OR REPLACE", environment)
    loaded = rows_of("loyalty.duckdb", "SELECT purchase_id FROM purchases")
    assert len(exported) > len(loaded)
    assert sorted(set(exported)) == sorted(loaded)
    with duckdb.connect("loyalty.duckdb") as database:
        database.execute("UPDATE purchases SET purchase_total = -1")
    run_the_block("INSERT OR REPLACE", environment)
    assert [(len(loaded), 0)] == rows_of(
        "loyalty.duckdb", "SELECT count(*), count(*) FILTER (purchase_total < 0) FROM purchases"
    )


def test_dlt_loads_every_purchase_once(environment: dict[str, str]) -> None:
    """
    A second load merges into the first.
    """
    emulator = Emulator(members=MEMBERS)
    purchases = sum(map(emulator.purchases_of, emulator.member_ids()))
    for _ in range(2):
        run_the_block("import dlt", environment)
        assert [(purchases,)] == rows_of("crowdtwist.duckdb", "SELECT count(*) FROM loyalty.purchases")


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        pytest.param(0, "complete", id="complete"),
        pytest.param(3, "partial", id="failed-members"),
        pytest.param(1, "AirflowException: exit code 1:", id="failed"),
        pytest.param(2, "AirflowFailException: exit code 2:", id="usage"),
        pytest.param(4, "AirflowFailException: exit code 4:", id="key-refused"),
        pytest.param(75, "AirflowException: exit code 75:", id="stopped"),
        pytest.param(130, "AirflowException: exit code 130:", id="interrupted"),
    ],
)
def test_the_airflow_task_maps_exit_codes(
    code: int, ending: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """
    What a retry can mend is retried, what it can't is not, and failed members make a partial output.
    """
    command = tmp_path / "crowdtwist"
    command.write_text(f'#!/bin/sh\necho "$@" > arguments\nexit {code}\n')
    command.chmod(0o700)
    program = the_block("import dag, task").text + "\nprint(run_export('2026-03-01'))"
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    ran = run(python(program), environment, Path.cwd())
    [last] = (ran.stdout or ran.stderr).splitlines()[-1:]
    assert last.removeprefix("airflow.sdk.exceptions.").startswith(ending)
    assert (
        "export purchases --ids members.txt -o purchases-2026-03-01.parquet"
        " --date-start 2026-02-28 --date-end 2026-03-01\n"
    ) == Path("arguments").read_text()


@pytest.mark.parametrize("name", ["points", "purchases"])
def test_the_page_lists_the_columns(name: str) -> None:
    """
    All of them, in their order.
    """
    [listed] = re.findall(rf"^\* {name}: (.*(?:\n  .*)*)", EXPORTING.read_text(), re.MULTILINE)
    assert list(columns(name)) == re.findall(r"`(\w+)`", listed)


@pytest.mark.parametrize(
    ("per_minute", "hours"), [pytest.param(5_000, 16.7, id="default"), pytest.param(9_700, 8.6, id="whole")]
)
def test_the_page_says_how_long_five_million_members_take(per_minute: int, hours: float) -> None:
    """
    Of one page each.
    """
    text = " ".join(EXPORTING.read_text().split())
    assert hours == round(Plan(5_000_000, per_minute).seconds / 3_600, 1)
    assert f"{per_minute * 60:,}" in text
    assert f"5 million take {hours} hours" in text
