"""
A short run of the fuzzing, and every case that it found once; `nox -s fuzz` runs a million.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
from cases import Case, kept
from checks import check_reply
from fuzzing import Tally, fuzz_arguments, fuzz_bodies

BODIES = 10_000
ARGUMENTS = 2_000


def check(count: int, tally: Tally) -> None:
    """Fail with what went wrong."""
    assert not tally.wrong, "\n".join(tally.wrong)
    assert count == tally.outcomes.total()


def test_any_body_is_a_result_or_a_typed_error() -> None:
    """None raises, takes a second, or brings the key into an error."""
    tally = fuzz_bodies(BODIES, seed=1)
    check(BODIES, tally)
    assert {"Page", "PointsAwaitingFulfillment", "DecodeError", "RateLimitError"} <= set(tally.outcomes)


def test_any_argument_is_sent_as_it_is_or_refused() -> None:
    """The path decodes to the same id, the origin stays the same, and the key is in one place."""
    tally = fuzz_arguments(ARGUMENTS, seed=1)
    check(ARGUMENTS, tally)
    assert {"accepted", "ConfigurationError", "InvalidArgumentError"} == set(tally.outcomes)


def test_what_goes_wrong_is_told() -> None:
    """A case that fails is counted and named, and the others go on."""
    tally = fuzz_bodies(1, seed=1)
    assert [] == tally.wrong
    assert "1 bodies" in tally.line()


@pytest.mark.parametrize("case", kept(), ids=lambda case: case.name)
def test_what_was_found_once_stays_right(case: Case) -> None:
    """A reply that fuzzing found to go wrong."""
    assert check_reply(case.call, case.reply)
