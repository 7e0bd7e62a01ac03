"""
What an export says when it has ended.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from crowdtwist_async.export.places import STANDARD_OUTPUT
from crowdtwist_async.export.plan import counted, duration
from crowdtwist_async.export.report import ExportReport

CHECK_IDS = "check --id-type, the environment, and --column if --ids is a CSV file"


def summary_of(report: ExportReport, *, fresh: bool = False) -> Iterator[str]:
    """The lines of the summary, after a command with `--fresh` or without."""
    where = "standard output" if report.output == STANDARD_OUTPUT else report.output
    if report.status == "already_complete":
        yield (
            f"{title_of(report)}: {where} is complete since {report.completed_at}:"
            f" {counted(report.members, 'member')}, {counted(report.rows, 'row')}. No request was made;"
            " --fresh exports again."
        )
    else:
        yield (
            f"{title_of(report)}: {counted(report.members, 'member')}, {counted(report.rows, 'row')},"
            f" {counted(report.requests, 'request')}, {duration(report.seconds)}. Written to {where}."
        )
    yield from _counts(report)
    if report.status == "stopped":
        yield from _where_to_go_on(report, where, fresh=fresh)


def warnings_after(report: ExportReport) -> Iterator[str]:
    """What a complete export was hardly meant to do."""
    if report.status == "stopped":
        return
    if not report.ids and not report.other_shards:
        yield "warning: no ids were given: check --ids"
    elif report.ids and report.not_found == report.done:
        yield f"warning: the API knows none of these ids: {CHECK_IDS}"


def title_of(report: ExportReport) -> str:
    """What is exported."""
    return report.endpoint if report.shard is None else f"{report.endpoint}, shard {report.shard}"


def percent(share: float) -> str:
    """A share without decimals: 100% is whole, and what a short run used at once is no more than that."""
    return f"{math.floor(100 * min(share, 1.0))}%"


def _counts(report: ExportReport) -> Iterator[str]:
    """What is not zero."""
    counts = {
        "Members without rows": report.without_rows,
        "Unknown ids": report.not_found,
        "Members whose counts kept changing": report.drifted,
        "Ids given twice": report.duplicates,
        "Ids of other shards": report.other_shards,
        "Blank lines": report.blank,
        "Done by earlier runs": report.resumed if report.status != "already_complete" else 0,
        "Retries": report.retries,
    }
    told = [f"{name}: {number:,}." for name, number in counts.items() if number]
    if report.budget_use is not None and report.requests:
        told.append(f"Budget used: {percent(report.budget_use)}.")
    if told:
        yield " ".join(told)
    if report.failed:
        place = " Export to a file to learn which." if report.output == STANDARD_OUTPUT else ""
        if report.errors_file:
            place = f" They are in {report.errors_file}; --retry-failed tries them again."
        yield f"Failed members: {report.failed:,}.{place}"


def _where_to_go_on(report: ExportReport, where: str, *, fresh: bool) -> Iterator[str]:
    if report.reason is not None:
        yield f"Stopped: {report.reason}."
    if report.output == STANDARD_OUTPUT:
        yield f"Stopped after {report.done:,} of {report.ids:,} ids."
    else:
        command = same_command(fresh=fresh).capitalize()
        yield f"Stopped after {report.done:,} of {report.ids:,} ids. {command} goes on with {where}."


def same_command(*, fresh: bool) -> str:
    """What goes on with what was begun: `--fresh` would begin anew again."""
    return "the same command without --fresh" if fresh else "the same command"
