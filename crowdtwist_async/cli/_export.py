"""
`crowdtwist export`: the run with its plan, its progress, its signals and its summary.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from attrs import evolve, frozen

from crowdtwist_async.cli import COMPLETE, COMPLETE_WITH_FAILURES, FAILED, INTERRUPTED, STOPPED, say
from crowdtwist_async.cli._connect import Connection
from crowdtwist_async.cli._dask import export_shards
from crowdtwist_async.cli._interrupt import Interruption
from crowdtwist_async.cli._progress import ProgressDisplay, is_terminal, make_console
from crowdtwist_async.cli._summary import same_command, summary_of, warnings_after
from crowdtwist_async.client import CrowdTwistClient
from crowdtwist_async.emulator import Emulator
from crowdtwist_async.errors import ConfigurationError, CrowdTwistError, OutputLockedError, StorageError
from crowdtwist_async.export import ExportReport, IdSource, Shard, export, read_ids
from crowdtwist_async.export.places import STANDARD_OUTPUT, files_of
from crowdtwist_async.export.plan import EXPORT_RATE, counted, warnings_of, warnings_of_ids
from crowdtwist_async.export.shard import is_of_a_shard
from crowdtwist_async.export.source import EndpointName
from crowdtwist_async.export.storage import remove_unfinished, replace_file, storing
from crowdtwist_async.models import IdTypeText

STANDARD_INPUT = "-"
_BEGINS = b'{"output": '
"""What every summary begins with."""


@frozen(kw_only=True)
class ExportOptions:
    """
    Where to, for whom, and how.

    Raises:
        ConfigurationError: One of them can't work.
    """

    endpoint: EndpointName
    output: str
    ids: str | None
    column: str | None
    id_type: IdTypeText
    include_soldout: bool | None = None
    date_start: date | None = None
    date_end: date | None = None
    shard: Shard | None = None
    dask: str | None = None
    shards: int | None = None
    concurrency: int
    fresh: bool
    retry_failed: bool
    max_failed: int
    max_age: float | None
    max_outage: float
    disarm_formulas: bool
    summary: str | None
    quiet: bool

    def __attrs_post_init__(self) -> None:
        if self.max_failed < 0:
            raise ConfigurationError("--max-failed must be 0 or more")
        if self.column is not None and self.ids is None:
            raise ConfigurationError("--column is one of the ids' file: give --ids FILE too")
        if self.dask is None and self.shards is not None:
            raise ConfigurationError("--shards is for --dask: give that too, or --shard i/n")
        if self.dask is not None and self.shard is not None:
            raise ConfigurationError("--dask exports all shards: leave --shard out")
        if self.summary is not None:
            self._check_summary(self.summary)

    def _check_summary(self, name: str) -> None:
        """Refuse a place that can't take the summary now, rather than when the export has ended."""
        path = _followed(name)
        taken = {os.path.realpath(other) for other in files_of(self.output, self.shard)}
        if self.ids is not None:
            taken.add(os.path.realpath(self.ids))
        output = Path(os.path.realpath(self.output))
        if str(path) in taken or (path.parent == output.parent and is_of_a_shard(output, path.name)):
            raise ConfigurationError("--summary names a file of the export itself: name another")
        if output in path.parents:
            raise ConfigurationError("--summary names a file in the output: name one outside it")
        if name == STANDARD_OUTPUT or (path.exists() and not path.is_file()):
            raise ConfigurationError(f"--summary takes the name of a file, which {name} is not")
        if not os.access(path.parent, os.W_OK):
            raise ConfigurationError(f"the folder of {name} is not there, or can't be written to")
        _check_is_summary(path)

    def remove_unfinished_summary(self) -> None:
        """Remove what a kill left of an earlier run's; what can't be is told when the summary is written."""
        if self.summary is not None:
            with suppress(OSError):
                remove_unfinished(_followed(self.summary))

    def arguments(self) -> dict[str, Any]:
        """What `export` and `export_on_dask` take alike."""
        return {
            "id_type": self.id_type,
            "include_soldout": self.include_soldout,
            "date_start": self.date_start,
            "date_end": self.date_end,
            "concurrency": self.concurrency,
            "fresh": self.fresh,
            "retry_failed": self.retry_failed,
            "max_age": self.max_age,
            "max_outage": self.max_outage,
            "disarm_formulas": self.disarm_formulas,
        }

    def id_source(self, emulator: Emulator | None) -> IdSource:
        """The members: those of the file, or all of the emulator's."""
        if self.ids is not None:
            return read_ids(self.ids, self.column)
        if emulator is None:
            raise ConfigurationError(
                "give --ids FILE with one member id a line, or --ids - for standard input"
            )
        return IdSource(lambda: emulator.member_ids(self.id_type))


def seconds(text: str, flag: str) -> float:
    """
    Read a time like 90s, 15m, 20h or 2d.

    Raises:
        ConfigurationError: It is none.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd])", text.strip())
    if match is None:
        raise ConfigurationError(f"{flag} takes a time like 90s, 15m, 20h or 2d")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[match[2]]


async def run_export(connection: Connection, options: ExportOptions) -> int:
    """Export, and say on standard error how it goes and went."""
    emulator = connection.make_emulator()
    await anyio.to_thread.run_sync(options.remove_unfinished_summary)
    if options.dask is None:
        ids = options.id_source(emulator)
        client = await anyio.to_thread.run_sync(connection.client, emulator, EXPORT_RATE)
        exporting = partial(_export, client, ids, options)
    else:
        exporting = partial(export_shards, connection, options)
    for warning in warnings_of(connection.rate(EXPORT_RATE) or 0, options.shard):
        say(warning)
    for warning in warnings_of_ids(options.ids, options.column):
        say(warning)
    display = ProgressDisplay(
        make_console(options.output, quiet=options.quiet),
        options.endpoint,
        typed=options.ids == STANDARD_INPUT and is_terminal(sys.stdin),
    )
    interruption = Interruption(display, partial(_of_interruption, display, options))
    try:
        report = await _watched(exporting, display, interruption)
    except OutputLockedError:
        raise  # the summary may be that of the export which goes on
    except (CrowdTwistError, OSError) as error:
        with suppress(StorageError, ConfigurationError):  # the first error tells more
            await _write_summary(options, display.report, "failed", str(error))
        raise
    if report is not None:
        return await _conclude(options, report, display, emulator)
    interruption.tell()
    await _write_summary(options, display.report, "stopped", "interrupted")
    return INTERRUPTED


def _of_interruption(display: ProgressDisplay, options: ExportOptions) -> str:
    if not display.has_begun or options.output == STANDARD_OUTPUT:
        return "interrupted"
    return f"interrupted: {same_command(fresh=options.fresh)} goes on with {options.output}"


async def _watched(
    exporting: Callable[[ProgressDisplay, anyio.Event], Awaitable[ExportReport]],
    display: ProgressDisplay,
    interruption: Interruption,
) -> ExportReport | None:
    """Export while the display moves and signals are heeded; `None`: it was stopped at once."""
    report: ExportReport | None = None
    failure: CrowdTwistError | OSError | None = None
    async with anyio.create_task_group() as beside:
        await beside.start(interruption.heed)
        beside.start_soon(display.run)
        try:
            with interruption.at_once, display:
                report = await exporting(display, interruption.stop)
        except (CrowdTwistError, OSError) as error:
            # Raised below: the task group would wrap it in a group.
            failure = error
        beside.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return report


async def _export(
    client: CrowdTwistClient,
    ids: IdSource,
    options: ExportOptions,
    display: ProgressDisplay,
    stop: anyio.Event,
) -> ExportReport:
    async with client:
        return await export(
            client,
            options.endpoint,
            ids,
            options.output,
            **options.arguments(),
            shard=options.shard,
            progress=display.show,
            stop=stop,
        )


async def _conclude(
    options: ExportOptions, report: ExportReport, display: ProgressDisplay, emulator: Emulator | None
) -> int:
    """Print and write the summary; return the exit code."""
    for line in summary_of(report, fresh=options.fresh):
        display.say(line)
    for warning in warnings_after(report):
        display.warn(warning)
    if options.dask is not None and not options.output.endswith(".parquet") and report.status != "stopped":
        display.say(f"crowdtwist merge {options.output} makes one file of them.")
    if emulator is not None:
        rows, requests = counted(emulator.stats.rows, "row"), counted(emulator.stats.requests, "request")
        display.say(f"The emulator served {rows} in {requests}.")
    await _write_summary(options, report)
    if report.status == "stopped":
        return _code_of_stop(options, report)
    return COMPLETE_WITH_FAILURES if report.failed > options.max_failed else COMPLETE


def _code_of_stop(options: ExportOptions, report: ExportReport) -> int:
    """Whoever runs the command again because of the code would get the rows on standard output twice."""
    if options.output != STANDARD_OUTPUT:
        return STOPPED
    return INTERRUPTED if report.reason is None else FAILED


async def _write_summary(
    options: ExportOptions, report: ExportReport | None, status: str | None = None, reason: str | None = None
) -> None:
    """Write the summary to its file, also that of an export that failed: an older one would mislead."""
    if options.summary is None:
        return
    shard = None if options.shard is None else str(options.shard)
    told = report or ExportReport(options.output, options.endpoint, shard=shard)
    if status is not None:
        told = evolve(told, status=status, reason=reason)
    # Unlike msgspec, this takes the names of files that are no UTF-8.
    content = json.dumps(told.as_dict()).encode() + b"\n"
    name = options.summary

    def replace() -> None:
        with storing(name):
            _check_is_summary(_followed(name))
            replace_file(_followed(name), iter([content]))

    await anyio.to_thread.run_sync(replace)


def _check_is_summary(path: Path) -> None:
    """Refuse to write a summary over anything else: a shard's rows, for one."""
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            begins = file.read(len(_BEGINS))
    except OSError as error:
        raise ConfigurationError(f"the summary {path} can't be read: {error.strerror}") from None
    if not _BEGINS.startswith(begins):
        raise ConfigurationError(f"--summary names {path}, which is no summary: name another file")


def _followed(name: str) -> Path:
    """Where a link leads: the link itself stays."""
    return Path(os.path.realpath(name))
