"""
The report of a run of shards: what lay there before, and what each has told since.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import evolve

from crowdtwist_async.export.ledger import Totals
from crowdtwist_async.export.places import ERRORS
from crowdtwist_async.export.report import ExportReport, duplicates_in
from crowdtwist_async.export.shard import Shard

_OF_OUTPUT = ("members", "without_rows", "drifted", "not_found", "failed", "rows")
"""Counts of the whole output, earlier runs included."""
_OF_RUN: tuple[str, ...] = ("requests", "retries")
"""Counts of one attempt at a shard."""


class Total:
    """
    The sum of what shards tell.

    Args:
        report: What is filled: the ids are counted, and the rest is that of no shard.
        output: The output that the shards make together.
        count: Shards in all.
        before: What the ledgers say of the shards that were begun before.
        retry_failed: Whether members that failed before are tried again.
    """

    def __init__(
        self,
        report: ExportReport,
        output: Path,
        count: int,
        before: Mapping[Shard, Totals],
        *,
        retry_failed: bool = False,
    ) -> None:
        self.report = report
        self._count = count
        self._output = output
        self._latest: dict[str, dict[str, Any]] = {
            str(shard): {"members": totals.ok, **totals._asdict()} for shard, totals in before.items()
        }
        self._ended: dict[str, ExportReport] = {}
        self._of_lost: dict[str, int] = dict.fromkeys(_OF_RUN, 0)
        if output.suffix != ".parquet":
            report.output = _pattern(output, count)
        self._add_up()
        report.resumed = report.done - (report.failed if retry_failed else 0)

    def take(self, shard: str, told: Mapping[str, Any]) -> None:
        """Take what a shard tells while it runs; it may come late."""
        if shard in self._ended:
            return
        former = self._latest.get(shard, {})
        if told["requests"] < former.get("requests", 0):
            # It runs again, as its worker was lost, and counts from 0.
            for name in _OF_RUN:
                self._of_lost[name] += former[name]
        self._latest[shard] = dict(told)
        self._add_up()

    def end(self, shard: str, report: ExportReport) -> None:
        """Take what a shard ended with."""
        self.take(shard, {**report.as_dict(), "is_waiting": False})
        self._ended[shard] = report

    def _add_up(self) -> None:
        told = self._latest.values()
        for name in (*_OF_OUTPUT, *_OF_RUN):
            lost = self._of_lost.get(name, 0)
            setattr(self.report, name, lost + sum(counts.get(name, 0) for counts in told))
        waiting = any(counts.get("is_waiting") for counts in told)
        self.report.waiting = "the API does not answer" if waiting else None

    def conclude(self) -> None:
        """Say how the run ended, if no error ended it."""
        ended, report = list(self._ended.values()), self.report
        states = {shard.status for shard in ended}
        if len(ended) < self._count or not states <= {"complete", "already_complete"}:
            report.status = "stopped"
            reasons = [shard.reason for shard in ended if shard.reason is not None]
            report.reason = report.reason or next(iter(reasons), None)
        else:
            report.status = "complete" if "complete" in states else "already_complete"
            report.completed_at = max(shard.completed_at or "" for shard in ended)
            report.duplicates = duplicates_in(report)
        failed = [shard.errors_file for shard in ended if shard.errors_file is not None]
        if len(failed) > 1:
            failed = [f"{_pattern(self._output, self._count)}{ERRORS}"]
        report.errors_file = next(iter(failed), None)


def report_of(ended: Mapping[str, Any]) -> ExportReport:
    """The report of a shard, out of the plain values that its task returned."""
    return evolve(ExportReport(ended["output"], ended["endpoint"]), **ended)


def _pattern(output: Path, count: int) -> str:
    """The names of all shards' files."""
    return f"{output.with_name(f'{output.stem}.*-of-{count}{output.suffix}')}"
