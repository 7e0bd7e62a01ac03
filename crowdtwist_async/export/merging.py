"""
Merging: the complete shards of an output as the one file that an export without shards would have made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from attrs import asdict, define

from crowdtwist_async.errors import ConfigurationError, OutputMismatchError
from crowdtwist_async.export.formats import format_of
from crowdtwist_async.export.formats.jsonl import BEGINS
from crowdtwist_async.export.formats.lines import BYTES, TAIL, looks_ours
from crowdtwist_async.export.joining import Shards, check_parts, joined_as
from crowdtwist_async.export.ledger import COMPLETED_AT, Ledger, Totals
from crowdtwist_async.export.places import STANDARD_OUTPUT, checked_path, errors_path, ledger_path
from crowdtwist_async.export.shard import Shard, check_not_half_emptied, check_split, shards_at
from crowdtwist_async.export.storage import difference, foreign, remove_file, replace_file, storing
from crowdtwist_async.export.target import failures_of, has_content

_OF_EACH = {"shard", BYTES, TAIL, COMPLETED_AT}
"""What shards of one run need not have in common."""
State = dict[str, str]


@define
class MergeReport:
    """What was merged."""

    output: str
    """Where the rows are."""
    endpoint: str
    """`points`, `rewards` or `purchases`."""
    status: str
    """`merged`, `already_merged`, or `not_needed`: a Parquet folder is read as one table as it is."""
    shards: int
    members: int = 0
    """Members whose rows are in the output; those without rows are members too."""
    not_found: int = 0
    failed: int = 0
    """Members whose rows could not be had: they are in `errors_file`."""
    drifted: int = 0
    rows: int = 0
    errors_file: str | None = None
    """Where the failed members stand, if there are any."""

    def add(self, totals: Totals) -> None:
        """Count one more shard."""
        self.shards += 1
        self.members += totals.ok
        self.not_found += totals.not_found
        self.failed += totals.failed
        self.drifted += totals.drifted
        self.rows += totals.rows

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        return asdict(self)


def merge(output: str | PathLike[str], *, fresh: bool = False) -> MergeReport:
    """
    Merge the shards of an output: JSON Lines, CSV and SQLite into one file, all or nothing.

    The shards stay, and come in their order. Merging again changes nothing. A Parquet folder is read as
    one table as it is: its shards are only checked. No request is made; it blocks while files are copied.

    Args:
        output: What the shards were exported to: `OUT.jsonl` for `OUT.0-of-7.jsonl` and so on.
        fresh: Replace what an earlier merge made of shards that have changed since.

    Raises:
        ConfigurationError: The output has no known format, or can't have shards.
        OutputLockedError: A shard is being exported, or the shards are being merged.
        OutputMismatchError: A shard is missing, not complete, damaged or made otherwise than the others; or
            something else than these shards is in the place of the output.
        StorageError: The output can't be written.
    """
    place = fspath(output)
    if place == STANDARD_OUTPUT:
        raise ConfigurationError("standard output has no shards: name the output that they make together")
    with storing(place, "merge again"):
        path = checked_path(place)
        format_of(path)
        with ExitStack() as held:
            shards = _Shards(path, held)
            report, states = _checked(path, shards)
            return _merged(path, shards, states, report, fresh=fresh)


def _all_shards(path: Path) -> list[Shard]:
    """The shards that there must be."""
    found = shards_at(path)
    counts = sorted({shard.count for shard in found})
    if not counts:
        raise OutputMismatchError(f"no shard of {path} is there: export them with --shard i/n")
    if len(counts) > 1:
        several = " and ".join(f"i/{count}" for count in counts)
        raise OutputMismatchError(f"{path} has shards {several}: move those away that are not meant")
    return [Shard(index, counts[0]) for index in range(counts[0])]


@contextmanager
def _opened(path: Path, shard: Shard) -> Iterator[Ledger]:
    """The ledger of a shard that is complete, locked."""
    at, name = ledger_path(path, shard), f"shard {shard} of {path}"
    if not has_content(at):
        raise OutputMismatchError(f"{name} is not there: export it, and merge again")
    ledger = Ledger(at, name)
    try:
        if ledger.get("shard") != str(shard):
            raise foreign(at, f"is the ledger of something else than {name}")
        if ledger.get(COMPLETED_AT) is None:
            raise OutputMismatchError(f"{name} is not complete: export it again to go on, and merge then")
        yield ledger
    finally:
        ledger.close()


class _Shards:
    """
    The shards of an output, opened one after the other: a process may not have as many files open.

    The first stays open, which keeps other merges away.
    """

    def __init__(self, path: Path, held: ExitStack) -> None:
        self._path = path
        self._all = _all_shards(path)
        check_split(path, self._all[0])
        check_not_half_emptied(path)
        self._first = held.enter_context(_opened(path, self._all[0]))
        self._other = held.enter_context(ExitStack())

    def __iter__(self) -> Iterator[tuple[Shard, Ledger]]:
        yield self._all[0], self._first
        for shard in self._all[1:]:
            self._other.close()
            yield shard, self._other.enter_context(_opened(self._path, shard))
        self._other.close()


def _checked(path: Path, shards: _Shards) -> tuple[MergeReport, list[State]]:
    """Count the shards, and refuse those that were made otherwise than the first."""
    states: list[State] = []
    report = MergeReport(str(path), "", "merged", 0)
    for shard, ledger in shards:
        states.append(ledger.state())
        other = [
            difference(key, states[0].get(key), states[-1].get(key))
            for key in sorted({*states[0], *states[-1]} - _OF_EACH)
            if states[0].get(key) != states[-1].get(key)
        ]
        if other:
            raise OutputMismatchError(
                f"shard {shard} of {path} was made otherwise than shard 0: {', '.join(other)}. Export it as"
                " the others, with --fresh (fresh=True)"
            )
        report.add(ledger.totals())
    report.endpoint = states[0]["endpoint"]
    return report, states


def _merged(
    path: Path, shards: _Shards, states: list[State], report: MergeReport, *, fresh: bool
) -> MergeReport:
    errors = errors_path(path, None)
    if errors.exists() and not looks_ours(errors, BEGINS):
        raise foreign(errors, "is there already, and was written by no export")

    def unchanged() -> Iterator[tuple[Path, Ledger]]:
        for (shard, ledger), state in zip(shards, states, strict=True):
            if ledger.state() != state:
                raise OutputMismatchError(f"shard {shard} of {path} changed while it was merged: merge again")
            yield shard.beside(path), ledger

    report.status = _made(path, unchanged, states, fresh=fresh)
    if not report.failed:
        remove_file(errors)
        return report
    id_type = states[0]["id_type"]
    replace_file(errors, (line for _, ledger in unchanged() for line in failures_of(ledger, id_type)))
    report.errors_file = str(errors)
    return report


def _made(path: Path, shards: Shards, states: list[State], *, fresh: bool) -> str:
    """Make what is not made yet; return what was done."""
    if path.suffix == ".parquet":
        check_parts(path, shards())
        return "not_needed"
    joined = joined_as(path, states)
    if joined.is_made(shards):
        return "already_merged"
    joined.make(shards, fresh=fresh)
    return "merged"
