"""
`crowdtwist export`: what it writes and says, its exit codes, its refusals, and its signals.
"""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import select
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from struct import unpack
from termios import FIONREAD
from typing import Any

import anyio.to_thread
import pytest
from command import (  # noqa: F401 - fixtures
    MEMBERS,
    USER,
    Command,
    Ended,
    asked_on_a_socket,
    checked,
    count_of_all,
    emulated,
    ids_of_all,
    in_this_process,
    no_account,
    on_every_name,
    process,
    python_m,
    requests_over_aiohttp,
    server_over_a_socket,
)
from conftest import KEY

from crowdtwist_async.cli import _progress, main
from crowdtwist_async.cli._interrupt import Interruption
from crowdtwist_async.cli._progress import ProgressDisplay
from crowdtwist_async.emulator import Emulator, Fault
from crowdtwist_async.export.formats.lines import LineWriter
from crowdtwist_async.export.locks import lock, unlock

PATIENCE = 60.0
STOPPING = "Stopping when the members under way are done. A second signal stops at once.\n"
CEILING = "crowdtwist: warning: the contract allows a program 10,000 requests a minute, .*\n"

Export = Callable[..., Ended]


@pytest.fixture
def export(crowdtwist: Command, emulator: Emulator, tmp_path: Path) -> Export:
    """Export the points of the emulator's members to `out.jsonl`, with more flags."""

    def run(*flags: object) -> Ended:
        return crowdtwist("export", "points", "--emulator", "-o", tmp_path / "out.jsonl", *flags)

    return run


def stored(output: Path) -> Counter[str]:
    """The rows of an output, counted by the member that was asked for."""
    match output.suffix:
        case ".jsonl":
            return Counter(json.loads(line)["requested_id"] for line in output.read_text().splitlines())
        case ".csv":
            with output.open(newline="") as file:
                return Counter(row["requested_id"] for row in csv.DictReader(file, strict=True))
        case ".parquet":
            import pyarrow.parquet as pq

            return Counter(map(str, pq.read_table(output).column("requested_id").to_pylist()))
    with closing(sqlite3.connect(output)) as connection:
        [(name,)] = connection.execute(
            "SELECT name FROM sqlite_master WHERE name IN ('points', 'rewards', 'purchases')"
        )
        return Counter(user for (user,) in connection.execute(f"SELECT requested_id FROM {name}"))


def each_once(*users: str) -> Counter[str]:
    """One row for each of these members, or for all."""
    return Counter(users or Emulator(members=MEMBERS).member_ids())


def in_ledger(output: Path) -> Counter[str]:
    """The members of an output's ledger, counted by their status."""
    with closing(sqlite3.connect(f"{output}.ledger.sqlite")) as connection:
        return Counter(status for (status,) in connection.execute("SELECT status FROM members"))


def summary_in(path: Path) -> dict[str, Any]:
    """What `--summary` wrote."""
    summary: dict[str, Any] = json.loads(path.read_text())
    return summary


# Rows


@on_every_name
@pytest.mark.parametrize("target", ["out.jsonl", "out.csv", "out.parquet", "out.sqlite", "-"])
def test_an_export_has_every_row(
    crowdtwist: Command, emulator: Emulator, tmp_path: Path, name: str, target: str
) -> None:
    """As many as the emulator has and says it served, whatever the format."""
    out = "-" if target == "-" else tmp_path / target

    ended = crowdtwist("export", name, "--emulator", "-o", out)

    rows = len(ended.rows) if target == "-" else stored(tmp_path / target).total()
    plan, told, *_, served = ended.err.splitlines()
    place = "standard output" if target == "-" else out
    counts = re.fullmatch(
        rf"{name}: 12 members, ([\d,]+) rows, ([\d,]+) requests, .* seconds\. Written to {place}\.", told
    )
    assert counts is not None
    assert f"{name}: 12 members, at least 12 requests, without a limit." == plan
    assert "The emulator served {} rows in {} requests.".format(*counts.groups()) == served
    assert (0, count_of_all(emulator, name)) == (ended.code, rows)
    assert f"{rows:,}" == counts[1]
    assert (target == "-") == bool(ended.out)


@pytest.mark.parametrize("source", ["file", "standard-input", "column"])
def test_ids_come_from_where_they_are_said_to_be(
    export: Export, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    """One a line, or in a column of a CSV file; blank lines and ids given twice are counted."""
    ids = tmp_path / "ids"
    lines = ["10000001", "", "10000002", "10000001"]
    ids.write_text("".join(f"{line}\n" for line in lines))
    flags: list[object] = ["--ids", ids]
    if source == "column":
        ids.write_text("name,member\n" + "".join(f"x,{line}\n" for line in lines))
        flags += ["--column", "member"]
    with ids.open() as stdin:
        if source == "standard-input":
            monkeypatch.setattr(sys, "stdin", stdin)
            flags = ["--ids", "-"]
        ended = export(*flags)

    assert 0 == ended.code
    assert each_once("10000001", "10000002") == stored(tmp_path / "out.jsonl")
    assert "Ids given twice: 1. Blank lines: 1.\n" in ended.err


@on_every_name
def test_an_export_over_a_socket_has_every_row(
    crowdtwist: Command, server: Emulator, tmp_path: Path, ids: Path, name: str
) -> None:
    """The real API gives no count of its own: the summary is what the client counted."""
    ended = crowdtwist("export", name, "--ids", ids, "-o", tmp_path / "out.jsonl", "--per-minute", "9000")

    count = count_of_all(server, name)
    plan, told = ended.err.splitlines()[:2]
    assert (0, count) == (ended.code, stored(tmp_path / "out.jsonl").total())
    assert f"{name}: 12 members, at least 12 requests: 0.1 seconds at 9,000 requests a minute." == plan
    assert told.startswith(f"{name}: 12 members, {count:,} rows, {server.stats.requests:,} requests, ")


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        pytest.param(["purchases", "--date-end", "1999-12-31"], lambda _: 0, id="dates"),
        pytest.param(
            ["purchases", "--date-start", "1999-01-01"],
            lambda emulator: count_of_all(emulator, "purchases"),
            id="first-day",
        ),
        pytest.param(
            ["rewards", "--include-soldout"],
            lambda emulator: sum(emulator.rewards_of(u, include_soldout=True) for u in emulator.member_ids()),
            id="sold-out",
        ),
        pytest.param(["points", "--id-type", "email"], lambda _: MEMBERS, id="email"),
        pytest.param(
            ["rewards", "--id-type", "username"],
            lambda emulator: count_of_all(emulator, "rewards"),
            id="username",
        ),
    ],
)
def test_flags_narrow_what_is_exported(
    crowdtwist: Command, emulator: Emulator, arguments: list[str], count: Callable[[Emulator], int]
) -> None:
    """They are the arguments of the client's methods; the emulator's own ids are of the same type."""
    ended = crowdtwist("export", *arguments, "--emulator", "-o", "-", "--concurrency", "3")

    assert (0, count(emulator)) == (ended.code, len(ended.rows))


@pytest.mark.parametrize(("flags", "name"), [([], "=1+1"), (["--disarm-formulas"], "'=1+1")], ids=str)
def test_formulas_are_disarmed_when_wanted(
    crowdtwist: Command, emulator: Emulator, tmp_path: Path, flags: list[str], name: str
) -> None:
    """A spreadsheet would calculate a reward's name."""

    def rename(body: Any) -> Any:
        for reward in body["rewards"]:
            reward["title"] = "=1+1"
        return body

    emulator.script(Fault.rewrite(rename, user=USER))

    ended = crowdtwist("export", "rewards", "--emulator", "-o", tmp_path / "out.csv", *flags)

    with (tmp_path / "out.csv").open(newline="") as file:
        names = [row["title"] for row in csv.DictReader(file) if row["requested_id"] == USER]
    assert (0, name) == (ended.code, names[0])


def test_standard_output_holds_rows_alone(ids: Path) -> None:
    """What there is to say goes to standard error, in a process of its own as well."""
    ended = process("export", "purchases", "--emulator", "--ids", "-", "-o", "-", stdin=ids.read_text())

    assert (0, count_of_all(Emulator(members=MEMBERS), "purchases")) == (ended.code, len(ended.rows))
    assert ended.err.startswith("purchases: 12 members, at least 12 requests, without a limit.\n")


def test_an_export_is_for_its_owner_alone(export: Export, tmp_path: Path) -> None:
    """It holds members' data, and so do the files beside it."""
    (tmp_path / "ids").write_text("10000000\na\x01b\n")
    umask = os.umask(0)
    try:
        export("--ids", tmp_path / "ids", "--summary", tmp_path / "out.summary.json")
    finally:
        os.umask(umask)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("out.*")}
    names = ["out.jsonl", "out.jsonl.errors.jsonl", "out.jsonl.ledger.sqlite", "out.summary.json"]
    assert dict.fromkeys(names, 0o600) == modes


# Going on


def test_a_complete_export_makes_no_request(export: Export, emulator: Emulator, tmp_path: Path) -> None:
    """It says since when it is complete, and is still the same."""
    export()
    before, requests = (tmp_path / "out.jsonl").read_bytes(), emulator.stats.requests

    ended = export("--max-age", "20h")

    assert (0, requests) == (ended.code, emulator.stats.requests)
    assert re.match(
        rf"points: {tmp_path}/out\.jsonl is complete since 20\S+Z: 12 members, 12 rows\."
        r" No request was made; --fresh exports again\.\n",
        ended.err,
    )
    assert before == (tmp_path / "out.jsonl").read_bytes()


def test_fresh_exports_again(export: Export, emulator: Emulator, tmp_path: Path) -> None:
    """As if nothing had been there."""
    export()

    ended = export("--fresh")

    assert (0, 2 * MEMBERS) == (ended.code, emulator.stats.requests)
    assert each_once() == stored(tmp_path / "out.jsonl")


@pytest.mark.parametrize("flags", [[], ["--fresh"]], ids=["as-it-is", "fresh"])
def test_what_no_export_wrote_is_kept(
    export: Export, emulator: Emulator, tmp_path: Path, flags: list[str]
) -> None:
    """Not even `--fresh` gives up a file that somebody else wrote."""
    (tmp_path / "out.jsonl").write_text("precious")

    ended = export(*flags)

    assert ended.refused(1, rf"{tmp_path}/out\.jsonl is .*\. It is left as it is: move it away, or .*")
    assert ("precious", 0) == ((tmp_path / "out.jsonl").read_text(), emulator.stats.requests)
    assert [tmp_path / "out.jsonl"] == list(tmp_path.iterdir())


def test_an_old_export_is_refused_when_wanted(export: Export, emulator: Emulator, tmp_path: Path) -> None:
    """A nightly job must not take the one of the night before for its own."""
    export()
    before = (datetime.now(UTC) - timedelta(hours=21)).isoformat()
    with closing(sqlite3.connect(tmp_path / "out.jsonl.ledger.sqlite")) as ledger:
        ledger.execute("UPDATE export_state SET value = ? WHERE key = 'completed_at'", (before,))
        ledger.commit()

    assert export("--max-age", "20h").refused(1, r".*out\.jsonl was complete at .* give --fresh .*")
    assert 0 == export("--max-age", "22h").code
    assert MEMBERS == emulator.stats.requests


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        pytest.param(["--id-type", "email"], "id-type was id and is email", id="id-type"),
        pytest.param(["--ids", "ids"], "the ids are not the same", id="ids"),
    ],
)
def test_other_arguments_are_refused(
    export: Export,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    flags: list[str],
    sentence: str,
) -> None:
    """The output would hold a mixture."""
    export()
    monkeypatch.chdir(tmp_path)
    Path("ids").write_text("10000001\n")

    ended = export(*flags)

    assert ended.refused(1, rf".*out\.jsonl was begun otherwise: .*{sentence}.*, or give --fresh .*")
    assert MEMBERS == emulator.stats.requests


# Members that fail, and an API that does


def test_unknown_ids_are_counted(export: Export, tmp_path: Path, ids: Path) -> None:
    """They are a result: the export is complete."""
    ids.write_text("5\n10000000\nnobody\n")

    ended = export("--ids", ids)

    assert (0, each_once("10000000")) == (ended.code, stored(tmp_path / "out.jsonl"))
    assert "Unknown ids: 2.\n" in ended.err
    assert "the API knows none of these ids" not in ended.err


def test_no_ids_are_suspicious(export: Export, ids: Path) -> None:
    """Somebody may have written an empty file."""
    ids.write_text("\n")

    ended = export("--ids", ids)

    assert (0, True) == (ended.code, "crowdtwist: warning: no ids were given: check --ids\n" in ended.err)


@pytest.mark.parametrize(
    ("flags", "many"), [([], _progress._MANY), (["--quiet"], 100)], ids=["told", "quiet"]
)
def test_many_ids_that_are_all_unknown_are_told_while_others_are_asked_for(
    crowdtwist: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    ids: Path,
    flags: list[str],
    many: int,
) -> None:
    """An hour of requests would be in vain."""
    assert 1_000 == _progress._MANY
    monkeypatch.setattr(_progress, "_MANY", many)
    ids.write_text("".join(f"nobody-{number}\n" for number in range(many + 200)))

    ended = crowdtwist(
        "export",
        "points",
        "--emulator",
        "--ids",
        ids,
        "-o",
        tmp_path / "out.jsonl",
        "--per-minute",
        "inf",
        *flags,
    )

    [first, last] = [line for line in ended.err.splitlines() if "knows none" in line]
    told = f"crowdtwist: warning: the API knows none of the first {many:,} ids: check --id-type"
    assert first.startswith(told)
    again = crowdtwist("export", "points", "--emulator", "--ids", ids, "-o", tmp_path / "out.jsonl", *flags)
    assert 1 == again.err.count("knows none")
    assert last.startswith("crowdtwist: warning: the API knows none of these ids: check --id-type")
    assert (0, bool(flags)) == (ended.code, all("warning" in line for line in ended.err.splitlines()))


def test_a_csv_file_without_a_column_is_told(crowdtwist: Command, ids: Path, tmp_path: Path) -> None:
    """Its lines would be ids that nobody has."""
    named = ids.rename(ids.with_name("ids.CSV"))
    told = (
        "crowdtwist: warning: each line of --ids is taken for one id: give --column NAME if it has columns\n"
    )

    assert (
        told
        in crowdtwist(
            "export", "points", "--emulator", "--ids", named, "-o", tmp_path / "out.jsonl", "--quiet"
        ).err
    )
    assert told in crowdtwist("plan", "--ids", named, "--endpoint", "points").err


@pytest.mark.parametrize("flags", [[], ["--quiet"]], ids=["told", "quiet"])
def test_ids_that_are_all_unknown_are_suspicious(export: Export, ids: Path, flags: list[str]) -> None:
    """They may be of another type, or of another environment."""
    ids.write_text("5\nnobody\n")

    ended = export("--ids", ids, *flags)

    assert 0 == ended.code
    assert (
        "warning: the API knows none of these ids: check --id-type, the environment, and --column"
        in ended.err
    )


def test_retries_and_changing_members_are_counted(crowdtwist: Command, emulator: Emulator) -> None:
    """The former cost requests of the program's budget, the latter may lack rows."""
    emulator.script(Fault.status(503, retry_after=0), Fault.status(429, retry_after=0))
    emulator.script(*[fault for _ in range(10) for fault in (None, Fault.drift(1, user=USER))])

    ended = crowdtwist("export", "purchases", "--emulator", "-o", "-", "--concurrency", 1)

    assert 0 == ended.code
    assert "Retries: 2.\n" in ended.err


@pytest.mark.parametrize(("most", "code"), [(None, 3), (3, 3), (4, 0)], ids=str)
def test_failed_members_are_written_down(
    export: Export, emulator: Emulator, tmp_path: Path, ids: Path, most: int | None, code: int
) -> None:
    """The export is complete without them, and the exit code says so; no reason names a member."""
    ids.write_text("10000000\na\x01b\n10000001\n..\nc\x02d\n10000002\n")
    body = json.dumps({"reason": "odd", "message": "10000001 is odd"}).encode()
    emulator.script(Fault.status(400, body=body, user="10000001"))

    ended = export("--ids", ids, *([] if most is None else ["--max-failed", most]))

    errors = tmp_path / "out.jsonl.errors.jsonl"
    failures = [json.loads(line) for line in errors.read_text().splitlines()]
    refused = "InvalidArgumentError"
    assert code == ended.code
    assert each_once("10000000", "10000002") == stored(tmp_path / "out.jsonl")
    assert f"Failed members: 4. They are in {errors}; --retry-failed tries them again.\n" in ended.err
    assert {"..": refused, "10000001": "BadRequestError", "a\x01b": refused, "c\x02d": refused} == {
        failure["requested_id"]: failure["error"] for failure in failures
    }
    assert "400 odd: *** is odd" in {failure["message"].partition(" (")[0] for failure in failures}


def test_failed_members_are_tried_again_when_wanted(
    export: Export, emulator: Emulator, tmp_path: Path
) -> None:
    """And none of the others; with them, the export is as if nothing had failed."""
    emulator.script(*[Fault.status(400, reason="odd", user=user) for user in ("10000003", USER)])

    assert 3 == export().code
    assert 3 == export().code
    assert MEMBERS == emulator.stats.requests
    assert 0 == export("--retry-failed", "--summary", tmp_path / "summary").code

    summary = summary_in(tmp_path / "summary")
    assert each_once() == stored(tmp_path / "out.jsonl")
    assert MEMBERS + 2 == emulator.stats.requests
    assert (MEMBERS, 0, 0) == (summary["members"], summary["failed"], summary["duplicates"])
    assert not (tmp_path / "out.jsonl.errors.jsonl").exists()


def test_a_refused_key_stops_an_export(export: Export, emulator: Emulator, tmp_path: Path) -> None:
    """After the plan, at once, and with what came before: the same command goes on."""
    emulator.script(None, None, Fault.status(403))

    ended = export("--concurrency", 1)

    plan, sentence = ended.err.splitlines()
    assert (4, 3) == (ended.code, emulator.stats.requests)
    assert "points: 12 members, at least 12 requests, without a limit." == plan
    assert sentence.startswith(
        "crowdtwist: 403 invalid_auth: Emulated fault. (check the API key, the client id and the environment: "
    )
    assert each_once("10000000", "10000001") == stored(tmp_path / "out.jsonl")

    ended = export()

    assert 0 == ended.code
    assert "points: 2 members done before; 10 members, at least 10 requests, without a limit.\n" in ended.err
    assert "Done by earlier runs: 2.\n" in ended.err
    assert each_once() == stored(tmp_path / "out.jsonl")


@pytest.mark.parametrize(("first", "then"), [("httpx", "aiohttp"), ("aiohttp", "httpx")], ids=str)
def test_an_export_goes_on_over_another_transport(
    crowdtwist: Command,
    server: Emulator,
    tmp_path: Path,
    ids: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: str,
    then: str,
) -> None:
    """How the requests travelled is not a part of what was asked for."""
    server.script(None, None, Fault.status(403))
    export = ["export", "points", "--ids", ids, "-o", tmp_path / "out.jsonl", "--concurrency", 1]
    sent = requests_over_aiohttp(monkeypatch)

    assert 4 == crowdtwist(*export, "--per-minute", "inf", "--transport", first).code
    before = server.stats.requests
    assert (3, 3 * (first == "aiohttp")) == (before, len(sent))
    ended = crowdtwist(*export, "--per-minute", "inf", "--transport", then)

    assert 0 == ended.code
    assert "Done by earlier runs: 2.\n" in ended.err
    assert each_once() == stored(tmp_path / "out.jsonl")
    assert (server.stats.requests - before) * (then == "aiohttp") + 3 * (first == "aiohttp") == len(sent)


def test_a_failed_export_to_standard_output_has_its_rows(crowdtwist: Command, emulator: Emulator) -> None:
    """Those that came before; there is nothing to go on with."""
    emulator.script(None, Fault.status(403))

    ended = crowdtwist("export", "points", "--emulator", "-o", "-", "--concurrency", 1)

    assert (4, 1, 2) == (ended.code, len(ended.rows), len(ended.err.splitlines()))


@pytest.mark.parametrize(
    ("flags", "fault", "reason"),
    [
        pytest.param(
            [], Fault.status(503, retry_after=1000), "the API asks to come back later: ", id="later"
        ),
        pytest.param(
            ["--max-outage", "0s"],
            Fault.status(503, retry_after=0),
            "the API has not answered for 0 seconds: ",
            id="too-long",
        ),
    ],
)
def test_an_outage_stops_an_export(
    export: Export, emulator: Emulator, tmp_path: Path, flags: list[str], fault: Fault, reason: str
) -> None:
    """When it takes longer than the run would wait; the exit code tells a scheduler to come back."""
    emulator.script(None, None, None, *[fault] * 1_000)

    ended = export("--concurrency", 4, "--summary", tmp_path / "summary", *flags)

    summary = summary_in(tmp_path / "summary")
    assert 75 == ended.code
    assert f"Stopped: {reason}503 " in ended.err
    assert f"Stopped after 3 of 12 ids. The same command goes on with {tmp_path}/out.jsonl.\n" in ended.err
    assert ("stopped", 3) == (summary["status"], summary["members"])
    assert summary["reason"].startswith(reason)
    assert 3 == stored(tmp_path / "out.jsonl").total()


def test_a_full_disk_stops_an_export(
    export: Export, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a sentence; with room again, the same command goes on."""

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        ended = export()

    assert 1 == ended.code
    assert re.search(
        rf"\ncrowdtwist: {tmp_path}/out\.jsonl can't be written: No space left on device\. .*\n$", ended.err
    )
    assert 0 == export().code
    assert each_once() == stored(tmp_path / "out.jsonl")


# What is said


def test_the_plan_comes_before_the_first_request(
    export: Export, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads it can still think better of it."""
    said: list[tuple[int, str]] = []
    monkeypatch.setattr(
        ProgressDisplay, "say", lambda _, sentence: said.append((emulator.stats.requests, sentence))
    )

    export("--per-minute", 6000)

    assert (0, "points: 12 members, at least 12 requests: 0.1 seconds at 6,000 requests a minute.") == said[0]


@pytest.mark.parametrize(
    ("flags", "variable", "warned"),
    [
        pytest.param(["--per-minute", "10001"], "", True, id="flag"),
        pytest.param(["--per-minute", "inf"], "", True, id="no-limit"),
        pytest.param([], "20000", True, id="environment"),
        pytest.param(["--per-minute", "10000"], "20000", False, id="at-most"),
        pytest.param([], "", False, id="usual"),
    ],
)
def test_a_rate_above_the_contract_is_warned_of(
    crowdtwist: Command,
    server: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    ids: Path,
    flags: list[str],
    variable: str,
    warned: bool,
) -> None:
    """And taken, wherever it is given."""
    monkeypatch.setenv("CROWDTWIST_PER_MINUTE", variable)

    ended = crowdtwist("export", "points", "--ids", ids, "-o", "-", *flags)

    assert (0, warned) == (ended.code, bool(re.match(CEILING, ended.err)))


def test_one_member_is_a_member(crowdtwist: Command, tmp_path: Path) -> None:
    """One of each has no plural."""
    ended = crowdtwist("export", "points", "--emulator", "--members", 1, "-o", tmp_path / "out.csv")

    plan, told, served = ended.err.splitlines()
    assert "points: 1 member, at least 1 request, without a limit." == plan
    assert told.startswith("points: 1 member, 1 row, 1 request, ")
    assert "The emulator served 1 row in 1 request." == served


def test_quiet_says_nothing(crowdtwist: Command, emulator: Emulator, tmp_path: Path, ids: Path) -> None:
    """Neither of retries, of members that change meanwhile, nor of failures; the exit code does."""
    ids.write_text("10000001\na\x01b\n5\n")
    emulator.script(Fault.status(503, retry_after=0), None, Fault.drift(1))

    ended = crowdtwist(
        "export", "purchases", "--emulator", "--ids", ids, "-o", tmp_path / "out.csv", "--quiet"
    )

    assert (3, "", "") == ended
    assert emulator.purchases_of(USER) == stored(tmp_path / "out.csv")[USER]


def test_quiet_holds_for_the_logs_too(server: Emulator, ids: Path) -> None:
    """A process without logging set up would print warnings of retries."""
    server.script(Fault.status(503, retry_after="0.01"), Fault.reset())

    ended = process("export", "points", "--ids", ids, "-o", "-", "--quiet", "--per-minute", "9000")

    assert (0, MEMBERS, "") == (ended.code, len(ended.rows), ended.err)


# The summary


def test_the_summary_is_json_too(export: Export, emulator: Emulator, tmp_path: Path) -> None:
    """For a scheduler: it replaces the one of the day before, and is the same for a complete export."""
    path = tmp_path / "summary.json"
    path.write_text('{"output": "yesterday')

    assert 0 == export("--summary", path).code
    first = summary_in(path)
    assert 0 == export("--summary", path).code

    assert ("complete", "points", str(tmp_path / "out.jsonl")) == (
        first["status"],
        first["endpoint"],
        first["output"],
    )
    assert (12, 12, 12, 12, 0) == tuple(
        first[name] for name in ("ids", "members", "rows", "requests", "failed")
    )
    assert ("already_complete", first["completed_at"], 0) == (
        (second := summary_in(path))["status"],
        second["completed_at"],
        second["requests"],
    )


@pytest.mark.parametrize(
    "name", ["out.1-of-2.jsonl", "out.0-of-3.jsonl.errors.jsonl", "out.1-of-2.jsonl.ledger.sqlite"]
)
def test_the_summary_takes_no_name_of_a_shard(export: Export, tmp_path: Path, name: str) -> None:
    """That shard would be refused, as something were there already."""
    ended = export("--shard", "0/2", "--summary", tmp_path / name)

    assert ended.refused(2, "--summary names a file of the export itself: name another")


@pytest.mark.parametrize("output", ["", ".", "/"])
def test_a_summary_of_an_output_without_a_name_is_refused(
    crowdtwist: Command, tmp_path: Path, output: str
) -> None:
    """For the output's sake."""
    flags = ("--emulator", "--shard", "0/2", "--summary", tmp_path / "summary")
    ended = crowdtwist("export", "points", "-o", output, *flags)

    assert 2 == ended.code
    assert re.search("has no name|is a folder|names a file in the output", ended.err)


def test_a_second_export_leaves_the_summary_of_the_first(export: Export, tmp_path: Path) -> None:
    """Nothing is known of the first there, and a monitor would take it for failed."""
    path = tmp_path / "summary.json"
    assert 0 == export("--summary", path).code
    before = path.read_bytes()
    held = lock(tmp_path / "out.jsonl.ledger.sqlite", "out")
    try:
        assert export("--summary", path, "--fresh").refused(1, "another export is writing .*")
    finally:
        unlock(held)
    assert before == path.read_bytes()


def test_a_failed_export_has_a_summary(export: Export, emulator: Emulator, tmp_path: Path) -> None:
    """One of an earlier run would mislead."""
    path = tmp_path / "summary.json"
    path.write_text('{"output": "out.jsonl", "status": "complete"}')
    emulator.script(None, Fault.status(403))

    assert 4 == export("--summary", path, "--concurrency", 1).code

    summary = summary_in(path)
    assert ("failed", 1, 12) == (summary["status"], summary["members"], summary["ids"])
    assert summary["reason"].startswith("403 invalid_auth")


def test_what_a_kill_left_of_a_summary_is_removed(crowdtwist: Command, tmp_path: Path, ids: Path) -> None:
    """By the next run, also by one that does not come as far as to a summary of its own."""
    left = tmp_path / ".summary.new"
    left.write_text("{")

    ended = crowdtwist(
        "export", "points", "--ids", ids, "-o", tmp_path / "out.csv", "--summary", tmp_path / "summary"
    )

    assert ended.refused(2, "there is no key: .*")
    assert [ids] == list(tmp_path.iterdir())


def test_a_link_to_the_summary_stays(export: Export, tmp_path: Path) -> None:
    """What it leads to is replaced."""
    (tmp_path / "link").symlink_to(tmp_path / "there.json")

    assert 0 == export("--summary", tmp_path / "link").code

    assert (True, "complete") == (
        (tmp_path / "link").is_symlink(),
        summary_in(tmp_path / "there.json")["status"],
    )


def test_a_summary_tells_any_name(crowdtwist: Command, emulator: Emulator, tmp_path: Path) -> None:
    """Also the name of a file that is no UTF-8."""
    out = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.csv")

    ended = crowdtwist(
        "export", "points", "--emulator", "-o", out, "--summary", tmp_path / "summary", "--quiet"
    )

    assert (0, out) == (ended.code, summary_in(tmp_path / "summary")["output"])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        pytest.param("missing/summary", "the folder of missing/summary is not there, or .*", id="no-folder"),
        pytest.param(".", "--summary takes the name of a file, which . is not", id="folder"),
        pytest.param("/dev/null", "--summary takes the name of a file, which /dev/null is not", id="device"),
        pytest.param("out.jsonl", "--summary names a file of the export itself: name another", id="output"),
        pytest.param("./out.jsonl.ledger.sqlite", "--summary names a file of .*", id="ledger"),
        pytest.param("out.jsonl.errors.jsonl", "--summary names a file of .*", id="errors"),
        pytest.param("ids.txt", "--summary names a file of the export itself: .*", id="ids"),
        pytest.param(
            "rows.csv", "--summary names .*/rows.csv, which is no summary: name another .*", id="rows"
        ),
    ],
)
def test_a_summary_that_can_not_be_written_is_refused_before(
    export: Export, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, ids: Path, name: str, sentence: str
) -> None:
    """Not after a night of requests; and it replaces nothing that matters."""
    monkeypatch.chdir(ids.parent)
    Path("rows.csv").write_text("requested_id,requested_id_type,")

    assert export("--ids", ids, "--summary", name).refused(2, sentence)

    left = sorted(path.name for path in ids.parent.iterdir())
    assert (["ids.txt", "rows.csv"], 0) == (left, emulator.stats.requests)


def test_a_summary_is_written_into_no_output(
    crowdtwist: Command, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folder of parts is read as a table."""
    monkeypatch.chdir(tmp_path)
    ended = crowdtwist(
        "export", "points", "--emulator", "-o", "out.parquet", "--summary", "out.parquet/summary.json"
    )
    assert ended.refused(2, "--summary names a file in the output: name one outside it")


def test_a_summary_replaces_no_rows_that_came_meanwhile(
    crowdtwist: Command, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Such as those of another shard."""
    path = tmp_path / "out.1-of-2.jsonl"
    write = LineWriter.finish

    def finish(writer: LineWriter) -> None:
        path.write_text('{"requested_id":"7"')
        write(writer)

    monkeypatch.setattr(LineWriter, "finish", finish)
    ended = crowdtwist(
        "export", "points", "--emulator", "-o", tmp_path / "o.jsonl", "--summary", path, "--quiet"
    )
    assert ended.refused(2, "--summary names .*out.1-of-2.jsonl, which is no summary: name another file")
    assert '{"requested_id":"7"' == path.read_text()


def test_rows_are_printed_in_any_locale(ids: Path) -> None:
    """In UTF-8, as they are written to files."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = python_m("rewards", "--emulator", USER)
    done = subprocess.run(command, env=environment, capture_output=True, timeout=PATIENCE)
    assert (0, b"") == (done.returncode, done.stderr)
    assert not done.stdout.decode().isascii()


def test_a_summary_that_can_not_be_written_after_all_is_told(
    export: Export, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of a complete export it is all that is wrong; of one that failed, the failure says more."""
    taken = tmp_path / ".summary.new"
    taken.mkdir()

    ended = export("--summary", tmp_path / "summary")
    again = export("--summary", tmp_path / "summary", "--id-type", "email")

    assert (1, 1) == (ended.code, again.code)
    assert re.search(rf"\ncrowdtwist: {tmp_path}/summary can't be written: .*\n$", ended.err)
    assert "was begun otherwise" in again.err
    assert each_once() == stored(tmp_path / "out.jsonl")


# Refusals of the place


@pytest.mark.parametrize(
    ("out", "code", "sentence"),
    [
        pytest.param("s3://bucket/out.jsonl", 2, "object stores take Parquet alone: .*", id="s3"),
        pytest.param(
            "missing/out.jsonl", 2, "the folder of missing/out.jsonl is not there: .*", id="missing"
        ),
        pytest.param("folder", 2, "folder is a folder: name a file in it", id="folder"),
        pytest.param("", 2, "the output has no name: give a file's, such as out.jsonl", id="no-name"),
        pytest.param(
            "folder.jsonl", 2, "folder.jsonl is a folder: name a file in it", id="folder-with-suffix"
        ),
        pytest.param("taken.jsonl", 1, r"taken\.jsonl\.ledger\.sqlite .*", id="ledger-that-is-a-folder"),
        pytest.param("out.txt", 2, r"out\.txt has no known format: .*", id="format"),
        pytest.param("a" * 300 + ".jsonl", 2, "the output's name has 306 bytes, .*", id="name-too-long"),
    ],
)
def test_a_place_that_can_not_be_written_is_told(
    crowdtwist: Command,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    out: str,
    code: int,
    sentence: str,
) -> None:
    """Before the first request, and nothing is left."""
    monkeypatch.chdir(tmp_path)
    for folder in ("folder", "folder.jsonl", "taken.jsonl.ledger.sqlite"):
        Path(folder).mkdir()
    before = sorted(tmp_path.iterdir())

    ended = crowdtwist("export", "points", "--emulator", "-o", out)

    assert ended.refused(code, sentence), ended
    assert (before, 0) == (sorted(tmp_path.iterdir()), emulator.stats.requests)


def test_a_folder_that_is_read_only_is_told(
    export: Export, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before the first request; asking for the permission is what the superuser can't test otherwise."""
    asked: list[Path] = []

    def refuse(path: Path, mode: int) -> bool:
        asked.append(path)
        return mode != os.W_OK

    monkeypatch.setattr(os, "access", refuse)

    assert export().refused(2, rf"the folder of {tmp_path}/out\.jsonl can't be written to.*")
    assert ([tmp_path], 0) == (asked, emulator.stats.requests)


def test_parquet_names_what_it_needs(
    crowdtwist: Command, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the line that installs it."""
    from crowdtwist_async.export import formats

    monkeypatch.delattr(formats, "parquet", raising=False)
    monkeypatch.delitem(sys.modules, "crowdtwist_async.export.formats.parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    ended = crowdtwist("export", "points", "--emulator", "-o", tmp_path / "out.parquet")

    assert ended.refused(2, r"Parquet needs one more package: pip install 'crowdtwist-async\[parquet\]'")
    assert ([], 0) == (list(tmp_path.iterdir()), emulator.stats.requests)


@pytest.mark.parametrize(
    ("name", "reason"), [("missing.txt", "No such file or directory"), (".", "Is a directory")]
)
def test_ids_that_can_not_be_read_are_told(export: Export, tmp_path: Path, name: str, reason: str) -> None:
    """The output's name stays free."""
    assert export("--ids", tmp_path / name).refused(
        2, rf"the ids in {tmp_path / name} can't be read: {reason}.*"
    )
    assert [] == list(tmp_path.iterdir())


def test_standard_input_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    """As a file is, in any locale."""
    done = subprocess.run(
        python_m("export", "points", "--emulator", "--ids", "-", "-o", tmp_path / "out.jsonl"),
        input=b"10000000\n\xff\n",
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        timeout=PATIENCE,
    )

    assert 2 == done.returncode
    said = b"crowdtwist: the ids on standard input can't be read: they are no UTF-8 text"
    assert done.stderr.startswith(said)
    assert 1 == done.stderr.count(b"\n")


# Streams that are closed


def test_a_reader_that_leaves_ends_an_export(
    capfd: pytest.CaptureFixture[str], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`| head -1` has what it wanted: the plan is all that is said."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", pipe)
        code = main(["export", "purchases", "--emulator", "-o", "-"])
        pipe.write("what the interpreter still had to flush")

    assert 1 == code
    assert "purchases: 12 members, at least 12 requests, without a limit.\n" == capfd.readouterr().err


@pytest.mark.parametrize("shell", ['exec "$@" 2>&-', '"$@" 2>&1 >/dev/null | true'], ids=["closed", "unread"])
def test_nobody_has_to_listen(tmp_path: Path, shell: str) -> None:
    """A standard error that is closed, or that nobody reads any more, is no reason to end an export."""
    out = tmp_path / "out.jsonl"
    command = python_m("export", "points", "--emulator", "--members", MEMBERS, "-o", out)

    done = subprocess.run(["sh", "-c", shell, "sh", *command], capture_output=True, timeout=PATIENCE)

    assert (b"", b"") == (done.stdout, done.stderr)
    assert each_once() == stored(out)


def test_a_usage_error_that_nobody_reads_is_not_printed_elsewhere() -> None:
    """Standard output is for rows."""
    command = python_m("export", "points", "--bogus")

    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *command], capture_output=True, timeout=PATIENCE
    )

    assert (2, b"", b"") == (done.returncode, done.stdout, done.stderr)


# Signals, and others at the same place


class GatedEmulator(Emulator):
    """Answers some requests at once, and the others when its gate is open."""

    def __init__(self, free: int) -> None:
        super().__init__(members=MEMBERS, api_key=KEY)
        self._free = free
        self.arrived = 0
        self.gate = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request, in its time."""
        self.arrived += 1
        if self.arrived > self._free:
            await anyio.to_thread.run_sync(self.gate.wait, abandon_on_cancel=True)
        await super().__call__(scope, receive, send)


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatedEmulator]:
    """What is asked over a socket: three requests are answered, the fourth waits."""
    emulator = GatedEmulator(free=3)
    with asked_on_a_socket(emulator, monkeypatch):
        yield emulator
        emulator.gate.set()


@contextmanager
def started(*arguments: object, stdout: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """An export in a process of its own."""
    with subprocess.Popen(
        python_m("export", "points", *arguments),
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def ended(running: subprocess.Popen[str]) -> Ended:
    """How it ends, while its standard input stays open."""
    running.wait(PATIENCE)
    assert running.stderr is not None
    printed = "" if running.stdout is None else running.stdout.read()
    return checked(Ended(running.returncode, printed, running.stderr.read()))


def line_from(running: subprocess.Popen[str]) -> str:
    """The next line of its standard error."""
    assert running.stderr is not None
    return running.stderr.readline()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.01)


class SignallingEmulator(Emulator):
    """Signals this process when the fourth request comes, and again when the first signal was heeded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *numbers: signal.Signals) -> None:
        super().__init__(members=MEMBERS, api_key=KEY)
        self._numbers = numbers
        self._heeded = threading.Event()
        say = ProgressDisplay.say

        def said(display: ProgressDisplay, sentence: str) -> None:
            say(display, sentence)
            if f"{sentence}\n" == STOPPING:
                self._heeded.set()

        monkeypatch.setattr(ProgressDisplay, "say", said)
        monkeypatch.setattr(Interruption, "end_process", lambda _: None)
        monkeypatch.setattr("crowdtwist_async.cli._connect.Emulator", lambda members: self)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request, unless a second signal is to end it."""
        if self.stats.requests == 3:
            for number in self._numbers:
                signal.raise_signal(number)
                assert await anyio.to_thread.run_sync(self._heeded.wait, PATIENCE)
            if len(self._numbers) > 1:
                await anyio.sleep_forever()
        await super().__call__(scope, receive, send)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_finishes_what_is_under_way(
    crowdtwist: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals
) -> None:
    """The member that was asked for is committed, and the same command goes on with the next."""
    out = tmp_path / "out.jsonl"
    emulator = SignallingEmulator(monkeypatch, number)
    arguments = ["export", "points", "--emulator", "-o", out, "--concurrency", 1, "--summary", tmp_path / "x"]

    stopped = crowdtwist(*arguments)

    assert (75, 4) == (stopped.code, emulator.stats.requests)
    assert STOPPING == stopped.err.splitlines(keepends=True)[1]
    assert f"\nStopped after 4 of 12 ids. The same command goes on with {out}.\n" in stopped.err
    assert (4, Counter(ok=4)) == (stored(out).total(), in_ledger(out))
    summary = summary_in(tmp_path / "x")
    assert ("stopped", None, 4) == (summary["status"], summary["reason"], summary["members"])

    assert (0, MEMBERS) == (crowdtwist(*arguments).code, emulator.stats.requests)
    assert each_once() == stored(out)


def test_an_ignored_ctrl_c_stays_ignored(
    crowdtwist: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So shells start commands in the background, which a Ctrl-C at the terminal is not for."""

    class Interrupting(Emulator):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            signal.raise_signal(signal.SIGINT)
            await super().__call__(scope, receive, send)

    emulator = Interrupting(members=MEMBERS, api_key=KEY)
    monkeypatch.setattr("crowdtwist_async.cli._connect.Emulator", lambda members: emulator)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ended = crowdtwist("export", "points", "--emulator", "-o", tmp_path / "out.jsonl", "--concurrency", 1)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)

    assert (0, MEMBERS) == (ended.code, emulator.stats.requests)


def test_what_is_stopped_on_standard_output_is_not_to_be_run_again(
    crowdtwist: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever does so because of the code 75 would have every row twice."""
    SignallingEmulator(monkeypatch, signal.SIGTERM)

    stopped = crowdtwist("export", "points", "--emulator", "-o", "-", "--concurrency", 1)

    assert (130, "Stopped after 4 of 12 ids.") == (stopped.code, stopped.err.splitlines()[3])


@pytest.mark.parametrize(("output", "flags"), [("out.jsonl", []), ("out.jsonl", ["--fresh"]), ("-", [])])
def test_a_second_signal_leaves_what_is_under_way(
    crowdtwist: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, output: str, flags: list[str]
) -> None:
    """A file can be gone on with, standard output can't."""
    SignallingEmulator(monkeypatch, signal.SIGTERM, signal.SIGINT)
    monkeypatch.chdir(tmp_path)

    stopped = crowdtwist(
        "export", "points", "--emulator", "-o", output, "--concurrency", 1, "--summary", "summary", *flags
    )

    goes_on = f"the same command{' without --fresh' if flags else ''} goes on with out.jsonl"
    going_on = "" if output == "-" else f": {goes_on}"
    summary = summary_in(Path("summary"))
    assert 130 == stopped.code
    assert stopped.err.endswith(f"{STOPPING}crowdtwist: interrupted{going_on}\n")
    assert ("stopped", "interrupted") == (summary["status"], summary["reason"])


def test_a_process_ends_with_the_second_signal(
    gated: GatedEmulator, crowdtwist: Command, tmp_path: Path, ids: Path
) -> None:
    """Though a reply is outstanding; what was committed stays, and the same command goes on."""
    out = tmp_path / "out.jsonl"
    arguments = ["--ids", ids, "-o", out, "--concurrency", 1, "--per-minute", 9000]
    with started(*arguments) as running:
        plan = "points: 12 members, at least 12 requests: 0.1 seconds at 9,000 requests a minute.\n"
        assert plan == line_from(running)
        wait_until(lambda: gated.arrived >= 4 and in_ledger(out) == Counter(ok=3))
        running.send_signal(signal.SIGINT)
        assert STOPPING == line_from(running)
        running.send_signal(signal.SIGINT)
        end = ended(running)

    assert (130, "", f"crowdtwist: interrupted: the same command goes on with {out}\n") == end
    assert Counter(ok=3) == in_ledger(out)

    gated.gate.set()
    assert 0 == crowdtwist("export", "points", *arguments).code
    assert each_once() == stored(out)


@contextmanager
def full_pipe() -> Iterator[int]:
    """Where to write what nobody reads: it takes nothing more."""
    reading, writing = os.pipe()
    while select.select([], [writing], [], 0)[1]:
        os.write(writing, bytes(select.PIPE_BUF))
    try:
        yield writing
    finally:
        os.close(reading)
        os.close(writing)


def hangs_writing(process_id: int) -> bool:
    """Whether one of its threads is in a call of the system's whose first argument is standard output."""
    for call in Path("/proc").glob(f"{process_id}/task/*/syscall"):
        with suppress(OSError):  # the thread has ended
            if call.read_text().split()[1:2] == ["0x1"]:
                return True
    return False


@pytest.mark.parametrize("signals", [2, 3])
def test_a_process_ends_though_a_thread_hangs(signals: int) -> None:
    """In a pipe that nobody reads; with the second signal soon, with a third at once."""
    with full_pipe() as pipe, started("--emulator", "-o", "-", stdout=pipe) as running:
        line_from(running)
        wait_until(lambda: hangs_writing(running.pid))
        running.send_signal(signal.SIGINT)
        assert STOPPING == line_from(running)
        for _ in range(signals - 1):
            running.send_signal(signal.SIGINT)
        end = ended(running)

    assert (130, "", "crowdtwist: interrupted\n") == end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_the_reading_of_ids(tmp_path: Path, number: signal.Signals) -> None:
    """At once, though they come from a pipe that stays open and says nothing: nothing was begun."""
    with started("--emulator", "--ids", "-", "-o", tmp_path / "out.jsonl") as running:
        assert running.stdin is not None
        pipe = running.stdin
        pipe.write(f"{USER}\n")
        pipe.flush()
        # It has taken the first id, and so heeds signals.
        wait_until(lambda: unpack("i", fcntl.ioctl(pipe, FIONREAD, b"\0" * 4)) == (0,))
        running.send_signal(number)
        end = ended(running)

    assert (130, "", "crowdtwist: interrupted\n") == end
    assert [] == list(tmp_path.iterdir())


def test_two_exports_keep_out_of_each_others_way(
    gated: GatedEmulator, crowdtwist: Command, tmp_path: Path, ids: Path
) -> None:
    """The second is refused, with `--fresh` as well; the first does not notice."""
    out = tmp_path / "out.jsonl"
    arguments = ["--ids", ids, "-o", out, "--concurrency", 1, "--per-minute", 9000]
    with started(*arguments) as running:
        wait_until(lambda: gated.arrived >= 4)
        for fresh in ([], ["--fresh"]):
            second = crowdtwist("export", "points", *arguments, *fresh)
            assert second.refused(1, rf"another export is writing {out}: wait until it ends, or stop it.*")
        gated.gate.set()
        end = ended(running)

    assert (0, each_once()) == (end.code, stored(out))
