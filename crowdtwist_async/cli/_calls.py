"""
Single members, printed as JSON Lines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio.to_thread
import msgspec
from attrs import AttrsInstance

from crowdtwist_async._pager import Pager
from crowdtwist_async.cli._connect import Connection
from crowdtwist_async.cli._output import write
from crowdtwist_async.client import CrowdTwistClient
from crowdtwist_async.models import CommonIdTypeText, as_dict


async def print_points(connection: Connection, user: str, id_type: CommonIdTypeText) -> int:
    """Print one member's points."""
    async with await _client(connection) as client:
        await _print(await client.points_awaiting_fulfillment(user, id_type=id_type))
    return 0


async def print_all(connection: Connection, pager: Callable[[CrowdTwistClient], Pager[Any]]) -> int:
    """Print everything that a walk yields."""
    async with await _client(connection) as client:
        async for item in pager(client):
            await _print(item)
    return 0


async def _client(connection: Connection) -> CrowdTwistClient:
    """The client, made off the event loop: its key may be in a file."""
    return await anyio.to_thread.run_sync(connection.client, connection.make_emulator())


async def _print(item: AttrsInstance) -> None:
    """One line, at once: whoever reads it may act on it before the last page is there."""
    await anyio.to_thread.run_sync(write, msgspec.json.encode(as_dict(item)).decode() + "\n")
