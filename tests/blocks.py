"""
The code blocks of a page, and what they run with: the command, an emulator on a socket, a list of members.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from conftest import KEY

from crowdtwist_async.emulator import Emulator
from crowdtwist_async.emulator.server import EmulatorServer

ROOT = Path(__file__).parent.parent
MEMBERS = 100
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One block of a page."""

    language: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    """All blocks, in their order."""
    return [Block(*found) for found in _BLOCK.findall(page.read_text())]


@contextmanager
def emulated(folder: Path, **options: Any) -> Iterator[dict[str, str]]:
    """The environment of blocks that run in a folder: it gets `members.txt`."""
    emulator = Emulator(members=MEMBERS, api_key=KEY, **options)
    (folder / "members.txt").write_text("\n".join(emulator.member_ids()))
    account = {name for name in os.environ if name.startswith("CROWDTWIST_")}
    with EmulatorServer(emulator) as server:
        yield {
            **{name: value for name, value in os.environ.items() if name not in account},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "NO_PROXY": "*",
            "CROWDTWIST_API_URL": server.url,
            "CROWDTWIST_POS_URL": server.url,
            "CROWDTWIST_API_KEY": KEY,
        }


def run(command: list[str], environment: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a block and return what it printed."""
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)


def python(text: str) -> list[str]:
    """A block as a whole program, which takes warnings for errors."""
    return [sys.executable, "-W", "error", "-c", text]


def shell(text: str) -> list[str]:
    """A block that ends with the first line that fails."""
    return ["bash", "-euo", "pipefail", "-c", text]
