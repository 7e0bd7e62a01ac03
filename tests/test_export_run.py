"""
The run: many members through a few workers, one bad member at a time, outages, and what ends it for all.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import pytest
from conftest import KEY
from detours import ONCE, Answer, Detour, export_from, members_in, noted_in
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import status

from crowdtwist_async import (
    AuthenticationError,
    Budget,
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    Reply,
    Request,
    RetryPolicy,
    ServerError,
    StorageError,
)
from crowdtwist_async._progress import METER
from crowdtwist_async.emulator import Emulator, Fault
from crowdtwist_async.export import EndpointName, ExportReport, IdSource, export, outage, queue
from crowdtwist_async.export.formats import Limits
from crowdtwist_async.export.formats.lines import LineWriter
from crowdtwist_async.export.formats.parquet import ParquetWriter
from crowdtwist_async.export.formats.sqlite import SqliteWriter
from crowdtwist_async.export.outage import MOST_TRIES

on_both_loops = pytest.mark.anyio
from_elsewhere = pytest.mark.parametrize(
    "elsewhere",
    [
        pytest.param(status(302, location="https://maintenance.example.com/"), id="redirect"),
        pytest.param(status(404, b"<html>Not here</html>", content_type="text/html"), id="gateway-404"),
    ],
)
"""What a maintenance page or a gateway answers with."""
NAMES = ["points", "rewards", "purchases"]
SUFFIXES = [".jsonl", ".csv", ".parquet", ".sqlite"]
AT_ONCE = RetryPolicy(initial=0)
UNKNOWN = "29999999"
DOWN = status(503)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nothing, and commit often."""
    monkeypatch.setattr(queue, "_FIRST_DELAY", 0.0)
    monkeypatch.setattr(outage, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(outage, "_LONGEST_PAUSE", 0.002)
    for writer in (LineWriter, ParquetWriter, SqliteWriter):
        monkeypatch.setattr(writer, "limits", Limits(seconds=0.01, members=3, rows=60))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A place for an export."""
    return tmp_path / "out.jsonl"


def emulator_of(members: int, *faults: Fault | None) -> Emulator:
    """An API with the key of all tests."""
    return Emulator(members=members, api_key=KEY, faults=faults)


def check_rows(emulator: Emulator, output: Path) -> None:
    """Check that everybody's purchases are there, each once and in the API's order."""
    found = members_in(output)
    for user_id in emulator.member_ids():
        rows = found.get(user_id, [])
        assert emulator.purchases_of(user_id) == len(rows) == len({str(row[2:]) for row in rows})


@on_both_loops
@pytest.mark.parametrize("name", NAMES)
async def test_every_row_of_every_member_arrives(name: EndpointName, output: Path) -> None:
    """As many as the API says it has and served, at one request a page."""
    emulator = emulator_of(12)
    counts: dict[str, Callable[[str], int]] = {
        "rewards": emulator.rewards_of,
        "purchases": emulator.purchases_of,
    }

    report = await export_from(emulator, output, name=name)

    found = members_in(output)
    for user_id in emulator.member_ids():
        assert (counts[name](user_id) if name in counts else 1) == len(found.get(user_id, []))
    assert (12, "complete") == (report.members, report.status)
    assert emulator.stats.rows == report.rows
    assert sum(mark[2] for mark in noted_in(output).values()) == report.requests == emulator.stats.requests
    assert 0 == report.retries
    assert report.seconds > 0


@on_both_loops
async def test_no_ids_are_an_empty_export(output: Path) -> None:
    """It is complete, and nothing is asked."""
    emulator = emulator_of(1)

    report = await export_from(emulator, output, iter(()))

    assert ("complete", 0, 0) == (report.status, report.ids, emulator.stats.requests)


_FAILING = (Fault.status(500), Fault.status(503), Fault.reset(), Fault.truncate(), Fault.not_json())
_FAULTS = (None, *_FAILING, Fault.drift(3), Fault.drift(10), Fault.drift(-2))


@settings(max_examples=30, deadline=None)
@given(
    users=st.lists(st.integers(-2, 11), max_size=30),
    faults=st.lists(st.sampled_from(_FAULTS), max_size=40),
    retry=st.sampled_from([ONCE, AT_ONCE]),
    concurrency=st.integers(1, 9),
    backend=st.sampled_from(["asyncio", "trio"]),
)
def test_every_id_is_accounted_for(
    users: list[int], faults: list[Fault | None], retry: RetryPolicy, concurrency: int, backend: str
) -> None:
    """Each once, with all rows as they are in the end, whatever went wrong and changed on the way."""
    emulator = emulator_of(10, *faults)
    ids = [str(10_000_000 + user) for user in users]

    async def run() -> ExportReport:
        return await export_from(emulator, path, ids, name="purchases", retry=retry, concurrency=concurrency)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "out.jsonl")
        report = anyio.run(run, backend=backend)
        found, ledger = members_in(path), noted_in(path)

    known = {user_id for user_id in ids if user_id in emulator.member_ids()}
    assert "complete" == report.status
    assert len(ids) - len(set(ids)) == report.duplicates
    assert set(ids) == set(ledger)
    assert {user_id for user_id in ids if user_id not in known} == {
        user_id for user_id, mark in ledger.items() if mark[0] == "not_found"
    }
    for user_id in known:
        kept = ledger[user_id]
        rows = found.get(user_id, [])
        # Three changes within three walks can be had, and ten failures of one page.
        changes = sum(fault is not None and fault.kind == "drift" for fault in faults)
        may_fail = changes >= 3 or sum(map(_FAILING.__contains__, faults)) >= MOST_TRIES
        assert "ok" == kept[0] or may_fail
        if kept[0] == "ok" and not kept[3]:
            assert emulator.purchases_of(user_id) == len(rows) == len({str(row) for row in rows})


@on_both_loops
async def test_the_only_member_is_no_failure_once_its_request_is_answered(output: Path) -> None:
    """After ten failures it alone can be asked for, and its answer says that it can be had."""
    emulator = emulator_of(1, *[Fault.status(500)] * MOST_TRIES)

    report = await export_from(emulator, output)

    assert ("complete", 1, 0, MOST_TRIES + 2) == (
        report.status,
        report.members,
        report.failed,
        report.requests,
    )


@cache
def unstopped(suffix: str) -> dict[str, list[tuple[Any, ...]]]:
    """What an export that nobody stops leaves."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, f"out{suffix}")
        anyio.run(lambda: export_from(emulator_of(9), output, name="purchases"))
        return members_in(output)


@settings(max_examples=20, deadline=None)
@given(
    suffix=st.sampled_from(SUFFIXES),
    cuts=st.lists(st.tuples(st.integers(1, 30), st.sampled_from(["stop", "cancel"])), min_size=1, max_size=4),
    concurrency=st.integers(1, 6),
    backend=st.sampled_from(["asyncio", "trio"]),
)
def test_an_export_that_is_stopped_anywhere_goes_on(
    suffix: str, cuts: list[tuple[int, str]], concurrency: int, backend: str
) -> None:
    """However often, gently or not: in the end it equals one that was not stopped."""
    emulator = emulator_of(9)

    async def cut_after(requests: int, how: str) -> None:
        stop, scope, seen = anyio.Event(), anyio.CancelScope(), iter(range(1, 1000))

        def end(*_: object) -> None:
            if next(seen) == requests:
                stop.set() if how == "stop" else scope.cancel()

        with scope:
            report = await export_from(
                emulator, path, instead=end, name="purchases", concurrency=concurrency, stop=stop
            )
            assert report.status in ("stopped", "complete", "already_complete")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"out{suffix}")
        for cut in cuts:
            anyio.run(cut_after, *cut, backend=backend)
        done = noted_in(path)
        last = anyio.run(lambda: export_from(emulator, path, name="purchases"), backend=backend)

        assert unstopped(suffix) == members_in(path)
        assert len(done) == last.resumed
        assert done.items() <= noted_in(path).items()


@on_both_loops
async def test_unknown_ids_are_a_result(output: Path) -> None:
    """They are counted, and are no failures."""
    report = await export_from(emulator_of(3), output, ["5", "10000000", "nobody", "10000003"])

    assert (1, 3, 0) == (report.members, report.not_found, report.failed)


@on_both_loops
@pytest.mark.parametrize("bad", ["a\x01b", "..", "\x7f", "a\u2028b"], ids=ascii)
async def test_an_id_that_can_not_be_asked_for_fails_alone(bad: str, output: Path) -> None:
    """It costs no request."""
    report = await export_from(emulator_of(3), output, ["10000000", bad, "10000001"])

    assert (2, 1, 2) == (report.members, report.failed, report.requests)
    assert ("failed", 0, 0, 0) == noted_in(output)[bad]


@on_both_loops
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault.status(400, user="10000001"), id="bad-request"),
        pytest.param(Fault.rewrite(lambda _: {}, user="10000001"), id="wrong-shape"),
    ],
)
async def test_a_permanent_error_fails_the_member_alone(fault: Fault, output: Path) -> None:
    """At once, and none of its rows stay, those of the pages before it neither."""
    emulator = emulator_of(4, *[None] * 3, fault)

    report = await export_from(
        emulator, output, ["10000001", "10000000", "10000003"], name="purchases", concurrency=1
    )

    assert (2, 1) == (report.members, report.failed)
    assert ("failed", 0, 4, 0) == noted_in(output)["10000001"]
    assert {"10000000", "10000003"} >= set(members_in(output))
    assert () == emulator.pending_faults


@on_both_loops
@pytest.mark.parametrize(
    "fault",
    [Fault.status(500), Fault.reset(), Fault.truncate(), Fault.not_json()],
    ids=lambda fault: fault.kind,
)
async def test_a_member_goes_on_at_the_page_that_failed(fault: Fault, output: Path) -> None:
    """Earlier pages are not fetched again, however many pages fail however often."""
    emulator = emulator_of(2, *[None, None, *[fault] * 8] * 3)

    report = await export_from(emulator, output, ["10000001"], name="purchases")

    assert (1, 14 + 24) == (report.members, report.requests)
    assert emulator.purchases_of("10000001") == report.rows


@on_both_loops
@pytest.mark.parametrize(("failures", "failed"), [(9, 0), (10, 1)], ids=["nine", "ten"])
async def test_a_member_is_tried_ten_times(failures: int, failed: int, output: Path) -> None:
    """Before it fails for good, somebody else is asked for once."""
    emulator = emulator_of(2, None, *[Fault.status(500, user="10000001")] * failures)

    report = await export_from(emulator, output, concurrency=1)

    assert (2 - failed, failed) == (report.members, report.failed)
    assert (("failed", 0, 10, 0) if failed else ("ok", 1, 10, 0)) == noted_in(output)["10000001"]
    assert 11 + failed == report.requests


@on_both_loops
@pytest.mark.parametrize("drifts", range(4))
async def test_a_member_whose_counts_change_is_fetched_again(drifts: int, output: Path) -> None:
    """Twice at most; then its rows are kept, and it is marked."""
    emulator = emulator_of(2, *[None, Fault.drift(-1)] * drifts)

    report = await export_from(emulator, output, ["10000001"], name="purchases")

    requests = 2 * min(drifts, 2) + -(-emulator.purchases_of("10000001") // 10)
    assert (1, drifts == 3) == (report.members, report.drifted)
    # Of the third walk, the row that moved to the first page after that was read is missing.
    rows = emulator.purchases_of("10000001")
    assert ("ok", rows, requests, drifts == 3) == noted_in(output)["10000001"]


@on_both_loops
@pytest.mark.parametrize("concurrency", [1, 3, 20])
async def test_members_at_once_are_bounded(concurrency: int, output: Path) -> None:
    """As many requests as that are on the way together, and never one more."""
    emulator = emulator_of(25)
    together, most, now = anyio.Event(), 0, 0

    class Meeting(Detour):
        """Answers nobody before so many have come."""

        async def send(self, request: Request, /) -> Any:
            """Count who is there."""
            nonlocal now, most
            now, most = now + 1, max(most, now + 1)
            if now == concurrency:
                together.set()
            await together.wait()
            reply = await super().send(request)
            now -= 1
            return reply

    with anyio.fail_after(60):
        async with emulator.client(transport=Meeting(emulator)) as client:
            await export(client, "points", emulator.member_ids(), output, concurrency=concurrency)

    assert concurrency == most


# Outages


@on_both_loops
async def test_an_outage_is_waited_out(output: Path) -> None:
    """It costs few requests and nobody's tries, the run goes on by itself, and progress says why it waits."""
    emulator = emulator_of(50)
    down = range(20, 50)
    asked = iter(range(1, 10_000))
    waiting: list[str | None] = []

    report = await export_from(
        emulator,
        output,
        instead=lambda _: DOWN if next(asked) in down else None,
        concurrency=8,
        progress=lambda told: waiting.append(told.waiting),
    )

    assert ("complete", 50, 0) == (report.status, report.members, report.failed)
    assert any("503" in said for said in waiting if said)
    assert waiting[-1] is None
    assert 50 + len(down) + 1 == report.requests


@on_both_loops
async def test_an_outage_takes_few_requests(output: Path) -> None:
    """Ten failures in a row, those on the way, and then one at a time until the API answers."""
    emulator = emulator_of(40)
    since: list[str] = []

    def answer(user_id: str) -> Answer:
        if emulator.stats.requests < 15 or len(since) == 40:
            return None
        since.append(user_id)
        return after_all_answers() if len(since) <= 8 else DOWN

    async def after_all_answers() -> Reply:
        """As a failure before them would not count."""
        await anyio.wait_all_tasks_blocked()
        return DOWN

    await export_from(emulator, output, instead=answer, concurrency=8)

    assert 10 <= sum(user_id != since[-1] for user_id in since) <= 10 + 7


@on_both_loops
async def test_an_outage_from_the_start_asks_for_somebody_else_each_time(output: Path) -> None:
    """Nobody was answered yet, and a single member may be what fails."""
    emulator = emulator_of(30)
    asked: list[str] = []

    def answer(user_id: str) -> Answer:
        asked.append(user_id)
        return DOWN if len(asked) <= 40 else None

    report = await export_from(emulator, output, instead=answer, concurrency=4)

    assert (30, 0) == (report.members, report.failed)
    assert len(set(asked[13:40])) > 3


@on_both_loops
async def test_no_tries_are_counted_in_an_outage(output: Path) -> None:
    """Not even the last one of a member, nor those before the suspicion."""
    emulator = emulator_of(2)
    tries = 0

    def answer(user_id: str) -> Answer:
        nonlocal tries
        tries += user_id == "10000001"
        # Nine failures of its own, then an outage, in which it is tried once.
        return (
            status(500) if (user_id == "10000001" and tries <= 9) or (10 <= tries and next(down, 0)) else None
        )

    down = iter([1, 1, 1])

    report = await export_from(emulator, output, instead=answer, concurrency=1)

    assert (2, 0) == (report.members, report.failed)
    assert 11 == tries


@on_both_loops
@pytest.mark.parametrize("poisoned", [1, 12, 18])
async def test_members_that_always_fail_look_like_no_outage(poisoned: int, output: Path) -> None:
    """At the end of a run nobody else is left: ten tries each, and a question to somebody else for ten."""
    emulator = emulator_of(24)
    bad = set(list(emulator.member_ids())[-poisoned:])
    waiting: set[str | None] = set()

    report = await export_from(
        emulator,
        output,
        instead=lambda user_id: status(500) if user_id in bad else None,
        progress=lambda told: waiting.add(told.waiting),
    )

    assert ("complete", 24 - poisoned, poisoned) == (report.status, report.members, report.failed)
    assert {None} == waiting
    assert 24 + 9 * poisoned < report.requests <= 24 + 9 * poisoned + 2 * poisoned


@on_both_loops
async def test_members_that_always_fail_end_also_where_others_fail_at_times(output: Path) -> None:
    """A false alarm forgives the tries that raised it, and not all."""
    emulator = emulator_of(40)
    bad = set(list(emulator.member_ids())[-15:])
    chance = random.Random(1)

    report = await export_from(
        emulator,
        output,
        instead=lambda user_id: status(500) if user_id in bad or chance.random() < 0.3 else None,
    )

    assert ("complete", 25, 15) == (report.status, report.members, report.failed)
    assert report.requests < 500


@on_both_loops
async def test_members_that_always_fail_are_told_from_an_outage_when_tried_again(output: Path) -> None:
    """The run itself asks nobody else: whom an earlier one had is asked for."""
    emulator = emulator_of(20)
    bad = set(list(emulator.member_ids())[:14])

    def answer(user_id: str) -> Answer:
        return status(500) if user_id in bad else None

    await export_from(emulator, output, instead=answer, max_outage=5)

    report = await export_from(emulator, output, instead=answer, retry_failed=True, max_outage=0)

    assert ("complete", 6, 14) == (report.status, report.members, report.failed)


@on_both_loops
@pytest.mark.parametrize("known", [True, False], ids=["after-some", "from-the-start"])
async def test_an_outage_that_does_not_end_stops_the_run(known: bool, output: Path) -> None:
    """With a reason, with what was fetched before, and the next run goes on."""
    emulator = emulator_of(30)

    report = await export_from(
        emulator,
        output,
        instead=lambda _: DOWN if emulator.stats.requests >= 5 * known else None,
        concurrency=1,
        max_outage=0.02,
    )

    assert ("stopped", 5 * known, 0) == (report.status, report.members, report.failed)
    assert str(report.reason).startswith("the API has not answered for 0 seconds: 503 ")
    assert (None, None) == (report.waiting, report.completed_at)
    again = await export_from(emulator, output)
    assert ("complete", 5 * known, 30) == (again.status, again.resumed, again.members)


@on_both_loops
async def test_ids_that_are_refused_before_any_request_hide_no_outage(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are no answers of the API, neither as members nor as the one that is asked for."""
    monkeypatch.setattr(queue, "_FIRST_DELAY", 3600.0)
    monkeypatch.setattr(queue, "_LONGEST_DELAY", 3600.0)
    emulator = emulator_of(20)
    ids = [user_id for known in emulator.member_ids() for user_id in (known, f"a\x01{known}")]

    with anyio.fail_after(60):
        report = await export_from(emulator, output, ids, lambda _: DOWN, concurrency=8, max_outage=0.02)

    assert ("stopped", 0) == (report.status, report.members)
    assert report.failed < 20


@on_both_loops
@pytest.mark.parametrize("code", [429, 503])
async def test_a_retry_after_beyond_the_patience_stops_at_once(code: int, output: Path) -> None:
    """Nothing more is asked; what was fetched before is kept."""
    emulator = emulator_of(30)

    report = await export_from(
        emulator,
        output,
        instead=lambda _: status(code, retry_after="901") if emulator.stats.requests >= 5 else None,
        concurrency=1,
    )

    assert ("stopped", 5, 6) == (report.status, report.members, report.requests)
    assert str(report.reason).startswith(f"the API asks to come back later: {code} ")


@on_both_loops
@from_elsewhere
async def test_a_maintenance_page_is_waited_out(elsewhere: Reply, output: Path) -> None:
    """Nobody fails by it, neither those who meet it first nor those who meet it last."""
    emulator = emulator_of(50)
    down = range(20, 50)
    asked = iter(range(1, 10_000))
    waiting: set[str | None] = set()

    report = await export_from(
        emulator,
        output,
        instead=lambda _: elsewhere if next(asked) in down else None,
        concurrency=8,
        progress=lambda told: waiting.add(told.waiting),
    )

    assert ("complete", 50, 0) == (report.status, report.members, report.failed)
    assert any(str(elsewhere.status) in said for said in waiting if said)


@on_both_loops
@from_elsewhere
async def test_a_page_that_is_not_the_apis_is_met_again_after_a_moment(
    elsewhere: Reply, output: Path
) -> None:
    """One such answer fails nobody, and asks nothing of anybody else."""
    emulator = emulator_of(4)
    pages = iter([elsewhere])

    report = await export_from(
        emulator, output, instead=lambda user_id: next(pages, None) if user_id == "10000001" else None
    )

    assert (4, 0, 5) == (report.members, report.failed, report.requests)


@on_both_loops
@from_elsewhere
@pytest.mark.parametrize("known", [1, 9])
async def test_a_member_that_always_meets_another_page_fails_alone(
    known: int, elsewhere: Reply, output: Path
) -> None:
    """After two tries and one question to somebody who was answered, and without a wait."""
    emulator = emulator_of(1 + known)
    waiting: set[str | None] = set()

    report = await export_from(
        emulator,
        output,
        instead=lambda user_id: elsewhere if user_id == "10000001" else None,
        concurrency=1,
        progress=lambda told: waiting.add(told.waiting),
    )

    assert ("complete", known, 1) == (report.status, report.members, report.failed)
    assert ("failed", 0, 2, 0) == noted_in(output)["10000001"]
    assert (known + 2 + 1, {None}) == (report.requests, waiting)


@on_both_loops
@from_elsewhere
@pytest.mark.parametrize("place", [0, 5, 22, 44])
async def test_many_that_always_meet_another_page_fail_soon(
    place: int, elsewhere: Reply, output: Path
) -> None:
    """Where the API answers for one of many it is not down, wherever in the list that one is."""
    emulator = emulator_of(45)
    good = list(emulator.member_ids())[place]

    report = await export_from(
        emulator,
        output,
        instead=lambda user_id: elsewhere if user_id != good else None,
        concurrency=3,  # more than 10, whom it asks before all are suspected, wait for their next try
    )

    assert ("complete", 1, 44) == (report.status, report.members, report.failed)
    assert report.requests < 3 * 45 + 45


@on_both_loops
@from_elsewhere
@pytest.mark.parametrize("known", [0, 5])
async def test_a_page_that_everybody_meets_stops_the_run(known: int, elsewhere: Reply, output: Path) -> None:
    """When it has been waited for, with what was seen; nobody has failed, and the next run goes on."""
    emulator = emulator_of(16)

    report = await export_from(
        emulator,
        output,
        instead=lambda _: elsewhere if emulator.stats.requests >= known else None,
        concurrency=1,
        max_outage=0.02,
    )

    assert ("stopped", known, 0) == (report.status, report.members, report.failed)
    assert re.match(
        r"the API has not answered for 0 seconds, but something else did \(check the hosts and the id"
        rf" type\): .*{elsewhere.status}\b.*",
        str(report.reason),
    )
    again = await export_from(emulator, output)
    assert ("complete", known, 16) == (again.status, again.resumed, again.members)


@on_both_loops
async def test_a_maintenance_page_for_the_question_is_no_answer(output: Path) -> None:
    """An outage may begin with one sort of answer and go on with another."""
    emulator = emulator_of(40)
    answers = iter([None] * 5 + [DOWN] * 10 + [status(302)] * 10 + [status(404, b"<html>")] * 10)

    report = await export_from(emulator, output, instead=lambda _: next(answers, None), concurrency=1)

    assert ("complete", 40, 0) == (report.status, report.members, report.failed)


class BrokenBudget(Budget):
    """A budget whose store fails for a while."""

    def __init__(self, failures: range) -> None:
        self._failures = failures
        self._calls = iter(range(10_000))

    async def reserve(self, n: int = 1) -> float:
        """Fail now and then."""
        if next(self._calls) in self._failures:
            raise OSError("no Redis")
        return 0.0

    async def penalize(self, seconds: float) -> None:
        """Do nothing."""


@on_both_loops
async def test_a_budget_that_breaks_is_waited_for(output: Path) -> None:
    """It says nothing of the members."""
    emulator = emulator_of(30)

    async with emulator.client(budget=BrokenBudget(range(10, 60))) as client:
        report = await export(client, "points", emulator.member_ids(), output, concurrency=4)

    assert ("complete", 30, 0) == (report.status, report.members, report.failed)
    assert 31 == report.requests


# What ends the run for all


def refused() -> ConnectionFailedError:
    """A certificate that nobody trusts."""
    error = ConnectionFailedError("the server's certificate can't be trusted")
    error.retryable = False
    return error


@on_both_loops
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        pytest.param(lambda: status(403), AuthenticationError, id="authentication"),
        pytest.param(
            lambda: status(500, b'{"error": "not_configured", "message": "no"}'),
            ServerError,
            id="not-configured",
        ),
        pytest.param(refused, ConnectionFailedError, id="certificate"),
    ],
)
async def test_what_everybody_would_meet_ends_the_run(
    make: Callable[[], Answer], kind: type[Exception], output: Path
) -> None:
    """At once and as itself, with all that was fetched before it committed."""
    asked = iter(range(1000))

    with pytest.raises(kind) as caught:
        await export_from(
            emulator_of(200),
            output,
            instead=lambda _: make() if next(asked) >= 20 else None,
            concurrency=1,
        )

    assert kind is type(caught.value)
    assert 20 == len(noted_in(output)) == len(members_in(output))
    assert 21 == next(asked)


@on_both_loops
async def test_a_closed_client_ends_the_run(output: Path) -> None:
    """It is no failure of each member."""
    emulator = emulator_of(5)

    async with emulator.client() as client:
        pass
    with pytest.raises(ClientClosedError):
        await export(client, "points", emulator.member_ids(), output)

    assert {} == noted_in(output)


@on_both_loops
async def test_ids_that_change_end_the_run(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fetched before stays."""
    lists = [["10000000", "10000001", "10000002"], ["10000000", "10000001", "10000003"]]
    ids = IdSource(lambda: iter(lists.pop(0)))
    monkeypatch.setattr(queue, "_CHUNK", 2)

    with pytest.raises(ConfigurationError, match="^the ids changed while they were exported"):
        await export_from(emulator_of(5), output, ids, concurrency=1)

    assert {"10000000", "10000001"} == noted_in(output).keys()


@on_both_loops
@pytest.mark.parametrize(
    "error",
    [StorageError("the disk is full"), BrokenPipeError(32, "Broken pipe"), RuntimeError("a bug")],
    ids=lambda error: type(error).__name__,
)
async def test_an_output_that_fails_ends_the_run(
    error: Exception, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and as itself: fetching on would be for nothing; the next run goes on."""
    emulator = emulator_of(500)
    written: list[object] = []

    def write(_: object, rows: object) -> None:
        written.append(rows)
        if len(written) == 4:
            raise error

    with monkeypatch.context() as patched:
        patched.setattr(LineWriter, "write", write)
        with pytest.raises(type(error)) as caught:
            await export_from(emulator, output, concurrency=4)

    assert error is caught.value
    assert 4 == len(written)
    assert emulator.stats.requests < 40
    assert noted_in(output).keys() <= {"10000000", "10000001", "10000002", "10000003"}


class OwnError(Exception):
    """An error of the caller's own."""


@on_both_loops
@pytest.mark.parametrize("at", ["first", "later", "outage", "last"])
async def test_an_error_of_the_progress_callback_reaches_the_caller(at: str, output: Path) -> None:
    """As it is, and the callback is not called again."""
    emulator = emulator_of(30)
    error = OwnError("a bug")
    raised = 0

    def progress(report: ExportReport) -> None:
        nonlocal raised
        moments = {
            "first": True,
            "later": report.members > 9,
            "outage": report.waiting is not None,
            "last": report.status == "complete",
        }
        if moments[at]:
            raised += 1
            raise error

    asked = iter(range(1000))
    with pytest.raises(OwnError) as caught:
        await export_from(
            emulator,
            output,
            instead=lambda _: DOWN if 12 < next(asked) < 40 else None,
            progress=progress,
        )

    assert error is caught.value
    assert 1 == raised
    report = await export_from(emulator, output)
    assert 30 == report.members


@on_both_loops
@pytest.mark.parametrize("is_async", [False, True], ids=["generator", "async-generator"])
async def test_an_error_of_the_callers_ids_reaches_the_caller(is_async: bool, output: Path) -> None:
    """As it is, before any request."""
    emulator = emulator_of(5)
    error = OwnError("no more ids")

    def ids() -> Iterator[str]:
        yield "10000000"
        raise error

    async def ids_async() -> Any:
        yield "10000000"
        raise error

    with pytest.raises(OwnError) as caught:
        await export_from(emulator, output, ids_async() if is_async else ids())

    assert error is caught.value
    assert 0 == emulator.stats.requests
    assert [] == list(output.parent.iterdir())


@on_both_loops
async def test_a_run_is_counted_for_itself_alone(output: Path) -> None:
    """Not with what the same client sends before and after, nor goes a cancelled one on counting."""
    emulator = emulator_of(5)

    def cancel(report: ExportReport) -> None:
        if report.requests:
            scope.cancel()

    async with emulator.client() as client:
        await client.points_awaiting_fulfillment("10000000")
        with anyio.CancelScope() as scope:
            await export(client, "points", emulator.member_ids(), output, progress=cancel)
        assert scope.cancelled_caught
        assert () == METER.get()
        report = await export(client, "points", emulator.member_ids(), output, fresh=True)
        await client.points_awaiting_fulfillment("10000000")

    assert 5 == report.requests
