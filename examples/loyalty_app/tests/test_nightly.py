"""
Integration tests of the nightly job: it reads the environment, and asks the emulator over a socket.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from loyalty_app import nightly

from crowdtwist_async.emulator import Emulator, Fault

pytestmark = [pytest.mark.crowdtwist_emulator(members=20), pytest.mark.usefixtures("crowdtwist_environment")]


def rows_of(output: Path) -> list[str]:
    """The members to whom the rows belong."""
    with output.open(newline="") as lines:
        return [row["requested_id"] for row in csv.DictReader(lines)]


async def test_every_purchase_is_exported(crowdtwist_emulator: Emulator, tmp_path: Path) -> None:
    """As many rows of each member as the emulator has."""
    members = list(crowdtwist_emulator.member_ids())
    report = await nightly.run(members, tmp_path / "purchases.csv")
    assert "complete" == report.status
    found = rows_of(tmp_path / "purchases.csv")
    expected = {member: crowdtwist_emulator.purchases_of(member) for member in members}
    assert expected == {member: found.count(member) for member in members}


async def test_broken_connections_cost_no_rows(crowdtwist_emulator: Emulator, tmp_path: Path) -> None:
    """Real ones: they are reset, and cut within a body."""
    crowdtwist_emulator.script(Fault.reset(), None, Fault.truncate())
    report = await nightly.run(crowdtwist_emulator.member_ids(), tmp_path / "purchases.csv")
    assert (20, 0, 2) == (report.members, report.failed, report.retries)


async def test_the_second_run_asks_nothing(crowdtwist_emulator: Emulator, tmp_path: Path) -> None:
    """The output is complete."""
    for expected in ("complete", "already_complete"):
        report = await nightly.run(crowdtwist_emulator.member_ids(), tmp_path / "purchases.csv")
        assert expected == report.status
    assert report.requests == 0
