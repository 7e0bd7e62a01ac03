"""
The types that users see, checked by mypy and pyright; nothing here is run.
"""

from __future__ import annotations

from datetime import datetime
from typing import assert_type

from crowdtwist_async import (
    Budget,
    CrowdTwistClient,
    CrowdTwistError,
    HmacKey,
    HttpxTransport,
    IdType,
    Outcome,
    Page,
    Pager,
    PointsAwaitingFulfillment,
    Purchase,
    RateBudget,
    Reply,
    Reward,
    Transport,
)
from crowdtwist_async.testing import make_page, make_purchase, make_reply, make_reward


async def calls(client: CrowdTwistClient) -> None:
    """The coroutines."""
    assert_type(await client.points_awaiting_fulfillment("1"), PointsAwaitingFulfillment)
    rewards = await client.user_rewards("1", id_type="email", page=1, page_size=10, include_soldout=True)
    assert_type(rewards, Page[Reward])
    assert_type(rewards.items, tuple[Reward, ...])
    assert_type(rewards.total, int | None)
    assert_type(rewards.items[0].date_end, datetime | None)
    assert_type(rewards.items[0].is_enabled, bool)
    assert_type(await client.user_purchases("1"), Page[Purchase])
    await client.user_purchases("1", id_type=IdType.EMAIL)
    # Each of these is an error: both checkers tell of a comment that hides none.
    await client.user_purchases("1", id_type="username")  # type: ignore[arg-type]
    await client.user_rewards("1", id_type="e-mail")  # type: ignore[arg-type]


async def walks(client: CrowdTwistClient) -> None:
    """The iterators."""
    pager = client.iter_user_purchases("1", date_start="2026-01-01", reverse=True)
    assert_type(pager, Pager[Purchase])
    async for purchase in pager:
        assert_type(purchase, Purchase)
    async for page in pager.pages():
        assert_type(page, Page[Purchase])
    assert_type(await pager.collect(), list[Purchase])
    assert_type(await client.iter_user_rewards("1").first(), Reward | None)
    assert_type(pager.cursor, str)


async def many(client: CrowdTwistClient) -> None:
    """Prefetch and fan-out."""
    async with client.iter_user_rewards("1").prefetch(4) as items:
        async for reward in items:
            assert_type(reward, Reward)
        async for page in items.pages():
            assert_type(page, Page[Reward])
    assert_type(await client.iter_user_purchases("1").collect(prefetch=8), list[Purchase])
    async with client.fan_out(client.points_awaiting_fulfillment, ["1", "2"]) as outcomes:
        async for outcome in outcomes:
            assert_type(outcome, Outcome[str, PointsAwaitingFulfillment])
            assert_type(outcome.unwrap(), PointsAwaitingFulfillment)
            assert_type(outcome.error, CrowdTwistError | None)
    async with client.fan_out(client.iter_user_purchases, [1, 2], ordered=True) as walks:
        async for walk in walks:
            assert_type(walk.unwrap(), list[Purchase])
        assert_type(walks.requests, int)


async def views() -> None:
    """Entering, views, and the protocols."""
    budget: Budget = RateBudget(per_minute=100)
    transport: Transport = HttpxTransport()
    async with CrowdTwistClient(api_key="k", budget=budget, transport=transport) as client:
        assert_type(client, CrowdTwistClient)
        assert_type(client.with_options(deadline=None), CrowdTwistClient)
        assert_type(client.with_options(deadline=3, timeout=1), CrowdTwistClient)
    assert_type(CrowdTwistClient.from_env(client_id=201), CrowdTwistClient)
    CrowdTwistClient.from_env(time_out=5)  # type: ignore[call-arg]
    CrowdTwistClient.from_env(timeout="5")  # type: ignore[arg-type]
    signing = HmacKey("public", "private", timestamp="s", digest="raw")
    assert_type(CrowdTwistClient(api_key="k", signing=signing), CrowdTwistClient)


def made() -> None:
    """Models and replies by hand."""
    assert_type(make_page([make_purchase()]), Page[Purchase])
    assert_type(make_page([make_reward()]), Page[Reward])
    assert_type(make_page(of=Reward), Page[Reward])
    assert_type(make_page(number=2), Page[Purchase])
    assert_type(make_reply(make_purchase()), Reply)
