"""
Every block of the README runs. The first two, which set up an environment, are run by `.ci/run`.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from blocks import ROOT, blocks_of, emulated, python, run

from crowdtwist_async import errors

BLOCKS = blocks_of(ROOT / "README.md")
SHELL = [text for language, text in BLOCKS if language == "sh"]
PYTHON = [text for language, text in BLOCKS if language == "python"]
PLAIN = [text for language, text in BLOCKS if not language]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What the blocks need: an emulator on a socket, the command, and a list of members."""
    with emulated(tmp_path) as variables:
        yield variables


def test_every_block_is_of_a_kind_that_is_run() -> None:
    """No block escapes these tests by its language."""
    assert {"sh", "python", ""} == {language for language, _ in BLOCKS}


@pytest.mark.parametrize("text", PYTHON, ids=[f"python-{number}" for number in range(len(PYTHON))])
def test_python_blocks_run(text: str, environment: dict[str, str], tmp_path: Path) -> None:
    """Each is a whole program that prints something and complains about nothing."""
    ran = run(python(text), environment, tmp_path)
    assert (0, "") == (ran.returncode, ran.stderr)
    assert ran.stdout


@pytest.mark.parametrize("text", SHELL, ids=[f"sh-{number}" for number in range(len(SHELL))])
def test_shell_blocks_are_one_line_that_parses(text: str) -> None:
    """Each can be pasted as one line."""
    assert 1 == text.count("\n")
    assert 0 == subprocess.run(["bash", "-n", "-c", text], check=False).returncode


@pytest.mark.parametrize("text", SHELL[2:], ids=[f"sh-{number}" for number in range(2, len(SHELL))])
def test_other_shell_blocks_run(text: str, environment: dict[str, str], tmp_path: Path) -> None:
    """What follows the first two works in a set-up environment."""
    ran = run(["bash", "-c", text], environment, tmp_path)
    assert 0 == ran.returncode, ran.stderr


def test_the_export_block_exports(environment: dict[str, str], tmp_path: Path) -> None:
    """The export leaves a CSV file with a header and rows."""
    [export] = [text for text in SHELL[2:] if "crowdtwist export" in text]
    ran = run(["bash", "-c", export], environment, tmp_path)
    lines = (tmp_path / "purchases.csv").read_text().splitlines()
    assert lines[0].startswith("requested_id,requested_id_type,last_date_purchased,")
    assert f"{len(lines) - 1:,} rows" in ran.stderr


def test_the_tree_is_the_tree() -> None:
    """The README names every error class, under the class that it inherits from."""
    [tree] = [text for text in PLAIN if text.startswith("CrowdTwistError")]
    path: list[str] = []
    drawn: dict[str, str] = {}
    for line in tree.splitlines():
        match = re.match(r"([│ ├└─]*)(\w+)", line)
        assert match is not None
        depth = len(match[1]) // 4
        path[depth:] = [match[2]]
        if depth:
            drawn[match[2]] = path[depth - 1]
    classes = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.CrowdTwistError)
    ]
    assert {
        kind.__name__: kind.__base__.__name__
        for kind in classes
        if kind.__base__ and kind.__base__ is not Exception
    } == drawn
