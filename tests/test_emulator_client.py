"""
The library's own client against the emulator: every row arrives, in process and over a socket.
"""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import pytest

from crowdtwist_async import RetryPolicy
from crowdtwist_async.emulator import Emulator, Fault
from crowdtwist_async.emulator.server import EmulatorServer

USERS = ["10000000", "10000001", "10000002", "10000003"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_walks_yield_what_the_emulator_counts(backend: str) -> None:
    """An N-page member costs N requests, one without rows costs one."""
    emulator = Emulator(members=4)

    async def walk() -> list[tuple[int, int, int]]:
        async with emulator.client() as client:
            return [
                (
                    len(await client.iter_user_purchases(user).collect()),
                    len(await client.iter_user_rewards(user).collect()),
                    (await client.points_awaiting_fulfillment(user)).user_id,
                )
                for user in USERS
            ]

    expected = [(emulator.purchases_of(user), emulator.rewards_of(user), int(user)) for user in USERS]
    assert expected == anyio.run(walk, backend=backend)
    pages = sum(max(1, -(-count // 10)) for row in expected for count in row[:2])
    assert pages + len(USERS) == emulator.stats.requests


def test_faults_cost_requests_but_no_rows() -> None:
    """Everything that the script plays is survived."""
    emulator = Emulator(faults=[Fault.reset(), Fault.truncate(), None, Fault.not_json(), Fault.status(503)])

    async def walk() -> int:
        async with emulator.client(retry=RetryPolicy(initial=0.001)) as client:
            return len(await client.iter_user_purchases("10000001").collect())

    assert emulator.purchases_of("10000001") == anyio.run(walk)
    assert () == emulator.pending_faults


def test_options_win() -> None:
    """With URLs, and without the transport, the same client asks a server."""
    emulator = Emulator(api_key="canary-key")

    async def ask(url: str, **options: Any) -> int:
        async with emulator.client(api_url=url, pos_url=url, **options) as client:
            return (await client.points_awaiting_fulfillment("10000001")).user_id

    async def ask_both() -> list[int]:
        async with EmulatorServer(emulator) as server, httpx.AsyncClient(trust_env=False) as http_client:
            return [await ask(server.url, transport=None), await ask(server.url, http_client=http_client)]

    assert [10_000_001, 10_000_001] == anyio.run(ask_both)
