"""
`python -m benchmarks.ceiling [--seconds 70]`: does a loaded client keep the contract's ceiling, and use it?

A server in a process of its own notes when each request arrives. Four runs, at once, as they do not share
anything: under load, with a stall of 20 seconds in the server, after idle, and with a third of the calls
cancelled. Each has 70 seconds of load that nothing interrupts. Two figures count: the most requests in any
60 seconds of the whole run, and the least in 60 seconds of those in which the client was loaded throughout.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from crowdtwist_async import CrowdTwistClient, CrowdTwistError

_WINDOW = 60.0
_CEILING = 10_000
_RATE = 9_700
_LEAST = 0.95 * _RATE
_BEFORE_STALL = 15.0
_POINTS = b'{"user_id": 7, "total_points_awaiting_fulfillment": 40, "bonus_points_awaiting_fulfillment": 10}'
_REPLY = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(_POINTS), _POINTS)
Span = tuple[float, float]


class Scenario(NamedTuple):
    """What disturbs a run: seconds of a stall or of idling, and the share of calls that are cancelled."""

    stall: float = 0.0
    idle: float = 0.0
    cancelled: float = 0.0


_SCENARIOS = {
    "load": Scenario(),
    "stall": Scenario(stall=20.0),
    "idle": Scenario(idle=15.0),
    "cancel": Scenario(cancelled=1 / 3),
}


class _Clerk(asyncio.Protocol):
    """Notes when requests arrive; during a stall it answers when the stall is over."""

    arrivals: list[float] = []  # noqa: RUF012 - one for all connections
    stall: Span = (0.0, 0.0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._heads = b""

    def data_received(self, data: bytes) -> None:
        *complete, self._heads = (self._heads + data).split(b"\r\n\r\n")
        now = time.monotonic()
        self.arrivals += [now] * len(complete)
        begin, end = self.stall
        delay = end - now if begin <= now < end else 0.0
        asyncio.get_running_loop().call_later(delay, self._answer, len(complete))

    def _answer(self, requests: int) -> None:
        if not self._transport.is_closing():
            self._transport.write(_REPLY * requests)


async def _serve() -> None:
    """Print the port, take the stall's begin and end, and print the arrivals when the input ends."""
    server = await asyncio.get_running_loop().create_server(_Clerk, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    begin, end = (await asyncio.to_thread(sys.stdin.readline)).split()
    _Clerk.stall = (float(begin), float(end))
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps(_Clerk.arrivals))


async def _load(url: str, start: float, end: float, scenario: Scenario) -> tuple[int, int]:
    """Ask as fast as the client lets us; return how many calls ended well, and how many did not."""
    chance = random.Random(1)
    good = bad = 0

    async def worker() -> None:
        nonlocal good, bad
        while time.monotonic() < end:
            limit = chance.random() * 0.5 if chance.random() < scenario.cancelled else None
            try:
                async with asyncio.timeout(limit):
                    await client.points_awaiting_fulfillment("7")
                good += 1
            except (CrowdTwistError, TimeoutError):
                bad += 1

    async with CrowdTwistClient(
        api_key="bench", api_url=url, pos_url=url, timeout=5, deadline=None
    ) as client:
        if scenario.idle:
            await client.points_awaiting_fulfillment("7")
        await asyncio.sleep(start - time.monotonic())
        await asyncio.gather(*(worker() for _ in range(80)))
    return good, bad


def _run(name: str, seconds: float) -> str:
    """One run; clocks that count from the machine's start let both processes speak of the same moments."""
    scenario = _SCENARIOS[name]
    command = [sys.executable, "-m", "benchmarks.ceiling", "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        start = time.monotonic() + scenario.idle + 0.1
        end = start + seconds
        loaded = [(start, end)]
        stall = (0.0, 0.0)
        if scenario.stall:
            stall = (start + _BEFORE_STALL, start + _BEFORE_STALL + scenario.stall)
            end = stall[1] + seconds
            loaded = [(start, stall[0]), (stall[1], end)]
        print(*stall, file=server.stdin, flush=True)
        good, bad = asyncio.run(_load(url, start, end, scenario))
        with suppress(BrokenPipeError):
            server.stdin.close()
        arrivals = json.loads(server.stdout.readline())
    return f"{name:<7}{_judged(arrivals, loaded)}; calls: {good:,} good, {bad:,} not"


def _judged(arrivals: Sequence[float], loaded: Sequence[Span]) -> str:
    most = max(_count(arrivals, moment, moment + _WINDOW) for moment in arrivals)
    counts = [
        _count(arrivals, moment, moment + _WINDOW)
        for begin, end in loaded
        for moment in (begin, *arrivals)
        if begin <= moment <= end - _WINDOW
    ]
    requests = sum(_count(arrivals, *span) for span in loaded)
    seconds = sum(end - begin for begin, end in loaded)
    share = requests / (seconds * _RATE / _WINDOW)
    said = f" most in any 60 s {most:>6,} ({'within' if most <= _CEILING else 'ABOVE'} {_CEILING:,})"
    if counts:
        least = min(counts)
        verdict = "within" if least >= _LEAST else "BELOW"
        said += f"; least in loaded 60 s {least:>6,} ({least / _RATE:.1%} of {_RATE:,}, {verdict} 95 %)"
    return f"{said}; in all {seconds:.0f} s of load {share:.1%}"


def _count(arrivals: Sequence[float], begin: float, end: float) -> int:
    return bisect_left(arrivals, end) - bisect_left(arrivals, begin)


def main() -> None:
    """Run the scenarios, each in a process of its own, and print."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--serve"]:
        asyncio.run(_serve())
        return
    if arguments[:1] == ["--run"]:
        print(_run(arguments[1], float(arguments[2])))
        return
    seconds = float(arguments[1]) if arguments[:1] == ["--seconds"] else 70.0
    command = [sys.executable, "-m", "benchmarks.ceiling", "--run"]
    runs = [subprocess.Popen([*command, name, str(seconds)]) for name in _SCENARIOS]
    for run in runs:
        run.wait()


if __name__ == "__main__":
    main()
