"""
A server that costs next to nothing: fixed pages of 10 rewards, over keep-alive, at once or after a moment.

It runs in a process of its own, so that only the client's work is measured. What is asked for the user
`64-at-once`, and page 1064 of any user, waits until 64 such requests are there, or 2 seconds have passed;
then `total` is their number.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_REWARD = {
    "id": "541043",
    "group_id": 8116,
    "title": "Test Reward #7",
    "description": "Reward with variance and required shipping and phone",
    "current_quantity": 4,
    "num_points": 20,
    "date_start": 1402057860,
    "date_end": None,
    "date_end_redeemable": None,
    "is_enabled": 1,
    "category_id": 2631,
    "no_end_date": 1,
    "total_quantity": 9999999,
    "max_select_quantity": None,
    "max_per_user": 2,
    "is_shipping_required": 0,
    "is_phone_number_required": 1,
    "is_min_age_required": "0",
    "min_age": None,
    "is_digital_download": 0,
    "sweepstakes_winners": None,
    "extra_data": None,
    "reference_id": "46a6sd",
    "total_coupons": 0,
    "remaining_coupons": 0,
    "freq_cap": None,
    "freq_period_id": None,
    "freq_period_name": None,
    "image": "https://cdn.example.com/img/v2/image.jpg",
    "reward_terms": None,
    "min_tier_id": None,
    "segment": {"name": "5x login", "subscription_id": 123, "eligibility_type": "inclusion"},
    "partner_info": {"id": 4869684, "name": "Acme Car Rentals"},
}
_AT_ONCE = re.compile(rb"/users/(\d+)-at-once/")
_PAGE = re.compile(rb"[?&]page=(\d+)")
HELD = 1_000
"""The page number from which on replies wait for each other."""
_PATIENCE = 2.0
_BACKLOG = 1_024
"""Connections that wait to be accepted: a burst beyond it would wait for seconds."""
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


def page_body(number: int = 1, pages: int = 1, total: int = 10) -> bytes:
    """A page of 10 rewards."""
    onward = f"https://example.com/rewards?page={number + 1}" if number < pages else None
    paging = {"total": total, "pages": pages, "next_page": onward, "prev_page": None}
    rewards = [{**_REWARD, "id": str(541_043 + 10 * number + row)} for row in range(10)]
    return json.dumps({"paging": paging, "rewards": rewards}).encode()


def _reply(number: int, pages: int, total: int) -> bytes:
    body = page_body(number, pages, total)
    return _HEAD % len(body) + body


class _Held:
    """The requests that wait for each other."""

    def __init__(self) -> None:
        self._connections: list[_Connection] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: _Connection, most: int) -> None:
        self._connections.append(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._answer)
        if len(self._connections) == most:
            self._timer.cancel()
            self._answer()

    def _answer(self) -> None:
        reply = _reply(1, 1, len(self._connections))
        for connection in self._connections:
            connection.write(reply)
        self._connections, self._timer = [], None


class _Connection(asyncio.Protocol):
    """Answers every request head with its page."""

    replies: dict[int, bytes] = {}  # noqa: RUF012 - one for all connections, like the next two
    seconds = 0.0
    held = _Held()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._heads = b""

    def data_received(self, data: bytes) -> None:
        *complete, self._heads = (self._heads + data).split(b"\r\n\r\n")
        for head in complete:
            if (together := _AT_ONCE.search(head)) is not None:
                self.held.add(self, int(together[1]))
                continue
            page = _PAGE.search(head)
            number = int(page[1]) if page else 1
            if number > HELD:
                self.held.add(self, number - HELD)
                continue
            reply = self.replies[number]
            if self.seconds:
                asyncio.get_running_loop().call_later(self.seconds, self.write, reply)
            else:
                self.write(reply)

    def write(self, reply: bytes) -> None:
        """Answer, if the client has not gone."""
        if not self._transport.is_closing():
            self._transport.write(reply)


async def _serve(pages: int, seconds: float, certificate: str | None = None) -> None:
    _Connection.replies = {number: _reply(number, pages, 10 * pages) for number in range(1, pages + 1)}
    _Connection.seconds = seconds
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    tls = None
    if certificate is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
    server = await asyncio.get_running_loop().create_server(
        _Connection, "127.0.0.1", 0, ssl=tls, backlog=_BACKLOG
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    # Whoever started it holds the other end, and may be killed.
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, over.set)
    await over.wait()
    server.close()


@contextmanager
def running(pages: int = 1, seconds: float = 0.0, *, certificate: Path | None = None) -> Iterator[str]:
    """Run a server with so many pages, each sent after so many seconds; yield its URL."""
    command = [sys.executable, "-m", "benchmarks.server", str(pages), str(seconds)]
    command += [str(certificate)] if certificate else []
    scheme = "https" if certificate else "http"
    # It ends when its input does.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield f"{scheme}://127.0.0.1:{int(process.stdout.readline())}"


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:]))
