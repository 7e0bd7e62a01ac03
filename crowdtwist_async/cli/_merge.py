"""
`crowdtwist merge`: the shards of an output as one.
"""

from __future__ import annotations

from crowdtwist_async.cli import COMPLETE, COMPLETE_WITH_FAILURES
from crowdtwist_async.cli._output import show
from crowdtwist_async.cli._values import Flag
from crowdtwist_async.errors import ConfigurationError
from crowdtwist_async.export import merge as merge_shards
from crowdtwist_async.export.plan import counted


def merge(output: str, *, fresh: Flag = False, max_failed: int = 0) -> int:
    """
    Make one output of the shards that were exported to it, if all are complete.

    Args:
        output: What the exports of the shards named: OUT.jsonl, OUT.csv, OUT.sqlite or OUT.parquet.
        fresh: Replace what an earlier merge made of shards that have changed since.
        max_failed: With more failed members than this the exit code is 3.
    """
    if max_failed < 0:
        raise ConfigurationError("--max-failed must be 0 or more")
    report = merge_shards(output, fresh=fresh)
    done = {
        "merged": f"merged to {report.output}",
        "already_merged": f"{report.output} holds them already",
        "not_needed": f"all complete; readers take {report.output} as one table as it is",
    }[report.status]
    show(
        f"{report.endpoint}: {counted(report.shards, 'shard')}, {counted(report.members, 'member')},"
        f" {counted(report.rows, 'row')}: {done}."
    )
    counts = {"Unknown ids": report.not_found, "Members whose counts kept changing": report.drifted}
    told = [f"{name}: {number:,}." for name, number in counts.items() if number]
    if told:
        show(" ".join(told))
    if report.failed:
        show(
            f"Failed members: {report.failed:,}. They are in {report.errors_file}; exporting their shards"
            " with --retry-failed tries them again."
        )
    return COMPLETE_WITH_FAILURES if report.failed > max_failed else COMPLETE
