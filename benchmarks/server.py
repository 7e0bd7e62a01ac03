"""
A server that costs next to nothing: a fixed page of 10 rewards for every request, over keep-alive.

It runs in a process of its own, so that only the client's work is measured.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
_PAGING = {"total": 10, "pages": 1, "next_page": None, "prev_page": None}
BODY = json.dumps({"paging": _PAGING, "rewards": [_REWARD] * 10}).encode()
_REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)


class _Connection(asyncio.Protocol):
    """Answers every request head with the same reply."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._heads = b""

    def data_received(self, data: bytes) -> None:
        *complete, self._heads = (self._heads + data).split(b"\r\n\r\n")
        assert isinstance(self._transport, asyncio.WriteTransport)
        self._transport.write(_REPLY * len(complete))


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def running() -> Iterator[str]:
    """Run the server; yield its URL."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.server"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(_serve())
