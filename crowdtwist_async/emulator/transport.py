"""
The emulator in process: a transport that calls the ASGI app instead of opening a socket.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import unquote

from anyio.lowlevel import checkpoint
from attrs import define, field

from crowdtwist_async.emulator.calls import Message, Receive, Scope, Send
from crowdtwist_async.errors import ConnectionFailedError, CrowdTwistError
from crowdtwist_async.transports import Reply, Request


@define(eq=False)
class EmulatorTransport:
    """
    A `Transport` for the client, on asyncio and trio.

    There is no connection to wait for and no compression: a body arrives as the app sends it.
    """

    _app: Callable[[Scope, Receive, Send], Awaitable[None]] = field(repr=False)

    async def send(self, request: Request, /) -> Reply | CrowdTwistError:
        """Ask the app; a connection that it resets or cuts is returned as an error."""
        # A request that never waits would starve the other tasks, and couldn't be cancelled.
        await checkpoint()
        request.phase = "response"
        exchange = _Exchange(request)
        try:
            await self._app(_scope(request), _receive, exchange.take)
        except ConnectionResetError:
            return ConnectionFailedError("the connection was reset before a reply")
        except ConnectionAbortedError:
            received, announced = len(exchange.body), exchange.headers.get("content-length", "?")
            return ConnectionFailedError(
                f"the connection was cut within the body: received {received} of {announced} bytes"
            )
        return Reply(exchange.status, exchange.headers, exchange.body)

    async def aclose(self) -> None:
        """Do nothing: the app holds nothing for a transport."""


@define(eq=False)
class _Exchange:
    """What the app has sent so far."""

    request: Request
    status: int = 0
    headers: dict[str, str] = field(factory=dict)
    body: bytes = b""

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.request.phase = "body"
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")


def _scope(request: Request) -> Scope:
    """The ASGI scope of a request, as a server would have read it from the wire."""
    path, _, query = request.target.partition("?")
    headers = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": request.origin.partition(":")[0],
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", request.host.encode()), *headers],
        "client": None,
        "server": None,
        "extensions": {},
    }


async def _receive() -> Message:
    """The request's body, which a GET doesn't have."""
    return {"type": "http.request", "body": b"", "more_body": False}
