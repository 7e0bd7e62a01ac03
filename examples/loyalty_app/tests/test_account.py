"""
Unit tests: models made by hand, and a fake of the two methods that the rules call.
"""

from __future__ import annotations

from typing import Any

import pytest
from loyalty_app.account import Account, account_of, affordable

from crowdtwist_async import CrowdTwistError, PointsAwaitingFulfillment, Purchase
from crowdtwist_async.testing import make_points, make_purchase, make_reward


class FakePager:
    """As much of a pager as the rules use."""

    def __init__(self, first: Purchase | CrowdTwistError | None) -> None:
        self._first = first

    async def first(self) -> Purchase | None:
        if isinstance(self._first, CrowdTwistError):
            raise self._first
        return self._first


class FakeClient:
    """As much of a client as the rules use."""

    def __init__(self, first: Purchase | CrowdTwistError | None = None) -> None:
        self._first = first

    async def points_awaiting_fulfillment(self, user_id: str) -> PointsAwaitingFulfillment:
        return make_points(user_id=int(user_id), bonus_points_awaiting_fulfillment=7)

    def iter_user_purchases(self, user_id: str) -> FakePager:
        return FakePager(self._first)


@pytest.mark.parametrize(
    ("first", "day"),
    [
        pytest.param(make_purchase(), "2026-01-31", id="dated"),
        pytest.param(make_purchase(last_date_purchased=None), None, id="undated"),
        pytest.param(None, None, id="none"),
        pytest.param(CrowdTwistError("down"), None, id="history-down"),
    ],
)
async def test_the_account_has_both_kinds_of_points(first: Any, day: str | None) -> None:
    """And the day of the latest purchase, where that is known."""
    client: Any = FakeClient(first)
    assert Account(157, day) == await account_of(client, "7")


def test_rewards_that_are_affordable() -> None:
    """Those in stock for the points, the dearest first."""
    rewards = [
        make_reward(title="mug", num_points=100),
        make_reward(title="bag", num_points=300),
        make_reward(title="car", num_points=9_000),
        make_reward(title="cap", num_points=200, current_quantity=0),
    ]
    assert ["bag", "mug"] == affordable(rewards, 300)
