"""
The run: many members through a few workers, one bad member at a time, and what ends it for all.
"""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from conftest import KEY
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdtwist_async import (
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    CrowdTwistClient,
    CrowdTwistError,
    Reply,
    Request,
    RetryPolicy,
    StorageError,
)
from crowdtwist_async.emulator import Emulator, Fault
from crowdtwist_async.export.files import Output
from crowdtwist_async.export.rows import Row
from crowdtwist_async.export.run import Report, Run
from crowdtwist_async.export.source import Source

on_both_loops = pytest.mark.anyio
NAMES = ["points", "rewards", "purchases"]
ONCE = RetryPolicy(max_attempts=1)
AT_ONCE = RetryPolicy(initial=0)


class Collected:
    """An output that keeps its rows, and each member's batch."""

    def __init__(self) -> None:
        self.batches: list[list[Row]] = []
        self.failures: list[Row] = []

    def write(self, rows: Iterable[Row]) -> None:
        """Keep them."""
        self.batches.append(list(rows))

    def note_failure(self, failure: Row) -> None:
        """Keep a failed member's line."""
        self.failures.append(failure)

    @property
    def rows(self) -> list[Row]:
        """All of them."""
        return [row for batch in self.batches for row in batch]


class CountingTransport:
    """Asks an emulator, and counts how many requests are on the way; none is answered before `together` are."""

    def __init__(self, emulator: Emulator, together: int = 1) -> None:
        self._inner = emulator.transport()
        self._together = together
        self._complete = anyio.Event()
        self.now = 0
        self.most = 0

    async def send(self, request: Request, /) -> Reply | CrowdTwistError:
        """Take a few turns of the event loop, so that others come in."""
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == self._together:
            self._complete.set()
        await self._complete.wait()
        for _ in range(5):
            await checkpoint()
        self.now -= 1
        return await self._inner.send(request)

    async def aclose(self) -> None:
        """Do nothing: the emulator holds nothing."""


def run_of(client: CrowdTwistClient, name: str = "points", output: Any = None) -> Run:
    """A run into anything that has `write`."""
    sink: Any = output or Collected()
    return Run(client, Source(name), sink)


async def export(
    client: CrowdTwistClient,
    ids: Iterable[str],
    name: str = "purchases",
    *,
    output: Any = None,
    concurrency: int = 4,
) -> tuple[Report, Collected]:
    """Run an export with an open client."""
    collected = Collected()
    run = run_of(client, name, output or collected)
    return await run.finish(ids, concurrency), collected


def emulator_of(members: int, *faults: Fault | None) -> Emulator:
    """An API with the key of all tests."""
    return Emulator(members=members, api_key=KEY, faults=faults)


@on_both_loops
@pytest.mark.parametrize("name", NAMES)
async def test_every_row_of_every_member_arrives(name: str) -> None:
    """As many as the API says it has, and served."""
    emulator = emulator_of(40)
    ids = list(emulator.member_ids())
    counts: dict[str, Callable[[str], int]] = {
        "rewards": emulator.rewards_of,
        "purchases": emulator.purchases_of,
    }

    async with emulator.client() as client:
        report, collected = await export(client, ids, name)

    assert [counts[name](user) if name in counts else 1 for user in ids] == [
        sum(row["requested_id"] == user for row in collected.rows) for user in ids
    ]
    assert (40, 0, 0) == (report.members, report.not_found, report.failed)
    assert emulator.stats.rows == report.rows == len(collected.rows)
    assert emulator.stats.requests == report.requests
    assert (0, {}) == (report.retries, report.failures)
    assert report.seconds > 0


@on_both_loops
async def test_a_members_rows_stand_together() -> None:
    """However many members are fetched at once."""
    emulator = emulator_of(30)

    async with emulator.client(transport=CountingTransport(emulator)) as client:
        _, collected = await export(client, emulator.member_ids(), concurrency=16)

    users = [user for user, _ in groupby(row["requested_id"] for row in collected.rows)]
    assert len(set(users)) == len(users)
    assert [] not in collected.batches


@on_both_loops
async def test_no_ids_are_an_empty_export() -> None:
    """Nothing is asked and nothing written."""
    emulator = emulator_of(1)

    async with emulator.client() as client:
        report, collected = await export(client, [])

    assert (0, 0, 0, []) == (report.members, report.requests, emulator.stats.requests, collected.batches)


@on_both_loops
async def test_unknown_ids_are_a_result() -> None:
    """They are counted, and are no failures."""
    emulator = emulator_of(3)

    async with emulator.client() as client:
        report, _ = await export(client, ["5", "10000000", "nobody", "10000003"], "points")

    assert (1, 3, 0) == (report.members, report.not_found, report.failed)


@on_both_loops
@pytest.mark.parametrize("bad", ["a\x01b", "..", "\x7f", "a\u2028b", "\udcff"], ids=ascii)
async def test_an_id_that_can_not_be_asked_for_fails_alone(bad: str) -> None:
    """It costs no request, and the sentence that counts it does not repeat it."""
    emulator = emulator_of(3)

    async with emulator.client() as client:
        report, collected = await export(client, ["10000000", bad, "10000001"], "points")

    assert (2, 1, 2) == (report.members, report.failed, report.requests)
    assert {"10000000", "10000001"} == {row["requested_id"] for row in collected.rows}
    [(sentence, times)] = report.failures.items()
    assert (1, True) == (times, sentence.startswith("InvalidArgumentError: user_id "))


@on_both_loops
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        pytest.param(Fault.status(500, user="10000001"), "ServerError", id="server-error"),
        pytest.param(Fault.reset(user="10000001"), "ConnectionFailedError", id="reset"),
        pytest.param(Fault.truncate(user="10000001"), "ConnectionFailedError", id="cut"),
        pytest.param(Fault.not_json(user="10000001"), "DecodeError", id="not-json"),
        pytest.param(Fault.status(404, body=b"", user="10000001"), "APIStatusError", id="gateway-404"),
        pytest.param(Fault.rewrite(lambda _: {}, user="10000001"), "DecodeError", id="wrong-shape"),
        pytest.param(Fault.status(301, user="10000001"), "UnexpectedRedirectError", id="redirect"),
    ],
)
async def test_a_failing_member_leaves_none_of_its_rows(fault: Fault, kind: str) -> None:
    """Also not those of the pages before the failure; the others are complete."""
    emulator = emulator_of(4, *[None] * 3, fault)
    ids = ["10000001", "10000000", "10000003"]

    async with emulator.client(retry=ONCE) as client:
        report, collected = await export(client, ids, concurrency=1)

    assert "10000001" not in {row["requested_id"] for row in collected.rows}
    assert sum(map(emulator.purchases_of, ids[1:])) == len(collected.rows) == report.rows
    assert (2, 1, [1]) == (report.members, report.failed, list(report.failures.values()))
    assert all(
        sentence.startswith(f"{kind}: ") and "10000001" not in sentence for sentence in report.failures
    )
    assert () == emulator.pending_faults


@on_both_loops
async def test_what_is_tried_again_is_no_failure() -> None:
    """It is counted apart."""
    emulator = emulator_of(3, Fault.status(503), Fault.reset(), None, Fault.truncate())

    async with emulator.client(retry=AT_ONCE) as client:
        report, _ = await export(client, emulator.member_ids())

    assert (3, 0, 3) == (report.members, report.failed, report.retries)
    assert emulator.stats.requests == report.requests


@on_both_loops
async def test_the_same_failure_of_many_is_one_sentence() -> None:
    """Counts, and no members."""
    emulator = emulator_of(3, *[Fault.status(500)] * 3)

    async with emulator.client(retry=ONCE) as client:
        report, _ = await export(client, emulator.member_ids(), "points")

    assert {"ServerError: 500 internal_error: Emulated fault.": 3} == report.failures


@on_both_loops
@pytest.mark.parametrize("concurrency", [1, 3, 20])
async def test_members_at_once_are_bounded(concurrency: int) -> None:
    """As many requests as that are on the way together, and never one more."""
    emulator = emulator_of(60)
    transport = CountingTransport(emulator, together=concurrency)

    with anyio.fail_after(10):
        async with emulator.client(transport=transport) as client:
            await export(client, emulator.member_ids(), "points", concurrency=concurrency)

    assert concurrency == transport.most


@on_both_loops
async def test_ids_are_read_as_they_are_needed() -> None:
    """A list of millions is never in memory: it is read no further than members are under way."""
    emulator = emulator_of(100)
    ahead: list[int] = []
    read = 0
    concurrency = 4

    def ids() -> Iterator[str]:
        nonlocal read
        for user_id in emulator.member_ids():
            read += 1
            yield user_id

    def progress(report: Report) -> None:
        ahead.append(read - report.members)

    async with emulator.client(transport=CountingTransport(emulator)) as client:
        await run_of(client).finish(ids(), concurrency, progress)

    assert 100 == len(ahead)
    assert concurrency + 1 >= max(ahead)


@on_both_loops
async def test_progress_is_told_after_every_member() -> None:
    """Found or not, with the figures so far."""
    emulator = emulator_of(3)
    told: list[tuple[int, int, int]] = []

    def progress(report: Report) -> None:
        told.append((report.members, report.not_found, report.requests))

    async with emulator.client() as client:
        run = run_of(client)
        await run.finish(["10000000", "5", "10000001"], 1, progress)

    assert [(1, 0, 1), (1, 1, 2), (2, 1, 3)] == told


@on_both_loops
async def test_a_refused_key_ends_the_run_at_once() -> None:
    """Every other member would meet it too; it is raised as itself, and nothing more is asked."""
    emulator = emulator_of(1000)
    read: list[str] = []

    def ids() -> Iterator[str]:
        for user_id in emulator.member_ids():
            read.append(user_id)
            yield user_id

    async with emulator.client(api_key="another" + KEY) as client:
        with pytest.raises(AuthenticationError) as caught:
            await export(client, ids(), concurrency=4)

    assert AuthenticationError is type(caught.value)
    assert 403 == caught.value.status
    assert 8 >= len(read) >= emulator.stats.requests
    assert 0 == emulator.stats.rows


@on_both_loops
async def test_a_refused_key_does_not_wait_for_more_ids() -> None:
    """They may come from a terminal that says nothing."""
    emulator = emulator_of(2, Fault.status(403))
    typed = threading.Event()

    def ids() -> Iterator[str]:
        yield "10000000"
        typed.wait(10)

    async with emulator.client() as client:
        with pytest.raises(AuthenticationError), anyio.fail_after(5):
            await export(client, ids(), concurrency=2)
    typed.set()

    assert 1 == emulator.stats.requests


@on_both_loops
async def test_a_closed_client_ends_the_run() -> None:
    """It is no failure of each member."""
    emulator = emulator_of(5)

    async with emulator.client() as client:
        run = run_of(client)
    with pytest.raises(ClientClosedError):
        await run.finish(emulator.member_ids(), 2)


@on_both_loops
async def test_ids_that_can_not_be_read_end_the_run() -> None:
    """What was fetched before stays written."""
    emulator = emulator_of(5)

    def ids() -> Iterator[str]:
        yield "10000000"
        raise ConfigurationError("the ids are gone")

    async with emulator.client() as client:
        with pytest.raises(ConfigurationError, match="^the ids are gone$"):
            await export(client, ids(), concurrency=1)


class Failing(Collected):
    """An output that fails at its n-th batch."""

    def __init__(self, error: Exception, after: int = 0) -> None:
        super().__init__()
        self._error = error
        self._after = after

    def write(self, rows: Iterable[Row]) -> None:
        """Keep them, or fail."""
        if len(self.batches) == self._after:
            raise self._error
        super().write(rows)


@on_both_loops
@pytest.mark.parametrize(
    "error",
    [StorageError("the disk is full"), BrokenPipeError(32, "Broken pipe"), RuntimeError("a bug")],
    ids=lambda error: type(error).__name__,
)
async def test_an_output_that_fails_ends_the_run(error: Exception) -> None:
    """At once, and as itself: fetching on would be for nothing."""
    emulator = emulator_of(1000)
    output = Failing(error, after=3)

    async with emulator.client() as client:
        with pytest.raises(type(error)) as caught:
            await export(client, emulator.member_ids(), "points", output=output, concurrency=4)

    assert error is caught.value
    assert 3 == len(output.batches)
    assert emulator.stats.requests < 20


@on_both_loops
async def test_cancelling_ends_the_run() -> None:
    """Whole members are written; the one under way is not."""
    emulator = emulator_of(50, *[None] * 10, Fault.delay(60))
    collected = Collected()

    async with emulator.client() as client:
        with anyio.move_on_after(0.05) as scope:
            await export(client, emulator.member_ids(), output=collected, concurrency=1)

    assert scope.cancelled_caught
    assert [10000000] == sorted({int(row["requested_id"]) for row in collected.rows})
    assert emulator.purchases_of("10000000") == len(collected.rows)


@on_both_loops
async def test_a_real_file_gets_every_member(tmp_path: Path) -> None:
    """Writing is off the event loop, and rows of a member stay together there too."""
    emulator = emulator_of(25)
    path = tmp_path / "out.jsonl"
    output = await anyio.to_thread.run_sync(Output, str(path), "purchases")

    async with emulator.client() as client:
        await export(client, emulator.member_ids(), output=output)
    await anyio.to_thread.run_sync(output.complete)

    rows = [json.loads(line) for line in path.read_text().splitlines()]
    counted = {user: emulator.purchases_of(user) for user in emulator.member_ids()}
    assert {user: count for user, count in counted.items() if count} == {
        user: len(list(group)) for user, group in groupby(row["requested_id"] for row in rows)
    }


@settings(max_examples=15, deadline=None)
@given(
    users=st.lists(st.integers(-2, 12), max_size=15),
    rate=st.sampled_from([0.0, 0.3]),
    concurrency=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_every_id_is_accounted_for(users: list[int], rate: float, concurrency: int, seed: int) -> None:
    """Whatever goes wrong, each id is a member, not found or failed, and members are complete."""
    emulator = Emulator(members=10, api_key=KEY, fault_rate=rate, seed=seed)
    ids = [str(10_000_000 + user) for user in users]

    async def run() -> tuple[Report, Collected]:
        async with emulator.client(retry=ONCE) as client:
            return await export(client, ids, concurrency=concurrency)

    report, collected = anyio.run(run)

    assert len(ids) == report.members + report.not_found + report.failed
    assert report.failed == sum(report.failures.values())
    assert report.rows == len(collected.rows)
    for batch in collected.batches:
        assert [emulator.purchases_of(batch[0]["requested_id"])] == [len(batch)]


def test_standard_output_is_written_while_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader gets each member's rows as they come."""
    emulator = emulator_of(3)
    raw = io.BytesIO()
    seen: list[int] = []
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw))

    def progress(_: Report) -> None:
        seen.append(len(raw.getvalue().splitlines()))

    async def run() -> None:
        async with emulator.client() as client:
            await Run(client, Source("points"), Output("-", "points")).finish(
                emulator.member_ids(), 1, progress
            )

    anyio.run(run)

    assert [1, 2, 3] == seen


@pytest.mark.anyio
async def test_failures_and_rows_are_written_one_at_a_time() -> None:
    """The output is not made for two threads at once."""
    busy = threading.Lock()

    class Strict(Collected):
        """An output that notices a second writer."""

        def write(self, rows: Iterable[Row]) -> None:
            """Keep rows, if nobody else writes."""
            self._alone(lambda: super(Strict, self).write(rows))

        def note_failure(self, failure: Row) -> None:
            """Keep a failure, if nobody else writes."""
            self._alone(lambda: super(Strict, self).note_failure(failure))

        def _alone(self, keep: Callable[[], None]) -> None:
            assert busy.acquire(blocking=False)
            time.sleep(0.001)
            keep()
            busy.release()

    output = Strict()
    ids = [user_id for number in range(40) for user_id in (str(10_000_000 + number), f"bad\x01{number}")]
    async with Emulator(api_key=KEY).client() as client:
        await Run(client, Source("points"), output).finish(ids, 16)  # type: ignore[arg-type]  # works alike
    assert (40, 40) == (len(output.rows), len(output.failures))
