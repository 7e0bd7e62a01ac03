"""
Cursors: what they hold, what is refused, and what a walk takes with them.
"""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from conftest import KEY, leaks
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdtwist_async import CrowdTwistClient, IdType
from crowdtwist_async._cursor import Position, read_cursor
from crowdtwist_async.errors import InvalidArgumentError

FINGERPRINT = "0a1b2c"
USER = "3321700401126"


def client(**overrides: Any) -> CrowdTwistClient:
    """A client that is never opened: what is tested here is refused before any request."""
    return CrowdTwistClient(**{"api_key": KEY, "client_id": 201, **overrides})


def rewards_cursor(**overrides: Any) -> str:
    """The cursor of a fresh walk over rewards."""
    arguments = {"page_size": 5, "include_soldout": True, **overrides}
    return client().iter_user_rewards(USER, **arguments).cursor


def purchases_cursor(**overrides: Any) -> str:
    """The cursor of a fresh walk over purchases."""
    arguments = {"date_start": "2026-01-01", "date_end": "2026-01-31", **overrides}
    return client().iter_user_purchases(USER, **arguments).cursor


@given(st.none() | st.integers(-(2**63) + 1, 2**63 - 1), st.integers(0, 10**9 - 1))
@settings(database=None)
def test_a_position_is_read_back(page: int | None, taken: int) -> None:
    """Text and back is the same place, for any page that a walk may begin at."""
    position = Position(page, taken)

    assert position == read_cursor(position.cursor(FINGERPRINT), FINGERPRINT)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        pytest.param("1:3:4:0a1b2c", Position(3, 4), id="inside a page"),
        pytest.param("1:-2:0:0a1b2c", Position(-2), id="negative page"),
        pytest.param("1:end:0:0a1b2c", Position(None), id="last page"),
    ],
)
def test_the_text_of_a_cursor(text: str, position: Position) -> None:
    """The text is versioned, and stays readable for cursors that were kept."""
    assert text == position.cursor(FINGERPRINT)
    assert position == read_cursor(text, FINGERPRINT)


@pytest.mark.parametrize(
    "cursor",
    [
        pytest.param("", id="empty"),
        pytest.param("1:3:4", id="no fingerprint"),
        pytest.param("2:3:4:0a1b2c", id="another version"),
        pytest.param("1:3:4:0a1b2c\n", id="line break"),
        pytest.param(" 1:3:4:0a1b2c", id="space"),
        pytest.param("1:3:-1:0a1b2c", id="negative offset"),
        pytest.param("1:3.0:4:0a1b2c", id="fraction"),
        pytest.param("1:٣:4:0a1b2c", id="other digits"),
        pytest.param("1:3:4:0A1B2C", id="upper case"),
        pytest.param("1:" + "9" * 10_000 + ":4:0a1b2c", id="endless digits"),
        pytest.param("page=3", id="other text"),
        pytest.param(3, id="number"),
        pytest.param(b"1:3:4:0a1b2c", id="bytes"),
        pytest.param(True, id="boolean"),
    ],
)
def test_what_is_no_cursor_is_refused(cursor: object) -> None:
    """Anything but the exact text of a cursor is refused, and never repeated in the error."""
    with pytest.raises(InvalidArgumentError, match=r"^cursor is not one that a pager or an error gave$"):
        read_cursor(cursor, FINGERPRINT)


def test_a_cursor_with_another_fingerprint_is_refused() -> None:
    """The error says what must be the same."""
    with pytest.raises(InvalidArgumentError, match="same host, user, parameters and direction"):
        read_cursor("1:3:4:0a1b2d", FINGERPRINT)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"page_size": 4}, id="page_size"),
        pytest.param({"page_size": None}, id="no page_size"),
        pytest.param({"include_soldout": False}, id="include_soldout"),
        pytest.param({"include_soldout": None}, id="no include_soldout"),
        pytest.param({"id_type": "third_party_id"}, id="id_type"),
        pytest.param({"reverse": True}, id="direction"),
    ],
)
def test_a_rewards_cursor_of_other_arguments_is_refused(arguments: dict[str, Any]) -> None:
    """Each argument that decides which rows come, and in which order, is part of the cursor, both ways."""
    with pytest.raises(InvalidArgumentError, match="another walk"):
        rewards_cursor(cursor=rewards_cursor(), **arguments)
    with pytest.raises(InvalidArgumentError, match="another walk"):
        rewards_cursor(cursor=rewards_cursor(**arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"date_start": "2026-01-02"}, id="date_start"),
        pytest.param({"date_start": None}, id="no date_start"),
        pytest.param({"date_end": "2026-01-30"}, id="date_end"),
        pytest.param({"date_end": None}, id="no date_end"),
        pytest.param({"id_type": "third_party_id"}, id="id_type"),
        pytest.param({"reverse": True}, id="direction"),
    ],
)
def test_a_purchases_cursor_of_other_arguments_is_refused(arguments: dict[str, Any]) -> None:
    """Each argument that decides which rows come, and in which order, is part of the cursor, both ways."""
    with pytest.raises(InvalidArgumentError, match="another walk"):
        purchases_cursor(cursor=purchases_cursor(), **arguments)
    with pytest.raises(InvalidArgumentError, match="another walk"):
        purchases_cursor(cursor=purchases_cursor(**arguments))


@pytest.mark.parametrize("other", ["3321700401127", "alice@example.com"])
def test_a_cursor_of_another_user_is_refused(other: str) -> None:
    """A cursor belongs to one user."""
    cursor = client().iter_user_purchases(other).cursor

    with pytest.raises(InvalidArgumentError, match="another walk"):
        client().iter_user_purchases(USER, cursor=cursor)


@pytest.mark.parametrize(
    "settings_of_other",
    [
        pytest.param({"client_id": 202}, id="client_id"),
        pytest.param({"environment": "sb-"}, id="environment"),
        pytest.param({"pos_url": "https://pos201.crowdtwist.com:444"}, id="port"),
        pytest.param({"pos_url": "https://pos201.crowdtwist.com/gateway"}, id="base path"),
    ],
)
def test_a_cursor_of_another_host_is_refused(settings_of_other: dict[str, Any]) -> None:
    """A cursor belongs to one host, so a sandbox's can't be used in production."""
    cursor = client(**settings_of_other).iter_user_purchases(USER).cursor

    with pytest.raises(InvalidArgumentError, match="another walk"):
        client().iter_user_purchases(USER, cursor=cursor)


def test_a_cursor_of_another_endpoint_is_refused() -> None:
    """Rewards and purchases differ, even on one host."""
    one_host = client(api_url="https://gateway.example.com", pos_url="https://gateway.example.com")
    cursor = one_host.iter_user_rewards(USER).cursor

    with pytest.raises(InvalidArgumentError, match="another walk"):
        one_host.iter_user_purchases(USER, cursor=cursor)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({}, id="the same"),
        pytest.param({"date_start": date(2026, 1, 1)}, id="a date for its text"),
        pytest.param({"max_items": 3}, id="max_items"),
        pytest.param({"on_drift": "raise"}, id="on_drift"),
    ],
)
def test_a_cursor_of_the_same_walk_is_taken(arguments: dict[str, Any]) -> None:
    """What does not change the rows or their order may differ."""
    cursor = purchases_cursor()

    assert cursor == purchases_cursor(cursor=cursor, **arguments)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("start_page", [1, 2**63 - 1, -(2**63) + 1], ids=["first", "highest", "lowest"])
def test_a_cursor_is_taken_back_whatever_page_it_names(start_page: int, reverse: bool) -> None:
    """Every page that may be started at has a cursor that can be given back."""
    cursor = purchases_cursor(start_page=start_page, reverse=reverse)

    assert cursor == purchases_cursor(cursor=cursor, reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("user", [USER, "alice@example.com", "+15551239687"])
def test_a_cursor_names_neither_user_nor_key(user: str, reverse: bool) -> None:
    """It is short, and holds no part of the user id and no form of the key."""
    id_type = IdType.EMAIL if "@" in user else IdType.MOBILE_PHONE_NUMBER if "+" in user else IdType.ID
    cursor = client().iter_user_purchases(user, id_type=id_type, reverse=reverse).cursor

    assert not leaks(cursor)
    assert not any(user[start : start + 5] in cursor for start in range(len(user) - 4))
    assert len(cursor) < 40


def test_a_cursor_does_not_depend_on_the_key() -> None:
    """A rotated key does not end the walks that were interrupted."""
    cursor = client().iter_user_rewards(USER).cursor

    assert cursor == client(api_key="another-key").iter_user_rewards(USER, cursor=cursor).cursor


def test_start_page_and_cursor_exclude_each_other() -> None:
    """Both name a page: which one is meant is not guessed."""
    with pytest.raises(InvalidArgumentError, match="start_page or cursor, not both"):
        purchases_cursor(start_page=1, cursor=purchases_cursor())
