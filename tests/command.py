"""
The command in this process or in one of its own, and whom it asks.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import KEY, leaks

from crowdtwist_async import CrowdTwistError, Reply, Request
from crowdtwist_async.cli import main
from crowdtwist_async.emulator import Emulator
from crowdtwist_async.emulator.server import EmulatorServer
from crowdtwist_async.transports.aiohttp import AiohttpTransport

USER = "10000001"
MEMBERS = 12
_IDS = r"1000\d{4}|@example\.com|555\d{7}"

on_every_name = pytest.mark.parametrize("name", ["points", "rewards", "purchases"])


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The JSON Lines on standard output; anything else there is an error."""
        return [json.loads(line) for line in self.out.splitlines()]

    def refused(self, code: int, sentence: str) -> bool:
        """Whether it ended so: nothing printed, and one sentence that matches."""
        return (code, "") == (self.code, self.out) and bool(
            re.fullmatch(f"crowdtwist: {sentence}\n", self.err)
        )


Command = Callable[..., Ended]


def checked(ended: Ended) -> Ended:
    """What holds for every command: no traceback, no key, and no member's id on standard error."""
    assert "Traceback" not in ended.err
    assert not re.search(_IDS, ended.err), ended.err
    assert not leaks(ended.out + ended.err)
    return ended


@pytest.fixture(name="_no_account", autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start from an environment that names no account."""
    for name in os.environ:
        if name.startswith("CROWDTWIST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture(name="crowdtwist")
def in_this_process(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process."""

    def run(*arguments: object) -> Ended:
        code = main([str(argument) for argument in arguments])
        return checked(Ended(code, *capsys.readouterr()))

    return run


@pytest.fixture(name="emulator")
def emulated(monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """What `--emulator` asks."""
    made = Emulator(members=MEMBERS, api_key=KEY, rewards=25)
    monkeypatch.setattr("crowdtwist_async.cli._connect.Emulator", lambda members: made)
    return made


@contextmanager
def asked_on_a_socket(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have commands without `--emulator` ask this one, over a socket, with the right key."""
    with EmulatorServer(emulator) as running:
        monkeypatch.setenv("CROWDTWIST_API_URL", running.url)
        monkeypatch.setenv("CROWDTWIST_POS_URL", running.url)
        monkeypatch.setenv("CROWDTWIST_API_KEY", KEY)
        yield


@pytest.fixture(name="server")
def server_over_a_socket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """What commands without `--emulator` ask."""
    made = Emulator(members=MEMBERS, api_key=KEY, rewards=25)
    with asked_on_a_socket(made, monkeypatch):
        yield made


@pytest.fixture(name="ids")
def ids_of_all(tmp_path: Path) -> Path:
    """A file with the ids of all members."""
    path = tmp_path / "ids.txt"
    path.write_text("\n".join(Emulator(members=MEMBERS).member_ids()))
    return path


def requests_over_aiohttp(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """The requests that aiohttp sends from now on."""
    sent: list[Request] = []
    send = AiohttpTransport.send

    async def noting(self: AiohttpTransport, request: Request, /) -> Reply | CrowdTwistError:
        sent.append(request)
        return await send(self, request)

    monkeypatch.setattr(AiohttpTransport, "send", noting)
    return sent


def count_of(emulator: Emulator, name: str, user: str = USER) -> int:
    """How many rows one member has."""
    if name == "points":
        return 1
    return emulator.rewards_of(user) if name == "rewards" else emulator.purchases_of(user)


def count_of_all(emulator: Emulator, name: str) -> int:
    """How many rows all members have."""
    return sum(count_of(emulator, name, user) for user in emulator.member_ids())


def python_m(*arguments: object) -> list[str]:
    """The same command in a process of its own, which takes warnings for errors."""
    module = ["-W", "error", "-m", "crowdtwist_async"]
    return [sys.executable, *module, *[str(argument) for argument in arguments]]


def process(*arguments: object, stdin: str = "") -> Ended:
    """Run it to its end."""
    done = subprocess.run(python_m(*arguments), input=stdin, capture_output=True, text=True, timeout=60)
    return checked(Ended(done.returncode, done.stdout, done.stderr))
