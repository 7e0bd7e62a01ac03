"""
Chaos tests: what the web app does while the API misbehaves. Nothing here waits for real.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx
import pytest

from crowdtwist_async.emulator import Emulator, Fault
from crowdtwist_async.testing import InstantClock

Visit = Callable[[str], Awaitable[httpx.Response]]


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param([Fault.not_json(), Fault.reset(), Fault.truncate()], id="broken-replies"),
        pytest.param([None, Fault.status(503), Fault.status(429, retry_after=1)], id="busy"),
        pytest.param([Fault.delay(5)], id="one-slow-reply"),
        pytest.param([Fault.stall(5)], id="one-slow-body"),
    ],
)
@pytest.mark.usefixtures("crowdtwist_faults_met")
async def test_what_passes_is_survived(
    faults: list[Fault | None], visit: Visit, crowdtwist_emulator: Emulator
) -> None:
    """The visitor does not notice."""
    crowdtwist_emulator.script(*faults)
    answer = await visit("/members/10000001")
    assert (200, True) == (answer.status_code, answer.json()["latest_purchase"] is not None)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault.status(500), id="errors"),
        pytest.param(Fault.delay(60), id="silence"),
        pytest.param(Fault.status(429, retry_after=60), id="throttled"),
        pytest.param(Fault.status(403), id="refused-key"),
    ],
)
async def test_an_outage_is_told_in_time(
    fault: Fault,
    visit: Visit,
    crowdtwist_emulator: Emulator,
    crowdtwist_clock: InstantClock,
) -> None:
    """The visitor waits for two seconds at most."""
    crowdtwist_emulator.script(*[fault] * 10)
    assert 503 == (await visit("/members/10000001")).status_code
    assert crowdtwist_clock.skipped <= 2


@pytest.mark.crowdtwist_emulator(fault_rate=0.2, seed=7)
async def test_most_visitors_notice_nothing_of_a_bad_day(visit: Visit) -> None:
    """Every fifth request goes wrong; the same seed makes the same day each time."""
    answers = [await visit(f"/members/{10_000_000 + number}") for number in range(50)]
    assert 45 <= [answer.status_code for answer in answers].count(200)
