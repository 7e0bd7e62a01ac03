"""
`export` as programs call it: its arguments, what its report says, and how it is stopped and cancelled.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from anyio.lowlevel import current_token
from conftest import KEY
from detours import Answer, Detour, export_from, members_in, noted_in
from outputs import query
from scripted import status

from crowdtwist_async import (
    AuthenticationError,
    ConfigurationError,
    InvalidArgumentError,
    OutputMismatchError,
    RateBudget,
    Reply,
    RetryPolicy,
)
from crowdtwist_async.emulator import Emulator, Fault
from crowdtwist_async.export import ExportReport, IdSource, export, outage, queue, read_ids, run
from crowdtwist_async.export.formats import Limits
from crowdtwist_async.export.formats.lines import LineWriter
from crowdtwist_async.export.ledger import Ledger
from crowdtwist_async.export.target import Target

on_both_loops = pytest.mark.anyio
LONG = 3600.0
"""Seconds for which no test waits."""
BAD = status(400)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A place for an export."""
    return tmp_path / "out.jsonl"


def emulator_of(members: int) -> Emulator:
    """An API with the key of all tests."""
    return Emulator(members=members, api_key=KEY)


def refusing(*bad: str) -> Callable[[str], Answer]:
    """Answers that fail some members for good."""
    return lambda user_id: BAD if user_id in bad else None


def set_state(output: Path, key: str, value: str) -> None:
    """Change what the ledger says of the export."""
    with closing(sqlite3.connect(f"{output}.ledger.sqlite")) as connection, connection:
        connection.execute("UPDATE export_state SET value = ? WHERE key = ?", (value, key))


# Arguments


@on_both_loops
@pytest.mark.parametrize(
    ("options", "kind"),
    [
        pytest.param({"name": "pointz"}, InvalidArgumentError, id="endpoint"),
        pytest.param({"id_type": "username"}, InvalidArgumentError, id="id-type"),
        pytest.param({"date_start": "2026-01-01"}, InvalidArgumentError, id="dates"),
        pytest.param({"name": "purchases", "date_start": "9999-12-31"}, InvalidArgumentError, id="future"),
        pytest.param({"concurrency": 0}, ConfigurationError, id="concurrency"),
        pytest.param({"max_outage": -1}, ConfigurationError, id="max-outage"),
        pytest.param({"max_outage": math.nan}, ConfigurationError, id="no-number"),
        pytest.param({"max_outage": True}, ConfigurationError, id="true"),
        pytest.param({"max_outage": "15m"}, ConfigurationError, id="text"),
        pytest.param({"max_age": "20h"}, ConfigurationError, id="max-age"),
        pytest.param({"max_age": math.nan}, ConfigurationError, id="max-age-no-number"),
        pytest.param({"stop": True}, ConfigurationError, id="stop"),
        pytest.param({"progress": True}, ConfigurationError, id="progress"),
        pytest.param({"progress": anyio.sleep}, ConfigurationError, id="async-progress"),
        pytest.param({"fresh": "no"}, InvalidArgumentError, id="fresh"),
        pytest.param({"retry_failed": 1}, InvalidArgumentError, id="retry-failed"),
        pytest.param({"disarm_formulas": "yes"}, InvalidArgumentError, id="disarm-formulas"),
        pytest.param({"ids": "10000000"}, InvalidArgumentError, id="ids"),
    ],
)
async def test_what_can_not_work_is_refused(
    options: dict[str, Any], kind: type[Exception], output: Path
) -> None:
    """Before anything is asked or written."""
    emulator = emulator_of(1)

    with pytest.raises(kind):
        await export_from(emulator, output, **options)

    assert 0 == emulator.stats.requests
    assert [] == list(output.parent.iterdir())


@on_both_loops
@pytest.mark.parametrize("place", [None, 7, b"out.jsonl"])
async def test_an_output_is_a_path(place: Any) -> None:
    """Text, or what gives one."""
    with pytest.raises(ConfigurationError, match="^output must be a path, the URL of an object store, or -$"):
        await export_from(emulator_of(1), place)


@on_both_loops
async def test_no_more_is_begun_than_there_are_members(output: Path) -> None:
    """However many at once are allowed: a worker is started when there is work for one more."""
    before, most = len(anyio.get_running_tasks()), 0

    def watch(_: ExportReport) -> None:
        nonlocal most
        most = max(most, len(anyio.get_running_tasks()) - before)

    report = await export_from(emulator_of(3), output, concurrency=10**9, progress=watch)

    assert (3, True) == (report.members, 0 < most < 20)


@on_both_loops
@pytest.mark.parametrize(
    "options",
    [{"fresh": True}, {"retry_failed": True}, {"max_age": 60}],
    ids=lambda options: next(iter(options)),
)
async def test_standard_output_holds_no_earlier_export(options: dict[str, Any]) -> None:
    """What concerns one is refused."""
    async with emulator_of(1).client() as client:
        with pytest.raises(
            ConfigurationError, match="^standard output holds no earlier export: name a file$"
        ):
            await export(client, "points", ["10000000"], "-", **options)


@on_both_loops
async def test_standard_output_gets_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON Lines, each member's as it is done."""
    raw, told = io.BytesIO(), []
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw))

    def progress(report: ExportReport) -> None:
        told.append((report.rows, len(raw.getvalue().splitlines())))

    async with emulator_of(20).client() as client:
        ids = map(str, range(10_000_000, 10_000_020))
        report = await export(client, "points", ids, "-", progress=progress, concurrency=2)

    lines = raw.getvalue().splitlines()
    assert {str(number) for number in range(10_000_000, 10_000_020)} == {
        json.loads(line)["requested_id"] for line in lines
    }
    assert ("complete", 20, 20, None) == (report.status, report.rows, len(lines), report.errors_file)
    assert all(rows == written for rows, written in told)
    assert len(set(told)) > 2


@on_both_loops
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param({"name": "rewards"}, "endpoint was purchases and is rewards", id="endpoint"),
        pytest.param({"id_type": "email"}, "id-type was id and is email", id="id-type"),
        pytest.param({"date_start": "2026-01-02"}, "date-start was 2026-01-01 and is 2026-01-02", id="start"),
        pytest.param({"date_end": "2026-03-01"}, "date-end was not given and is 2026-03-01", id="end"),
        pytest.param({"ids": ["10000001", "10000000"]}, "the ids are not the same", id="ids"),
    ],
)
async def test_an_export_goes_on_with_the_same_arguments_alone(
    changed: dict[str, Any], said: str, output: Path
) -> None:
    """Everything else would mix two exports."""
    asked: dict[str, Any] = {"ids": ["10000000", "10000001"], "name": "purchases", "date_start": "2026-01-01"}
    if changed.get("name") == "rewards":
        del asked["date_start"]
    emulator = emulator_of(2)
    await export_from(emulator, output, **asked)

    with pytest.raises(OutputMismatchError, match=said):
        await export_from(emulator, output, **{**asked, **changed})


@on_both_loops
async def test_another_host_is_another_export(output: Path) -> None:
    """The sandbox's members are not those of the live program."""
    emulator = emulator_of(2)
    await export_from(emulator, output)

    async with emulator.client(pos_url="http://localhost:2") as client:
        with pytest.raises(OutputMismatchError, match="host was localhost and is localhost:2"):
            await export(client, "points", emulator.member_ids(), output)


@on_both_loops
async def test_the_last_day_is_pinned(output: Path) -> None:
    """A night's export asks everybody for the same days; a resumed one too, days later."""
    emulator = emulator_of(3)
    stop = anyio.Event()
    detour = Detour(emulator, lambda _: stop.set())

    async with emulator.client(transport=detour) as client:
        before = datetime.now(UTC).date()
        await export(client, "purchases", emulator.member_ids(), output, concurrency=1, stop=stop)
        after = datetime.now(UTC).date()
        [first] = detour.queries
        set_state(output, "date_end_pinned", "2026-02-03")
        await export(client, "purchases", emulator.member_ids(), output)

    assert any(f"date_end={day}&" in first for day in (before, after))
    assert all("date_end=2026-02-03&" in query for query in detour.queries[1:])


@on_both_loops
async def test_a_last_day_that_is_given_is_kept(output: Path) -> None:
    """Nothing is pinned."""
    await export_from(emulator_of(1), output, name="purchases", date_end="2026-03-01")

    assert [] == query(
        Path(f"{output}.ledger.sqlite"), "SELECT * FROM export_state WHERE key = 'date_end_pinned'"
    )


# What is done already


@on_both_loops
async def test_a_complete_export_is_not_made_again(output: Path) -> None:
    """No request; the report says what there is, and since when."""
    emulator = emulator_of(5)
    ids = [*emulator.member_ids(), "5", "10000000", "10000004"]
    first = await export_from(emulator, output, ids, refusing("10000003"), name="purchases")
    told: list[str] = []

    again = await export_from(
        emulator, output, ids, name="purchases", progress=lambda report: told.append(report.status)
    )

    assert ("complete", "already_complete") == (first.status, again.status)
    assert (0, 6, ["already_complete"]) == (again.requests, again.resumed, told)
    for name in (
        "members",
        "not_found",
        "failed",
        "rows",
        "duplicates",
        "completed_at",
        "errors_file",
        "ids",
    ):
        assert getattr(first, name) == getattr(again, name)
    assert (4, 1, 1, 2) == (again.members, again.not_found, again.failed, again.duplicates)


@on_both_loops
@pytest.mark.parametrize("max_age", [3600, timedelta(hours=1)], ids=["seconds", "timedelta"])
async def test_a_complete_export_may_be_too_old(max_age: Any, output: Path) -> None:
    """Then it is refused, and not passed off as today's."""
    emulator = emulator_of(2)
    await export_from(emulator, output)

    assert "already_complete" == (await export_from(emulator, output, max_age=max_age)).status
    set_state(output, "completed_at", (datetime.now(UTC) - timedelta(hours=2)).isoformat())
    with pytest.raises(OutputMismatchError, match=r"longer ago than you allow: give --fresh"):
        await export_from(emulator, output, max_age=max_age)
    assert "already_complete" == (await export_from(emulator, output)).status
    assert "complete" == (await export_from(emulator, output, max_age=max_age, fresh=True)).status


@on_both_loops
async def test_an_export_that_is_not_complete_is_never_too_old(output: Path) -> None:
    """It has no date, and goes on."""
    emulator, stop = emulator_of(3), anyio.Event()
    await export_from(emulator, output, instead=lambda _: stop.set(), concurrency=1, stop=stop)

    report = await export_from(emulator, output, max_age=0)

    assert ("complete", 1, 3) == (report.status, report.resumed, report.members)


@on_both_loops
@pytest.mark.parametrize("twice", [False, True], ids=["once", "listed-twice"])
async def test_failed_members_are_tried_again_when_wanted(twice: bool, output: Path) -> None:
    """Each once a run, also those that fail again, and nobody else."""
    emulator = emulator_of(6)
    ids = list(emulator.member_ids()) * (1 + twice)
    await export_from(emulator, output, ids, refusing("10000001", "10000003", "10000005"))

    again = await export_from(emulator, output, ids, refusing("10000001", "10000003"), retry_failed=True)
    assert ("complete", 3, 4, 2) == (again.status, again.requests, again.members, again.failed)
    assert (3, 6 * twice) == (again.resumed, again.duplicates)

    same = await export_from(emulator, output, ids)
    assert ("already_complete", 0, 2) == (same.status, same.requests, same.failed)

    last = await export_from(emulator, output, ids, retry_failed=True)
    assert ("complete", 2, 6, 0, None) == (
        last.status,
        last.requests,
        last.members,
        last.failed,
        last.errors_file,
    )
    done = await export_from(emulator, output, ids, retry_failed=True)
    assert ("already_complete", 0) == (done.status, done.requests)


@on_both_loops
async def test_trying_failed_members_again_may_be_stopped(output: Path) -> None:
    """Those who were not tried yet are still failed, and tried when it goes on."""
    emulator, stop = emulator_of(6), anyio.Event()
    await export_from(emulator, output, instead=refusing("10000001", "10000003", "10000005"))

    stopped = await export_from(
        emulator, output, instead=lambda _: stop.set(), concurrency=1, stop=stop, retry_failed=True
    )
    assert ("stopped", 4, 2) == (stopped.status, stopped.members, stopped.failed)

    plain = await export_from(emulator, output)
    assert ("complete", 0, 2) == (plain.status, plain.requests, plain.failed)
    last = await export_from(emulator, output, retry_failed=True)
    assert ("complete", 2, 6) == (last.status, last.requests, last.members)


# The report


@on_both_loops
async def test_the_report_says_which_budget_there_is(output: Path) -> None:
    """As far as one can tell."""
    emulator = emulator_of(2)
    rates = []
    for budget in (RateBudget(60_000), RateBudget(math.inf), Unpaced()):
        async with emulator.client(budget=budget) as client:
            report = await export(client, "points", emulator.member_ids(), output, fresh=True)
        rates.append(report.per_minute)

    assert [60_000, None, None] == rates


class Unpaced:
    """A budget of somebody's own."""

    async def reserve(self, n: int = 1, /) -> float:
        """Let everybody pass."""
        return 0.0

    async def penalize(self, seconds: float, /) -> None:
        """Do nothing."""


@on_both_loops
async def test_progress_is_told_while_nothing_ends(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when one member has many pages, or the rate is low: what was sent so far."""
    monkeypatch.setattr("crowdtwist_async.export.run._TELL_SECONDS", 0.01)
    emulator = emulator_of(2)
    told: list[int] = []
    looked = anyio.Event()

    def progress(report: ExportReport) -> None:
        if report.done == report.rows == 0 and report.requests > 0:
            told.append(report.requests)
            looked.set()

    async def hold(_: float) -> None:
        with anyio.fail_after(60.0):
            await looked.wait()

    monkeypatch.setattr(emulator, "_sleep", hold)
    emulator.script(Fault.delay(1.0), Fault.delay(1.0))
    await export_from(emulator, output, progress=progress)

    assert told


@on_both_loops
async def test_progress_is_told_with_the_same_report(output: Path) -> None:
    """From before the first request to the end, and never back."""
    emulator = emulator_of(30)
    told: list[tuple[int, int, str]] = []
    reports: set[int] = set()

    def progress(report: ExportReport) -> None:
        told.append((report.members, report.requests, report.status))
        reports.add(id(report))

    report = await export_from(emulator, output, progress=progress, concurrency=3)

    assert {id(report)} == reports
    assert (0, 0, "running") == told[0]
    assert (30, 30, "complete") == told[-1]
    assert sorted(told[:-1]) == told[:-1]


def test_a_report_tells_rates_and_what_is_left() -> None:
    """At the pace of this run; earlier ones are not counted."""
    report = ExportReport(
        "out.jsonl",
        "points",
        ids=100,
        resumed=40,
        members=50,
        not_found=5,
        failed=5,
        requests=200,
        seconds=10.0,
        per_minute=6_000,
    )

    assert (60, 20.0, 0.2, 20.0) == (
        report.done,
        report.requests_per_second,
        report.budget_use,
        report.seconds_left,
    )
    assert {"output": "out.jsonl", "budget_use": 0.2, "waiting": None}.items() <= report.as_dict().items()


def test_a_report_without_a_pace_tells_none() -> None:
    """Before the first member of a run, and without a known budget."""
    report = ExportReport("out.jsonl", "points", ids=100, resumed=5, members=5)

    assert (0.0, None, None) == (report.requests_per_second, report.budget_use, report.seconds_left)


# Stopping


@on_both_loops
async def test_stopping_finishes_the_members_under_way(output: Path) -> None:
    """To their last page, and begins no other."""
    emulator, stop = Emulator(members=80, api_key=KEY), anyio.Event()
    long = [user_id for user_id in emulator.member_ids() if emulator.purchases_of(user_id) > 30]
    asked: set[str] = set()

    def answer(user_id: str) -> None:
        asked.add(user_id)
        if len(asked) == 4:
            stop.set()

    report = await export_from(emulator, output, long, answer, name="purchases", concurrency=4, stop=stop)

    assert ("stopped", None, 4, None) == (report.status, report.reason, report.members, report.completed_at)
    assert asked == set(noted_in(output))
    assert sum(map(emulator.purchases_of, asked)) == report.rows
    assert "complete" == (await export_from(emulator, output, long, name="purchases")).status


@on_both_loops
async def test_stopping_waits_for_no_members_that_only_wait(output: Path) -> None:
    """At a slow rate they would all have to be finished first, each with a permit of its own."""
    emulator, stop = emulator_of(40), anyio.Event()
    seconds = 0.05
    detour, budget = Detour(emulator, lambda _: stop.set()), RateBudget(60 / seconds, 1)
    async with emulator.client(budget=budget, transport=detour) as client:
        report = await export(client, "points", emulator.member_ids(), output, stop=stop)

    assert ("stopped", True) == (report.status, report.members <= 2)


@on_both_loops
async def test_no_member_is_begun_in_a_pause_of_the_host(output: Path) -> None:
    """They would all have to be finished before the export can stop."""
    emulator, stop = emulator_of(40), anyio.Event()
    asked = 0

    def answer(_: str) -> Answer:
        nonlocal asked
        asked += 1
        if asked > 3:
            return None
        if asked == 2:
            stop.set()
        return status(503, retry_after="0.5")

    detour = Detour(emulator, answer)
    async with emulator.client(budget=RateBudget(6000, 1), transport=detour) as client:
        report = await export(client, "points", emulator.member_ids(), output, stop=stop)

    assert "stopped" == report.status
    assert report.done <= 4


@pytest.mark.parametrize("output", ["", ".", "/", "x" * 300 + ".jsonl", "nowhere/out.jsonl", "out.txt"])
@on_both_loops
async def test_a_place_that_can_not_be_is_told_before_the_ids_are_read(output: str, tmp_path: Path) -> None:
    """Also where they are in a file: they may take minutes to come."""
    emulator, ids = emulator_of(3), tmp_path / "ids"
    async with emulator.client() as client:
        with pytest.raises(ConfigurationError, match="name|folder|format"):
            await export(client, "points", ids, output)
    assert 0 == emulator.stats.requests


@on_both_loops
async def test_a_run_that_is_to_stop_before_it_begins_asks_nothing(output: Path) -> None:
    """It can be made all the same, later."""
    emulator, stop = emulator_of(3), anyio.Event()
    stop.set()

    async with emulator.client() as client:
        report = await export(client, "points", emulator.member_ids(), output, stop=stop)

    assert ("stopped", 0) == (report.status, emulator.stats.requests)
    assert "complete" == (await export_from(emulator, output)).status


@on_both_loops
@pytest.mark.parametrize("code", [429, 503])
async def test_stopping_does_not_wait_for_the_end_of_a_pause(
    output: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may ask for minutes; whose rows are not whole then is left for the next run."""
    monkeypatch.setattr(run, "_DRAIN_SECONDS", 0.05)
    emulator, stop = emulator_of(40), anyio.Event()

    def answer(user_id: str) -> Reply | None:
        if emulator.stats.requests < 10:
            return None
        stop.set()
        return status(code, retry_after="100")

    with anyio.fail_after(60):
        report = await export_from(
            emulator, output, instead=answer, concurrency=4, stop=stop, retry=RetryPolicy()
        )

    assert ("stopped", 0, None) == (report.status, report.failed, report.reason)
    assert 10 <= report.members < 10 + 4
    again = await export_from(emulator, output)
    assert ("complete", report.members, 40) == (again.status, again.resumed, again.members)


@on_both_loops
async def test_stopping_does_not_wait_for_an_outage_to_end(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor fails anybody; the reason of the outage is none of the stop."""
    monkeypatch.setattr(outage, "_FIRST_PAUSE", LONG)
    monkeypatch.setattr(queue, "_FIRST_DELAY", 0.0)
    emulator, stop = emulator_of(40), anyio.Event()

    def progress(report: ExportReport) -> None:
        if report.waiting is not None:
            stop.set()

    with anyio.fail_after(60):
        report = await export_from(
            emulator,
            output,
            instead=lambda _: status(503) if emulator.stats.requests >= 10 else None,
            concurrency=1,
            max_outage=2 * LONG,
            stop=stop,
            progress=progress,
        )

    assert ("stopped", 10, 0, None, None) == (
        report.status,
        report.members,
        report.failed,
        report.reason,
        report.waiting,
    )


@on_both_loops
async def test_stopping_does_not_wait_for_a_next_try(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that waits for one is left to the next run."""
    monkeypatch.setattr(queue, "_FIRST_DELAY", LONG)
    monkeypatch.setattr(queue, "_LONGEST_DELAY", LONG)
    emulator, stop = emulator_of(4), anyio.Event()

    def progress(report: ExportReport) -> None:
        if report.members == 3:
            stop.set()

    with anyio.fail_after(60):
        report = await export_from(
            emulator,
            output,
            instead=lambda user_id: status(500) if user_id == "10000000" else None,
            stop=stop,
            progress=progress,
        )

    assert ("stopped", 3, 0) == (report.status, report.members, report.failed)
    assert "10000000" not in noted_in(output)


@on_both_loops
async def test_a_member_whose_last_try_fails_while_it_stops_is_tried_again(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody was asked whether the API answers at all."""
    monkeypatch.setattr(queue, "_FIRST_DELAY", 0.0)
    emulator, stop = emulator_of(1), anyio.Event()
    tries = iter(range(1, 100))

    def answer(_: str) -> Answer:
        if next(tries) == 10:
            stop.set()
        return status(500)

    report = await export_from(emulator, output, instead=answer, stop=stop)

    assert ("stopped", 0) == (report.status, report.failed)
    assert "complete" == (await export_from(emulator, output)).status


@on_both_loops
async def test_stopping_does_not_wait_for_ids_of_a_program(output: Path) -> None:
    """Without all of them nothing can be begun, and nothing is written."""
    emulator, stop = emulator_of(1), anyio.Event()

    async def ids() -> Any:
        yield "10000000"
        stop.set()
        await anyio.sleep(LONG)

    with anyio.fail_after(60):
        async with emulator.client() as client:
            report = await export(client, "points", ids(), output, stop=stop)

    assert ("stopped", 0, 0) == (report.status, report.ids, emulator.stats.requests)
    assert report.reason == "all ids had not come yet, and nothing was begun"
    assert [] == list(output.parent.iterdir())


class SlowSource(IdSource):
    """Two ids, and another one that comes when it may."""

    def __init__(self, comes: threading.Event) -> None:
        super().__init__(lambda: iter(("10000000", "10000001", "10000002")))
        self._comes = comes

    def read(self) -> Iterator[str]:
        """Read them, slowly."""
        yield from ("10000000", "10000001")
        self._comes.wait(60)
        yield "10000002"


@on_both_loops
async def test_stopping_does_not_wait_for_ids_to_be_counted(output: Path) -> None:
    """They may come from a terminal that says nothing."""
    emulator, stop, comes, token = emulator_of(1), anyio.Event(), threading.Event(), current_token()

    def lines() -> Iterator[str]:
        yield "10000000"
        anyio.from_thread.run_sync(stop.set, token=token)
        comes.wait(60)

    with anyio.fail_after(30):
        async with emulator.client() as client:
            report = await export(client, "points", IdSource(lines), output, stop=stop)
    comes.set()
    await no_thread_of_ours()

    assert ("stopped", 0, 0) == (report.status, report.ids, emulator.stats.requests)


@on_both_loops
async def test_stopping_does_not_wait_for_more_ids(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fetched of the others is committed, also before: commits do not wait for ids."""
    monkeypatch.setattr(queue, "_CHUNK", 2)
    emulator, stop, comes = emulator_of(3), anyio.Event(), threading.Event()
    committed: list[object] = []
    commit = LineWriter.commit

    def commit_noted(*arguments: Any) -> None:
        commit(*arguments)
        committed.append(arguments)

    monkeypatch.setattr(LineWriter, "commit", commit_noted)

    def progress(report: ExportReport) -> None:
        if report.members == 2 and len(committed) == 2:  # the first begins the file
            stop.set()

    with anyio.fail_after(30):
        async with emulator.client() as client:
            report = await export(client, "points", SlowSource(comes), output, stop=stop, progress=progress)
    comes.set()
    await no_thread_of_ours()

    assert ("stopped", 2) == (report.status, report.members)
    assert {"10000000", "10000001"} == set(noted_in(output))
    assert "complete" == (await export_from(emulator, output)).status


@on_both_loops
async def test_what_ends_the_run_does_not_wait_for_more_ids(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused key is told at once."""
    monkeypatch.setattr(queue, "_CHUNK", 2)
    comes = threading.Event()

    with anyio.fail_after(30), pytest.raises(AuthenticationError):
        await export_from(emulator_of(3), output, SlowSource(comes), lambda _: status(403))
    comes.set()
    await no_thread_of_ours()


# Cancelling


async def no_thread_of_ours() -> None:
    """Wait until no thread is left but those that anyio keeps."""
    for thread in threading.enumerate():
        if thread.name.endswith("(work)"):  # the function of ours that it runs
            await anyio.to_thread.run_sync(thread.join, 60)
            assert not thread.is_alive()


def open_files() -> int:
    """How many descriptors this process has."""
    return len([*Path("/dev/fd").iterdir()])


PLACES: dict[str, tuple[type[Any], str]] = {
    "counting": (IdSource, "count"),
    "opening": (Target, "__init__"),
    "beginning": (Target, "begin"),
    "asking-the-ledger": (Ledger, "status_of"),
    "reading-ids": (queue.MemberQueue, "read"),
    "writing": (LineWriter, "write"),
    "committing": (LineWriter, "commit"),
    "completing": (Target, "complete"),
    "listing-failures": (Target, "write_errors"),
    "closing": (Target, "close"),
}


class Gate:
    """Cancels an export while a thread of it is at some place, and lets the thread take its time."""

    def __init__(self, place: str, monkeypatch: pytest.MonkeyPatch, cancel: Callable[[], object]) -> None:
        self.events: list[str] = []
        self._cancel = cancel
        self._token = current_token()
        kind, name = PLACES[place]
        self._watch(monkeypatch, Target, "close", "close")
        self._watch(monkeypatch, kind, name, "place")

    def _watch(self, monkeypatch: pytest.MonkeyPatch, kind: type[Any], name: str, event: str) -> None:
        call = getattr(kind, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            if event == "place" and "place" not in self.events:
                self.events.append(event)
                anyio.from_thread.run_sync(self._cancel, token=self._token)
                time.sleep(0.02)
            self.events.append(f"{event} begins")
            result = call(*arguments, **options)
            self.events.append(f"{event} ends")
            return result

        monkeypatch.setattr(kind, name, watched)


async def check_nothing_left(emulator: Emulator, output: Path, descriptors: int) -> None:
    """Check that nothing is open, locked or under way, and that the export goes on."""
    await no_thread_of_ours()
    assert open_files() <= descriptors  # what an earlier test left may have been closed
    await export_from(emulator, output, name="purchases")
    found = members_in(output)
    for user_id in emulator.member_ids():
        assert emulator.purchases_of(user_id) == len(found.get(user_id, []))


@pytest.fixture
def _committing_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit every second member."""
    monkeypatch.setattr(LineWriter, "limits", Limits(members=2))


@on_both_loops
@pytest.mark.usefixtures("_committing_often")
@pytest.mark.parametrize("place", PLACES)
async def test_cancelling_waits_for_the_files(
    place: str, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And then closes them: no thread, descriptor or lock stays, wherever it was."""
    emulator = emulator_of(8)
    await anyio.to_thread.run_sync(int)
    descriptors = open_files()

    with monkeypatch.context() as patched, anyio.CancelScope() as scope:
        gate = Gate(place, patched, scope.cancel)
        await export_from(emulator, output, name="purchases")

    assert "place" in gate.events
    assert gate.events[-1:] == ["close ends"] or place in ("counting", "closing")
    await check_nothing_left(emulator, output, descriptors)


@pytest.mark.asyncio
@pytest.mark.usefixtures("_committing_often")
@pytest.mark.parametrize("who", ["task", "task-again", "all-tasks"])
@pytest.mark.parametrize("place", PLACES)
async def test_a_task_that_asyncio_cancels_closes_its_files(
    place: str, who: str, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After what its threads still do, though asyncio lets nobody wait for these, and before it ends."""
    emulator = emulator_of(8)
    await anyio.to_thread.run_sync(int)
    descriptors = open_files()
    here = asyncio.current_task()

    def cancel() -> None:
        for task in asyncio.all_tasks() - {here} if who == "all-tasks" else {exporting}:
            task.cancel()
        for moment in (0, 0.005, 0.01) if who == "task-again" else ():
            asyncio.get_running_loop().call_later(moment, exporting.cancel)

    with monkeypatch.context() as patched:
        gate = Gate(place, patched, cancel)
        exporting = asyncio.create_task(export_from(emulator, output, name="purchases"))
        with pytest.raises(asyncio.CancelledError):
            await exporting
        assert (
            place == "counting" or gate.events[-1] == ("place" if place == "closing" else "close") + " ends"
        )
        await no_thread_of_ours()

    assert {here} == asyncio.all_tasks()
    if place not in ("counting", "closing", "reading-ids"):
        assert gate.events.index("place ends") < gate.events.index("close begins")
    await check_nothing_left(emulator, output, descriptors)


@on_both_loops
@pytest.mark.parametrize("place", ["a\0b.csv", "a\ud800.csv", Path("s3://bucket/out.parquet")], ids=ascii)
async def test_a_place_that_can_not_be_is_refused(place: Any) -> None:
    """In a sentence, before anything is asked."""
    emulator = emulator_of(1)
    with pytest.raises(ConfigurationError, match="output is "):
        await export_from(emulator, place)
    assert 0 == emulator.stats.requests


@on_both_loops
@pytest.mark.parametrize("fresh", [False, True])
async def test_ids_in_a_file_that_the_export_writes_are_refused(tmp_path: Path, fresh: bool) -> None:
    """It would remove them before it had read them."""
    output = tmp_path / "out.csv"
    await export_from(emulator_of(3), output)
    before = output.read_bytes()

    with pytest.raises(ConfigurationError, match="the ids are in .*out.csv, which this export writes: copy"):
        await export_from(emulator_of(3), output, ids=read_ids(output, "requested_id"), fresh=fresh)

    assert before == output.read_bytes()


@on_both_loops
async def test_a_run_that_ends_in_an_error_tells_what_is_committed(output: Path) -> None:
    """In the report and in the file of failed members, whatever these said before."""
    emulator = emulator_of(4)
    await export_from(emulator, output, instead=refusing("10000001", "10000002"))
    told: list[ExportReport] = []

    with pytest.raises(AuthenticationError):
        await export_from(
            emulator,
            output,
            instead=lambda user_id: status(401) if user_id == "10000002" else None,
            concurrency=1,
            retry_failed=True,
            progress=told.append,
        )

    assert (3, 1) == (told[-1].members, told[-1].failed)
    lines = await anyio.Path(f"{output}.errors.jsonl").read_text()
    assert ["10000002"] == [json.loads(line)["requested_id"] for line in lines.splitlines()]
