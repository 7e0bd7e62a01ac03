"""
One connection of httpcore's, without httpx and a pool around it: they take half of a request's CPU time.

A connection is taken, used by one request, and given back; after a failure or a cancellation it is thrown
away. One pool for all would do the sending too, but httpcore scans it on every request, and a cancelled
request can lose its place in it for good.
"""

from __future__ import annotations

import math
import ssl
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import httpcore

from crowdtwist_async.transports import Request
from crowdtwist_async.transports._trace import CLOSE_SECONDS, KEEPALIVE_SECONDS, PhaseTrace

if TYPE_CHECKING:
    import httpx

_Place = tuple[bytes, bytes, int | None]
"""Scheme, host and port, as httpcore wants them."""


class Connection:
    """
    A connection to one origin, made by its first request.

    Args:
        origin: Scheme, host and port.
        tls: What TLS to it trusts.
        proxy: The proxy to reach it by.

    Raises:
        ValueError: The proxy is of a kind that can't be used.
    """

    def __init__(self, origin: str, tls: ssl.SSLContext | None, proxy: httpx.Proxy | None) -> None:
        parts = urlsplit(origin)
        self._place: _Place = (parts.scheme.encode(), (parts.hostname or "").encode(), parts.port)
        self._host = parts.netloc.encode()
        self._is_direct = proxy is None
        self._wire = _proxied(proxy, tls) if proxy else _direct(self._place, tls)
        self._trace: PhaseTrace | None = None
        self._socket: Any = None
        self.idle_since = math.inf

    async def ask(self, request: Request) -> tuple[int, dict[str, str], httpcore.Response]:
        """Send a request and wait for the status and the headers of the reply."""
        scheme, host, port = self._place
        url = httpcore.URL(scheme=scheme, host=host, port=port, target=request.target.encode())
        headers = [(name.encode(), value.encode()) for name, value in request.headers.items()]
        self._trace = PhaseTrace(request)
        extensions = {}
        if self._is_direct and self._socket is not None:
            request.phase = "response"  # nothing is left to connect, and following the trace takes its time
        else:
            extensions["trace"] = self._trace.follow
        response = await self._wire.handle_async_request(
            httpcore.Request(b"GET", url, headers=[(b"Host", self._host), *headers], extensions=extensions)
        )
        return response.status, _headers_of(response), response

    def is_stale(self, request: Request) -> bool:
        """Whether a failure now means that the server had closed a connection that was kept for it."""
        return self._trace is not None and not self._trace.connected and request.phase == "response"

    def rest(self) -> None:
        """Keep the connection for the next request."""
        self.idle_since = time.monotonic()
        self._note_socket()

    @property
    def has_more(self) -> bool:
        """
        Whether more came than the reply: the next request would take it for its own.

        What the socket still holds, `is_usable` looks at when the next request comes.
        """
        wire: Any = self._wire
        while wire is not None and not hasattr(wire, "_h11_state"):
            inner = wire.connections if isinstance(wire, httpcore.AsyncConnectionPool) else [wire._connection]  # noqa: SLF001
            wire = inner[0] if inner else None
        if wire is None or wire._h11_state.trailing_data[0]:  # noqa: SLF001 - nothing public tells
            return True
        stream = wire._network_stream  # noqa: SLF001 - as above
        return _has_unread(stream) or _holds_more(stream.get_extra_info("ssl_object"))

    @property
    def is_usable(self) -> bool:
        """Whether it is still open, as far as can be seen; one through a proxy opens itself again."""
        wire = self._wire
        return not isinstance(wire, httpcore.AsyncHTTPConnection) or (
            wire.is_available() and not wire.has_expired()
        )

    async def throw_away(self) -> None:
        """Close, whatever happens to the caller."""
        self._note_socket()
        # A handshake that is cancelled leaves its socket open, and httpcore's connection knows of none.
        for part in (self._wire, self._socket):
            if part is not None:
                with anyio.move_on_after(CLOSE_SECONDS, shield=True), suppress(Exception):
                    await part.aclose()

    def _note_socket(self) -> None:
        if self._trace is not None:
            self._socket, self._trace = self._trace.socket or self._socket, None


def _has_unread(stream: Any) -> bool:
    """Whether anyio has taken more from asyncio than httpcore asked for, which is 64 KiB at once."""
    stream = getattr(stream, "_stream", None)
    while hasattr(stream, "transport_stream"):
        stream = stream.transport_stream
    return bool(getattr(getattr(stream, "_protocol", None), "read_queue", None))


def _holds_more(tls: ssl.SSLObject | None) -> bool:
    """Whether TLS has taken more from the socket than was read, or the server's goodbye."""
    if tls is None:
        return False
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        return True
    return True


def _headers_of(response: httpcore.Response) -> dict[str, str]:
    """A reply's headers by lower-case name; those that came more than once joined."""
    headers: dict[str, str] = {}
    for name, value in response.headers:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _direct(place: _Place, tls: ssl.SSLContext | None) -> httpcore.AsyncHTTPConnection:
    scheme, host, port = place
    origin = httpcore.URL(scheme=scheme, host=host, port=port, target=b"/").origin
    return httpcore.AsyncHTTPConnection(origin, tls, keepalive_expiry=KEEPALIVE_SECONDS)


def _proxied(proxy: httpx.Proxy, tls: ssl.SSLContext | None) -> httpcore.AsyncHTTPProxy:
    """A pool of one."""
    url = proxy.url
    if url.scheme not in ("http", "https"):
        raise ValueError(url.scheme)
    return httpcore.AsyncHTTPProxy(
        proxy_url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        proxy_auth=proxy.raw_auth,
        proxy_headers=proxy.headers.raw,
        ssl_context=tls,
        proxy_ssl_context=proxy.ssl_context,
        max_connections=1,
        max_keepalive_connections=1,
        keepalive_expiry=KEEPALIVE_SECONDS,
    )
