"""
The emulator in process, on asyncio and on trio.
"""

from __future__ import annotations

import json

import anyio
import pytest

from crowdtwist_async._secrets import Secret
from crowdtwist_async.emulator import Emulator, Fault
from crowdtwist_async.emulator.calls import Receive, Scope, Send
from crowdtwist_async.emulator.transport import EmulatorTransport
from crowdtwist_async.errors import ConnectionFailedError
from crowdtwist_async.transports import Reply, Request, Transport


def rewards(user: str = "10000000", query: str = "page_size=2") -> Request:
    """A request for rewards, made for one attempt."""
    return Request(
        endpoint="user_rewards",
        origin="http://localhost:8777",
        path=f"/v2.1/users/{user}/rewards",
        query=query,
        secret_query=Secret("api_key=emulator-key"),
    )


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_reply_is_what_the_app_sent(backend: str) -> None:
    """Status, headers by lower-case name, and the body; the request's own origin is in the links."""
    transport: Transport = Emulator().transport()
    request = rewards()

    got = anyio.run(transport.send, request, backend=backend)

    assert isinstance(got, Reply)
    body = json.loads(got.body)
    assert (200, "application/json", 2) == (got.status, got.headers["content-type"], len(body["rewards"]))
    assert str(len(got.body)) == got.headers["content-length"]
    assert body["paging"]["next_page"].startswith("http://localhost:8777/v2.1/users/10000000/rewards?")
    assert request.phase == "body"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("phase", "fault"),
    [
        pytest.param("response", Fault.reset(), id="reset"),
        pytest.param("body", Fault.truncate(), id="truncate"),
    ],
)
def test_a_lost_connection_is_a_value(backend: str, phase: str, fault: Fault) -> None:
    """No attempt raises, and the phase tells how far it came."""
    request = rewards()

    got = anyio.run(Emulator(faults=[fault]).transport().send, request, backend=backend)

    assert isinstance(got, ConnectionFailedError)
    assert phase == request.phase


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("phase", "fault"),
    [
        pytest.param("response", Fault.delay(30.0), id="before the head"),
        pytest.param("body", Fault.stall(30.0), id="within the body"),
    ],
)
def test_a_delayed_request_can_be_given_up(backend: str, phase: str, fault: Fault) -> None:
    """Cancelling ends the pause, and the phase tells what the request was waiting for."""
    request = rewards()

    async def give_up() -> None:
        async def pause(seconds: float) -> None:
            tasks.cancel_scope.cancel()
            await anyio.sleep(seconds)

        transport = Emulator(faults=[fault], sleep=pause).transport()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.send, request)

    anyio.run(give_up, backend=backend)

    assert phase == request.phase


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_requests_let_other_tasks_run(backend: str) -> None:
    """Many requests at once take turns, although none of them has to wait."""
    order: list[int] = []

    async def ask(transport: Transport, caller: int) -> None:
        for _ in range(3):
            await transport.send(rewards())
            order.append(caller)

    async def main() -> None:
        transport = Emulator().transport()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, transport, 1)
            tasks.start_soon(ask, transport, 2)
        await transport.aclose()

    anyio.run(main, backend=backend)

    assert [{1, 2}, {1, 2}, {1, 2}] == [set(order[:2]), set(order[2:4]), set(order[4:])]


def test_closing_does_not_end_it() -> None:
    """Nothing is open that could be closed."""

    async def main() -> int:
        transport = Emulator().transport()
        await transport.aclose()
        got = await transport.send(rewards())
        assert isinstance(got, Reply)
        return got.status

    assert 200 == anyio.run(main)


def test_an_app_that_reads_the_request_gets_no_body() -> None:
    """The transport serves any ASGI app, such as one that wraps the emulator."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": repr(message["body"]).encode()})

    got = anyio.run(EmulatorTransport(app).send, rewards())

    assert isinstance(got, Reply)
    assert (200, {}, b"b''") == (got.status, got.headers, got.body)


def test_repr_holds_no_key() -> None:
    """The transport knows the app, and the app knows the key."""
    assert "EmulatorTransport()" == repr(Emulator(api_key="canary").transport())
