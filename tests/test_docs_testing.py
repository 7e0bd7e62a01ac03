"""
Every block of `docs/testing.md` is a module of a folder that pytest runs, under either plugin.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import pytest
from blocks import ROOT, blocks_of, emulated, run

from crowdtwist_async.emulator import Fault

PAGE = ROOT / "docs" / "testing.md"
INI = """[pytest]
filterwarnings = error
asyncio_mode = strict
asyncio_default_fixture_loop_scope = function
"""


def files() -> dict[str, str]:
    """The blocks by the name that their first line gives them."""
    found = [re.match(r"# (\w+\.py)\n", block.text) for block in blocks_of(PAGE)]
    return {match[1]: match.string for match in found if match}


def test_every_block_is_a_module() -> None:
    """No block escapes these tests: each is Python, and has a name of its own."""
    assert {"python"} == {block.language for block in blocks_of(PAGE)}
    assert len(blocks_of(PAGE)) == len(files())
    assert "conftest.py" in files()


@pytest.mark.parametrize(("plugin", "loops"), [("anyio", 2), ("asyncio", 1)])
def test_the_blocks_pass(plugin: str, loops: int, tmp_path: Path) -> None:
    """All of them, on both event loops under anyio's plugin, and with the other plugin's mark."""
    folder = tmp_path / "folder"
    folder.mkdir()
    asynchronous = plain = 0
    for name, text in files().items():
        (folder / name).write_text(text.replace("pytest.mark.anyio", f"pytest.mark.{plugin}"))
        asynchronous += text.count("async def test_")
        plain += len(re.findall(r"^def test_", text, re.MULTILINE))
    (folder / "pytest.ini").write_text(INI)
    with emulated(tmp_path) as environment:
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        plugins = ("-p", "anyio.pytest_plugin", "-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider")
        ran = run([sys.executable, "-m", "pytest", *plugins, "--strict-markers", "-q"], environment, folder)
    assert 0 == ran.returncode, ran.stdout
    assert re.search(rf"\b{asynchronous * loops + plain} passed in ", ran.stdout)


def test_the_page_names_every_fixture() -> None:
    """And no other."""
    source = (ROOT / "crowdtwist_async" / "pytest_plugin.py").read_text()
    offered = set(re.findall(r"^@pytest\.fixture\ndef (\w+)", source, re.MULTILINE))
    named = set(re.findall(r"\bcrowdtwist_(?!async\b)\w+", PAGE.read_text()))
    assert offered == named


def test_the_page_names_every_fault() -> None:
    """With its own arguments: those that may be left out have a sign of equality."""

    def arguments(name: str) -> str:
        given = inspect.signature(getattr(Fault, name)).parameters.values()
        own = [each for each in given if each.kind is not each.VAR_KEYWORD]
        return ", ".join(each.name if each.default is each.empty else f"{each.name}=" for each in own)

    offered = {name: arguments(name) for name, kept in vars(Fault).items() if isinstance(kept, classmethod)}
    rows = re.findall(r"^\| `Fault\.(\w+)` \| (?:`([^`]+)` )?\|", PAGE.read_text(), re.MULTILINE)
    assert offered == dict(rows)
