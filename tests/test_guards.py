"""
What every test has in `conftest.py`: a guard that can't fail would guard nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockingError

import crowdtwist_async

CALLS = {
    "time.sleep": "import time\ntime.sleep(0)",
    "os.write": "import os\nos.write(1, b'')",
    "os.fsync": "import os\nos.fsync(1)",
    "os.ftruncate": "import os\nos.ftruncate(1, 0)",
    "os.open": "import os\nos.open('.', os.O_RDONLY)",
    "os.stat": "from pathlib import Path\nPath('.').stat()",
    "sqlite3.Connection.execute": "import sqlite3\nsqlite3.connect(':memory:').execute('SELECT 1')",
    "fcntl.flock": "import fcntl\nfcntl.flock(1, fcntl.LOCK_UN)",
    "socket.socket.connect": "import socket\nsocket.socket().connect(('127.0.0.1', 1))",
}


def of_the_package(source: str) -> Any:
    """A coroutine function with this body, as if it stood in the package."""
    path = Path(crowdtwist_async.__file__).with_name("_blocking.py")
    names: dict[str, Any] = {}
    body = source.replace("\n", "\n    ")
    exec(compile(f"async def work():\n    {body}", str(path), "exec"), names)
    return names["work"]


@pytest.mark.asyncio
@pytest.mark.parametrize("source", CALLS.values(), ids=CALLS)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_a_call_that_blocks_the_loop_is_refused(
    source: str, blocking_calls: list[BlockingError]
) -> None:
    """The call raises where it is made."""
    with pytest.raises(BlockingError):
        await of_the_package(source)()
    blocking_calls.clear()


@pytest.mark.asyncio
async def test_a_call_that_blocks_is_told_though_it_is_caught(blocking_calls: list[BlockingError]) -> None:
    """The package catches what a transport or a budget raises; the test fails all the same."""
    with suppress(Exception):
        await of_the_package(CALLS["time.sleep"])()

    assert ["Blocking call to time.sleep"] == [str(call) for call in blocking_calls]
    blocking_calls.clear()


@pytest.mark.asyncio
async def test_a_call_in_a_thread_blocks_nothing(blocking_calls: list[BlockingError]) -> None:
    """That is where exports write."""
    work = of_the_package(CALLS["time.sleep"])()

    def to_its_end() -> None:
        with suppress(StopIteration):
            work.send(None)

    await asyncio.to_thread(to_its_end)
    assert [] == blocking_calls
