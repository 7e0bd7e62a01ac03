"""
The emulator on a socket, on uvicorn: faults reset and cut real connections.

Nothing of a request is logged: its URL holds the key and a user id.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import closing, suppress
from threading import Thread
from types import TracebackType
from typing import Any, Self

from anyio import CancelScope
from anyio.to_thread import run_sync

try:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
    from uvicorn.server import ServerState
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the emulator's server needs uvicorn: pip install 'crowdtwist-async[cli]'", name=error.name
    ) from error

from crowdtwist_async.emulator.app import Emulator

_BACKLOG = 2048
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def serve(
    emulator: Emulator,
    host: str = "127.0.0.1",
    port: int = 8777,
    announce: Callable[[str], object] | None = None,
) -> None:
    """
    Serve until the process is interrupted; call it from the main thread.

    Args:
        emulator: What answers.
        host: The address to listen on; by default no other machine gets in.
        port: 0 takes a free one.
        announce: Called with the URL as soon as it takes connections.

    Raises:
        OSError: The address is in use, or not this machine's.
    """
    with closing(_listen(host, port)) as listener:
        if announce is not None:
            announce(_url(listener))
        with suppress(KeyboardInterrupt):
            _Server(emulator).run([listener])


class EmulatorServer:
    """
    The emulator on a socket as long as a `with` or an `async with` lasts, in a thread of its own.

    The socket listens as soon as it is entered. Leaving cuts what is still open, a request that
    a fault delays included.

    Args:
        emulator: What answers.
        host: The address to listen on; by default no other machine gets in.
        port: 0 takes a free one.
    """

    def __init__(self, emulator: Emulator, host: str = "127.0.0.1", port: int = 0) -> None:
        self._emulator = emulator
        self._address = host, port
        self.url = ""
        """Where it listens, such as `http://127.0.0.1:40123`; empty before entering."""
        self._is_entered = False

    def __enter__(self) -> Self:
        if self._is_entered:
            raise RuntimeError("the server runs already: make another EmulatorServer")
        self._listener = _listen(*self._address)
        self._server = _Server(self._emulator)
        self._thread = Thread(target=_run, args=(self._server, self._listener), daemon=True)
        try:
            self._thread.start()
        except BaseException:  # no more threads, or Ctrl-C
            self._server.should_exit = True
            self._listener.close()
            raise
        self.url = _url(self._listener)
        self._is_entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()
        self._is_entered = False

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # It stops even if this await is cancelled by asyncio, which no shield keeps out.
        self._server.should_exit = True
        with CancelScope(shield=True):
            await run_sync(self.__exit__, kind, error, trace)


def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    # uvicorn leaves it open when it is to stop before it has begun.
    with listener:
        server.run([listener])


class _State(ServerState):
    """What a server and its connections know of each other."""

    is_ending = False


class _Config(uvicorn.Config):
    """Without what logs whole requests where a program has its loggers at the level of uvicorn's TRACE."""

    def load(self) -> None:
        super().load()
        self.loaded_app = self.app


class _Server(uvicorn.Server):
    """A server that stops without waiting for the connections that are still open."""

    def __init__(self, emulator: Emulator) -> None:
        super().__init__(
            _Config(
                emulator,
                http=_Protocol,
                ws="none",
                lifespan="off",
                loop="asyncio",
                backlog=_BACKLOG,
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
            )
        )
        self.server_state: _State = _State()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.server_state.is_ending = True
        loop = asyncio.get_running_loop()
        with suppress(NotImplementedError):  # of Windows' event loop
            for listener in sockets or ():
                loop.remove_reader(listener)
        await asyncio.sleep(0)  # makes what was accepted a connection: the listener's end would lose it
        for connection in self.server_state.connections:
            connection.transport.abort()
        for task in self.server_state.tasks:
            task.cancel()
        await super().shutdown(sockets)


class _Protocol(H11Protocol):
    """One connection, which a fault can cut, and whose end ends the request on it."""

    server_state: _State
    _answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        super().connection_made(transport)
        self.access_log = False
        self._emulator, self.app = self.app, self._answer
        if self.server_state.is_ending:
            # It was accepted before the listener closed, and uvicorn would wait for it.
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._answering is not None:
            self._answering.cancel()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the app; uvicorn takes its return for an error, unless the connection is gone by then."""
        self._answering = asyncio.current_task()
        with suppress(asyncio.CancelledError):  # the connection is gone
            try:
                await self._emulator(scope, receive, send)
            except ConnectionError as fault:
                self._cut(reset=isinstance(fault, ConnectionResetError))
                await asyncio.Event().wait()
        self._answering = None

    def _cut(self, *, reset: bool) -> None:
        if reset:
            # Closing sends a FIN otherwise, which some clients take for an empty reply.
            connection = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    # Connections inherit it. asyncio sets it only on sockets that name their protocol, and without
    # it a reply in two parts waits 40 ms for the client's acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
