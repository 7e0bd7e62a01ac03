"""
`python -m benchmarks.shared_budget [--seconds 70]`: do four processes with one budget keep the ceiling?

Each process has a client with 32 calls in flight. A server in a process of its own notes when each request
arrives, from whom, and answers; a redis-server of this program stands between the four. Three runs, one after
the other. `load`: nothing happens. `kill`: one process is killed with SIGKILL after a third of the time, and
after two thirds one of the others gets a 429 that asks for a pause of 3 seconds. `restart`: Redis is stopped
with SIGKILL after a third of the time, without anything saved, and started again 5 seconds later.

What counts: the most requests in any 60 seconds, and the least where nothing happens; the share of the rate,
without the seconds of a pause or of an outage; the seconds until the others had taken a dead process's share,
until the last request after a 429, and until all went on after the restart.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, NamedTuple

from crowdtwist_async import CrowdTwistClient, CrowdTwistError, RetryPolicy

_WINDOW = 60.0
_CEILING = 10_000
_RATE = 9_700
_PROCESSES = 4
_CALLERS = 32
_OUTAGE = 5.0
_PAUSE = 3
_POINTS = b'{"user_id": 7, "total_points_awaiting_fulfillment": 40, "bonus_points_awaiting_fulfillment": 10}'
_REPLY = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(_POINTS), _POINTS)
_TOO_MANY = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: %d\r\ncontent-length: 0\r\n\r\n" % _PAUSE
Arrivals = list[tuple[float, int]]


class Run(NamedTuple):
    """What happened: all moments are of one clock."""

    arrivals: Arrivals
    """When, and from which process."""
    start: float
    end: float
    fault: float
    """When the process was killed, or Redis stopped."""
    pause: float
    """When the 429 was sent, or Redis was there again."""


class _Clerk(asyncio.Protocol):
    """Notes who sent a request, and when; one answer after the moment of the pause is a 429."""

    arrivals: Arrivals = []  # noqa: RUF012 - one for all connections
    pause_from = float("inf")
    paused_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._heads = b""

    def data_received(self, data: bytes) -> None:
        *complete, self._heads = (self._heads + data).split(b"\r\n\r\n")
        now = time.monotonic()
        for head in complete:
            # GET /1/...: the first part of the path is the process.
            self.arrivals.append((now, int(head[5:6])))
            reply = _REPLY
            if now >= _Clerk.pause_from:
                _Clerk.pause_from, _Clerk.paused_at, reply = float("inf"), now, _TOO_MANY
            if not self._transport.is_closing():
                self._transport.write(reply)


async def _serve() -> None:
    """Print the port, take the moment of the 429, and print what arrived when the input ends."""
    server = await asyncio.get_running_loop().create_server(_Clerk, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    _Clerk.pause_from = float(await asyncio.to_thread(sys.stdin.readline))
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps([_Clerk.paused_at, _Clerk.arrivals]))


async def _work(url: str, redis: str, end: float) -> None:
    """One of the four: ask as fast as the shared budget lets us."""
    from crowdtwist_async.budgets.redis import RedisBudget

    async def caller() -> None:
        while time.monotonic() < end:
            try:
                await client.points_awaiting_fulfillment("7")
            except CrowdTwistError:
                await asyncio.sleep(0.1)

    async with (
        RedisBudget(redis, per_minute=_RATE) as budget,
        CrowdTwistClient(
            api_key="bench", api_url=url, pos_url=url, deadline=None, budget=budget, retry=RetryPolicy()
        ) as client,
    ):
        await asyncio.gather(*(caller() for _ in range(_CALLERS)))


def _python(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "benchmarks.shared_budget", *map(str, arguments)]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def _start_redis(port: int, folder: str) -> subprocess.Popen[bytes]:
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return started
        time.sleep(0.01)


@contextmanager
def _ending(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _until(moment: float) -> None:
    time.sleep(max(moment - time.monotonic(), 0.0))


def _run(name: str, seconds: float) -> Run:
    """One run; clocks that count from the machine's start let all processes speak of the same moments."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        port = _free_port()
        redis = stack.enter_context(_ending(_start_redis(port, folder)))
        server = stack.enter_context(
            subprocess.Popen(_python("--serve"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        url = f"http://127.0.0.1:{_stream(server.stdout).readline().strip()}"
        end = time.monotonic() + 3.0 + seconds
        workers = [
            stack.enter_context(
                _ending(
                    subprocess.Popen(_python("--work", f"{url}/{number}", f"redis://127.0.0.1:{port}", end))
                )
            )
            for number in range(_PROCESSES)
        ]
        start = end - seconds
        fault, pause = start + seconds / 3, start + 2 * seconds / 3
        print(pause if name == "kill" else "inf", file=server.stdin, flush=True)
        _until(fault)
        if name == "kill":
            os.kill(workers[0].pid, signal.SIGKILL)
        elif name == "restart":
            redis.kill()
            redis.wait()
            _until(fault + _OUTAGE)
            stack.enter_context(_ending(_start_redis(port, folder)))
            pause = time.monotonic()
        for worker in workers:
            worker.wait()
        _stream(server.stdin).close()
        paused_at, arrivals = json.loads(_stream(server.stdout).readline())
    arrivals = [(moment, who) for moment, who in arrivals]
    return Run(arrivals, start, end, fault, paused_at if name == "kill" else pause)


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def _count(arrivals: Sequence[float], begin: float, end: float) -> int:
    return bisect_left(arrivals, end) - bisect_left(arrivals, begin)


def _share(arrivals: Sequence[float], spans: Sequence[tuple[float, float]]) -> float:
    requests = sum(_count(arrivals, *span) for span in spans)
    return requests / (sum(end - begin for begin, end in spans) * _RATE / _WINDOW)


def _back_at_rate(arrivals: Sequence[float], since: float, end: float) -> float:
    """Seconds until a second begins that has 95 % of the rate."""
    least = 0.95 * _RATE / _WINDOW
    moment = since
    while _count(arrivals, moment, moment + 1.0) < least and moment < end:
        moment += 0.01
    return moment - since


def _judged(name: str, run: Run) -> str:
    arrivals = [moment for moment, _ in run.arrivals]
    most = max(_count(arrivals, moment, moment + _WINDOW) for moment in arrivals)
    each = [sum(1 for _, who in run.arrivals if who == number) for number in range(_PROCESSES)]
    lines = [f"most in any 60 s {most:,} ({'within' if most <= _CEILING else 'ABOVE'} {_CEILING:,})"]
    lines.append(f"requests of each process: {', '.join(f'{count:,}' for count in each)}")
    if name == "load":
        share = _share(arrivals, [(run.start, run.end)])
        begins = [m for m in (run.start, *arrivals) if run.start <= m <= run.end - _WINDOW]
        least = min((_count(arrivals, m, m + _WINDOW) for m in begins), default=0)
        lines.append(f"least in loaded 60 s {least:,} ({least / _RATE:.1%} of {_RATE:,})")
    elif name == "kill":
        last = max(moment for moment in arrivals if moment < run.pause + _PAUSE - 0.1)
        resumed = run.pause + _PAUSE
        share = _share(arrivals, [(run.start, run.pause), (resumed, run.end)])
        lines += [
            f"killed one: the others had its share after {_back_at_rate(arrivals, run.fault, run.end):.2f} s",
            f"a 429 with Retry-After {_PAUSE}: the last request came {last - run.pause:.2f} s after it",
            f"requests after the 429, in its pause: {_count(arrivals, run.pause, resumed - 0.1):,}",
            f"at the rate again {_back_at_rate(arrivals, resumed, run.end):.2f} s after the pause",
        ]
    else:
        last = max(moment for moment in arrivals if moment < run.pause)
        after = [min(m for m, who in run.arrivals if who == n and m > run.pause) for n in range(_PROCESSES)]
        share = _share(arrivals, [(run.start, run.fault), (max(after), run.end)])
        lines += [
            f"Redis killed: the last request came {last - run.fault:.2f} s after it",
            f"Redis there again: the first request came {min(after) - run.pause:.2f} s later",
            f"all processes had gone on {max(after) - run.pause:.2f} s later",
        ]
    lines.append(f"share of the rate, pauses left out: {share:.1%} of {_RATE:,}")
    return "\n".join(f"  {line}" for line in lines)


def main() -> None:
    """Run all, and print."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--serve"]:
        asyncio.run(_serve())
        return
    if arguments[:1] == ["--work"]:
        asyncio.run(_work(arguments[1], arguments[2], float(arguments[3])))
        return
    if shutil.which("redis-server") is None:
        raise SystemExit("this needs redis-server on the path, such as Debian's package of that name")
    seconds = float(arguments[1]) if arguments[:1] == ["--seconds"] else 70.0
    for name in ("load", "kill", "restart"):
        print(f"{name}, {seconds:.0f} s, {_PROCESSES} processes")
        print(_judged(name, _run(name, seconds)), flush=True)


if __name__ == "__main__":
    main()
