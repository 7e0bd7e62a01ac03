"""
`export`: what the command and a program of your own call.
"""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import AsyncIterable, Callable, Generator, Iterable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
from attrs import evolve

from crowdtwist_async._arguments import checked_flag
from crowdtwist_async._config import checked_positive
from crowdtwist_async._threads import in_daemon_thread
from crowdtwist_async.client import CrowdTwistClient
from crowdtwist_async.errors import ConfigurationError
from crowdtwist_async.export.ids import IdCount, IdSource, collect_ids
from crowdtwist_async.export.outage import OutageError
from crowdtwist_async.export.places import STANDARD_OUTPUT, check_apart, check_place
from crowdtwist_async.export.report import ExportReport, duplicates_in
from crowdtwist_async.export.rows import iso
from crowdtwist_async.export.run import Pace, Run
from crowdtwist_async.export.shard import Shard
from crowdtwist_async.export.source import EndpointName, Source
from crowdtwist_async.export.store import FileWork
from crowdtwist_async.export.target import Target
from crowdtwist_async.models import IdType, IdTypeText

_DATE_END = "date_end_pinned"


async def export(
    client: CrowdTwistClient,
    endpoint: EndpointName,
    user_ids: Iterable[str] | AsyncIterable[str] | Path | IdSource,
    output: str | os.PathLike[str],
    *,
    id_type: IdType | IdTypeText = "id",
    include_soldout: bool | None = None,
    date_start: date | str | None = None,
    date_end: date | str | None = None,
    shard: Shard | str | None = None,
    concurrency: int = 64,
    fresh: bool = False,
    retry_failed: bool = False,
    max_age: float | timedelta | None = None,
    max_outage: float = 900.0,
    disarm_formulas: bool = False,
    progress: Callable[[ExportReport], None] | None = None,
    stop: anyio.Event | None = None,
) -> ExportReport:
    """
    Export all rows of many members: one request a page of 10, at least one a member.

    All rows of a member are committed together with the mark that it is done. Export again with the
    same arguments, and it goes on where it was stopped, killed or cancelled; what is complete makes
    no request. A member that fails does not end the run: see `ExportReport.failed`.

    Args:
        client: An open client; its budget is the rate.
        endpoint: `points`, `rewards` or `purchases`.
        user_ids: The members: any iterable, a file as a `Path`, or `read_ids(path, column=)`. They are
            read twice, and each id is exported once. An iterable that is not async is consumed in
            another thread; an async generator is closed. To go on takes the same ids in the same
            order, of which the ledger keeps a digest; those of a set are sorted.
        output: `OUT.jsonl`, `OUT.csv`, `OUT.parquet` (a folder), `OUT.sqlite`, or `-`: JSON Lines on
            standard output, which can't be gone on with. Parquet also goes to an object store:
            `s3://bucket/OUT.parquet`, `gs://`, `memory://`.
        id_type: What the ids are.
        include_soldout: Rewards: also those of which none are left.
        date_start: Purchases: the first day.
        date_end: Purchases: the last day; by default the day (UTC) on which the output was begun.
        shard: Export only the members of one shard, such as `2/7`: see `Shard`. Each shard is told of
            all members, and has a name, a ledger and a lock of its own beside or in the output.
        concurrency: Members at once.
        fresh: Remove what an earlier export wrote there, and begin anew.
        retry_failed: Try members again that failed in an earlier run.
        max_age: Seconds, or a `timedelta`, after which a complete output is refused.
        max_outage: Seconds that an API which does not answer is waited for.
        disarm_formulas: CSV: put an apostrophe before texts that spreadsheets would calculate.
        progress: Called, on the event loop, with the same report as it fills.
        stop: Set it to end the run early: members under way are finished and committed, for five seconds.

    Raises:
        InvalidArgumentError: An argument can't work for any member.
        ConfigurationError: The ids can't be read, or the output has no known format.
        OutputLockedError: Another export writes there.
        OutputMismatchError: The output was begun otherwise, or is damaged, too old, or not an export's.
        StorageError: The output can't be written.
        AuthenticationError: The key is refused. Other errors that all members would meet are raised
            as well; what was fetched before is committed.
    """
    source = Source(
        endpoint, id_type, include_soldout=include_soldout, date_start=date_start, date_end=date_end
    )
    pace = Pace(
        checked_positive(concurrency, "concurrency"),
        _checked_seconds(max_outage, "max_outage", 0.0),
        retry_failed=retry_failed,
    )
    part = None if shard is None else _checked_shard(shard, source)
    age = None if max_age is None else _checked_seconds(max_age, "max_age")
    _check_flags(fresh=fresh, retry_failed=retry_failed, disarm_formulas=disarm_formulas)
    place, stop = _checked_output(output), _checked_stop(stop)
    _check_progress(progress)
    if place == STANDARD_OUTPUT and (fresh or retry_failed or max_age is not None):
        raise ConfigurationError("standard output holds no earlier export: name a file")
    await in_daemon_thread(partial(check_place, place, part, disarm_formulas=disarm_formulas))
    report = ExportReport(place, endpoint, per_minute=_rate(client))
    report.shard = None if part is None else str(part)
    found = await _counted(user_ids, part, stop)
    if found is None:
        report.status, report.reason = "stopped", "all ids had not come yet, and nothing was begun"
        return report
    ids, counted = found
    await in_daemon_thread(partial(check_apart, ids.path, place, part))
    report.ids, report.blank, report.other_shards = counted.ids, counted.blank, counted.other_shards
    asked = _asked(client, source, counted, part) | {"disarm_formulas": str(bool(disarm_formulas))}
    work = FileWork()
    try:
        opening = partial(Target, place, endpoint, fresh=fresh, disarm_formulas=disarm_formulas, shard=part)
        target = await work.do(lambda: _opened(work, opening()))
        source = await work.do(partial(_begin, target, asked, source, report, age))
        if report.completed_at is not None and not (retry_failed and report.failed):
            report.status = "already_complete"
        else:
            if retry_failed:
                report.resumed, report.failed = report.resumed - report.failed, 0
            run = Run(client, source, target, report, work, pace=pace, stop=stop, progress=progress)
            work.opened.callback(_tell_what_is_committed, report, target, id_type)
            await _run(run, target, report, work, ids)
        report.errors_file = await work.do(partial(target.write_errors, id_type))
    finally:
        await work.close()
    if progress is not None:
        progress(report)
    return report


async def _counted(
    user_ids: Iterable[str] | AsyncIterable[str] | Path | IdSource, shard: Shard | None, stop: anyio.Event
) -> tuple[IdSource, IdCount] | None:
    """The ids; `None`: it was to stop before all had come."""
    if stop.is_set():
        return None
    found: tuple[IdSource, IdCount] | None = None
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(_cancel_on, stop, group.cancel_scope)
        try:
            ids = (await collect_ids(user_ids)).of(shard)
            found = ids, await in_daemon_thread(ids.count)
        except Exception as error:  # noqa: BLE001 - raised below, as the group would wrap it
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return found


async def _cancel_on(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _opened(work: FileWork, target: Target) -> Target:
    work.opened.callback(target.close)
    return target


def _tell_what_is_committed(report: ExportReport, target: Target, id_type: str) -> None:
    """Have the report, and the file of failed members, say it of a run that ends in an error too."""
    if report.status == "running":
        with suppress(Exception):  # that error tells more
            _tally(report, target)
            report.errors_file = target.write_errors(id_type)


async def _run(run: Run, target: Target, report: ExportReport, work: FileWork, ids: IdSource) -> None:
    await work.do(target.reopen)
    report.status, report.completed_at = "running", None
    reading = cast("Generator[str, None, None]", ids.read())
    work.opened.callback(_close_unless_busy, reading)
    try:
        run.tell()
        finished = await run.finish(reading)
    except OutageError as error:
        finished, report.reason = False, str(error)
    await work.do(partial(_tally, report, target))
    if finished:
        report.status, report.duplicates = "complete", duplicates_in(report)
        report.completed_at = iso(await work.do(target.complete))
    else:
        report.status = "stopped"


def _close_unless_busy(reading: Generator[str, None, None]) -> None:
    """Close the ids' file; a thread that still waits for a line closes it afterwards."""
    with suppress(ValueError):
        reading.close()


def _begin(
    target: Target, asked: dict[str, str], source: Source, report: ExportReport, age: float | None
) -> Source:
    """Open the output, see how far it is, and return what to fetch: the last day stays what it was."""
    report.output = target.output
    target.begin(asked)
    target.check_age(age)
    _tally(report, target)
    report.resumed = report.done
    if target.completed_at is not None:
        report.completed_at = iso(target.completed_at)
        report.duplicates = duplicates_in(report)
    if source.name != "purchases" or source.date_end is not None:
        return source
    day = target.ledger.get(_DATE_END)
    if day is None:
        day = datetime.now(UTC).date().isoformat()
        target.ledger.commit((), {_DATE_END: day})
    return evolve(source, date_end=day)


def _tally(report: ExportReport, target: Target) -> None:
    """Take the counts from the ledger."""
    totals = target.ledger.totals()
    report.members, report.not_found, report.failed = totals.ok, totals.not_found, totals.failed
    report.without_rows, report.drifted, report.rows = totals.without_rows, totals.drifted, totals.rows


def _checked_seconds(value: Any, name: str, least: float = -math.inf) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= least:
        beyond = "" if least < 0 else f", {least:g} or more"
        raise ConfigurationError(f"{name} must be a number of seconds{beyond}, or a timedelta")
    return float(seconds)


def _check_flags(**flags: Any) -> None:
    for name, flag in flags.items():
        checked_flag(flag, name)


def _checked_stop(stop: Any) -> anyio.Event:
    if not isinstance(stop, anyio.Event | None):
        raise ConfigurationError("stop must be an anyio.Event, which is set to end the run")
    return stop or anyio.Event()


def _checked_output(output: Any) -> str:
    if not isinstance(output, str | os.PathLike) or not isinstance(place := os.fspath(output), str):
        raise ConfigurationError("output must be a path, the URL of an object store, or -")
    if not isinstance(output, str) and re.match("[a-z0-9]+:/", place):
        raise ConfigurationError("output is a URL that Path has changed: give it as a text")
    with suppress(UnicodeEncodeError):
        if b"\0" not in os.fsencode(place):
            return place
    raise ConfigurationError("output is no name that a file can have: name another")


def _check_progress(progress: Any) -> None:
    if progress is not None and not callable(progress):
        raise ConfigurationError(f"progress must be a function, not {type(progress).__name__}")
    if inspect.iscoroutinefunction(progress):
        raise ConfigurationError("progress must be a function that is not async: it is called, not awaited")


def _checked_shard(shard: Shard | str, source: Source) -> Shard:
    if source.name == "purchases" and source.date_end is None:
        raise ConfigurationError(
            "a shard of purchases needs date_end: shards that begin on different days would"
            " end with different ones"
        )
    return Shard.of(shard)


def _asked(client: CrowdTwistClient, source: Source, ids: IdCount, shard: Shard | None) -> dict[str, str]:
    """What an export must have in common with the one that it goes on with."""
    settings = client._session.settings  # noqa: SLF001 - whom it asks is no secret, its key is not read
    base = settings.api if source.name == "rewards" else settings.pos
    return {
        "endpoint": source.name,
        "host": f"{base.host}{base.path}",
        "id_type": str(source.id_type),
        "include_soldout": str(bool(source.include_soldout)),
        "date_start": str(source.date_start or ""),
        "date_end": str(source.date_end or ""),
        "ids": ids.digest,
        "shard": str(shard or ""),
    }


def _rate(client: CrowdTwistClient) -> float | None:
    rate = getattr(client._session.budget, "per_minute", None)  # noqa: SLF001 - to tell its share
    return rate if isinstance(rate, int | float) and rate != math.inf else None
