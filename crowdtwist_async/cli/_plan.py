"""
`crowdtwist plan`: what an export would take, without a request.
"""

from __future__ import annotations

from attrs import evolve

from crowdtwist_async._config import settings_from_env
from crowdtwist_async.cli import COMPLETE, say
from crowdtwist_async.errors import ConfigurationError
from crowdtwist_async.export import Plan, read_ids
from crowdtwist_async.export.plan import ABOVE_CEILING, CEILING, EXPORT_RATE, WHOLE_RATE, counted, duration


def print_plan(
    ids: str, column: str | None, endpoint: str, pages_per_member: float | None, per_minute: float | None
) -> int:
    """Count the ids and print the plan."""
    if endpoint == "points" and pages_per_member is not None:
        raise ConfigurationError("points take one request a member: leave --pages-per-member out")
    # Wrong numbers are refused before the ids are read.
    plan = Plan(0, _rate(per_minute), 1.0 if pages_per_member is None else pages_per_member)
    if plan.per_minute > CEILING:
        say(ABOVE_CEILING)
    found = read_ids(ids, column).count()
    plan = evolve(plan, members=found.ids)
    print(f"{endpoint}: {plan}.")
    if found.blank:
        print(f"{counted(found.blank, 'blank line')} passed over.")
    if plan.per_minute != WHOLE_RATE:
        least = duration(evolve(plan, per_minute=WHOLE_RATE).seconds)
        print(f"At {WHOLE_RATE:,} a minute, nearly all that a program may send: {least}.")
    if pages_per_member is None and endpoint != "points":
        print(
            "One page a member is the least: 10 entries fill a page, and --pages-per-member X reckons"
            " with more."
        )
    print(
        "Every member takes a request, even one without rows. A date range saves pages, never members:"
        " what saves time is a list of the members who were active."
    )
    return COMPLETE


def _rate(per_minute: float | None) -> float:
    """Requests a minute of an export with the same flags and environment."""
    if per_minute is None:
        return float(settings_from_env(with_key=False).get("per_minute", EXPORT_RATE))
    return per_minute
