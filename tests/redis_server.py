"""
A redis-server of the tests' own on a free port: Debian's package, which README.md and `.ci/run` name.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

REQUIRED = "CROWDTWIST_TESTS_REQUIRE_REDIS"
_IS_REQUIRED = os.environ.get(REQUIRED) == "1"
_PATIENCE = 60.0


class RedisServer:
    """One server, without persistence; it can be stopped and started again."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Without a password."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it can be asked."""
        command = ["redis-server", "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        command += ["--port", str(self.port), "--logfile", str(self._folder / "redis.log"), *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started = time.monotonic()
        while self._process.poll() is None and time.monotonic() < started + _PATIENCE:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as asked:
                asked.sendall(b"PING\r\n")
                if asked.recv(100):  # an error too: it may want a password
                    return
            time.sleep(0.02)
        raise RuntimeError((self._folder / "redis.log").read_text())

    def stop(self) -> None:
        """Kill it: nothing is saved."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def require_redis() -> None:
    """Skip the test, or fail where the gates run, if there is no redis-server here."""
    if shutil.which("redis-server") is not None:
        return
    if _IS_REQUIRED:
        pytest.fail(f"redis-server is not on the path, and {REQUIRED} is set")
    pytest.skip("redis-server is not on the path: it is Debian's package of that name")


@contextmanager
def running(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A server with more options."""
    require_redis()
    server = RedisServer(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(name="shared_redis", scope="session")
def one_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests of a process, each of which has keys of its own."""
    with running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(name="redis_server")
def one_of_its_own(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may stop."""
    with running(tmp_path) as server:
        yield server
