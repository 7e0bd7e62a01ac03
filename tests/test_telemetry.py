"""
Spans and metrics: what is told of calls, walks, retries and waits, to whom it belongs, and what is never told.
"""

from __future__ import annotations

import gc
import logging
import math
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.lowlevel import checkpoint
from conftest import KEY, captured_locals
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode
from scripted import OK, FakeTime, ScriptedTransport, status
from telling import MEMBERS, Told, names_a_member, telling
from wire import PAGE, WireServer, raw, reply

from crowdtwist_async import (
    AuthenticationError,
    ConnectionFailedError,
    CrowdTwistClient,
    CrowdTwistError,
    DeadlineExceededError,
    PaginationLoopError,
    RateBudget,
    Reply,
    Request,
    RetryPolicy,
    ServerError,
)
from crowdtwist_async.__about__ import __version__
from crowdtwist_async._config import make_settings
from crowdtwist_async._protocol import points_call
from crowdtwist_async._secrets import Secret
from crowdtwist_async._send import Options, Sender
from crowdtwist_async._telemetry import SCHEMA_URL, SCOPE, Telemetry
from crowdtwist_async.emulator import Emulator, Fault
from crowdtwist_async.emulator.instant import InstantClock, discard, instant_client
from crowdtwist_async.export import export
from crowdtwist_async.models import CommonIdTypeText
from crowdtwist_async.transports.aiohttp import AiohttpTransport

pytestmark = pytest.mark.anyio

USER = MEMBERS["id"]
AT_ONCE = RetryPolicy(initial=0)
ROWS = 35
PAGES = 4
RESET = ConnectionFailedError("reset")
EVERY_METRIC = {
    "http.client.request.duration": "s",
    "http.client.active_requests": "{request}",
    "crowdtwist.client.requests": "{request}",
    "crowdtwist.client.retries": "{request}",
    "crowdtwist.client.call.duration": "s",
    "crowdtwist.client.slot.wait": "s",
    "crowdtwist.client.permit.wait": "s",
    "crowdtwist.client.retry_quota": "{token}",
}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """What is told in a test; it is searched for the key and for ids when the test is over."""
    with telling(monkeypatch) as everything:
        yield everything


def client_of(*outcomes: Any, **options: Any) -> CrowdTwistClient:
    """A client whose requests end as a script says, without pacing and pauses."""
    return CrowdTwistClient(
        **{
            "api_key": KEY,
            "client_id": 201,
            "transport": ScriptedTransport(*outcomes),
            "budget": RateBudget(math.inf),
            "retry": AT_ONCE,
            **options,
        }
    )


def emulator_with(rows: int) -> tuple[Emulator, str]:
    """An emulator, and a member of it with so many purchases."""
    return Emulator(members=2_000, api_key=KEY), member_with(rows)


@cache
def member_with(rows: int) -> str:
    """The first of them."""
    emulator = Emulator(members=2_000, api_key=KEY)
    return next(user for user in emulator.member_ids() if emulator.purchases_of(user) == rows)


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    """All attributes of a span, those that take time without it."""
    return dict(span.attributes or {})


def walk_attributes(span: ReadableSpan) -> tuple[Any, ...]:
    """Pages and items of a walk, and whether it came to its end."""
    told = attributes_of(span)
    return tuple(told[f"crowdtwist.walk.{name}"] for name in ("pages", "items", "complete"))


def parent_of(span: ReadableSpan) -> int | None:
    """The id of the span that it belongs to."""
    return None if span.parent is None else span.parent.span_id


def id_of(span: ReadableSpan) -> int:
    """Its own id."""
    assert span.context is not None
    own: int = span.context.span_id
    return own


def check_family(told: Told, pages: int | None = None) -> ReadableSpan:
    """The one walk, of which every call is a child."""
    [walk] = told.spans("iter_user_purchases")
    calls = told.spans("user_purchases")
    assert {id_of(walk)} == {parent_of(call) for call in calls}
    if pages is not None:
        assert list(range(1, pages + 1)) == sorted(attributes_of(call)["crowdtwist.page"] for call in calls)
    return walk


async def test_a_call_is_one_span(told: Told) -> None:
    """Of the kind of a client, with names, numbers and types for attributes."""
    async with client_of() as client:
        await client.points_awaiting_fulfillment(7)

    [span] = told.spans()
    assert ("points_awaiting_fulfillment", SpanKind.CLIENT) == (span.name, span.kind)
    assert {
        "crowdtwist.endpoint": "points_awaiting_fulfillment",
        "http.request.method": "GET",
        "server.address": "pos201.crowdtwist.com",
        "server.port": 443,
        "url.template": "/fulfillment/users/{user_id}",
        "crowdtwist.attempts": 1,
        "crowdtwist.slot.wait": 0.0,
        "crowdtwist.permit.wait": 0.0,
        "http.response.status_code": 200,
    } == attributes_of(span)
    assert StatusCode.UNSET is span.status.status_code
    assert () == span.events
    assert span.parent is None


async def test_spans_and_metrics_say_whose_they_are(told: Told) -> None:
    """By the package's name and version, and by the conventions that their names are from."""
    async with client_of() as client:
        await client.points_awaiting_fulfillment(7)
        metric_scope = told.scope_of_metrics()

    [span] = told.spans()
    for scope in (span.instrumentation_scope, metric_scope):
        assert scope is not None
        assert (SCOPE, __version__, SCHEMA_URL) == (scope.name, scope.version, scope.schema_url)


@pytest.mark.parametrize(
    ("call", "template"),
    [
        pytest.param(
            lambda client: client.points_awaiting_fulfillment(MEMBERS["email"], id_type="email"),
            "/fulfillment/users",
            id="points-by-email",
        ),
        pytest.param(lambda client: client.user_rewards(USER), "/v2.1/users/{user_id}/rewards", id="rewards"),
        pytest.param(
            lambda client: client.user_purchases(USER), "/users/{user_id}/purchases", id="purchases"
        ),
    ],
)
async def test_the_template_has_a_name_for_the_user(
    call: Callable[[CrowdTwistClient], Awaitable[Any]], template: str, told: Told
) -> None:
    """And what is sent is like it."""
    transport = ScriptedTransport(status(404))
    async with client_of(transport=transport) as client:
        with pytest.raises(CrowdTwistError):
            await call(client)

    [span] = told.spans()
    [request] = transport.requests
    assert template == attributes_of(span)["url.template"]
    assert template == request.path.replace(USER, "{user_id}")


@pytest.mark.parametrize(("page", "expected"), [(None, 1), (0, 0), (3, 3)])
async def test_a_page_has_its_number(page: int | None, expected: int, told: Told) -> None:
    """The one that the server takes the call for."""
    async with client_of(status(200, b'{"purchases": [], "paging": {}}')) as client:
        await client.user_purchases(USER, page=page)
    assert [expected] == [attributes_of(span)["crowdtwist.page"] for span in told.spans()]


async def test_retries_are_events_and_counted(told: Told) -> None:
    """Each attempt is in the metrics, and each retry an event of the one span."""
    async with client_of(RESET, status(503), OK) as client:
        await client.points_awaiting_fulfillment(7)

    [span] = told.spans()
    assert (3, 2, 200) == tuple(
        attributes_of(span)[name]
        for name in ("crowdtwist.attempts", "http.request.resend_count", "http.response.status_code")
    )
    assert "error.type" not in attributes_of(span)
    assert [
        {"crowdtwist.attempt": 1, "crowdtwist.delay": 0.0, "error.type": "ConnectionFailedError"},
        {
            "crowdtwist.attempt": 2,
            "crowdtwist.delay": 0.0,
            "error.type": "ServerError",
            "http.response.status_code": 503,
        },
    ] == [dict(event.attributes or {}) for event in span.events]
    assert {"crowdtwist.retry"} == {event.name for event in span.events}
    kinds = {(None, "ConnectionFailedError"): 1, ("5xx", "ServerError"): 1, ("2xx", None): 1}
    assert kinds == told.values("crowdtwist.client.requests", "crowdtwist.status_class", "error.type")
    codes = {(None, "ConnectionFailedError"): 1, (503, "ServerError"): 1, (200, None): 1}
    assert codes == told.values("http.client.request.duration", "http.response.status_code", "error.type")
    assert {("ConnectionFailedError",): 1, ("ServerError",): 1} == told.values(
        "crowdtwist.client.retries", "error.type"
    )
    assert {(None,): 1} == told.values("crowdtwist.client.call.duration", "error.type")


async def test_an_error_is_told_by_its_type(told: Told) -> None:
    """Not by its text, which is the server's: no exception is recorded, and the status has no description."""
    said = f'{{"message": "user {USER} may not use {KEY}", "reason": "unauthorized"}}'.encode()
    async with client_of(status(401, said)) as client:
        with pytest.raises(AuthenticationError) as caught:
            await client.user_purchases(USER)

    [span] = told.spans()
    assert "AuthenticationError" == attributes_of(span)["error.type"]
    assert 401 == attributes_of(span)["http.response.status_code"]
    assert (StatusCode.ERROR, None) == (span.status.status_code, span.status.description)
    assert () == span.events
    assert {("4xx", "AuthenticationError"): 1} == told.values(
        "crowdtwist.client.requests", "crowdtwist.status_class", "error.type"
    )
    assert not names_a_member(captured_locals(caught.value))


async def test_a_reply_that_can_not_be_read_failed(told: Told) -> None:
    """Whatever its status: the type of the error is what the caller gets."""
    async with client_of(status(200, b'{"purchases": 7, "paging": {}}')) as client:
        with pytest.raises(CrowdTwistError):
            await client.user_purchases(USER)
    assert {(200, "DecodeError"): 1} == told.values(
        "http.client.request.duration", "http.response.status_code", "error.type"
    )


class Held:
    """A transport's outcome that waits until the test lets it go."""

    def __init__(self) -> None:
        self.reached = anyio.Event()
        self.free = anyio.Event()

    async def __call__(self, _: Request) -> Reply:
        self.reached.set()
        await self.free.wait()
        return OK


async def test_what_is_on_the_wire_is_counted(told: Told) -> None:
    """One while it is asked, none when it is answered."""
    held = Held()
    async with client_of(held) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.points_awaiting_fulfillment, 7)
        await held.reached.wait()
        assert {(): 1} == told.values("http.client.active_requests")
        held.free.set()
    assert {(): 0} == told.values("http.client.active_requests")


async def test_a_cancelled_call_ends_its_span(told: Told) -> None:
    """It did not succeed, and nobody failed."""
    held = Held()
    async with client_of(held) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.points_awaiting_fulfillment, 7)
        await held.reached.wait()
        tasks.cancel_scope.cancel()

    [span] = told.spans()
    assert ("cancelled", 1) == (
        attributes_of(span)["error.type"],
        attributes_of(span)["crowdtwist.attempts"],
    )
    assert StatusCode.UNSET is span.status.status_code
    assert {(): 0} == told.values("http.client.active_requests")
    assert {(None, "cancelled"): 1} == told.values(
        "crowdtwist.client.requests", "crowdtwist.status_class", "error.type"
    )


SETTINGS = make_settings(api_key=Secret(KEY), api_url="http://localhost:1", pos_url="http://localhost:1")
CALL = points_call(SETTINGS, 7, "id")
OPTIONS = Options(timeout=10.0, deadline=100.0, retry=AT_ONCE)


def waits_of(span: ReadableSpan) -> tuple[Any, ...]:
    """Seconds for slots and for permits."""
    return tuple(attributes_of(span)[f"crowdtwist.{name}.wait"] for name in ("slot", "permit"))


async def test_a_walk_may_open_an_instant_client(told: Told) -> None:
    """Such a client opens with its first request, and the walk's span has that page too."""
    clock, member = InstantClock(), member_with(ROWS)
    emulator = Emulator(members=2_000, api_key=KEY, clock=clock.now, sleep=clock.delay)
    client = instant_client(emulator, clock)
    assert ROWS == len(await client.iter_user_purchases(member).collect())
    discard(client)
    assert (PAGES, ROWS, True) == walk_attributes(check_family(told, pages=PAGES))


async def test_waits_are_told_apart(told: Told) -> None:
    """For one of the slots, and for a permit of the budget, to the second."""
    time = FakeTime()

    async def slow(_: Request) -> Reply:
        for _turn in range(20):
            await checkpoint()
        time.now += 5
        return OK

    budget = RateBudget(6, 1, clock=time.clock)
    telemetry = Telemetry(SETTINGS.pos)
    sender = Sender(
        SETTINGS,
        ScriptedTransport(slow),
        budget,
        1,
        telemetry=telemetry,
        clock=time.clock,
        sleep=time.sleep,
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sender.send, CALL, OPTIONS)
        await checkpoint()
        tasks.start_soon(sender.send, CALL, OPTIONS)
    telemetry.close()

    assert [(0.0, 0.0), (5.0, 5.0)] == [waits_of(span) for span in told.spans()]
    [slots], [permits] = (told.points(f"crowdtwist.client.{name}.wait") for name in ("slot", "permit"))
    assert [(2, 5.0)] * 2 == [(point.count, point.sum) for point in (slots, permits)]


@pytest.mark.parametrize("cut", ["deadline", "cancel"])
@pytest.mark.parametrize("wait", ["slot", "permit"])
async def test_a_wait_that_was_cut_off_is_told(wait: str, cut: str, told: Told) -> None:
    """Without an attempt there is no status, and no request in the metrics."""
    held = Held()
    scarce: dict[str, Any] = {"max_in_flight": 1} if wait == "slot" else {"budget": RateBudget(1, 1)}
    async with client_of(held, **scarce) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.points_awaiting_fulfillment, 7)
        await held.reached.wait()
        if cut == "deadline":
            with pytest.raises(DeadlineExceededError):
                await client.with_options(deadline=0.01).points_awaiting_fulfillment(7)
        else:
            with anyio.move_on_after(0.01):
                await client.points_awaiting_fulfillment(7)
        [span] = told.spans()
        assert {} == told.values("crowdtwist.client.requests")
        held.free.set()

    attributes = attributes_of(span)
    assert ("DeadlineExceededError" if cut == "deadline" else "cancelled") == attributes["error.type"]
    assert 0 == attributes["crowdtwist.attempts"]
    assert {wait} == {name for name in ("slot", "permit") if attributes[f"crowdtwist.{name}.wait"]}
    assert set() == {"http.request.resend_count", "http.response.status_code"} & attributes.keys()


async def test_an_attempt_that_the_deadline_ends_has_no_status(told: Told) -> None:
    """Neither that of the attempt before it."""
    time = FakeTime()

    async def late(_: Request) -> Reply:
        time.now += 0.185
        return status(503)

    telemetry = Telemetry(SETTINGS.pos)
    transport = ScriptedTransport(late, Held())
    sender = Sender(SETTINGS, transport, RateBudget(math.inf), 1, telemetry=telemetry, clock=time.clock)
    with pytest.raises(DeadlineExceededError):
        await sender.send(CALL, Options(0.2, 0.2, RetryPolicy(initial=0)))
    telemetry.close()

    [span] = told.spans()
    assert ("DeadlineExceededError", 2) == tuple(
        attributes_of(span)[name] for name in ("error.type", "crowdtwist.attempts")
    )
    assert "http.response.status_code" not in attributes_of(span)
    assert {("5xx", "ServerError"): 1, (None, "DeadlineExceededError"): 1} == told.values(
        "crowdtwist.client.requests", "crowdtwist.status_class", "error.type"
    )


async def test_the_quota_is_that_of_all_open_clients(told: Told) -> None:
    """A retry takes 14 tokens and an answer gives them back; a client that closes takes its own along."""
    async with client_of() as client:
        await client.points_awaiting_fulfillment(7)
        async with client_of(RESET, status(302)) as other:
            with pytest.raises(CrowdTwistError):
                await other.points_awaiting_fulfillment(7)
            left = told.values("crowdtwist.client.retry_quota", "server.address")
        assert {("api201.crowdtwist.com",): 500} == told.values(
            "crowdtwist.client.retry_quota", "server.address"
        )
    assert {("api201.crowdtwist.com",): 986} == left
    assert {} == told.values("crowdtwist.client.retry_quota")


async def test_every_metric_has_its_unit(told: Told) -> None:
    """And the histograms have boundaries for seconds."""
    async with client_of(RESET, OK) as client:
        await client.points_awaiting_fulfillment(7)
        found = told.metrics()

    assert EVERY_METRIC == {metric.name: metric.unit for metric in found}
    bounds = {
        metric.name: point.explicit_bounds
        for metric in found
        for point in metric.data.data_points
        if hasattr(point, "explicit_bounds")
    }
    assert {0.005} == {bound[0] for bound in bounds.values()}
    assert 10.0 == bounds["http.client.request.duration"][-1]
    assert 120.0 == bounds["crowdtwist.client.call.duration"][-1]


async def test_a_walk_is_the_parent_of_its_pages(told: Told) -> None:
    """It begins where the caller stands, and is never the current span itself."""
    emulator, user = emulator_with(ROWS)
    tracer = told.tracers.get_tracer("the application")
    async with emulator.client() as client:
        with tracer.start_as_current_span("request") as mine:
            async for _ in client.iter_user_purchases(user):
                assert mine is trace.get_current_span()
            assert mine is trace.get_current_span()

    walk = check_family(told, PAGES)
    assert (PAGES, ROWS, True) == walk_attributes(walk)
    assert SpanKind.INTERNAL is walk.kind
    assert mine.get_span_context().span_id == parent_of(walk)
    assert StatusCode.UNSET is walk.status.status_code
    assert {
        "crowdtwist.endpoint": "user_purchases",
        "server.address": "localhost",
        "server.port": 80,
    } == {name: value for name, value in attributes_of(walk).items() if ".walk." not in name}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"max_items": 12}, (2, 12, True), id="max-items"),
        pytest.param({"max_items": 20}, (2, 20, True), id="max-items-at-the-end-of-a-page"),
        pytest.param({"reverse": True}, (PAGES, ROWS, True), id="backward"),
        pytest.param({"start_page": 3}, (2, 15, True), id="from-a-page"),
    ],
)
async def test_a_walk_counts_what_it_gives(
    options: dict[str, Any], expected: tuple[Any, ...], told: Told
) -> None:
    """Pages and items as the caller gets them, whatever is asked on the way."""
    emulator, user = emulator_with(ROWS)
    async with emulator.client() as client:
        items = await client.iter_user_purchases(user, **options).collect()
    assert expected[1] == len(items)
    assert expected == walk_attributes(check_family(told))


async def test_a_walk_with_a_cursor_counts_the_rest(told: Told) -> None:
    """The rows before it on its page are not given again."""
    emulator, user = emulator_with(ROWS)
    async with emulator.client() as client:
        pager = client.iter_user_purchases(user, max_items=13)
        await pager.collect()
        await client.iter_user_purchases(user, cursor=pager.cursor).collect()
    assert [(2, 13, True), (3, ROWS - 13, True)] == [
        walk_attributes(span) for span in told.spans("iter_user_purchases")
    ]


async def leave_items(client: CrowdTwistClient, user: str) -> None:
    async for _ in client.iter_user_purchases(user):
        break


async def take_first(client: CrowdTwistClient, user: str) -> None:
    await client.iter_user_purchases(user).first()


async def leave_prefetch(client: CrowdTwistClient, user: str) -> None:
    async with client.iter_user_purchases(user).prefetch(3) as items:
        async for _ in items:
            break


async def drop_iterator(client: CrowdTwistClient, user: str) -> None:
    iterator: Any = aiter(client.iter_user_purchases(user))
    await anext(iterator)
    cycle = [iterator]
    cycle.append(cycle)
    del iterator, cycle
    gc.collect()


async def close_generator(client: CrowdTwistClient, user: str) -> None:
    """Close a generator of the caller's in another task than it was begun in."""

    async def of_my_own() -> Any:
        async for item in client.iter_user_purchases(user):
            yield item

    generator = of_my_own()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anext, generator)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(generator.aclose)


@pytest.mark.parametrize(
    "leave",
    [leave_items, take_first, leave_prefetch, drop_iterator, close_generator],
    ids=lambda leave: leave.__name__,
)
async def test_a_walk_that_is_left_ends(
    leave: Callable[[CrowdTwistClient, str], Awaitable[None]], told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    """By a break, by closing, or when nobody holds it any more; that is no error."""
    emulator, user = emulator_with(ROWS)
    async with emulator.client() as client:
        await leave(client, user)
        gc.collect()
        [walk] = told.spans("iter_user_purchases")

    assert (1, 1, False) == walk_attributes(walk)
    assert "error.type" not in attributes_of(walk)
    assert id_of(walk) == id_of(check_family(told))
    assert [] == [record for record in caplog.records if record.name.startswith("opentelemetry")]


async def test_a_prefetch_is_left_though_its_items_are_kept(told: Told) -> None:
    """What is under way ends as cancelled, below the same walk."""
    emulator, user = emulator_with(ROWS)
    async with emulator.client() as client:
        async with client.iter_user_purchases(user).prefetch(2) as items:
            async for _ in items:
                break
        assert items.total == ROWS
        [walk] = told.spans("iter_user_purchases")
    assert (1, 1, False) == walk_attributes(walk)
    check_family(told)


@pytest.mark.parametrize("ahead", [1, 3])
async def test_collecting_is_one_walk(ahead: int, told: Told) -> None:
    """Also with pages fetched ahead, in tasks of their own."""
    emulator, user = emulator_with(ROWS)
    async with emulator.client() as client:
        assert ROWS == len(await client.iter_user_purchases(user).collect(prefetch=ahead))
    assert (PAGES, ROWS, True) == walk_attributes(check_family(told, PAGES))


async def test_a_second_loop_over_a_prefetch_begins_no_walk(told: Told) -> None:
    """There is nothing left to walk."""
    emulator, user = emulator_with(ROWS)
    async with emulator.client() as client:
        async with client.iter_user_purchases(user).prefetch(2) as items:
            assert ROWS == len([item async for item in items])
            assert [] == [item async for item in items]
    assert (PAGES, ROWS, True) == walk_attributes(check_family(told, PAGES))


async def test_a_walk_that_fails_goes_on_as_another(told: Told) -> None:
    """Each ends with what came of it; together they have every row."""
    emulator, user = emulator_with(ROWS)
    emulator.script(None, Fault.status(500))
    rows = 0
    async with emulator.client(retry=RetryPolicy(max_attempts=1)) as client:
        iterator = aiter(client.iter_user_purchases(user))
        try:
            while True:
                await anext(iterator)
                rows += 1
        except ServerError:
            assert 10 == rows
        async for _ in iterator:
            rows += 1

    failed, rest = told.spans("iter_user_purchases")
    assert ROWS == rows
    assert [(1, 10, False), (3, ROWS - 10, True)] == [walk_attributes(failed), walk_attributes(rest)]
    assert (StatusCode.ERROR, "ServerError") == (
        failed.status.status_code,
        attributes_of(failed)["error.type"],
    )
    assert "error.type" not in attributes_of(rest)


async def test_an_error_of_the_walk_itself_is_told(told: Told) -> None:
    """No call failed, but the links lead in a circle."""
    emulator, user = emulator_with(ROWS)
    emulator.script(Fault.rewrite(lambda body: {**body, "paging": {"next_page": "?page=9", "pages": 4}}))
    async with emulator.client() as client:
        with pytest.raises(PaginationLoopError):
            await client.iter_user_purchases(user).collect()
    walk = check_family(told, 1)
    assert "PaginationLoopError" == attributes_of(walk)["error.type"]
    assert (1, 10, False) == walk_attributes(walk)


async def test_a_cancelled_walk_ends_its_span(told: Told) -> None:
    """With its call."""
    held = Held()

    async def walk(client: CrowdTwistClient) -> None:
        await client.iter_user_purchases(USER).collect(prefetch=2)

    async with client_of(held) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(walk, client)
        await held.reached.wait()
        tasks.cancel_scope.cancel()
    walked = check_family(told, 1)
    assert "cancelled" == attributes_of(walked)["error.type"]
    assert StatusCode.UNSET is walked.status.status_code


async def test_a_fan_out_has_a_walk_for_each_key(told: Told) -> None:
    """All of them belong to where the fan-out was begun, and each has its own pages."""
    emulator, user = emulator_with(ROWS)
    tracer = told.tracers.get_tracer("the application")
    async with emulator.client() as client:
        with tracer.start_as_current_span("request") as mine:
            async with client.fan_out(client.iter_user_purchases, [user] * 5, concurrency=3) as outcomes:
                assert [ROWS] * 5 == [len(outcome.unwrap()) async for outcome in outcomes]

    walks = told.spans("iter_user_purchases")
    assert [(PAGES, ROWS, True)] * 5 == [walk_attributes(walk) for walk in walks]
    assert {mine.get_span_context().span_id} == {parent_of(walk) for walk in walks}
    parents = [parent_of(call) for call in told.spans("user_purchases")]
    assert {id_of(walk): PAGES for walk in walks} == {parent: parents.count(parent) for parent in parents}


async def test_an_export_has_a_walk_for_each_member(told: Told, tmp_path: Path) -> None:
    """And no id of them is anywhere."""
    emulator = Emulator(members=12, api_key=KEY)
    members = list(emulator.member_ids())
    async with emulator.client() as client:
        report = await export(client, "purchases", members, tmp_path / "out.jsonl")

    walks = told.spans("iter_user_purchases")
    assert len(members) == len(walks)
    assert report.requests == sum(walk_attributes(walk)[0] for walk in walks)
    assert {id_of(walk) for walk in walks} == {parent_of(call) for call in told.spans("user_purchases")}
    assert {True} == {walk_attributes(walk)[2] for walk in walks}
    everything = told.everything()
    assert [] == [member for member in members if f'"{member}' in everything]


@pytest.mark.parametrize("id_type", MEMBERS)
async def test_nothing_says_who_or_with_which_key(id_type: CommonIdTypeText, told: Told) -> None:
    """Whatever a server echoes, in its links, its errors and its headers; the fixture searches it all."""
    member = MEMBERS[id_type]
    echoed = f'{{"message": "{member} {KEY}", "reason": "internal_error", "status": "{member}"}}'.encode()
    link = f"https://api201.crowdtwist.com/users/{member}?api_key={KEY}&id_type={id_type}&page=1"
    looping = f'{{"purchases": [], "rewards": [], "paging": {{"next_page": "{link}", "total": 9}}}}'.encode()
    failed = reply(echoed, "500 No", [f"X-User: {member}", "Content-Type: application/json"])
    acts = (failed, raw(b"nonsense", close=True), reply(looping), failed)
    with WireServer(*acts) as server:
        async with CrowdTwistClient(
            api_key=KEY, api_url=server.url, pos_url=server.url, retry=RetryPolicy(max_attempts=3, initial=0)
        ) as client:
            failures = []
            for call in (
                client.user_rewards(member, id_type=id_type),
                client.points_awaiting_fulfillment(member, id_type=id_type),
                client.iter_user_purchases(member, id_type=id_type).collect(),
                client.iter_user_rewards(member, id_type=id_type).collect(prefetch=2),
            ):
                try:
                    await call
                except CrowdTwistError as error:
                    failures.append(error)

    assert 3 == len(failures)
    assert 5 < sum(len(span.events) for span in told.spans())
    assert [] == [error for error in failures if names_a_member(captured_locals(error))]


async def test_instrumented_libraries_add_no_span(told: Told, anyio_backend_name: str) -> None:
    """A request has one span, the package's own; the libraries would tell its URL."""
    libraries: list[Any] = [HTTPXClientInstrumentor(), AioHttpClientInstrumentor()]
    for library in libraries:
        library.instrument(tracer_provider=told.tracers, meter_provider=told.meters)
    try:
        with WireServer(reply(PAGE)) as server:
            urls: dict[str, Any] = {"api_key": KEY, "api_url": server.url, "pos_url": server.url}
            async with httpx.AsyncClient() as injected:
                transports: list[dict[str, Any]] = [{}, {"http_client": injected}]
                if anyio_backend_name == "asyncio":
                    transports.append({"transport": AiohttpTransport()})
                for transport in transports:
                    async with CrowdTwistClient(**urls, **transport) as client:
                        await client.user_rewards(USER)
        assert ["user_rewards"] * len(transports) == [span.name for span in told.spans()]
        assert EVERY_METRIC.keys() >= {metric.name for metric in told.metrics()}
    finally:
        for library in libraries:
            library.uninstrument()


async def test_nothing_is_told_where_the_program_suppresses_it(told: Told) -> None:
    """As the instrumentations of others do."""
    emulator, user = emulator_with(ROWS)
    async with emulator.client() as client:
        with suppress_instrumentation():
            assert ROWS == len(await client.iter_user_purchases(user).collect())
    assert [] == told.spans()
    assert {} == told.values("crowdtwist.client.requests")


async def test_metrics_do_not_depend_on_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace that is not recorded has no spans; its requests count all the same."""
    emulator, user = emulator_with(ROWS)
    with telling(monkeypatch, ALWAYS_OFF) as told:
        async with emulator.client() as client:
            await client.iter_user_purchases(user).collect()
        assert [] == told.spans()
        assert {("2xx",): PAGES} == told.values("crowdtwist.client.requests", "crowdtwist.status_class")


async def test_without_an_sdk_calls_are_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API alone records nothing."""
    monkeypatch.setattr(trace, "get_tracer_provider", NoOpTracerProvider)
    monkeypatch.setattr(metrics, "get_meter_provider", NoOpMeterProvider)
    emulator, user = emulator_with(ROWS)
    emulator.script(Fault.status(503))
    async with emulator.client(retry=AT_ONCE) as client:
        assert ROWS == len(await client.iter_user_purchases(user).collect())


async def test_an_api_that_is_too_old_costs_the_spans_alone(
    told: Told, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The program is told, and its calls work."""
    monkeypatch.delattr("opentelemetry.trace.SpanKind")
    monkeypatch.delitem(sys.modules, "crowdtwist_async._telemetry")
    async with client_of() as client:
        await client.points_awaiting_fulfillment(7)
    assert [] == told.spans()
    assert [("crowdtwist_async", logging.WARNING)] == [
        (record.name, record.levelno) for record in caplog.records if "opentelemetry-api" in record.message
    ]


@pytest.mark.parametrize("loaded", [(), ("opentelemetry.context",)], ids=["nothing", "the-context-alone"])
async def test_a_program_that_does_not_use_it_gets_nothing(
    loaded: tuple[str, ...], told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What decides is whether the program has imported the API when it enters the client."""
    for name in [name for name in sys.modules if name.startswith("opentelemetry") and name not in loaded]:
        monkeypatch.delitem(sys.modules, name)
    async with client_of() as client:
        await client.points_awaiting_fulfillment(7)
    assert [] == told.spans()


PROGRAM = """
import asyncio, sys
{before}
from crowdtwist_async.emulator import Emulator

async def main():
    emulator = Emulator(members=3)
    async with emulator.client() as client:
        {inside}
        await client.iter_user_purchases("10000001").collect()

asyncio.run(main())
{after}
"""
BLOCKED = """
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
"""
LATE = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter, reader, provider = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
"""
SET = "trace.set_tracer_provider(provider); metrics.set_meter_provider(MeterProvider([reader]))"
SPANS = "print(sorted({span.name for span in exporter.get_finished_spans()}))"
FORKED = """
import os

def told():
    found = reader.get_metrics_data()
    print(found is not None and "retry_quota" in found.to_json(), flush=True)

def fork():
    child = os.fork()
    if not child:
        told()
        os._exit(0)
    os.waitpid(child, 0)
    told()
"""
COUNTED = "[r] = reader.get_metrics_data().resource_metrics; print(len(r.scope_metrics[0].metrics))"


@pytest.mark.parametrize(
    ("before", "inside", "after", "printed"),
    [
        pytest.param(BLOCKED, "", "", "", id="not-installed"),
        pytest.param(
            "",
            "",
            "print([name for name in sys.modules if 'opentelemetry' in name])",
            "[]",
            id="not-imported",
        ),
        pytest.param(
            LATE,
            SET,
            f"{SPANS}\n{COUNTED}",
            "['iter_user_purchases', 'user_purchases']\n6",
            id="providers-set-while-it-is-open",
        ),
        pytest.param(f"{LATE}{SET}{FORKED}", "fork()", "", "False\nTrue", id="no-quota-in-a-forked-child"),
    ],
)
def test_whole_programs(before: str, inside: str, after: str, printed: str) -> None:
    """Without OpenTelemetry, without a use for it, with providers that come late, and forked."""
    program = PROGRAM.format(before=before, inside=inside, after=after)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120
    )
    assert (printed, "") == (done.stdout.strip(), done.stderr)
