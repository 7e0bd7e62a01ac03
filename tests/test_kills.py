"""
An export is killed, and resumed, a few times in each format; `nox -s kill` does it more often.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from kills import FORMATS, Series

KILLS = 3
MEMBERS = 120


@pytest.mark.parametrize("kind", FORMATS)
def test_every_row_is_there_once_whatever_is_killed(tmp_path: Path, kind: str) -> None:
    """
    Rows, ledger and files are those of an export that nothing stopped.
    """
    tally = Series(kind, tmp_path, members=MEMBERS).run(KILLS)

    assert [] == tally.problems
    assert (0, 0, 0) == (tally.lost, tally.doubled, tally.unreadable)
    assert KILLS == tally.kills
    assert tally.with_rows
