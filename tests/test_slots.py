"""
Objects that are built by filling their slots.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from crowdtwist_async import _slots
from crowdtwist_async._convert import make_converter
from crowdtwist_async._slots import make_slot_filler
from crowdtwist_async.models import Purchase, Segment

SENT: dict[str, Any] = {"name": "gold", "subscription_id": 7, "eligibility_type": "inclusion"}


@pytest.fixture
def fill() -> Callable[[dict[str, Any]], Segment]:
    """The function for segments."""
    return make_slot_filler(Segment, make_converter())  # type: ignore[return-value]  # the type is optional


def test_an_object_is_like_one_that_its_class_made(fill: Callable[[dict[str, Any]], Segment]) -> None:
    """It is equal, of the class itself, frozen, and can be copied and pickled."""
    made, built = fill(SENT), Segment(**SENT)

    assert (Segment, built, hash(built), repr(built)) == (type(made), made, hash(made), repr(made))
    assert built == pickle.loads(pickle.dumps(made)) == copy.copy(made) == attrs.evolve(made)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.name = "silver"  # type: ignore[misc]  # as said


@pytest.mark.parametrize("missing", sorted(SENT))
def test_what_is_required_is_neither_null_nor_missing(
    missing: str, fill: Callable[[dict[str, Any]], Segment]
) -> None:
    """The slower way then says where."""
    for sent in ({**SENT, missing: None}, {name: SENT[name] for name in SENT if name != missing}):
        with pytest.raises(ValueError, match="null"):
            fill(sent)


def test_what_is_optional_may_be_null_or_missing() -> None:
    """Both are `None`, and the types that were seen before do not matter."""
    fill = make_slot_filler(Purchase, make_converter())
    names = [attribute.name for attribute in attrs.fields(Purchase)]
    whole: dict[str, Any] = dict.fromkeys(names, 1)
    for date in (1_700_000_000, None):
        expected = None if date is None else datetime.fromtimestamp(date, UTC)
        assert expected == fill({**whole, "last_date_purchased": date}, Purchase).last_date_purchased
    del whole["last_date_purchased"]
    assert fill(whole, Purchase).last_date_purchased is None


def test_a_server_that_changes_its_types_fills_no_memory(
    fill: Callable[[dict[str, Any]], Segment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known of combinations of types is forgotten when it is too much, and learnt again."""
    monkeypatch.setattr(_slots, "_MOST_PLANS", 2)
    for name in ("gold", 1, "silver", 2, "bronze"):
        for number in (7, "7", 7.0):
            sent = {"name": name, "subscription_id": number, "eligibility_type": "x"}
            assert Segment(str(name), 7, "x") == fill(sent)
