"""
The models: frozen, comparable, picklable, with the field names of the reference.
"""

from __future__ import annotations

import copy
import json
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from attrs import exceptions, fields

from crowdtwist_async._convert import structure
from crowdtwist_async.models import (
    ExtraData,
    IdType,
    Page,
    Paging,
    Partner,
    PointsAwaitingFulfillment,
    Purchase,
    Reward,
    Segment,
    as_dict,
)

REPLIES = Path(__file__).parent / "replies"
REWARD = json.loads((REPLIES / "user_rewards" / "page.json").read_text(encoding="utf-8"))["rewards"][0]
PURCHASE = json.loads((REPLIES / "user_purchases" / "page.json").read_text(encoding="utf-8"))["purchases"][0]
INSTANCES = [
    PointsAwaitingFulfillment(1, 4000, 1000),
    Segment("5x login", 123, "inclusion"),
    Partner(56577, "Acme Car Rentals"),
    structure(REWARD, Reward),
    structure(PURCHASE, Purchase),
    Paging(203, 21, "next", "prev"),
    Page(
        items=(structure(PURCHASE, Purchase),), paging=Paging(1, 1), number=1, raw={"purchases": [PURCHASE]}
    ),
]


def name_of(instance: object) -> str:
    """A model's name, as the id of a case."""
    return type(instance).__name__


def page(*items: int, number: int = 1) -> Page[int]:
    """A page of three entries on two pages."""
    return Page(items=items, paging=Paging(total=3, pages=2), number=number, raw={"rows": list(items)})


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param(Reward, set(REWARD), id="rewards"),
        pytest.param(Purchase, set(PURCHASE), id="purchases"),
        pytest.param(Segment, set(REWARD["segment"]), id="segments"),
        pytest.param(Partner, set(REWARD["partner_info"]), id="partners"),
    ],
)
def test_models_carry_the_names_of_the_reference(model: Any, expected: set[str]) -> None:
    """Neither a field of the tables is missing, nor is there one that they do not have."""
    assert expected == {attribute.name for attribute in fields(model)}


@pytest.mark.parametrize("instance", INSTANCES, ids=name_of)
def test_models_are_frozen(instance: Any) -> None:
    """A row that is shared by tasks can't change under one of them."""
    name = fields(type(instance))[0].name
    with pytest.raises(exceptions.FrozenInstanceError):
        setattr(instance, name, None)


@pytest.mark.parametrize("instance", INSTANCES, ids=name_of)
def test_models_survive_pickling_and_copying(instance: Any) -> None:
    """Rows cross process boundaries, extra data and raw bodies included."""
    assert instance == pickle.loads(pickle.dumps(instance))
    assert instance == copy.deepcopy(instance)


@pytest.mark.parametrize("instance", INSTANCES, ids=name_of)
def test_models_can_be_counted_in_sets(instance: Any) -> None:
    """Equal rows hash alike, although extra data and raw bodies are mappings."""
    assert 1 == len({instance, copy.deepcopy(instance)})


def test_id_types_are_their_texts() -> None:
    """They can be compared, formatted and sent as they are."""
    assert [
        "id",
        "email",
        "third_party_id",
        "mobile_phone_number",
        "username",
        "facebook_user_id",
        "twitter_user_id",
    ] == [f"{id_type}" for id_type in IdType]


def test_extra_data_is_the_mapping_that_was_sent() -> None:
    """Whatever keys came are there, in their order, with their values as sent."""
    sent = {"city": "New York", "colour": None, "sizes": [1, 2]}
    extra = ExtraData(sent)

    assert sent == extra
    assert list(sent) == list(extra)
    assert 3 == len(extra)
    assert [1, 2] == extra["sizes"]
    assert f"ExtraData({sent!r})" == repr(extra)
    with pytest.raises(KeyError):
        extra["state"]


def test_extra_data_does_not_follow_its_source() -> None:
    """It is a copy: changing the raw body leaves the row alone."""
    sent = {"city": "New York"}
    extra = ExtraData(sent)
    sent["city"] = "Boston"

    assert "New York" == extra.city


def test_documented_extra_data_can_be_read_by_name() -> None:
    """City, state, country and postal code are `None` when they were not sent."""
    full = ExtraData({"city": "Albany", "state": "New York", "country": "USA", "postal_code": "12207"})

    assert ("Albany", "New York", "USA", "12207") == (full.city, full.state, full.country, full.postal_code)
    empty = ExtraData({})
    assert (None, None, None, None) == (empty.city, empty.state, empty.country, empty.postal_code)


def test_the_postal_code_has_two_spellings() -> None:
    """The table says `postal code`; with an underscore it counts first."""
    assert "10010" == ExtraData({"postal code": "10010"}).postal_code
    assert "10011" == ExtraData({"postal code": "10010", "postal_code": "10011"}).postal_code


def test_a_page_is_a_sequence_of_its_items() -> None:
    """`len()`, iteration and indices are those of the items, the counts of all pages."""
    second = page(1, 2, number=2)

    assert [1, 2] == list(second)
    assert (1, 2, (2,)) == (second[0], second[-1], second[1:])
    assert 2 == len(second)
    assert (3, 2, 2) == (second.total, second.pages, second.number)


def test_a_page_without_counts_has_none() -> None:
    """Unknown is not zero."""
    unknown: Page[int] = Page(items=(), paging=Paging(), number=1, raw={})
    assert (None, None) == (unknown.total, unknown.pages)


def test_the_repr_of_a_page_leaves_the_raw_body_out() -> None:
    """The body may be large, and its unknown properties personal."""
    assert "rows" not in repr(page(1))


def test_the_repr_of_a_page_leaves_its_links_out() -> None:
    """The member's id is in them."""
    paging = Paging(
        total=12, pages=2, next_page="http://localhost/users/alice%40example.com/purchases?page=2"
    )
    assert "Paging(total=12, pages=2, next_page=..., prev_page=None)" == repr(paging)


def test_a_reward_needs_only_what_the_reference_requires() -> None:
    """What the tables call not required, and the starting date, are `None` when not given."""
    optional = {attribute.name for attribute in fields(Reward) if attribute.default is None}
    assert {
        "date_start",
        "date_end",
        "date_end_redeemable",
        "max_select_quantity",
        "min_age",
        "sweepstakes_winners",
        "extra_data",
        "reference_id",
        "freq_cap",
        "freq_period_id",
        "freq_period_name",
        "reward_terms",
        "min_tier_id",
        "segment",
        "partner_info",
    } == optional
    required = {name: value for name, value in REWARD.items() if name not in optional}
    assert structure(required, Reward).date_start is None


def test_a_model_becomes_a_dict_that_json_takes() -> None:
    """With what is nested in it; dates stay what they are."""
    reward = structure(REWARD, Reward)
    made = as_dict(reward)

    assert set(REWARD) == set(made)
    assert REWARD["segment"] == made["segment"]
    assert (dict, reward.date_start) == (type(made["extra_data"]), made["date_start"])
    assert json.loads(msgspec.json.encode(made))["date_start"] == "2017-03-28T08:00:00Z"


def test_a_page_becomes_a_dict_too() -> None:
    """Its rows are in a list."""
    purchase = structure(PURCHASE, Purchase)
    made = as_dict(Page(items=(purchase,), paging=Paging(1, 1), number=1, raw={}))
    assert ([as_dict(purchase)], 1) == (made["items"], made["paging"]["total"])


def test_a_rewards_dates_are_aware() -> None:
    """Unix seconds become instants in UTC."""
    assert datetime(2017, 3, 28, 8, tzinfo=UTC) == structure(REWARD, Reward).date_start
