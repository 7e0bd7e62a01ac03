"""
Integration tests of the web app: its client asks the emulator in process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx
import pytest

from crowdtwist_async.emulator import Emulator, Fault

Visit = Callable[[str], Awaitable[httpx.Response]]


async def test_a_member_is_shown(visit: Visit, crowdtwist_emulator: Emulator) -> None:
    """From one request for the points and one for a page of purchases."""
    answer = await visit("/members/10000001")
    assert 200 == answer.status_code
    assert answer.json()["latest_purchase"].startswith("2026-")
    asked = [(request.endpoint, request.user, request.page) for request in crowdtwist_emulator.requests]
    assert [
        ("points_awaiting_fulfillment", "10000001", None),
        ("user_purchases", "10000001", 1),
    ] == asked


@pytest.mark.crowdtwist_emulator(members=5)
async def test_a_stranger_is_not(visit: Visit) -> None:
    """The sixth of five members."""
    assert 404 == (await visit("/members/10000005")).status_code


@pytest.mark.parametrize("user_id", ["", "%0a", 3000 * "x"], ids=["empty", "newline", "long"])
async def test_what_can_be_no_member_is_none(visit: Visit, user_id: str) -> None:
    """The visitor's mistake, and no outage."""
    assert 404 == (await visit(f"/members/{user_id}")).status_code


async def test_a_member_without_purchases(visit: Visit) -> None:
    """The third member of every emulator has none."""
    answer = await visit("/members/10000002")
    assert (200, None) == (answer.status_code, answer.json()["latest_purchase"])


@pytest.mark.usefixtures("crowdtwist_faults_met")
async def test_a_history_that_is_down_hides_no_points(visit: Visit, crowdtwist_emulator: Emulator) -> None:
    """All four attempts at the purchases fail."""
    crowdtwist_emulator.script(*[Fault.status(500, endpoint="user_purchases")] * 4)
    answer = await visit("/members/10000001")
    assert (200, None) == (answer.status_code, answer.json()["latest_purchase"])
