"""
Every fault of the network on real sockets: its documented error, in time, and nothing left behind.
"""

from __future__ import annotations

import gc
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
import trustme
from carriers import Carrier, open_client, over_our_own
from wire import Act, Exchange, WireServer, hang, open_sockets, raw, reply

from crowdtwist_async import (
    ConnectionFailedError,
    CrowdTwistError,
    DeadlineExceededError,
    RequestTimeoutError,
    ResponseTooLargeError,
    RetryPolicy,
)

pytestmark = pytest.mark.anyio

DEADLINE = 0.3
GRACE = 0.1
"""Seconds by which a deadline may be overrun."""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"
REWARDS = reply(b'{"rewards": [], "paging": {}}')


@contextmanager
def black_hole() -> Iterator[str]:
    """An address on which nobody is refused, and nobody is let in: its line is full."""
    with ExitStack() as opened, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def silent_tls() -> Iterator[str]:
    """A server that takes connections and never says a word of TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def refusing() -> Iterator[str]:
    """A port where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def acting(act: Act) -> Iterator[str]:
    """A server with one act."""
    with WireServer(act) as server:
        yield server.url


def flood(head: bytes, chunk: bytes) -> Act:
    """Send a head, and then the same again and again until the other side is gone."""

    def act(exchange: Exchange) -> None:
        exchange.connection.settimeout(0.02)
        exchange.send(head)
        while not exchange.stopping.is_set():
            with suppress(TimeoutError):
                exchange.send(chunk)

    return act


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of the tests' own."""
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The server's side of TLS, which the environment lets the client trust."""
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


Open = Callable[[], Any]
SLOW: dict[str, tuple[Open, str]] = {
    "black-holed connect": (black_hole, "connect"),
    "stalled TLS": (silent_tls, "connect"),
    "no head": (lambda: acting(hang()), "response"),
    "dripping head": (lambda: acting(raw(b"HTTP/1.1 200 OK\r\nX: ", *[b"x"] * 999, pause=0.02)), "response"),
    "dripping 1xx": (lambda: acting(raw(*[b"HTTP/1.1 103 Hints\r\n\r\n"] * 999, pause=0.02)), "response"),
    "head alone": (lambda: acting(hang(HEAD)), "body"),
    "dripping body": (lambda: acting(raw(HEAD, *[b"{"] * 999, pause=0.02)), "body"),
    "dripping chunks": (
        lambda: acting(
            raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1\r\n{\r\n"] * 999, pause=0.02)
        ),
        "body",
    ),
}
QUICK: dict[str, tuple[Open, type[CrowdTwistError], int]] = {
    "refused": (refusing, ConnectionFailedError, 4),
    "reset": (lambda: acting(raw(reset=True)), ConnectionFailedError, 4),
    "closed": (lambda: acting(raw(close=True)), ConnectionFailedError, 4),
    "reset in the body": (lambda: acting(raw(HEAD, b"{", reset=True)), ConnectionFailedError, 4),
    "cut body": (lambda: acting(raw(HEAD, b"{", close=True)), ConnectionFailedError, 4),
}


FLOODS: dict[str, tuple[Act, type[CrowdTwistError]]] = {
    "endless 1xx": (flood(b"", b"HTTP/1.1 103 Hints\r\n\r\n" * 20), DeadlineExceededError),
    "endless head": (flood(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 500), ConnectionFailedError),
    "endless body": (flood(b"HTTP/1.1 200 OK\r\n\r\n", b"[" * 65536), ResponseTooLargeError),
}


class Ended(NamedTuple):
    """How a call ended."""

    error: type[CrowdTwistError]
    said: str | int | None
    in_time: bool


def alive() -> tuple[int, list[str]]:
    """How many sockets are open, and what the tasks of the event loop run."""
    tasks = anyio.get_running_tasks()
    return open_sockets(), sorted(f"{task.name}: {task.coro}" for task in tasks)


class Lateness:
    """How long the event loop could not run because the machine was busy: no call can help that."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._due = anyio.current_time()

    @property
    def seconds(self) -> float:
        """All delays that a quiet machine does not have, up to now."""
        late = anyio.current_time() - self._due
        return self._seconds + (late if late > 0.01 else 0.0)

    async def watch(self) -> None:
        """Add them up."""
        while True:
            self._due = anyio.current_time() + 0.005
            await anyio.sleep_until(self._due)
            self._seconds = self.seconds


async def fail(carrier: Carrier, url: str, said: Callable[[Any], Any], **options: Any) -> Ended:
    """Make a call that fails; return its error, what matters of it, and whether it came in time."""
    defaults: dict[str, Any] = {"timeout": 10.0, "deadline": DEADLINE, "retry": RetryPolicy(initial=0)}
    settings = defaults | options
    async with open_client(carrier, url, max_body_bytes=1024 * 1024, **settings) as client:
        lateness = Lateness()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lateness.watch)
            started = anyio.current_time()
            with pytest.raises(CrowdTwistError) as caught:
                await client.points_awaiting_fulfillment("7")
            elapsed = anyio.current_time() - started
            in_time = elapsed <= settings["deadline"] + GRACE + lateness.seconds
            tasks.cancel_scope.cancel()
    return Ended(type(caught.value), said(caught.value), in_time)


async def fail_in_all(
    carrier: Carrier, faults: Mapping[str, tuple[Any, ...]], said: Callable[[Any], Any], **options: Any
) -> dict[str, Ended]:
    """Meet all faults at once, each with a client of its own."""
    ended: dict[str, Ended] = {}

    async def meet(fault: str, url: str) -> None:
        ended[fault] = await fail(carrier, url, said, **options)

    before = alive()
    with ExitStack() as servers:
        urls = {fault: servers.enter_context(open_fault()) for fault, (open_fault, *_) in faults.items()}
        async with anyio.create_task_group() as tasks:
            for fault, url in urls.items():
                tasks.start_soon(meet, fault, url)
    await anyio.wait_all_tasks_blocked()
    gc.collect()
    assert before == alive()
    return ended


def phase_of(error: CrowdTwistError) -> str:
    """The phase that an error names."""
    return str(error).partition("(phase: ")[2].partition(")")[0]


@over_our_own
@pytest.mark.usefixtures("tls")
async def test_no_slow_fault_outlasts_the_deadline(carrier: Carrier) -> None:
    """Whatever drips or hangs, the call ends with its deadline and says in which phase it was."""
    expected = {fault: Ended(DeadlineExceededError, phase, True) for fault, (_, phase) in SLOW.items()}
    assert expected == await fail_in_all(carrier, SLOW, phase_of)


@over_our_own
@pytest.mark.usefixtures("tls")
async def test_slow_faults_are_tried_again_within_the_deadline(carrier: Carrier) -> None:
    """With a timeout below the deadline there are several attempts; the last error is the real one."""

    def last_phase(error: CrowdTwistError) -> str:
        last = error.last_error if isinstance(error, DeadlineExceededError) else error
        assert isinstance(last, RequestTimeoutError)
        assert (error.attempts or 0) > 1
        return str(last.phase)

    ended = await fail_in_all(carrier, SLOW, last_phase, timeout=0.3, deadline=1.0)
    assert {fault: (phase, True) for fault, (_, phase) in SLOW.items()} == {
        fault: (each.said, each.in_time) for fault, each in ended.items()
    }


@over_our_own
async def test_quick_faults_are_their_documented_errors(carrier: Carrier) -> None:
    """What may pass is tried four times, and the last attempt's error is raised."""
    expected = {fault: Ended(kind, attempts, True) for fault, (_, kind, attempts) in QUICK.items()}
    assert expected == await fail_in_all(carrier, QUICK, lambda error: error.attempts, deadline=3)


@over_our_own
@pytest.mark.parametrize("flood", FLOODS)
async def test_no_flood_outlasts_the_deadline(carrier: Carrier, flood: str) -> None:
    """A server that never stops sending is left at a limit, or with the deadline."""
    before = open_sockets()
    act, kind = FLOODS[flood]
    with acting(act) as url:
        ended = await fail(carrier, url, lambda error: error.host)
    assert Ended(kind, url.removeprefix("http://"), True) == ended
    assert before == open_sockets()


@over_our_own
@pytest.mark.usefixtures("tls")
async def test_reading_the_certificates_counts_as_connecting(
    carrier: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt whose time is over before it has a connection does not claim to wait for a reply."""

    def slow_context() -> ssl.SSLContext:
        time.sleep(0.05)
        return ssl.create_default_context()

    monkeypatch.setattr("crowdtwist_async.transports._environment.tls_context", slow_context)
    with silent_tls() as url:
        ended = await fail(
            carrier, url, lambda error: error.phase, timeout=0.02, retry=RetryPolicy(max_attempts=1)
        )
    assert Ended(RequestTimeoutError, "connect", True) == ended


@over_our_own
async def test_certificates_that_never_come_pass_no_deadline(
    carrier: Carrier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that reads them is left behind; the next call has another."""
    fifo = tmp_path / "ca.pem"
    os.mkfifo(fifo)
    monkeypatch.setenv("SSL_CERT_FILE", str(fifo))
    try:
        with silent_tls() as url, anyio.fail_after(30):
            ended = await fail(
                carrier, url, lambda error: error.phase, timeout=0.05, retry=RetryPolicy(max_attempts=1)
            )
        assert Ended(RequestTimeoutError, "connect", True) == ended
    finally:
        # Whoever reads from it finds its end.
        os.close(os.open(fifo, os.O_RDWR))


@over_our_own
@pytest.mark.usefixtures("tls")
@pytest.mark.parametrize("fault", ["black-holed connect", "stalled TLS", "no head", "dripping body"])
async def test_a_cancelled_call_leaves_a_slow_fault_at_once(carrier: Carrier, fault: str) -> None:
    """Cancelling takes at most 100 ms, in whichever phase, and leaves no socket."""
    before = open_sockets()
    with SLOW[fault][0]() as url:
        async with open_client(carrier, url, retry=RetryPolicy()) as client:
            lateness = Lateness()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lateness.watch)
                with anyio.move_on_after(0.05) as scope:
                    await client.points_awaiting_fulfillment("7")
                in_time = anyio.current_time() - scope.deadline <= GRACE + lateness.seconds
                tasks.cancel_scope.cancel()
    assert (True, True) == (scope.cancelled_caught, in_time)
    assert before == open_sockets()


@over_our_own
async def test_a_hundred_refused_calls_leave_nothing(
    carrier: Carrier, caplog: pytest.LogCaptureFixture
) -> None:
    """Failed calls pile up neither sockets nor tasks."""
    caplog.set_level("CRITICAL", "httpcore")
    before = alive()
    with refusing() as url:
        async with open_client(carrier, url, retry=RetryPolicy()) as client:

            async def call() -> None:
                for _ in range(10):
                    with pytest.raises(ConnectionFailedError):
                        await client.with_options(retry=RetryPolicy(initial=0)).user_rewards("7")

            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(call)
    assert before == alive()


@over_our_own
async def test_alternating_between_the_hosts_takes_one_handshake_each(
    carrier: Carrier, tls: ssl.SSLContext
) -> None:
    """Twenty calls in turn to the two hosts are two connections, counted by the servers."""
    with WireServer(tls=tls) as pos, WireServer(REWARDS, tls=tls) as api:
        async with open_client(carrier, pos.url, api_url=api.url) as client:
            for _ in range(10):
                await client.points_awaiting_fulfillment("7")
                await client.user_rewards("7")
        assert (1, 1) == (pos.connections, api.connections)
        assert (10, 10) == (len(pos.heads), len(api.heads))


@over_our_own
async def test_tls_that_breaks_off_in_the_handshake_is_tried_again(
    carrier: Carrier, tls: ssl.SSLContext
) -> None:
    """A connection that ends before TLS is there fails like any other that is cut."""
    before = open_sockets()
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.setblocking(False)
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"

        async def hang_up() -> None:
            while True:
                with suppress(BlockingIOError):
                    listener.accept()[0].close()
                await anyio.sleep(0.001)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hang_up)
            ended = await fail(carrier, url, lambda error: error.attempts, deadline=5)
            tasks.cancel_scope.cancel()
    assert (ConnectionFailedError, 4) == ended[:2]
    assert before == open_sockets()
