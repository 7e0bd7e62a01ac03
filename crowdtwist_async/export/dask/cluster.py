"""
A Dask cluster: reached or started, asked how large it is, and whether its workers can export.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import anyio
from anyio.lowlevel import checkpoint_if_cancelled, current_token
from anyio.to_thread import run_sync as to_thread
from attrs import frozen

from crowdtwist_async._threads import wait_to_its_end
from crowdtwist_async.errors import ConfigurationError, ExportError
from crowdtwist_async.export.dask import worker
from crowdtwist_async.export.plan import counted
from crowdtwist_async.export.shard import Shard, check_split, shards_at
from crowdtwist_async.export.storage import remove_file, storing

LOCAL = "local"
_LOCAL_WORKERS = (2, 4)
"""At least and at most; between them, one for each processor."""
_MOST_AT_ONCE = 32
"""Shards: one machine alone reaches the ceiling, and each shard reads all ids."""
_SHARDS_AT_A_THREAD = 2
"""A worker that is lost delays the shards that it had: smaller ones are made up for sooner."""
_JOIN_SECONDS = 60.0
_HAS_MASKS = hasattr(signal, "pthread_sigmask")
_OF_AN_END = ("TLS handshake failed", "Worker process still alive")
"""What Dask warns of when it ends processes."""
_MISSING = "Dask needs more packages: pip install 'crowdtwist-async[dask]'"


@asynccontextmanager
async def cluster_at(address: str) -> AsyncIterator[Any]:
    """A client of a cluster, and the cluster too if it is to be local."""
    client_class, cluster_class = await to_thread(_classes)
    if address != LOCAL:
        async with _connected(client_class, address) as client:
            yield client
        return
    if _HAS_MASKS:
        await to_thread(resource_tracker.ensure_running)
    cluster = _local(cluster_class)
    try:
        await _started(cluster)
        async with _connected(client_class, cluster) as client:
            yield client
    finally:
        with _end_untold():
            await _to_its_end(cluster.close())


@contextmanager
def _end_untold() -> Iterator[None]:
    """Say nothing of what ends with the cluster: handshakes that are cut off, a process that lingers."""

    def is_told(record: logging.LogRecord) -> bool:
        return not any(line in record.getMessage() for line in _OF_AN_END)

    logs = [logging.getLogger(name) for name in ("distributed.comm.tcp", "distributed.nanny")]
    for log in logs:
        log.addFilter(is_told)
    try:
        yield
    finally:
        for log in logs:
            log.removeFilter(is_told)


def _local(make: Callable[..., Any]) -> Any:
    least, most = _LOCAL_WORKERS
    try:
        import cryptography  # noqa: F401 - what `security` needs

        from crowdtwist_async.export.dask.owned import Owned
    except ImportError as error:
        raise ConfigurationError(_MISSING) from error
    return make(
        n_workers=min(most, max(least, os.cpu_count() or 1)),
        threads_per_worker=1,
        memory_limit=0,  # shards take little, and Dask would end them for what others take
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},  # 8787 may be taken
        plugins=(Owned(),),
        security=True,  # a task is code, and all users of this machine reach the ports
        asynchronous=True,
    )


async def _started(cluster: Any) -> None:
    try:
        with _out_of_reach_of_ctrl_c():
            await _to_its_end(cluster)  # one that has half begun can't be closed
    except (OSError, RuntimeError) as error:
        raise ExportError(f"the local Dask cluster did not start: {error}") from error


@contextmanager
def _out_of_reach_of_ctrl_c() -> Iterator[None]:
    """
    Start processes that a terminal's Ctrl-C does not end: they can't ignore it before they run.

    Python's resource tracker, if it starts only now, lets the signal through again.
    """
    if not _HAS_MASKS:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _classes() -> tuple[Callable[..., Any], Callable[..., Any]]:
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ConfigurationError(_MISSING) from error
    return Client, LocalCluster


@asynccontextmanager
async def _connected(make: Callable[..., Any], cluster: Any) -> AsyncIterator[Any]:
    client = make(cluster, asynchronous=True, set_as_default=False)
    try:
        await _answered(client, cluster)
        yield client
    finally:
        await _to_its_end(client.close())


async def _answered(client: Any, cluster: Any) -> None:
    try:
        await client
    except (OSError, ValueError) as error:
        raise ExportError(f"no Dask scheduler answers at {cluster}") from error


async def _to_its_end(work: Awaitable[object]) -> None:
    """Wait for what Dask does, whatever comes of it; only then a cancellation is raised, or its error."""
    done = anyio.Event()
    failures: list[Exception] = []

    async def finish() -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - raised below
            failures.append(error)
        finally:
            done.set()

    loop: Any = current_token().native_token
    _task = loop.create_task(finish())  # of its own, and held: no cancellation reaches it
    await wait_to_its_end(done)
    await checkpoint_if_cancelled()
    if failures:
        raise failures[0]


@frozen
class Spread:
    """How a run is spread over a cluster."""

    shards: int
    at_once: int
    workers: int

    def __str__(self) -> str:
        return (
            f"{counted(self.shards, 'shard')} on {counted(self.workers, 'worker')}, {self.at_once} at once,"
            " each"
        )


async def spread_over(client: Any, place: Path, shards: int | None) -> Spread:
    """How many shards: those that are asked for, or lie there, or suit the workers."""
    try:
        await client.wait_for_workers(1, timeout=_JOIN_SECONDS)
    except OSError as error:
        raise ExportError(f"no worker came to the Dask scheduler in {_JOIN_SECONDS:.0f} seconds") from error
    threads = await client.nthreads()
    at_once = min(_MOST_AT_ONCE, sum(threads.values()))
    count = await to_thread(_count_of, place, shards, _SHARDS_AT_A_THREAD * at_once)
    return Spread(count, min(at_once, count), len(threads))


def _count_of(place: Path, asked: int | None, usual: int) -> int:
    """How many shards: what is asked for must be what lies there."""
    count = asked
    if count is None:
        count = next((shard.count for shard in shards_at(place)), usual)
    check_split(place, Shard(0, count))
    return count


async def check_workers(client: Any, ids: str, place: Path, sending: dict[str, str | None]) -> None:
    """
    Have each worker look at the files and its environment, before anything is begun.

    Raises:
        ConfigurationError: One can't do its part.
    """
    marker = await to_thread(_mark, place)
    try:
        found = await client.run(worker.problem_with, ids, marker, sending, on_error="return")
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread(remove_file, Path(marker))
    for address, problem in found.items():
        if isinstance(problem, Exception):
            kind = type(problem).__name__
            raise ConfigurationError(f"worker {address} lacks this release of crowdtwist-async ({kind})")
        if problem is not None:
            raise ConfigurationError(f"worker {address} can't export: {problem}")


def _mark(place: Path) -> str:
    """Make a file that shows whether others see this folder."""
    with storing(place):
        descriptor, marker = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
        os.close(descriptor)
    return marker
