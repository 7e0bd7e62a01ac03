"""
Outages, in virtual time: when there is one, how often the API is asked, and when the run gives up.
"""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from scripted import failed, limited
from trio.testing import MockClock
from virtual import Stopwatch, VirtualLoop

from crowdtwist_async import (
    APIStatusError,
    BadRequestError,
    CrowdTwistError,
    ServerError,
    TransportError,
    UnexpectedRedirectError,
    UserNotFoundError,
)
from crowdtwist_async.emulator import Emulator
from crowdtwist_async.export.outage import MOST_TRIES, Outage, OutageError, is_from_elsewhere, may_pass
from crowdtwist_async.export.source import Member, Source

pytestmark = pytest.mark.anyio


def down(retry_after: float | None = None) -> ServerError:
    """A 503 that may pass."""
    error = failed(503, retry_after)
    error.retryable = True
    return error


DOWN = down()
REDIRECT = UnexpectedRedirectError("the server answered 302, a redirect")
PAGE = failed(404, None)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run on both event loops, in virtual time."""
    if request.param == "asyncio":
        return "asyncio", {"loop_factory": VirtualLoop}
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Bench:
    """An outage, what its questions are answered with, and when they are asked."""

    def __init__(self, *answers: CrowdTwistError | None, longest: float = 900.0) -> None:
        self._answers = list(answers)
        self.watch = Stopwatch()
        self.asked: list[float] = []
        self.reasons: list[str | None] = []
        self.stop = anyio.Event()
        self.outage = Outage(self.ask, longest, self.sleep, self.stop.is_set)

    async def ask(self, _: Member) -> None:
        """Answer with the next; the last repeats."""
        self.asked.append(self.watch.seconds)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        await anyio.lowlevel.checkpoint()
        if answer is not None:
            raise answer

    async def sleep(self, seconds: float) -> None:
        """Wait as a run does."""
        self.reasons.append(self.outage.reason)
        with anyio.move_on_after(seconds):
            await self.stop.wait()

    async def fail(self, times: int, *members: Member) -> None:
        """Let members fail, one after the other."""
        for _ in range(times):
            for member in members:
                await self.outage.failed(member, DOWN)


def make_member(user_id: str = "10000000") -> Member:
    """A member that nobody fetches."""
    return Member(Source("points"), Emulator().client(), user_id)


async def test_nine_failures_in_a_row_are_no_outage() -> None:
    """Nor are many that are not in a row."""
    bench, member = Bench(DOWN), make_member()

    await bench.fail(9, member)
    bench.outage.succeeded()
    member.tries = 0
    await bench.fail(9, member)

    assert [] == bench.asked
    assert 9 == member.tries


async def test_ten_in_a_row_are_a_suspicion() -> None:
    """One question answers it, and the tries count."""
    bench, members = Bench(None), [make_member() for _ in range(10)]

    await bench.fail(1, *members)
    assert [0.0] == bench.asked
    await bench.fail(1, *members[:9])

    assert [0.0] == bench.asked
    assert [2] * 9 + [1] == [member.tries for member in members]
    assert [] == bench.reasons


async def test_the_last_try_of_a_member_is_a_suspicion() -> None:
    """It would fail for good: that needs an API that answers somebody else."""
    bench, member = Bench(None), make_member()
    member.tries = MOST_TRIES - 1

    await bench.fail(1, member)

    assert [0.0] == bench.asked
    assert MOST_TRIES == member.tries


async def test_a_refusal_is_an_answer() -> None:
    """The member that is asked for may be gone by now."""
    bench = Bench(BadRequestError("no such thing"))

    await bench.fail(10, make_member())

    assert [0.0] == bench.asked
    assert [] == bench.reasons


@pytest.mark.parametrize("elsewhere", [pytest.param(REDIRECT, id="redirect"), pytest.param(PAGE, id="404")])
async def test_the_second_answer_from_elsewhere_is_a_suspicion(elsewhere: CrowdTwistError) -> None:
    """And as one from elsewhere to the question is no answer, it is waited for."""
    bench, member = Bench(elsewhere, elsewhere, None), make_member()

    await bench.outage.failed(member, elsewhere)
    assert ([], 1) == (bench.asked, member.tries)
    await bench.outage.failed(member, elsewhere)

    assert ([0, 1, 3], 0) == (bench.asked, member.tries)


async def test_an_outage_is_asked_about_ever_less_often() -> None:
    """After 1, 2, 4, 8, 16 and then every 30 seconds; nobody's tries count."""
    bench, members = Bench(*[DOWN] * 8, None), [make_member() for _ in range(10)]
    members[3].tries = 7

    await bench.fail(1, *members)

    assert [0, 1, 3, 7, 15, 31, 61, 91, 121] == bench.asked
    assert ["no"] * 8 == bench.reasons
    assert [0, 0, 0, 7, 0, 0, 0, 0, 0, 0] == [member.tries for member in members]
    assert bench.outage.reason is None


async def test_a_pause_that_the_server_asks_for_is_kept() -> None:
    """Where it is longer than the run's own."""
    bench = Bench(down(50), limited(0.5), None)

    await bench.fail(10, make_member())

    assert [0, 50, 52] == bench.asked


async def test_an_outage_ends_the_run_when_it_lasts_too_long() -> None:
    """To the second, and after a last question."""
    bench = Bench(DOWN, longest=40)

    with pytest.raises(OutageError, match="^the API has not answered for 40 seconds: no$"):
        await bench.fail(10, make_member())

    assert [0, 1, 3, 7, 15, 31, 40] == bench.asked


async def test_the_time_of_the_questions_counts() -> None:
    """An API that lets everybody wait is asked no longer than one that refuses."""
    bench = Bench(DOWN, longest=40)
    ask = bench.outage._ask

    async def ask_slowly(member: Member) -> None:
        await anyio.sleep(10)
        await ask(member)

    bench.outage._ask = ask_slowly
    with pytest.raises(OutageError, match="^the API has not answered for 47 seconds: no$"):
        await bench.fail(10, make_member())

    assert [10, 21, 33, 47] == bench.asked


async def test_a_pause_beyond_the_patience_ends_the_run_at_once() -> None:
    """Without a question, whoever is told so."""
    bench = Bench(DOWN)

    with pytest.raises(OutageError, match="^the API asks to come back later: no$"):
        await bench.outage.failed(make_member(), down(901))

    assert [] == bench.asked


async def test_a_pause_beyond_what_is_left_ends_the_run_at_once() -> None:
    """The API would not answer in time."""
    bench = Bench(DOWN, DOWN, down(898))

    with pytest.raises(OutageError, match="^the API asks to come back later: no$"):
        await bench.fail(10, make_member())

    assert [0, 1, 3] == bench.asked


async def test_no_patience_is_one_question() -> None:
    """`max_outage=0`."""
    bench = Bench(DOWN, longest=0)

    with pytest.raises(OutageError, match="^the API has not answered for 0 seconds: no$"):
        await bench.fail(10, make_member())

    assert [0] == bench.asked


async def test_everybody_waits_for_the_end() -> None:
    """Those who fail meanwhile too, and none of their tries counts; a late success changes nothing."""
    bench, members = Bench(DOWN, DOWN, None), [make_member() for _ in range(12)]
    ends: list[float] = []

    async def fail_at(seconds: float, member: Member) -> None:
        await anyio.sleep(seconds)
        await bench.outage.failed(member, DOWN)
        ends.append(bench.watch.seconds)

    async def succeed() -> None:
        await anyio.sleep(0.5)
        bench.outage.succeeded()
        await bench.outage.over()
        ends.append(bench.watch.seconds)

    async with anyio.create_task_group() as tasks:
        for number, member in enumerate(members):
            tasks.start_soon(fail_at, 0.0 if number < 10 else 1.5, member)
        tasks.start_soon(succeed)

    assert [0.0] * 9 + [3.0] * 4 == sorted(ends)
    assert {0} == {member.tries for member in members}
    assert [0, 1, 3] == bench.asked
    with anyio.fail_after(0):
        await bench.outage.over()


async def test_stopping_ends_the_wait() -> None:
    """No further question is asked, and the tries do not count."""
    bench, member = Bench(DOWN), make_member()

    async def stop() -> None:
        await anyio.sleep(5)
        bench.stop.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop)
        await bench.fail(10, member)

    assert [0, 1, 3] == bench.asked
    assert 5 == bench.watch.seconds
    assert (0, None) == (member.tries, bench.outage.reason)


async def test_a_run_that_is_to_stop_asks_nothing() -> None:
    """What fails while it drains is told apart by the next run."""
    bench = Bench(DOWN)
    bench.stop.set()

    await bench.fail(10, make_member())

    assert [] == bench.asked


async def test_an_error_that_is_not_of_the_api_passes_through() -> None:
    """And nobody waits for ever."""
    bench, member = Bench(DOWN), make_member()

    async def break_down(_: float) -> None:
        raise RuntimeError("a bug")

    bench.outage._sleep = break_down
    with pytest.raises(RuntimeError, match="^a bug$"):
        await bench.fail(10, member)

    with anyio.fail_after(0):
        await bench.outage.over()
    assert (0, None) == (member.tries, bench.outage.reason)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(DOWN, True, id="server-error"),
        pytest.param(limited(None), True, id="too-many"),
        pytest.param(TransportError("the request budget raised OSError"), True, id="budget"),
        pytest.param(BadRequestError("no"), False, id="bad-request"),
    ],
)
async def test_what_may_pass_is_tried_again(error: CrowdTwistError, expected: bool) -> None:
    """Everything else fails the member at once."""
    assert expected is may_pass(error)


def coded(error: APIStatusError, code: str) -> APIStatusError:
    """An error in which the API names its code."""
    error.code = code
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(REDIRECT, True, id="redirect"),
        pytest.param(PAGE, True, id="page"),
        pytest.param(coded(failed(404, None), "not_supported"), False, id="code"),
        pytest.param(UserNotFoundError("no"), False, id="unknown-user"),
        pytest.param(failed(400, None), False, id="bad-request"),
        pytest.param(DOWN, False, id="down"),
    ],
)
async def test_what_the_api_did_not_say_is_from_elsewhere(error: CrowdTwistError, expected: bool) -> None:
    """A redirect, and a 404 without any of its codes."""
    assert expected is is_from_elsewhere(error)
