"""
`--budget` and `CROWDTWIST_BUDGET`: commands that share the request rate over a real redis-server.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from command import (  # noqa: F401 - fixtures
    MEMBERS,
    USER,
    Command,
    emulated,
    in_this_process,
    no_account,
    server_over_a_socket,
)
from conftest import KEY, leaks
from redis_server import RedisServer, one_for_all  # noqa: F401 - a fixture

from crowdtwist_async.emulator import Emulator

PASSWORD = KEY.replace("/", "%2F").replace("%27", "%2527")


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a machine be slow."""
    monkeypatch.setattr("crowdtwist_async.budgets._connection._PATIENCE", 30.0)


@pytest.fixture(name="key")
def new_key() -> str:
    """A key that no other test has."""
    return f"command-{uuid4()}"


@pytest.fixture(name="asked")
def a_client(shared_redis: RedisServer) -> Iterator[redis.Redis]:
    """The server, to be looked at."""
    with redis.Redis(port=shared_redis.port) as client:
        yield client


def test_an_export_shares_its_rate(
    crowdtwist: Command, emulator: Emulator, shared_redis: RedisServer, asked: redis.Redis, key: str
) -> None:
    """`--per-minute` is the rate of all who name the key."""
    ended = crowdtwist(
        *("export", "points", "--emulator", "-o", "-", "--per-minute", 60_000),
        *("--budget", shared_redis.url, "--budget-name", key),
    )
    assert (0, MEMBERS) == (ended.code, len(ended.rows))
    assert b"hash" == asked.type(key)
    assert MEMBERS == emulator.stats.requests


def test_a_command_waits_for_its_turn(
    crowdtwist: Command, emulator: Emulator, shared_redis: RedisServer, asked: redis.Redis, key: str
) -> None:
    """Permits that other programs took come before its own."""
    seconds, microseconds = asked.time()
    taken_until = seconds * 1_000_000 + microseconds + 2_000_000
    asked.hset(key, mapping={"next": taken_until, "seen": taken_until - 2_000_000})
    started = time.monotonic()
    ended = crowdtwist("points", USER, "--emulator", "--budget", shared_redis.url, "--budget-name", key)
    assert 0 == ended.code
    assert time.monotonic() - started > 1.5
    assert 1 == emulator.stats.requests


@pytest.mark.parametrize("name", ["points", "rewards", "purchases"])
def test_single_members_take_their_permits_too(
    crowdtwist: Command,
    server: Emulator,
    shared_redis: RedisServer,
    asked: redis.Redis,
    key: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the environment, which shows the password to nobody."""
    monkeypatch.setenv("CROWDTWIST_BUDGET", shared_redis.url)
    assert 0 == crowdtwist(name, USER, "--budget-name", key).code
    assert b"hash" == asked.type(key)
    assert server.stats.requests


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("points", USER), id="a member"),
        pytest.param(("export", "points", "--emulator", "-o", "out.csv"), id="an export"),
        pytest.param(("export", "points", "--ids", "ids", "-o", "out.csv", "--dask", "local"), id="dask"),
    ],
)
def test_a_name_without_a_redis_is_refused(
    crowdtwist: Command, server: Emulator, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """As where cron does not know the variable: a rate of its own would come on top of that of the others."""
    monkeypatch.delenv("CROWDTWIST_BUDGET", raising=False)
    ended = crowdtwist(*command, "--budget-name", "program-201")
    assert ended.refused(2, "--budget-name names a rate in Redis, .* set CROWDTWIST_BUDGET, or give --budget")
    assert 0 == server.stats.requests


def test_the_emulator_heeds_no_environment(
    crowdtwist: Command, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It belongs to no account."""
    monkeypatch.setenv("CROWDTWIST_BUDGET", "redis://127.0.0.1:1")
    assert 0 == crowdtwist("points", USER, "--emulator").code
    assert 1 == emulator.stats.requests


def test_a_redis_that_is_gone_ends_a_command(crowdtwist: Command, emulator: Emulator) -> None:
    """Nothing is sent, and the sentence says why."""
    ended = crowdtwist("points", USER, "--emulator", "--budget", "redis://127.0.0.1:1")
    assert ended.refused(1, r"the request budget at redis://127.0.0.1:1 can't be asked: no connection .*")
    assert 0 == emulator.stats.requests


def test_a_redis_that_is_gone_stops_an_export(crowdtwist: Command, emulator: Emulator) -> None:
    """As an outage does: it can go on, and no member has failed."""
    ended = crowdtwist(
        *("export", "points", "--emulator", "-o", "out.csv", "--fresh", "--max-outage", "0s"),
        *("--budget", "redis://127.0.0.1:1", "--summary", "summary.json"),
    )
    assert 75 == ended.code
    assert "the request budget at redis://127.0.0.1:1 can't be asked" in ended.err
    assert 0 == json.loads(Path("summary.json").read_text())["failed"]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its own."""
    monkeypatch.chdir(tmp_path_factory.mktemp("folder"))


@pytest.mark.parametrize("way", ["flag", "environment"])
def test_a_url_that_can_t_be_used_is_a_usage_error(
    crowdtwist: Command, server: Emulator, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its password is not printed."""
    url = f"redis://:{PASSWORD}@store.example"
    if way == "environment":
        monkeypatch.setenv("CROWDTWIST_BUDGET", url)
    ended = crowdtwist("points", USER, *(("--budget", url) if way == "flag" else ()))
    assert ended.refused(2, "the URL of Redis must be rediss: .*")
    assert not leaks(ended.err)
    assert 0 == server.stats.requests


def test_without_redis_the_command_says_what_to_install(
    crowdtwist: Command, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extra, which only this needs."""
    for name in ("_connection", "redis"):
        monkeypatch.delitem(sys.modules, f"crowdtwist_async.budgets.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    ended = crowdtwist("points", USER, "--emulator", "--budget", "redis://127.0.0.1:1")
    assert ended.refused(2, r"RedisBudget needs redis: pip install 'crowdtwist-async\[redis\]'")
    assert 0 == emulator.stats.requests
