"""
Processes that share one budget over a real redis-server, one of which is killed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

from redis_server import RedisServer, one_for_all  # noqa: F401 - a fixture
from test_redis_lease import most_beyond

from crowdtwist_async.budgets._lease import LATE

PER_MINUTE, BURST, PROCESSES = 1_800, 5, 3
PATIENCE = 60.0
PROGRAM = """
import asyncio, sys, time
from crowdtwist_async import TransportError
from crowdtwist_async.budgets.redis import RedisBudget

async def main(url, key, per_minute, burst):
    async with RedisBudget(url, key=key, per_minute=int(per_minute), burst=int(burst)) as budget:
        while True:
            try:
                await asyncio.sleep(await budget.reserve())
            except TransportError:  # on a machine that is slow
                await asyncio.sleep(0.1)
            else:
                print(time.monotonic(), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


def moments_in(path: Path) -> list[float]:
    """What a process has written so far, in whole lines."""
    return [float(line) for line in path.read_text().rpartition("\n")[0].splitlines()]


def wait_until(condition: Callable[[], bool]) -> None:
    """Look again and again."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() < started + PATIENCE
        time.sleep(0.05)


def test_others_go_on_when_one_is_killed(shared_redis: RedisServer, tmp_path: Path) -> None:
    """All take part, the rest goes on without the dead one, and no span of time has more than its permits."""
    paths = [tmp_path / f"{number}.txt" for number in range(PROCESSES)]
    arguments = [shared_redis.url, f"test {uuid4()}", str(PER_MINUTE), str(BURST)]
    with ExitStack() as stack:
        processes = []
        for path in paths:
            output = stack.enter_context(path.open("w"))
            command = [sys.executable, "-W", "error", "-c", PROGRAM, *arguments]
            process = stack.enter_context(subprocess.Popen(command, stdout=output))
            stack.callback(process.kill)
            processes.append(process)
        wait_until(lambda: all(len(moments_in(path)) >= 20 for path in paths))
        processes[0].kill()
        processes[0].wait()
        had = [len(moments_in(path)) for path in paths]
        wait_until(lambda: all(len(moments_in(paths[number])) >= had[number] + 30 for number in (1, 2)))
        assert [None, None] == [process.poll() for process in processes[1:]]
    assert had[0] == len(moments_in(paths[0]))
    moments = sorted(moment for path in paths for moment in moments_in(path))
    interval = 60.0 / PER_MINUTE
    # A machine that is slow lets each process write down one permit late.
    assert most_beyond(moments, interval) <= LATE / interval + BURST + 1 + PROCESSES
