"""
What the latest release promised still holds, and the check of that can fail.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from interface import PROMISED, ROOT, breaks, interface

import crowdtwist_async

SOURCE = """
from enum import Enum
from attrs import frozen

__all__ = ["Colour", "Page", "Walk", "ask", "later"]

class Colour(Enum):
    RED = "red"

@frozen
class Page:
    number: int
    total: int | None = None

class _Base:
    def close(self) -> None: ...

class Walk(_Base):
    _secret: int = 1

    @property
    def cursor(self) -> str: ...

def ask(user: str, page: int = 1, *, reverse: bool = False) -> Page: ...

async def later(user: str) -> Page: ...

def hidden(what: str) -> None: ...
"""
BREAKING = {
    "a name removed": ("def ask(", "def enquire(", "shop.ask: function of Page"),
    "a name no longer exported": ('"ask", ', "", "shop.ask(user): str, place 1, required"),
    "a parameter removed": (", page: int = 1", "", "shop.ask(page): int, place 2, = 1"),
    "a parameter renamed": ("reverse:", "backward:", "shop.ask(reverse): bool, by name, = False"),
    "a default changed": ("page: int = 1", "page: int = 0", "shop.ask(page): int, place 2, = 1"),
    "a parameter by name alone": (
        "page: int = 1, *,",
        "*, page: int = 1,",
        "shop.ask(page): int, place 2, = 1",
    ),
    "a parameter that must be given": ("user: str, page", "user: str, key: str, page", None),
    "a field renamed": ("number: int", "index: int", "shop.Page.number: attribute int"),
    "a field of another type": (
        "total: int | None",
        "total: int",
        "shop.Page.total: attribute int | None = None",
    ),
    "a field without its default": (
        "total: int | None = None",
        "total: int | None",
        "shop.Page.total: attribute int | None = None",
    ),
    "a member of an enum": ('RED = "red"', 'RED = "rot"', "shop.Colour.RED: attribute = 'red'"),
    "a property that is a method": ("    @property\n", "", "shop.Walk.cursor: property str"),
    "an inherited method": ("def close", "def shut", "shop.Walk.close: function of None"),
    "a call that is awaited no longer": (
        "async def later",
        "def later",
        "shop.later: async function of Page",
    ),
}
COMPATIBLE = {
    "a new name": ("def hidden", "def more"),
    "a new parameter with a default": ("reverse: bool = False", "reverse: bool = False, limit: int = 9"),
    "a new field with a default": ("None = None", "None = None\n    pages: int = 0"),
    "what is private": ("_secret: int = 1", "_secret: str"),
    "what is not exported": ("hidden(what: str)", "hidden()"),
}


def lines_of(folder: Path, source: str) -> list[str]:
    """The interface of a package with this source."""
    package = folder / "shop"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text(source)
    return interface(folder, ["shop"])


@pytest.fixture(scope="module", name="ours")
def interface_of_the_package() -> list[str]:
    """The lines of this release."""
    return interface(ROOT)


def test_nothing_that_was_promised_is_broken(ours: list[str]) -> None:
    """Every line that is written down is still so; `nox -s api -- --accept` is for changes that are meant."""
    assert [] == breaks(PROMISED.read_text().splitlines(), ours)


def test_every_public_name_is_written_down(ours: list[str]) -> None:
    """The lines that are compared are those of the whole interface."""
    told = {line.partition(":")[0] for line in ours}

    assert {f"crowdtwist_async.{name}" for name in crowdtwist_async.__all__} <= told


@pytest.mark.parametrize(("old", "new", "line"), BREAKING.values(), ids=BREAKING)
def test_a_breaking_change_is_told(tmp_path: Path, old: str, new: str, line: str | None) -> None:
    """With the line that no longer holds; a parameter that must be given has none, and is told as new."""
    promised = lines_of(tmp_path, SOURCE)
    broken = breaks(promised, lines_of(tmp_path, SOURCE.replace(old, new)))

    assert (f"- {line}" if line else "+ shop.ask(key): str, place 2, required") in broken


@pytest.mark.parametrize(("old", "new"), COMPATIBLE.values(), ids=COMPATIBLE)
def test_a_compatible_change_passes(tmp_path: Path, old: str, new: str) -> None:
    """What nobody can have relied on may go, and whatever is optional may come."""
    promised = lines_of(tmp_path, SOURCE)
    changed = SOURCE.replace(old, new)

    assert changed != SOURCE
    assert [] == breaks(promised, lines_of(tmp_path, changed))
