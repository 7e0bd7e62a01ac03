"""
What an export has done, told while it runs and when it ends.
"""

from __future__ import annotations

from typing import Any

from attrs import asdict, define


@define
class ExportReport:
    """
    What an export has done.

    The counts of members and rows are those of the whole output, earlier runs included; requests,
    retries and seconds are of this run.
    """

    output: str
    """Where the rows are."""
    endpoint: str
    """`points`, `rewards` or `purchases`."""
    status: str = "running"
    """
    `running`, `complete`, `already_complete` (nothing was left to do), `stopped` (there is more to do).

    `--summary` also has `failed` (an error ended the export: its sentence is the `reason`), and
    `stopped` with the reason `interrupted` where a signal ended it at once.
    """
    reason: str | None = None
    """Why it was stopped; `None` where somebody asked for it, by `stop=` or a first signal."""
    completed_at: str | None = None
    """When the output was complete, in ISO 8601."""
    ids: int = 0
    """Ids that were given, duplicates included; of a shard, its own alone."""
    shard: str | None = None
    """Which part of the run this is, such as `2/7`; `None`: all of it."""
    other_shards: int = 0
    """Ids that were given and belong to other shards."""
    duplicates: int = 0
    """Ids that were given before; known once the export is complete."""
    blank: int = 0
    """Lines without an id."""
    resumed: int = 0
    """Members that earlier runs had done."""
    members: int = 0
    """Members whose rows are in the output; those without rows are members too."""
    without_rows: int = 0
    """Members that have none."""
    drifted: int = 0
    """Members whose counts changed on each of three walks: rows may be missing or doubled."""
    not_found: int = 0
    """Ids that the API does not know: a result, not a failure."""
    failed: int = 0
    """Members whose rows could not be had: they are in `errors_file`, if the output is a file."""
    rows: int = 0
    requests: int = 0
    """Requests of this run, retries included."""
    retries: int = 0
    seconds: float = 0.0
    per_minute: float | None = None
    """Requests a minute that the client's budget allows; `None`: not limited, or not known."""
    waiting: str | None = None
    """While the API does not answer: what it says."""
    errors_file: str | None = None
    """Where the failed members stand, if there are any."""

    @property
    def done(self) -> int:
        """Members that need no more requests."""
        return self.members + self.not_found + self.failed

    @property
    def requests_per_second(self) -> float:
        """Of this run."""
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def budget_use(self) -> float | None:
        """The share of the budget that this run used, from 0 to 1; its first requests come in a burst."""
        return min(1.0, self.requests_per_second * 60.0 / self.per_minute) if self.per_minute else None

    @property
    def seconds_left(self) -> float | None:
        """At the pace of this run; `None` before there is one."""
        begun = self.done - self.resumed
        return (self.ids - self.done) * self.seconds / begun if begun > 0 else None

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        return {**asdict(self), "budget_use": self.budget_use}


def duplicates_in(report: ExportReport) -> int:
    """Ids that were given before, where all others are done; ids may have gone since."""
    return max(report.ids - report.done, 0)
