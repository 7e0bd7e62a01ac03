"""
Every command of CONTRIBUTING.md is one that there is.
"""

from __future__ import annotations

import re
import sys

import pytest
from blocks import ROOT, blocks_of, run, shell

PAGE = ROOT / "CONTRIBUTING.md"
SHELL = [block.text for block in blocks_of(PAGE) if block.language == "sh"]
OF_THE_README = [block.text for block in blocks_of(ROOT / "README.md") if block.language == "sh"]
OWN = [text for text in SHELL if text not in OF_THE_README]


def test_setting_up_is_what_the_readme_says() -> None:
    """One block is the README's, which is run elsewhere."""
    assert SHELL[0] in OF_THE_README


@pytest.mark.parametrize("text", OWN, ids=[f"sh-{number}" for number in range(len(OWN))])
def test_the_other_blocks_run(text: str) -> None:
    """From the top of the project, with the interpreter of these tests."""
    environment = {
        "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": "anyio.pytest_plugin,pytest_asyncio.plugin",
    }
    ran = run(shell(text), environment, ROOT)

    assert 0 == ran.returncode, ran.stdout + ran.stderr


def test_every_session_that_it_names_is_there() -> None:
    """And none of those that run by default is missing from the table."""
    source = (ROOT / "noxfile.py").read_text()
    sessions = set(re.findall(r'@nox\.session\(name="([\w-]+)"\)|@nox\.session\ndef (\w+)', source))
    defaults = re.search(r"nox\.options\.sessions = (\[.*?\]\n)", source, re.DOTALL)
    assert defaults
    named = set(re.findall(r"`nox -s ([a-z0-9-]+)", PAGE.read_text()))

    assert named <= {name or other for name, other in sessions}
    assert set(re.findall(r'"([\w-]+)"', defaults[1])) <= named
