"""
A program whose local cluster ends amid a heartbeat of each worker, and amid the handshake of a connection.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import anyio

from crowdtwist_async.export.dask.cluster import cluster_at


async def main() -> None:
    """Begin them, and end the cluster."""
    beating: set[str] = set()
    never = asyncio.Event()

    async def answer_never(*, address: str, **_: object) -> None:
        beating.add(address)
        await never.wait()

    async with anyio.create_task_group() as group:
        async with cluster_at("local") as client:
            scheduler = client.cluster.scheduler
            scheduler.handlers["heartbeat_worker"] = answer_never
            while len(beating) < len(scheduler.workers):  # noqa: ASYNC110 - set by Dask
                await anyio.sleep(0.02)
            handshake = socket.create_connection(("127.0.0.1", scheduler.port))
            group.start_soon(cut, client.cluster, handshake)
    print("heartbeats and a handshake were cut off")


async def cut(cluster: Any, handshake: socket.socket) -> None:
    """Close a connection when the cluster closes."""
    while cluster.status.name != "closing":  # noqa: ASYNC110 - set by Dask
        await anyio.sleep(0.001)
    handshake.close()


if __name__ == "__main__":
    anyio.run(main)
