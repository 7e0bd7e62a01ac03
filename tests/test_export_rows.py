"""
Rows: nested for JSON Lines, flat for tables, with the same columns whatever the data.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from attrs import evolve
from reference_server import make_purchases, make_rewards

from crowdtwist_async import IdType, PointsAwaitingFulfillment, Purchase, Reward
from crowdtwist_async._convert import structure
from crowdtwist_async.export.rows import MODELS, columns, flatten, iso, make_row, plain

FULL, SPARSE = make_rewards(2)
PURCHASE = make_purchases(1)[0]
POINTS = {"user_id": 7, "total_points_awaiting_fulfillment": 4000, "bonus_points_awaiting_fulfillment": 10}

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


def row_of(name: str, sent: dict[str, Any], user_id: str = "7", id_type: str = "id") -> dict[str, Any]:
    """The row of a JSON object as the API sends it."""
    return make_row(user_id, id_type, structure(sent, MODELS[name]), sent)


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_are_the_models(name: str) -> None:
    """They are fixed by the reference's fields, nested ones by their whole name."""
    assert tuple(COLUMNS[name].split()) == columns(name)


@pytest.mark.parametrize(("name", "sent"), SENT)
def test_a_flat_row_has_exactly_the_columns(name: str, sent: dict[str, Any]) -> None:
    """In the same order, or the values would stand under other names."""
    assert columns(name) == tuple(flatten(row_of(name, sent)))


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
    assert "2017-03-28T08:00:00Z" == row["date_start"]
    assert (True, False) == (row["is_enabled"], row["is_phone_number_required"])


def test_nulls_are_kept() -> None:
    """A missing object is one null, flattened as many as it has columns."""
    row = row_of("rewards", SPARSE)
    flat = flatten(row)

    assert [None, None, None] == [row["segment"], row["partner_info"], row["extra_data"]]
    assert [None] * 5 == [
        flat[name] for name in columns("rewards") if name.startswith(("segment", "partner"))
    ]


def test_flattening_names_a_value_by_its_path() -> None:
    """What has no fixed shape stays one value."""
    flat = flatten(row_of("rewards", FULL))

    assert ("New York Members", 2, "inclusion") == (
        flat["segment_name"],
        flat["segment_subscription_id"],
        flat["segment_eligibility_type"],
    )
    assert (56577, "Acme Car Rentals") == (flat["partner_info_id"], flat["partner_info_name"])
    assert FULL["extra_data"] == flat["extra_data"]


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

    assert {**PURCHASE, "last_date_purchased": "2018-01-01T11:00:18Z"} == plain(purchase)
    assert plain(evolve(purchase, last_date_purchased=None))["last_date_purchased"] is None
    assert {*POINTS} == {*plain(structure(POINTS, PointsAwaitingFulfillment))}
    assert {*plain(structure(FULL, Reward))} == {*plain(structure(SPARSE, Reward))}


def test_unknown_properties_of_nested_objects_are_kept() -> None:
    """What grows within a segment is as new as what grows beside it."""
    segment = {"name": "a", "subscription_id": 1, "eligibility_type": "inclusion"}
    assert row_of("rewards", FULL | {"segment": segment})["_extra"] is None
    assert {"segment": {"color": "red"}} == row_of(
        "rewards", FULL | {"segment": {**segment, "color": "red"}}
    )["_extra"]
