"""
The most memory that one page for each of 100,000 members takes, in processes of their own, over no network.

Linux only.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from benchmarks.contenders import NAIVE, PATH
from benchmarks.figures import Figures
from benchmarks.ours import KEY, OURS, Site, client_of
from benchmarks.server import page_body
from crowdtwist_async import CrowdTwistError, Reply, Request

_AT_ONCE = 64
_BODY = page_body()
_URL = "https://api.example.com"


class _InProcess:
    """Answers every request with the same page, after one turn of the event loop."""

    async def send(self, _: Request, /) -> Reply | CrowdTwistError:
        await asyncio.sleep(0)
        return Reply(200, {}, _BODY)

    async def aclose(self) -> None:
        """Nothing is open."""


async def _fan_out(members: int) -> int:
    rewards = 0
    async with (
        client_of(Site(_URL), transport=_InProcess(), max_in_flight=_AT_ONCE) as client,
        client.fan_out(client.user_rewards, range(members)) as outcomes,
    ):
        async for outcome in outcomes:
            rewards += len(outcome.unwrap())
    return rewards


def _mock() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200, content=_BODY)))


async def _gather(members: int) -> int:
    """A task for each member and a semaphore, as most people write it."""
    gate = asyncio.Semaphore(_AT_ONCE)
    async with _mock() as http:

        async def one(member: int) -> int:
            async with gate:
                reply = await http.get(f"{_URL}{PATH}", params={"api_key": KEY, "page": member})
                return len(reply.json()["rewards"])

        return sum(await asyncio.gather(*(one(member) for member in range(members))))


async def _gather_pages(members: int) -> int:
    """The same with the pages kept until the last one is there, as `gather` invites to."""
    gate = asyncio.Semaphore(_AT_ONCE)
    async with _mock() as http:

        async def one(member: int) -> list[object]:
            async with gate:
                reply = await http.get(f"{_URL}{PATH}", params={"api_key": KEY, "page": member})
                rewards: list[object] = reply.json()["rewards"]
                return rewards

        pages = await asyncio.gather(*(one(member) for member in range(members)))
    return sum(len(page) for page in pages)


_WAYS: dict[str, Callable[[int], Awaitable[int]]] = {
    f"{OURS}, fan_out": _fan_out,
    f"{NAIVE}, gather, counting": _gather,
    f"{NAIVE}, gather, pages kept": _gather_pages,
}


def measure_memory(members: int) -> Figures:
    """Run each once: memory does not vary."""
    taken = {}
    for name in _WAYS:
        command = [sys.executable, "-m", "benchmarks.memory", name, str(members)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        taken[name] = [float(json.loads(output))]
    return Figures(f"peak memory, {members:,} members", "MiB", taken, f"{OURS}, fan_out", digits=1)


def main() -> None:
    """Run one way in this process, and print its peak."""
    name, members = sys.argv[1], int(sys.argv[2])

    async def run() -> int:
        return await _WAYS[name](members)

    assert asyncio.run(run()) == 10 * members
    # `getrusage` would begin with the peak of the process that started this one.
    status = Path("/proc/self/status").read_text()
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


if __name__ == "__main__":
    main()
