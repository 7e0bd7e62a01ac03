"""
Models and replies made by hand: what they stand for, and that the client reads them back.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from typing import Any

import pytest
import respx
from attrs import fields
from conftest import KEY, any_text
from hypothesis import given
from hypothesis import strategies as st
from scripted import ScriptedTransport

from crowdtwist_async import (
    CrowdTwistClient,
    ExtraData,
    Page,
    Partner,
    PointsAwaitingFulfillment,
    Purchase,
    RateLimitError,
    RetryPolicy,
    Reward,
    Segment,
)
from crowdtwist_async._convert import structure
from crowdtwist_async.testing import (
    as_json,
    make_page,
    make_points,
    make_purchase,
    make_reply,
    make_reward,
)

MAKERS: dict[Any, Callable[..., Any]] = {
    PointsAwaitingFulfillment: make_points,
    Purchase: make_purchase,
    Reward: make_reward,
}
each_model = pytest.mark.parametrize("model", MAKERS, ids=lambda model: model.__name__)
OPTIONS: dict[str, Any] = {"api_key": KEY, "client_id": 201, "retry": RetryPolicy(max_attempts=1)}


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Every value that a field of this type can have."""
    leaves: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(-(2**63), 2**63 - 1),
        str: any_text(),
        bool: st.booleans(),
        datetime: st.datetimes(timezones=st.just(UTC)),
        type(None): st.none(),
        ExtraData: st.dictionaries(any_text(), st.none() | st.integers() | any_text()).map(ExtraData),
    }
    if kind in (Segment, Partner):
        return st.builds(kind, **changes_of(kind))
    return (
        st.one_of([values_of(one) for one in typing.get_args(kind)]) if kind not in leaves else leaves[kind]
    )


@cache
def changes_of(model: Any) -> dict[str, st.SearchStrategy[Any]]:
    """A strategy for each field of a model."""
    hints = typing.get_type_hints(model)
    return {field.name: values_of(hints[field.name]) for field in fields(model)}


@each_model
@given(data=st.data())
def test_what_is_made_is_read_back(model: Any, data: st.DataObject) -> None:
    """Whatever a model holds, the converter makes the same of its JSON."""
    made = MAKERS[model](**data.draw(st.fixed_dictionaries({}, optional=changes_of(model))))
    assert made == structure(json.loads(json.dumps(as_json(made))), model)


@each_model
def test_everything_has_a_value(model: Any) -> None:
    """Each maker needs no arguments, and every field is in the JSON."""
    made = MAKERS[model]()
    assert isinstance(made, model)
    assert [field.name for field in fields(model)] == list(as_json(made))


@pytest.mark.parametrize(
    ("made", "written"),
    [
        pytest.param(make_reward(is_enabled=False), {"is_enabled": 0, "date_start": 1767225600}, id="reward"),
        pytest.param(make_purchase(), {"last_date_purchased": "2026-01-31T12:00:00Z"}, id="purchase"),
        pytest.param(
            make_purchase(last_date_purchased=datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=2)))),
            {"last_date_purchased": "2026-01-31T10:00:00Z"},
            id="another-zone",
        ),
        pytest.param(
            make_reward(extra_data=ExtraData({"city": "Bonn"}), segment=Segment("VIP", 1, "inclusion")),
            {
                "extra_data": {"city": "Bonn"},
                "segment": {"name": "VIP", "subscription_id": 1, "eligibility_type": "inclusion"},
            },
            id="nested",
        ),
    ],
)
def test_json_is_written_as_the_api_writes_it(made: Any, written: dict[str, Any]) -> None:
    """Flags as 0 and 1, the dates of rewards as unix seconds, those of purchases in ISO 8601."""
    assert written == {name: as_json(made)[name] for name in written}


@pytest.mark.parametrize(
    ("page", "total", "pages", "links"),
    [
        pytest.param(make_page(), 0, 0, (False, False), id="empty"),
        pytest.param(make_page([make_purchase()]), 1, 1, (False, False), id="only"),
        pytest.param(make_page([make_reward()], number=3), 21, 3, (False, True), id="last"),
        pytest.param(make_page(number=9, pages=2), 20, 2, (False, True), id="beyond"),
        pytest.param(make_page([make_reward()] * 10, pages=3), 30, 3, (True, False), id="first"),
        pytest.param(
            make_page([make_reward()], number=2, pages=3, total=12), 12, 3, (True, True), id="given"
        ),
    ],
)
def test_a_page_s_counts_and_links_agree(
    page: Page[Any], total: int, pages: int, links: tuple[bool, bool]
) -> None:
    """By default it is the last of full pages."""
    assert (total, pages) == (page.total, page.pages)
    assert links == (page.paging.next_page is not None, page.paging.prev_page is not None)


@pytest.mark.anyio
async def test_the_client_reads_what_is_made() -> None:
    """A transport's replies come out of a client as what they were made of."""
    points = make_points(user_id=7)
    purchases = make_page([make_purchase(purchase_id=str(number)) for number in range(10)], pages=2, total=11)
    rest = make_page([make_purchase(purchase_id="10")], number=2)
    rewards = make_page(of=Reward)
    bodies: list[Any] = [points, purchases, rewards, purchases, rest]
    transport = ScriptedTransport(*[make_reply(body) for body in bodies])
    async with CrowdTwistClient(**OPTIONS, transport=transport) as client:
        assert points == await client.points_awaiting_fulfillment("7")
        assert purchases == await client.user_purchases("7")
        assert rewards == await client.user_rewards("7")
        assert [*purchases, *rest] == await client.iter_user_purchases("7").collect()


@pytest.mark.anyio
@respx.mock
async def test_json_for_respx(respx_mock: respx.MockRouter) -> None:
    """The page on testing says that the default transport can be intercepted so."""
    url = "https://pos201.crowdtwist.com/fulfillment/users/7"
    respx_mock.get(url).respond(json=as_json(make_points(user_id=7)))
    async with CrowdTwistClient(**OPTIONS) as client:
        assert make_points(user_id=7) == await client.points_awaiting_fulfillment("7")


@pytest.mark.anyio
async def test_a_reply_of_any_status() -> None:
    """Headers are found whatever their case, and a body may be JSON or bytes."""
    transport = ScriptedTransport(
        make_reply({"reason": "slow_down"}, 429, {"Retry-After": "7"}), make_reply(b"<html>", 429)
    )
    async with CrowdTwistClient(**OPTIONS, transport=transport) as client:
        with pytest.raises(RateLimitError) as caught:
            await client.points_awaiting_fulfillment("7")
        assert ("slow_down", 7.0) == (caught.value.code, caught.value.retry_after)


@pytest.mark.parametrize("entries", [[1], [make_purchase(), make_reward()]], ids=["no model", "both"])
def test_a_page_is_of_one_kind(entries: list[Any]) -> None:
    """The client would read no other."""
    with pytest.raises(TypeError, match="^a page has purchases or rewards, all of one kind"):
        make_page(entries)
