"""
The rules of the shop: what a member is told of points and purchases.
"""

from __future__ import annotations

from dataclasses import dataclass

from crowdtwist_async import CrowdTwistClient, CrowdTwistError, Reward


@dataclass(frozen=True)
class Account:
    """What the shop's page shows."""

    pending: int
    """Points that are on their way, bonus points included."""
    latest_purchase: str | None
    """The day of the latest purchase; `None` where there is none, or it is not known just now."""


async def account_of(client: CrowdTwistClient, user_id: str) -> Account:
    """
    Collect what the page shows. Without its history it is still worth showing, without points not.

    Raises:
        CrowdTwistError: The points can't be had.
    """
    points = await client.points_awaiting_fulfillment(user_id)
    pending = points.total_points_awaiting_fulfillment + points.bonus_points_awaiting_fulfillment
    try:
        purchase = await client.iter_user_purchases(user_id).first()
    except CrowdTwistError:
        return Account(pending, None)
    day = purchase.last_date_purchased if purchase else None
    return Account(pending, day.date().isoformat() if day else None)


def affordable(rewards: list[Reward], points: int) -> list[str]:
    """Name the rewards that a member can have for these points, the dearest first."""
    found = [reward for reward in rewards if reward.num_points <= points and reward.current_quantity > 0]
    return [reward.title for reward in sorted(found, key=lambda reward: -reward.num_points)]
