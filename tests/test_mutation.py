"""
The mutants: what is changed, one thing at a time, and that a change which tests notice is told from one they don't.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent / "mutation"))
from mutants import mutants_of
from mutate import GROUPS, ROOT, TESTS, Order

SOURCE = '''
"""Docstring."""
LIMIT: int | None = 3
"""Attribute docstring."""

def decide(value: int | str, names: list[str]) -> bool:
    """Docstring."""
    if not value or min(value, 2) < LIMIT:
        raise ValueError("a sentence")
    names[0] += "x"
    return [name for name in names if name] and True
'''


def changes(source: str) -> list[str]:
    """What is changed, in the order of the lines."""
    return [mutant.what for mutant in mutants_of(source)]


def test_one_thing_is_changed_at_a_time() -> None:
    """Conditions, numbers, texts, arithmetic, results, and statements left out; no annotation and no sentence."""
    assert {
        "3 -> 4",
        "not value or min(value, 2) < LIMIT -> not value and min(value, 2) < LIMIT",
        "not value -> value",
        "min(value, 2) < LIMIT -> min(value, 2) <= LIMIT",
        "min(value, 2) < LIMIT -> min(value, 2) >= LIMIT",
        "min(value, 2) -> max(value, 2)",
        "2 -> 3",
        "raise ValueError('a sentence') -> pass",
        "names[0] += 'x' -> names[0] -= 'x'",
        "names[0] += 'x' -> pass",
        "0 -> 1",
        "'x' -> 'XXx'",
        "return [name for name in names if name] and True -> return None",
        "[name for name in names if name] and True -> [name for name in names if name] or True",
        "for name in names if name -> for name in names if not name",
        "True -> False",
    } == {what.strip() for what in changes(SOURCE)}


def test_every_mutant_differs_and_compiles() -> None:
    """Each from the module, and from the others at its place."""
    found = {(mutant.line, mutant.what): ast.unparse(mutant.tree) for mutant in mutants_of(SOURCE)}

    assert len(changes(SOURCE)) == len(found) == len(set(found.values()))
    for text in found.values():
        compile(text, "mutant.py", "exec")


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_names_modules_and_tests_that_are_there(group: str) -> None:
    """A renamed module would otherwise be judged by nobody."""
    for module, tests in GROUPS[group].items():
        assert (ROOT / "crowdtwist_async" / f"{module.replace('.', '/')}.py").is_file()
        assert all((TESTS / f"test_{test}.py").is_file() for test in tests)


def test_what_noticed_before_comes_first_and_examples_last(tmp_path: Path) -> None:
    """A mutant is often noticed by what noticed the one before it; the other tests keep their order."""
    drawn = SimpleNamespace(is_hypothesis_test=True)
    tests = {"a": drawn, "b": None, "c": None, "d": drawn}
    items = [SimpleNamespace(nodeid=name, obj=function) for name, function in tests.items()]
    order = Order(tmp_path / "note")
    order.pytest_collection_modifyitems(items)
    assert ["b", "c", "a", "d"] == [item.nodeid for item in items]

    for name, failed in (("d", True), ("b", False)):
        order.pytest_runtest_logreport(SimpleNamespace(nodeid=name, failed=failed))
    order.pytest_collection_modifyitems(items)
    assert ["d", "b", "c", "a"] == [item.nodeid for item in items]
