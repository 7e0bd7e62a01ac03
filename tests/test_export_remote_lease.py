"""
The lease: who may export, until when, and what an exporter does that has lost it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from outputs import ASKED, commit, expected, opened, purchases_of
from stores import LEASE, MEMBERS, STORE, URL, Breaking, empty_store, expire, export_all, names, parts, rows

from crowdtwist_async import OutputLockedError
from crowdtwist_async.export.remote import lease, objects
from crowdtwist_async.export.target import Target

PATIENCE = 30.0


@pytest.fixture(autouse=True)
def _store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(objects, "_PAUSES", ())
    with empty_store():
        yield


def held() -> dict[str, str]:
    """What the lease says."""
    found: dict[str, str] = json.loads(STORE.cat_file(LEASE))
    return found


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_another_export_is_refused_until_the_first_ends() -> None:
    """It says until when the lease holds if nobody renews it: a minute."""
    with closing(opened(URL)):
        expires = datetime.fromisoformat(held()["expires"])
        assert timedelta(seconds=20) < expires - datetime.now(UTC) <= timedelta(seconds=60)
        words = f"another export is writing {re.escape(URL)}: wait until it ends, or until {expires:%Y-%m-%dT%H:%M:%SZ} if"
        for fresh in (False, True):
            with pytest.raises(OutputLockedError, match=f"^{words} it was killed, or stop it$"):
                opened(URL, fresh=fresh)
        assert 32 == len(held()["owner"])
    export_all()
    assert expected(*MEMBERS) == rows()


def test_a_lease_that_has_expired_is_taken() -> None:
    """Its exporter was killed: nothing of what it had committed is lost."""
    killed = opened(URL)
    commit(killed, "a")
    expire()
    export_all()
    killed.close()

    assert expected(*MEMBERS) == rows()
    assert not STORE.exists(LEASE)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"owner":"x","expires":"soon"}'])
def test_a_lease_that_says_nothing_is_taken(content: bytes) -> None:
    """Nobody renews such a one."""
    STORE.pipe_file(LEASE, content)
    export_all()

    assert expected(*MEMBERS) == rows()


def test_it_is_renewed_while_the_export_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a thread of its own, also when nothing is committed."""
    monkeypatch.setattr(lease, "RENEWED_AFTER", 0.01)
    with closing(opened(URL)):
        first = held()
        wait_until(lambda: held()["expires"] > first["expires"])
        assert first["owner"] == held()["owner"]


def test_a_fault_while_it_is_renewed_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next time it is renewed all the same."""
    monkeypatch.setattr(lease, "RENEWED_AFTER", 0.01)
    breaking = Breaking(monkeypatch)
    failed = []

    def fail() -> None:
        failed.append(breaking.count)
        raise TimeoutError

    with closing(opened(URL)) as target:
        breaking.arm(1, fail)
        wait_until(lambda: bool(failed))
        first = held()
        wait_until(lambda: held()["expires"] > first["expires"])
        commit(target, "a")


def test_an_exporter_that_lost_it_writes_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told with the next member, before the next commit; the part that it had begun is dropped."""
    monkeypatch.setattr(lease, "RENEWED_AFTER", 0.01)
    with closing(opened(URL)) as target:
        commit(target, "a")
        before = names()
        STORE.pipe_file(LEASE, json.dumps({"owner": "other", "expires": "2999-01-01T00:00:00Z"}).encode())

        def is_told() -> bool:
            try:
                target.writer.write(purchases_of("b"))
            except OutputLockedError:
                return True
            return False

        wait_until(is_told)
        with pytest.raises(
            OutputLockedError, match="has taken .* over, as this one was not heard of for 60 sec"
        ):
            commit(target, "b")
    assert before == names()
    assert "other" == held()["owner"]


def test_it_is_asked_before_each_manifest() -> None:
    """So also an exporter whose thread was asleep stops, and takes back the part that it had just put."""
    with closing(opened(URL)) as target:
        commit(target, "a")
        expire()
        with pytest.raises(
            OutputLockedError, match="or somebody removed its lease: what was committed before stays$"
        ):
            commit(target, "b")
        assert ["part-000002.parquet"] == parts()


def test_whoever_writes_it_last_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two who find that it has expired: it is read back."""
    expired = b'{"owner":"gone","expires":"2026-01-31T00:00:00Z"}'
    STORE.pipe_file(LEASE, expired)
    put = objects.Objects.put

    def put_and_lose(self: Any, name: str, content: bytes) -> None:
        put(self, name, content)
        put(self, name, content.replace(b'"owner":"', b'"owner":"other'))

    monkeypatch.setattr(objects.Objects, "put", put_and_lose)

    with pytest.raises(OutputLockedError, match="^another export is writing"):
        opened(URL)
    assert held()["owner"].startswith("other")
    assert [] == names()


@pytest.mark.parametrize("is_damaged", [False, True], ids=["whole", "manifests-removed"])
def test_who_wakes_up_after_a_fresh_export_adds_nothing(*, is_damaged: bool) -> None:
    """Even if it finds its lease again: the number that it would write is taken, whatever the next one is."""
    export_all()
    if is_damaged:
        STORE.rm("/bucket/out.parquet/_ledger", recursive=True)
    with closing(Target(URL, "purchases", fresh=True)) as asleep:
        content = STORE.cat_file(LEASE)
        expire()
        export_all(fresh=True)
        before = names()
        STORE.pipe_file(LEASE, content)
        with pytest.raises(OutputLockedError):
            asleep.begin(ASKED)
    assert before == names()
    assert expected(*MEMBERS) == rows()
