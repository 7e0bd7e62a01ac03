"""
The transport over aiohttp, the extra `[aiohttp]`: on asyncio alone, for a fraction of httpx's CPU time.

aiohttp keeps the connections, speaks TLS and parses the replies. What else it would do is kept from it:
a retry of its own, redirects, cookies, decompressing, reading the environment, tracing.
"""

from __future__ import annotations

import select
import ssl
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import anyio.lowlevel
import sniffio

try:
    import aiohttp
    from yarl import URL
except ImportError as error:
    raise ImportError("AiohttpTransport needs aiohttp: pip install 'crowdtwist-async[aiohttp]'") from error

from crowdtwist_async.errors import (
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    CrowdTwistError,
    TransportError,
)
from crowdtwist_async.transports import USER_AGENT, Reply, Request
from crowdtwist_async.transports._body import MAX_BODY_BYTES, BodyReader, with_status
from crowdtwist_async.transports._environment import Trust, no_wire_spans, proxy_for, unusable_proxy
from crowdtwist_async.transports._faults import connection_error, proxy_refusal

_KEEPALIVE_SECONDS = 55.0
"""Below the 60 seconds after which most servers and balancers drop an idle connection."""
_CLOSE_SECONDS = 0.05
"""What closing may take: it is shielded, and a cancelled caller waits for it."""
_LINE_BYTES = 65_536
"""The longest line of a reply's head: aiohttp's own 8,190 is less than some cookies and policies take."""
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)
"""The caller of `send` cancels it in time."""
_PROXY_HEADERS = {"User-Agent": USER_AGENT}


class AiohttpTransport:
    """
    A `Transport` over aiohttp, on asyncio only.

    Honours `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, `SSL_CERT_FILE` and `SSL_CERT_DIR`, which it reads
    once for each host. HTTP/1.1 only. One serves one client, which closes it.

    Args:
        max_body_bytes: The decoded bytes of a body at most.
    """

    def __init__(self, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._max_body_bytes = max_body_bytes
        self._trust = Trust()
        self._ways: dict[str, _Way] = {}
        self._session: aiohttp.ClientSession | None = None
        self._in_flight = 0
        self._closed = False

    async def send(self, request: Request, /) -> Reply | CrowdTwistError:
        """Send one request over aiohttp's pool."""
        session = self._session or self._open()
        if isinstance(session, CrowdTwistError):
            return session
        self._in_flight += 1
        try:
            way = self._ways.get(request.origin) or await self._find_way(request.origin)
            if isinstance(way, CrowdTwistError):
                return way
            with no_wire_spans():
                return await _Attempt(request).make(session, way, self._max_body_bytes)
        finally:
            self._in_flight -= 1
            if self._closed:
                await self._close_when_idle()

    async def aclose(self) -> None:
        """Close all connections, as soon as the requests that are under way have ended."""
        self._closed = True
        await self._close_when_idle()

    async def _close_when_idle(self) -> None:
        if self._in_flight or self._session is None:
            return
        session, self._session = self._session, None
        with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
            await session.close()
            # asyncio closes a socket in the round after the one that it was asked in.
            await anyio.lowlevel.checkpoint()

    def _open(self) -> aiohttp.ClientSession | CrowdTwistError:
        if self._closed:
            return ClientClosedError("the transport is closed: make a new one for each client")
        if sniffio.current_async_library() != "asyncio":
            return ConfigurationError("AiohttpTransport runs on asyncio only: leave out transport= elsewhere")
        self._session = aiohttp.ClientSession(
            connector=_Connector(
                limit=0, keepalive_timeout=_KEEPALIVE_SECONDS, resolver=aiohttp.ThreadedResolver()
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=_NO_TIMEOUT,
            auto_decompress=False,
            max_line_size=_LINE_BYTES,
            max_field_size=_LINE_BYTES,
        )
        # Whoever instruments aiohttp adds to every session what sees its URLs, and so the key.
        self._session.trace_configs.clear()
        return self._session

    async def _find_way(self, origin: str) -> _Way | ConfigurationError:
        tls = await self._trust.of(origin)
        if isinstance(tls, ConfigurationError):
            return tls
        try:
            way = _Way(tls, _proxy(proxy_for(origin)))
        except Exception:  # noqa: BLE001 - urllib and yarl refuse a proxy in many ways, and may print it
            return unusable_proxy()
        self._ways[origin] = way
        return way


class _Way(NamedTuple):
    """How to reach an origin."""

    tls: ssl.SSLContext | None
    proxy: URL | None


class _Attempt:
    """One request, and what aiohttp's pool did for it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.connected = False
        """Whether a connection was made for it."""
        self.wire: Any = None
        """The asyncio transport that it was sent over."""
        self._response: aiohttp.ClientResponse | None = None

    async def make(
        self, session: aiohttp.ClientSession, way: _Way, max_body_bytes: int
    ) -> Reply | CrowdTwistError:
        """Send it, and read the whole reply."""
        token = _ATTEMPT.set(self)
        try:
            response = self._response = await session.get(
                URL(self.request.url, encoded=True),
                headers=self.request.headers,
                allow_redirects=False,
                middlewares=_MIDDLEWARES,
                proxy=way.proxy,
                proxy_headers=_PROXY_HEADERS,
                ssl=way.tls or True,
            )
            self.request.phase = "body"
            return await _read(response, max_body_bytes)
        except Exception as error:  # noqa: BLE001 - raised further, its frames would show the key
            failure = _failure(error)
        finally:
            _ATTEMPT.reset(token)
            self._leave()
        if isinstance(failure, ConnectionFailedError):
            failure.stale = not self.connected and self.request.phase == "response"
        return failure

    def _leave(self) -> None:
        """Give up the connection, if it is not back in the pool, where it may be another's already."""
        if self._response is not None and not self._response.closed:
            self._response.close()
        if self.wire is not None and self.wire.is_closing():
            # Closing waits for the other side to end TLS, which may never come.
            self.wire.abort()


_ATTEMPT: ContextVar[_Attempt] = ContextVar("_ATTEMPT")
"""The attempt that the current task makes."""


class _Connector(aiohttp.TCPConnector):
    """aiohttp's pool, which tells the attempt what it gets."""

    async def connect(self, *args: Any, **named: Any) -> aiohttp.connector.Connection:
        """Take a connection from the pool, or make one."""
        attempt = _ATTEMPT.get()
        connection = await super().connect(*args, **named)
        while not attempt.connected and _has_more(connection):
            wire = connection.transport
            connection.close()
            if wire is not None:
                wire.abort()  # as in `_leave`
            connection = await super().connect(*args, **named)
        attempt.wire, attempt.request.phase = connection.transport, "response"
        return connection

    async def _create_connection(self, *args: Any, **named: Any) -> Any:
        _ATTEMPT.get().connected = True
        return await super()._create_connection(*args, **named)


def _has_more(connection: aiohttp.connector.Connection) -> bool:
    """Whether bytes came while a connection was idle, or its end: they would pass for the next reply."""
    if connection.protocol is None or connection.protocol.should_close:
        return True
    wire = connection.transport
    socket = None if wire is None else wire.get_extra_info("socket")
    return socket is None or _is_readable(socket.fileno())


def _is_readable(number: int) -> bool:
    if number < 0:
        return True
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(number, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([number], [], [], 0)[0])  # on Windows


class _BrokenConnection(Exception):  # noqa: N818 - it never leaves this module
    """What broke a connection is its cause."""


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending again: it would do so without a permit, and not be counted."""
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _BrokenConnection from error


_MIDDLEWARES = (_send_once,)


async def _read(response: aiohttp.ClientResponse, max_body_bytes: int) -> Reply | CrowdTwistError:
    status, headers = response.status, _joined(response.headers)
    if 300 <= status < 400:
        return Reply(status, headers, b"")
    reader = BodyReader(headers.get("content-encoding"), max_body_bytes)
    content = response.content
    while not content.at_eof():
        problem = await reader.feed(await content.readany())
        if problem is not None:
            return with_status(status, headers, problem)
    body = reader.end()
    if isinstance(body, CrowdTwistError):
        return with_status(status, headers, body)
    return Reply(status, headers, body)


def _joined(multiple: Mapping[str, str]) -> dict[str, str]:
    """By lower-case name; a header that came twice is one list."""
    headers: dict[str, str] = {}
    for name, value in multiple.items():
        known = name.lower()
        headers[known] = f"{headers[known]}, {value}" if known in headers else value
    return headers


def _failure(error: Exception) -> CrowdTwistError:
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return proxy_refusal(retryable=error.status >= 500)
    if isinstance(error, _BrokenConnection | aiohttp.ClientError | OSError):
        return connection_error(_cause(error))
    return TransportError(f"aiohttp raised {type(error).__name__}, which it should not")


def _cause(error: BaseException) -> BaseException:
    """What aiohttp wrapped: its own errors inherit from those of `ssl`, without their attributes."""
    while isinstance(error, _BrokenConnection | aiohttp.ClientError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _proxy(url: str | None) -> URL | None:
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError(parts.scheme)
    return URL(url)
