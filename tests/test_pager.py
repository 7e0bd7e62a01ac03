"""
Whole walks through the client, over a transport in process: honest servers, lying ones, interruptions.
"""

from __future__ import annotations

import gc
import json
import math
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple, TypeVar
from unittest.mock import patch
from urllib.parse import parse_qs, quote

import anyio
import pytest
from conftest import KEY, leaks
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdtwist_async import CrowdTwistClient, RateBudget, RetryPolicy, _page_walk
from crowdtwist_async._arguments import OnDrift
from crowdtwist_async._pager import Pager
from crowdtwist_async.errors import (
    ClientClosedError,
    CrowdTwistError,
    InvalidArgumentError,
    PaginationDriftError,
    PaginationDriftWarning,
    PaginationError,
    PaginationLoopError,
    ServerError,
)
from crowdtwist_async.models import Page, Purchase, Reward
from crowdtwist_async.transports import Reply, Request

T = TypeVar("T")

USER = "3321700401126"
ORIGINS = {"rewards": "https://api201.crowdtwist.com", "purchases": "https://pos201.crowdtwist.com"}
REWARD = {
    **dict.fromkeys(("title", "description", "image"), "text"),
    **dict.fromkeys(("group_id", "current_quantity", "num_points", "category_id", "total_quantity"), 1),
    **dict.fromkeys(("max_per_user", "total_coupons", "remaining_coupons"), 0),
    **dict.fromkeys(("is_enabled", "no_end_date", "is_shipping_required", "is_phone_number_required"), 1),
    **dict.fromkeys(("is_min_age_required", "is_digital_download"), "0"),
}
PURCHASE = {"purchase_id_type": "order_id"} | dict.fromkeys(
    ("purchase_total", "total_points_awarded", "total_points_earned"), 400
)

Kind = Literal["rewards", "purchases"]

on_both_loops = pytest.mark.anyio
both_kinds = pytest.mark.parametrize("kind", ["rewards", "purchases"])
both_directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])


class Server:
    """
    A transport that pages through numbered rows by the rules of the reference, and notes what is asked.

    `paging` changes what it says of a page; `faults` holds the numbers of the requests that fail.
    """

    def __init__(self, rows: int, *, kind: Kind = "purchases", size: int = 10) -> None:
        self.kind: Kind = kind
        self.size = size
        self.rows = list(range(rows))
        self.asked: list[int] = []
        self.origins: set[str] = set()
        self.faults: set[int] = set()
        self.back_link: Literal["next_page", "prev_page"] = "prev_page"
        self.closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({vars(self)})"

    @property
    def last(self) -> int:
        return math.ceil(len(self.rows) / self.size)

    @property
    def least_requests(self) -> int:
        return max(1, self.last)

    async def send(self, request: Request, /) -> Reply | CrowdTwistError:
        number = int(parse_qs(request.query)["page"][0])
        self.asked.append(number)
        self.origins.add(request.origin)
        await self.before_reply(number)
        if len(self.asked) in self.faults:
            return Reply(500, {}, b'{"error": "internal_error", "message": "scripted"}')
        body = {"paging": self.paging(number), self.kind: [self.entry(row) for row in self.rows_of(number)]}
        return Reply(200, {}, json.dumps(body).encode())

    async def before_reply(self, number: int) -> None:
        await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self.closed = True

    def rows_of(self, number: int) -> list[int]:
        return self.rows[(number - 1) * self.size : number * self.size] if number > 0 else []

    def paging(self, number: int) -> Any:
        return {"total": len(self.rows), "pages": self.last, **self.links(number)}

    def links(self, number: int) -> dict[str, str | None]:
        if number <= 0:
            return {"next_page": self.link(1), "prev_page": None}
        if number > self.last:
            return {"next_page": None, "prev_page": None} | (
                {self.back_link: self.link(self.last)} if self.last else {}
            )
        return {
            "next_page": self.link(number + 1) if number < self.last else None,
            "prev_page": self.link(number - 1) if number > 1 else None,
        }

    def link(self, number: int) -> str:
        return f"{ORIGINS[self.kind]}/users/{USER}/{self.kind}?page={number}&api_key={quote(KEY, safe='')}"

    def entry(self, row: int) -> dict[str, Any]:
        return {**REWARD, "id": row} if self.kind == "rewards" else {**PURCHASE, "purchase_id": row}

    def client(self) -> CrowdTwistClient:
        return CrowdTwistClient(
            api_key=KEY,
            client_id=201,
            transport=self,
            budget=RateBudget(math.inf),
            retry=RetryPolicy(max_attempts=1),
        )

    def walk(self, client: CrowdTwistClient, **options: Any) -> Pager[Any]:
        if self.kind == "rewards":
            return client.iter_user_rewards(USER, page_size=self.size, **options)
        return client.iter_user_purchases(USER, **options)


class OneCountWrong(Server):
    """Says the given counts instead of its own; its links are right."""

    counts: dict[str, int | None]

    def paging(self, number: int) -> Any:
        return {**super().paging(number), **self.counts}


class Liar(Server):
    """Has pages of any length, and says of each, in turn, whatever it is given to say."""

    def __init__(self, kind: Kind, lengths: list[int], sayings: list[dict[str, Any]]) -> None:
        super().__init__(sum(lengths), kind=kind)
        self._lengths = lengths
        self._sayings = sayings

    def rows_of(self, number: int) -> list[int]:
        if not 1 <= number <= len(self._lengths):
            return []
        before = sum(self._lengths[: number - 1])
        return self.rows[before : before + self._lengths[number - 1]]

    def paging(self, number: int) -> Any:
        said = dict(self._sayings[len(self.asked) % len(self._sayings)])
        for name in ("next_page", "prev_page"):
            if isinstance(said[name], str):
                said[name] = said[name].format(n=number, onward=number + 1, back=number - 1)
        return said


def row_of(item: Reward | Purchase) -> int:
    """The number of the row that an item was made of."""
    return int(item.id if isinstance(item, Reward) else item.purchase_id)


async def rows(
    items: AsyncIterator[Any] | Pager[Any], most: float = math.inf, into: list[int] | None = None
) -> list[int]:
    """The rows of a walk, or of its beginning; `into` keeps those before an error."""
    found = [] if into is None else into
    if most > 0:
        async for item in items:
            found.append(row_of(item))
            if len(found) >= most:
                break
    return found


async def exhaust(walk: AsyncIterator[Any] | Pager[Any]) -> None:
    """Loop over a walk to its end."""
    async for _ in walk:
        pass


def run(server: Server, use: Callable[[CrowdTwistClient], Awaitable[T]], backend: str = "asyncio") -> T:
    """Use an open client of this server on a fresh event loop."""

    async def main() -> T:
        async with server.client() as client:
            return await use(client)

    return anyio.run(main, backend=backend)


@st.composite
def honest_servers(draw: st.DrawFn) -> Server:
    """Servers that keep the rules, with any number of rows, of either endpoint, and any page size."""
    kind: Kind = draw(st.sampled_from(("rewards", "purchases")))
    size = draw(st.integers(1, 10)) if kind == "rewards" else 10
    server = Server(draw(st.integers(0, 45)), kind=kind, size=size)
    server.back_link = draw(st.sampled_from(("next_page", "prev_page")))
    return server


@st.composite
def servers_with_a_wrong_count(draw: st.DrawFn) -> OneCountWrong:
    """Servers of which one count is missing, low or high."""
    honest = draw(honest_servers())
    server = OneCountWrong(len(honest.rows), kind=honest.kind, size=honest.size)
    wrong = st.none() | st.integers(0, 60)
    server.counts = draw(st.fixed_dictionaries({"total": wrong}) | st.fixed_dictionaries({"pages": wrong}))
    return server


COUNTS = st.one_of(
    st.none(),
    st.integers(-5, 100),
    st.sampled_from((True, 1.5, "many", "12", [], {})),
)
LINKS: st.SearchStrategy[Any] = st.sampled_from(
    (
        None,
        "",
        0,
        7,
        [],
        "string",
        "null",
        "Link to next page",
        "http://example.ct.com/v2.1/rewards?api_key=",
        "https://api201.crowdtwist.com/v2.1/users/1/rewards?page={n}",
        "https://api201.crowdtwist.com/v2.1/users/1/rewards?page={onward}",
        "https://api201.crowdtwist.com/v2.1/users/1/rewards?page={back}",
        "http://evil.example/?page={onward}",
        "//evil.example/?page={back}",
        "file:///etc/passwd?page={onward}",
        "https://pos201.crowdtwist.com@evil.example/?page={onward}",
        "https://api[client_id].ct.com/v2.1/rewards?page={onward}&api_key=",
        "https://api[client_id].ct.com/v2.1/rewards?page={back}&api_key=",
        "https://api201.crowdtwist.com/v2.1/rewards?page=1",
        "https://api201.crowdtwist.com/v2.1/rewards?page=21",
        "https://api201.crowdtwist.com/v2.1/rewards?page=0",
        "https://api201.crowdtwist.com/v2.1/rewards?page=-1",
        "https://api201.crowdtwist.com/v2.1/rewards?page=" + "9" * 40,
    )
)
SAYINGS = st.fixed_dictionaries({"total": COUNTS, "pages": COUNTS, "next_page": LINKS, "prev_page": LINKS})
LIARS = st.builds(
    Liar,
    st.sampled_from(("rewards", "purchases")),
    st.lists(st.integers(0, 4) | st.just(10), max_size=8),
    st.lists(SAYINGS, min_size=1, max_size=6),
)


@given(honest_servers(), st.booleans(), st.sampled_from(("asyncio", "trio")))
@settings(database=None, deadline=None, max_examples=40)
def test_an_honest_server_is_walked_exactly_once(server: Server, reverse: bool, backend: str) -> None:
    """Every row once, in order or in exact reverse, at one request a page and one for no rows."""
    found = run(server, lambda client: rows(server.walk(client, reverse=reverse)), backend)

    assert (server.rows[::-1] if reverse else server.rows) == found
    assert server.least_requests == len(server.asked)


@given(honest_servers(), st.integers(-2, 12) | st.just(2**63 - 1))
@settings(database=None, deadline=None, max_examples=40)
def test_a_forward_walk_from_any_page(server: Server, start: int) -> None:
    """From below 1 it goes over page 1; from beyond the end it gives nothing, for one request."""
    found = run(server, lambda client: rows(server.walk(client, start_page=start)))

    assert server.rows[(max(start, 1) - 1) * server.size :] == found
    pages = [start, *range(max(start, 0) + 1, server.last + 1)]
    assert (pages if start > 0 or server.rows else [start, 1]) == server.asked


@given(honest_servers(), st.integers(-2, 12) | st.just(2**63 - 1))
@settings(database=None, deadline=None, max_examples=40)
def test_a_backward_walk_from_any_page(server: Server, start: int) -> None:
    """From beyond the end it goes to the last available page; from page 1 or below it ends there."""
    found = run(server, lambda client: rows(server.walk(client, start_page=start, reverse=True)))

    assert server.rows[: max(start, 0) * server.size][::-1] == found
    below = range(min(start - 1, max(server.last, 1)), 0, -1)
    assert [start, *below] == server.asked


@on_both_loops
async def test_a_backward_walk_of_nothing_from_page_1_ends_there() -> None:
    """Nothing lies below it, so no end is looked for."""
    server = Server(0)
    async with server.client() as client:
        with anyio.fail_after(5):
            assert [] == await rows(server.walk(client, start_page=1, reverse=True))

    assert [1] == server.asked


@given(servers_with_a_wrong_count(), st.booleans())
@settings(database=None, deadline=None, max_examples=60)
def test_one_wrong_count_costs_no_row_and_one_empty_page_at_most(
    server: OneCountWrong, reverse: bool
) -> None:
    """Where the links are right, one count that is low, high or missing changes nothing of the rows."""
    found = run(server, lambda client: rows(server.walk(client, reverse=reverse)))

    assert (server.rows[::-1] if reverse else server.rows) == found
    assert len(server.asked) <= server.least_requests + 1
    assert len(set(server.asked)) == len(server.asked)


@given(st.data(), st.booleans())
@settings(database=None, deadline=None, max_examples=40)
def test_two_low_counts_cost_no_row(data: st.DataObject, reverse: bool) -> None:
    """Low counts that do not agree on an end before the last page lose nothing, and cost nothing."""
    server = OneCountWrong(data.draw(st.integers(1, 55)))
    pages = data.draw(st.integers(0, server.last))
    ends = {number * 10 for number in range(max(pages, 1), server.last)}
    server.counts = {
        "pages": pages,
        "total": data.draw(st.integers(0, len(server.rows)).filter(lambda total: total not in ends)),
    }

    found = run(server, lambda client: rows(server.walk(client, reverse=reverse)))

    assert (server.rows[::-1] if reverse else server.rows) == found
    assert server.least_requests == len(server.asked)


class Walked(NamedTuple):
    """What came of a walk over a lying server."""

    rows: list[int]
    error: PaginationError | None
    resumed: Pager[Any] | None
    """A walk from the error's cursor."""


async def walked(server: Server, client: CrowdTwistClient, **options: Any) -> Walked:
    """Walk until the end or a pagination error, and take the error's cursor back."""
    found: list[int] = []
    try:
        await rows(server.walk(client, **options), into=found)
    except PaginationError as error:
        going_on = {**options, "start_page": None, "cursor": error.cursor}
        return Walked(found, error, server.walk(client, **going_on))
    return Walked(found, None, None)


@given(LIARS, st.booleans(), st.sampled_from(("ignore", "warn", "raise")))
@settings(database=None, deadline=None, max_examples=100)
def test_a_lying_server_neither_traps_nor_doubles(server: Liar, reverse: bool, on_drift: OnDrift) -> None:
    """
    Every walk ends soon, with rows in strict order, or an error that kept them and has a cursor.
    """
    with patch.object(_page_walk, "MAX_PAGES", 60), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        end = run(server, lambda client: walked(server, client, reverse=reverse, on_drift=on_drift))

    assert sorted(set(end.rows), reverse=reverse) == end.rows
    assert len(server.asked) <= 60
    assert len(set(server.asked)) == len(server.asked)
    assert server.origins == {ORIGINS[server.kind]}
    assert [PaginationDriftWarning] * len(caught) == [warning.category for warning in caught]
    assert len(caught) <= (1 if on_drift == "warn" else 0)
    if end.error is not None:
        assert on_drift == "raise" or not isinstance(end.error, PaginationDriftError)
        assert end.resumed is not None
        assert end.error.cursor == end.resumed.cursor
        assert (f"user_{server.kind}", ORIGINS[server.kind][8:]) == (end.error.endpoint, end.error.host)


@given(LIARS, st.integers(1, 9))
@settings(database=None, deadline=None, max_examples=40)
def test_a_lying_server_keeps_a_forward_walk_complete_so_far(server: Liar, start: int) -> None:
    """Up to where a forward walk stops, no row of its pages is missing."""
    with patch.object(_page_walk, "MAX_PAGES", 60):
        end = run(server, lambda client: walked(server, client, start_page=start, on_drift="ignore"))

    assert list(range(start, start + len(server.asked))) == server.asked
    assert [row for number in server.asked for row in server.rows_of(number)] == end.rows


@given(honest_servers(), st.booleans(), st.integers(0, 50), st.sampled_from(("asyncio", "trio")))
@settings(database=None, deadline=None, max_examples=40)
def test_a_walk_left_anywhere_goes_on_with_its_cursor(
    server: Server, reverse: bool, taken: int, backend: str
) -> None:
    """The rows before the cursor and those from it are exactly the uninterrupted walk."""

    async def use(client: CrowdTwistClient) -> tuple[list[int], list[int]]:
        pager = server.walk(client, reverse=reverse)
        before = await rows(pager, taken)
        return before, await rows(server.walk(client, reverse=reverse, cursor=pager.cursor))

    before, after = run(server, use, backend)

    assert min(taken, len(server.rows)) == len(before)
    assert (server.rows[::-1] if reverse else server.rows) == before + after


@given(honest_servers(), st.booleans(), st.sets(st.integers(1, 12)))
@settings(database=None, deadline=None, max_examples=40)
def test_a_walk_that_fails_anywhere_goes_on_with_the_cursor_of_the_error(
    server: Server, reverse: bool, faults: set[int]
) -> None:
    """However often requests fail, going on from each error's cursor gives each row once."""
    server.faults = faults

    async def use(client: CrowdTwistClient) -> list[int]:
        found: list[int] = []
        cursor = None
        while True:
            try:
                await rows(server.walk(client, reverse=reverse, cursor=cursor), into=found)
            except ServerError as error:
                cursor = error.cursor
            else:
                return found

    assert (server.rows[::-1] if reverse else server.rows) == run(server, use)


@given(honest_servers(), st.booleans(), st.sets(st.integers(1, 12)))
@settings(database=None, deadline=None, max_examples=40)
def test_the_same_walk_goes_on_after_a_failed_request(
    server: Server, reverse: bool, faults: set[int]
) -> None:
    """Asking the iterator again repeats only the request that failed."""
    server.faults = faults

    async def use(client: CrowdTwistClient) -> list[int]:
        items = aiter(server.walk(client, reverse=reverse))
        found: list[int] = []
        while True:
            try:
                await rows(items, into=found)
            except ServerError:
                continue
            return found

    assert (server.rows[::-1] if reverse else server.rows) == run(server, use)
    failed = [fault for fault in faults if fault <= len(server.asked)]
    assert server.least_requests + len(failed) == len(server.asked)


@on_both_loops
@both_kinds
@both_directions
@pytest.mark.parametrize(
    ("count", "requests"),
    [
        pytest.param(0, 1, id="no rows"),
        pytest.param(1, 1, id="one row"),
        pytest.param(10, 1, id="one full page"),
        pytest.param(11, 2, id="one row more"),
        pytest.param(133, 14, id="14 pages"),
        pytest.param(140, 14, id="14 full pages"),
    ],
)
async def test_a_member_costs_a_request_a_page(count: int, requests: int, kind: Kind, reverse: bool) -> None:
    """The reference's member of 14 pages costs 14 requests, in both directions, page 1 once."""
    server = Server(count, kind=kind)
    async with server.client() as client:
        found = await server.walk(client, reverse=reverse).collect()

    assert (server.rows[::-1] if reverse else server.rows) == [row_of(item) for item in found]
    assert list(range(1, requests + 1)) == sorted(server.asked)


@on_both_loops
@both_kinds
async def test_the_samples_of_the_reference_are_walked(kind: Kind) -> None:
    """Placeholders as links, `prev_page` to page 21 on page 1, and counts that disagree lose no row."""

    class Sample(Server):
        def links(self, number: int) -> dict[str, str | None]:
            back = "https://api[client_id].ct.com/v2.1/rewards?page=21&api_key="
            return {"next_page": "Link to next page", "prev_page": back if number == 1 else ""}

        def paging(self, number: int) -> Any:
            paging = {"total": 203, "pages": 10, **self.links(number)}
            return [paging] if self.kind == "rewards" else paging

    server = Sample(203, kind=kind)
    async with server.client() as client:
        assert server.rows == await rows(server.walk(client))
        assert server.rows[::-1] == await rows(server.walk(client, reverse=True))

    assert 42 == len(server.asked)


@on_both_loops
async def test_a_short_page_in_the_middle_is_not_the_end() -> None:
    """Links lead on from short and from empty pages, forward and backward."""
    link = "https://pos201.crowdtwist.com/?page="
    said = {"total": 23, "pages": 4, "next_page": link + "{onward}", "prev_page": link + "{back}"}
    last = {**said, "next_page": None}

    class Uneven(Liar):
        def paging(self, number: int) -> Any:
            self._sayings = [said if number < 4 else last]
            return super().paging(number)

    server = Uneven("purchases", [10, 3, 0, 10], [said])
    async with server.client() as client:
        assert server.rows == await rows(server.walk(client))
        assert server.rows[::-1] == await rows(server.walk(client, reverse=True))

    assert [1, 2, 3, 4, 1, 4, 3, 2] == server.asked


@on_both_loops
@both_directions
@pytest.mark.parametrize(
    ("most", "forward", "backward"),
    [
        pytest.param(0, [], [], id="none"),
        pytest.param(1, [1], [1, 3], id="one"),
        pytest.param(5, [1], [1, 3], id="all of the last page"),
        pytest.param(6, [1], [1, 3, 2], id="into the page before the last"),
        pytest.param(10, [1], [1, 3, 2], id="page boundary"),
        pytest.param(11, [1, 2], [1, 3, 2], id="one beyond"),
        pytest.param(25, [1, 2, 3], [1, 3, 2], id="all"),
        pytest.param(99, [1, 2, 3], [1, 3, 2], id="more than there are"),
    ],
)
async def test_max_items_bounds_items_and_requests(
    most: int, forward: list[int], backward: list[int], reverse: bool
) -> None:
    """No page is asked for that holds none of the items; the cursor gives the others."""
    server = Server(25)
    order = server.rows[::-1] if reverse else server.rows
    async with server.client() as client:
        pager = server.walk(client, reverse=reverse, max_items=most)

        assert order[:most] == await rows(pager)
        assert (backward if reverse else forward) == server.asked
        assert order[most:] == await rows(server.walk(client, reverse=reverse, cursor=pager.cursor))


@on_both_loops
async def test_max_items_counts_from_the_cursor() -> None:
    """A walk that goes on takes so many items more."""
    server = Server(25)
    async with server.client() as client:
        cursor = server.walk(client, start_page=2).cursor
        pager = server.walk(client, cursor=cursor, max_items=12)

        assert server.rows[10:22] == await rows(pager)
        assert server.rows[22:] == await rows(server.walk(client, cursor=pager.cursor, max_items=12))


@on_both_loops
@both_directions
async def test_first_is_the_first_item_of_the_walk(reverse: bool) -> None:
    """It costs one request, and backward a second one for the last page."""
    server = Server(25)
    async with server.client() as client:
        pager = server.walk(client, reverse=reverse)
        first = await pager.first()

        assert first is not None
        assert (24 if reverse else 0) == row_of(first)
        assert ([1, 3] if reverse else [1]) == server.asked
        rest = await rows(server.walk(client, reverse=reverse, cursor=pager.cursor))
        assert (server.rows[:24][::-1] if reverse else server.rows[1:]) == rest


@on_both_loops
@both_directions
@pytest.mark.parametrize(
    ("count", "most", "requests"),
    [pytest.param(0, None, 1, id="no rows"), pytest.param(25, 0, 0, id="no items allowed")],
)
async def test_first_of_nothing_is_none(count: int, most: int | None, requests: int, reverse: bool) -> None:
    """A member without rows has no first item."""
    server = Server(count)
    async with server.client() as client:
        assert await server.walk(client, reverse=reverse, max_items=most).first() is None

    assert requests == len(server.asked)


@on_both_loops
@both_directions
async def test_pages_come_as_the_server_sent_them(reverse: bool) -> None:
    """Backward, the pages come last to first, with their items in the server's order."""
    server = Server(25)
    async with server.client() as client:
        found = [page async for page in server.walk(client, reverse=reverse).pages()]

    assert all(isinstance(page, Page) for page in found)
    assert ([3, 2, 1] if reverse else [1, 2, 3]) == [page.number for page in found]
    assert {page.number: [row_of(item) for item in page] for page in found} == {
        number: server.rows_of(number) for number in (1, 2, 3)
    }
    assert 3 == len(server.asked)


@on_both_loops
async def test_pages_show_empty_pages_too() -> None:
    """A member without rows has one page without items."""
    server = Server(0)
    async with server.client() as client:
        assert [0] == [len(page) async for page in server.walk(client).pages()]


@on_both_loops
@both_directions
@pytest.mark.parametrize(
    ("most", "forward", "backward"),
    [
        pytest.param(0, [], [], id="none"),
        pytest.param(1, [1], [3], id="inside the first page"),
        pytest.param(5, [1], [3], id="all of the last page"),
        pytest.param(10, [1], [3, 2], id="page boundary"),
        pytest.param(16, [1, 2], [3, 2, 1], id="beyond a boundary"),
        pytest.param(99, [1, 2, 3], [3, 2, 1], id="more than there are"),
    ],
)
async def test_pages_end_with_the_page_that_reaches_max_items(
    most: int, forward: list[int], backward: list[int], reverse: bool
) -> None:
    """Pages stay whole."""
    server = Server(25)
    async with server.client() as client:
        found = [page async for page in server.walk(client, reverse=reverse, max_items=most).pages()]

    assert (backward if reverse else forward) == [page.number for page in found]
    assert all(server.rows_of(page.number) == [row_of(item) for item in page] for page in found)


@on_both_loops
async def test_pages_begin_with_the_page_that_the_cursor_points_into() -> None:
    """That page comes whole; only what the cursor leaves counts for `max_items`."""
    server = Server(45)
    async with server.client() as client:
        pager = server.walk(client)
        await rows(pager, 14)
        going_on = server.walk(client, cursor=pager.cursor, max_items=13)

        assert [2, 3] == [page.number async for page in going_on.pages()]


@on_both_loops
@both_directions
async def test_a_cursor_kept_after_each_whole_page_repeats_none(reverse: bool) -> None:
    """Going on page by page gives every page once."""
    server = Server(25)
    found: list[int] = []
    cursor = None
    async with server.client() as client:
        for _ in range(3):
            pager = server.walk(client, reverse=reverse, cursor=cursor)
            async for page in pager.pages():
                found.append(page.number)
                break
            cursor = pager.cursor

    assert ([3, 2, 1] if reverse else [1, 2, 3]) == found


@on_both_loops
@both_directions
async def test_the_cursor_after_whole_pages_gives_the_rows_of_the_others(reverse: bool) -> None:
    """Items go on exactly where pages stopped."""
    server = Server(25)
    order = server.rows[::-1] if reverse else server.rows
    async with server.client() as client:
        pager = server.walk(client, reverse=reverse)
        async for page in pager.pages():
            taken = len(page)
            break

        assert order[taken:] == await rows(server.walk(client, reverse=reverse, cursor=pager.cursor))


@on_both_loops
async def test_a_page_that_shrank_below_the_cursor_is_passed() -> None:
    """Rows that are gone count neither on later pages nor for `max_items`."""

    class Shrinking(Server):
        def rows_of(self, number: int) -> list[int]:
            return super().rows_of(number)[: 10 if len(self.asked) < 3 else 2]

    server = Shrinking(45)
    async with server.client() as client:
        pager = server.walk(client)
        assert list(range(18)) == await rows(pager, 18)
        going_on = server.walk(client, cursor=pager.cursor, max_items=2)

        assert [20, 21] == await rows(going_on)
        assert 3 == [page.number async for page in going_on.pages()][-1]


@on_both_loops
@both_directions
async def test_every_iteration_walks_afresh(reverse: bool) -> None:
    """Nothing is kept from one walk for the next, and nothing is asked before the first item."""
    server = Server(15)
    order = server.rows[::-1] if reverse else server.rows
    async with server.client() as client:
        pager = server.walk(client, reverse=reverse)
        assert [] == server.asked

        assert order == await rows(pager)
        assert order[:3] == await rows(pager, 3)
        assert order == [row_of(item) for item in await pager.collect()]
        assert [2, 1] == sorted([page.number async for page in pager.pages()], reverse=True)

    assert (8 if reverse else 7) == len(server.asked)


@on_both_loops
async def test_two_walks_of_one_pager_do_not_disturb_each_other() -> None:
    """Items come interleaved and complete; the cursor is the later walk's."""
    server = Server(25)
    async with server.client() as client:
        pager = server.walk(client)
        early, late = aiter(pager), aiter(pager)
        found = [(row_of(await anext(early)), row_of(await anext(late))) for _ in range(12)]
        assert [(row, row) for row in range(12)] == found

        await anext(early)

        assert server.rows[12:] == await rows(server.walk(client, cursor=pager.cursor))


@on_both_loops
@both_directions
@pytest.mark.parametrize("ahead", [0, 1, 4])
@pytest.mark.parametrize("most", [None, 33])
async def test_tasks_that_share_an_iterator_get_each_row_once(
    ahead: int, reverse: bool, most: int | None
) -> None:
    """Workers that take from the same items, whichever of them waits for a page."""

    class Slow(Server):
        async def before_reply(self, number: int) -> None:
            for _ in range(number * 7 % 5):
                await anyio.lowlevel.checkpoint()

    server = Slow(58)
    got: list[int] = []

    async def work(items: AsyncIterator[Any]) -> None:
        async for item in items:
            got.append(row_of(item))
            await anyio.lowlevel.checkpoint()

    async with server.client() as client:
        pager = server.walk(client, reverse=reverse, max_items=most)
        async with nullcontext(pager) if not ahead else pager.prefetch(ahead) as walk:
            items = aiter(walk)
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(work, items)

    everything = list(range(58))[::-1] if reverse else list(range(58))
    assert sorted(everything[:most]) == sorted(got)
    assert len(set(server.asked)) == len(server.asked)


@on_both_loops
async def test_leaving_a_loop_leaves_nothing_behind() -> None:
    """No generator is begun that would have to be closed, and no request is made in advance."""
    server = Server(25)
    begun: list[Any] = []
    async with server.client() as client:
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=begun.append)
        try:
            async for _ in server.walk(client):
                break
            async for _ in server.walk(client, reverse=True).pages():
                break
            await server.walk(client).first()
        finally:
            sys.set_asyncgen_hooks(*hooks)
        gc.collect()

    assert [] == begun
    assert [1, 1, 3, 1] == server.asked
    assert server.closed


class Stalling(Server):
    """Cancels its caller, instead of answering, at the first request for one page."""

    scope: anyio.CancelScope
    stalls_at = 2

    async def before_reply(self, number: int) -> None:
        if number == self.stalls_at and self.asked.count(number) == 1:
            self.scope.cancel()
        await anyio.lowlevel.checkpoint()


@on_both_loops
@both_directions
@pytest.mark.parametrize("stalls_at", [1, 2, 3])
async def test_a_cancelled_step_can_be_asked_again(stalls_at: int, reverse: bool) -> None:
    """The walk goes on where it was cancelled, and repeats only that request."""
    server = Stalling(25)
    server.stalls_at = stalls_at
    async with server.client() as client:
        pager = server.walk(client, reverse=reverse)
        items = aiter(pager)
        found: list[int] = []
        with anyio.CancelScope() as server.scope:
            await rows(items, into=found)
        assert server.scope.cancelled_caught
        cursor = pager.cursor
        before = list(found)

        found += await rows(items)

        assert (server.rows[::-1] if reverse else server.rows) == found
        assert sorted([1, 2, 3, stalls_at]) == sorted(server.asked)
        assert found[len(before) :] == await rows(server.walk(client, reverse=reverse, cursor=cursor))


class Drifting(Server):
    """Has a total that grows with every request."""

    def paging(self, number: int) -> Any:
        return {**super().paging(number), "total": 100 + len(self.asked)}


@on_both_loops
@both_directions
@pytest.mark.parametrize("by_pages", [False, True], ids=["items", "pages"])
async def test_drift_warns_once_a_walk_at_the_callers_line(reverse: bool, by_pages: bool) -> None:
    """The warning names the file with the `async for`, so that filters by module work."""
    server = Drifting(40)
    async with server.client() as client:
        pager = server.walk(client, reverse=reverse)
        with pytest.warns(PaginationDriftWarning, match="^user_purchases: ") as caught:
            await exhaust(pager.pages() if by_pages else pager)

    assert [__file__] == [warning.filename for warning in caught]


@on_both_loops
async def test_each_walk_of_a_pager_warns_of_its_own_drift() -> None:
    """A walk afresh is a walk of its own."""
    server = Drifting(25)
    async with server.client() as client:
        pager = server.walk(client)
        for _ in range(2):
            with pytest.warns(PaginationDriftWarning) as caught:
                await rows(pager)
            assert 1 == len(caught)


@on_both_loops
@both_kinds
async def test_drift_can_be_an_error_that_keeps_the_rows_before_it(kind: Kind) -> None:
    """It says endpoint, host and cursor; going on from there, the counts are compared afresh."""
    server = Drifting(25, kind=kind)
    async with server.client() as client:
        found: list[int] = []
        with pytest.raises(PaginationDriftError, match="the counts changed") as caught:
            await rows(server.walk(client, on_drift="raise"), into=found)

        error = caught.value
        assert server.rows[:10] == found
        assert (f"user_{kind}", ORIGINS[kind][8:]) == (error.endpoint, error.host)
        assert USER not in str(error)
        rest = await rows(server.walk(client, cursor=error.cursor, on_drift="ignore"))
        assert server.rows[10:] == rest


@on_both_loops
async def test_drift_can_be_ignored() -> None:
    """Every row comes, without a word."""
    server = Drifting(25)
    async with server.client() as client:
        assert server.rows == await rows(server.walk(client, on_drift="ignore"))


@on_both_loops
@both_directions
async def test_a_stale_copy_of_a_page_is_replaced(reverse: bool) -> None:
    """A page that repeats the one before is asked for once more, and no row doubles."""

    class Stale(Server):
        def rows_of(self, number: int) -> list[int]:
            stale = number == 2 and self.asked.count(2) == 1
            return super().rows_of((3 if reverse else 1) if stale else number)

    server = Stale(30)
    async with server.client() as client:
        found = await rows(server.walk(client, reverse=reverse))

    assert (server.rows[::-1] if reverse else server.rows) == found
    assert [1, 2, 2, 3] == sorted(server.asked)


@on_both_loops
async def test_a_page_that_stays_a_copy_is_a_loop_error() -> None:
    """The rows before it were given, and the cursor names the page that repeats."""

    class Stuck(Server):
        def rows_of(self, number: int) -> list[int]:
            return super().rows_of(1)

    server = Stuck(30)
    async with server.client() as client:
        found: list[int] = []
        with pytest.raises(PaginationLoopError) as caught:
            await rows(server.walk(client), into=found)

        assert list(range(10)) == found
        assert [1, 2, 2] == server.asked
        assert caught.value.cursor == server.walk(client, start_page=2).cursor


@on_both_loops
@both_directions
async def test_a_server_without_an_end_is_a_loop_error(
    monkeypatch: pytest.MonkeyPatch, reverse: bool
) -> None:
    """Pages that always name a next one stop at the bound."""

    class Endless(Server):
        def rows_of(self, number: int) -> list[int]:
            return [number]

        def paging(self, number: int) -> Any:
            return {"next_page": self.link(number + 1)}

    monkeypatch.setattr(_page_walk, "MAX_PAGES", 7)
    server = Endless(0)
    async with server.client() as client:
        found: list[int] = []
        with pytest.raises(PaginationLoopError, match="7 pages"):
            await rows(server.walk(client, reverse=reverse), into=found)

    assert ([] if reverse else [1, 2, 3, 4, 5, 6, 7]) == found
    assert 7 == len(server.asked)


@on_both_loops
async def test_total_follows_the_latest_page() -> None:
    """It is unknown until a page came, and a walk afresh reads it again."""
    server = Server(25)
    async with server.client() as client:
        pager = server.walk(client)
        totals = [pager.total]
        for count in (25, 12):
            server.rows = server.rows[:count]
            await pager.first()
            totals.append(pager.total)

    assert [None, 25, 12] == totals


@on_both_loops
async def test_a_pager_of_a_closed_client_says_so_when_it_walks() -> None:
    """Making one asks nothing; walking needs an open client."""
    server = Server(5)
    async with server.client() as client:
        pager = server.walk(client)

    with pytest.raises(ClientClosedError):
        await pager.first()
    assert [] == server.asked


@both_kinds
def test_a_pager_shows_endpoint_and_no_user(kind: Kind) -> None:
    """Neither user id nor key is in its repr or its cursor."""
    server = Server(0, kind=kind)
    pager = server.walk(server.client())

    assert f"<Pager of user_{kind}>" == repr(pager)
    assert not leaks(repr(pager) + pager.cursor)
    assert USER not in pager.cursor


@both_kinds
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param({"start_page": True}, "start_page must be an int, not bool", id="start_page true"),
        pytest.param({"start_page": "1"}, "start_page must be an int, not str", id="start_page text"),
        pytest.param({"start_page": 1.0}, "start_page must be an int, not float", id="start_page float"),
        pytest.param({"start_page": 2**63}, "start_page is beyond 64 bits", id="start_page huge"),
        pytest.param({"start_page": -(2**63)}, "start_page is beyond 64 bits", id="start_page low"),
        pytest.param({"max_items": -1}, "max_items must be 0 or more", id="max_items negative"),
        pytest.param({"max_items": True}, "max_items must be an int, not bool", id="max_items true"),
        pytest.param({"max_items": "5"}, "max_items must be an int, not str", id="max_items text"),
        pytest.param({"max_items": math.inf}, "max_items must be an int", id="max_items infinite"),
        pytest.param({"cursor": "garbage"}, "cursor is not one", id="cursor garbage"),
        pytest.param({"cursor": ""}, "cursor is not one", id="cursor empty"),
        pytest.param({"cursor": 3}, "cursor is not one", id="cursor number"),
        pytest.param(
            {"cursor": "1:1:0:000000", "start_page": 1}, "start_page or cursor, not both", id="two starts"
        ),
        pytest.param({"on_drift": "other"}, "on_drift must be 'warn', 'raise' or 'ignore'", id="on_drift"),
        pytest.param({"on_drift": None}, "on_drift must be 'warn', 'raise' or 'ignore'", id="no on_drift"),
        pytest.param({"reverse": "yes"}, "reverse must be True, False", id="reverse text"),
        pytest.param({"reverse": 1}, "reverse must be True, False", id="reverse number"),
        pytest.param({"id_type": "shoe_size"}, "takes no such id_type", id="id_type"),
    ],
)
def test_arguments_are_refused_by_the_call_itself(kind: Kind, arguments: dict[str, Any], said: str) -> None:
    """Before any request, and without repeating the user id."""
    server = Server(5, kind=kind)

    with pytest.raises(InvalidArgumentError, match=said) as caught:
        server.walk(server.client(), **arguments)

    assert USER not in str(caught.value)
    assert [] == server.asked


def test_arguments_of_one_endpoint_are_refused_too() -> None:
    """What decides which rows come is checked when the pager is made."""
    client = Server(0).client()

    with pytest.raises(InvalidArgumentError, match="page_size must be 1 or more"):
        client.iter_user_rewards(USER, page_size=0)
    with pytest.raises(InvalidArgumentError, match="include_soldout must be True, False"):
        client.iter_user_rewards(USER, include_soldout="yes")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="date_end is before date_start"):
        client.iter_user_purchases(USER, date_start="2026-02-01", date_end="2026-01-01")
    with pytest.raises(InvalidArgumentError, match="user_id is empty"):
        client.iter_user_purchases("")
