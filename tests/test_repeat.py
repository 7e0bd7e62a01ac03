"""
Running all tests many times: what is chosen, what is gone on with, and what a summary says.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import repeat
from repeat import Ran, results, summary

REPORT = """
<testsuites><testsuite>
<testcase classname="tests.test_walk" name="test_x[1]" />
<testcase classname="tests.test_walk" name="test_x[2]"><failure message="no" /></testcase>
<testcase classname="tests.test_walk" name="test_x[3]"><skipped message="no" /></testcase>
<testcase classname="tests.test_cli.TestIt" name="test_y" />
<testcase classname="" name="tests.test_gone"><error message="can't be imported" /></testcase>
<testcase classname="tests.test_pager" name="test_z"><error message="teardown" /></testcase>
</testsuite></testsuites>
"""


class Runs:
    """Notes what is run, and has it pass but for one test of one seed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails_with: int = 0) -> None:
        self.made: list[tuple[int, list[str]]] = []
        self._fails_with = fails_with
        monkeypatch.setattr(repeat, "run", self._run)

    def _run(self, chosen: list[str], seed: int) -> tuple[list[Ran], str]:
        self.made.append((seed, chosen))
        failed = ["test_y"] if seed == self._fails_with else []
        return [Ran(file, seed, 2, failed, repeat.digest(file)) for file in chosen], "what it said"


def test_files_are_chosen_by_parts_of_their_names() -> None:
    """Without a part, all are."""
    assert ["test_page_walk.py", "test_walk.py"] == repeat.files(["walk.py"])
    assert "test_repeat.py" in repeat.files([])


def test_what_was_run_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the files and the orders that are missing."""
    runs = Runs(monkeypatch)
    state = tmp_path / "state.jsonl"

    assert 0 == repeat.main(["-k", "test_pager", "--times", "1", "--state", str(state)])
    assert 0 == repeat.main(["-k", "test_pager", "test_walk", "--times", "2", "--state", str(state)])

    assert [
        (1, ["test_pager.py"]),
        (1, ["test_walk.py"]),
        (2, ["test_pager.py", "test_walk.py"]),
    ] == runs.made
    assert 4 == len(state.read_text().splitlines())
    assert "2 files in 2 orders, 8 tests: 0 failed\n" == (tmp_path / "state.txt").read_text()


def test_orders_can_be_spread_over_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each begins where another one ends, and tells of its own alone."""
    runs = Runs(monkeypatch)
    state = tmp_path / "state.jsonl"

    repeat.main(["-k", "test_walk", "--times", "2", "--state", str(state)])
    repeat.main(["-k", "test_walk", "--first", "2", "--times", "3", "--state", str(state)])

    assert [1, 2, 3] == [seed for seed, _ in runs.made]
    assert "1 files in 2 orders, 4 tests: 0 failed\n" == (tmp_path / "state.txt").read_text()


def test_a_failure_is_told_with_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command fails, and the summary is in a file too."""
    Runs(monkeypatch, fails_with=2)
    state = tmp_path / "state.jsonl"

    assert 1 == repeat.main(["-k", "test_walk", "--times", "3", "--state", str(state)])
    text = (tmp_path / "state.txt").read_text()
    assert "1 files in 3 orders, 6 tests: 1 failed" in text
    assert "test_walk.py with seed 2: test_y" in text
    assert "what it said" == (tmp_path / "state.2.log").read_text()


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have pytest run in one process, with the plugins that our settings and options are for alone."""
    monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", "0")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv(
        "PYTEST_PLUGINS", "anyio.pytest_plugin,pytest_asyncio.plugin,pytest_randomly,xdist.plugin"
    )


def test_a_run_is_one_of_pytest(plain: None) -> None:
    """Of the files that are given."""
    [ran], said = repeat.run(["test_guards.py"], 7)
    assert ("test_guards.py", 7, []) == (*ran[:2], ran.failed)
    assert f"{ran.tests} passed" in said


def test_a_run_that_fails_as_a_whole_has_passed_nothing(plain: None) -> None:
    """As when a file is not there."""
    [here, gone], _ = repeat.run(["test_guards.py", "test_that_is_gone.py"], 7)
    assert here.failed == gone.failed
    assert "pytest ended with" in here.failed[0]


def test_a_report_tells_what_failed_in_which_file() -> None:
    """Also of files that can't be imported."""
    assert {
        "test_walk.py": (3, ["test_x[2]"]),
        "test_cli.py": (1, []),
        "test_gone.py": (1, ["tests.test_gone"]),
        "test_pager.py": (1, ["test_z"]),
    } == results(REPORT)


def test_earlier_runs_count_for_the_code_that_they_ran(tmp_path: Path) -> None:
    """Those of other code, and of files that are gone, do not."""
    file = "test_walk.py"
    ran = Ran(file, 1, 1, ["test_x"], repeat.digest(file))
    others = [ran._replace(code="other"), ran._replace(file="test_that_is_gone.py")]
    state = tmp_path / "state.jsonl"
    state.write_text("".join(json.dumps(one._asdict()) + "\n" for one in [ran, *others]))

    assert [ran] == repeat.earlier(state)
    assert [] == repeat.earlier(tmp_path / "none")
    assert "1 failed" in summary([ran])
    assert repeat.digest(file) != repeat.digest("test_pager.py")
