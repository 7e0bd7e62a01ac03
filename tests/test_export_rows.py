"""
Rows: nested for JSON Lines, flat for tables, with the same columns whatever the data.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from attrs import evolve
from outputs import FULL, POINTS, PURCHASE, SPARSE, row_of

from crowdtwist_async import DecodeError, IdType, PointsAwaitingFulfillment, Purchase, Reward
from crowdtwist_async._convert import structure
from crowdtwist_async.export.rows import Row, columns, flatten, iso
from crowdtwist_async.models import as_dict

SENT = [
    pytest.param("points", POINTS, id="points"),
    pytest.param("rewards", FULL, id="full-reward"),
    pytest.param("rewards", SPARSE, id="reward-with-nulls"),
    pytest.param("purchases", PURCHASE, id="purchase"),
]

COLUMNS = {
    "points": (
        "requested_id requested_id_type user_id total_points_awaiting_fulfillment"
        " bonus_points_awaiting_fulfillment _extra"
    ),
    "rewards": (
        "requested_id requested_id_type id group_id title description current_quantity num_points date_start"
        " date_end date_end_redeemable is_enabled category_id no_end_date total_quantity max_select_quantity"
        " max_per_user is_shipping_required is_phone_number_required is_min_age_required min_age"
        " is_digital_download sweepstakes_winners extra_data reference_id total_coupons remaining_coupons"
        " freq_cap freq_period_id freq_period_name image reward_terms min_tier_id segment_name"
        " segment_subscription_id segment_eligibility_type partner_info_id partner_info_name _extra"
    ),
    "purchases": (
        "requested_id requested_id_type last_date_purchased purchase_id purchase_id_type purchase_total"
        " total_points_awarded total_points_earned points_awaiting_fulfillment _extra"
    ),
}


def flat_of(name: str, row: Row) -> dict[str, Any]:
    """A flat row by the names of its columns."""
    return dict(zip(columns(name), flatten(row), strict=True))


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_are_the_models(name: str) -> None:
    """They are fixed by the reference's fields, nested ones by their whole name."""
    assert COLUMNS[name].split() == list(columns(name))


@pytest.mark.parametrize(("name", "sent"), SENT)
def test_a_flat_row_has_a_value_for_each_column(name: str, sent: dict[str, Any]) -> None:
    """Of the kind that the column says, or null."""
    types = {"text": str, "integer": int, "boolean": bool, "instant": datetime, "json": str}

    flat = flat_of(name, row_of(name, sent | {"new": 1}))

    assert [] == [
        column
        for column, kind in columns(name).items()
        if flat[column] is not None and types[kind] is not type(flat[column])
    ]


def test_a_row_begins_with_what_was_asked_for() -> None:
    """The id as the caller wrote it, also where the API answers with another one."""
    row = row_of("points", POINTS, "Alice@example.com", IdType.EMAIL)

    assert {
        "requested_id": "Alice@example.com",
        "requested_id_type": "email",
        **POINTS,
        "_extra": None,
    } == row
    assert str is type(row["requested_id_type"])


def test_a_row_is_nested() -> None:
    """Objects stay objects, unix seconds become instants, 0 and 1 booleans."""
    row = row_of("rewards", FULL)

    assert FULL["segment"] == row["segment"]
    assert FULL["partner_info"] == row["partner_info"]
    assert FULL["extra_data"] == row["extra_data"]
    assert datetime(2017, 3, 28, 8, tzinfo=UTC) == row["date_start"]
    assert (True, False) == (row["is_enabled"], row["is_phone_number_required"])


def test_nulls_are_kept() -> None:
    """A missing object is one null, flattened as many as it has columns."""
    row = row_of("rewards", SPARSE)
    flat = flat_of("rewards", row)

    assert [None, None, None] == [row["segment"], row["partner_info"], row["extra_data"]]
    assert [None] * 5 == [
        flat[name] for name in columns("rewards") if name.startswith(("segment", "partner"))
    ]


def test_flattening_names_a_value_by_its_path() -> None:
    """What has no fixed shape is one text, its JSON."""
    flat = flat_of("rewards", row_of("rewards", FULL))

    assert ("New York Members", 2, "inclusion") == (
        flat["segment_name"],
        flat["segment_subscription_id"],
        flat["segment_eligibility_type"],
    )
    assert (56577, "Acme Car Rentals") == (flat["partner_info_id"], flat["partner_info_name"])
    assert FULL["extra_data"] == json.loads(flat["extra_data"])


@pytest.mark.parametrize(("name", "sent"), SENT)
def test_what_the_model_does_not_know_is_kept(name: str, sent: dict[str, Any]) -> None:
    """The API grows every week: new properties stand in `_extra`, of whatever type."""
    extra = {"new": 1, "newer": {"deep": [None, "x"]}}

    assert extra == row_of(name, sent | extra)["_extra"]
    assert row_of(name, sent) == row_of(name, sent | extra) | {"_extra": None}


def test_both_spellings_of_sweepstakes_winners_are_known() -> None:
    """The sample's spelling fills the field of the table's, and is no extra."""
    sent = {name: value for name, value in FULL.items() if name != "sweepstakes_winners"}

    row = row_of("rewards", sent | {"sweepstake_winners": 102})

    assert (102, None) == (row["sweepstakes_winners"], row["_extra"])


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        pytest.param(datetime(2026, 1, 31, 11, 0, 18, tzinfo=UTC), "2026-01-31T11:00:18Z", id="utc"),
        pytest.param(
            datetime(2026, 1, 31, 23, 0, tzinfo=timezone(timedelta(hours=-2))),
            "2026-02-01T01:00:00Z",
            id="another-zone",
        ),
        pytest.param(
            datetime(2026, 1, 31, 0, 0, 0, 500_000, UTC), "2026-01-31T00:00:00.500000Z", id="fraction"
        ),
    ],
)
def test_instants_end_in_z(moment: datetime, expected: str) -> None:
    """They are UTC, and say so."""
    assert expected == iso(moment)


def test_a_model_alone_is_plain_json() -> None:
    """Without the id that was asked for, as the single commands print it."""
    purchase = structure(PURCHASE, Purchase)

    assert {**PURCHASE, "last_date_purchased": datetime(2018, 1, 1, 11, 0, 18, tzinfo=UTC)} == as_dict(
        purchase
    )
    assert as_dict(evolve(purchase, last_date_purchased=None))["last_date_purchased"] is None
    assert {*POINTS} == {*as_dict(structure(POINTS, PointsAwaitingFulfillment))}
    assert {*as_dict(structure(FULL, Reward))} == {*as_dict(structure(SPARSE, Reward))}


def test_unknown_properties_of_nested_objects_are_kept() -> None:
    """What grows within a segment is as new as what grows beside it."""
    segment = {"name": "a", "subscription_id": 1, "eligibility_type": "inclusion"}
    assert row_of("rewards", FULL | {"segment": segment})["_extra"] is None
    assert {"segment": {"color": "red"}} == row_of(
        "rewards", FULL | {"segment": {**segment, "color": "red"}}
    )["_extra"]


BIGGEST = 2**63 - 1
SEGMENT = FULL["segment"]


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        pytest.param({"num_points": BIGGEST + 1}, "num_points", id="one-too-much"),
        pytest.param({"min_age": -BIGGEST - 2}, "min_age", id="one-too-little"),
        pytest.param({"num_points": 10**400 - 1}, "num_points", id="four-hundred-digits"),
        pytest.param(
            {"segment": SEGMENT | {"subscription_id": 2**64}}, "segment.subscription_id", id="nested"
        ),
    ],
)
def test_a_number_that_no_column_holds_is_refused(changed: dict[str, Any], where: str) -> None:
    """It fails its member with the place, and is never rounded."""
    with pytest.raises(DecodeError, match=f"beyond 64 bits, which no column of an export holds @ {where}$"):
        row_of("rewards", FULL | changed)


def test_numbers_up_to_64_bits_are_kept() -> None:
    """The largest and the smallest that tables have."""
    row = row_of("rewards", FULL | {"num_points": BIGGEST, "min_age": -BIGGEST - 1})

    assert (BIGGEST, -BIGGEST - 1) == (row["num_points"], row["min_age"])


def test_json_holds_all_numbers() -> None:
    """What the model does not know, and the client's own properties, are texts in a table."""
    row = row_of("rewards", FULL | {"new": 10**30, "extra_data": {"big": 2**64}})

    flat = flat_of("rewards", row)

    assert (f'{{"new":{10**30}}}', f'{{"big":{2**64}}}') == (flat["_extra"], flat["extra_data"])


def test_a_model_alone_holds_all_numbers() -> None:
    """A single command prints JSON, and no table."""
    purchase = structure(PURCHASE | {"purchase_total": 2**64}, Purchase)

    assert 2**64 == as_dict(purchase)["purchase_total"]
