"""
The queue: who is next, who waits, and what the ledger keeps from being fetched twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outputs import mark_of
from trio.testing import MockClock
from virtual import VirtualLoop

from crowdtwist_async.emulator import Emulator
from crowdtwist_async.export import queue
from crowdtwist_async.export.ledger import Ledger
from crowdtwist_async.export.queue import MemberQueue
from crowdtwist_async.export.source import Member, Source

in_virtual_time = pytest.mark.anyio
FAILED = frozenset({"failed"})


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Run on both event loops, in virtual time."""
    if request.param == "asyncio":
        return "asyncio", {"loop_factory": VirtualLoop}
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """An empty ledger."""
    made = Ledger(None, "-")
    yield made
    made.close()


class NobodyDone:
    """A ledger without members; a real one may not be asked on the event loop."""

    def status_of(self, _: str) -> None:
        """Know nobody."""


def queue_of(
    ids: Iterable[str], ledger: Any, again: frozenset[str] = frozenset(), most_waiting: int = 100
) -> MemberQueue:
    """A queue of ids."""
    return MemberQueue(iter(ids), ledger, again, most_waiting)


def taken(some: MemberQueue) -> list[str]:
    """All new ids, until no more are wanted."""
    found = []
    while True:
        while (user_id := some.new_id()) is not None:
            found.append(user_id)
        if not some.wants_ids:
            return found
        some.take(some.read())


def make_member(user_id: str = "7", tries: int = 1) -> Member:
    """A member that nobody fetches."""
    member = Member(Source("points"), Emulator().client(), user_id)
    member.tries = tries
    return member


def test_each_id_comes_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the list, also where it is listed again while the first is under way."""
    monkeypatch.setattr(queue, "_CHUNK", 2)

    some = queue_of("abacbad", ledger)

    assert ["a", "b", "c", "d"] == taken(some)
    assert some.is_empty


@pytest.mark.parametrize(("again", "expected"), [(frozenset(), "e"), (FAILED, "ce")], ids=["first", "again"])
def test_those_that_are_done_do_not_come(ledger: Ledger, again: frozenset[str], expected: str) -> None:
    """Unless those that failed are to be tried again; whom the API answered last is known."""
    ledger.commit([mark_of("a"), mark_of("b", "not_found"), mark_of("c", "failed")])

    some = queue_of("abcabce", ledger, again)

    assert [*expected] == taken(some)
    assert "b" == some.answered


@given(
    ids=st.lists(st.sampled_from("abcdef"), max_size=30),
    chunk=st.integers(1, 5),
    again=st.sampled_from([frozenset[str](), FAILED]),
    fails=st.sets(st.sampled_from("abcdef")),
)
def test_no_id_comes_twice(ids: list[str], chunk: int, again: frozenset[str], fails: set[str]) -> None:
    """Whenever it was committed, and whatever as."""
    ledger = Ledger(None, "-")
    found: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(queue, "_CHUNK", chunk)
        some = queue_of(ids, ledger, again)
        while not some.is_empty:
            if some.wants_ids:
                some.take(some.read())
            while (user_id := some.new_id()) is not None:
                found.append(user_id)
                mark = mark_of(user_id, "failed" if user_id in fails else "ok")
                ledger.commit([mark])
                some.committed([mark])
    ledger.close()

    assert list(dict.fromkeys(ids)) == found


def test_what_is_committed_is_not_held(ledger: Ledger) -> None:
    """The ledger knows it; only members that failed again have to be remembered."""
    some = queue_of(map(str, range(900)), ledger, FAILED)
    marks = [mark_of(user_id, "failed" if user_id == "5" else "ok") for user_id in taken(some)]

    ledger.commit(marks)
    some.committed(marks)

    assert {"5"} == some._begun


def test_ids_are_read_as_they_are_needed(ledger: Ledger) -> None:
    """Some at a time, and no more while those are not begun."""
    some = queue_of(map(str, range(10_000)), ledger)

    some.take(some.read())

    assert (False, False) == (some.wants_ids, some.is_empty)
    assert queue._CHUNK == len([*iter(some.new_id, None)])
    assert (True, False) == (some.wants_ids, some.is_empty)


@in_virtual_time
async def test_the_pause_grows_with_the_tries() -> None:
    """From 0.2 to 2 seconds; whose time comes first is first."""
    some = queue_of((), NobodyDone())

    pauses = []
    for tries in range(8):
        some.put_back(make_member(tries=tries))
        pauses.append(some.seconds_to_due())
        await anyio.sleep(2)
        assert some.due() is not None

    assert [0.2, 0.2, 0.4, 0.8, 1.6, 2, 2, 2] == pytest.approx(pauses)


@in_virtual_time
async def test_whose_time_has_come_is_next() -> None:
    """Nobody before; those of one moment in their order."""
    some = queue_of((), NobodyDone())
    late, first, second = make_member("late", 3), make_member("first"), make_member("second")
    for member in (late, first, second):
        some.put_back(member)

    assert (None, False) == (some.due(), some.is_empty)
    await anyio.sleep(0.3)
    assert [first, second, None] == [some.due(), some.due(), some.due()]
    await anyio.sleep(0.6)
    assert (late, None, None) == (some.due(), some.due(), some.seconds_to_due())


@in_virtual_time
async def test_too_many_waiting_hold_up_new_ones() -> None:
    """Memory stays bounded where everything fails."""
    some = queue_of("abc", NobodyDone(), most_waiting=2)
    some.take(some.read())
    some.put_back(make_member())
    assert "a" == some.new_id()
    some.put_back(make_member())

    assert (None, True, False) == (some.new_id(), some.is_full, some.wants_ids)
    await anyio.sleep(1)
    assert some.due() is not None
    assert "b" == some.new_id()


@in_virtual_time
async def test_somebody_can_always_be_asked_for() -> None:
    """Who was answered; else who was not begun, the last first; else who waits; each time another."""
    some = queue_of("abc", NobodyDone())
    assert (None, 0) == (some.known_id(), some.choice)
    for user_id in ("x", "y"):
        some.put_back(make_member(user_id))

    assert {"x", "y"} == {some.known_id() for _ in range(some.choice)}
    some.take(some.read())
    assert {"a", "b", "c"} == {some.known_id() for _ in range(some.choice)}
    some.answered = "z"
    assert ("z", "z", 1) == (some.known_id(), some.known_id(), some.choice)
