"""
The rows of one member: every page of an endpoint, with what the models do not know.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest
from conftest import KEY
from reference_server import make_rewards

from crowdtwist_async import (
    ConnectionFailedError,
    DecodeError,
    InvalidArgumentError,
    PaginationLoopError,
    RetryPolicy,
    ServerError,
    UserNotFoundError,
)
from crowdtwist_async.emulator import Emulator, Fault
from crowdtwist_async.export.rows import Row
from crowdtwist_async.export.source import EndpointName, Member, Source
from crowdtwist_async.models import IdTypeText

pytestmark = pytest.mark.anyio

ONE_PAGE, MANY_PAGES, NONE = "10000000", "10000001", "10000002"
NAMES = ["points", "rewards", "purchases"]
ONCE = RetryPolicy(max_attempts=1)


@pytest.fixture
def emulator() -> Emulator:
    """An API with a few members."""
    return Emulator(members=5, api_key=KEY)


async def member_of(emulator: Emulator, source: Source, user_id: str = MANY_PAGES) -> Member:
    """A member who is fetched, each request sent once."""
    async with emulator.client(retry=ONCE) as client:
        member = Member(source, client, user_id)
        await member.fetch()
        return member


async def rows_of(emulator: Emulator, source: Source, user_id: str = MANY_PAGES) -> list[Row]:
    """A member's rows."""
    return (await member_of(emulator, source, user_id)).rows


@pytest.mark.parametrize("user_id", [ONE_PAGE, MANY_PAGES, NONE])
async def test_every_page_is_fetched_once(emulator: Emulator, user_id: str) -> None:
    """All rows of all pages, at one request a page."""
    purchases = await rows_of(emulator, Source("purchases"), user_id)
    requests = emulator.stats.requests
    rewards = await rows_of(emulator, Source("rewards"), user_id)

    assert emulator.purchases_of(user_id) == len(purchases)
    assert max(1, -(-len(purchases) // 10)) == requests
    assert emulator.rewards_of(user_id) == len(rewards)
    assert len(purchases) == len({row["purchase_id"] for row in purchases})


async def test_points_are_one_row(emulator: Emulator) -> None:
    """One request, one row."""
    [row] = await rows_of(emulator, Source("points"))

    assert ("10000001", "id", 10_000_001) == (row["requested_id"], row["requested_id_type"], row["user_id"])
    assert 1 == emulator.stats.requests


@pytest.mark.parametrize(
    ("name", "id_type", "user_id"),
    [
        pytest.param("points", "email", "member10000001@example.com", id="points-email"),
        pytest.param("rewards", "username", "member10000001", id="rewards-username"),
        pytest.param("purchases", "third_party_id", "tp-10000001", id="purchases-third-party"),
    ],
)
async def test_other_ids_are_kept_as_asked(
    emulator: Emulator, name: EndpointName, id_type: IdTypeText, user_id: str
) -> None:
    """The rows name the member as the caller's own data do."""
    rows = await rows_of(emulator, Source(name, id_type), user_id)

    assert {(user_id, id_type)} == {(row["requested_id"], row["requested_id_type"]) for row in rows}


async def test_sold_out_rewards_are_fetched_when_wanted(emulator: Emulator) -> None:
    """By default the API leaves them out."""
    everything = await rows_of(emulator, Source("rewards", include_soldout=True))
    in_stock = await rows_of(emulator, Source("rewards"))

    assert emulator.rewards_of(MANY_PAGES, include_soldout=True) == len(everything)
    assert {row["id"] for row in in_stock} == {row["id"] for row in everything if row["current_quantity"]}


async def test_dates_bound_the_purchases(emulator: Emulator) -> None:
    """Both days are included."""
    everything = await rows_of(emulator, Source("purchases"))
    first, last = everything[40]["last_date_purchased"].date(), everything[20]["last_date_purchased"].date()

    some = await rows_of(emulator, Source("purchases", date_start=first, date_end=last.isoformat()))

    assert [row for row in everything if first <= row["last_date_purchased"].date() <= last] == some


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda: Source("purchases", date_start="2026-02-01", date_end="2026-01-01"), id="reversed"
        ),
        pytest.param(lambda: Source("purchases", date_start="yesterday"), id="no-date"),
        pytest.param(lambda: Source("purchases", date_start=date.max), id="future"),
        pytest.param(lambda: Source("points", "username"), id="id-type-of-another-endpoint"),
        pytest.param(lambda: Source("pointz"), id="no-endpoint"),  # type: ignore[arg-type]
        pytest.param(lambda: Source("rewards", date_start="2026-01-01"), id="dates-of-another-endpoint"),
        pytest.param(lambda: Source("points", date_end="2026-01-01"), id="date-of-another-endpoint"),
        pytest.param(lambda: Source("purchases", include_soldout=False), id="flag-of-another-endpoint"),
    ],
)
async def test_what_can_not_work_for_anyone_is_refused_at_once(make: Callable[[], Source]) -> None:
    """It is no failure of each member in turn."""
    with pytest.raises(InvalidArgumentError):
        make()


def test_today_can_be_the_first_day() -> None:
    """The day ends in UTC, as the purchases' days do."""
    today = datetime.now(UTC).date()
    assert today == Source("purchases", date_start=today).date_start


def _with_extra(body: Any) -> Any:
    """A body in which every row has a property that the reference does not know."""
    entries = body.get("rewards", body.get("purchases", [body]))
    for number, entry in enumerate(entries):
        entry["brand_new"] = {"number": number}
    return body


@pytest.mark.parametrize("name", NAMES)
async def test_unknown_properties_are_kept(emulator: Emulator, name: EndpointName) -> None:
    """Fetching again would cost a night: they stand in `_extra`, row by row."""
    emulator.script(Fault.rewrite(_with_extra))

    rows = await rows_of(emulator, Source(name), ONE_PAGE)

    assert [{"brand_new": {"number": number % 10}} for number in range(min(10, len(rows)))] == [
        row["_extra"] for row in rows[:10]
    ]
    assert {True} == {row["_extra"] is None for row in rows[10:]} | {True}


async def test_a_program_without_rewards_has_no_rows() -> None:
    """`no_data` is an empty list, and not an error."""
    assert [] == await rows_of(Emulator(members=2, rewards=0, api_key=KEY), Source("rewards"))


async def test_one_reward_beside_the_paging_is_a_row(emulator: Emulator) -> None:
    """The reference's own sample has no array."""
    [reward] = make_rewards(1)
    emulator.script(Fault.rewrite(lambda _: {"paging": {"total": 1, "pages": 1}, **reward}))

    [row] = await rows_of(emulator, Source("rewards"))

    assert (reward["id"], reward["title"]) == (row["id"], row["title"])


@pytest.mark.parametrize("name", NAMES)
async def test_an_unknown_member_is_an_error(emulator: Emulator, name: EndpointName) -> None:
    """Whatever the endpoint's own words for it."""
    with pytest.raises(UserNotFoundError):
        await rows_of(emulator, Source(name), "5")


@pytest.mark.parametrize("name", NAMES)
async def test_after_an_error_it_goes_on_with_the_same_page(emulator: Emulator, name: EndpointName) -> None:
    """Pages before it stay, and are not asked for again; all requests are counted for the member."""
    first = () if name == "points" else (None,)
    emulator.script(*first, Fault.status(500), Fault.reset())

    async with emulator.client(retry=ONCE) as client:
        member = Member(Source(name), client, MANY_PAGES)
        for kind in (ServerError, ConnectionFailedError):
            with pytest.raises(kind):
                await member.fetch()
            assert len(first) == member.pages
        await member.fetch()

    counted: dict[str, Callable[[str], int]] = {
        "rewards": emulator.rewards_of,
        "purchases": emulator.purchases_of,
    }
    rows = counted[name](MANY_PAGES) if name in counted else 1
    assert rows == len(member.rows)
    assert -(-rows // 10) + 2 == emulator.stats.requests == member.stats.requests
    assert not member.drifted


@pytest.mark.parametrize("name", NAMES)
async def test_to_ask_is_one_request(emulator: Emulator, name: EndpointName) -> None:
    """However many pages there are."""
    async with emulator.client(retry=ONCE) as client:
        await Source(name).ask(client, MANY_PAGES)

    assert 1 == emulator.stats.requests


@pytest.mark.parametrize("name", NAMES)
async def test_an_answer_that_is_an_error_is_raised(emulator: Emulator, name: EndpointName) -> None:
    """It says whether the API answers."""
    emulator.script(Fault.status(500))

    async with emulator.client(retry=ONCE) as client:
        with pytest.raises(ServerError):
            await Source(name).ask(client, MANY_PAGES)


async def test_points_of_the_wrong_shape_are_an_error(emulator: Emulator) -> None:
    """As without the extra properties."""
    emulator.script(Fault.rewrite(lambda body: {**body, "user_id": None}))

    with pytest.raises(DecodeError, match="user_id"):
        await rows_of(emulator, Source("points"))


@pytest.mark.parametrize("name", ["rewards", "purchases"])
@pytest.mark.parametrize("added", [3, 10, -2])
@pytest.mark.parametrize("drifts", [1, 2])
async def test_a_member_that_changes_meanwhile_is_walked_again(
    emulator: Emulator, name: EndpointName, added: int, drifts: int
) -> None:
    """Rows that move to another page would be lost or doubled; ten more make a page repeat the last one."""
    emulator.script(*[None, Fault.drift(added)] * drifts)

    member = await member_of(emulator, Source(name))

    counted = emulator.purchases_of(MANY_PAGES) if name == "purchases" else emulator.rewards_of(MANY_PAGES)
    key = "purchase_id" if name == "purchases" else "id"
    assert counted == len({row[key] for row in member.rows}) == len(member.rows)
    assert (False, ()) == (member.drifted, emulator.pending_faults)


async def test_a_member_that_keeps_changing_is_kept_as_it_is(emulator: Emulator) -> None:
    """Three walks are enough; it is marked."""
    emulator.script(*[None, Fault.drift(3)] * 3)

    member = await member_of(emulator, Source("purchases"))

    pages = -(-emulator.purchases_of(MANY_PAGES) // 10)
    assert (True, 4 + pages) == (member.drifted, emulator.stats.requests)
    # Three rows that moved to the second page stand there again.
    assert emulator.purchases_of(MANY_PAGES) == len(member.rows)
    assert emulator.purchases_of(MANY_PAGES) - 3 == len({row["purchase_id"] for row in member.rows})


async def test_a_member_whose_pages_repeat_fails(emulator: Emulator) -> None:
    """Three walks are enough: a page that is there twice is not written as if it were another."""
    emulator.script(*[None, Fault.drift(10), None] * 3)

    with pytest.raises(PaginationLoopError):
        await member_of(emulator, Source("purchases"))
    assert 9 == emulator.stats.requests


async def test_counts_that_come_late_are_no_change(emulator: Emulator) -> None:
    """Nor those that are left out."""

    def without_counts(body: Any) -> Any:
        body["paging"] |= {"total": None, "pages": None}
        return body

    emulator.script(Fault.rewrite(without_counts), None, Fault.rewrite(without_counts))

    member = await member_of(emulator, Source("purchases"))

    assert (False, 14, emulator.purchases_of(MANY_PAGES)) == (member.drifted, member.pages, len(member.rows))
