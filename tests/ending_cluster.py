"""
A program whose local cluster ends amid heartbeats of its workers: `running` or while it is still `starting`.

Of one that runs, the handshake of a connection is cut off too, and one process lingers.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Any

import anyio

from crowdtwist_async.export.dask.cluster import cluster_at

ONE_IS_LATE = """
import os, time

def dask_setup(worker):
    while worker.name == 1 and not os.path.exists(os.environ["HEARTBEAT"]):
        time.sleep(0.02)
"""
"""Text of a module that each worker runs before it joins."""
ONE_LINGERS = """
import time

def dask_teardown(worker):
    time.sleep(60 if worker.name == 1 else 0)
"""
"""Dask kills it after four seconds, and warns."""
NONE_IS_ANSWERED = """
import __main__

def dask_setup(scheduler):
    scheduler.handlers["heartbeat_worker"] = __main__.beat_without_end
"""
BEATING: set[str] = set()


async def beat_without_end(*, address: str, **_: object) -> None:
    """The scheduler's side of a heartbeat."""
    BEATING.add(address)
    await asyncio.Event().wait()


async def end_running() -> None:
    """Begin what is cut off, and end the cluster."""
    async with anyio.create_task_group() as group:
        async with cluster_at("local") as client:
            scheduler = client.cluster.scheduler
            while len(BEATING) < len(scheduler.workers):  # noqa: ASYNC110 - set by Dask
                await anyio.sleep(0.02)
            handshake = socket.create_connection(("127.0.0.1", scheduler.port))
            group.start_soon(cut, client.cluster, handshake)


async def cut(cluster: Any, handshake: socket.socket) -> None:
    """Close a connection when the cluster closes."""
    while cluster.status.name != "closing":  # noqa: ASYNC110 - set by Dask
        await anyio.sleep(0.001)
    handshake.close()


async def end_starting() -> None:
    """One worker beats, the other joins only when the cluster is to end."""
    async with anyio.create_task_group() as group:
        group.start_soon(cancel, group.cancel_scope)
        async with cluster_at("local"):
            raise SystemExit("it started")


async def cancel(scope: anyio.CancelScope) -> None:
    """What Ctrl-C does."""
    while not BEATING:  # noqa: ASYNC110 - set by Dask
        await anyio.sleep(0.02)
    scope.cancel()
    Path(os.environ["HEARTBEAT"]).touch()  # noqa: ASYNC240 - short


if __name__ == "__main__":
    os.environ["DASK_DISTRIBUTED__SCHEDULER__PRELOAD"] = NONE_IS_ANSWERED
    os.environ["DASK_DISTRIBUTED__WORKER__PRELOAD"] = {"running": ONE_LINGERS, "starting": ONE_IS_LATE}[
        sys.argv[1]
    ]
    anyio.run({"running": end_running, "starting": end_starting}[sys.argv[1]])
    print(f"ended while {sys.argv[1]}, amid heartbeats")
