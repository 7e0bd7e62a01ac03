"""
A raw server on a real socket: what is sent, byte by byte, and when the connection ends, is the test's choice.
"""

from __future__ import annotations

import gc
import os
import socket
import ssl
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

Act = Callable[["Exchange"], None]
"""What happens to one request."""

PAGE = b'{"rewards": [], "paging": {"total": 0, "pages": 0}}'
POINTS = b'{"user_id": 7, "total_points_awaiting_fulfillment": 40, "bonus_points_awaiting_fulfillment": 10}'


class Exchange:
    """One request and the connection that it came on."""

    def __init__(self, connection: socket.socket, head: bytes, stopping: threading.Event) -> None:
        self.connection = connection
        self.head = head
        self.stopping = stopping
        self.open = True

    def send(self, *parts: bytes, pause: float = 0.0) -> None:
        """Send parts, with a pause after each that ends when the server stops."""
        for part in parts:
            self.connection.sendall(part)
            if pause:
                self.stopping.wait(pause)

    def close(self, *, reset: bool = False) -> None:
        """End the connection."""
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.open = False


def reply(body: bytes = POINTS, status: str = "200 OK", headers: Sequence[str] = ()) -> Act:
    """Answer in full, and keep the connection."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def raw(*parts: bytes, pause: float = 0.0, close: bool = False, reset: bool = False) -> Act:
    """Send exactly these bytes, then keep, close or reset the connection."""

    def act(exchange: Exchange) -> None:
        exchange.send(*parts, pause=pause)
        if close or reset:
            exchange.close(reset=reset)

    return act


def hang(*parts: bytes) -> Act:
    """Send these bytes, then nothing until the server stops."""

    def act(exchange: Exchange) -> None:
        exchange.send(*parts)
        exchange.stopping.wait()
        exchange.close()

    return act


def open_sockets() -> int:
    """The sockets that this process has open."""
    count = 0
    for descriptor in Path("/dev/fd").iterdir():
        with suppress(OSError):
            count += stat.S_ISSOCK(os.fstat(int(descriptor.name)).st_mode)
    return count


@contextmanager
def nothing_left() -> Iterator[None]:
    """Check that as many sockets are open afterwards as before."""
    before = open_sockets()
    yield
    gc.collect()
    assert before == open_sockets()


class WireServer:
    """Plays one act a request; the last act repeats."""

    def __init__(self, *acts: Act, tls: ssl.SSLContext | None = None) -> None:
        self.acts = acts or (reply(),)
        self.heads: list[bytes] = []
        self.connections = 0
        self._tls = tls
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.02)

    @property
    def url(self) -> str:
        """Where it listens."""
        scheme = "https" if self._tls else "http"
        return f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def targets(self) -> list[str]:
        """Path and query of every request so far."""
        return [head.split(b" ")[1].decode() for head in self.heads]

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                connection, _ = self._listener.accept()
                self.connections += 1
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(0.02)
        with suppress(OSError):
            if self._tls:
                connection.settimeout(2)
                connection = self._tls.wrap_socket(connection, server_side=True)
                connection.settimeout(0.02)
            while (head := self._read_head(connection)) is not None:
                exchange = Exchange(connection, head, self._stopping)
                self._next_act(head)(exchange)
                if not exchange.open:
                    break
        connection.close()

    def _next_act(self, head: bytes) -> Act:
        with self._lock:
            number = len(self.heads)
            self.heads.append(head)
        return self.acts[min(number, len(self.acts) - 1)]

    def _read_head(self, connection: socket.socket) -> bytes | None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if self._stopping.is_set():
                return None
            with suppress(TimeoutError):
                data = connection.recv(65536)
                if not data:
                    return None
                head += data
        return head
