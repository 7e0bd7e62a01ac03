"""
One walk page by page, over scripted pages: what is asked, what a failed step leaves, drift, repeats, the bound.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import anyio
import pytest
from conftest import KEY

from crowdtwist_async import _page_walk
from crowdtwist_async._arguments import OnDrift
from crowdtwist_async._config import make_settings
from crowdtwist_async._cursor import Position, read_cursor
from crowdtwist_async._page_walk import PageWalk, Route, fingerprint
from crowdtwist_async._protocol import Call, rewards_call
from crowdtwist_async._secrets import Secret
from crowdtwist_async.errors import (
    ClientClosedError,
    ConnectionFailedError,
    CrowdTwistError,
    PaginationDriftError,
    PaginationDriftWarning,
    PaginationLoopError,
)
from crowdtwist_async.models import Page, Paging

pytestmark = pytest.mark.anyio

SIZE = 3
CALL = cast(
    "Call[Page[int]]",
    rewards_call(
        make_settings(api_key=Secret.of(KEY), client_id=201), "11138266", id_type="id", page_size=SIZE
    ),
)
BOTH_DIRECTIONS = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "backward"])

Answer = Page[int] | CrowdTwistError


def page(number: int, *items: int, **paging: Any) -> Page[int]:
    """A page with these items and whatever of `total`, `pages` and links is given."""
    return Page(items=items, paging=Paging(**paging), number=number, raw=None)


def link(number: int) -> str:
    """A link to a page."""
    return f"https://example.com/?page={number}"


def book(rows: int, **paging: Any) -> dict[int, Page[int]]:
    """Consistent pages of so many rows, without links; `paging` overrides the counts."""
    count = max(1, -(-rows // SIZE))
    counts = {"total": rows, "pages": count, **paging}
    return {
        number: page(number, *range(rows)[(number - 1) * SIZE : number * SIZE], **counts)
        for number in range(1, count + 1)
    }


class Script:
    """Gives the scripted answers of each page in turn, the last one again and again, and notes what is asked."""

    def __init__(self, answers: dict[int, Any]) -> None:
        self.asked: list[int] = []
        self._answers = {
            number: list(given) if isinstance(given, list) else [given] for number, given in answers.items()
        }

    async def fetch(self, call: Call[Page[int]]) -> Page[int]:
        assert call.page is not None
        self.asked.append(call.page)
        await anyio.lowlevel.checkpoint()
        answers: list[Answer] = self._answers.get(call.page) or [page(call.page)]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, CrowdTwistError):
            raise answer
        return answer

    def walk(
        self, *, reverse: bool = False, start: Position | None = None, on_drift: OnDrift = "warn"
    ) -> PageWalk[int]:
        return PageWalk(
            Route(
                call=CALL,
                fetch=self.fetch,
                reverse=reverse,
                start=start or Position(None if reverse else 1),
                max_items=None,
                on_drift=on_drift,
            )
        )


async def numbers(walk: PageWalk[int], into: list[int] | None = None) -> list[int]:
    """The numbers of all pages to the end of the walk; `into` keeps those before an error."""
    found = [] if into is None else into
    while (following := await walk.next_page()) is not None:
        found.append(following.number)
    return found


def position_of(error: CrowdTwistError, *, reverse: bool = False) -> Position:
    """The place that the cursor of an error names."""
    return read_cursor(error.cursor, fingerprint(CALL, reverse=reverse))


@pytest.mark.parametrize(
    ("expected", "start"),
    [
        pytest.param([1, 2, 3], Position(1), id="first"),
        pytest.param([3], Position(3), id="last"),
        pytest.param([2, 3], Position(2, 3), id="inside"),
        pytest.param([0, 1, 2, 3], Position(0), id="page 0"),
        pytest.param([9], Position(9), id="beyond"),
    ],
)
async def test_forward_from_any_start(expected: list[int], start: Position) -> None:
    """The walk asks for exactly the pages that it gives, each once."""
    script = Script(book(8))

    assert expected == await numbers(script.walk(start=start))
    assert expected == script.asked


@pytest.mark.parametrize(
    ("expected", "asked", "start"),
    [
        pytest.param([3, 2, 1], [1, 3, 2], Position(None), id="last page learnt from page 1"),
        pytest.param([3, 2, 1], [3, 2, 1], Position(3), id="named"),
        pytest.param([1], [1], Position(1), id="page 1"),
        pytest.param([0], [0], Position(0), id="page 0"),
        pytest.param([9, 3, 2, 1], [9, 3, 2, 1], Position(9), id="beyond"),
    ],
)
async def test_backward_from_any_start(expected: list[int], asked: list[int], start: Position) -> None:
    """Page 1 and the last page, which were read to find the start, are not asked for again."""
    script = Script({**book(8), 9: page(9, total=8, pages=3, prev_page=link(3))})

    assert expected == await numbers(script.walk(reverse=True, start=start))
    assert asked == script.asked


@BOTH_DIRECTIONS
@pytest.mark.parametrize("counts", [{"total": 0, "pages": 0}, {"total": 0, "pages": 1}, {}], ids=str)
async def test_no_rows_cost_one_request(counts: dict[str, int], reverse: bool) -> None:
    """The empty page that was read to find the last one is not asked for again."""
    script = Script({1: page(1, **counts)})

    assert [1] == await numbers(script.walk(reverse=reverse))
    assert [1] == script.asked


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param({"pages": 1}, id="pages low"),
        pytest.param({"total": 1}, id="total low"),
        pytest.param({"total": None, "pages": None}, id="unknown"),
        pytest.param({"total": 1, "pages": 2}, id="both low"),
    ],
)
async def test_backward_looks_for_the_last_page_behind_low_counts(counts: dict[str, int | None]) -> None:
    """The pages beyond the counted last one are found by their links, and each is asked for once."""
    sent = {
        number: page(number, *found.items, **counts, next_page=link(number + 1) if number < 4 else None)
        for number, found in book(11).items()
    }
    script = Script(sent)

    assert [4, 3, 2, 1] == await numbers(script.walk(reverse=True))
    assert [1, 2, 3, 4] == sorted(script.asked)


async def test_backward_from_a_high_count_costs_one_empty_page() -> None:
    """The counted last page is empty; its link leads to the last available one, and nothing is asked twice."""
    script = Script({**book(8, total=203, pages=10), 68: page(68, total=203, pages=10, prev_page=link(3))})

    assert [3, 2, 1] == await numbers(script.walk(reverse=True))
    assert [1, 68, 3, 2] == script.asked


@BOTH_DIRECTIONS
@pytest.mark.parametrize(
    "counts",
    [pytest.param({"total": 21, "pages": 0}, id="total"), pytest.param({"total": 0, "pages": 7}, id="pages")],
)
async def test_no_rows_with_a_high_count_cost_one_empty_page_more(
    counts: dict[str, int], reverse: bool
) -> None:
    """An empty first page is not followed by a search through all the pages that one count knows of."""
    script = Script({1: page(1, **counts)})

    await numbers(script.walk(reverse=reverse))

    assert len(script.asked) <= 2


async def test_a_finished_walk_stays_finished() -> None:
    """Asking after the end neither fetches nor fails."""
    script = Script(book(5))
    walk = script.walk()
    await numbers(walk)

    assert await walk.next_page() is None
    assert [1, 2] == script.asked


@pytest.mark.parametrize(
    ("reverse", "expected", "asked"),
    [
        pytest.param(False, [1, 2, 3], [1, 2, 2, 3, 3], id="forward"),
        pytest.param(True, [3, 2, 1], [1, 3, 3, 2, 2], id="backward"),
    ],
)
async def test_a_failed_step_changes_nothing(reverse: bool, expected: list[int], asked: list[int]) -> None:
    """A step that fails is taken again by asking again; pages that are there are not fetched again."""
    pages = book(8)
    script = Script(
        {
            1: pages[1],
            2: [ConnectionFailedError("reset"), pages[2]],
            3: [ConnectionFailedError("reset"), pages[3]],
        }
    )
    walk = script.walk(reverse=reverse)

    found = []
    for _ in range(len(asked) + 1):
        try:
            found.append(await walk.next_page())
        except ConnectionFailedError:
            continue

    assert [pages[number] for number in expected] == found[:3]
    assert found[3:] == [None] * len(found[3:])
    assert asked == script.asked


@BOTH_DIRECTIONS
async def test_an_error_carries_the_cursor_of_the_step_that_failed(reverse: bool) -> None:
    """The cursor names the page that did not come; the error is the one that was raised."""
    pages = book(8)
    failure = ConnectionFailedError("reset")
    walk = Script({**pages, 2: failure}).walk(reverse=reverse)
    await walk.next_page()

    with pytest.raises(ConnectionFailedError) as caught:
        await walk.next_page()

    assert failure is caught.value
    assert Position(2) == position_of(caught.value, reverse=reverse)
    assert walk.cursor == caught.value.cursor
    assert caught.value.__context__ is None


async def test_an_error_before_the_last_page_is_known_carries_a_cursor() -> None:
    """A backward walk that never began goes on at the end."""
    walk = Script({1: ConnectionFailedError("reset")}).walk(reverse=True)

    with pytest.raises(ConnectionFailedError) as caught:
        await walk.next_page()

    assert Position(None) == position_of(caught.value, reverse=True)


@pytest.mark.parametrize(
    ("answers", "reverse", "position"),
    [
        pytest.param({1: page(1, 0, next_page=link(1))}, False, Position(1), id="itself"),
        pytest.param({1: page(1, 0, next_page=link(3))}, False, Position(1), id="skips"),
        pytest.param(
            {
                1: page(1, 0, 1, 2, next_page=link(2)),
                2: page(2, 3, 4, 5, next_page=link(1)),
            },
            False,
            Position(2),
            id="A to B to A",
        ),
        pytest.param({2: page(2, 3, prev_page=link(2))}, True, Position(2), id="backward to itself"),
    ],
)
async def test_a_loop_error_says_where_it_stopped(
    answers: dict[int, Page[int]], reverse: bool, position: Position
) -> None:
    """Endpoint, host and cursor are there, and the page with the bad link was given before."""
    script = Script(answers)
    walk = script.walk(reverse=reverse, start=Position(2 if reverse else 1))
    with pytest.raises(PaginationLoopError) as caught:
        await numbers(walk)

    error = caught.value
    assert ("user_rewards", "api201.crowdtwist.com") == (error.endpoint, error.host)
    assert position == position_of(error, reverse=reverse)
    assert sorted(answers) == sorted(script.asked)
    assert len(script.asked) == error.attempts
    assert error.elapsed is not None
    assert 0 <= error.elapsed < 60
    assert "(user_rewards at api201.crowdtwist.com, " in str(error)


async def test_a_total_that_the_rows_reach_is_believed() -> None:
    """It is met and not passed: the page is the last one, and a stale link from it is not followed."""
    sent = book(6)
    script = Script({**sent, 2: page(2, *sent[2].items, total=6, pages=2, next_page=link(3))})

    assert [1, 2] == await numbers(script.walk())
    assert [1, 2] == script.asked


async def test_a_short_page_in_the_middle_loses_no_row_at_the_end() -> None:
    """Both counts say that all are seen, but one row less was read, and the link leads on."""
    counts = {"total": 7, "pages": 3}
    script = Script(
        {
            1: page(1, 0, 1, 2, **counts, next_page=link(2)),
            2: page(2, 3, 4, **counts, next_page=link(3)),
            3: page(3, 5, **counts, next_page=link(4)),
            4: page(4, 6, **counts),
        }
    )
    assert [1, 2, 3, 4] == await numbers(script.walk())


async def test_a_total_that_was_passed_once_is_not_believed_again() -> None:
    """It may fit by chance later, where a link still leads on."""
    script = Script(
        {
            1: page(1, 0, 1, 2, total=1, pages=1, next_page=link(2)),
            2: page(2, 3, 4, 5, total=6, pages=2, next_page=link(3)),
            3: page(3, 6, total=7, pages=3),
        }
    )
    assert [1, 2, 3] == await numbers(script.walk(on_drift="ignore"))
    assert [1, 2, 3] == script.asked


@BOTH_DIRECTIONS
async def test_a_repeated_page_is_asked_for_once_more(reverse: bool) -> None:
    """A stale copy of the page before is replaced by what the second request brings."""
    pages = book(8)
    stale = page(2, *pages[3 if reverse else 1].items, total=8, pages=3)
    script = Script({**pages, 2: [stale, pages[2]]})
    walk = script.walk(reverse=reverse, start=Position(3 if reverse else 1))
    await walk.next_page()

    assert pages[2] == await walk.next_page()
    assert [2, 2] == script.asked[1:]


@BOTH_DIRECTIONS
async def test_a_page_repeated_twice_is_a_loop_error(reverse: bool) -> None:
    """Two requests are enough; the cursor names the page that repeats."""
    pages = book(8)
    stale = page(2, *pages[3 if reverse else 1].items, total=8, pages=3)
    script = Script({**pages, 2: stale})
    walk = script.walk(reverse=reverse, start=Position(3 if reverse else 1))
    await walk.next_page()

    with pytest.raises(PaginationLoopError, match="page 2 holds the same rows") as caught:
        await walk.next_page()

    assert [2, 2] == script.asked[1:]
    assert Position(2) == position_of(caught.value, reverse=reverse)


async def test_empty_pages_do_not_repeat_each_other() -> None:
    """Two empty pages in a row are holes, not a stale copy."""
    script = Script(
        {1: page(1, next_page=link(2)), 2: page(2, next_page=link(3)), 3: page(3, 6, total=7, pages=3)}
    )

    assert [1, 2, 3] == await numbers(script.walk())
    assert [1, 2, 3] == script.asked


@pytest.mark.parametrize(
    ("rows", "ends"), [pytest.param(15, True, id="five pages"), pytest.param(16, False, id="six pages")]
)
async def test_a_walk_of_too_many_pages_is_a_loop_error(
    monkeypatch: pytest.MonkeyPatch, rows: int, ends: bool
) -> None:
    """As many pages as the bound are walked, one more is not asked for."""
    monkeypatch.setattr(_page_walk, "MAX_PAGES", 5)
    script = Script(book(rows))
    walk = script.walk()

    for _ in range(5):
        assert await walk.next_page() is not None

    if ends:
        assert await walk.next_page() is None
    else:
        with pytest.raises(PaginationLoopError, match="^5 pages are read") as caught:
            await walk.next_page()
        assert Position(6) == position_of(caught.value)
    assert [1, 2, 3, 4, 5] == script.asked


async def test_looking_for_the_last_page_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without an end stops a backward walk before it began."""
    monkeypatch.setattr(_page_walk, "MAX_PAGES", 5)
    script = Script({number: page(number, number, next_page=link(number + 1)) for number in range(1, 9)})

    with pytest.raises(PaginationLoopError) as caught:
        await script.walk(reverse=True).next_page()

    assert [1, 2, 3, 4, 5] == script.asked
    assert Position(None) == position_of(caught.value, reverse=True)


async def test_the_cursor_of_an_absurd_page_can_be_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest count that is believed gives no cursor that the client itself refuses."""
    monkeypatch.setattr(_page_walk, "MAX_PAGES", 3)
    walk = Script({1: page(1, 0, pages=2**63 - 1)}).walk(reverse=True)

    with suppress(PaginationLoopError):
        await numbers(walk)

    assert isinstance(read_cursor(walk.cursor, fingerprint(CALL, reverse=True)), Position)


async def test_total_is_what_the_latest_page_says() -> None:
    """It is unknown before the first page, and follows what the server says."""
    walk = Script({**book(5), 2: page(2, 3, 4, 5, total=6, pages=2)}).walk(on_drift="ignore")
    totals = [walk.total]
    while await walk.next_page() is not None:
        totals.append(walk.total)

    assert [None, 5, 6] == totals


CHANGES = pytest.mark.parametrize(
    "counts",
    [
        pytest.param([(8, 3), (7, 3), (7, 3)], id="total shrinks"),
        pytest.param([(8, 3), (8, 3), (9, 3)], id="total grows on the last page"),
        pytest.param([(7, 4), (7, 3), (7, 3)], id="pages"),
        pytest.param([(None, 3), (None, 4), (None, 3)], id="pages, total unknown"),
        pytest.param([(8, 3), (None, None), (9, 3)], id="unknown between"),
        pytest.param([(None, None), (8, 3), (9, 3)], id="unknown at first"),
        pytest.param([(8, 3), (7, 3), (8, 3)], id="there and back"),
    ],
)


def drifting(counts: Sequence[tuple[int | None, int | None]]) -> Script:
    """Three pages that say these counts."""
    return Script(
        {
            number: page(number, *book(9)[number].items, total=total, pages=pages, next_page=following)
            for number, ((total, pages), following) in enumerate(
                zip(counts, (link(2), link(3), None), strict=True), 1
            )
        }
    )


@CHANGES
async def test_changed_counts_warn_once_a_walk(counts: list[tuple[int | None, int | None]]) -> None:
    """One warning, however often they change, and every page still comes."""
    with pytest.warns(PaginationDriftWarning, match=r"^user_rewards: the counts changed") as caught:
        found = await numbers(drifting(counts).walk())

    assert 1 == len(caught)
    assert [1, 2, 3] == found[:3]


@CHANGES
async def test_changed_counts_can_be_ignored(counts: list[tuple[int | None, int | None]]) -> None:
    """No warning, no error."""
    with warnings.catch_warnings(record=True) as caught:
        found = await numbers(drifting(counts).walk(on_drift="ignore"))

    assert [] == caught
    assert [1, 2, 3] == found[:3]


@CHANGES
async def test_changed_counts_can_be_an_error(counts: list[tuple[int | None, int | None]]) -> None:
    """The error says where, and its cursor names the page that showed the change."""
    walk = drifting(counts).walk(on_drift="raise")
    found: list[int] = []

    with pytest.raises(PaginationDriftError, match="the counts changed") as caught:
        await numbers(walk, into=found)

    error = caught.value
    assert ("user_rewards", "api201.crowdtwist.com") == (error.endpoint, error.host)
    assert Position(len(found) + 1) == position_of(error)


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param([(9, 3), (9, 3), (9, 3)], id="the same"),
        pytest.param([(9, 3), (None, 3), (9, None)], id="missing later"),
        pytest.param([(None, None), (9, 3), (9, 3)], id="missing at first"),
        pytest.param([(None, None)] * 3, id="never known"),
    ],
)
async def test_counts_that_do_not_change_are_no_drift(counts: list[tuple[int | None, int | None]]) -> None:
    """An unknown count has not changed, and decides nothing."""
    assert [1, 2, 3] == await numbers(drifting(counts).walk(on_drift="raise"))


async def test_drift_is_seen_while_looking_for_the_last_page() -> None:
    """Going backward, the last page is compared with page 1, before any row is given."""
    script = drifting([(9, 3), (9, 3), (8, 3)])

    with pytest.raises(PaginationDriftError) as caught:
        await script.walk(reverse=True, on_drift="raise").next_page()

    assert [1, 3] == script.asked
    assert Position(None) == position_of(caught.value, reverse=True)


async def test_each_walk_warns_for_itself() -> None:
    """A second walk over the same route tells its own drift."""
    for _ in range(2):
        with pytest.warns(PaginationDriftWarning):
            await numbers(drifting([(8, 3), (7, 3), (7, 3)]).walk())


async def test_a_route_shows_no_user() -> None:
    """Neither the repr of a route nor of its call holds the user id."""
    assert "11138266" not in repr(Script({}).walk().route)


async def test_backward_from_beyond_without_a_link_looks_for_the_end() -> None:
    """The counts lead back, and page 1, which was read for them, is not asked for again."""
    script = Script({**book(8), 9: page(9, total=8, pages=3)})

    assert [9, 3, 2, 1] == await numbers(script.walk(start=Position(9), reverse=True))
    assert [9, 1, 3, 2] == script.asked


async def test_backward_from_beyond_is_not_misled_by_a_low_count() -> None:
    """Links show that more pages follow the counted last one."""
    pages = {
        number: page(number, number * 10, pages=2, next_page=link(number + 1) if number < 4 else None)
        for number in range(1, 5)
    }
    script = Script({**pages, 9: page(9, pages=2)})

    assert [9, 4, 3, 2, 1] == await numbers(script.walk(start=Position(9), reverse=True))


async def test_backward_with_one_high_count_goes_on_from_the_other() -> None:
    """Empty counted pages without a link cost a request each, not one for each page below them."""
    script = Script({**book(5, total=5, pages=1000), 1000: page(1000, total=5, pages=1000)})

    assert [3, 2, 1] == await numbers(script.walk(reverse=True))
    assert [1, 1000, 2, 3] == script.asked


@pytest.mark.parametrize(
    ("expected", "reverse"), [("fe8f6e", False), ("34697d", True)], ids=["forward", "backward"]
)
async def test_cursors_stay_valid_from_release_to_release(expected: str, reverse: bool) -> None:
    """What tells a walk from another must stay what it was: users keep cursors for weeks."""
    assert f"1:4:2:{expected}" == Script({}).walk(reverse=reverse, start=Position(4, 2)).cursor


async def test_backward_from_beyond_asks_for_no_page_twice() -> None:
    """The empty page that the walk began with ends the search for the last one, whatever the counts say."""
    some = book(9, total=12, pages=4)
    script = Script(some)

    assert [4, 3, 2, 1] == await numbers(script.walk(reverse=True, start=Position(4)))
    assert [4, 1, 2, 3] == script.asked


async def test_backward_from_a_second_page_that_is_not_there() -> None:
    """A count of two pages is not believed when the second is empty."""
    first = page(1, 0, 1, 2, total=3, pages=2)
    script = Script({1: first})

    assert [1] == await numbers(script.walk(reverse=True))
    assert [1, 2] == script.asked


async def test_a_page_of_one_row_repeated_twice_is_a_loop_error() -> None:
    """One row is enough to tell that a page repeats."""
    script = Script({1: page(1, 0, next_page=link(2)), 2: page(2, 0, next_page=link(3))})

    with pytest.raises(PaginationLoopError, match="page 2 holds the same rows"):
        await numbers(script.walk())


async def test_a_warning_names_the_frame_that_asked() -> None:
    """Neither a frame of the package nor the one that called whoever asked."""
    script = Script({1: page(1, 0, 1, 2, total=6, pages=2), 2: page(2, 3, 4, 5, total=7, pages=2)})
    asking: dict[str, Any] = {"__name__": "program", "walk": script.walk()}
    source = "async def ask():\n    await walk.next_page()\n    await walk.next_page()\n"
    exec(compile(source, "program.py", "exec"), asking)

    with pytest.warns(PaginationDriftWarning) as caught:
        await asking["ask"]()
    assert [("program.py", 3)] == [(warning.filename, warning.lineno) for warning in caught]


@pytest.mark.parametrize(
    "library", ["anyio", "asyncio.runners", "contextlib", "outcome", "trio._core", "uvloop"]
)
async def test_a_warning_names_no_frame_of_what_runs_the_loop(library: str) -> None:
    """Their frames stand between a walk and the program, in a fan-out for one."""
    script = Script({1: page(1, 0, 1, 2, total=6, pages=2), 2: page(2, 3, 4, 5, total=7, pages=2)})
    names: dict[str, Any] = {"__name__": library, "walk": script.walk()}
    source = "async def step():\n    await walk.next_page()\n    await walk.next_page()\n"
    exec(compile(source, "library.py", "exec"), names)
    program: dict[str, Any] = {"__name__": "program", "step": names["step"]}
    exec(compile("async def ask():\n    await step()\n", "program.py", "exec"), program)

    with pytest.warns(PaginationDriftWarning) as caught:
        await program["ask"]()
    assert ["program.py"] == [warning.filename for warning in caught]


async def test_a_walk_is_refused_after_the_block_of_its_prefetch() -> None:
    """Until then it is open."""
    walk = Script(book(8)).walk()
    walk.check_open()
    walk.over = True
    with pytest.raises(ClientClosedError, match="^the prefetch is over: use its items inside"):
        walk.check_open()


@pytest.mark.parametrize("context", [None, {"walk": 1}], ids=["none", "a walk's"])
async def test_every_call_of_a_walk_has_its_context(context: object) -> None:
    """It is what telemetry takes for the call's parent."""
    parents: list[object] = []

    class Noting(Script):
        async def fetch(self, call: Call[Page[int]]) -> Page[int]:
            parents.append(call.parent)
            return await super().fetch(call)

    walk = Noting(book(8)).walk()
    walk.context = context
    await numbers(walk)
    assert [context] * 3 == parents
