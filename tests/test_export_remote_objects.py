"""
Objects: what is tried again, and what is said of a store that refuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fsspec.asyn import get_loop
from fsspec.implementations.memory import MemoryFileSystem
from stores import URL, empty_store

from crowdtwist_async import StorageError
from crowdtwist_async.export.remote import objects
from crowdtwist_async.export.remote.objects import Objects

GOES_ON = "Put that right and export again: it goes on from what was committed"


@pytest.fixture(autouse=True)
def _store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(objects, "_PAUSES", (0.0, 0.0, 0.0))
    with empty_store():
        yield


class NoCredentialsError(Exception):
    """As botocore's: it is none of the system's errors."""


class Refusing:
    """Fails each call with the same error, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        self.calls = 0
        self._error = error
        for name in ("pipe_file", "cat_file", "rm_file", "find"):
            monkeypatch.setattr(MemoryFileSystem, name, self._fail)

    def _fail(self, *_: Any, **__: Any) -> Any:
        self.calls += 1
        raise self._error


@pytest.mark.parametrize(
    ("error", "said", "calls"),
    [
        pytest.param(
            PermissionError("Access Denied"), "it is not allowed (Access Denied)", 1, id="forbidden"
        ),
        pytest.param(PermissionError(), "it is not allowed", 1, id="forbidden-wordless"),
        pytest.param(
            FileNotFoundError("The specified bucket does not exist"),
            "it is not there (The specified bucket does not exist)",
            1,
            id="no-bucket",
        ),
        pytest.param(
            NoCredentialsError("Unable to locate credentials"),
            "Unable to locate credentials",
            1,
            id="credentials",
        ),
        pytest.param(
            OSError(16, "Please reduce your request rate."),
            "Please reduce your request rate",
            4,
            id="throttled",
        ),
        pytest.param(TimeoutError(), "TimeoutError", 4, id="wordless"),
        pytest.param(
            RuntimeError('Could not connect to "https://id:hush@host/bucket?X-Amz-Signature=hush#hush" now'),
            'Could not connect to "https://host/bucket" now',
            4,
            id="signed-address",
        ),
        pytest.param(OSError("one\nhush"), "one", 4, id="lines"),
        pytest.param(OSError("x" * 999), "x" * 200, 4, id="long"),
    ],
)
def test_a_refusal_is_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str, calls: int
) -> None:
    """What may pass is tried four times; what signs an address is not repeated."""
    found = Objects.at(URL)
    refusing = Refusing(monkeypatch, error)

    with pytest.raises(StorageError) as told:
        found.sizes()

    assert (f"{URL} can't be read or written: {said}. {GOES_ON}", calls) == (str(told.value), refusing.calls)
    assert (None, None) == (told.value.__cause__, told.value.__context__)


def test_what_is_not_there_is_no_fault() -> None:
    """Neither to read nor to remove."""
    found = Objects.at(URL)

    found.remove(["a"])

    assert (None, {}, False) == (found.read("a"), found.sizes(), found.is_object())


def test_an_object_is_created_once() -> None:
    """Whoever comes later gets what is there; the same again is none of anybody else's."""
    found = Objects.at(URL)

    assert None is found.create("a", b"first")
    assert None is found.create("a", b"first")
    assert b"first" == found.create("a", b"second")
    assert {"a": 5} == found.sizes()


def test_many_objects_come_in_their_order() -> None:
    """However many there are, those that are missing as nothing."""
    found = Objects.at(URL)
    names = [f"{number:03}" for number in range(100)]
    for name in names:
        found.put(name, name.encode())

    assert [(name, name.encode()) for name in names] + [("none", None)] == list(
        found.read_all([*names, "none"])
    )
    found.remove(names)
    assert {} == found.sizes()


def test_a_store_that_can_not_be_opened_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a configuration of its own that is wrong."""

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such profile")

    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)

    with pytest.raises(
        StorageError, match="^memory:/.* can't be opened: no such profile. Put that right and export again$"
    ):
        Objects.at(URL)


class Session:
    """A store's connections."""

    def __init__(self) -> None:
        self.closed_in: object = None

    async def close(self) -> None:
        self.closed_in = asyncio.get_running_loop()


class LikeGcsfs:
    """A store with connections, once it was asked for something."""

    def __init__(self, session: Session | None) -> None:
        self.loop = get_loop()
        self.session = session
        self.closed_when_collected = False

    def close_session(self, *_: Any) -> None:
        self.closed_when_collected = True


class LikeS3fs(LikeGcsfs):
    """One whose connections are given by a method."""

    def __init__(self, session: Session) -> None:
        super().__init__(None)
        self._connections = session

    async def set_session(self) -> Session:
        return self._connections


@pytest.mark.parametrize("kind", [LikeGcsfs, LikeS3fs])
def test_connections_are_closed_where_they_were_opened(
    monkeypatch: pytest.MonkeyPatch, kind: Callable[[Session], LikeGcsfs]
) -> None:
    """Once, by us, in fsspec's event loop: not by the store when it is collected."""
    session = Session()
    store = kind(session)
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda *_, **__: (store, "bucket"))
    opened = Objects.at("s3://bucket/out.parquet")
    store.close_session()
    assert (None, False) == (session.closed_in, store.closed_when_collected)

    opened.close()
    assert store.loop is session.closed_in
    opened.close()


def test_a_store_without_connections_is_just_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """None was opened, or there are no such things."""
    Objects.at(URL).close()
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda *_, **__: (LikeGcsfs(None), "bucket"))
    Objects.at("gs://bucket/out.parquet").close()
