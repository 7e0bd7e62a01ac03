"""
The emulator on a socket: the same answers, and connections that really break.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import anyio
import httpx
import pytest

from crowdtwist_async.emulator import Emulator, Fault
from crowdtwist_async.emulator import server as server_module
from crowdtwist_async.emulator.server import EmulatorServer, serve

KEY = "canary-key"
USER = "10000001"
HEADERS = {"X-CT-Authorization": f"CTApiKey {KEY}"}
PURCHASES = f"/users/{USER}/purchases"

_emulator = Emulator(members=10, api_key=KEY)


@pytest.fixture(scope="module")
def server() -> Iterator[EmulatorServer]:
    """One server for all tests that do not stop it."""
    with EmulatorServer(_emulator) as running:
        yield running


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """The emulator behind `server`, whose script must be used up."""
    _emulator.reset_stats()
    yield _emulator
    assert () == _emulator.pending_faults


@pytest.fixture
def client(server: EmulatorServer) -> Iterator[httpx.Client]:
    """An HTTP client that knows the server and the key."""
    with httpx.Client(base_url=server.url, headers=HEADERS, trust_env=False) as opened:
        yield opened


def test_all_three_endpoints_answer(client: httpx.Client, emulator: Emulator) -> None:
    """One socket serves both hosts, and a link that it sends can be followed."""
    first = client.get(PURCHASES)

    second = client.get(first.json()["paging"]["next_page"])

    assert (10, 10) == (len(first.json()["purchases"]), len(second.json()["purchases"]))
    assert 200 == client.get(f"/v2.1/users/{USER}/rewards", params={"api_key": KEY}).status_code
    assert 200 == client.get("/fulfillment/users", params={"third_party_id": f"tp-{USER}"}).status_code
    assert 4 == emulator.stats.requests


@pytest.mark.parametrize("user", ["a%2Fb", "a%252Fb", "%E2%82%AC", "%2e%2e"])
def test_ids_survive_the_wire(client: httpx.Client, emulator: Emulator, user: str) -> None:
    """Whatever the id, the path is the endpoint's, and the user is merely unknown."""
    got = client.get(f"/users/{user}/purchases")

    assert (404, "user_not_found") == (got.status_code, got.json()["error"]["errors"][0]["reason"])


def test_head_is_refused_without_a_body(client: httpx.Client, emulator: Emulator) -> None:
    """HTTP forbids the body that the app gives it."""
    got = client.head(PURCHASES)

    assert (405, b"") == (got.status_code, got.content)


def test_reset_breaks_the_connection(client: httpx.Client, emulator: Emulator) -> None:
    """The client sees a reset, not an end, and the next request gets a new connection."""
    emulator.script(Fault.reset())

    with pytest.raises(httpx.ReadError, match="reset by peer"):
        client.get(PURCHASES)
    assert 200 == client.get(PURCHASES).status_code


def test_truncate_cuts_the_body(client: httpx.Client, emulator: Emulator) -> None:
    """The client knows how much is missing, and the next request gets a new connection."""
    whole = len(client.get(PURCHASES).content)
    emulator.script(Fault.truncate(0.25))

    with pytest.raises(httpx.RemoteProtocolError, match=rf"received {whole // 4} bytes, expected {whole}"):
        client.get(PURCHASES)
    assert 200 == client.get(PURCHASES).status_code


def test_faulty_replies_keep_the_connection(client: httpx.Client, emulator: Emulator) -> None:
    """A status is a reply like any other."""
    emulator.script(Fault.status(503, retry_after=1), Fault.not_json())

    first, second = client.get(PURCHASES), client.get(PURCHASES)

    assert (503, "1") == (first.status_code, first.headers["retry-after"])
    assert (200, "text/html") == (second.status_code, second.headers["content-type"])


def test_nothing_is_logged_about_a_request(
    client: httpx.Client, emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong, the server's loggers see neither the key nor an id."""
    caplog.set_level(logging.DEBUG)
    emulator.script(Fault.reset(), Fault.truncate())

    for _ in range(2):
        with pytest.raises(httpx.TransportError):
            client.get(PURCHASES)
    client.get(f"/v2.1/users/{USER}/rewards", params={"api_key": KEY})

    assert [] == [record for record in caplog.records if record.name.startswith(("uvicorn", "asyncio"))]


def test_a_delay_ends_with_its_client(
    server: EmulatorServer, client: httpx.Client, emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that gives up ends its own request, without a word in the logs, and no other."""
    emulator.script(Fault.delay(30.0))
    host, port = server.url.removeprefix("http://").split(":")

    with socket.create_connection((host, int(port))) as giving_up:
        giving_up.sendall(f"GET {PURCHASES} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        while emulator.pending_faults:
            time.sleep(0.001)

    assert 200 == client.get(PURCHASES).status_code
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_stopping_cuts_what_is_open(caplog: pytest.LogCaptureFixture) -> None:
    """A delayed request does not hold up the end, and no thread or socket is left."""
    threads = set(threading.enumerate())
    failed: list[type[Exception]] = []

    def ask(url: str) -> None:
        try:
            httpx.get(url + PURCHASES, headers=HEADERS, trust_env=False)
        except httpx.TransportError as error:
            failed.append(type(error))

    emulator = Emulator(api_key=KEY, faults=[Fault.delay(30.0)])
    with EmulatorServer(emulator) as running:
        asking = threading.Thread(target=ask, args=(running.url,))
        asking.start()
        while emulator.pending_faults:
            time.sleep(0.001)
    asking.join()

    assert (1, set()) == (len(failed), set(threading.enumerate()) - threads)
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]
    with pytest.raises(httpx.ConnectError):
        httpx.get(running.url, trust_env=False)


@pytest.mark.parametrize("turns", range(5))
def test_a_connection_that_comes_while_it_stops_is_cut(monkeypatch: pytest.MonkeyPatch, turns: int) -> None:
    """Whether it is not accepted, accepted or made by then: nobody waits for it, and its socket is closed."""
    shutdown = server_module._Server.shutdown

    async def late(stopping: server_module._Server, sockets: list[socket.socket] | None = None) -> None:
        client.connect_ex(address)
        for _ in range(turns):
            await asyncio.sleep(0)
        await shutdown(stopping, sockets)

    monkeypatch.setattr(server_module._Server, "shutdown", late)
    with socket.socket() as client:
        client.setblocking(False)
        running = EmulatorServer(Emulator(api_key=KEY)).__enter__()
        host, port = running.url.removeprefix("http://").split(":")
        address = host, int(port)
        leaving = threading.Thread(target=running.__exit__, args=(None, None, None))
        leaving.start()
        leaving.join(10)
        is_held_up = leaving.is_alive()
    leaving.join()
    gc.collect()  # an open socket would be warned of

    assert not is_held_up


@pytest.mark.anyio
async def test_a_cancellation_stops_it() -> None:
    """It is left as by a return: nothing answers, and no thread serves."""
    with anyio.CancelScope() as scope:
        async with EmulatorServer(Emulator(api_key=KEY)) as running:
            scope.cancel()
            await anyio.sleep_forever()

    assert not running._thread.is_alive()
    with pytest.raises(httpx.ConnectError):
        await anyio.to_thread.run_sync(functools.partial(httpx.get, running.url, trust_env=False))


@pytest.mark.asyncio
async def test_a_cancelled_task_stops_it() -> None:
    """Also where asyncio's own cancelling comes at the very end of the block."""

    async def serve_shortly() -> None:
        async with running:
            asking = asyncio.current_task()
            assert asking is not None
            asking.cancel()

    running = EmulatorServer(Emulator(api_key=KEY))
    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(serve_shortly())

    await asyncio.to_thread(running._thread.join, 5)
    assert (False, -1) == (running._thread.is_alive(), running._listener.fileno())


def test_it_is_entered_once_at_a_time() -> None:
    """The second entering is refused and leaves the first as it is; later it runs again."""
    running = EmulatorServer(Emulator(api_key=KEY))
    for _ in range(2):
        with running:
            with pytest.raises(RuntimeError, match="^the server runs already: make another EmulatorServer$"):
                running.__enter__()
            assert 200 == httpx.get(running.url + PURCHASES, headers=HEADERS, trust_env=False).status_code
        assert not running._thread.is_alive()


def test_a_server_without_a_thread_does_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has no more threads: the address is free again."""
    listeners: list[socket.socket] = []

    def refuse(thread: threading.Thread) -> None:
        listeners.append(thread._args[1])  # type: ignore[attr-defined]  # where it was to serve
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        EmulatorServer(Emulator(api_key=KEY)).__enter__()

    assert [-1] == [listener.fileno() for listener in listeners]


@pytest.mark.asyncio
async def test_async_with_does_not_block_the_loop() -> None:
    """Entered from a coroutine, it serves an asyncio client."""
    async with (
        EmulatorServer(Emulator(api_key=KEY)) as running,
        httpx.AsyncClient(base_url=running.url, headers=HEADERS, trust_env=False) as client,
    ):
        got = await client.get(PURCHASES)

    assert 200 == got.status_code


def test_it_listens_on_loopback_unless_told_otherwise(server: EmulatorServer) -> None:
    """No other machine gets in."""
    assert server.url.startswith("http://127.0.0.1:")


def test_ipv6_is_written_in_brackets() -> None:
    """The URL of an IPv6 address can be used as it is."""
    try:
        running = EmulatorServer(Emulator(api_key=KEY), host="::1").__enter__()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    try:
        assert 200 == httpx.get(running.url + PURCHASES, headers=HEADERS, trust_env=False).status_code
    finally:
        running.__exit__(None, None, None)
    assert running.url.startswith("http://[::1]:")


def test_a_taken_port_is_an_error() -> None:
    """`serve` does not go on elsewhere."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        serve(Emulator(), port=taken.getsockname()[1])


def test_serve_runs_until_it_is_interrupted() -> None:
    """A process of its own announces a free port, answers, and ends in silence."""
    program = (
        "from crowdtwist_async.emulator import Emulator\n"
        "from crowdtwist_async.emulator.server import serve\n"
        f"serve(Emulator(api_key={KEY!r}), port=0, announce=lambda url: print(url, flush=True))\n"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        got = httpx.get(url + PURCHASES, headers=HEADERS, trust_env=False)
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=10)

    assert (200, ("", ""), 0) == (got.status_code, rest, process.returncode)


def test_nothing_of_a_request_is_logged_at_the_lowest_level(caplog: pytest.LogCaptureFixture) -> None:
    """Below DEBUG uvicorn would log whole requests, for whoever wants to see everything of a program's own."""
    caplog.set_level(1)
    with EmulatorServer(Emulator(api_key=KEY)) as running:
        httpx.get(f"{running.url}/v2.1/users/{USER}/rewards", params={"api_key": KEY}, trust_env=False)
    told = [entry.getMessage() for entry in caplog.records if entry.name.startswith(("uvicorn", "asyncio"))]
    assert not [text for text in told if KEY in text or USER in text]
