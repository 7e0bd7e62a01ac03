"""
The default transport and the injected client, over real sockets.
"""

from __future__ import annotations

import contextlib
import gzip
import ssl
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import respx
import trustme
from conftest import KEY, leaks
from wire import POINTS, Act, WireServer, hang, raw, reply

from crowdtwist_async import (
    AuthenticationError,
    ConfigurationError,
    ConnectionFailedError,
    CrowdTwistClient,
    CrowdTwistError,
    DecodeError,
    HttpxTransport,
    RateLimitError,
    Reply,
    Request,
    RequestTimeoutError,
    ResponseTooLargeError,
    RetryPolicy,
    ServerError,
    TransportError,
    UnexpectedRedirectError,
)
from crowdtwist_async._secrets import Secret
from crowdtwist_async.transports.httpx import InjectedClientTransport

pytestmark = pytest.mark.anyio

ONCE = RetryPolicy(max_attempts=1)
AT_ONCE = RetryPolicy(initial=0)
GZIPPED = ("Content-Encoding: gzip",)


def make_client(server: WireServer, **options: Any) -> CrowdTwistClient:
    """A client of a raw server, without retries unless they are asked for."""
    return CrowdTwistClient(
        **{"api_key": KEY, "api_url": server.url, "pos_url": server.url, "retry": ONCE, **options}
    )


async def failure(act: Act, **options: Any) -> CrowdTwistError:
    """The error that one act leads to."""
    with WireServer(act) as server:
        async with make_client(server, **options) as client:
            with pytest.raises(CrowdTwistError) as caught:
                await client.points_awaiting_fulfillment("7")
    return caught.value


async def test_sends_what_the_reference_asks_for() -> None:
    """The path, the query and the headers of all three endpoints are the documented ones."""
    acts = reply(), reply(b'{"rewards": [], "paging": {}}'), reply(b'{"purchases": [], "paging": {}}')
    with WireServer(*acts) as server:
        async with make_client(server) as client:
            await client.points_awaiting_fulfillment("7")
            await client.user_rewards("a/b@c.d", id_type="email", page=2, page_size=99, include_soldout=True)
            await client.user_purchases("7", date_start="2026-01-01", date_end="2026-01-31")
    encoded = KEY.replace("%", "%25").replace("/", "%2F").replace("+", "%2B")
    assert [
        "/fulfillment/users/7",
        f"/v2.1/users/a%2Fb%40c.d/rewards?id_type=email&page_size=10&include_soldout=true&page=2&api_key={encoded}",
        "/users/7/purchases?id_type=id&date_start=2026-01-01&date_end=2026-01-31",
    ] == server.targets
    authorizations = [
        f"x-ct-authorization: ctapikey {KEY}".lower().encode() in head.lower() for head in server.heads
    ]
    assert [True, False, True] == authorizations
    assert all(b"Accept-Encoding: gzip\r\n" in head and b"ookie" not in head for head in server.heads)


async def test_keeps_one_connection_for_calls_in_turn() -> None:
    """Calls one after the other share a connection."""
    with WireServer() as server:
        async with make_client(server) as client:
            for _ in range(20):
                await client.points_awaiting_fulfillment("7")
        assert 1 == server.connections


async def test_keeps_connections_to_both_hosts_apart() -> None:
    """Alternating between the two hosts reconnects neither."""
    page = reply(b'{"rewards": [], "paging": {}}')
    with WireServer() as pos, WireServer(page) as api:
        async with make_client(pos, api_url=api.url) as client:
            for _ in range(10):
                await client.points_awaiting_fulfillment("7")
                await client.user_rewards("7")
        assert (1, 1) == (pos.connections, api.connections)


FAULTS: dict[str, tuple[Act, type[CrowdTwistError], bool]] = {
    "reset before the head": (raw(reset=True), ConnectionFailedError, True),
    "closed before the head": (raw(close=True), ConnectionFailedError, True),
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
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" + POINTS, close=True),
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


@pytest.mark.parametrize("fault", FAULTS)
async def test_maps_faults_of_the_wire(fault: str) -> None:
    """Every fault of a connection or a body is its documented error."""
    act, kind, retryable = FAULTS[fault]
    error = await failure(act)
    assert (kind, retryable, 1) == (type(error), error.retryable, error.attempts)


@pytest.mark.parametrize("fault", [fault for fault, (_, _, retryable) in FAULTS.items() if retryable])
async def test_retries_what_may_pass(fault: str) -> None:
    """A retryable fault is followed by one more request, which succeeds."""
    with WireServer(FAULTS[fault][0], reply()) as server:
        async with make_client(server, retry=AT_ONCE) as client:
            assert 40 == (await client.points_awaiting_fulfillment("7")).total_points_awaiting_fulfillment
        assert 2 == len(server.heads)


async def test_refused_connection() -> None:
    """A port where nobody listens is a `ConnectionFailedError` that says so."""
    with WireServer() as server:
        url = server.url
    async with CrowdTwistClient(api_key=KEY, api_url=url, pos_url=url, retry=ONCE) as client:
        with pytest.raises(ConnectionFailedError, match="refused"):
            await client.points_awaiting_fulfillment("7")


async def test_unknown_host_is_told() -> None:
    """A name that can't be resolved is a `ConnectionFailedError` that says so."""
    url = "https://nowhere.invalid"
    async with CrowdTwistClient(api_key=KEY, api_url=url, pos_url=url, retry=ONCE) as client:
        with pytest.raises(ConnectionFailedError, match="could not be resolved"):
            await client.points_awaiting_fulfillment("7")


SLOW: dict[str, tuple[Act, str]] = {
    "no head": (hang(), "response"),
    "dripping head": (raw(*[b"H"] * 400, pause=0.02), "response"),
    "endless informational replies": (
        raw(*[b"HTTP/1.1 103 Early Hints\r\n\r\n"] * 400, pause=0.02),
        "response",
    ),
    "dripping body": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", *[b"{"] * 400, pause=0.02),
        "body",
    ),
}


@pytest.mark.parametrize("fault", SLOW)
async def test_timeout_covers_the_whole_attempt(fault: str) -> None:
    """A reply that keeps dripping ends with the timeout, which names the phase."""
    act, phase = SLOW[fault]
    started = anyio.current_time()
    error = await failure(act, timeout=0.15)
    assert isinstance(error, RequestTimeoutError)
    assert phase == error.phase
    assert anyio.current_time() - started < 0.15 + 0.6


async def test_replaces_a_connection_that_the_server_closed() -> None:
    """A kept-alive connection that ends with the next request on it is replaced without counting."""
    with WireServer(reply(), raw(reset=True), reply()) as server:
        async with make_client(server) as client:
            await client.points_awaiting_fulfillment("7")
            await client.points_awaiting_fulfillment("7")
        assert (3, 2) == (len(server.heads), server.connections)


async def test_replaces_a_closed_connection_only_once() -> None:
    """A server that closes again after the replacement ends the call."""
    with WireServer(reply(), raw(reset=True)) as server:
        async with make_client(server) as client:
            await client.points_awaiting_fulfillment("7")
            with pytest.raises(ConnectionFailedError) as caught:
                await client.points_awaiting_fulfillment("7")
        assert (3, 2) == (len(server.heads), caught.value.attempts)


def bomb(size: int) -> bytes:
    """A gzip body that inflates to so many bytes."""
    compressor = zlib.compressobj(9, wbits=31)
    chunk = bytes(1024 * 1024)
    return b"".join(compressor.compress(chunk) for _ in range(size // len(chunk))) + compressor.flush()


@pytest.mark.parametrize("status", ["200 OK", "500 Internal Server Error"])
async def test_refuses_a_gzip_bomb(status: str) -> None:
    """A body that inflates beyond the limit is refused, also beside an error's status."""
    act = reply(bomb(8 * 1024 * 1024), status, GZIPPED)
    error = await failure(act, transport=HttpxTransport(max_body_bytes=1024 * 1024))
    assert (ResponseTooLargeError, False) == (type(error), error.retryable)


async def test_refuses_an_endless_body() -> None:
    """A plain body without an end is refused at the limit."""
    act = raw(b"HTTP/1.1 200 OK\r\n\r\n", *[b"[" * 65536] * 64, close=True)
    error = await failure(act, transport=HttpxTransport(max_body_bytes=1024 * 1024))
    assert ResponseTooLargeError is type(error)


@pytest.mark.parametrize(
    "body",
    [gzip.compress(POINTS), gzip.compress(POINTS[:9]) + gzip.compress(POINTS[9:])],
    ids=["one member", "two members"],
)
async def test_inflates_gzip(body: bytes) -> None:
    """A gzip body is read, of several members too."""
    with WireServer(reply(body, headers=GZIPPED)) as server:
        async with make_client(server) as client:
            assert 7 == (await client.points_awaiting_fulfillment("7")).user_id


@pytest.mark.parametrize(
    "act",
    [
        reply(b"nonsense", "503 Service Unavailable", GZIPPED),
        reply(b"nonsense", "503 Service Unavailable", ["Content-Encoding: zstd"]),
        reply(gzip.compress(b"<html>")[:-3], "503 Service Unavailable", GZIPPED),
    ],
    ids=["no gzip", "unknown encoding", "cut gzip"],
)
async def test_status_wins_over_an_unreadable_body(act: Act) -> None:
    """An error's status says enough when its body can't be read."""
    error = await failure(act)
    assert isinstance(error, ServerError)
    assert 503 == error.status


async def test_a_redirect_leads_nowhere() -> None:
    """No redirect is followed: the second host sees no request at all."""
    with WireServer() as other:
        redirect = reply(
            b"", "307 Temporary Redirect", [f"Location: {other.url}/fulfillment/users/7?api_key={KEY}"]
        )
        error = await failure(redirect, retry=AT_ONCE)
        assert isinstance(error, UnexpectedRedirectError)
        assert (307, 1) == (error.status, error.attempts)
        assert other.url in str(error)
        assert (0, []) == (other.connections, other.heads)


async def test_keeps_no_cookies() -> None:
    """A cookie that the server sets is not sent back."""
    with WireServer(reply(headers=["Set-Cookie: a=b"])) as server:
        async with make_client(server) as client, httpx.AsyncClient() as injected:
            await client.points_awaiting_fulfillment("7")
            await client.points_awaiting_fulfillment("7")
            async with make_client(server, http_client=injected) as over_injected:
                await over_injected.points_awaiting_fulfillment("7")
                await over_injected.points_awaiting_fulfillment("7")
        assert 4 == len(server.heads)
        assert not [head for head in server.heads if b"cookie" in head.lower()]


async def test_ignores_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials in a `.netrc` are not sent, also not by an injected client."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with WireServer() as server:
        async with make_client(server) as client, httpx.AsyncClient() as injected:
            await client.points_awaiting_fulfillment("7")
            async with make_client(server, http_client=injected) as over_injected:
                await over_injected.points_awaiting_fulfillment("7")
        assert not [head for head in server.heads if b"\r\nauthorization" in head.lower()]


async def test_a_rate_limit_carries_its_retry_after() -> None:
    """The header of a 429 is read off the wire."""
    error = await failure(reply(b"{}", "429 Too Many Requests", ["Retry-After: 7"]))
    assert isinstance(error, RateLimitError)
    assert 7.0 == error.retry_after


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of the tests' own."""
    return trustme.CA()


@pytest.fixture
def served_tls(authority: trustme.CA) -> Callable[..., ssl.SSLContext]:
    """Make the server's side of TLS for a name."""

    def make(name: str = "127.0.0.1") -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        return context

    return make


@pytest.fixture
def _trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the environment name the tests' own authority."""
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))


@pytest.mark.usefixtures("_trusted")
async def test_speaks_tls_with_the_environment_s_certificates(
    served_tls: Callable[..., ssl.SSLContext],
) -> None:
    """SSL_CERT_FILE is honoured, and many requests at once share one context."""
    with WireServer(tls=served_tls()) as server:
        async with make_client(server) as client, anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(client.points_awaiting_fulfillment, "7")
        assert 5 == len(server.heads)


async def test_an_untrusted_certificate_is_not_tried_again(served_tls: Callable[..., ssl.SSLContext]) -> None:
    """A certificate of an unknown authority ends the call at once, with the check that failed."""
    with WireServer(tls=served_tls()) as server:
        async with make_client(server, retry=AT_ONCE) as client:
            with pytest.raises(ConnectionFailedError, match="can't be trusted: .*issuer") as caught:
                await client.points_awaiting_fulfillment("7")
    assert (1, False) == (caught.value.attempts, caught.value.retryable)


@pytest.mark.usefixtures("_trusted")
async def test_a_certificate_of_another_host_is_refused(served_tls: Callable[..., ssl.SSLContext]) -> None:
    """A certificate for another name ends the call at once."""
    with WireServer(tls=served_tls("other.test")) as server:
        async with make_client(server, retry=AT_ONCE) as client:
            with pytest.raises(ConnectionFailedError, match="can't be trusted: .*mismatch") as caught:
                await client.points_awaiting_fulfillment("7")
    assert 1 == caught.value.attempts


async def test_plain_http_on_a_tls_port_is_not_tried_again() -> None:
    """A server that speaks no TLS ends the call at once."""
    with WireServer(raw(b"HTTP/1.1 400 Bad Request\r\n\r\n", close=True)) as server:
        url = server.url.replace("http:", "https:")
        async with CrowdTwistClient(api_key=KEY, api_url=url, pos_url=url, timeout=1) as client:
            with pytest.raises((ConnectionFailedError, RequestTimeoutError)):
                await client.with_options(retry=ONCE).points_awaiting_fulfillment("7")


async def test_unreadable_certificates_are_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An SSL_CERT_FILE that is not there is said to be."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    async with CrowdTwistClient(api_key=KEY, retry=ONCE) as client:
        with pytest.raises(ConfigurationError, match="SSL_CERT_FILE"):
            await client.points_awaiting_fulfillment("7")


@pytest.fixture
def _resolving(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxies from the machine's own environment."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.usefixtures("_resolving")
@pytest.mark.parametrize(
    ("status", "retryable"), [("407 Auth", False), ("502 Bad", True)], ids=["407", "502"]
)
async def test_a_proxy_that_refuses(status: str, retryable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTPS_PROXY is asked to connect; its refusal is told without its credentials, and a 407 not repeated."""
    with WireServer(reply(b"", status)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("://", "://user:sesame@"))
        async with CrowdTwistClient(api_key=KEY, client_id=201, retry=ONCE) as client:
            with pytest.raises(ConnectionFailedError, match="proxy") as caught:
                await client.points_awaiting_fulfillment("7")
        assert b"CONNECT pos201.crowdtwist.com:443" in proxy.heads[0]
    assert retryable is caught.value.retryable
    assert "sesame" not in f"{caught.value!r}{vars(caught.value)}"


@pytest.mark.usefixtures("_resolving")
async def test_this_machine_is_never_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain http goes to loopback alone, so no proxy gets the key in the clear."""
    with WireServer() as proxy, WireServer() as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        async with make_client(server) as client:
            await client.points_awaiting_fulfillment("7")
        assert (0, 1) == (proxy.connections, len(server.heads))


@pytest.mark.usefixtures("_resolving")
async def test_no_proxy_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that NO_PROXY names is asked directly."""
    with WireServer() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", ".invalid")
        url = "https://pos.invalid"
        async with CrowdTwistClient(api_key=KEY, api_url=url, pos_url=url, retry=ONCE) as client:
            with pytest.raises(ConnectionFailedError, match="could not be resolved"):
                await client.points_awaiting_fulfillment("7")
        assert 0 == proxy.connections


@pytest.mark.usefixtures("_resolving")
@pytest.mark.parametrize("proxy", ["gopher://127.0.0.1", "http://127.0.0.1:port", "socks4://127.0.0.1"])
async def test_an_unusable_proxy_is_a_configuration_error(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy of a kind that can't be used is said to be."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    async with CrowdTwistClient(api_key=KEY, retry=ONCE) as client:
        with pytest.raises(ConfigurationError, match="proxy"):
            await client.points_awaiting_fulfillment("7")


async def test_an_injected_client_is_used_and_stays_open() -> None:
    """A client of the user's own sends, and is not closed."""
    with WireServer() as server:
        async with httpx.AsyncClient(headers={"X-Mine": "yes"}) as injected:
            async with make_client(server, http_client=injected) as client:
                assert 7 == (await client.points_awaiting_fulfillment("7")).user_id
            assert not injected.is_closed
        assert b"X-Mine: yes" in server.heads[0]


async def test_an_injected_client_s_read_body_is_taken() -> None:
    """An event hook that reads the body does not take it away."""

    async def read(response: httpx.Response) -> None:
        await response.aread()

    with WireServer() as server:
        async with httpx.AsyncClient(event_hooks={"response": [read]}) as injected:
            async with make_client(server, http_client=injected) as client:
                assert 7 == (await client.points_awaiting_fulfillment("7")).user_id


@pytest.mark.parametrize(
    ("error", "phase"),
    [
        (httpx.ConnectTimeout("slow"), "connect"),
        (httpx.PoolTimeout("slow"), "connect"),
        (httpx.ReadTimeout("slow"), "response"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_an_injected_client_s_timeouts(error: Exception, phase: str) -> None:
    """A timeout of the user's client is a `RequestTimeoutError` of the phase."""

    def fail(request: httpx.Request) -> httpx.Response:
        raise error

    async with httpx.AsyncClient(transport=httpx.MockTransport(fail)) as injected:
        outcome = await InjectedClientTransport(injected).send(
            Request("x", "http://127.0.0.1:1", "/", "", phase="response")
        )
    assert isinstance(outcome, RequestTimeoutError)
    assert phase == outcome.phase


async def test_an_injected_client_follows_no_redirect() -> None:
    """A client that follows redirects by default does not for us."""
    with WireServer() as other, WireServer(reply(b"", "302 Found", [f"Location: {other.url}"])) as server:
        async with httpx.AsyncClient(follow_redirects=True) as injected:
            async with make_client(server, http_client=injected) as client:
                with pytest.raises(UnexpectedRedirectError):
                    await client.points_awaiting_fulfillment("7")
        assert 0 == other.connections


@respx.mock
async def test_respx_intercepts_the_default_transport(respx_mock: respx.MockRouter) -> None:
    """Users can test their own code with respx."""
    route = respx_mock.get("https://sb-pos201.crowdtwist.com/fulfillment/users/7").respond(
        json={"user_id": 7, "total_points_awaiting_fulfillment": 1, "bonus_points_awaiting_fulfillment": 0}
    )
    async with CrowdTwistClient(api_key=KEY, client_id=201, environment="sb-") as client:
        assert 1 == (await client.points_awaiting_fulfillment("7")).total_points_awaiting_fulfillment
    assert f"CTApiKey {KEY}" == route.calls.last.request.headers["X-CT-Authorization"]


async def test_closing_while_a_request_is_under_way() -> None:
    """A connection that is in use when the transport closes is closed after its request."""
    with WireServer() as server:
        transport = HttpxTransport()
        origin = server.url
        assert isinstance(await transport.send(Request("x", origin, "/", "")), Reply)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.send, Request("x", origin, "/", ""))
            await anyio.lowlevel.checkpoint()
            await transport.aclose()
        assert not any(transport._idle.values())


def test_a_request_shows_neither_key_nor_user() -> None:
    """The repr of a request is safe to print; its URL and headers hold the key."""
    request = Request(
        "user_rewards",
        "https://h",
        "/v2.1/users/alice/rewards",
        "page=1",
        secret_query=Secret(f"api_key={KEY}"),
        secret_header=Secret(f"K {KEY}"),
    )
    assert not leaks(repr(request))
    assert "alice" not in repr(request)
    assert f"https://h/v2.1/users/alice/rewards?page=1&api_key={KEY}" == request.url
    assert f"K {KEY}" == request.headers["X-CT-Authorization"]
    assert "h" == request.host


async def test_an_injected_client_s_own_parameters_replace_nothing() -> None:
    """Defaults of the user's client do not change what is asked for."""
    page = reply(b'{"purchases": [], "paging": {}}')
    with WireServer(page) as server:
        defaults: dict[str, Any] = {"params": {"x": "1"}, "base_url": "https://other.invalid/base"}
        async with httpx.AsyncClient(**defaults) as injected:
            async with make_client(server, http_client=injected) as client:
                await client.user_purchases("7", page=2, date_start="2026-01-01")
        assert ["/users/7/purchases?id_type=id&date_start=2026-01-01&page=2"] == server.targets


async def test_an_injected_client_s_pool_stays_usable_after_timeouts() -> None:
    """Requests that wait in the user's smaller pool time out there, and leave it whole."""
    with WireServer(hang()) as silent, WireServer() as healthy:
        limits = httpx.Limits(max_connections=2)
        async with httpx.AsyncClient(limits=limits) as injected:
            async with make_client(silent, http_client=injected, timeout=0.1) as client:
                with contextlib.suppress(BaseExceptionGroup):
                    async with anyio.create_task_group() as tasks:
                        for _ in range(10):
                            tasks.start_soon(collect_failure, client)
            async with make_client(healthy, http_client=injected, timeout=2) as client:
                for _ in range(4):
                    assert 7 == (await client.points_awaiting_fulfillment("7")).user_id


async def collect_failure(client: CrowdTwistClient) -> None:
    """Make a call that is expected to time out."""
    with pytest.raises(RequestTimeoutError):
        await client.points_awaiting_fulfillment("7")


async def test_an_injected_client_s_raise_for_status_is_read() -> None:
    """A hook that raises for a refused key does not disguise it."""

    async def check(response: httpx.Response) -> None:
        response.raise_for_status()

    with WireServer(reply(b"{}", "403 Forbidden")) as server:
        async with httpx.AsyncClient(event_hooks={"response": [check]}) as injected:
            async with make_client(server, http_client=injected, retry=AT_ONCE) as client:
                with pytest.raises(AuthenticationError):
                    await client.points_awaiting_fulfillment("7")
        assert 1 == len(server.heads)


async def test_a_closed_injected_client_is_told() -> None:
    """What is wrong with the user's client is not taken for a network fault."""
    with WireServer() as server:
        injected = httpx.AsyncClient()
        await injected.aclose()
        async with make_client(server, http_client=injected, retry=AT_ONCE) as client:
            with pytest.raises(TransportError, match="is it closed") as caught:
                await client.points_awaiting_fulfillment("7")
    assert 1 == caught.value.attempts


async def test_an_injected_client_s_phase_is_followed() -> None:
    """A server that accepts and is silent is no connection that hangs."""
    with WireServer(hang()) as server:
        async with httpx.AsyncClient() as injected:
            async with make_client(server, http_client=injected, timeout=0.1) as client:
                with pytest.raises(RequestTimeoutError) as caught:
                    await client.points_awaiting_fulfillment("7")
    assert "response" == caught.value.phase


async def test_what_a_burst_leaves_idle_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that are idle for too long are closed by the next request."""
    with WireServer() as server:
        transport = HttpxTransport()
        async with make_client(server, transport=transport) as client:
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(client.points_awaiting_fulfillment, "7")
            [idle] = transport._idle.values()
            before = len(idle)
            monkeypatch.setattr("crowdtwist_async.transports.httpx._KEEPALIVE_SECONDS", -1.0)
            await client.points_awaiting_fulfillment("7")
            assert (True, 1) == (before > 1, len(idle))
