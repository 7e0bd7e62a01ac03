"""
Calls that may block for ever: off the event loop, and left behind when nobody waits for them.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextvars import ContextVar
from threading import Event, Thread, current_thread

import anyio
import anyio.from_thread
import pytest
from anyio.lowlevel import current_token

from crowdtwist_async._threads import in_daemon_thread

PATIENCE = 30.0
NAMED: ContextVar[str] = ContextVar("NAMED")
SILENT = """
import os
from fcntl import ioctl
from struct import unpack
from termios import FIONREAD

import anyio
from crowdtwist_async.export import read_ids
from crowdtwist_async._threads import in_daemon_thread

async def main():
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(in_daemon_thread, read_ids("-").count)
            # What is written to it is read, and the thread waits for more.
            while unpack("i", ioctl(0, FIONREAD, bytes(4))) != (0,):
                await anyio.sleep(0.01)
            scope.cancel()
    print("cancelled")

anyio.run(main, backend={backend!r})
"""


@pytest.mark.anyio
async def test_the_call_is_made_in_another_thread() -> None:
    """Its result comes back, and it sees the caller's context."""
    NAMED.set("here")

    thread, name = await in_daemon_thread(lambda: (current_thread(), NAMED.get()))

    assert (True, "here") == (thread.daemon, name)
    assert current_thread() is not thread


@pytest.mark.anyio
@pytest.mark.parametrize("error", [LookupError("gone"), SystemExit(3)], ids=repr)
async def test_an_error_is_raised_as_it_is(error: BaseException) -> None:
    """Whatever its kind."""

    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await in_daemon_thread(fail)

    assert error is caught.value


@pytest.mark.anyio
@pytest.mark.parametrize("fails", [False, True], ids=["returns", "fails"])
async def test_a_cancellation_does_not_wait(fails: bool) -> None:
    """What the call says afterwards goes to nobody."""
    token = current_token()
    answered, ended = Event(), Event()

    def call() -> None:
        anyio.from_thread.run_sync(scope.cancel, token=token)
        answered.wait(PATIENCE)
        ended.set()
        if fails:
            raise LookupError("too late")

    with anyio.CancelScope() as scope:
        await in_daemon_thread(call)

    assert (True, False) == (scope.cancelled_caught, ended.is_set())
    answered.set()
    assert await anyio.to_thread.run_sync(ended.wait, PATIENCE)


async def leave_behind(answered: Event, threads: list[Thread]) -> None:
    """Cancel a call that goes on until it is answered."""
    token = current_token()

    def call() -> None:
        threads.append(current_thread())
        anyio.from_thread.run_sync(scope.cancel, token=token)
        answered.wait(PATIENCE)

    with anyio.CancelScope() as scope:
        await in_daemon_thread(call)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_call_may_outlive_the_event_loop(backend: str) -> None:
    """Its thread then ends without a word."""
    answered = Event()
    threads: list[Thread] = []

    anyio.run(leave_behind, answered, threads, backend=backend)
    answered.set()
    [thread] = threads
    thread.join(PATIENCE)

    assert not thread.is_alive()


def test_a_call_may_end_with_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is being closed takes a call that it never makes: the thread must not wait for that."""
    answered = Event()
    threads: list[Thread] = []
    alive: list[bool] = []
    close = asyncio.SelectorEventLoop.close

    def close_after_the_call(loop: asyncio.SelectorEventLoop) -> None:
        answered.set()
        threads[0].join(1)
        alive.append(threads[0].is_alive())
        close(loop)

    monkeypatch.setattr(asyncio.SelectorEventLoop, "close", close_after_the_call)
    anyio.run(leave_behind, answered, threads, backend="asyncio")

    assert [False] == alive


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_silent_standard_input_does_not_hold_up_the_exit(backend: str) -> None:
    """Nor the cancellation: the process ends while its standard input is still open."""
    command = [sys.executable, "-W", "error", "-c", SILENT.format(backend=backend)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdin.write(b"1\n")
        running.stdin.flush()
        code = running.wait(PATIENCE)
        said = (running.stdout.read(), running.stderr.read())

    assert (0, b"cancelled\n", b"") == (code, *said)
