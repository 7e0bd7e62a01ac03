"""
`python -m benchmarks.faulty_export [--members 10000] [--rate-limits]`: an export while much goes wrong.

Purchases of so many of the emulator's members to JSON Lines: 30 % of the requests end in a random fault,
and in the middle nothing but 503 is answered for 20 seconds. The rows are compared with those of an export
without faults, and the requests with those that are needed. Every 429 pauses everybody, so `--rate-limits`,
with which one in six faults is one, takes about 18 minutes instead of one.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from crowdtwist_async import CrowdTwistError, Reply, Request
from crowdtwist_async.emulator import Emulator
from crowdtwist_async.export import ExportReport, export

_SHARE = 0.3
_BEFORE, _OUTAGE = 5.0, 20.0
_MOST = 1.6
"""Requests for a needed one."""


class _Outage:
    """Answers 503 for a while, and what the emulator answers at other times."""

    def __init__(self, emulator: Emulator, *, rate_limits: bool) -> None:
        self._inner = emulator.transport()
        self._rate_limits = rate_limits
        self._begin = time.monotonic() + _BEFORE
        self.refused = 0

    async def send(self, request: Request, /) -> Reply | CrowdTwistError:
        """Answer one request."""
        if self._begin <= time.monotonic() < self._begin + _OUTAGE:
            self.refused += 1
            return Reply(503, {}, b"")
        reply = await self._inner.send(request)
        if isinstance(reply, Reply) and reply.status == 429 and not self._rate_limits:
            return Reply(500, {}, b"")
        return reply

    async def aclose(self) -> None:
        """The emulator holds nothing."""


async def _export(members: int, output: Path, *, faulty: bool, rate_limits: bool = False) -> ExportReport:
    emulator = Emulator(members=members, fault_rate=_SHARE if faulty else 0.0)
    transport = _Outage(emulator, rate_limits=rate_limits) if faulty else emulator.transport()
    async with emulator.client(transport=transport) as client:
        report = await export(client, "purchases", emulator.member_ids(), output)
    if isinstance(transport, _Outage):
        print(f"requests in the outage: {transport.refused:,}")
    return report


async def _compare(folder: Path, members: int, *, rate_limits: bool) -> None:
    plain = await _export(members, folder / "plain.jsonl", faulty=False)
    faulty = await _export(members, folder / "faulty.jsonl", faulty=True, rate_limits=rate_limits)
    rows = [sorted((folder / name).read_text().splitlines()) for name in ("plain.jsonl", "faulty.jsonl")]
    share = faulty.requests / plain.requests
    print(
        f"{faulty.status}: {faulty.done:,} of {faulty.ids:,} members done, {faulty.failed:,} failed,"
        f" {faulty.seconds:,.0f} s\n"
        f"rows: {faulty.rows:,}, {'the same as' if rows[0] == rows[1] else 'OTHERS THAN'} without faults\n"
        f"requests: {faulty.requests:,}, {share:.3f} for each of the {plain.requests:,} needed"
        f" ({'within' if share <= _MOST else 'ABOVE'} {_MOST})"
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faulty_export", description=__doc__)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--rate-limits", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_compare(Path(folder), arguments.members, rate_limits=arguments.rate_limits))


if __name__ == "__main__":
    main()
