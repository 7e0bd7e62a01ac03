"""
`python -m benchmarks.ceiling [--seconds 70]`: does a loaded client ever pass the contract's ceiling?

A server in a process of its own notes when each request arrives, and judges every sliding window of 60
seconds. Four runs: under load, with a stall of 20 seconds in the server, after idle, and with a third
of the calls cancelled. 70 seconds each, at once, as they do not share anything.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from bisect import bisect_left
from contextlib import suppress

from crowdtwist_async import CrowdTwistClient, CrowdTwistError

_WINDOW = 60.0
_CEILING = 10_000
_RATE = 9_700
_POINTS = b'{"user_id": 7, "total_points_awaiting_fulfillment": 40, "bonus_points_awaiting_fulfillment": 10}'
_SCENARIOS: dict[str, dict[str, float]] = {
    "load": {},
    "stall": {"stall": 20.0},
    "idle": {"idle": 15.0},
    "cancel": {"cancelled": 1 / 3},
}
_REPLY = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(_POINTS), _POINTS)


class _Judge(asyncio.Protocol):
    """Notes when requests arrive; during a stall it answers when the stall is over."""

    arrivals: list[float] = []  # noqa: RUF012 - one for all connections
    stall: tuple[float, float] = (0.0, 0.0)

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


async def _serve(stall: float) -> None:
    if stall:
        begin = time.monotonic() + 25.0
        _Judge.stall = (begin, begin + stall)
    server = await asyncio.get_running_loop().create_server(_Judge, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    arrivals = _Judge.arrivals
    most = max(bisect_left(arrivals, moment + _WINDOW) - place for place, moment in enumerate(arrivals))
    seconds = arrivals[-1] - arrivals[0]
    print(len(arrivals), most, round(seconds, 2))


async def _load(url: str, seconds: float, *, cancelled: float, idle: float) -> tuple[int, int]:
    """Ask as fast as the client lets us; return how many calls ended well, and how many did not."""
    end = time.monotonic() + seconds
    chance = random.Random(1)
    good = bad = 0

    async def worker() -> None:
        nonlocal good, bad
        while time.monotonic() < end:
            limit = chance.random() * 0.5 if chance.random() < cancelled else None
            try:
                async with asyncio.timeout(limit):
                    await client.points_awaiting_fulfillment("7")
                good += 1
            except (CrowdTwistError, TimeoutError):
                bad += 1

    async with CrowdTwistClient(
        api_key="bench", api_url=url, pos_url=url, timeout=5, deadline=None
    ) as client:
        if idle:
            await client.points_awaiting_fulfillment("7")
            await asyncio.sleep(idle)
        await asyncio.gather(*(worker() for _ in range(80)))
    return good, bad


def _run(name: str, seconds: float, *, stall: float = 0.0, cancelled: float = 0.0, idle: float = 0.0) -> str:
    command = [sys.executable, "-m", "benchmarks.ceiling", "--serve", str(stall)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        good, bad = asyncio.run(_load(url, seconds, cancelled=cancelled, idle=idle))
        with suppress(BrokenPipeError):
            server.stdin.close()
        requests, most, span = server.stdout.readline().split()
    share = int(most) / _RATE
    verdict = "within" if int(most) <= _CEILING else "ABOVE"
    return (
        f"{name:<16} {int(requests):>7,} requests in {span:>6} s; most in 60 s: {int(most):>6,}"
        f" ({verdict} 10,000; {share:.1%} of 9,700); calls: {good:,} good, {bad:,} not"
    )


def main() -> None:
    """Run the scenarios, each in a process of its own, and print."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--serve"]:
        asyncio.run(_serve(float(arguments[1])))
        return
    seconds = float(arguments[1]) if arguments[:1] == ["--seconds"] else 70.0
    if arguments[:1] == ["--run"]:
        print(_run(arguments[1], float(arguments[2]), **_SCENARIOS[arguments[1]]))
        return
    command = [sys.executable, "-m", "benchmarks.ceiling", "--run"]
    runs = [subprocess.Popen([*command, name, str(seconds)]) for name in _SCENARIOS]
    for run in runs:
        run.wait()


if __name__ == "__main__":
    main()
