"""
The default transport, over connections of httpx's own core, and an adapter for an injected client.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio

from crowdtwist_async.errors import (
    ConfigurationError,
    ConnectionFailedError,
    CrowdTwistError,
    TransportError,
)
from crowdtwist_async.transports import Reply, Request, timeout_error
from crowdtwist_async.transports._body import (
    MAX_BODY_BYTES,
    BodyReader,
    not_compressed,
    too_large,
    with_status,
)
from crowdtwist_async.transports._environment import (
    MadeOnce,
    Trust,
    no_wire_spans,
    proxy_for,
    unusable_proxy,
)
from crowdtwist_async.transports._faults import connection_error, proxy_refusal
from crowdtwist_async.transports._trace import CLOSE_SECONDS, KEEPALIVE_SECONDS, PhaseTrace

if TYPE_CHECKING:
    import httpx

    from crowdtwist_async.transports._connection import Connection


class HttpxTransport:
    """
    The default `Transport`.

    httpx's core, httpcore, makes the connections and speaks HTTP/1.1. Honours `HTTPS_PROXY`, `ALL_PROXY`,
    `NO_PROXY`, `SSL_CERT_FILE` and `SSL_CERT_DIR`.

    Args:
        max_body_bytes: The decoded bytes of a body at most.
    """

    def __init__(self, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._max_body_bytes = max_body_bytes
        self._idle: dict[str, list[Connection]] = {}
        self._trust = Trust()
        self._connection_class = MadeOnce(_connection_class)
        self._httpx = MadeOnce(lambda: import_module("httpx"))
        self._closed = False

    async def send(self, request: Request, /) -> Reply | CrowdTwistError:
        """Send one request on a connection of its own."""
        idle = self._idle.setdefault(request.origin, [])
        connection = await self._kept_connection(idle) or await self._new_connection(request.origin)
        if isinstance(connection, CrowdTwistError):
            return connection
        reusable = False
        try:
            with no_wire_spans():
                outcome, reusable = await self._exchange(connection, request)
        finally:
            if reusable and not self._closed:
                connection.rest()
                idle.append(connection)
            else:
                await connection.throw_away()
        return outcome

    async def aclose(self) -> None:
        """Close all idle connections; those in use close after their request."""
        self._closed = True
        connections = [connection for idle in self._idle.values() for connection in idle]
        self._idle.clear()
        await _close_all(connections)

    async def _exchange(
        self, connection: Connection, request: Request
    ) -> tuple[Reply | CrowdTwistError, bool]:
        """The outcome, and whether the connection can serve again."""
        try:
            status, headers, response = await connection.ask(request)
            request.phase = "body"
            outcome, clean = await _read(
                status, headers, response, self._max_body_bytes, connection.throw_away
            )
            return outcome, clean and not connection.has_more
        except Exception as error:  # noqa: BLE001 - raised further, its frames would show the key
            failure = _failure(error, request)
        if isinstance(failure, ConnectionFailedError):
            failure.stale = connection.is_stale(request)
        return failure, False

    async def _kept_connection(self, idle: list[Connection]) -> Connection | None:
        """The latest of those that are still open; what a burst left behind at the bottom is closed."""
        oldest = time.monotonic() - KEEPALIVE_SECONDS
        while idle and idle[0].idle_since < oldest:
            await idle.pop(0).throw_away()
        while idle:
            connection = idle.pop()
            if connection.is_usable:
                return connection
            await connection.throw_away()
        return None

    async def _new_connection(self, origin: str) -> Connection | ConfigurationError:
        tls = await self._trust.of(origin)
        if isinstance(tls, ConfigurationError):
            return tls
        connection_class = await self._connection_class.get()
        proxy = proxy_for(origin)
        if proxy is not None:
            await self._httpx.get()
        try:
            return connection_class(origin, tls, _proxy(proxy, tls))
        except Exception:  # noqa: BLE001 - httpx and urllib refuse a proxy in many ways, and may print it
            return unusable_proxy()


def _connection_class() -> type[Connection]:
    """With the first connection: importing httpcore takes longer than importing this package."""
    from crowdtwist_async.transports._connection import Connection

    return Connection


async def _close_all(connections: list[Connection]) -> None:
    """Close them all; a cancellation by asyncio, which no shield keeps out, is raised at the end."""
    while connections:
        try:
            await connections.pop().throw_away()
        except anyio.get_cancelled_exc_class():
            await _close_all(connections)
            raise


class InjectedClientTransport:
    """
    Sends over an `httpx.AsyncClient` or `httpx2.AsyncClient` that the user made; never closes it.

    Its pool, its proxies, its certificates and its event hooks are the user's. Redirects, cookies
    and its own authentication are switched off on each request. Its pool should have more
    connections than the client's `max_in_flight`: a request that is cancelled can block its place
    in httpcore's pool for good, often while it waits there.
    """

    def __init__(self, client: Any, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._client = client
        self._max_body_bytes = max_body_bytes

    async def send(self, request: Request, /) -> Reply | CrowdTwistError:
        """Send one request."""
        response = None
        try:
            with no_wire_spans():
                outgoing = self._build(request)
                response = await self._client.send(outgoing, stream=True, follow_redirects=False, auth=None)
                request.phase = "body"
                status, headers = response.status_code, response.headers
                if response.is_stream_consumed:
                    return _read_by_hook(response, self._max_body_bytes)
                outcome, _ = await _read(status, headers, response, self._max_body_bytes, response.aclose)
            return outcome
        except Exception as error:  # noqa: BLE001 - raised further, its frames would show the key
            return _refused_by_hook(error, self._max_body_bytes) or _failure(error, request)
        finally:
            if response is not None:
                with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                    await response.aclose()

    async def aclose(self) -> None:
        """Leave the client open: it is its maker's."""

    def _build(self, request: Request) -> Any:
        outgoing = self._client.build_request("GET", request.url, headers=request.headers)
        # A client with `params` of its own replaces the query of every URL.
        outgoing.url = outgoing.url.copy_with(raw_path=request.target.encode())
        outgoing.headers.pop("cookie", None)
        seconds = request.timeout
        # Waiting for the pool must end by itself: see the class.
        waits = {"pool": seconds / 2, "connect": seconds, "read": seconds, "write": seconds}
        outgoing.extensions = {
            **outgoing.extensions,
            "timeout": waits,
            "trace": PhaseTrace(request).follow,
        }
        return outgoing


async def _read(
    status: int,
    headers: Mapping[str, str],
    response: Any,
    max_body_bytes: int,
    close: Callable[[], Awaitable[None]],
) -> tuple[Reply | CrowdTwistError, bool]:
    """The reply with its body, and whether the connection is left clean."""
    if 300 <= status < 400:
        return Reply(status, headers, b""), False
    reader = BodyReader(headers.get("content-encoding"), max_body_bytes)
    chunks = aiter(response.stream)
    async for chunk in chunks:
        problem = await reader.feed(chunk)
        if problem is not None:
            await _stop_reading(chunks, close)
            return with_status(status, headers, problem), False
    body = reader.end()
    await response.aclose()
    if isinstance(body, CrowdTwistError):
        return with_status(status, headers, body), False
    return Reply(status, headers, body), True


async def _stop_reading(chunks: AsyncIterator[bytes], close: Callable[[], Awaitable[None]]) -> None:
    """
    End a body before its end.

    httpcore reads in generators within generators, and trio warns of each that is left half-way:
    on a closed connection they run into an error, and so to their end.
    """
    with anyio.move_on_after(CLOSE_SECONDS, shield=True), suppress(Exception):
        await close()
        async for _ in chunks:
            pass


def _read_by_hook(response: Any, max_body_bytes: int) -> Reply | CrowdTwistError:
    """The reply, where one of the client's event hooks has read the body."""
    if len(response.content) > max_body_bytes:
        return too_large(max_body_bytes)
    return Reply(response.status_code, response.headers, response.content)


def _refused_by_hook(error: Exception, max_body_bytes: int) -> Reply | CrowdTwistError | None:
    """The reply that an event hook's `raise_for_status` has made an exception of."""
    response = getattr(error, "response", None)
    if response is None:
        return None
    if response.is_stream_consumed:
        return _read_by_hook(response, max_body_bytes)
    return Reply(response.status_code, response.headers, b"")


def _failure(error: Exception, request: Request) -> CrowdTwistError:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "TimeoutException" in kinds:
        if kinds & {"ConnectTimeout", "PoolTimeout"}:
            request.phase = "connect"
        return timeout_error(request)
    if "DecodingError" in kinds:
        return not_compressed()
    if "ProxyError" in kinds:
        return proxy_refusal(retryable=str(error).startswith("5"))
    # By name, as an injected client may be of another library that works alike.
    if kinds & {"TransportError", "NetworkError", "ProtocolError", "OSError", "StreamError"}:
        return connection_error(error)
    return TransportError(
        f"the HTTP client raised {type(error).__name__}: is it closed, or does a hook of it fail?"
    )


def _proxy(url: str | None, tls: ssl.SSLContext | None) -> httpx.Proxy | None:
    if url is None:
        return None
    import httpx

    parts = urlsplit(url)
    if not parts.hostname or parts.port == 0:  # a port beyond 65,535 raises
        raise ValueError("no proxy")
    return httpx.Proxy(url, ssl_context=tls if url.lower().startswith("https:") else None)
