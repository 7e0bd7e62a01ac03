"""
Every block of the page on the OpenAPI document runs, from top to bottom in one folder, with the tools that it names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from blocks import ROOT, blocks_of, emulated, python, run, shell
from conftest import leaks

PAGE = ROOT / "docs" / "openapi.md"
RUNNERS = {"python": python, "sh": shell}


@pytest.fixture(name="environment")
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """What the blocks need: the command, the tools, an emulator, and what they generate on the path."""
    monkeypatch.chdir(tmp_path)
    with emulated(tmp_path) as environment:
        yield environment


def test_all_blocks_run_from_top_to_bottom(environment: dict[str, str], tmp_path: Path) -> None:
    """Each works on what those before it left; blocks without a language are to be read."""
    printed = []
    for block in blocks_of(PAGE):
        if block.language:
            ran = run(RUNNERS[block.language](block.text), environment, tmp_path)
            assert 0 == ran.returncode, ran.stderr
            assert not leaks(ran.stdout + ran.stderr)
            printed.append(ran.stdout)

    assert "10 of 132\n" in printed
    assert (ROOT / "docs" / "openapi.json").read_text() == (tmp_path / "crowdtwist.json").read_text()
