"""
The locks of `.ci/requirements` fit `pyproject.toml`: `nox -s lock` writes them anew where they do not.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from blocks import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
LOCKS = {path.stem: path.read_text() for path in sorted((ROOT / ".ci" / "requirements").glob("*.txt"))}
on_each_lock = pytest.mark.parametrize("name", LOCKS)


def of_group(name: str) -> Iterator[str]:
    """What a group wants, with the groups that it includes."""
    for wanted in PYPROJECT["dependency-groups"][name]:
        if isinstance(wanted, str):
            yield wanted
        else:
            yield from of_group(wanted["include-group"])


def of_project(*extras: str) -> Iterator[str]:
    """What the project wants with these extras, and with those that they include."""
    yield from PROJECT["dependencies"]
    for extra in extras:
        for wanted in map(Requirement, PROJECT["optional-dependencies"][extra]):
            if wanted.name == PROJECT["name"]:
                yield from of_project(*wanted.extras)
            else:
                yield str(wanted)


def wanted_by(lock: str) -> list[str]:
    """All that a lock is made from."""
    return {
        "build": [*PYPROJECT["build-system"]["requires"], *of_group("build")],
        "core": [*of_project()],
        "tests": [*of_project("all"), *of_group("tests")],
        "typing": [*of_project("all"), *of_group("tests"), *of_group("typing"), *of_group("nox")],
    }.get(lock) or [*of_group(lock)]


def test_there_are_locks() -> None:
    """One for each session that installs from one, and those of the audit."""
    assert {"api", "audit", "build", "core", "lint", "nox", "supply", "tests", "typing"} == set(LOCKS)


@on_each_lock
def test_a_lock_has_what_is_wanted(name: str) -> None:
    """Each requirement is locked at a version that it allows."""
    pins = dict(re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^ ]+)", LOCKS[name], re.MULTILINE))
    assert pins
    unfit = [
        wanted
        for wanted in map(Requirement, wanted_by(name))
        if not wanted.specifier.contains(pins.get(canonicalize_name(wanted.name), "0"), prereleases=True)
    ]
    assert [] == unfit, "`nox -s lock` is due"


@on_each_lock
def test_a_lock_is_made_of_versions_and_hashes_alone(name: str) -> None:
    """No index, address, option or path: what is locked is the same wherever it is fetched."""
    line = r"#.*|[\w.-]+(\[[\w,-]+\])?==\S+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?"
    assert [] == [text for text in LOCKS[name].splitlines() if not re.fullmatch(line, text)]
    assert "://" not in LOCKS[name]
