"""
Running test files many times: what is chosen, what is gone on with, and what a summary says.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import repeat
from repeat import Ran, summary


def test_files_are_chosen_by_parts_of_their_names() -> None:
    """Without a part, all are."""
    assert ["test_page_walk.py", "test_walk.py"] == repeat.files(["walk.py"])
    assert "test_repeat.py" in repeat.files([])


def test_what_was_run_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file once in a round, and the rounds that are missing."""
    ran: list[tuple[str, int]] = []

    def run(file: str, seed: int) -> Ran:
        ran.append((file, seed))
        return Ran(file, seed, 0, 1.0, "1 passed", repeat.digest(file))

    monkeypatch.setattr(repeat, "run", run)
    state = tmp_path / "state.jsonl"
    arguments = ["-k", "test_walk", "test_pager", "--at-once", "1", "--state", str(state)]
    assert 0 == repeat.main([*arguments, "--times", "1"])
    assert 0 == repeat.main([*arguments, "--times", "2"])

    assert [(file, seed) for seed in (1, 2) for file in ("test_pager.py", "test_walk.py")] == ran
    assert 4 == len(state.read_text().splitlines())


def test_a_failure_is_told_with_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command fails, and the summary is in a file too."""
    monkeypatch.setattr(
        repeat,
        "run",
        lambda file, seed: Ran(file, seed, int(seed == 2), 1.0, "FAILED tests/x.py::test_y", "digest"),
    )
    state = tmp_path / "state.jsonl"

    assert 1 == repeat.main(["-k", "test_walk", "--times", "3", "--state", str(state)])
    text = (tmp_path / "state.txt").read_text()
    assert "3 runs of 1 files in 3 orders, 3 seconds: 1 failed" in text
    assert "test_walk.py with seed 2 (1 s): FAILED tests/x.py::test_y" in text


def test_a_run_is_one_of_pytest() -> None:
    """In the order of the seed."""
    ran = repeat.run("test_guards.py", 7)
    assert (True, "test_guards.py", 7) == (ran.is_right, ran.file, ran.seed)
    assert "passed" in ran.said


def test_earlier_runs_count_for_the_code_that_they_ran(tmp_path: Path) -> None:
    """Those of other code, and of files that are gone, do not."""
    file = "test_walk.py"
    ran = Ran(file, 1, 1, 2.0, "FAILED", repeat.digest(file))
    others = [ran._replace(ran="other"), ran._replace(file="test_that_is_gone.py")]
    state = tmp_path / "state.jsonl"
    state.write_text("".join(json.dumps(one._asdict()) + "\n" for one in [ran, *others]))

    assert [ran] == repeat.earlier(state)
    assert [] == repeat.earlier(tmp_path / "none")
    assert "1 failed" in summary([ran])
    assert repeat.digest(file) != repeat.digest("test_pager.py")
