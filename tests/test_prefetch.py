"""
Prefetching against the same walk without it: what comes, what is asked, what is left behind.
"""

from __future__ import annotations

import asyncio
import json
import math
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch
from urllib.parse import parse_qs

import anyio
import pytest
from anyio.lowlevel import checkpoint
from conftest import KEY, captured_locals
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_server import ReferenceServer, make_purchases, make_rewards
from scripted import status

from crowdtwist_async import CrowdTwistClient, Pager, Prefetched, RateBudget, RetryPolicy, _page_walk
from crowdtwist_async.errors import (
    AuthenticationError,
    ClientClosedError,
    ConnectionFailedError,
    CrowdTwistError,
    InvalidArgumentError,
    PaginationDriftError,
    PaginationDriftWarning,
    PaginationLoopError,
    ServerError,
)
from crowdtwist_async.models import Page, Reward
from crowdtwist_async.transports import Reply, Request

T = TypeVar("T")
Answer = Reply | CrowdTwistError

USER = "alice@example.com"
ENTRY = json.dumps({**make_rewards(1)[0], "id": "ROW"})
SIZE = 3

on_both_loops = pytest.mark.anyio
both_directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])


def body(rows: list[int], **paging: Any) -> Reply:
    """A page with these rows and whatever is said about the paging."""
    rewards = ", ".join([ENTRY.replace("ROW", str(row)) for row in rows])
    return status(200, f'{{"paging": {json.dumps(paging)}, "rewards": [{rewards}]}}'.encode())


def link(number: int | None) -> str | None:
    """A link to a page."""
    return None if number is None else f"https://example.com/?page={number}"


def honest(count: int, size: int = SIZE, *, links: bool = True) -> Callable[[int], Answer]:
    """The answers of a server with so many rows that keeps the rules of the reference."""
    last = math.ceil(count / size)

    def answer(number: int) -> Answer:
        rows = list(range(count))[(number - 1) * size : number * size] if number > 0 else []
        back = min(number - 1, last) if number > 1 else None
        onward = max(number + 1, 1) if number < last else None
        if not links:
            back = onward = None
        return body(rows, total=count, pages=last, next_page=link(onward), prev_page=link(back))

    return answer


class Pages:
    """
    A transport whose replies depend on the page alone; they take a number of turns of the loop.

    `answers` and `turns` may be changed on the way.
    """

    def __init__(
        self,
        answer: Callable[[int], Answer],
        *,
        size: int = SIZE,
        turns: Callable[[int], float] = lambda _: 1,
    ) -> None:
        self.answer = answer
        self.size = size
        self.turns = turns
        self.asked: list[int] = []
        self.in_flight = 0
        self.most_in_flight = 0

    def __repr__(self) -> str:
        return f"Pages({ {number: self.answer(number) for number in range(-1, 9)} })"

    async def send(self, request: Request, /) -> Answer:
        number = int(parse_qs(request.query)["page"][0])
        self.asked.append(number)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self.wait(number)
            return self.answer(number)
        finally:
            self.in_flight -= 1

    async def wait(self, number: int) -> None:
        turns = self.turns(number)
        while turns > 0:
            turns -= 1
            await (checkpoint() if turns < math.inf else anyio.sleep_forever())

    async def aclose(self) -> None:
        pass

    def client(self) -> CrowdTwistClient:
        return CrowdTwistClient(
            api_key=KEY,
            transport=self,
            budget=RateBudget(math.inf),
            retry=RetryPolicy(max_attempts=1),
        )

    def walk(self, client: CrowdTwistClient, **options: Any) -> Pager[Reward]:
        return client.iter_user_rewards(USER, id_type="email", page_size=self.size, **options)


class Rounds(Pages):
    """Answers whatever is asked in rounds: what is under way at the end of one is answered together."""

    def __init__(self, answer: Callable[[int], Answer]) -> None:
        super().__init__(answer)
        self.rounds: list[list[int]] = []
        self._end_of_round = anyio.Event()
        self._waiting: list[int] = []

    async def wait(self, number: int) -> None:
        self._waiting.append(number)
        await self._end_of_round.wait()

    async def play(self) -> None:
        while True:
            await settle()
            self.rounds.append(self._waiting)
            self._waiting = []
            self._end_of_round.set()
            self._end_of_round = anyio.Event()


async def follow(context: AbstractAsyncContextManager[Prefetched[Reward]], into: list[int]) -> None:
    """Loop over all items; `into` gets their rows."""
    async with context as items:
        async for item in items:
            into.append(row_of(item))  # noqa: PERF401 - those before an error count


async def settle() -> None:
    """Let all tasks go on until they wait for something that does not come by itself."""
    for _ in range(60):
        await checkpoint()


def tasks_alive() -> int:
    """How many tasks the event loop has."""
    return len(anyio.get_running_tasks())


def row_of(item: Reward) -> int:
    """The number of the row that an item was made of."""
    return int(item.id)


class Walked(NamedTuple):
    """What came of a walk, and where it stood after every item."""

    steps: list[tuple[Any, str, int | None]]
    error: tuple[type[CrowdTwistError], str, str | None] | None
    cursor: str
    warnings: int


async def walked(pager: Pager[Reward], ahead: int = 0, *, by_page: bool = False) -> Walked:
    """Walk to the end, with so many pages ahead, 0 meaning the plain walk."""
    steps: list[tuple[Any, str, int | None]] = []
    error: tuple[type[CrowdTwistError], str, str | None] | None = None

    async def note(items: AsyncIterator[Any], place: Any) -> None:
        async for item in items:
            seen = [item.number, *map(row_of, item)] if isinstance(item, Page) else row_of(item)
            assert place.cursor == pager.cursor
            assert place.total == pager.total
            steps.append((seen, place.cursor, place.total))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if not ahead:
                await note(pager.pages() if by_page else aiter(pager), pager)
            else:
                async with pager.prefetch(ahead) as items:
                    await note(items.pages() if by_page else aiter(items), items)
        except CrowdTwistError as failure:
            error = (type(failure), failure.reason, failure.cursor)
    assert {PaginationDriftWarning} >= {warning.category for warning in caught}
    return Walked(steps, error, pager.cursor, len(caught))


def run(server: Pages, use: Callable[[CrowdTwistClient], Awaitable[T]], backend: str = "asyncio") -> T:
    """Use an open client of this server on a fresh event loop."""

    async def main() -> T:
        async with server.client() as client:
            return await use(client)

    return anyio.run(main, backend=backend)


COUNTS = st.none() | st.integers(-1, 14) | st.sampled_from(("many", "7", 1.5))
LINKS = st.none() | st.integers(-1, 12).map(link) | st.sampled_from(("", "null", 0, "Link to next page"))
FAULTS: st.SearchStrategy[Callable[[], Answer]] = st.sampled_from(
    (
        lambda: status(500),
        lambda: status(400, b'{"error": "no", "message": "no"}'),
        lambda: status(403, b'{"error": "invalid_auth", "message": "no"}'),
        lambda: status(302, location="https://example.com"),
        lambda: status(200, b"<html>"),
        lambda: status(200, b'{"paging": {}}'),
        lambda: ConnectionFailedError("reset"),
    )
)
SAYINGS = st.fixed_dictionaries(
    {}, optional={"total": COUNTS, "pages": COUNTS, "next_page": LINKS, "prev_page": LINKS}
)


@st.composite
def servers(draw: st.DrawFn) -> Pages:
    """
    Servers of which each page has a reply of its own: rows, counts and links as true as it comes, or a fault.
    """
    size = draw(st.integers(1, 4))
    lengths = draw(st.lists(st.just(size) | st.integers(0, size), max_size=9))
    last = len(lengths)
    everywhere = {"total": sum(lengths), "pages": last, **draw(SAYINGS | st.builds(dict))}
    here = draw(st.dictionaries(st.integers(-1, last + 2), SAYINGS, max_size=3))
    faults = draw(st.dictionaries(st.integers(-1, last + 2), FAULTS, max_size=2))
    repeats = draw(st.sets(st.integers(2, 9), max_size=1))
    stride = draw(st.integers(0, 6))

    def answer(number: int) -> Answer:
        if number in faults:
            return faults[number]()
        shown = number - 1 if number in repeats else number
        rows = (
            [shown * 10 + column for column in range(lengths[shown - 1])] if 0 < shown <= len(lengths) else []
        )
        onward, back = min(number, last - 1) + 1, min(number - 1, last)
        links = {
            "next_page": link(max(onward, 1)) if number < last else None,
            "prev_page": link(back) if back > 0 else None,
        }
        return body(rows, **{**links, **everywhere, **here.get(number, {})})

    return Pages(answer, size=size, turns=lambda number: 1 + number * stride % 7)


WALKS = st.fixed_dictionaries(
    {
        "reverse": st.booleans(),
        "on_drift": st.sampled_from(("ignore", "warn", "raise")),
        "max_items": st.none() | st.integers(0, 25),
        "start_page": st.none() | st.integers(-2, 12),
    }
)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@given(servers(), WALKS, st.integers(1, 9), st.booleans(), st.integers(0, 40))
@settings(database=None, deadline=None, max_examples=50)
def test_whatever_the_server_the_walk_is_the_same(
    backend: str, server: Pages, options: dict[str, Any], ahead: int, by_page: bool, taken: int
) -> None:
    """Items, order, errors and cursors are those of the plain walk, from the start and from a cursor on the way."""

    async def use(client: CrowdTwistClient) -> list[tuple[Walked, Walked]]:
        plain = await walked(server.walk(client, **options), by_page=by_page)
        server.most_in_flight = 0
        found = [(plain, await walked(server.walk(client, **options), ahead, by_page=by_page))]
        cursors = [cursor for _, cursor, _ in plain.steps] or [plain.cursor]
        resumed = {**options, "start_page": None, "cursor": cursors[taken % len(cursors)]}
        rest = await walked(server.walk(client, **resumed), by_page=by_page)
        return [*found, (rest, await walked(server.walk(client, **resumed), ahead, by_page=by_page))]

    with patch.object(_page_walk, "MAX_PAGES", 30):
        for plain, prefetched in run(server, use, backend):
            assert plain == prefetched

    assert server.most_in_flight <= ahead
    assert 0 == server.in_flight


@given(
    st.integers(0, 40),
    st.integers(1, 4),
    st.booleans(),
    WALKS,
    st.integers(1, 9),
    st.integers(0, 40),
    st.sampled_from(("asyncio", "trio")),
)
@settings(database=None, deadline=None, max_examples=60)
def test_an_honest_server_gets_no_request_more(
    rows: int, size: int, links: bool, options: dict[str, Any], ahead: int, taken: int, backend: str
) -> None:
    """Every page that the plain walk asks for is asked for once, and no other, limits and cursors included."""
    server = Pages(honest(rows, size, links=links), size=size, turns=lambda number: 1 + number % 3)

    async def requests(client: CrowdTwistClient, ahead: int, **options: Any) -> tuple[Walked, list[int]]:
        server.asked = []
        found = await walked(server.walk(client, **options), ahead)
        return found, server.asked

    async def use(client: CrowdTwistClient) -> None:
        plain, asked = await requests(client, 0, **options)
        assert sorted(asked) == sorted((await requests(client, ahead, **options))[1])
        if plain.steps:
            resumed = {**options, "start_page": None, "cursor": plain.steps[taken % len(plain.steps)][1]}
            _, asked = await requests(client, 0, **resumed)
            assert sorted(asked) == sorted((await requests(client, ahead, **resumed))[1])

    run(server, use, backend)


@on_both_loops
@both_directions
@pytest.mark.parametrize("ahead", [1, 2, 5, 9, 50])
async def test_no_more_pages_are_ahead_than_allowed(ahead: int, reverse: bool) -> None:
    """Whenever a row is processed, however long, at most so many pages are asked for or held beyond it."""
    server = Pages(honest(14 * SIZE - 1))
    beyond: set[int] = set()
    async with server.client() as client:
        async with server.walk(client, reverse=reverse).prefetch(ahead) as items:
            taken: set[int] = {1} if reverse else set()
            async for item in items:
                taken.add(row_of(item) // SIZE + 1)
                await settle()
                assert len(server.asked) == len(set(server.asked))
                beyond.add(len(set(server.asked) - taken))

    assert min(ahead, 12 if reverse else 13) == max(beyond)
    assert server.most_in_flight <= ahead


@on_both_loops
@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        pytest.param(8, [[1], [2, 3, 4, 5, 6, 7, 8, 9], [10, 11, 12, 13, 14]], id="8"),
        pytest.param(13, [[1], [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]], id="13"),
        pytest.param(1, [[number] for number in range(1, 15)], id="1"),
    ],
)
async def test_fourteen_pages_take_as_few_rounds_as_can_be(ahead: int, expected: list[list[int]]) -> None:
    """The first page alone, as only it tells how many there are; then as many at once as are allowed."""
    server = Rounds(honest(14 * SIZE))
    async with server.client() as client, anyio.create_task_group() as tasks:
        tasks.start_soon(server.play)
        found = await server.walk(client).collect(prefetch=ahead)
        tasks.cancel_scope.cancel()

    assert list(range(14 * SIZE)) == [row_of(item) for item in found]
    assert expected == [sorted(asked) for asked in server.rounds if asked]


@on_both_loops
async def test_a_backward_walk_takes_few_rounds_too() -> None:
    """Page 1 tells where the end is, and is not asked for again."""
    server = Rounds(honest(14 * SIZE))
    async with server.client() as client, anyio.create_task_group() as tasks:
        tasks.start_soon(server.play)
        found = await server.walk(client, reverse=True).collect(prefetch=8)
        tasks.cancel_scope.cancel()

    assert list(range(14 * SIZE))[::-1] == [row_of(item) for item in found]
    assert [[1], [7, 8, 9, 10, 11, 12, 13, 14], [2, 3, 4, 5, 6]] == [
        sorted(asked) for asked in server.rounds if asked
    ]


@on_both_loops
async def test_a_backward_walk_with_a_limit_prefetches_all_that_it_needs() -> None:
    """The rows of page 1, which was read only to find the end, are not counted against `max_items`."""
    server = Rounds(honest(9 * SIZE))
    async with server.client() as client, anyio.create_task_group() as tasks:
        tasks.start_soon(server.play)
        found = await server.walk(client, reverse=True, max_items=2 * SIZE).collect(prefetch=8)
        tasks.cancel_scope.cancel()

    assert 2 * SIZE == len(found)
    assert [[1], [8, 9]] == [sorted(asked) for asked in server.rounds if asked]


@on_both_loops
@pytest.mark.parametrize(
    "counts",
    [
        pytest.param({"pages": 2, "total": 2 * SIZE - 1}, id="low"),
        pytest.param({"pages": None, "total": None}, id="unknown"),
    ],
)
async def test_looking_for_the_end_asks_for_nothing_twice(counts: dict[str, int | None]) -> None:
    """Where only the links lead to the last page, the pages on the way to it are kept, backwards too."""
    rows = list(range(14 * SIZE))
    server = Pages(
        lambda number: body(
            rows[(number - 1) * SIZE : number * SIZE],
            **counts,
            next_page=link(number + 1 if number < 14 else None),
        )
    )
    async with server.client() as client:
        found = await server.walk(client, reverse=True).collect(prefetch=4)

    assert rows[::-1] == [row_of(item) for item in found]
    assert list(range(1, 15)) == sorted(server.asked)


@on_both_loops
async def test_looking_for_the_end_from_beyond_asks_for_page_1_once() -> None:
    """A start beyond the last page, without a link back, is found from page 1, which is kept."""
    server = Pages(honest(4 * SIZE, links=False))
    async with server.client() as client:
        found = await server.walk(client, reverse=True, start_page=9).collect(prefetch=8)

    assert list(range(4 * SIZE))[::-1] == [row_of(item) for item in found]
    assert [1, 2, 3, 4, 9] == sorted(server.asked)


@on_both_loops
async def test_a_cancelled_request_counts_until_it_is_gone() -> None:
    """Where a link leads past pages that are under way, those after it wait until there is room."""
    ending = anyio.Event()

    class Clinging(Pages):
        async def wait(self, number: int) -> None:
            try:
                await super().wait(number)
            finally:
                with anyio.CancelScope(shield=True):
                    await (ending.wait() if number in (6, 7) else checkpoint())

    server = Clinging(
        lambda number: body(
            [] if number == 8 else [number], prev_page=link(3 if number == 8 else number - 1)
        ),
        turns=lambda number: math.inf if number in (6, 7) else 1,
    )
    found: list[int] = []
    async with server.client() as client, anyio.create_task_group() as tasks:
        walk = server.walk(client, reverse=True, start_page=9)
        tasks.start_soon(follow, walk.prefetch(3), found)
        await settle()
        assert 2 == server.in_flight
        ending.set()

    assert [9, 3, 2, 1] == found
    assert 3 == server.most_in_flight


@on_both_loops
async def test_what_is_not_wanted_any_more_is_given_up() -> None:
    """Requests for pages that a link leads past are cancelled, not waited for."""
    server = Pages(
        lambda number: body(
            [] if number == 8 else [number], prev_page=link(3 if number == 8 else number - 1)
        ),
        turns=lambda number: math.inf if number in (6, 7) else 1,
    )
    async with (
        server.client() as client,
        server.walk(client, reverse=True, start_page=9).prefetch(3) as items,
    ):
        walk = aiter(items)
        assert [9, 3] == [row_of(await anext(walk)) for _ in range(2)]
        await settle()
        assert 0 == server.in_flight

    assert [1, 2, 3, 6, 7, 8, 9] == sorted(server.asked)


@on_both_loops
async def test_an_empty_page_is_no_reason_to_ask_for_others() -> None:
    """A start beyond the last page asks for no page between them, however long that page is looked at."""
    server = Pages(honest(4 * SIZE))
    async with server.client() as client:
        async with server.walk(client, reverse=True, start_page=9).prefetch(3) as items:
            async for _ in items.pages():
                await settle()

    assert [1, 2, 3, 4, 9] == sorted(server.asked)


@on_both_loops
@pytest.mark.parametrize("ahead", [1, 4])
async def test_smaller_pages_than_were_asked_for_lose_no_row(ahead: int) -> None:
    """Though `pages` is reckoned from full ones: a link that leads on is followed while rows are missing."""
    rows = list(range(5 * SIZE))
    half = SIZE // 2
    server = Pages(
        lambda number: body(
            rows[(number - 1) * half : number * half],
            total=len(rows),
            pages=5,
            next_page=link(number + 1 if number * half < len(rows) else None),
        )
    )
    async with server.client() as client:
        found = await server.walk(client).collect(prefetch=ahead)

    assert rows == [row_of(item) for item in found]
    assert -(-len(rows) // half) == len(set(server.asked))


@on_both_loops
async def test_without_counts_nothing_is_asked_ahead() -> None:
    """Only links tell of a next page, so each is asked for when it is wanted."""
    server = Pages(lambda number: body([number], next_page=link(2 if number == 1 else None)))
    async with server.client() as client, server.walk(client).prefetch(3) as items:
        asked = []
        async for _ in items:
            await settle()
            asked.append(list(server.asked))

    assert [[1], [1, 2]] == asked


@on_both_loops
async def test_rows_before_the_cursor_are_not_counted_against_the_limit() -> None:
    """A walk that goes on inside a page prefetches the next one, if `max_items` reaches into it, and no more."""
    server = Pages(honest(9 * SIZE))
    async with server.client() as client:
        pager = server.walk(client)
        found = [row_of(await anext(walk)) for walk in [aiter(pager)] for _ in range(2 * SIZE + 2)]
        server.asked = []
        async with server.walk(client, cursor=pager.cursor, max_items=SIZE).prefetch(8) as items:
            walk = aiter(items)
            found.append(row_of(await anext(walk)))
            await settle()
            assert [3, 4] == server.asked
            found += [row_of(item) async for item in walk]

    assert list(range(3 * SIZE + 2)) == found
    assert [3, 4] == server.asked


@on_both_loops
async def test_leaving_stops_at_once() -> None:
    """After `break` nothing is under way, no task is left, and nothing more is asked."""
    server = Pages(honest(14 * SIZE), turns=lambda number: 1 if number < 3 else math.inf)
    async with server.client() as client:
        before = tasks_alive()
        async with server.walk(client).prefetch(4) as items:
            async for item in items:
                if row_of(item) == SIZE:
                    await settle()
                    assert 4 == server.in_flight
                    break
        assert 0 == server.in_flight
        assert before == tasks_alive()
        asked = list(server.asked)
        await settle()

    assert asked == server.asked
    assert [1, 2, 3, 4, 5, 6] == sorted(asked)


class OwnInterrupt(BaseException):
    """What a test runner or a framework raises past `except Exception`."""


OWN_ERRORS = pytest.mark.parametrize(
    "error",
    [
        ValueError("mine"),
        ServerError("mine"),
        StopAsyncIteration("mine"),
        ExceptionGroup("mine", [ValueError()]),
        SystemExit(3),
        KeyboardInterrupt(),
        OwnInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)


@on_both_loops
@OWN_ERRORS
async def test_the_callers_own_error_passes_as_itself(error: BaseException) -> None:
    """Not in a group, and nothing is left behind it."""
    server = Pages(honest(14 * SIZE), turns=lambda number: 1 if number < 2 else math.inf)

    async def fail(client: CrowdTwistClient) -> None:
        async with server.walk(client).prefetch(4) as items:
            async for _ in items:
                await settle()
                raise error

    async with server.client() as client:
        before = tasks_alive()
        with pytest.raises(type(error)) as caught:
            await fail(client)
        assert before == tasks_alive()

    assert error is caught.value
    assert (0, 5) == (server.in_flight, len(server.asked))


@on_both_loops
async def test_the_callers_own_error_is_not_lost_to_a_cancellation() -> None:
    """An error that is raised in a scope that is cancelled already comes out, as it does without prefetch."""
    server = Pages(honest(14 * SIZE), turns=lambda number: 1 if number < 2 else math.inf)
    error = ValueError("mine")

    async def fail(client: CrowdTwistClient, scope: anyio.CancelScope) -> None:
        async with server.walk(client).prefetch(4) as items:
            async for _ in items:
                await settle()
                scope.cancel()
                raise error

    async with server.client() as client:
        with anyio.CancelScope() as scope:
            with pytest.raises(ValueError, match="mine") as caught:
                await fail(client, scope)

    assert error is caught.value
    assert 0 == server.in_flight


async def leave_normally(pager: Pager[Reward]) -> Any:
    """Take a row, and leave."""
    async with pager.prefetch(3) as items:
        await anext(aiter(items))
        await settle()
    return items


async def leave_with_an_error(pager: Pager[Reward]) -> Any:
    """Take a row, and fail."""
    with suppress(OwnInterrupt):
        async with pager.prefetch(3) as items:
            await anext(aiter(items))
            await settle()
            raise OwnInterrupt
    return items


async def leave_cancelled(pager: Pager[Reward]) -> Any:
    """Take a row, and be cancelled."""
    with anyio.CancelScope() as scope:
        async with pager.prefetch(3) as items:
            await anext(aiter(items))
            await settle()
            scope.cancel()
            await checkpoint()
    return items


@on_both_loops
@pytest.mark.parametrize("turns", [1, math.inf], ids=["held", "under way"])
@pytest.mark.parametrize(
    "leave", [leave_normally, leave_with_an_error, leave_cancelled], ids=lambda leave: leave.__name__
)
async def test_after_the_block_the_items_are_refused(
    leave: Callable[[Pager[Reward]], Awaitable[Any]], turns: float
) -> None:
    """However the block was left, and whatever was on its way, using the items says what to do."""
    server = Pages(honest(14 * SIZE), turns=lambda number: 1 if number == 1 else turns)
    async with server.client() as client:
        items = await leave(server.walk(client))
        asked = list(server.asked)
        with anyio.fail_after(5):
            with pytest.raises(ClientClosedError, match="async with"):
                await anext(items.pages())
            with pytest.raises(ClientClosedError, match="async with"):
                await anext(aiter(items))

    assert asked == server.asked


@on_both_loops
async def test_a_task_that_waits_for_a_page_when_the_block_is_left_is_told() -> None:
    """It may be one that the block does not wait for; nothing would ever come."""
    server = Pages(honest(14 * SIZE), turns=lambda number: 1 if number == 1 else math.inf)

    async def wait(items: Prefetched[Reward]) -> None:
        with pytest.raises(ClientClosedError, match="async with"):
            await anext(aiter(items))

    with anyio.fail_after(5):
        async with server.client() as client, anyio.create_task_group() as tasks:
            async with server.walk(client).prefetch(2) as items:
                await anext(items.pages())
                tasks.start_soon(wait, items)
                tasks.start_soon(wait, items)
                await settle()


@on_both_loops
async def test_the_cursor_is_valid_after_the_block() -> None:
    """A plain walk from there yields exactly the rest, whatever was fetched ahead."""
    server = Pages(honest(9 * SIZE))
    async with server.client() as client:
        pager = server.walk(client)
        async with pager.prefetch(5) as items:
            taken = [row_of(await anext(walk)) for walk in [aiter(items)] for _ in range(SIZE + 1)]
            await settle()
        assert items.cursor == pager.cursor
        rest = await server.walk(client, cursor=items.cursor).collect()

    assert list(range(9 * SIZE)) == taken + [row_of(item) for item in rest]


@on_both_loops
async def test_a_second_loop_over_the_items_loses_no_row() -> None:
    """Leaving a loop and beginning another inside the block goes on with the next item."""
    server = Pages(honest(3 * SIZE))
    found: list[int] = []
    async with server.client() as client, server.walk(client).prefetch(2) as items:
        async for item in items:
            found.append(row_of(item))
            break
        found += [row_of(item) async for item in items]

    assert list(range(3 * SIZE)) == found


@on_both_loops
@both_directions
async def test_an_error_keeps_the_items_before_it(reverse: bool) -> None:
    """
    The pages before a failed one come first, those after it were asked for, and the cursor leads to the rest.
    """
    book = honest(9 * SIZE)
    server = Pages(lambda number: status(500) if number == 4 else book(number))
    server.turns = lambda number: 1 if number == 4 else 9
    found: list[int] = []
    async with server.client() as client:
        with pytest.raises(ServerError) as caught:
            await follow(server.walk(client, reverse=reverse).prefetch(8), found)
        server.answer = book
        rest = await server.walk(client, reverse=reverse, cursor=caught.value.cursor).collect(prefetch=3)

    everything = list(range(9 * SIZE))[:: -1 if reverse else 1]
    assert everything[: (5 if reverse else 3) * SIZE] == found
    assert everything == found + [row_of(item) for item in rest]
    assert ("user_rewards", 1) == (caught.value.endpoint, caught.value.attempts)
    assert caught.value.__context__ is None


@on_both_loops
async def test_a_failed_page_can_be_asked_for_again_inside_the_block() -> None:
    """An error ends the step, not the walk: the pages that are there are not fetched again."""
    book = honest(6 * SIZE)
    server = Pages(lambda number: status(500) if server.asked.count(3) == 1 and number == 3 else book(number))
    found: list[int] = []
    async with server.client() as client, server.walk(client).prefetch(3) as items:
        walk = aiter(items)
        found += [row_of(await anext(walk)) for _ in range(2 * SIZE)]
        with pytest.raises(ServerError):
            await anext(walk)
        found += [row_of(item) async for item in walk]

    assert list(range(6 * SIZE)) == found
    assert [1, 2, 3, 3, 4, 5, 6] == sorted(server.asked)


@on_both_loops
async def test_an_error_beyond_what_is_wanted_is_not_raised() -> None:
    """A page that fails and that the walk does not come to changes nothing."""
    book = honest(6 * SIZE)
    server = Pages(lambda number: status(500) if number > 2 else book(number))
    async with server.client() as client, server.walk(client).prefetch(4) as items:
        found = [row_of(await anext(walk)) for walk in [aiter(items)] for _ in range(2 * SIZE)]
        await settle()

    assert list(range(2 * SIZE)) == found
    assert {1, 2, 3, 4, 5, 6} >= {*server.asked} > {1, 2}


def drifting(number: int) -> Answer:
    """Five pages, of which the third tells of a row more."""
    count = 5 * SIZE
    total = count if number < 3 else count + 1
    onward = link(number + 1) if number < 5 else None
    rows = list(range(count))[(number - 1) * SIZE : number * SIZE] if number < 6 else []
    return body(rows, total=total, pages=5, next_page=onward, prev_page=link(number - 1))


@on_both_loops
async def test_drift_warns_once_when_the_walk_comes_to_it() -> None:
    """The warning comes with the page that shows the change, not when that page arrives, and names the caller."""
    server = Pages(drifting)
    async with server.client() as client, server.walk(client).prefetch(4) as items:
        walk = aiter(items)
        for _ in range(2 * SIZE):
            await anext(walk)
        await settle()
        assert 3 in server.asked
        with pytest.warns(PaginationDriftWarning) as caught:
            rest = [row_of(item) async for item in walk]

    assert [__file__] == [warning.filename for warning in caught]
    assert list(range(2 * SIZE, 5 * SIZE)) == rest


@on_both_loops
async def test_drift_raises_when_the_walk_comes_to_it() -> None:
    """The rows before it come, and the cursor names the page that shows the change."""
    server = Pages(drifting)
    found: list[int] = []
    async with server.client() as client:
        plain = await walked(server.walk(client, on_drift="raise"))
        with pytest.raises(PaginationDriftError) as caught:
            await follow(server.walk(client, on_drift="raise").prefetch(4), found)

    assert list(range(2 * SIZE)) == found
    assert plain.error == (PaginationDriftError, caught.value.reason, caught.value.cursor)


@on_both_loops
@pytest.mark.parametrize("ahead", [1, 4])
async def test_a_repeated_page_is_asked_for_once_more(ahead: int) -> None:
    """A stale copy of the page before is replaced by what a second request brings."""
    book = honest(5 * SIZE)
    server = Pages(lambda number: book(2 if number == 3 and server.asked.count(3) == 1 else number))
    async with server.client() as client:
        found = await server.walk(client).collect(prefetch=ahead)

    assert list(range(5 * SIZE)) == [row_of(item) for item in found]
    assert [1, 2, 3, 3, 4, 5] == sorted(server.asked)


@on_both_loops
@pytest.mark.parametrize("ahead", [1, 4])
async def test_a_page_repeated_twice_is_a_loop_error(ahead: int) -> None:
    """Two requests for it are enough."""
    book = honest(5 * SIZE)
    server = Pages(lambda number: book(2 if number == 3 else number))
    found: list[int] = []
    async with server.client() as client:
        with pytest.raises(PaginationLoopError):
            await follow(server.walk(client).prefetch(ahead), found)

    assert list(range(2 * SIZE)) == found
    assert 2 == server.asked.count(3)


@on_both_loops
async def test_cancelling_a_step_changes_nothing() -> None:
    """A wait for a page that is cancelled inside the block is taken up again without a request."""
    server = Rounds(honest(4 * SIZE))
    async with server.client() as client, anyio.create_task_group() as tasks:
        async with server.walk(client).prefetch(4) as items:
            walk = aiter(items)
            with anyio.move_on_after(0.01) as waiting:
                await anext(walk)
            assert waiting.cancelled_caught
            tasks.start_soon(server.play)
            found = [row_of(item) async for item in walk]
        tasks.cancel_scope.cancel()

    assert list(range(4 * SIZE)) == found
    assert [1, 2, 3, 4] == sorted(server.asked)


@on_both_loops
@both_directions
async def test_cancelling_anywhere_leaves_nothing(reverse: bool) -> None:
    """Cancelled after any number of turns, it is out at once, and the client goes on."""
    server = Pages(honest(5 * SIZE), turns=lambda number: 1 + number % 3)
    ended = False
    turns = 0
    async with server.client() as client:
        before = tasks_alive()
        while not ended:
            turns += 1
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:

                    async def cancel(scope: anyio.CancelScope = scope, turns: int = turns) -> None:
                        for _ in range(turns):
                            await checkpoint()
                        scope.cancel()

                    tasks.start_soon(cancel)
                    async with server.walk(client, reverse=reverse).prefetch(3) as items:
                        async for _ in items:
                            await checkpoint()
                    ended = True
                    tasks.cancel_scope.cancel()
            assert (0, before) == (server.in_flight, tasks_alive())
        assert 5 * SIZE == len(await server.walk(client).collect(prefetch=3))

    assert turns > 10


def test_asyncio_timeouts_and_cancellations_work_around_it() -> None:
    """`asyncio.timeout` and `Task.cancel` end a prefetch with their own errors, and leave nothing."""
    server = Pages(honest(5 * SIZE), turns=lambda number: 1 if number == 1 else math.inf)

    async def walk(client: CrowdTwistClient) -> None:
        async with server.walk(client).prefetch(3) as items:
            async for _ in items:
                pass

    async def use(client: CrowdTwistClient) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await walk(client)
        assert 0 == server.in_flight
        task = asyncio.create_task(walk(client))
        await settle()
        assert 3 == server.in_flight
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        current = asyncio.current_task()
        assert current is not None
        assert 0 == current.cancelling()
        assert (0, 1) == (server.in_flight, len(asyncio.all_tasks()))

    run(server, use)


@on_both_loops
async def test_page_by_page() -> None:
    """Pages come whole and in order, with cursor and total after each."""
    server = Pages(honest(4 * SIZE - 1), turns=lambda number: 9 - number)
    seen: list[tuple[int, int, int | None]] = []
    async with server.client() as client:
        pager = server.walk(client)
        async with pager.prefetch(3) as items:
            async for page in items.pages():
                seen.append((page.number, len(page), items.total))
                assert items.cursor == pager.cursor

    assert [(1, SIZE, 11), (2, SIZE, 11), (3, SIZE, 11), (4, SIZE - 1, 11)] == seen


@on_both_loops
@both_directions
@pytest.mark.parametrize("taken", range(2 * SIZE + 1))
async def test_pages_after_items_begin_with_the_page_of_the_next_item(taken: int, reverse: bool) -> None:
    """That page comes whole, so no row is lost, and the cursor stands behind it."""
    server = Pages(honest(4 * SIZE))
    async with server.client() as client, server.walk(client, reverse=reverse).prefetch(2) as items:
        walk = aiter(items)
        for _ in range(taken):
            await anext(walk)
        page = await anext(items.pages())
        rest = await server.walk(client, reverse=reverse, cursor=items.cursor).collect()

    number = taken // SIZE + 1
    assert (5 - number if reverse else number) == page.number
    assert (SIZE, (4 - number) * SIZE) == (len(page), len(rest))


@on_both_loops
async def test_items_after_pages_begin_behind_them() -> None:
    """By item or by page in turn, the walk goes on, and each row is taken once."""
    server = Pages(honest(4 * SIZE))
    async with server.client() as client, server.walk(client).prefetch(3) as items:
        found = [row_of(await anext(aiter(items)))]
        for _ in range(2):
            page = await anext(items.pages())
        found += [row_of(item) async for item in items]

    assert 2 == page.number
    assert [0, *range(2 * SIZE, 4 * SIZE)] == found
    assert [1, 2, 3, 4] == sorted(server.asked)


@given(
    st.integers(0, 20),
    st.integers(1, 4),
    st.lists(st.booleans(), max_size=30),
    st.booleans(),
    st.integers(1, 5),
    st.integers(0, 20),
)
@settings(database=None, deadline=None, max_examples=50)
def test_items_and_pages_in_any_order_leave_no_row_out(
    rows: int, size: int, by_page: list[bool], reverse: bool, ahead: int, begin: int
) -> None:
    """Items come once and in order, a page gives what is left of it, and the cursor always leads to the rest."""
    server = Pages(honest(rows, size), size=size)
    everything = list(range(rows))[:: -1 if reverse else 1]

    async def use(client: CrowdTwistClient) -> None:
        plain = server.walk(client, reverse=reverse, max_items=begin)
        taken = [row_of(item) for item in await plain.collect()]
        walk = server.walk(client, reverse=reverse, cursor=plain.cursor)
        async with walk.prefetch(ahead) as items:
            for whole in by_page:
                with suppress(StopAsyncIteration):
                    if whole:
                        page = [row_of(item) for item in await anext(items.pages())]
                        shown = page[::-1] if reverse else page
                        taken += [row for row in shown if row not in taken]
                    else:
                        taken.append(row_of(await anext(aiter(items))))
                rest = await server.walk(client, reverse=reverse, cursor=items.cursor).collect()
                assert everything == taken + [row_of(item) for item in rest]

    run(server, use)


@on_both_loops
@pytest.mark.parametrize(("most", "pages"), [(SIZE, [1]), (SIZE + 1, [1, 2])], ids=["a page", "a row more"])
async def test_max_items_counts_items_and_pages_together(most: int, pages: list[int]) -> None:
    """The walk ends with the page that reaches it, the items before it counted."""
    server = Pages(honest(4 * SIZE))
    async with server.client() as client, server.walk(client, max_items=most).prefetch(2) as items:
        await anext(aiter(items))
        found = [page.number async for page in items.pages()]
        assert [] == [item async for item in items]

    assert pages == found


@on_both_loops
async def test_each_prefetch_walks_afresh() -> None:
    """A pager can be prefetched, collected and looped over again and again."""
    server = Pages(honest(3 * SIZE))
    async with server.client() as client:
        pager = server.walk(client)
        collected = [await pager.collect(prefetch=ahead) for ahead in (1, 2, 8)]
        async with pager.prefetch(2) as items:
            assert collected[0] == [item async for item in items]
        assert 3 * [collected[0]] == collected
        assert collected[0] == [item async for item in pager]

    assert 5 * 3 == len(server.asked)


@on_both_loops
async def test_an_error_of_collect_begins_where_the_walk_began() -> None:
    """No item was handed out, so the cursor leads to all of them."""
    server = Pages(lambda number: status(500) if number == 3 else honest(5 * SIZE)(number))
    async with server.client() as client:
        start = server.walk(client).cursor
        with pytest.raises(ServerError) as caught:
            await server.walk(client).collect(prefetch=4)

    assert start == caught.value.cursor


@on_both_loops
async def test_no_rows_cost_one_request() -> None:
    """An empty first page is followed by nothing."""
    server = Pages(honest(0))
    async with server.client() as client:
        assert [] == await server.walk(client).collect(prefetch=8)
        assert [] == await server.walk(client, reverse=True).collect(prefetch=8)

    assert [1, 1] == server.asked


@on_both_loops
async def test_nothing_is_asked_before_the_first_row_is_wanted() -> None:
    """Entering the block alone costs no request."""
    server = Pages(honest(9))
    async with server.client() as client:
        async with server.walk(client).prefetch(8):
            await settle()
        assert [] == await server.walk(client, max_items=0).collect(prefetch=8)

    assert [] == server.asked


@on_both_loops
@pytest.mark.parametrize("ahead", [0, -1, True, False, "4", 2.0, None, 2**63], ids=repr)
@pytest.mark.parametrize("by", ["prefetch", "collect"])
async def test_what_is_no_number_of_pages_is_refused(by: str, ahead: Any) -> None:
    """Before any request, with the name of the argument."""
    server = Pages(honest(9))
    async with server.client() as client:
        pager = server.walk(client)

        async def ask() -> None:
            if by == "collect":
                await pager.collect(prefetch=ahead)
            else:
                pager.prefetch(ahead)

        with pytest.raises(InvalidArgumentError, match="^prefetch " if by == "collect" else "^ahead "):
            await ask()

    assert [] == server.asked


@on_both_loops
async def test_a_block_that_is_not_entered_says_so() -> None:
    """Python would say that it is an object of a private class."""
    async with Pages(honest(9)).client() as client:
        pager = Pages(honest(9)).walk(client)
        blocks: dict[str, Any] = {
            r"async with pager\.prefetch\(4\) as items": pager.prefetch(4),
            r"async with client\.fan_out\(call, keys\) as outcomes": client.fan_out(client.user_rewards, []),
        }
        for usage, block in blocks.items():
            with pytest.raises(TypeError, match=usage):
                async for _ in block:
                    pass


@on_both_loops
async def test_a_closed_client_says_so() -> None:
    """The error is the one of the plain walk, with the cursor."""
    server = Pages(honest(9))
    async with server.client() as client:
        pager = server.walk(client)
    with pytest.raises(ClientClosedError, match="closed") as caught:
        await follow(pager.prefetch(3), [])

    assert pager.cursor == caught.value.cursor


@on_both_loops
async def test_no_traceback_shows_the_user() -> None:
    """The frames that an error passes hold no user id, however deep a crash reporter looks."""
    server = Pages(lambda _: status(403))
    async with server.client() as client:
        with pytest.raises(AuthenticationError) as caught:
            await server.walk(client).collect(prefetch=3)

    assert USER not in captured_locals(caught.value)


@on_both_loops
@both_directions
async def test_over_real_connections(reverse: bool) -> None:
    """Over sockets the rows, their order and the number of requests are those of the plain walk."""
    with ReferenceServer(key=KEY, purchases={"7": make_purchases(63)}, rewards={}, points={}) as server:
        async with CrowdTwistClient(api_key=KEY, api_url=server.url, pos_url=server.url) as client:
            plain = await client.iter_user_purchases("7", reverse=reverse).collect()
            assert plain == await client.iter_user_purchases("7", reverse=reverse).collect(prefetch=4)
        assert 14 == len(server.requests)
