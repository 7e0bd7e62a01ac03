"""
Seeded members: ids in both directions, and figures that follow from the seed.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from crowdtwist_async.emulator import Emulator

ID_TYPES = {
    "id": "10000000",
    "email": "member10000000@example.com",
    "third_party_id": "tp-10000000",
    "username": "member10000000",
    "mobile_phone_number": "5550000000",
    "facebook_user_id": "100000000000000",
    "twitter_user_id": "2000000000",
}


@pytest.mark.parametrize(("id_type", "first"), ID_TYPES.items(), ids=list(ID_TYPES))
def test_every_id_type_is_read_back(id_type: str, first: str) -> None:
    """All members are distinct in every type, and found by it."""
    emulator = Emulator(members=50)

    ids = list(emulator.member_ids(id_type))

    assert (first, 50) == (ids[0], len(set(ids)))
    by_id = [emulator.purchases_of(user) for user in emulator.member_ids()]
    assert by_id == [emulator.purchases_of(user, id_type) for user in ids]


@pytest.mark.parametrize(
    "user",
    [
        pytest.param("", id="empty"),
        pytest.param("9999999", id="before the first"),
        pytest.param("10000050", id="after the last"),
        pytest.param("010000000", id="leading zero"),
        pytest.param("+10000000", id="plus"),
        pytest.param(" 10000000", id="space"),
        pytest.param("\N{FULLWIDTH DIGIT ONE}0000000", id="wide digit"),
        pytest.param("9" * 5000, id="endless"),
        pytest.param("tp-10000000", id="of another type"),
    ],
)
def test_nobody_has_another_id(user: str) -> None:
    """Only the exact text of an id finds its member."""
    with pytest.raises(LookupError, match="no member has this id"):
        Emulator(members=50).purchases_of(user)


def test_unknown_id_type_has_no_ids() -> None:
    """The seven types are named in the error."""
    with pytest.raises(ValueError, match="id_type must be one of email, facebook_user_id, id"):
        Emulator().member_ids("loyalty_id")


@pytest.mark.parametrize("seed", [0, 1, -7, 2**70])
def test_the_first_three_members_are_handy(seed: int) -> None:
    """Whatever the seed: one page, exactly 14 pages, and nothing."""
    emulator = Emulator(members=3, seed=seed)

    first, second, third = (emulator.purchases_of(user) for user in emulator.member_ids())

    assert 1 <= first <= 10
    assert 131 <= second <= 140
    assert 0 == third


def test_purchases_are_spread_as_promised() -> None:
    """A third have none, half have a page at most, some have up to 14 pages."""
    emulator = Emulator(members=10_000)

    counts = [emulator.purchases_of(user) for user in emulator.member_ids()]

    assert 0.30 < counts.count(0) / len(counts) < 0.36
    assert 0.45 < sum(1 <= count <= 10 for count in counts) / len(counts) < 0.55
    assert 130 < max(counts) <= 140


def test_the_seed_decides() -> None:
    """The same seed gives the same members, another seed gives others."""

    def counts(seed: int) -> list[tuple[int, int]]:
        emulator = Emulator(members=50, seed=seed)
        return [(emulator.purchases_of(user), emulator.rewards_of(user)) for user in emulator.member_ids()]

    assert counts(5) == counts(5)
    assert counts(5) != counts(6)


def test_a_million_members_take_no_memory() -> None:
    """Ids are written one at a time, and nothing is kept of those that were asked for."""
    tracemalloc.start()
    try:
        emulator = Emulator(members=1_000_000)
        ids: Iterator[str] = emulator.member_ids("email")
        used = tracemalloc.get_traced_memory()[0]
        walked = sum(emulator.purchases_of(user, "email") >= 0 for user in islice(ids, 5_000))
        growth = tracemalloc.get_traced_memory()[0] - used
    finally:
        tracemalloc.stop()

    assert 5_000 == walked
    assert used < 2**20
    assert growth < 2**14


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("^members must be an integer of 0 or more$", {"members": -1}),
        ("^members must be an integer of 0 or more$", {"members": "five"}),
        ("^members must be an integer of 0 or more$", {"members": True}),
        ("^rewards must be an integer of 0 or more$", {"rewards": -1}),
        ("^keep_requests must be an integer of 0 or more$", {"keep_requests": 1.5}),
        ("^seed must be an integer$", {"seed": "1"}),
        ("fault_rate must be from 0 to 1", {"fault_rate": 1.5}),
        ("fault_rate must be from 0 to 1", {"fault_rate": float("nan")}),
        ("^fault_rate must be from 0 to 1$", {"fault_rate": "half"}),
        ("^per_minute must be an integer of 1 or more$", {"per_minute": 0}),
        ("^per_minute must be an integer of 1 or more$", {"per_minute": "sixty"}),
    ],
    ids=[
        "members",
        "members text",
        "members bool",
        "rewards",
        "requests",
        "seed",
        "rate",
        "rate nan",
        "rate text",
        "ceiling",
        "ceiling text",
    ],
)
def test_arguments_that_make_no_program_are_refused(message: str, arguments: dict[str, int]) -> None:
    """They are refused when the emulator is made, not at the first request."""
    with pytest.raises(ValueError, match=message):
        Emulator(**arguments)  # type: ignore[arg-type]  # one of several types by name


def test_a_member_is_found_by_an_int_too() -> None:
    """As the client takes it; a type of ids that there is none of is named."""
    emulator = Emulator(members=3)
    first = Emulator.first_id
    assert emulator.purchases_of(str(first)) == emulator.purchases_of(first)
    assert emulator.rewards_of(str(first)) == emulator.rewards_of(first)
    with pytest.raises(ValueError, match="^id_type must be one of email, "):
        emulator.purchases_of(first, "emial")


@pytest.mark.parametrize("key", [5, None, "", "a b", "clé"])
def test_a_key_that_no_client_can_send_is_refused(key: Any) -> None:
    """And what is no pair of keys."""
    with pytest.raises(ValueError, match="^api_key must be a str of printable ASCII without a space$"):
        Emulator(api_key=key)
    with pytest.raises(TypeError, match="^signing must be an HmacKey"):
        Emulator(signing=("public", "private"))  # type: ignore[arg-type]
