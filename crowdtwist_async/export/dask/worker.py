"""
What runs on Dask's workers: an export of one shard, in a worker's thread, on an event loop of its own.

What it is told and what it returns are plain values without ids or the key: Dask keeps and shows them. It
raises nothing, as Dask would log the traceback with its locals.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from time import monotonic
from traceback import extract_tb
from typing import Any

import anyio
from attrs import frozen

from crowdtwist_async._budget import Budget, RateBudget
from crowdtwist_async._secrets import Secret
from crowdtwist_async.budgets import BUDGET
from crowdtwist_async.client import CrowdTwistClient
from crowdtwist_async.errors import CrowdTwistError, OutputLockedError
from crowdtwist_async.export.api import export
from crowdtwist_async.export.ids import read_ids
from crowdtwist_async.export.report import ExportReport

TOPIC = "crowdtwist-export"
"""Where shards tell how far they are."""
PATIENCE = 120.0
"""Seconds that a lock may be held by a process that is gone: NFS 4 notices it after 90."""
_TELL_SECONDS = 1.0
_LOOK_SECONDS = 0.25
_STOPPED: set[str] = set()
"""The runs whose shards end early."""
_ENDING = {"closing", "closed", "stopping", "failed"}
_NOT_TOLD = {"output", "endpoint", "status", "reason", "completed_at", "shard", "waiting", "errors_file"}
"""In a report: what is no number."""


@frozen
class Host:
    """The worker, as far as a shard sees it."""

    log_event: Callable[[str, dict[str, Any]], None]
    """Tells whoever listens to a topic."""
    is_wanted: Callable[[], bool]
    """Whether anybody still waits for this shard."""


def host_here() -> Host:
    """Dask's worker that runs the task of this thread."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def is_wanted() -> bool:
        """Not when the command or the scheduler is gone: the worker forgets the task then."""
        task = worker.state.tasks.get(key)
        return task is not None and task.state != "cancelled" and worker.status.name not in _ENDING

    return Host(worker.log_event, is_wanted)


def end_early(run: str) -> None:
    """Have the shards of a run on this worker finish what is under way, and end."""
    _STOPPED.add(run)


def problem_with(ids: str, marker: str, sending: dict[str, str | None]) -> str | None:
    """What keeps this worker from exporting, in a sentence."""
    if not os.access(ids, os.R_OK):
        return f"it can't read {ids}"
    if not Path(marker).exists():
        return f"its folder {Path(marker).parent} is another one than here"
    if not os.access(Path(marker).parent, os.W_OK):
        return f"it can't write to {Path(marker).parent}"
    if sending["budget_name"] is not None and not os.environ.get(BUDGET):
        return f"its environment lacks {BUDGET}, where the rate is that the command shares"
    try:
        _made(1.0, sending)
    except (CrowdTwistError, ImportError) as error:
        return f"in its environment: {error}"
    return None


def export_shard(shard: str, run: str, order: dict[str, Any]) -> dict[str, Any]:
    """
    Export one shard.

    Args:
        shard: Which, such as `2/7`.
        run: The run that it belongs to, for `end_early` and what it tells.
        order: The arguments of `export`, where the ids are, and requests a minute of this shard.

    Returns:
        What came of it: the report, or what kind of error and its sentence.
    """
    try:
        report = anyio.run(_exported, host_here(), shard, run, order)
    except CrowdTwistError as error:
        return {"kind": type(error).__name__, "error": str(error)}
    except OSError as error:
        return {"kind": "StorageError", "error": f"{error.filename or 'the system'}: {error.strerror}"}
    except Exception as error:  # noqa: BLE001 - its text may be anything, an id included
        last = extract_tb(error.__traceback__)[-1]
        return {
            "kind": "ExportError",
            "error": f"{type(error).__name__} in {last.filename}, line {last.lineno}",
        }
    return {name: value for name, value in report.as_dict().items() if name != "budget_use"}


async def _exported(host: Host, shard: str, run: str, order: dict[str, Any]) -> ExportReport:
    stop = anyio.Event()
    report: ExportReport | None = None
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(_watch, host, run, stop)
        try:
            report = await _unlocked(host, shard, run, order, stop)
        except Exception as error:  # noqa: BLE001 - raised below, as the group would wrap it
            failure = error
        group.cancel_scope.cancel()
    if report is None:
        raise failure or RuntimeError("ended without a report")
    return report


async def _watch(host: Host, run: str, stop: anyio.Event) -> None:
    """Stop when asked to, or when nobody waits any more."""
    while run not in _STOPPED and host.is_wanted():  # noqa: ASYNC110 - set by another thread
        await anyio.sleep(_LOOK_SECONDS)
    stop.set()


async def _unlocked(
    host: Host, shard: str, run: str, order: dict[str, Any], stop: anyio.Event
) -> ExportReport:
    """Export as soon as a worker that was lost with this shard is really gone."""
    until = anyio.current_time() + PATIENCE
    client, shared = _made(order["per_minute"], order["sending"])
    async with shared, client:
        while True:
            try:
                return await export(
                    client,
                    order["endpoint"],
                    read_ids(order["ids"], order["column"]),
                    order["output"],
                    shard=shard,
                    stop=stop,
                    progress=_teller(host, shard, run),
                    **order["options"],
                )
            except OutputLockedError:
                if stop.is_set() or anyio.current_time() >= until:
                    raise
            with anyio.move_on_after(1.0):
                await stop.wait()


def _made(
    per_minute: float, sending: dict[str, str | None]
) -> tuple[CrowdTwistClient, AbstractAsyncContextManager[object]]:
    """
    A client by this worker's environment, and what is to be closed after it.

    The URL of a shared budget may hold a password, so no task carries it.
    """
    shared: Any = nullcontext()
    budget: Budget = RateBudget(per_minute)
    if sending["budget_name"] is not None:
        from crowdtwist_async.budgets.redis import RedisBudget

        url, name = Secret(os.environ[BUDGET]), sending["budget_name"]
        budget = shared = RedisBudget(url, key=name, per_minute=per_minute)
    options: dict[str, Any] = {"budget": budget}
    if sending["transport"] == "aiohttp":
        from crowdtwist_async.transports.aiohttp import AiohttpTransport

        options["transport"] = AiohttpTransport()
    return CrowdTwistClient.from_env(**options), shared


def _teller(host: Host, shard: str, run: str) -> Callable[[ExportReport], None]:
    """Tell counts, and no more often than anybody looks."""
    told = -_TELL_SECONDS

    def tell(report: ExportReport) -> None:
        nonlocal told
        if monotonic() - told < _TELL_SECONDS:
            return
        told = monotonic()
        counts = {name: value for name, value in report.as_dict().items() if name not in _NOT_TOLD}
        host.log_event(
            TOPIC, {"run": run, "shard": shard, "is_waiting": report.waiting is not None, **counts}
        )

    return tell
