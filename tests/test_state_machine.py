"""
Walks and exports over an emulator that goes wrong, as state machines: their rows are those of the model.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from walking import WalkMachine

MODEST = settings(
    max_examples=30, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("machine", [WalkMachine], ids=["walk"])
def test_rows_are_those_of_the_model(machine: type[RuleBasedStateMachine]) -> None:
    """No row is lost or doubled, and nothing is left behind, whatever is done in which order."""
    run_state_machine_as_test(machine, settings=MODEST)
