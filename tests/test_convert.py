"""
Decoded JSON to models: what each kind of field takes, what it refuses, and how the place is named.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from attrs import NOTHING, field, fields, frozen
from conftest import any_text
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdtwist_async import (
    DecodeError,
    ExtraData,
    Paging,
    Partner,
    PointsAwaitingFulfillment,
    Purchase,
    Reward,
    Segment,
    _convert,
)
from crowdtwist_async._convert import known_names, make_converter, structure, structure_list

REPLIES = Path(__file__).parent / "replies"
REWARD = json.loads((REPLIES / "user_rewards" / "page.json").read_text(encoding="utf-8"))["rewards"][0]
PURCHASE = json.loads((REPLIES / "user_purchases" / "page.json").read_text(encoding="utf-8"))["purchases"][0]
POINTS = json.loads((REPLIES / "points_awaiting_fulfillment" / "sample.json").read_text(encoding="utf-8"))


def reward(**changes: Any) -> Reward:
    """A reward of the reference's table with some fields changed."""
    return structure({**REWARD, **changes}, Reward)


def without(entry: dict[str, Any], *names: str) -> dict[str, Any]:
    """An entry with some fields missing."""
    return {name: value for name, value in entry.items() if name not in names}


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (0, False),
        (1, True),
        (False, False),
        (True, True),
        ("0", False),
        ("1", True),
        ("false", False),
        ("true", True),
        ("False", False),
        ("TRUE", True),
    ],
    ids=repr,
)
def test_booleans_have_ten_spellings(sent: Any, expected: bool) -> None:
    """Numbers, texts and booleans all arrive as `bool`; the text "0" is false."""
    assert expected is reward(is_min_age_required=sent).is_min_age_required


@pytest.mark.parametrize(
    "sent",
    [2, -1, 1.0, 0.0, 10**30, "", " 1", "1 ", "2", "01", "yes", "no", "on", "t", None, [], [1], {}],
    ids=repr,
)
def test_any_other_boolean_is_refused(sent: Any) -> None:
    """A guess would sell what is not enabled."""
    with pytest.raises(DecodeError, match="^expected 0 or 1, got .* @ is_enabled$"):
        reward(is_enabled=sent)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param(0, 0, id="zero"),
        pytest.param(-5, -5, id="negative"),
        pytest.param(2**64 + 1, 2**64 + 1, id="beyond-64-bits"),
        pytest.param("12", 12, id="text"),
        pytest.param("-12", -12, id="negative-text"),
        pytest.param("007", 7, id="leading-zeros"),
        pytest.param(str(2**64 + 1), 2**64 + 1, id="text-beyond-64-bits"),
        pytest.param("9" * 400, 10**400 - 1, id="longest-text"),
        pytest.param(1e3, 1000, id="integral-float"),
        pytest.param(-0.0, 0, id="minus-zero"),
        pytest.param(2.0**53, 2**53, id="largest-exact-float"),
    ],
)
def test_integers_are_exact(sent: Any, expected: int) -> None:
    """Integral numbers and numeric texts arrive as the very integer."""
    read = reward(num_points=sent).num_points
    assert (expected, int) == (read, type(read))


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(1.9, id="fraction"),
        pytest.param(2.0**53 + 2, id="inexact-float"),
        pytest.param(1e308, id="huge-float"),
        pytest.param(float("inf"), id="infinity"),
        pytest.param(float("nan"), id="nan"),
        pytest.param("1.0", id="decimal-text"),
        pytest.param("1e3", id="exponent-text"),
        pytest.param("+1", id="plus"),
        pytest.param(" 1", id="space"),
        pytest.param("1\n", id="line-feed"),
        pytest.param("1_000", id="underscore"),
        pytest.param("1,000", id="comma"),
        pytest.param("٣", id="other-digits"),
        pytest.param("9" * 5000, id="too-long"),
        pytest.param("-", id="sign-only"),
        pytest.param("", id="empty"),
        pytest.param(True, id="true"),
        pytest.param(None, id="null"),
        pytest.param([1], id="array"),
        pytest.param({}, id="object"),
    ],
)
def test_any_other_integer_is_refused(sent: Any) -> None:
    """Nothing is truncated, rounded or guessed."""
    with pytest.raises(DecodeError, match="^expected an integer, got .* @ num_points$"):
        reward(num_points=sent)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param("541043", "541043", id="text"),
        pytest.param("", "", id="empty"),
        pytest.param(" 46a6sd ", " 46a6sd ", id="spaces"),
        pytest.param(541043, "541043", id="number"),
        pytest.param(-1, "-1", id="negative"),
        pytest.param(2**64 + 1, "18446744073709551617", id="large-number"),
    ],
)
def test_texts_take_numbers_too(sent: Any, expected: str) -> None:
    """An id is a text whether it was sent as a text or as a number, and nothing is stripped."""
    assert expected == reward(id=sent).id


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (1.5, "a number"),
        (1.0, "a number"),
        (True, "a boolean"),
        (False, "a boolean"),
        (None, "null"),
        ([], "an array"),
        (["a"], "an array"),
        ({}, "an object"),
    ],
    ids=repr,
)
def test_any_other_text_is_refused(sent: Any, kind: str) -> None:
    """`None` must not become "None", nor a float an id."""
    with pytest.raises(DecodeError, match=f"^expected a text, got {kind} @ id$"):
        reward(id=sent)


NEW_YEAR = datetime(2018, 1, 1, 11, 0, 18, tzinfo=UTC)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param(None, None, id="null"),
        pytest.param("", None, id="empty"),
        pytest.param(" \t", None, id="blank"),
        pytest.param(1514804418, NEW_YEAR, id="seconds"),
        pytest.param("1514804418", NEW_YEAR, id="seconds-as-text"),
        pytest.param(1514804418.5, NEW_YEAR.replace(microsecond=500_000), id="fraction"),
        pytest.param("1514804418.5", NEW_YEAR.replace(microsecond=500_000), id="fraction-as-text"),
        pytest.param(0, datetime(1970, 1, 1, tzinfo=UTC), id="epoch"),
        pytest.param("-86400", datetime(1969, 12, 31, tzinfo=UTC), id="before-the-epoch"),
        pytest.param("2018-01-01T11:00:18Z", NEW_YEAR, id="iso"),
        pytest.param(" 2018-01-01T11:00:18Z ", NEW_YEAR, id="iso-with-spaces"),
        pytest.param("2018-01-01T13:00:18+02:00", NEW_YEAR, id="iso-with-offset"),
        pytest.param("2018-01-01 11:00:18", NEW_YEAR, id="iso-without-zone"),
        pytest.param("2018-01-01", datetime(2018, 1, 1, tzinfo=UTC), id="day"),
    ],
)
def test_dates_become_instants_in_utc(sent: Any, expected: datetime | None) -> None:
    """Seconds and ISO 8601 are read, as numbers or texts; null and empty are no date."""
    read = reward(date_end=sent).date_end
    assert expected == read
    assert read is None or read.tzinfo is UTC


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        pytest.param("0000-00-00", "one that can't be read", id="zero-date"),
        pytest.param("2018-02-30", "one that can't be read", id="no-such-day"),
        pytest.param("01/02/2018", "one that can't be read", id="us-format"),
        pytest.param("tomorrow", "one that can't be read", id="word"),
        pytest.param("1e9", "one that can't be read", id="exponent-text"),
        pytest.param("9" * 5000, "one that can't be read", id="long-text"),
        pytest.param(1490688000000, "one that can't be read", id="milliseconds"),
        pytest.param("999999999999999999", "one that can't be read", id="huge-text"),
        pytest.param(10**400, "one that can't be read", id="huge-number"),
        pytest.param(1e308, "one that can't be read", id="huge-float"),
        pytest.param(float("nan"), "one that can't be read", id="nan"),
        pytest.param("0001-01-01T00:00:00+23:59", "one that can't be read", id="before-year-one"),
        pytest.param(True, "a boolean", id="true"),
        pytest.param([], "an array", id="array"),
        pytest.param({}, "an object", id="object"),
    ],
)
def test_any_other_date_is_refused(sent: Any, reason: str) -> None:
    """An unreadable date is an error with its place, never a wrong day."""
    with pytest.raises(DecodeError, match=f"^expected .*, got {reason} @ date_end$"):
        reward(date_end=sent)


def test_fields_that_are_not_required_may_be_null_or_missing() -> None:
    """Both mean `None`, for every kind of field."""
    optional = {
        "date_start", "date_end", "date_end_redeemable", "max_select_quantity", "min_age",
        "sweepstakes_winners", "extra_data", "reference_id", "freq_cap", "freq_period_id",
        "freq_period_name", "reward_terms", "min_tier_id", "segment", "partner_info",
    }  # fmt: skip
    missing = structure(without(REWARD, *optional), Reward)
    null = reward(**dict.fromkeys(optional))

    assert missing == null
    assert {None} == {getattr(missing, name) for name in optional}


@pytest.mark.parametrize(
    "name",
    [
        "id",
        "group_id",
        "title",
        "description",
        "current_quantity",
        "num_points",
        "is_enabled",
        "category_id",
        "no_end_date",
        "total_quantity",
        "max_per_user",
        "is_shipping_required",
        "is_phone_number_required",
        "is_min_age_required",
        "is_digital_download",
        "total_coupons",
        "remaining_coupons",
        "image",
    ],
)
def test_a_missing_field_of_a_reward_is_named(name: str) -> None:
    """A required field that is not there is an error with its name."""
    with pytest.raises(DecodeError, match=f"^a required field is missing @ {name}$"):
        structure(without(REWARD, name), Reward)


@pytest.mark.parametrize(
    "name",
    ["purchase_id", "purchase_id_type", "purchase_total", "total_points_awarded", "total_points_earned"],
)
def test_a_missing_field_of_a_purchase_is_named(name: str) -> None:
    """A required field that is not there is an error with its name."""
    with pytest.raises(DecodeError, match=f"^a required field is missing @ {name}$"):
        structure(without(PURCHASE, name), Purchase)


@pytest.mark.parametrize("name", POINTS)
def test_a_missing_field_of_points_is_named(name: str) -> None:
    """No points at all is not the same as zero points."""
    with pytest.raises(DecodeError, match=f"^a required field is missing @ {name}$"):
        structure(without(POINTS, name), PointsAwaitingFulfillment)


def test_unknown_fields_are_tolerated() -> None:
    """The platform adds properties every week, at every level."""
    grown = reward(added={"deep": [1]}, segment={**REWARD["segment"], "added": 1})
    assert reward() == grown


@pytest.mark.parametrize(
    ("sent", "path", "reason"),
    [
        pytest.param({"date_end": "soon"}, "rewards[3].date_end", "expected a date", id="date"),
        pytest.param({"is_enabled": 2}, "rewards[3].is_enabled", "expected 0 or 1", id="boolean"),
        pytest.param({"num_points": 1.5}, "rewards[3].num_points", "expected an integer", id="integer"),
        pytest.param({"title": None}, "rewards[3].title", "expected a text, got null", id="text"),
        pytest.param({"extra_data": []}, "rewards[3].extra_data", "expected an object", id="extra-data"),
        pytest.param(
            {"segment": "all"}, "rewards[3].segment", "expected an object, got a text", id="segment"
        ),
        pytest.param(
            {"segment": {"name": None, "subscription_id": 1, "eligibility_type": "inclusion"}},
            "rewards[3].segment.name",
            "expected a text, got null",
            id="inside-segment",
        ),
        pytest.param(
            {"segment": {"subscription_id": 1, "eligibility_type": "inclusion"}},
            "rewards[3].segment.name",
            "a required field is missing",
            id="missing-inside-segment",
        ),
        pytest.param(
            {"partner_info": {"id": True, "name": "Acme"}},
            "rewards[3].partner_info.id",
            "expected an integer, got a boolean",
            id="inside-partner",
        ),
    ],
)
def test_the_path_leads_to_the_value(sent: dict[str, Any], path: str, reason: str) -> None:
    """Index and names stand as one would write them in code."""
    entries = [REWARD, REWARD, REWARD, {**REWARD, **sent}]

    with pytest.raises(DecodeError, match=f"^{reason}") as caught:
        structure_list(entries, Reward, "rewards")
    assert path == caught.value.path


def test_the_path_in_a_first_entry() -> None:
    """Index zero is an index."""
    entry = {**REWARD, "segment": {**REWARD["segment"], "name": 1.5}}

    with pytest.raises(DecodeError) as caught:
        structure_list([entry], Reward, "rewards")
    assert "rewards[0].segment.name" == caught.value.path


@pytest.mark.parametrize("entry", [None, 1, "x", [], True, 1.5], ids=repr)
def test_the_path_of_an_entry_that_is_no_object(entry: Any) -> None:
    """The entry itself is the place."""
    with pytest.raises(DecodeError, match="^expected an object, got ") as caught:
        structure_list([PURCHASE, entry], Purchase, "purchases")
    assert "purchases[1]" == caught.value.path


def test_the_first_of_several_failures_is_told() -> None:
    """One place is enough to find the others."""
    with pytest.raises(DecodeError) as caught:
        structure_list([PURCHASE, {**PURCHASE, "purchase_total": None}, None], Purchase, "purchases")
    assert "purchases[1].purchase_total" == caught.value.path


def test_nothing_is_looked_at_behind_the_first_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Telling the places of a body of 30 megabytes would block the event loop for seconds."""
    looked_at: list[str] = []
    slowly = _convert._structured_slowly

    def counting(value: Any, target: Any, path: str) -> Any:
        looked_at.append(path)
        return slowly(value, target, path)

    monkeypatch.setattr(_convert, "_structured_slowly", counting)
    with pytest.raises(DecodeError, match=r"@ purchases\[1\]\.purchase_total$"):
        structure_list([PURCHASE, *[{**PURCHASE, "purchase_total": None}] * 1_000], Purchase, "purchases")
    assert ["purchases[1]"] == looked_at


@pytest.mark.parametrize(
    ("sent", "kind"),
    [({}, "an object"), ("x", "a text"), (1, "a number"), (None, "null"), (True, "a boolean")],
    ids=repr,
)
def test_a_list_that_is_no_array_is_refused(sent: Any, kind: str) -> None:
    """A mapping of entries would otherwise be read as its keys."""
    with pytest.raises(DecodeError, match=f"^expected an array, got {kind} @ rewards$"):
        structure_list(sent, Reward, "rewards")


def test_a_list_keeps_its_order() -> None:
    """Entries come as a tuple, in the server's order; none is an empty one."""
    entries = [{**PURCHASE, "purchase_id": str(number)} for number in range(3)]
    assert ("0", "1", "2") == tuple(
        purchase.purchase_id for purchase in structure_list(entries, Purchase, "purchases")
    )
    assert () == structure_list([], Purchase, "purchases")


@pytest.mark.parametrize("sent", [None, 1, "x", [], True], ids=repr)
def test_a_body_of_another_kind_is_refused_as_a_whole(sent: Any) -> None:
    """The path of the whole body is `$`."""
    with pytest.raises(DecodeError, match="^expected an object, got .* @ \\$$"):
        structure(sent, PointsAwaitingFulfillment)


def test_refusals_hold_neither_the_value_nor_a_cause() -> None:
    """A value may be personal; the inner errors, which have it, are gone."""
    with pytest.raises(DecodeError) as caught:
        structure({**POINTS, "user_id": "alice@example.com"}, PointsAwaitingFulfillment)

    assert "alice" not in f"{caught.value}{caught.value!r}{vars(caught.value)}"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


PAGING = {"total": 203, "pages": 21, "next_page": "?page=3", "prev_page": "?page=1"}


@pytest.mark.parametrize("sent", [PAGING, [PAGING], {**PAGING, "added": 1}], ids=["object", "array", "grown"])
def test_paging_is_an_object_or_an_array_of_one(sent: Any) -> None:
    """The table says array, the sample is an object."""
    assert Paging(total=203, pages=21, next_page="?page=3", prev_page="?page=1") == structure(sent, Paging)


@pytest.mark.parametrize("sent", [None, [], [PAGING, PAGING], [[PAGING]], [1], "x", 1], ids=repr)
def test_any_other_paging_is_refused(sent: Any) -> None:
    """Without counts and links a walk could only guess."""
    with pytest.raises(DecodeError, match="^expected an object, got .* @ paging$"):
        structure(sent, Paging, "paging")


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (0, 0),
        (203, 203),
        ("203", 203),
        (203.0, 203),
        (None, None),
        (2**63 - 1, 2**63 - 1),
        (2**63, None),
        ("9" * 400, None),
        (-1, None),
        ("-1", None),
        (1.5, None),
        ("many", None),
        ("", None),
        (True, None),
        ([], None),
        ({}, None),
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", ["total", "pages"])
def test_counts_that_cannot_be_read_are_unknown(name: str, sent: Any, expected: int | None) -> None:
    """A broken count costs at worst one empty page, never the walk."""
    assert expected == getattr(structure({**PAGING, name: sent}, Paging), name)
    assert getattr(structure(without(PAGING, name), Paging), name) is None


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("?page=2", "?page=2"),
        ("Link to next page", "Link to next page"),
        ("", None),
        (None, None),
        (2, None),
        (False, None),
        ([], None),
        ({}, None),
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", ["next_page", "prev_page"])
def test_links_are_texts_or_nothing(name: str, sent: Any, expected: str | None) -> None:
    """`None`, empty and missing links are accepted, and so is anything that is no text."""
    assert expected == getattr(structure({**PAGING, name: sent}, Paging), name)
    assert getattr(structure(without(PAGING, name), Paging), name) is None


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param({"sweepstakes_winners": 3}, 3, id="table"),
        pytest.param({"sweepstake_winners": 3}, 3, id="sample"),
        pytest.param({"sweepstakes_winners": None, "sweepstake_winners": 3}, 3, id="table-null"),
        pytest.param({"sweepstakes_winners": 0, "sweepstake_winners": 3}, 0, id="table-first"),
        pytest.param({"sweepstake_winners": None}, None, id="sample-null"),
        pytest.param({}, None, id="neither"),
    ],
)
def test_winners_have_two_spellings(sent: dict[str, Any], expected: int | None) -> None:
    """Both fill `sweepstakes_winners`; the table's counts first, zero included."""
    entry = {**without(REWARD, "sweepstakes_winners"), **sent}
    assert expected == structure(entry, Reward).sweepstakes_winners


def test_reading_leaves_the_body_as_it_was() -> None:
    """The raw body is kept beside the models."""
    entry = {**without(REWARD, "sweepstakes_winners"), "sweepstake_winners": 3}
    before = json.dumps(entry)
    structure(entry, Reward)
    assert before == json.dumps(entry)


def test_nested_objects_become_models() -> None:
    """Extra data, segment and partner are objects of their own."""
    read = reward()
    assert Segment("New York Members", 2, "inclusion") == read.segment
    assert Partner(56577, "Acme Car Rentals") == read.partner_info
    assert isinstance(read.extra_data, ExtraData)
    assert {"city", "state", "country", "postal code"} == set(read.extra_data)


def test_known_names_are_what_a_model_reads() -> None:
    """The sample's spelling of the winners is one of a reward's names."""
    assert {*REWARD, "sweepstake_winners"} == known_names(Reward)
    assert set(PURCHASE) == known_names(Purchase)


@pytest.mark.parametrize("detailed", [False, True], ids=["fast", "detailed"])
def test_both_converters_read_the_same(detailed: bool) -> None:
    """The slow one is only there to tell the place."""
    assert reward() == make_converter(detailed=detailed).structure(REWARD, Reward)


def odd_only(_: Any, __: Any, number: int) -> None:
    """A validator that refuses even numbers in its own words, and adds a hint about 5."""
    error = ValueError(f"{number} is even")
    if number == 6:
        error.add_note("did you mean 5?")
    if number % 2 == 0:
        raise error


@frozen
class Odd:
    """A model with a rule of its own."""

    number: int = field(validator=odd_only)


@pytest.mark.parametrize("number", [4, 6], ids=["plain", "with-note"])
def test_a_models_own_rule_is_told_at_its_object(number: int) -> None:
    """Foreign errors and their notes may hold the value: only the place is told."""
    with pytest.raises(DecodeError, match="^the value can't be read @ odds$"):
        structure({"number": number}, Odd, "odds")
    assert Odd(5) == structure({"number": 5}, Odd)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text(max_size=10), inner, max_size=4),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(REWARD)), JSON_VALUES, max_size=5))
def test_any_mixture_of_values_is_read_or_refused_with_its_place(changes: dict[str, Any]) -> None:
    """A refusal names one of the fields that were changed."""
    refused = set()
    try:
        reward(**changes)
    except DecodeError as error:
        refused.add(error.path.partition(".")[0])
    assert refused <= set(changes)


@pytest.mark.parametrize("model", [Segment, Partner, PointsAwaitingFulfillment, Purchase, Reward])
def test_models_only_hold_what_they_are_given(model: Any) -> None:
    """
    Slots that are filled directly skip whatever a class does when it is made: ours do nothing.
    """
    assert "__attrs_post_init__" not in vars(model)
    for attribute in fields(model):
        assert (None, None) == (attribute.validator, attribute.converter)
        assert attribute.default in (NOTHING, None)
