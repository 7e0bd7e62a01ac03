"""
Exports on Dask: shards as tasks of a cluster, each the same exporter, with a ledger of its own.

A task is told its shard and where the ids are; the key is in the environment of each worker. Dask moves
shards away from workers that are lost; that no row is lost or doubled is up to the files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from functools import partial
from math import ceil
from pathlib import Path
from time import monotonic
from typing import Any, Literal, TypeVar

import anyio
from anyio.to_thread import run_sync as to_thread

from crowdtwist_async._budget import RateBudget
from crowdtwist_async._config import checked_positive
from crowdtwist_async._threads import in_daemon_thread
from crowdtwist_async.errors import ConfigurationError, CrowdTwistError, OutputLockedError
from crowdtwist_async.export.dask import worker
from crowdtwist_async.export.dask.cluster import Spread, check_workers, cluster_at, spread_over
from crowdtwist_async.export.dask.run import Run
from crowdtwist_async.export.dask.total import Total
from crowdtwist_async.export.ids import read_ids
from crowdtwist_async.export.ledger import Ledger, Totals
from crowdtwist_async.export.locks import lock, unlock
from crowdtwist_async.export.places import STANDARD_OUTPUT, check_apart, check_place, ledger_path
from crowdtwist_async.export.plan import EXPORT_RATE
from crowdtwist_async.export.report import ExportReport
from crowdtwist_async.export.shard import (
    Shard,
    check_not_half_emptied,
    mark_half_emptied,
    unmark_half_emptied,
)
from crowdtwist_async.export.source import EndpointName, Source
from crowdtwist_async.export.storage import storing
from crowdtwist_async.export.target import Target, has_content
from crowdtwist_async.models import IdType, IdTypeText

T = TypeVar("T")
_AGAIN_SECONDS = 1.0


async def export_on_dask(
    address: str,
    endpoint: EndpointName,
    ids: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    shards: int | None = None,
    per_minute: float = EXPORT_RATE,
    budget_name: str | None = None,
    transport: Literal["httpx", "aiohttp"] = "httpx",
    column: str | None = None,
    id_type: IdType | IdTypeText = "id",
    include_soldout: bool | None = None,
    date_start: date | str | None = None,
    date_end: date | str | None = None,
    concurrency: int = 64,
    fresh: bool = False,
    retry_failed: bool = False,
    max_age: float | timedelta | None = None,
    max_outage: float = 900.0,
    disarm_formulas: bool = False,
    progress: Callable[[ExportReport], None] | None = None,
    announce: Callable[[str], None] | None = None,
    stop: anyio.Event | None = None,
) -> ExportReport:
    """
    Export all rows of many members on a Dask cluster, in shards; on asyncio alone.

    Workers make their clients by `CrowdTwistClient.from_env`, and see the ids and the output under the
    same names as this process. Export again with the same arguments, and it goes on; shards that are
    complete make no request. What is not named here is that of `export`.

    Args:
        address: Of a scheduler, such as `tcp://host:8786`, or `local`: a cluster on this machine, which
            ends with the export. Its processes import your program: call this below
            `if __name__ == "__main__"`.
        endpoint: `points`, `rewards` or `purchases`.
        ids: A file that all workers see.
        output: What the shards make together: a Parquet folder, or what `merge` makes of them.
        shards: How many; by default as many as lie there, or two for each thread of the workers.
        per_minute: Requests a minute of the whole run, in equal parts for the shards that run at once.
        budget_name: Share the rate with other programs, by a `RedisBudget` of this key at the URL that each
            worker's `CROWDTWIST_BUDGET` has; `per_minute` is then that of all who share it.
        transport: What sends the workers' requests.
        column: The ids are in this column of a CSV file.
        id_type: What the ids are.
        include_soldout: Rewards: also those of which none are left.
        date_start: Purchases: the first day.
        date_end: Purchases: the last day; by default the day (UTC) on which the output was begun.
        concurrency: Members at once, in all shards that run.
        fresh: Remove what earlier exports of the shards wrote there, and begin anew.
        retry_failed: Try members again that failed in an earlier run.
        max_age: Seconds, or a `timedelta`, after which a complete shard is refused.
        max_outage: Seconds that an API which does not answer is waited for.
        disarm_formulas: CSV: put an apostrophe before texts that spreadsheets would calculate.
        progress: Called, on the event loop, with the sum of the shards' reports as it grows.
        announce: Called with a sentence that says how the run is spread.
        stop: Set it to end the run early: members under way are finished and committed, for five seconds.

    Returns:
        The sum of the shards' reports.

    Raises:
        ExportError: The cluster can't be reached, or has no worker; or a shard's own error.
        ConfigurationError: Dask is missing, or a worker lacks the key, the ids or the output's folder.
        Other errors are those of `export`: the first ends all shards.
    """
    source = Source(
        endpoint, id_type, include_soldout=include_soldout, date_start=date_start, date_end=date_end
    )
    place, id_file = await to_thread(partial(_places, output, ids, disarm_formulas=disarm_formulas))
    order: dict[str, Any] = {
        "endpoint": endpoint,
        "ids": id_file,
        "column": column,
        "output": str(place),
        "per_minute": RateBudget(per_minute).per_minute,
        "sending": {"budget_name": budget_name, "transport": transport},
        "options": {
            **_arguments(source),
            "concurrency": checked_positive(concurrency, "concurrency"),
            "retry_failed": retry_failed,
            "max_age": max_age.total_seconds() if isinstance(max_age, timedelta) else max_age,
            "max_outage": max_outage,
            "disarm_formulas": disarm_formulas,
        },
    }
    found = await in_daemon_thread(read_ids(ids, column).count)
    report = ExportReport(
        str(place), endpoint, ids=found.ids, blank=found.blank, per_minute=order["per_minute"]
    )
    async with cluster_at(address) as client:
        spread = await spread_over(client, place, shards)
        await check_workers(client, id_file, place, order["sending"])
        await to_thread(partial(_check_apart, id_file, place, spread.shards))
        stop = stop or anyio.Event()
        if not fresh:
            await to_thread(partial(check_not_half_emptied, place))
        before, day = await _prepared(place, spread.shards, endpoint, stop, fresh=fresh)
        _share(order, spread, day)
        if announce is not None:
            announce(f"{endpoint}: {spread} at {order['per_minute']:,.6g} requests a minute.")
        total = Total(report, place, spread.shards, before, retry_failed=retry_failed)
        return await Run(client, spread, order, total, progress, stop).finish()


def _places(
    output: str | os.PathLike[str], ids: str | os.PathLike[str], *, disarm_formulas: bool
) -> tuple[Path, str]:
    """The output and the ids, by names that hold in any folder."""
    if os.fspath(output) == STANDARD_OUTPUT or os.fspath(ids) == "-":
        raise ConfigurationError(
            "Dask's workers share neither standard input nor standard output: name files"
        )
    place = str(Path(output).absolute())
    check_place(place, Shard(0, 1), disarm_formulas=disarm_formulas)
    return Path(place), str(Path(ids).absolute())


def _arguments(source: Source) -> dict[str, Any]:
    return {
        "id_type": str(source.id_type),
        "include_soldout": source.include_soldout,
        "date_start": source.date_start and str(source.date_start),
        "date_end": source.date_end and str(source.date_end),
    }


def _share(order: dict[str, Any], spread: Spread, day: str | None) -> None:
    """Give each shard that runs its part of the rate, and all of them the same last day."""
    options = order["options"]
    if order["sending"]["budget_name"] is None:
        order["per_minute"] /= spread.at_once
    options["concurrency"] = ceil(options["concurrency"] / spread.at_once)
    if order["endpoint"] == "purchases" and options["date_end"] is None:
        options["date_end"] = day or datetime.now(UTC).date().isoformat()


async def _prepared(
    place: Path, count: int, endpoint: str, stop: anyio.Event, *, fresh: bool
) -> tuple[dict[Shard, Totals], str | None]:
    """What the shards have that were begun before, and the last day that they were begun with."""
    before: dict[Shard, Totals] = {}
    day: str | None = None
    shards = [Shard(index, count) for index in range(count)]
    if fresh:
        await _empty(place, shards, endpoint, stop)
        return before, day
    for shard in shards:
        found = await _patiently(partial(_found, place, shard), stop)
        if found is not None:
            before[shard], day = found[0], found[1] or day
    return before, day


async def _empty(place: Path, shards: list[Shard], endpoint: str, stop: anyio.Event) -> None:
    """Empty all shards here, once: a task that runs again must not begin anew."""
    for shard in shards:
        await _patiently(partial(_check_unlocked, place, shard), stop)
    # With some of them emptied, what the others have would pass for theirs.
    was_marked = await to_thread(partial(mark_half_emptied, place))
    for shard in shards:
        try:
            await _patiently(partial(_emptied, place, endpoint, shard), stop)
        except CrowdTwistError:
            if shard.index == 0 and not was_marked:
                await to_thread(partial(unmark_half_emptied, place))
            raise
    await to_thread(partial(unmark_half_emptied, place))


def _check_unlocked(place: Path, shard: Shard) -> None:
    path = ledger_path(place, shard)
    with storing(path):
        if path.exists():
            unlock(lock(path, f"shard {shard} of {place}"))


def _emptied(place: Path, endpoint: str, shard: Shard) -> None:
    Target(str(place), endpoint, fresh=True, shard=shard).close()


def _check_apart(ids: str, place: Path, count: int) -> None:
    """Refuse ids in a file that the export, or one of its shards, writes, and names that are too long."""
    check_place(str(place), Shard(count - 1, count))
    for shard in (None, *(Shard(index, count) for index in range(count))):
        check_apart(Path(ids), str(place), shard)


def _found(place: Path, shard: Shard) -> tuple[Totals, str | None] | None:
    path = ledger_path(place, shard)
    if not has_content(path):
        return None
    with closing(Ledger(path, f"shard {shard} of {place}")) as ledger:
        return ledger.totals(), ledger.get("date_end")


async def _patiently(looking: Callable[[], T], stop: anyio.Event) -> T:
    """Look at what a worker that was lost, or is about to end, may hold for a while."""
    until = monotonic() + worker.PATIENCE
    while True:
        try:
            return await to_thread(looking)
        except OutputLockedError:
            if stop.is_set() or monotonic() >= until:
                raise
        with anyio.move_on_after(_AGAIN_SECONDS):
            await stop.wait()
