"""
The rules for a call's arguments: what is taken, what is refused before any request, and in which words.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from enum import Enum
from typing import Any

import pytest
from conftest import captured_locals

from crowdtwist_async import IdType, InvalidArgumentError
from crowdtwist_async._arguments import (
    checked_date,
    checked_dates,
    checked_flag,
    checked_id_type,
    checked_integer,
    checked_on_drift,
    checked_page_size,
    checked_user_id,
    not_of,
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param("11138266", "11138266", id="crowdtwist-id"),
        pytest.param(11138266, "11138266", id="number"),
        pytest.param(2**63 - 1, str(2**63 - 1), id="largest-number"),
        pytest.param("alice@example.com", "alice@example.com", id="email"),
        pytest.param("+15551239687", "+15551239687", id="phone"),
        pytest.param("/", "/", id="slash"),
        pytest.param("%2F", "%2F", id="encoded-slash"),
        pytest.param("%", "%", id="percent"),
        pytest.param("a?b#c;d&e=f", "a?b#c;d&e=f", id="url-delimiters"),
        pytest.param("...", "...", id="three-dots"),
        pytest.param(" a b ", " a b ", id="spaces-around"),
        pytest.param("مريم\u200f", "مريم\u200f", id="right-to-left"),
        pytest.param("x" * 2048, "x" * 2048, id="longest"),
    ],
)
def test_user_ids_are_taken_as_given(given: object, expected: str) -> None:
    """Nothing is stripped or changed: the id is the program's own."""
    assert expected == checked_user_id(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param("", "empty or blank", id="empty"),
        pytest.param(" \u00a0\u3000", "empty or blank", id="blank"),
        pytest.param(".", "would change the path", id="dot"),
        pytest.param("..", "would change the path", id="dot-dot"),
        pytest.param("12\x00", "control character", id="nul"),
        pytest.param("12\n", "control character", id="line-feed"),
        pytest.param("1\r2", "control character", id="carriage-return"),
        pytest.param("1\x7f", "control character", id="delete"),
        pytest.param("1\x85", "control character", id="next-line"),
        pytest.param("1\u2028", "control character", id="line-separator"),
        pytest.param("1\ud800", "lone surrogate", id="surrogate"),
        pytest.param(None, "not NoneType", id="none"),
        pytest.param(True, "not bool", id="true"),
        pytest.param(b"12", "not bytes", id="bytes"),
        pytest.param(12.0, "not float", id="float"),
        pytest.param(2**63, "beyond 64 bits", id="too-large"),
        pytest.param("x" * 2049, "longer than any id: 2048 characters at most", id="too-long"),
        pytest.param("x" * 65536, "longer than any id", id="64-kB"),
        pytest.param(-(2**63), "beyond 64 bits", id="too-small"),
    ],
)
def test_user_ids_that_cannot_work_are_refused(given: object, said: str) -> None:
    """What is empty, no text, or would change the path or a line is an `InvalidArgumentError`."""
    with pytest.raises(InvalidArgumentError, match=f"^user_id .*{said}"):
        checked_user_id(given)


@pytest.mark.parametrize("given", ["alice@example.com\n", "alice@example.com\ud800"], ids=ascii)
def test_refusals_do_not_repeat_the_user_id(given: str) -> None:
    """An error's text and the locals of its frames end up in logs, where a member's e-mail must not be."""
    with pytest.raises(InvalidArgumentError) as caught:
        checked_user_id(given)
    error = caught.value
    assert "alice" not in f"{error}{error!r}{error.args}{captured_locals(error)}"


@pytest.mark.parametrize("given", ["email", IdType.EMAIL], ids=["text", "enum"])
def test_id_types_are_texts_or_members_of_the_enum(given: str) -> None:
    """Both spellings name the same id type."""
    assert IdType.EMAIL is checked_id_type(given, frozenset(IdType), "user_rewards")


@pytest.mark.parametrize("given", ["username", "EMAIL", "", None, 1, ["email"]], ids=repr)
def test_id_types_of_other_endpoints_are_refused(given: object) -> None:
    """The refusal names the endpoint and what it takes."""
    with pytest.raises(
        InvalidArgumentError, match=r"^user_purchases takes no such id_type; it takes email, id$"
    ):
        checked_id_type(given, frozenset({IdType.ID, IdType.EMAIL}), "user_purchases")


@pytest.mark.parametrize("given", [0, -1, 1, 10**9, 2**63 - 1, 1 - 2**63], ids=str)
def test_any_64_bit_integer_is_an_integer(given: int) -> None:
    """Pages out of range are the server's to answer."""
    assert given == checked_integer(given, "page")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param(True, "page must be an int, not bool", id="true"),
        pytest.param("10", "page must be an int, not str", id="text"),
        pytest.param(1.0, "page must be an int, not float", id="float"),
        pytest.param(None, "page must be an int, not NoneType", id="none"),
        pytest.param(2**63, "page is beyond 64 bits", id="too-large"),
        pytest.param(-(2**63), "page is beyond 64 bits", id="too-small"),
    ],
)
def test_what_only_looks_like_an_integer_is_refused(given: Any, said: str) -> None:
    """`True` is no page, and neither is a text of digits."""
    with pytest.raises(InvalidArgumentError, match=f"^{said}$"):
        checked_integer(given, "page")


def test_integers_can_have_a_least_value() -> None:
    """The least value itself is taken, the one below it is not."""
    assert 3 == checked_integer(3, "concurrency", least=3)
    with pytest.raises(InvalidArgumentError, match="^concurrency must be 3 or more$"):
        checked_integer(2, "concurrency", least=3)


@pytest.mark.parametrize(
    ("given", "expected"), [(None, None), (1, 1), (9, 9), (10, 10), (11, 10), (10**9, 10)], ids=str
)
def test_page_sizes_are_capped_at_ten(given: int | None, expected: int | None) -> None:
    """The API sends 10 entries at most, whatever it is asked for."""
    assert expected == checked_page_size(given)


@pytest.mark.parametrize("given", [0, -1, True, False, "10", 10.0], ids=repr)
def test_page_sizes_below_one_or_of_another_type_are_refused(given: Any) -> None:
    """A page of no entries would never end."""
    with pytest.raises(InvalidArgumentError, match="^page_size must be"):
        checked_page_size(given)


@pytest.mark.parametrize("given", [True, False, None], ids=str)
def test_flags_are_booleans_or_none(given: bool | None) -> None:
    """A flag is given back as it is."""
    assert given is checked_flag(given, "include_soldout")


@pytest.mark.parametrize("given", [0, 1, "true", "", []], ids=repr)
def test_flags_that_are_merely_truthy_are_refused(given: Any) -> None:
    """The text "false" would otherwise mean true."""
    with pytest.raises(InvalidArgumentError, match="^include_soldout must be True, False or None"):
        checked_flag(given, "include_soldout")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(None, None, id="none"),
        pytest.param(date(2026, 1, 31), date(2026, 1, 31), id="date"),
        pytest.param("2026-01-31", date(2026, 1, 31), id="text"),
        pytest.param("2024-02-29", date(2024, 2, 29), id="leap-day"),
        pytest.param("0001-01-01", date(1, 1, 1), id="first-day"),
    ],
)
def test_dates_are_dates_or_texts(given: object, expected: date | None) -> None:
    """A text names the same day as a `date`."""
    assert expected == checked_date(given, "date_start")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param(datetime(2026, 1, 31, tzinfo=UTC), "not a datetime", id="aware-datetime"),
        pytest.param(datetime(2026, 1, 31), "not a datetime", id="naive-datetime"),
        pytest.param("2026-02-30", "no day of the calendar", id="no-such-day"),
        pytest.param("2025-02-29", "no day of the calendar", id="no-leap-year"),
        pytest.param("0000-01-01", "no day of the calendar", id="year-zero"),
        pytest.param("20260131", "a text like 2026-01-31", id="basic-format"),
        pytest.param("2026-W05-6", "a text like 2026-01-31", id="week"),
        pytest.param("2026-1-31", "a text like 2026-01-31", id="short-month"),
        pytest.param("2026-01-31T00:00:00", "a text like 2026-01-31", id="with-time"),
        pytest.param("2026-01-31\n", "a text like 2026-01-31", id="line-feed"),
        pytest.param("\u0662\u0660\u0662\u0666-01-31", "a text like 2026-01-31", id="other-digits"),
        pytest.param("", "a text like 2026-01-31", id="empty"),
        pytest.param(20260131, "a text like 2026-01-31", id="number"),
        pytest.param(False, "a text like 2026-01-31", id="false"),
    ],
)
def test_what_is_no_date_is_refused(given: object, said: str) -> None:
    """The zone of a `datetime` would be a guess, and another format a misreading."""
    with pytest.raises(InvalidArgumentError, match=f"^date_end .*{said}"):
        checked_date(given, "date_end")


@pytest.mark.parametrize(
    ("start", "end"),
    [
        pytest.param("2026-01-01", "2026-01-31", id="range"),
        pytest.param("2026-01-31", "2026-01-31", id="one-day"),
        pytest.param("2026-01-01", None, id="start-only"),
        pytest.param(None, "2026-01-01", id="end-only"),
        pytest.param(None, None, id="neither"),
    ],
)
def test_ranges_include_both_ends_and_may_be_open(start: str | None, end: str | None) -> None:
    """A range is given back as two dates."""
    expected = tuple(None if day is None else date.fromisoformat(day) for day in (start, end))
    assert expected == checked_dates(start, end)


@pytest.mark.parametrize("name", ["date_start", "date_end"])
def test_the_end_of_a_range_that_is_no_date_is_named(name: str) -> None:
    """A program gives two, and one of them is wrong."""
    days: dict[str, Any] = {"date_start": None, "date_end": None, name: "soon"}
    with pytest.raises(InvalidArgumentError, match=f"^{name} must be a date"):
        checked_dates(**days)


def test_reversed_ranges_are_refused() -> None:
    """`date_end` before `date_start` is an error before any request."""
    with pytest.raises(InvalidArgumentError, match="date_end is before date_start"):
        checked_dates(date(2026, 1, 2), "2026-01-01")


@pytest.mark.parametrize("given", ["warn", "raise", "ignore"])
def test_drift_has_three_answers(given: str) -> None:
    """Each of them is given back."""
    assert given == checked_on_drift(given)


@pytest.mark.parametrize("given", ["WARN", "", None, True], ids=repr)
def test_other_answers_to_drift_are_refused(given: object) -> None:
    """A misspelt answer must not silently become another one."""
    with pytest.raises(InvalidArgumentError, match="^on_drift must be 'warn', 'raise' or 'ignore'$"):
        checked_on_drift(given)


def test_a_member_of_an_enumeration_is_its_value() -> None:
    """`str` would write its name, and nobody has that id."""

    class Demo(str, Enum):  # noqa: UP042 - the older kind
        ALICE = "10000001"

    assert "10000001" == checked_user_id(Demo.ALICE)
    assert str is type(checked_user_id(Demo.ALICE))


@pytest.mark.parametrize(
    ("value", "told"),
    [(-1, ""), (0.5, ""), (True, ", not bool"), ("5000", ", not str"), (None, ", not NoneType")],
)
def test_the_type_is_told_where_it_is_what_is_wrong(value: Any, told: str) -> None:
    """A number that is out of range is refused as such."""
    assert told == not_of(value)
