"""
`crowdtwist export`: the run with its progress line and its summary.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import anyio.to_thread
from attrs import frozen
from rich.console import Console
from rich.status import Status

from crowdtwist_async._config import checked_positive
from crowdtwist_async.cli import COMPLETE, COMPLETE_WITH_FAILURES
from crowdtwist_async.cli._connect import Connection
from crowdtwist_async.errors import ConfigurationError
from crowdtwist_async.export.files import Output
from crowdtwist_async.export.ids import read_ids
from crowdtwist_async.export.run import Report, Run
from crowdtwist_async.export.source import Source

_USUAL_RATE = 5_000
"""Requests a minute of an export: half of the contract's ceiling stays with the program's live site."""
_MOST_FAILURES_SHOWN = 5


@frozen
class ExportOptions:
    """Where to, for whom, and how."""

    target: str
    ids: str | None
    concurrency: int = 64
    fresh: bool = False
    quiet: bool = False


async def export(connection: Connection, source: Source, options: ExportOptions) -> int:
    """Export, and say on standard error how it went."""
    checked_positive(options.concurrency, "--concurrency")
    emulator = connection.make_emulator()
    if options.ids is None and emulator is None:
        raise ConfigurationError("give --ids FILE with one member id a line, or --ids - for standard input")
    client = await anyio.to_thread.run_sync(connection.client, emulator, _USUAL_RATE)
    ids = emulator.member_ids(source.id_type) if emulator else iter(())
    if options.ids is not None:
        ids = await anyio.to_thread.run_sync(read_ids, options.ids)
    output = await anyio.to_thread.run_sync(
        lambda: Output(options.target, source.name, replace=options.fresh)
    )
    console = Console(stderr=True, quiet=options.quiet, markup=False, emoji=False, soft_wrap=True)
    try:
        async with client:
            with _progress_line(console, source.name) as line:
                run = Run(client, source, output)
                report = await run.finish(ids, options.concurrency, line.show)
        await anyio.to_thread.run_sync(output.complete)
    except BaseException:
        left = output.abandon()
        if left is not None and not isinstance(sys.exception(), BrokenPipeError):
            console.print(f"The export is not complete. What it has so far is in {left}.")
        raise
    _summarise(console, source.name, options.target, report)
    if output.errors_file is not None:
        console.print(f"The failed members are in {output.errors_file}.")
    if emulator is not None:
        served = emulator.stats
        console.print(f"The emulator served {served.rows:,} rows in {served.requests:,} requests.")
    return COMPLETE_WITH_FAILURES if report.failed else COMPLETE


class _Line:
    """The line that shows how far an export is; rich leaves it out where there is no terminal."""

    def __init__(self, status: Status, name: str) -> None:
        self._status = status
        self._name = name

    def show(self, report: Report) -> None:
        """Update it."""
        rate = report.requests / report.seconds if report.seconds else 0.0
        self._status.update(
            f"{self._name}: {report.members:,} members, {report.rows:,} rows,"
            f" {report.requests:,} requests ({rate:,.0f}/s), {report.failed:,} failed"
        )


@contextmanager
def _progress_line(console: Console, name: str) -> Iterator[_Line]:
    with console.status(f"{name}: starting", refresh_per_second=4) as status:
        yield _Line(status, name)


def _summarise(console: Console, name: str, target: str, report: Report) -> None:
    where = "standard output" if target == "-" else target
    console.print(
        f"{name}: {report.members:,} members, {report.rows:,} rows, {report.requests:,} requests,"
        f" {report.seconds:.1f} seconds. Written to {where}."
    )
    if report.retries or report.not_found or report.failed:
        console.print(
            f"Retries: {report.retries:,}. Unknown ids: {report.not_found:,}."
            f" Failed members: {report.failed:,}."
        )
    for sentence, times in report.failures.most_common(_MOST_FAILURES_SHOWN):
        console.print(f"  {times:,} times: {sentence}")
