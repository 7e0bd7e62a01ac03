"""
`crowdtwist plan`: what an export would take, without a request.
"""

from __future__ import annotations

from typing import Annotated, Literal

from attrs import evolve
from cyclopts import Parameter

from crowdtwist_async._config import rate_from_env
from crowdtwist_async.cli import COMPLETE, say
from crowdtwist_async.cli._output import show, write
from crowdtwist_async.errors import ConfigurationError
from crowdtwist_async.export import Plan, Shard, read_ids
from crowdtwist_async.export.ids import IdCount
from crowdtwist_async.export.plan import (
    EXPORT_RATE,
    WHOLE_RATE,
    counted,
    duration,
    warnings_of,
    warnings_of_ids,
)


def plan(
    *,
    ids: Annotated[str, Parameter(allow_leading_hyphen=True)],
    endpoint: Literal["points", "rewards", "purchases"],
    column: str | None = None,
    pages_per_member: float | None = None,
    per_minute: float | None = None,
    shard: str | None = None,
) -> int:
    """
    Print what an export would take: members, requests, time. No request is made.

    Args:
        ids: A file with one member id a line, gzip or not, or - for standard input.
        endpoint: What to export.
        column: The ids are in this column of a CSV file.
        pages_per_member: Pages of 10 that a member has in the mean.
        per_minute: Requests a minute; by default 5,000, as for an export.
        shard: Of the members of shard i of n alone, such as 0/7.
    """
    if endpoint == "points" and pages_per_member is not None:
        raise ConfigurationError("points take one request a member: leave --pages-per-member out")
    # Wrong numbers are refused before the ids are read.
    planned = Plan(0, _rate(per_minute), 1.0 if pages_per_member is None else pages_per_member)
    part = None if shard is None else Shard.of(shard)
    for warning in (*warnings_of(planned.per_minute, part), *warnings_of_ids(ids, column)):
        say(warning)
    found = read_ids(ids, column).of(part).count()
    write(f"{endpoint if part is None else f'{endpoint}, shard {part}'}: ")
    _print_plan(evolve(planned, members=found.ids), found)
    if pages_per_member is None and endpoint != "points":
        show(
            "One page a member is the least: 10 entries fill a page, and --pages-per-member X reckons"
            " with more."
        )
    show(
        "Every member takes a request, even one without rows. A date range saves pages, never members:"
        " what saves time is a list of the members who were active."
    )
    return COMPLETE


def _print_plan(planned: Plan, found: IdCount) -> None:
    show(f"{planned}.")
    if found.other_shards:
        show(f"{counted(found.other_shards, 'id')} of other shards.")
    if found.blank:
        show(f"{counted(found.blank, 'blank line')} passed over.")
    if planned.per_minute != WHOLE_RATE:
        least = duration(evolve(planned, per_minute=WHOLE_RATE).seconds)
        show(f"At {WHOLE_RATE:,} a minute, nearly all that a program may send: {least}.")


def _rate(per_minute: float | None) -> float:
    """Requests a minute of an export with the same flags and environment."""
    given = rate_from_env() if per_minute is None else per_minute
    return EXPORT_RATE if given is None else given
