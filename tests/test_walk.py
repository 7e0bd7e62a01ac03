"""
Which page comes next: a table of cases for each numbered rule, and properties of any single step.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowdtwist_async._walk import Seen, next_backward, next_forward
from crowdtwist_async.errors import PaginationLoopError
from crowdtwist_async.models import Page, Paging

COUNTS = st.none() | st.integers(0, 400)
LINKS = st.none() | st.integers(-3, 60)
SEEN = st.builds(
    Seen,
    number=st.integers(-3, 50),
    rows=st.integers(0, 10),
    total=COUNTS,
    pages=COUNTS,
    next_link=LINKS,
    prev_link=LINKS,
    page_size=st.integers(1, 10),
)


def seen(number: int, rows: int = 10, **shown: Any) -> Seen:
    """A page of up to 10 rows that shows neither counts nor links unless told."""
    unknown = {"total": None, "pages": None, "next_link": None, "prev_link": None, "page_size": 10}
    return Seen(number=number, rows=rows, **{**unknown, **shown})


@pytest.mark.parametrize(
    ("read", "link", "following"),
    [(15, 4, 4), (25, 4, None), (15, None, None), (None, 4, None)],
    ids=["smaller-pages", "all-read", "no-link", "begun-later"],
)
def test_a_link_leads_on_where_fewer_rows_were_read_than_there_are(
    read: int | None, link: int | None, following: int | None
) -> None:
    """The pages are smaller than was asked for, and `pages` is low: neither loses rows alone."""
    assert following == next_forward(seen(3, 5, total=25, pages=3, next_link=link, read=read))


def test_of_reads_numbers_out_of_links() -> None:
    """A page is reduced to its numbers; of a link only the page number is left."""
    paging = Paging(
        total=133,
        pages=14,
        next_page="https://api[client_id].ct.com/v2.1/rewards?page=3&api_key=",
        prev_page="Link to previous page",
    )
    page = Page(items=("a", "b"), paging=paging, number=2, raw=None)

    expected = Seen(number=2, rows=2, total=133, pages=14, next_link=3, prev_link=None, page_size=5)
    assert expected == Seen.of(page, 5)


@pytest.mark.parametrize(
    ("position", "page"),
    [
        pytest.param(10, seen(1), id="full first page"),
        pytest.param(23, seen(3, 3), id="short third page"),
        pytest.param(20, seen(3, 0), id="empty page"),
        pytest.param(7, seen(3, 1, page_size=3), id="smaller pages"),
        pytest.param(-10, seen(0, 0), id="page 0"),
    ],
)
def test_position_counts_rows_up_to_and_including_this_page(position: int, page: Seen) -> None:
    """Pages before this one count as full."""
    assert position == page.position


@pytest.mark.parametrize(
    ("last", "page"),
    [
        pytest.param(14, seen(1, total=133, pages=14), id="counts agree"),
        pytest.param(21, seen(1, total=203, pages=10), id="pages low"),
        pytest.param(14, seen(1, total=5, pages=14), id="total low"),
        pytest.param(2, seen(1, total=20), id="pages unknown, total on a boundary"),
        pytest.param(3, seen(1, total=21), id="pages unknown, one row beyond a boundary"),
        pytest.param(9, seen(1, pages=9), id="total unknown"),
        pytest.param(1, seen(1), id="both unknown"),
        pytest.param(1, seen(1, 0, total=0, pages=0), id="no rows"),
        pytest.param(7, seen(1, 3, total=19, page_size=3), id="smaller pages"),
    ],
)
def test_each_count_knows_a_last_page(last: int, page: Seen) -> None:
    """A low count does not hide the pages that the other one knows of."""
    assert last == max(page.counted_pages, default=1)


@pytest.mark.parametrize(
    ("following", "page"),
    [
        pytest.param(None, seen(1, total=10, pages=1), id="only page"),
        pytest.param(None, seen(1, total=10, pages=1, next_link=2), id="only page, link onward"),
        pytest.param(None, seen(1, total=10, pages=1, next_link=1), id="only page, link to itself"),
        pytest.param(None, seen(1, total=10, pages=1, next_link=9), id="only page, link skips"),
        pytest.param(None, seen(14, 3, total=133, pages=14, next_link=15), id="last of 14"),
        pytest.param(None, seen(14, 3, total=133, pages=9), id="last, pages low"),
        pytest.param(None, seen(1, 0, total=0, pages=0), id="no rows"),
        pytest.param(None, seen(1, 0, total=0, pages=0, next_link=2), id="no rows, link onward"),
        pytest.param(2, seen(1, total=10, pages=2, next_link=2), id="pages not reached"),
        pytest.param(2, seen(1, total=11, pages=1, next_link=2), id="total not reached"),
        pytest.param(2, seen(1, total=9, pages=1, next_link=2), id="total passed counts as unknown"),
        pytest.param(None, seen(1, total=9, pages=1), id="total passed, no link"),
        pytest.param(2, seen(1, total=9, pages=2), id="total passed, pages to come"),
        pytest.param(2, seen(1, total=None, pages=1, next_link=2), id="total unknown"),
        pytest.param(2, seen(1, total=10, pages=None, next_link=2), id="pages unknown"),
    ],
)
def test_forward_rule_1_everything_seen(following: int | None, page: Seen) -> None:
    """Both counts reached exactly end the walk, whatever the link says; nothing less does."""
    assert following == next_forward(page)


@pytest.mark.parametrize(
    ("following", "page"),
    [
        pytest.param(1, seen(0, 0, total=25, pages=3, next_link=1), id="page 0"),
        pytest.param(1, seen(-7, 0, total=25, pages=3, next_link=9), id="below 0, link elsewhere"),
        pytest.param(1, seen(0, 0), id="page 0, nothing known"),
        pytest.param(1, seen(0, 0, total=0, pages=0), id="page 0, no rows"),
        pytest.param(None, seen(9, 0, total=25, pages=3, prev_link=3), id="beyond the end"),
        pytest.param(None, seen(9, 0, total=25, pages=3, next_link=3), id="beyond, link back as next"),
        pytest.param(None, seen(9, 0), id="nothing known"),
        pytest.param(None, seen(2, 0, next_link=4), id="link skips"),
        pytest.param(None, seen(2, 0, next_link=2), id="link to itself"),
        pytest.param(None, seen(2, 0, next_link=1), id="link back"),
        pytest.param(3, seen(2, 0, next_link=3), id="link onward"),
        pytest.param(3, seen(2, 0, total=5, pages=1, next_link=3), id="link onward, counts low"),
        pytest.param(3, seen(2, 0, total=25, pages=3), id="both counts say more"),
        pytest.param(3, seen(2, 0, total=25, pages=3, next_link=1), id="both say more, link back"),
        pytest.param(None, seen(2, 0, total=25, pages=2), id="only the total says more"),
        pytest.param(None, seen(2, 0, total=10, pages=3), id="only the pages say more"),
        pytest.param(None, seen(2, 0, total=25), id="total says more, pages unknown"),
        pytest.param(None, seen(2, 0, pages=3), id="pages say more, total unknown"),
    ],
)
def test_forward_rule_2_an_empty_page(following: int | None, page: Seen) -> None:
    """An empty page ends the walk, unless its link or both counts lead on; below 1 comes page 1."""
    assert following == next_forward(page)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(seen(1, next_link=2), id="no counts"),
        pytest.param(seen(1, total=5, pages=1, next_link=2), id="both counts low"),
        pytest.param(seen(1, total=25, pages=3, next_link=2), id="counts agree"),
        pytest.param(seen(1, 4, total=25, pages=3, next_link=2), id="short page"),
        pytest.param(seen(1, next_link=2, prev_link=21), id="previous link is not consulted"),
    ],
)
def test_forward_rule_3_a_link_to_the_next_page_is_followed(page: Seen) -> None:
    """A link to n+1 needs no count to be followed."""
    assert 2 == next_forward(page)


@pytest.mark.parametrize(
    ("number", "link"),
    [
        pytest.param(3, 3, id="itself"),
        pytest.param(3, 2, id="back"),
        pytest.param(3, 1, id="first"),
        pytest.param(3, 0, id="zero"),
        pytest.param(3, -4, id="negative"),
        pytest.param(3, 5, id="skips one"),
        pytest.param(1, 21, id="skips many"),
    ],
)
@pytest.mark.parametrize("counts", [{}, {"total": 99, "pages": 10}, {"total": 1, "pages": 1}], ids=str)
def test_forward_rule_3_any_other_link_is_a_loop_error(
    number: int, link: int, counts: dict[str, int]
) -> None:
    """A link that repeats or skips stops the walk, and the error names both pages."""
    with pytest.raises(PaginationLoopError, match=rf"page {number} names page {link} as its next page"):
        next_forward(seen(number, next_link=link, **counts))


@pytest.mark.parametrize(
    ("following", "page"),
    [
        pytest.param(2, seen(1, total=25, pages=3), id="both say more"),
        pytest.param(11, seen(10, total=203, pages=10), id="only the total says more"),
        pytest.param(2, seen(1, total=10, pages=3), id="only the pages say more"),
        pytest.param(2, seen(1, total=25), id="pages unknown"),
        pytest.param(2, seen(1, pages=3), id="total unknown"),
        pytest.param(2, seen(1, 3, total=25, pages=1), id="short page, total says more"),
        pytest.param(None, seen(1), id="nothing known"),
        pytest.param(None, seen(1, pages=1), id="total unknown, pages reached"),
        pytest.param(None, seen(1, total=10), id="pages unknown, total reached"),
        pytest.param(None, seen(3, 10, total=25), id="pages unknown, total passed"),
    ],
)
def test_forward_rule_4_without_a_link_the_counts_decide(following: int | None, page: Seen) -> None:
    """Either count is enough to go on; an unknown one decides nothing."""
    assert following == next_forward(page)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(seen(1, prev_link=21, total=133, pages=14), id="link to 21, as in the reference"),
        pytest.param(seen(1, prev_link=1), id="link to itself"),
        pytest.param(seen(1, prev_link=0), id="link to 0"),
        pytest.param(seen(1, 0, total=0, pages=0), id="no rows"),
        pytest.param(seen(1, 0, next_link=2, total=25, pages=3), id="empty, onward link is forward"),
        pytest.param(seen(0, 0, next_link=1, total=25, pages=3), id="page 0"),
        pytest.param(seen(-5, 0, next_link=1), id="below 0"),
    ],
)
def test_backward_ends_at_page_1(page: Seen) -> None:
    """Page 1 is the end, whatever its link says, and so is anything below."""
    assert next_backward(page) is None


@pytest.mark.parametrize(
    ("following", "page"),
    [
        pytest.param(3, seen(9, 0, prev_link=3, total=25, pages=3), id="link in prev_page"),
        pytest.param(3, seen(9, 0, next_link=3, total=25, pages=3), id="link in next_page"),
        pytest.param(3, seen(9, 0, prev_link=3, next_link=1), id="both links, the higher one"),
        pytest.param(3, seen(9, 0, prev_link=9, next_link=3), id="the other link is this page"),
        pytest.param(3, seen(9, 0, prev_link=3, next_link=10), id="the other link is beyond"),
        pytest.param(1, seen(9, 0, prev_link=1), id="link to the only page"),
        pytest.param(8, seen(9, 0, total=25, pages=3), id="no link, both counts"),
        pytest.param(8, seen(9, 0, prev_link=0, total=25, pages=3), id="link to 0 leads nowhere"),
        pytest.param(8, seen(9, 0, total=25, pages=1), id="no link, pages low"),
        pytest.param(8, seen(9, 0, total=1, pages=3), id="no link, total low"),
        pytest.param(8, seen(9, 0, total=25), id="no link, pages unknown"),
        pytest.param(8, seen(9, 0, pages=3), id="no link, total unknown"),
        pytest.param(8, seen(9, 0, total=0, pages=0), id="no link, no rows"),
        pytest.param(8, seen(9, 0, total=900, pages=90), id="no link, counts beyond this page"),
        pytest.param(8, seen(9, 0), id="nothing known"),
        pytest.param(4, seen(5, 0, prev_link=4, total=25, pages=1), id="a hole, low counts"),
    ],
)
def test_backward_from_an_empty_page_goes_to_the_last_available(following: int, page: Seen) -> None:
    """The link in either field, else the higher count, else the next lower number."""
    assert following == next_backward(page)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(seen(3, prev_link=2, total=25, pages=3), id="link agrees"),
        pytest.param(seen(3, prev_link=2), id="no counts"),
        pytest.param(seen(3), id="no link, no counts"),
        pytest.param(seen(3, total=1, pages=1), id="no link, counts low"),
        pytest.param(seen(3, 4, total=25, pages=3), id="short page"),
        pytest.param(seen(3, prev_link=2, next_link=1), id="next link is not consulted"),
    ],
)
def test_backward_steps_down_by_one(page: Seen) -> None:
    """Below a page with rows lies the next lower one, with or without a link."""
    assert 2 == next_backward(page)


@pytest.mark.parametrize(
    ("number", "link"),
    [
        pytest.param(3, 3, id="itself"),
        pytest.param(3, 4, id="onward"),
        pytest.param(3, 1, id="skips one"),
        pytest.param(3, 0, id="zero"),
        pytest.param(2, 21, id="far away"),
    ],
)
def test_backward_any_other_link_is_a_loop_error(number: int, link: int) -> None:
    """A link that repeats or skips stops the walk, and the error names both pages."""
    with pytest.raises(PaginationLoopError, match=rf"page {number} names page {link} as its previous page"):
        next_backward(seen(number, prev_link=link, total=25, pages=3))


@given(SEEN)
@settings(database=None, max_examples=300)
def test_a_forward_step_goes_up_by_one_or_to_page_1(page: Seen) -> None:
    """Whatever a page shows, a forward step neither repeats nor skips a page that exists."""
    try:
        following = next_forward(page)
    except PaginationLoopError:
        assert page.next_link not in (None, page.number + 1)
    else:
        assert following in (None, page.number + 1, max(1, page.number + 1))


@given(SEEN)
@settings(database=None, max_examples=300)
def test_a_backward_step_goes_down_and_not_below_page_1(page: Seen) -> None:
    """Whatever a page shows, a backward step goes down; from a page with rows by exactly one."""
    try:
        following = next_backward(page)
    except PaginationLoopError:
        assert page.prev_link not in (None, page.number - 1)
    else:
        if page.number <= 1:
            assert following is None
        elif page.rows:
            assert page.number - 1 == following
        else:
            assert following is not None
            assert 1 <= following < page.number
