"""
The sending loop: slots, permits, retries, pauses, deadlines and cancelling.
"""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Awaitable, Callable

import anyio
import pytest
from anyio.lowlevel import checkpoint
from conftest import KEY, captured_locals, leaks
from scripted import OK, FakeTime, Outcome, ScriptedTransport, status

from crowdtwist_async import (
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    ConnectionFailedError,
    CrowdTwistError,
    DeadlineExceededError,
    DecodeError,
    PointsAwaitingFulfillment,
    RateBudget,
    RateLimitError,
    Reply,
    Request,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
    TransportError,
)
from crowdtwist_async._config import make_settings
from crowdtwist_async._protocol import points_call
from crowdtwist_async._secrets import Secret
from crowdtwist_async._send import Options, Sender

pytestmark = pytest.mark.anyio

SETTINGS = make_settings(api_key=Secret(KEY), api_url="http://localhost:1", pos_url="http://localhost:1")
CALL = points_call(SETTINGS, "7", "id")
FAILED = status(500, b'{"reason": "internal_error", "message": "no"}')


def make_sender(
    transport: ScriptedTransport,
    time: FakeTime | None = None,
    *,
    slots: int = 64,
    per_minute: float = math.inf,
) -> Sender:
    """A sender, on a fake clock if one is given."""
    if time is None:
        return Sender(SETTINGS, transport, RateBudget(per_minute), slots)
    budget = RateBudget(per_minute, 1, clock=time.clock)
    return Sender(SETTINGS, transport, budget, slots, clock=time.clock, sleep=time.sleep)


PATIENT = RetryPolicy(initial=1.0)


def options(*, timeout: float = 10.0, deadline: float | None = 30.0, retry: RetryPolicy = PATIENT) -> Options:
    """The options of a call."""
    return Options(timeout, deadline, retry)


async def send_all(
    *outcomes: Outcome, **rest: float | RetryPolicy | None
) -> tuple[ScriptedTransport, FakeTime, object]:
    """Send one call over a script; return what it ended with."""
    transport, time = ScriptedTransport(*outcomes), FakeTime()
    sender = make_sender(transport, time)
    try:
        return transport, time, await sender.send(CALL, options(**rest))  # type: ignore[arg-type]  # by name
    except CrowdTwistError as error:
        return transport, time, error


async def test_a_success_is_one_request() -> None:
    """A good reply is decoded after one request without a pause."""
    transport, time, result = await send_all(OK)
    assert isinstance(result, PointsAwaitingFulfillment)
    assert (1, []) == (len(transport.requests), time.slept)


@pytest.mark.parametrize(
    "fault",
    [FAILED, status(503), status(408), status(425), status(429), status(529), ConnectionFailedError("cut")],
    ids=["500", "503", "408", "425", "429", "529", "connection"],
)
async def test_tries_again_until_it_works(fault: Outcome) -> None:
    """A passing fault costs one more request."""
    transport, time, result = await send_all(fault, OK)
    assert isinstance(result, PointsAwaitingFulfillment)
    assert (2, 1) == (len(transport.requests), len(time.slept))


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (status(400), BadRequestError),
        (status(403, b'{"error": "invalid_auth"}'), AuthenticationError),
        (status(500, b'{"reason": "not_configured"}'), ServerError),
        (status(200, b"[]"), DecodeError),
    ],
    ids=["400", "403", "not_configured", "wrong shape"],
)
async def test_does_not_repeat_what_will_not_change(fault: Outcome, kind: type[CrowdTwistError]) -> None:
    """A lasting fault is raised after one request."""
    transport, _, error = await send_all(fault)
    assert (kind, 1) == (type(error), len(transport.requests))


async def test_a_body_that_is_no_json_is_asked_for_once_more() -> None:
    """A 200 that is not JSON is repeated once, not four times."""
    transport, _, error = await send_all(status(200, b"<html>"))
    assert (DecodeError, 2) == (type(error), len(transport.requests))


async def test_attempts_are_bounded_and_the_last_error_is_raised() -> None:
    """Four attempts in all, and then the error of the last, with where, how often and how long."""
    transport, time, error = await send_all(status(503), status(503), status(503), FAILED)
    assert isinstance(error, ServerError)
    assert (500, 4, 4, "points_awaiting_fulfillment", "localhost:1") == (
        error.status,
        len(transport.requests),
        error.attempts,
        error.endpoint,
        error.host,
    )
    assert sum(time.slept) == pytest.approx(error.elapsed)
    assert "(points_awaiting_fulfillment at localhost:1, 4 attempts, " in str(error)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(
            b'{"error": "invalid_auth", "message": "no"}',
            "403 invalid_auth: no (check the API key, the client id and the environment: sandboxes have keys of"
            " their own)",
            id="key",
        ),
        pytest.param(
            b"<html>Blocked",
            "403: <html>Blocked (no code of the API's: a proxy, a gateway or a firewall may have refused it, or"
            " the key is wrong)",
            id="gateway",
        ),
        pytest.param(
            b"",
            "401 (check the API key, the client id and the environment: sandboxes have keys of their own)",
            id="no-body",
        ),
    ],
)
async def test_a_refused_key_says_what_to_check(body: bytes, reason: str) -> None:
    """The attributes stay the server's."""
    _, _, error = await send_all(status(int(reason[:3]), body))
    assert isinstance(error, AuthenticationError)
    assert reason == error.reason
    assert "check the API key" not in (error.message or "")
    assert reason == pickle.loads(pickle.dumps(error)).reason


async def test_retry_after_is_waited_for() -> None:
    """The server's own pause replaces the client's."""
    _, time, result = await send_all(status(429, retry_after="7"), OK)
    assert isinstance(result, PointsAwaitingFulfillment)
    assert [7.0] == time.slept


async def test_a_long_retry_after_is_raised_at_once() -> None:
    """Nobody waits for a day: the error says how long the server asked for."""
    transport, time, error = await send_all(status(429, retry_after="86400"), deadline=None)
    assert isinstance(error, RateLimitError)
    assert (86400.0, 1, []) == (error.retry_after, len(transport.requests), time.slept)
    said = "429 (not tried again: Retry-After asks for 86400 s, more than max_retry_after allows) ("
    assert str(error).startswith(said)


async def test_a_pause_beyond_the_deadline_is_not_begun() -> None:
    """The real error is raised now, not after a pause that would end too late."""
    transport, time, error = await send_all(status(429, retry_after="7"), deadline=7.0)
    assert (RateLimitError, 1, []) == (type(error), len(transport.requests), time.slept)
    said = "429 (not tried again: Retry-After asks for 7 s, more than the deadline leaves) ("
    assert str(error).startswith(said)


async def test_a_stale_connection_is_replaced_without_counting() -> None:
    """A kept-alive connection that was closed costs a request, but no attempt and no pause."""
    stale = ConnectionFailedError("closed")
    stale.stale = True
    transport, time, result = await send_all(stale, OK, retry=RetryPolicy(max_attempts=1))
    assert isinstance(result, PointsAwaitingFulfillment)
    assert (2, []) == (len(transport.requests), time.slept)


async def hang(request: Request) -> Reply:
    """Never answer."""
    request.phase = "body"
    await anyio.sleep_forever()
    raise AssertionError  # pragma: no cover


async def test_a_timeout_ends_one_attempt() -> None:
    """An attempt that takes too long is tried again, and names its phase when it was the last."""
    again, once = RetryPolicy(initial=0), RetryPolicy(max_attempts=1)
    points = await make_sender(ScriptedTransport(hang, OK)).send(CALL, options(timeout=0.02, retry=again))
    assert 7 == points.user_id
    with pytest.raises(RequestTimeoutError, match="body") as caught:
        await make_sender(ScriptedTransport(hang)).send(CALL, options(timeout=0.02, retry=once))
    assert ("body", True) == (caught.value.phase, caught.value.retryable)


async def test_the_deadline_ends_an_attempt() -> None:
    """A deadline below the timeout cuts the attempt and carries the error before it."""
    sender = make_sender(ScriptedTransport(FAILED, hang))
    with pytest.raises(DeadlineExceededError, match="in an attempt") as caught:
        await sender.send(CALL, options(deadline=0.05, retry=RetryPolicy(initial=0)))
    assert isinstance(caught.value.last_error, ServerError)
    assert 2 == caught.value.attempts


async def test_the_deadline_covers_waiting_for_a_slot() -> None:
    """A call that gets no slot in time says what it waited for."""
    sender = make_sender(ScriptedTransport(hang), slots=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sender.send, CALL, options(deadline=None))
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(DeadlineExceededError, match="max_in_flight") as caught:
            await sender.send(CALL, options(deadline=0.02))
        tasks.cancel_scope.cancel()
    assert (0, None) == (caught.value.attempts, caught.value.last_error)


async def test_the_deadline_covers_waiting_for_a_permit() -> None:
    """A call that gets no permit in time says what bulk callers should do."""
    sender = make_sender(ScriptedTransport(), per_minute=1)
    sender._line.permits._budget = RateBudget(1, 1)
    await sender.send(CALL, options())
    with pytest.raises(DeadlineExceededError, match="request budget"):
        await sender.send(CALL, options(deadline=0.02))


async def test_an_attempt_is_not_begun_after_the_deadline() -> None:
    """A permit that comes too late is not used."""
    time = FakeTime()
    transport = ScriptedTransport()
    sender = make_sender(transport, time, per_minute=60)
    await sender.send(CALL, options())
    with pytest.raises(DeadlineExceededError, match="waiting for a permit"):
        await sender.send(CALL, options(deadline=0.5))
    assert 1 == len(transport.requests)


async def test_never_more_in_flight_than_allowed() -> None:
    """The bound holds with many more calls than slots, and all of them are served."""
    transport = ScriptedTransport()
    sender = make_sender(transport, slots=3)
    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(sender.send, CALL, options())
    assert (50, 3) == (len(transport.requests), transport.most_in_flight)


async def test_a_pause_holds_no_slot() -> None:
    """While one call waits to try again, another uses the only slot."""
    pausing = anyio.Event()

    async def pause(seconds: float) -> None:
        pausing.set()
        await anyio.sleep_forever()

    transport = ScriptedTransport(FAILED, OK)
    sender = Sender(SETTINGS, transport, RateBudget(math.inf), 1, sleep=pause)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sender.send, CALL, options())
        await pausing.wait()
        assert 40 == (await sender.send(CALL, options())).total_points_awaiting_fulfillment
        tasks.cancel_scope.cancel()


async def test_permits_come_evenly_spaced() -> None:
    """Calls wait their turn at the budget, retries included."""
    time = FakeTime()
    transport = ScriptedTransport(FAILED, OK)
    sender = make_sender(transport, time, per_minute=60)
    for _ in range(3):
        await sender.send(CALL, options(retry=RetryPolicy(initial=0)))
    assert [0.0, 1.0, 1.0, 1.0] == [0.0, *[seconds for seconds in time.slept if seconds]]
    assert (4, 1) == (sender.stats.requests, sender.stats.retries)
    assert "Stats(requests=4, retries=1, permit_seconds=3.0)" == repr(sender.stats)


async def count_awaits(call: Callable[[], Awaitable[object]]) -> int:
    """How many times a call lets go of the event loop when nothing goes wrong."""
    count = 0
    done = False

    async def run() -> None:
        nonlocal done
        await call()
        done = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        while not done:
            count += 1
            await checkpoint()
    return count


async def test_cancelling_at_every_await_loses_nothing() -> None:
    """Wherever a call is cancelled, the only slot comes back and the next call succeeds."""
    transport = ScriptedTransport(FAILED, OK, OK, FAILED)
    sender = make_sender(transport, slots=1)
    steps = await count_awaits(lambda: sender.send(CALL, options(retry=RetryPolicy(initial=0))))
    for step in range(steps + 2):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(sender.send, CALL, options(retry=RetryPolicy(initial=0)))
                for _ in range(step):
                    await checkpoint()
                scope.cancel()
        transport._outcomes = (OK,)
        with anyio.fail_after(1):
            await sender.send(CALL, options())
        transport._outcomes = (FAILED,) * len(transport.requests) + (FAILED, OK)
    assert 0 == transport.in_flight


async def test_a_cancelled_call_s_traceback_holds_no_key() -> None:
    """What a caller's own timeout raises has none of the frames that held the URL."""

    async def send_slowly(request: Request) -> Reply:
        url = request.url
        await anyio.sleep_forever()
        raise AssertionError(url)  # pragma: no cover

    sender = make_sender(ScriptedTransport(send_slowly))
    with pytest.raises(TimeoutError) as caught, anyio.fail_after(0.02):
        await sender.send(CALL, options())
    assert not leaks(captured_locals(caught.value))


async def test_an_unexpected_error_of_a_transport_keeps_nothing_of_it() -> None:
    """A transport that raises after all neither leaks the key nor escapes the tree of errors."""

    async def fail(request: Request) -> Reply:
        raise RuntimeError(f"broken: {request.url} {KEY}")

    with pytest.raises(TransportError, match="raised RuntimeError") as caught:
        await make_sender(ScriptedTransport(fail)).send(CALL, options())
    assert not leaks(captured_locals(caught.value))
    assert (1, False) == (caught.value.attempts, caught.value.retryable)


async def test_a_transport_that_returns_nothing_is_told() -> None:
    """Forgetting to return the reply is no timeout."""

    async def forget(request: Request) -> Reply:
        return None  # type: ignore[return-value]  # the mistake

    with pytest.raises(TransportError, match="returned NoneType"):
        await make_sender(ScriptedTransport(forget)).send(CALL, options())


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply("200", {}, b""), "a Reply of str, dict, bytes, not of int, mapping, bytes"),  # type: ignore[arg-type]
        (Reply(200, None, b""), "a Reply of int, NoneType, bytes"),  # type: ignore[arg-type]
        (Reply(200, {}, "text"), "a Reply of int, dict, str"),  # type: ignore[arg-type]
        (Reply(200, {"retry-after": 1}, b""), "a header that is no str"),  # type: ignore[dict-item]
        (Reply(200, {b"date": "x"}, b""), "a header that is no str"),  # type: ignore[dict-item]
    ],
    ids=["status", "headers", "body", "value", "name"],
)
async def test_a_reply_of_other_kinds_is_told(reply: Reply, said: str) -> None:
    """A transport of a user's own may take a text for a body."""
    with pytest.raises(TransportError, match=said):
        await make_sender(ScriptedTransport(reply)).send(CALL, options())


async def test_headers_are_found_in_any_case() -> None:
    """As a transport of a user's own may write them."""
    told = Reply(429, {"Retry-After": "500", "X-Other": "1"}, b"")
    with pytest.raises(RateLimitError) as caught:
        await make_sender(ScriptedTransport(told)).send(CALL, options())
    assert (500.0, 1) == (caught.value.retry_after, caught.value.attempts)


async def test_a_reply_that_is_no_json_is_tried_again_once_whatever_came_before() -> None:
    """An outage answers with errors and with pages of HTML in turn."""
    html = Reply(200, {}, b"<html>")
    await make_sender(ScriptedTransport(FAILED, html, OK), FakeTime()).send(CALL, options())
    with pytest.raises(DecodeError) as caught:
        await make_sender(ScriptedTransport(html, FAILED, html), FakeTime()).send(CALL, options())
    assert 3 == caught.value.attempts


async def test_no_crash_report_finds_the_user_in_the_call() -> None:
    """Reporters look into tuples, so a call is none."""
    call = points_call(SETTINGS, "alice@example.com", "email")
    with pytest.raises(ServerError) as caught:
        await make_sender(ScriptedTransport(FAILED), FakeTime()).send(call, options())
    assert "alice" not in captured_locals(caught.value)


async def test_closing_ends_what_waits() -> None:
    """A call that waits for a slot while the client closes sends nothing; what is under way may end."""
    transport = ScriptedTransport(hang)
    sender = make_sender(transport, slots=1)
    first, waited = anyio.CancelScope(), anyio.Event()

    async def occupy() -> None:
        with first:
            await sender.send(CALL, options())

    async def wait() -> None:
        with pytest.raises(ClientClosedError, match="while this call waited"):
            await sender.send(CALL, options())
        waited.set()

    async with anyio.create_task_group() as tasks:
        for work in (occupy, wait):
            tasks.start_soon(work)
            await anyio.wait_all_tasks_blocked()
        await sender.waits.end()
        with anyio.fail_after(5):
            await waited.wait()
        assert 1 == sender.under_way
        first.cancel()
    assert 1 == len(transport.requests)


async def test_the_end_of_the_last_call_is_told() -> None:
    """What is masked for calls under way is masked until then."""
    transport = ScriptedTransport(hang)
    sender = make_sender(transport)
    told: list[int] = []
    sender.when_idle = lambda: told.append(sender.under_way)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(sender.send, CALL, options())
        await anyio.wait_all_tasks_blocked()
        assert ([], 3) == (told, sender.under_way)
        tasks.cancel_scope.cancel()

    assert [0] == told


async def test_logs_a_line_an_attempt_and_a_retry(caplog: pytest.LogCaptureFixture) -> None:
    """DEBUG has one line for each attempt, WARNING one for each retry; none names the user."""
    caplog.set_level(logging.DEBUG, "crowdtwist_async")
    sender = make_sender(ScriptedTransport(FAILED, OK), FakeTime())
    await sender.send(points_call(SETTINGS, "alice@example.com", "email"), options())
    ours = [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "crowdtwist_async"
    ]
    assert ["DEBUG", "WARNING", "DEBUG"] == [level for level, _ in ours]
    assert "attempt 1 at localhost:1: 500" in ours[0][1]
    assert "attempt 1 failed with ServerError" in ours[1][1]
    assert not [text for _, text in ours if "alice" in text]


async def test_no_log_lines_when_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    """Without DEBUG an attempt logs nothing."""
    caplog.set_level(logging.INFO, "crowdtwist_async")
    await make_sender(ScriptedTransport()).send(CALL, options())
    assert not [record for record in caplog.records if record.name == "crowdtwist_async"]
