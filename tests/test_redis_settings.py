"""
Which settings of a `RedisBudget` are refused, what its repr shows, and where it can't be used.
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import math
import pickle
import sys
from typing import Any

import anyio
import pytest
from conftest import KEY
from redis_server import RedisServer, one_for_all  # noqa: F401 - a fixture

from crowdtwist_async import ClientClosedError, ConfigurationError
from crowdtwist_async.budgets.redis import RedisBudget

PASSWORD = KEY.replace("/", "%2F").replace("%27", "%2527")
"""The key of all tests, as a URL has it: the canary looks for it everywhere."""


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost", "redis://localhost:6379"),
        (f"rediss://me:{PASSWORD}@store.example:6380/3", "rediss://***@store.example:6380/3"),
        ("redis://[::1]:7000/", "redis://[::1]:7000/"),
        (f"unix://me:{PASSWORD}@/run/redis.sock?db=2", "unix://***@/run/redis.sock"),
    ],
    ids=["plain", "password", "ipv6", "socket"],
)
def test_the_password_is_in_no_repr(url: str, shown: str) -> None:
    """Nor the user, nor the options."""
    budget = RedisBudget(url, fallback_per_minute=1)
    assert (
        f"RedisBudget({shown!r}, key='crowdtwist', per_minute=9700, burst=10, fallback_per_minute=1)"
    ) == repr(budget)


SHAPE = "the URL of Redis must look like rediss://"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            f"redis://:{PASSWORD}@store.example:6379",
            "the URL of Redis must be rediss: plain redis is for this machine only",
        ),
        (f"redis://:{PASSWORD}@127.0.0.1%2eexample.com", SHAPE),
        (f"https://:{PASSWORD}@localhost", SHAPE),
        (f"redis://:{PASSWORD}@localhost:port", SHAPE),
        (f"redis://:{PASSWORD}@localhost:0", SHAPE),
        (f"redis://:{PASSWORD}@localhost/name", SHAPE),
        (f"redis://:{KEY}@localhost/0", SHAPE),
        (f"redis://:{PASSWORD}@local host", SHAPE),
        (f"redis://:{PASSWORD}@", SHAPE),
        (f"redis://:{PASSWORD}@[::1", SHAPE),
        (f"unix://:{PASSWORD}@", SHAPE),
        ("unix://host/run/redis.sock", SHAPE),
        (
            f"rediss://:{PASSWORD}@store?ssl_cert_reqs=none",
            "the URL of Redis takes no options but db, ssl_ca_certs",
        ),
        (f"rediss://store/0#{PASSWORD}", "the URL of Redis takes no options but"),
        (f"redis://:{PASSWORD}@localhost?db=abc", "the db of the URL of Redis must be the number"),
        (f"unix://:{PASSWORD}@/run/redis.sock?db=", "the db of the URL of Redis must be the number"),
        (f"redis://:{PASSWORD}@localhost?ssl_ca_certs=/x", "the ssl_ca_certs of the URL of Redis must be"),
        (f"rediss://:{PASSWORD}@localhost?ssl_keyfile=%00", "the ssl_keyfile of the URL of Redis must be"),
        (f"rediss://:{PASSWORD}@localhost?ssl_certfile=", "the ssl_certfile of the URL of Redis must be"),
        (f"redis://:{PASSWORD}\udcff@localhost", SHAPE),
        (f"unix://:{PASSWORD}@/run/%00.sock", SHAPE),
        (6379, "the URL of Redis must be a str, not int"),
        (None, "the URL of Redis must be a str, not NoneType"),
    ],
    ids=str,
)
def test_a_url_that_can_t_be_used_is_refused(url: Any, sentence: str) -> None:
    """Before anything is sent, and without its password in the text or in a local of a frame."""
    with pytest.raises(ConfigurationError, match=f"^{sentence}"):
        RedisBudget(url)


@pytest.mark.parametrize(
    "arguments",
    [
        {"per_minute": 0},
        {"per_minute": math.inf},
        {"burst": 0},
        {"fallback_per_minute": 0},
        {"fallback_per_minute": math.inf},
        {"key": ""},
        {"key": b"crowdtwist"},
        {"key": "crowdtwist\udcff"},
    ],
    ids=str,
)
def test_settings_that_can_t_work_are_refused(arguments: dict[str, Any]) -> None:
    """None of them switches the pacing off."""
    with pytest.raises(ConfigurationError):
        RedisBudget("redis://localhost", **arguments)


def test_a_refused_one_has_a_repr() -> None:
    """Crash reporters print it."""
    assert "<RedisBudget refused>" == repr(RedisBudget.__new__(RedisBudget))


def test_it_can_t_be_copied() -> None:
    """Nor pickled: each process makes its own."""
    budget = RedisBudget("redis://localhost")
    for copied in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match="make one in each process"):
            copied(budget)


def test_it_belongs_to_one_event_loop(shared_redis: RedisServer) -> None:
    """The next loop makes its own."""
    budget = RedisBudget(shared_redis.url)

    async def use() -> None:
        async with budget:
            await budget.reserve()

    async def open_it() -> RedisBudget:
        opened = RedisBudget(shared_redis.url)
        await opened.__aenter__()
        return opened

    asyncio.run(use())
    opened = asyncio.run(open_it())
    with pytest.raises(ClientClosedError, match="another event loop"):
        asyncio.run(opened.reserve())


def test_it_says_that_it_needs_asyncio() -> None:
    """Where trio runs."""
    with pytest.raises(ConfigurationError, match="^RedisBudget runs on asyncio only"):
        anyio.run(RedisBudget("redis://localhost").reserve, backend="trio")


def test_without_redis_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra."""
    for name in ("_connection", "redis"):
        monkeypatch.delitem(sys.modules, f"crowdtwist_async.budgets.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ImportError, match=r"pip install 'crowdtwist-async\[redis\]'"):
        importlib.import_module("crowdtwist_async.budgets.redis")
