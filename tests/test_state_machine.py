"""
Walks and exports over an emulator that goes wrong, as state machines: their rows are those of the model.
"""

from __future__ import annotations

import pytest
from exporting import ExportMachine
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from walking import WalkMachine


def modest(runs: int) -> settings:
    """Some seconds of it."""
    return settings(
        max_examples=runs, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
    )


@pytest.mark.parametrize(("machine", "runs"), [(WalkMachine, 30), (ExportMachine, 8)], ids=["walk", "export"])
def test_rows_are_those_of_the_model(machine: type[RuleBasedStateMachine], runs: int) -> None:
    """No row is lost or doubled, and nothing is left behind, whatever is done in which order."""
    run_state_machine_as_test(machine, settings=modest(runs))
