"""
The commands and their flags. No flag takes a key: it comes from the environment or a file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal, get_args, get_origin

import anyio
from cyclopts import (
    App,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from crowdtwist_async.__about__ import __version__
from crowdtwist_async.cli import USAGE, say
from crowdtwist_async.cli._calls import print_all, print_points
from crowdtwist_async.cli._connect import Connection
from crowdtwist_async.cli._export import ExportOptions, export
from crowdtwist_async.cli._serve import serve_emulator
from crowdtwist_async.emulator import Emulator
from crowdtwist_async.errors import ConfigurationError
from crowdtwist_async.export.source import Source

PointsIdType = Literal["id", "email", "third_party_id", "mobile_phone_number"]
RewardsIdType = Literal[
    "id", "email", "third_party_id", "mobile_phone_number", "username", "facebook_user_id", "twitter_user_id"
]
Flag = Annotated[bool, Parameter(negative="")]

_FLAG = r"--[a-z]+(-[a-z]+)*(?==|$)"

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


def run(arguments: Sequence[str]) -> int:
    """Parse and run; a usage error is explained on standard error."""
    try:
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        say(_explained(error))
        return USAGE
    return result if isinstance(result, int) else 0


def _explained(error: CycloptsError) -> str:
    """A usage error as a sentence that repeats no value: it may be a member's id, or a key."""
    command = " ".join(["crowdtwist", *(error.command_chain or ())])
    name = error.argument.name if error.argument is not None else "an argument"
    match error:
        case UnknownCommandError():
            problem = "there is no such command"
        case UnknownOptionError():
            flag = re.match(_FLAG, error.token.keyword or error.token.value)
            problem = f"there is no flag {flag[0]}" if flag else "there is no such flag"
        case UnusedCliTokensError():
            problem = "there are more arguments than it takes"
        case MissingArgumentError():
            problem = f"{name} is missing"
        case RepeatArgumentError():
            problem = f"{error.token.keyword} is given twice"
        case _:
            problem = f"the value of {name} is not one that it takes{_allowed(error)}"
    return f"{problem}: see {command} --help"


def _allowed(error: CycloptsError) -> str:
    """What an argument takes, where a few words say it."""
    hint = error.argument.hint if error.argument is not None else None
    if get_origin(hint) is Literal:
        return f" ({', '.join(get_args(hint))})"
    words = {date: "a day like 2026-01-31", int: "a whole number", float: "a number"}
    kinds = [words[kind] for kind in (hint, *get_args(hint)) if kind in words]
    return f" ({kinds[0]})" if kinds else ""


@Parameter(name="*")
@dataclass(kw_only=True)
class ConnectionFlags:
    """Whom to ask."""

    emulator: Flag = False
    """Ask the emulator, in this process: no account and no network."""
    members: int | None = None
    """How many members the emulator has; by default 1,000."""

    def connection(self, per_minute: float | None = None) -> Connection:
        """The connection that the flags name."""
        return Connection(emulated=self.emulator, members=self.members, per_minute=per_minute)


@Parameter(name="*")
@dataclass(kw_only=True)
class ExportFlags:
    """What all exports have."""

    output: Annotated[str, Parameter(name=["--output", "-o"], allow_leading_hyphen=True)]
    """OUT.jsonl, OUT.csv, or - for JSON Lines on standard output."""
    ids: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    """A file with one member id a line, or - for standard input."""
    concurrency: int = 64
    """Members at once."""
    per_minute: float | None = None
    """Requests a minute at most; by default 5,000, half of what a program may send in all."""
    fresh: Flag = False
    """Replace the output if it is there already."""
    quiet: Flag = False
    """Show no progress and no summary."""

    def options(self) -> ExportOptions:
        """The flags as the export takes them."""
        return ExportOptions(
            self.output, self.ids, concurrency=self.concurrency, fresh=self.fresh, quiet=self.quiet
        )


@app.command
def points(user: str, *, id_type: PointsIdType = "id", flags: ConnectionFlags | None = None) -> int:
    """
    Print the points of one member that await fulfillment, as JSON.

    Args:
        user: The member.
        id_type: What the id is.
    """
    connection = (flags or ConnectionFlags()).connection()
    return anyio.run(print_points, connection, user, id_type)


@app.command
def rewards(
    user: str,
    *,
    id_type: RewardsIdType = "id",
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
    return anyio.run(
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
    id_type: PointsIdType = "id",
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
    return anyio.run(
        print_all,
        connection,
        lambda client: client.iter_user_purchases(
            user, id_type=id_type, date_start=date_start, date_end=date_end, max_items=max_items
        ),
    )


@exports.command(name="points")
def export_points(
    *, id_type: PointsIdType = "id", flags: ExportFlags, connect: ConnectionFlags | None = None
) -> int:
    """
    Export the points awaiting fulfillment of many members: one request and one row each.

    Args:
        id_type: What the ids are.
    """
    connection = (connect or ConnectionFlags()).connection(flags.per_minute)
    return anyio.run(export, connection, Source("points", id_type), flags.options())


@exports.command(name="rewards")
def export_rewards(
    *,
    id_type: RewardsIdType = "id",
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
    connection = (connect or ConnectionFlags()).connection(flags.per_minute)
    source = Source("rewards", id_type, include_soldout=include_soldout or None)
    return anyio.run(export, connection, source, flags.options())


@exports.command(name="purchases")
def export_purchases(
    *,
    id_type: PointsIdType = "id",
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
        date_end: The last day, included.
    """
    connection = (connect or ConnectionFlags()).connection(flags.per_minute)
    source = Source("purchases", id_type, date_start=date_start, date_end=date_end)
    return anyio.run(export, connection, source, flags.options())


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

    Args:
        host: The address to listen on; by default no other machine gets in.
        port: 0 takes a free one.
        members: How many members it has; their ids begin with 10000000.
        seed: Another seed gives other purchases and rewards.
        fault_rate: The share of requests, 0 to 1, that end in a random fault.
        per_minute: Requests in any 60 seconds above which it answers 429.
    """
    try:
        app = Emulator(members=members, seed=seed, fault_rate=fault_rate, per_minute=per_minute)
    except ValueError as error:
        problem = str(error)
    else:
        return serve_emulator(app, host, port)
    raise ConfigurationError(problem)
