"""
The commands and their flags. No flag takes a key: it comes from the environment or a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from crowdtwist_async.__about__ import __version__
from crowdtwist_async._config import signing_from_env
from crowdtwist_async.cli import USAGE, say
from crowdtwist_async.cli._calls import print_all, print_points
from crowdtwist_async.cli._connect import Connection, ended
from crowdtwist_async.cli._export import ExportOptions, run_export, seconds
from crowdtwist_async.cli._merge import merge
from crowdtwist_async.cli._output import write
from crowdtwist_async.cli._plan import plan
from crowdtwist_async.cli._serve import serve_emulator
from crowdtwist_async.cli._shared import BudgetFlags
from crowdtwist_async.cli._usage import explained
from crowdtwist_async.cli._values import Flag
from crowdtwist_async.emulator import Emulator
from crowdtwist_async.errors import ConfigurationError
from crowdtwist_async.export import EndpointName, Shard
from crowdtwist_async.models import CommonIdTypeText, IdTypeText

app = App(
    name="crowdtwist",
    help=(
        "The CrowdTwist API: points awaiting fulfillment, rewards, purchase history.\n\n"
        "Set CROWDTWIST_API_KEY (or CROWDTWIST_API_KEY_FILE), CROWDTWIST_CLIENT_ID and"
        " CROWDTWIST_ENVIRONMENT; or give --emulator, which needs no account."
    ),
    version=__version__,
    suppress_keyboard_interrupt=False,
)
exports = App(name="export", help="Export every page of many members to a file.")
app.command(exports)
app.command(plan)
app.command(merge)


def run(arguments: Sequence[str]) -> int:
    """Parse and run; a usage error is explained on standard error."""
    try:
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        say(explained(error))
        return USAGE
    return result if isinstance(result, int) else 0


@Parameter(name="*")
@dataclass(kw_only=True)
class ConnectionFlags(BudgetFlags):
    """Whom to ask."""

    emulator: Flag = False
    """Ask the emulator, in this process: no account and no network."""
    members: int | None = None
    """How many members the emulator has; by default 1,000."""
    transport: Literal["httpx", "aiohttp"] | None = None
    """What sends the requests: httpx by default, or aiohttp (an extra), for less CPU time."""

    def connection(self, per_minute: float | None = None) -> Connection:
        """The connection that the flags name."""
        return Connection(self.emulator, self.members, per_minute, self.transport, self.shared())


@Parameter(name="*")
@dataclass(kw_only=True)
class ExportFlags:
    """What all exports have."""

    output: Annotated[str, Parameter(name=["--output", "-o"], allow_leading_hyphen=True)]
    """OUT.jsonl, OUT.csv, OUT.parquet (a folder, also as s3://bucket/OUT.parquet or gs://), OUT.sqlite, or -
    for JSON Lines on standard output."""
    ids: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """A file with one member id a line, gzip or not, or - for standard input."""
    column: str | None = None
    """The ids are in this column of a CSV file."""
    shard: str | None = None
    """Export only the members of shard i of n, such as 0/7 to 6/7; crowdtwist merge makes them one."""
    dask: str | None = None
    """Export in shards on Dask: the address of a scheduler, or local for a cluster on this machine."""
    shards: int | None = None
    """With --dask: how many; by default as many as lie there, or two for each thread of the workers."""
    concurrency: int = 64
    """Members at once."""
    per_minute: float | None = None
    """Requests a minute at most; by default 5,000, half of what a program may send in all."""
    fresh: Flag = False
    """Remove what an earlier export wrote there, and begin anew."""
    retry_failed: Flag = False
    """Try members again that failed in an earlier run."""
    max_failed: int = 0
    """With more failed members than this the exit code is 3."""
    max_age: str | None = None
    """Refuse a complete output that is older, such as 20h."""
    max_outage: str = "15m"
    """How long to wait for an API that does not answer."""
    disarm_formulas: Flag = False
    """CSV: put an apostrophe before texts that spreadsheets would calculate."""
    summary: str | None = None
    """Write the summary to this file, as JSON."""
    quiet: Flag = False
    """Show no plan, no progress and no summary."""

    def options(self, endpoint: EndpointName, id_type: IdTypeText, **of_endpoint: Any) -> ExportOptions:
        """The flags as the export takes them."""
        flags = {name: value for name, value in vars(self).items() if name != "per_minute"}
        flags["max_age"] = None if self.max_age is None else seconds(self.max_age, "--max-age")
        flags["shard"] = None if self.shard is None else Shard.of(self.shard)
        flags["max_outage"] = seconds(self.max_outage, "--max-outage")
        return ExportOptions(endpoint=endpoint, id_type=id_type, **flags, **of_endpoint)


@app.command
def points(user: str, *, id_type: CommonIdTypeText = "id", flags: ConnectionFlags | None = None) -> int:
    """
    Print the points of one member that await fulfillment, as JSON.

    Args:
        user: The member.
        id_type: What the id is.
    """
    connection = (flags or ConnectionFlags()).connection()
    return ended(print_points, connection, user, id_type)


@app.command
def rewards(
    user: str,
    *,
    id_type: IdTypeText = "id",
    include_soldout: Flag = False,
    max_items: int | None = None,
    flags: ConnectionFlags | None = None,
) -> int:
    """
    Print the rewards that are available to one member, as JSON Lines.

    Args:
        user: The member.
        id_type: What the id is.
        include_soldout: Also rewards of which none are left.
        max_items: Stop after so many.
    """
    connection = (flags or ConnectionFlags()).connection()
    return ended(
        print_all,
        connection,
        lambda client: client.iter_user_rewards(
            user, id_type=id_type, include_soldout=include_soldout or None, max_items=max_items
        ),
    )


@app.command
def purchases(
    user: str,
    *,
    id_type: CommonIdTypeText = "id",
    date_start: date | None = None,
    date_end: date | None = None,
    max_items: int | None = None,
    flags: ConnectionFlags | None = None,
) -> int:
    """
    Print the purchases of one member, as JSON Lines.

    Args:
        user: The member.
        id_type: What the id is.
        date_start: The first day, in UTC, such as 2026-01-31.
        date_end: The last day, included.
        max_items: Stop after so many.
    """
    connection = (flags or ConnectionFlags()).connection()
    return ended(
        print_all,
        connection,
        lambda client: client.iter_user_purchases(
            user, id_type=id_type, date_start=date_start, date_end=date_end, max_items=max_items
        ),
    )


@exports.command(name="points")
def export_points(
    *, id_type: CommonIdTypeText = "id", flags: ExportFlags, connect: ConnectionFlags | None = None
) -> int:
    """
    Export the points awaiting fulfillment of many members: one request and one row each.

    Args:
        id_type: What the ids are.
    """
    return _exported(flags, connect, "points", id_type)


@exports.command(name="rewards")
def export_rewards(
    *,
    id_type: IdTypeText = "id",
    include_soldout: Flag = False,
    flags: ExportFlags,
    connect: ConnectionFlags | None = None,
) -> int:
    """
    Export the rewards of many members: one request a page of 10.

    Args:
        id_type: What the ids are.
        include_soldout: Also rewards of which none are left.
    """
    return _exported(flags, connect, "rewards", id_type, include_soldout=include_soldout or None)


@exports.command(name="purchases")
def export_purchases(
    *,
    id_type: CommonIdTypeText = "id",
    date_start: date | None = None,
    date_end: date | None = None,
    flags: ExportFlags,
    connect: ConnectionFlags | None = None,
) -> int:
    """
    Export the purchases of many members: one request a page of 10.

    Args:
        id_type: What the ids are.
        date_start: The first day, in UTC, such as 2026-01-31.
        date_end: The last day, included; by default the day on which the output was begun.
    """
    return _exported(flags, connect, "purchases", id_type, date_start=date_start, date_end=date_end)


def _exported(
    flags: ExportFlags,
    connect: ConnectionFlags | None,
    endpoint: EndpointName,
    id_type: IdTypeText,
    **of_endpoint: Any,
) -> int:
    connection = (connect or ConnectionFlags()).connection(flags.per_minute)
    return ended(run_export, connection, flags.options(endpoint, id_type, **of_endpoint))


@app.command
def emulator(
    *,
    host: str = "127.0.0.1",
    port: int = 8777,
    members: int = 1000,
    seed: int = 0,
    fault_rate: float = 0.0,
    per_minute: int | None = None,
) -> int:
    """
    Serve the emulator on a socket until interrupted; it accepts the key `emulator-key`.

    With CROWDTWIST_HMAC_PUBLIC_KEY and CROWDTWIST_HMAC_PRIVATE_KEY (or _FILE) it accepts signatures too.

    Args:
        host: The address to listen on; by default no other machine gets in.
        port: 0 takes a free one.
        members: How many members it has; their ids begin with 10000000.
        seed: Another seed gives other purchases and rewards.
        fault_rate: The share of requests, 0 to 1, that end in a random fault.
        per_minute: Requests in any 60 seconds above which it answers 429.
    """
    signing = signing_from_env()
    try:
        app = Emulator(
            members=members, seed=seed, fault_rate=fault_rate, per_minute=per_minute, signing=signing
        )
    except ValueError as error:
        argument, _, problem = str(error).partition(" ")
    else:
        return serve_emulator(app, host, port)
    raise ConfigurationError(f"--{argument.replace('_', '-')} {problem}")


@app.command
def openapi() -> int:
    """Print the OpenAPI 3.1 document of the API, which is this project's own, as JSON."""
    from crowdtwist_async.emulator.openapi import rendered

    write(rendered())
    return 0
