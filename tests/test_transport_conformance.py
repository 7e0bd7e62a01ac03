"""
What every transport must do alike, over real sockets: faults, bounds, TLS, proxies, and nothing more than asked.
"""

from __future__ import annotations

import gzip
import select
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import quote

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import trustme
from carriers import Carrier, open_client, over_each, over_our_own
from conftest import KEY
from signatures import PAIR, headers_of, is_signed
from wire import POINTS, Act, Exchange, WireServer, hang, nothing_left, open_sockets, raw, reply

from crowdtwist_async import (
    ConfigurationError,
    ConnectionFailedError,
    CrowdTwistError,
    DecodeError,
    RateLimitError,
    Reply,
    Request,
    RequestTimeoutError,
    ResponseTooLargeError,
    RetryPolicy,
    ServerError,
    UnexpectedRedirectError,
)
from crowdtwist_async._signing import sign

pytestmark = pytest.mark.anyio

AT_ONCE = RetryPolicy(initial=0)
GZIPPED = ("Content-Encoding: gzip",)
SMALL = 1024 * 1024
REWARDS = reply(b'{"rewards": [], "paging": {}}')


async def failure(carrier: Carrier, act: Act, **options: Any) -> CrowdTwistError:
    """The error that one act leads to."""
    with WireServer(act) as server:
        async with open_client(carrier, server.url, **options) as client:
            with pytest.raises(CrowdTwistError) as caught:
                await client.points_awaiting_fulfillment("7")
    return caught.value


@over_each
async def test_sends_what_the_reference_asks_for(carrier: Carrier) -> None:
    """The path, the query and the headers of all three endpoints are the documented ones."""
    with WireServer(reply(), REWARDS, reply(b'{"purchases": [], "paging": {}}')) as server:
        host = server.url.removeprefix("http://")
        async with open_client(carrier, server.url) as client:
            await client.points_awaiting_fulfillment("7")
            await client.user_rewards("a/b@c.d", id_type="email", page=2, page_size=99, include_soldout=True)
            await client.user_purchases("7", date_start="2026-01-01", date_end="2026-01-31")
    encoded = KEY.replace("%", "%25").replace("/", "%2F").replace("+", "%2B")
    assert [
        "/fulfillment/users/7",
        f"/v2.1/users/a%2Fb%40c.d/rewards?id_type=email&page_size=10&include_soldout=true&page=2&api_key={encoded}",
        "/users/7/purchases?id_type=id&date_start=2026-01-01&date_end=2026-01-31",
    ] == server.targets
    sent = [dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:-2]) for head in server.heads]
    for headers in sent:
        headers.pop("Connection", None)
    plain = {
        "Host": host,
        "Accept": "application/json",
        "Accept-Encoding": "gzip",
        "User-Agent": "crowdtwist-async",
    }
    with_key = plain | {"X-CT-Authorization": f"CTApiKey {KEY}"}
    assert [with_key, plain, with_key] == sent


@over_each
@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/users/..%2F%2e%2E/%2F", ""),
        ("/users/%41%7E~!$'()*,;=:@/x", "a=%20+&b=%C3%A9%c3%a9&&c"),
        ("/users/%C3%A9/%25%00%23%3F", "q=/?:@!$'()*,;&empty="),
        ("//users//7//", "page=2&page=3"),
    ],
    ids=["dots", "marks", "escapes", "slashes"],
)
async def test_sends_the_url_exactly_as_given(carrier: Carrier, path: str, query: str) -> None:
    """No byte of the path and the query is added, dropped, escaped or unescaped."""
    with WireServer() as server:
        async with carrier() as transport:
            outcome = await transport.send(Request("x", server.url, path, query))
            await transport.aclose()
    assert isinstance(outcome, Reply)
    assert [f"{path}?{query}" if query else path] == server.targets


@over_each
@pytest.mark.parametrize(
    "target", ["/users/..%2F%2e%2E//x?q=%20+%c3%A9&&", "/v2.1/users/é~%7E/rewards"], ids=ascii
)
async def test_sends_a_signature_that_fits_the_wire(carrier: Carrier, target: str) -> None:
    """Two headers more, which sign the target as it arrives; nothing is changed after signing."""
    path, _, query = quote(target, safe="/%?&=+~").partition("?")
    with WireServer() as server:
        async with carrier() as transport:
            request = Request("user_rewards", server.url, path, query)
            request.signed = sign(PAIR, request.target, time.time())
            assert isinstance(await transport.send(request), Reply)
            await transport.aclose()
        [head] = server.heads
    assert is_signed(head)
    assert request.signed.timestamp == headers_of(head)["x-ct-timestamp"]


@over_each
async def test_keeps_one_connection_for_calls_in_turn(carrier: Carrier) -> None:
    """Calls one after the other share a connection."""
    with WireServer() as server:
        async with open_client(carrier, server.url) as client:
            for _ in range(20):
                await client.points_awaiting_fulfillment("7")
        assert 1 == server.connections


@over_our_own
async def test_what_comes_behind_a_reply_is_not_the_next_one(carrier: Carrier) -> None:
    """The connection is not used again: it would stay one reply behind, and give each member another's rows."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(POINTS)}\r\n\r\n".encode()
    with WireServer(raw(head + POINTS + head + POINTS.replace(b"40", b"41")), reply()) as server:
        async with open_client(carrier, server.url) as client:
            found = [await client.points_awaiting_fulfillment("7") for _ in range(3)]
        assert [40] * 3 == [points.total_points_awaiting_fulfillment for points in found]
        assert 2 == server.connections


@over_our_own
@pytest.mark.usefixtures("_trusted")
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
async def test_what_comes_on_an_idle_connection_is_not_the_next_reply(
    carrier: Carrier, served_tls: Callable[..., ssl.SSLContext], encrypted: bool
) -> None:
    """Nobody asked for it: whose it is nobody knows."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(POINTS)}\r\n\r\n".encode()
    late = Event()

    def one_more(exchange: Exchange) -> None:
        exchange.send(head + POINTS)
        time.sleep(0.02)
        exchange.send(head + POINTS.replace(b"40", b"41"))
        late.set()

    with WireServer(one_more, reply(), tls=served_tls() if encrypted else None) as server:
        async with open_client(carrier, server.url) as client:
            found = [await client.points_awaiting_fulfillment("7")]
            await anyio.to_thread.run_sync(late.wait)
            await anyio.sleep(0.01)
            found.append(await client.points_awaiting_fulfillment("7"))
        assert [40] * 2 == [points.total_points_awaiting_fulfillment for points in found]
        assert 2 == server.connections


@over_our_own
async def test_what_comes_behind_the_bytes_that_are_read_at_once_is_not_the_next_reply(
    carrier: Carrier,
) -> None:
    """asyncio reads more than httpcore takes: the rest is in no buffer of either."""
    length = 2**16
    while len(head := f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode()) + length > 2**16:
        length -= 1
    first = head + POINTS.ljust(length)
    second = f"HTTP/1.1 200 OK\r\nContent-Length: {len(POINTS)}\r\n\r\n".encode() + POINTS.replace(
        b"40", b"41"
    )
    with WireServer(raw(first + second), reply()) as server:
        async with open_client(carrier, server.url) as client:
            found = [await client.points_awaiting_fulfillment("7") for _ in range(3)]
        assert [40] * 3 == [points.total_points_awaiting_fulfillment for points in found]
        assert (2**16, 2) == (len(first), server.connections)


@over_our_own
@pytest.mark.usefixtures("_trusted")
async def test_what_comes_behind_a_reply_in_a_record_of_its_own_is_not_the_next_one(
    carrier: Carrier, served_tls: Callable[..., ssl.SSLContext]
) -> None:
    """TLS may hold a record that nobody has read yet, where the socket shows nothing any more."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(POINTS)}\r\n\r\n".encode()

    def two_records_at_once(exchange: Exchange) -> None:
        with corked(exchange.connection):
            exchange.send(head + POINTS, head + POINTS.replace(b"40", b"41"))

    with WireServer(two_records_at_once, reply(), tls=served_tls()) as server:
        async with open_client(carrier, server.url) as client:
            found = [await client.points_awaiting_fulfillment("7") for _ in range(3)]
        assert [40] * 3 == [points.total_points_awaiting_fulfillment for points in found]
        assert 2 == server.connections


@contextmanager
def corked(connection: socket.socket) -> Iterator[None]:
    """Let what is sent leave together."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    yield
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)


@over_our_own
@pytest.mark.usefixtures("_trusted")
async def test_keeps_one_tls_connection_for_calls_in_turn(
    carrier: Carrier, served_tls: Callable[..., ssl.SSLContext]
) -> None:
    """Looking for more than a reply takes nothing away."""
    with WireServer(tls=served_tls()) as server:
        async with open_client(carrier, server.url) as client:
            for _ in range(20):
                await client.points_awaiting_fulfillment("7")
        assert 1 == server.connections


@over_each
async def test_keeps_connections_to_both_hosts_apart(carrier: Carrier) -> None:
    """Alternating between the two hosts reconnects neither."""
    with WireServer() as pos, WireServer(REWARDS) as api:
        async with open_client(carrier, pos.url, api_url=api.url) as client:
            for _ in range(10):
                await client.points_awaiting_fulfillment("7")
                await client.user_rewards("7")
        assert (1, 1) == (pos.connections, api.connections)


@over_each
async def test_has_as_many_connections_as_calls_in_flight(carrier: Carrier) -> None:
    """No call waits for another's connection."""

    complete = Event()

    def together(exchange: Exchange) -> None:
        if 64 == len(server.heads):
            complete.set()
        complete.wait(10)
        reply()(exchange)

    with WireServer(together) as server:
        async with open_client(carrier, server.url, timeout=30) as client:
            async with anyio.create_task_group() as tasks:
                for _ in range(64):
                    tasks.start_soon(client.points_awaiting_fulfillment, "7")
        assert (64, 64) == (server.connections, len(server.heads))


FAULTS: dict[str, tuple[Act, type[CrowdTwistError], bool]] = {
    "reset before the head": (raw(reset=True), ConnectionFailedError, True),
    "closed before the head": (raw(close=True), ConnectionFailedError, True),
    "closed in the head": (raw(b"HTTP/1.1 200 OK\r\nConte", close=True), ConnectionFailedError, True),
    "reset in the body": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", pause=0.02, reset=True),
        ConnectionFailedError,
        True,
    ),
    "shorter than its length": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}", close=True),
        ConnectionFailedError,
        True,
    ),
    "longer than its length": (
        raw(
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" + POINTS[:9],
            POINTS[9:],
            pause=0.02,
            close=True,
        ),
        DecodeError,
        True,
    ),
    "cut without a length": (raw(b"HTTP/1.1 200 OK\r\n\r\n" + POINTS[:20], close=True), DecodeError, True),
    "cut between chunks": (
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", close=True),
        ConnectionFailedError,
        True,
    ),
    "malformed chunks": (
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}XX0\r\n\r\n", close=True),
        ConnectionFailedError,
        True,
    ),
    "no HTTP": (raw(b"SSH-2.0-OpenSSH\r\n\r\n", close=True), ConnectionFailedError, True),
    "huge head": (
        raw(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", close=True),
        ConnectionFailedError,
        True,
    ),
    "unknown encoding": (reply(headers=["Content-Encoding: br"]), DecodeError, False),
    "stacked encodings": (reply(headers=["Content-Encoding: gzip, gzip"]), DecodeError, False),
    "encodings in two headers": (reply(headers=GZIPPED * 2), DecodeError, False),
    "not the promised gzip": (reply(headers=GZIPPED), DecodeError, True),
    "cut gzip": (reply(gzip.compress(POINTS)[:-12], headers=GZIPPED), ConnectionFailedError, True),
    "redirect": (
        reply(b"", "302 Found", ["Location: http://evil.test/?a=1"]),
        UnexpectedRedirectError,
        False,
    ),
    "empty": (reply(b""), DecodeError, True),
    "no content": (raw(b"HTTP/1.1 204 No Content\r\n\r\n"), DecodeError, True),
    "html": (reply(b"<html>sign in</html>", headers=["Content-Type: text/html"]), DecodeError, True),
}


@over_each
@pytest.mark.parametrize("fault", FAULTS)
async def test_maps_faults_of_the_wire(carrier: Carrier, fault: str) -> None:
    """Every fault of a connection or a body is its documented error."""
    act, kind, retryable = FAULTS[fault]
    error = await failure(carrier, act)
    assert (kind, retryable, 1) == (type(error), error.retryable, error.attempts)


@over_each
@pytest.mark.parametrize("fault", [fault for fault, (_, _, retryable) in FAULTS.items() if retryable])
async def test_retries_what_may_pass(carrier: Carrier, fault: str) -> None:
    """A retryable fault is followed by one more request, which succeeds; and nobody else sends again."""
    with WireServer(FAULTS[fault][0], reply()) as server:
        async with open_client(carrier, server.url, retry=AT_ONCE) as client:
            assert 40 == (await client.points_awaiting_fulfillment("7")).total_points_awaiting_fulfillment
        assert 2 == len(server.heads)


READABLE: dict[str, Act] = {
    "chunks": raw(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n" + POINTS[:9] + b"\r\n",
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(POINTS[9:]), POINTS[9:]),
        pause=0.01,
    ),
    "until the connection ends": raw(b"HTTP/1.1 200 OK\r\n\r\n" + POINTS, close=True),
    "HTTP/1.0": raw(b"HTTP/1.0 200 OK\r\n\r\n" + POINTS, close=True),
    "behind informational replies": raw(
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3,
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(POINTS), POINTS),
    ),
    "a long header": reply(headers=["Content-Security-Policy: " + "x" * 30_000]),
    "gzip of one member": reply(gzip.compress(POINTS), headers=GZIPPED),
    "gzip of two members": reply(gzip.compress(POINTS[:9]) + gzip.compress(POINTS[9:]), headers=GZIPPED),
}


@over_each
@pytest.mark.parametrize("body", READABLE)
async def test_reads_every_kind_of_body(carrier: Carrier, body: str) -> None:
    """However the server delimits or encodes it, and on the next connection or the same."""
    with WireServer(READABLE[body]) as server:
        async with open_client(carrier, server.url) as client:
            for _ in range(2):
                assert 7 == (await client.points_awaiting_fulfillment("7")).user_id
        assert 2 == len(server.heads)


@over_each
async def test_a_server_that_closes_is_asked_on_a_new_connection(carrier: Carrier) -> None:
    """`Connection: close` is heeded, so that no request runs into the end of its connection."""
    parting = (
        f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(POINTS)}\r\n\r\n".encode() + POINTS
    )
    with WireServer(raw(parting, close=True)) as server:
        async with open_client(carrier, server.url) as client:
            for _ in range(3):
                await client.points_awaiting_fulfillment("7")
        assert (3, 3) == (len(server.heads), server.connections)


@over_each
async def test_refused_connection(carrier: Carrier) -> None:
    """A port where nobody listens is a `ConnectionFailedError` that says so."""
    with WireServer() as server:
        url = server.url
    async with open_client(carrier, url) as client:
        with pytest.raises(ConnectionFailedError, match="refused"):
            await client.points_awaiting_fulfillment("7")


@over_each
@pytest.mark.usefixtures("_trusted")
async def test_unknown_host_is_told(carrier: Carrier) -> None:
    """A name that can't be resolved is a `ConnectionFailedError` that says so."""
    async with open_client(carrier, "https://nowhere.invalid") as client:
        with pytest.raises(ConnectionFailedError, match="could not be resolved"):
            await client.points_awaiting_fulfillment("7")


SLOW: dict[str, tuple[Act, str]] = {
    "no head": (hang(), "response"),
    "dripping head": (raw(b"HTTP/1.1 200 OK\r\nX: ", *[b"x"] * 160, pause=0.05), "response"),
    "endless informational replies": (
        raw(*[b"HTTP/1.1 103 Early Hints\r\n\r\n"] * 160, pause=0.05),
        "response",
    ),
    "dripping body": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", *[b"{"] * 160, pause=0.05),
        "body",
    ),
}


@over_each
async def test_timeout_covers_the_whole_attempt(carrier: Carrier) -> None:
    """A reply that keeps dripping ends with the timeout, which names the phase."""
    phases: dict[str, str | None] = {}

    async def meet(fault: str) -> None:
        error = await failure(carrier, SLOW[fault][0], timeout=2)
        assert isinstance(error, RequestTimeoutError)
        phases[fault] = error.phase

    async with anyio.create_task_group() as tasks:
        for fault in SLOW:
            tasks.start_soon(meet, fault)
    assert {fault: phase for fault, (_, phase) in SLOW.items()} == phases


@over_our_own
async def test_replaces_a_connection_that_the_server_closed(carrier: Carrier) -> None:
    """A kept-alive connection that ends with the next request on it is replaced without counting."""
    with WireServer(reply(), raw(reset=True), reply()) as server:
        async with open_client(carrier, server.url) as client:
            await client.points_awaiting_fulfillment("7")
            await client.points_awaiting_fulfillment("7")
        assert (3, 2) == (len(server.heads), server.connections)


@over_our_own
async def test_replaces_a_closed_connection_only_once(carrier: Carrier) -> None:
    """A server that closes again after the replacement ends the call."""
    with WireServer(reply(), raw(reset=True)) as server:
        async with open_client(carrier, server.url) as client:
            await client.points_awaiting_fulfillment("7")
            with pytest.raises(ConnectionFailedError) as caught:
                await client.points_awaiting_fulfillment("7")
        assert (3, 2) == (len(server.heads), caught.value.attempts)


@cache
def bomb(size: int) -> bytes:
    """A gzip body that inflates to so many bytes."""
    compressor = zlib.compressobj(9, wbits=31)
    chunk = bytes(1024 * 1024)
    return b"".join(compressor.compress(chunk) for _ in range(size // len(chunk))) + compressor.flush()


@over_each
@pytest.mark.parametrize("status", ["200 OK", "500 Internal Server Error"], ids=["200", "500"])
async def test_refuses_a_gzip_bomb(carrier: Carrier, status: str) -> None:
    """A body that inflates beyond the limit is refused, also beside an error's status."""
    act = reply(bomb(8 * SMALL), status, GZIPPED)
    error = await failure(carrier, act, max_body_bytes=SMALL)
    assert (ResponseTooLargeError, False) == (type(error), error.retryable)


@over_our_own
async def test_refuses_endless_members(carrier: Carrier) -> None:
    """Each empty gzip member takes more time than its 20 bytes take to come."""
    empty, body = gzip.compress(b""), gzip.compress(POINTS)
    error = await failure(carrier, reply(empty * 1_000 + body, headers=GZIPPED))
    assert (DecodeError, False) == (type(error), error.retryable)
    assert "more than 1,000 members" in error.reason
    with WireServer(reply(empty * 999 + body, headers=GZIPPED)) as server:
        async with open_client(carrier, server.url) as client:
            assert 7 == (await client.points_awaiting_fulfillment("7")).user_id


@over_each
async def test_refuses_an_endless_body(carrier: Carrier) -> None:
    """A plain body without an end is refused at the limit."""
    act = raw(b"HTTP/1.1 200 OK\r\n\r\n", *[b"[" * 65536] * 64, close=True)
    error = await failure(carrier, act, max_body_bytes=SMALL)
    assert ResponseTooLargeError is type(error)


@over_each
@pytest.mark.parametrize(
    "act",
    [
        reply(b"nonsense", "503 Service Unavailable", GZIPPED),
        reply(b"nonsense", "503 Service Unavailable", ["Content-Encoding: zstd"]),
        reply(gzip.compress(b"<html>")[:-3], "503 Service Unavailable", GZIPPED),
    ],
    ids=["no gzip", "unknown encoding", "cut gzip"],
)
async def test_status_wins_over_an_unreadable_body(carrier: Carrier, act: Act) -> None:
    """An error's status says enough when its body can't be read."""
    error = await failure(carrier, act)
    assert isinstance(error, ServerError)
    assert 503 == error.status


@over_each
async def test_a_redirect_leads_nowhere(carrier: Carrier) -> None:
    """No redirect is followed: the second host sees no request at all."""
    with WireServer() as other:
        redirect = reply(
            b"", "307 Temporary Redirect", [f"Location: {other.url}/fulfillment/users/7?api_key={KEY}"]
        )
        error = await failure(carrier, redirect, retry=AT_ONCE)
        assert isinstance(error, UnexpectedRedirectError)
        assert (307, 1) == (error.status, error.attempts)
        assert other.url in str(error)
        assert (0, []) == (other.connections, other.heads)


@over_each
async def test_keeps_no_cookies(carrier: Carrier) -> None:
    """A cookie that the server sets is not sent back."""
    with WireServer(reply(headers=["Set-Cookie: a=b"])) as server:
        async with open_client(carrier, server.url) as client:
            await client.points_awaiting_fulfillment("7")
            await client.points_awaiting_fulfillment("7")
        assert 2 == len(server.heads)
        assert not [head for head in server.heads if b"cookie" in head.lower()]


@over_each
async def test_ignores_netrc(carrier: Carrier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials in a `.netrc` are not sent."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with WireServer() as server:
        async with open_client(carrier, server.url) as client:
            await client.points_awaiting_fulfillment("7")
        assert b"\r\nauthorization:" not in server.heads[0].lower()


@over_each
async def test_a_rate_limit_carries_its_retry_after(carrier: Carrier) -> None:
    """Headers reach the error."""
    error = await failure(carrier, reply(b"{}", "429 Too Many Requests", ["Retry-After: 7"]))
    assert isinstance(error, RateLimitError)
    assert 7.0 == error.retry_after


@over_each
async def test_a_header_that_comes_twice_is_joined(carrier: Carrier) -> None:
    """Two values are not silently one of them."""
    with WireServer(reply(headers=["Retry-After: 7", "retry-after: 9"])) as server:
        async with carrier() as transport:
            outcome = await transport.send(Request("x", server.url, "/", ""))
            await transport.aclose()
    assert isinstance(outcome, Reply)
    assert "7, 9" == outcome.headers["retry-after"]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of the tests' own."""
    return trustme.CA()


@pytest.fixture
def served_tls(authority: trustme.CA) -> Callable[..., ssl.SSLContext]:
    """Make the server's side of TLS for a name."""

    def make(name: str = "127.0.0.1", by: trustme.CA = authority) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        by.issue_cert(name).configure_cert(context)
        return context

    return make


@pytest.fixture
def _trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the environment name the tests' own authority."""
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))


@over_each
@pytest.mark.usefixtures("_trusted")
async def test_speaks_tls_with_the_environment_s_certificates(
    carrier: Carrier, served_tls: Callable[..., ssl.SSLContext]
) -> None:
    """SSL_CERT_FILE is honoured, and many requests at once share one context."""
    with WireServer(tls=served_tls()) as server:
        async with open_client(carrier, server.url) as client, anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(client.points_awaiting_fulfillment, "7")
        assert 5 == len(server.heads)


@over_each
@pytest.mark.usefixtures("_trusted")
async def test_an_untrusted_certificate_is_not_tried_again(
    carrier: Carrier, served_tls: Callable[..., ssl.SSLContext]
) -> None:
    """A certificate of an unknown authority ends the call at once, with the check that failed."""
    with WireServer(tls=served_tls(by=trustme.CA())) as server:
        async with open_client(carrier, server.url, retry=AT_ONCE) as client:
            with pytest.raises(ConnectionFailedError, match="can't be trusted: .*issuer") as caught:
                await client.points_awaiting_fulfillment("7")
    assert (1, False) == (caught.value.attempts, caught.value.retryable)


@over_each
@pytest.mark.usefixtures("_trusted")
async def test_a_certificate_of_another_host_is_refused(
    carrier: Carrier, served_tls: Callable[..., ssl.SSLContext]
) -> None:
    """A certificate for another name ends the call at once."""
    with WireServer(tls=served_tls("other.test")) as server:
        async with open_client(carrier, server.url, retry=AT_ONCE) as client:
            with pytest.raises(ConnectionFailedError, match="can't be trusted: .*mismatch") as caught:
                await client.points_awaiting_fulfillment("7")
    assert 1 == caught.value.attempts


@over_each
@pytest.mark.usefixtures("_trusted")
async def test_a_refused_tls_version_is_not_tried_again(
    carrier: Carrier, served_tls: Callable[..., ssl.SSLContext]
) -> None:
    """A server without a cipher in common ends the call at once."""
    tls = served_tls()
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    tls.set_ciphers("PSK")
    with WireServer(tls=tls) as server:
        async with open_client(carrier, server.url, retry=AT_ONCE) as client:
            with pytest.raises(ConnectionFailedError, match="TLS failed") as caught:
                await client.points_awaiting_fulfillment("7")
    assert (1, False) == (caught.value.attempts, caught.value.retryable)


@over_our_own
@pytest.mark.usefixtures("_trusted")
async def test_plain_http_on_a_tls_port_is_told(carrier: Carrier) -> None:
    """A server that speaks no TLS ends the attempt."""
    with WireServer(raw(b"HTTP/1.1 400 Bad Request\r\n\r\n", close=True)) as server:
        async with open_client(carrier, server.url.replace("http:", "https:"), timeout=1) as client:
            with pytest.raises((ConnectionFailedError, RequestTimeoutError)):
                await client.points_awaiting_fulfillment("7")


@over_our_own
async def test_unreadable_certificates_are_a_configuration_error(
    carrier: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An SSL_CERT_FILE that is not there is said to be."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    async with open_client(carrier, "https://pos.invalid") as client:
        with pytest.raises(ConfigurationError, match="SSL_CERT_FILE"):
            await client.points_awaiting_fulfillment("7")


@pytest.fixture
def _resolving(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxies from the machine's own environment."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def tunnel(server: WireServer) -> Act:
    """Connect to a server, whatever name was asked for, and pass on what both sides say."""

    def act(exchange: Exchange) -> None:
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as onward:
            exchange.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            other = {exchange.connection: onward, onward: exchange.connection}
            while not exchange.stopping.is_set():
                for side in select.select(list(other), [], [], 0.02)[0]:
                    data = side.recv(65536)
                    if not data:
                        return exchange.close()
                    other[side].sendall(data)
        return None

    return act


@over_each
@pytest.mark.usefixtures("_resolving", "_trusted")
async def test_goes_through_a_proxy(
    carrier: Carrier, served_tls: Callable[..., ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTPS_PROXY gets one CONNECT with its credentials and not the key; the host gets all requests."""
    with WireServer(tls=served_tls("pos.invalid")) as server, WireServer(tunnel(server)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("://", "://user:ses%40me@"))
        async with open_client(carrier, "https://pos.invalid") as client:
            for _ in range(3):
                await client.points_awaiting_fulfillment("7")
        assert (3, 1) == (len(server.heads), len(proxy.heads))
    [asked] = proxy.heads
    assert asked.startswith(b"CONNECT pos.invalid:443 HTTP/1.1\r\n")
    assert b"proxy-authorization: basic dxnlcjpzzxnabwu=" in asked.lower()
    assert not [word for word in (b"x-ct", b"aiohttp", b"python") if word in asked.lower()]


@over_each
@pytest.mark.usefixtures("_resolving", "_trusted")
@pytest.mark.parametrize(
    ("status", "retryable"), [("407 Auth", False), ("502 Bad", True)], ids=["407", "502"]
)
async def test_a_proxy_that_refuses(
    carrier: Carrier, status: str, retryable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its refusal is told without its credentials, and a 407 not repeated."""
    with WireServer(reply(b"", status)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("://", "://user:sesame@"))
        async with open_client(carrier, "https://pos.invalid") as client:
            with pytest.raises(ConnectionFailedError, match="proxy") as caught:
                await client.points_awaiting_fulfillment("7")
        assert b"CONNECT pos.invalid:443" in proxy.heads[0]
    assert retryable is caught.value.retryable
    assert "sesame" not in f"{caught.value!r}{vars(caught.value)}"


@over_our_own
@pytest.mark.usefixtures("_resolving")
async def test_this_machine_is_never_asked_through_a_proxy(
    carrier: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain http goes to loopback alone, so no proxy gets the key in the clear."""
    with WireServer() as proxy, WireServer() as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        async with open_client(carrier, server.url) as client:
            await client.points_awaiting_fulfillment("7")
        assert (0, 1) == (proxy.connections, len(server.heads))


@over_our_own
@pytest.mark.usefixtures("_resolving", "_trusted")
async def test_no_proxy_is_honoured(carrier: Carrier, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that NO_PROXY names is asked directly."""
    with WireServer() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", ".invalid")
        async with open_client(carrier, "https://pos.invalid") as client:
            with pytest.raises(ConnectionFailedError, match="could not be resolved"):
                await client.points_awaiting_fulfillment("7")
        assert 0 == proxy.connections


@over_our_own
@pytest.mark.usefixtures("_resolving", "_trusted")
@pytest.mark.parametrize(
    "proxy",
    [
        "gopher://127.0.0.1",
        "http://127.0.0.1:port",
        "http://127.0.0.1:99999",
        "http://",
        "socks4://127.0.0.1",
    ],
)
async def test_an_unusable_proxy_is_a_configuration_error(
    carrier: Carrier, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy of a kind that can't be used is said to be."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    async with open_client(carrier, "https://pos.invalid") as client:
        with pytest.raises(ConfigurationError, match="proxy"):
            await client.points_awaiting_fulfillment("7")


@over_our_own
async def test_closing_while_a_request_is_under_way(carrier: Carrier) -> None:
    """The request ends with its reply, and its connection and the idle ones with it."""
    with nothing_left(), WireServer() as server:
        async with carrier() as transport:
            request = Request("x", server.url, "/", "")
            assert isinstance(await transport.send(request), Reply)
            outcomes = []

            async def send() -> None:
                outcomes.append(await transport.send(request))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                await anyio.lowlevel.checkpoint()
                await transport.aclose()
            await anyio.wait_all_tasks_blocked()
        assert [200] == [outcome.status for outcome in outcomes if isinstance(outcome, Reply)]


@over_our_own
@pytest.mark.usefixtures("_trusted")
async def test_a_cancelled_request_ends_its_connection_at_once(
    carrier: Carrier, served_tls: Callable[..., ssl.SSLContext]
) -> None:
    """Its socket is closed without the client being closed, also where TLS would wait for an answer."""
    under_way = anyio.Event()

    def started(exchange: Exchange) -> None:
        anyio.from_thread.run_sync(under_way.set, token=token)
        hang()(exchange)

    token = anyio.lowlevel.current_token()
    with WireServer(started, tls=served_tls()) as server:
        async with carrier() as transport:
            before = open_sockets()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(transport.send, Request("x", server.url, "/", ""))
                await under_way.wait()
                tasks.cancel_scope.cancel()
            # What closing schedules needs some rounds of the event loop, and no answer of the server.
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            # The server's own end of the connection is still open.
            assert before + 1 == open_sockets()
            await transport.aclose()
