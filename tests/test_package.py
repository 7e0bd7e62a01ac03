"""
The package as a whole: its public names, its version, what an import costs, and what no module does.
"""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import re
import subprocess
import sys
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import pytest

import crowdtwist_async
from crowdtwist_async.__about__ import __version__

ROOT = Path(crowdtwist_async.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
NOT_THE_CORE = {"cli", "emulator", "export"}
on_every_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())


def name_of(path: Path) -> str:
    """The name that a module is imported by."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def new_interpreter(program: str) -> list[str]:
    """What a program prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split()


@cache
def loaded_by(statement: str) -> frozenset[str]:
    """The modules of a new interpreter after one statement."""
    return frozenset(new_interpreter(f"{statement}\nimport sys\nprint(*sys.modules, sep='\\n')"))


def imported_by(tree: ast.AST) -> set[str]:
    """The top-level packages that a module imports, within functions too."""
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules = {
        node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level
    }
    return {name.partition(".")[0] for name in names | modules}


def test_public_names_are_sorted_and_unique() -> None:
    """So that two changes to the list meet in a conflict, and not in a duplicate."""
    assert sorted(set(crowdtwist_async.__all__)) == crowdtwist_async.__all__


@pytest.mark.parametrize("name", crowdtwist_async.__all__)
def test_every_public_name_is_a_class_or_a_function_with_a_docstring(name: str) -> None:
    """What is promised is there, and tells what it is."""
    public = getattr(crowdtwist_async, name)

    assert inspect.isclass(public) or inspect.isfunction(public)
    assert name == public.__name__
    assert inspect.getdoc(public)


def test_every_name_of_the_package_is_public() -> None:
    """What `__init__` imports is meant for users: all of it, and nothing but it."""
    visible = {
        name
        for name, value in vars(crowdtwist_async).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }

    assert set(crowdtwist_async.__all__) == visible


def test_a_star_import_brings_the_public_names() -> None:
    """And none besides."""
    scope: dict[str, object] = {}
    exec("from crowdtwist_async import *", scope)

    assert set(crowdtwist_async.__all__) == scope.keys() - {"__builtins__"}


def test_every_error_is_public() -> None:
    """Whoever can get one can name it in an `except`."""
    found = {crowdtwist_async.CrowdTwistError}
    while more := {child for error in found for child in error.__subclasses__()} - found:
        found |= more

    own = {error.__name__ for error in found if error.__module__.startswith("crowdtwist_async.errors")}
    assert own <= set(crowdtwist_async.__all__)


def test_it_is_typed() -> None:
    """Type checkers look for this file in what is installed."""
    assert files("crowdtwist_async").joinpath("py.typed").is_file()


def test_the_changelog_begins_with_this_version() -> None:
    """After what is not released yet."""
    text = (ROOT.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+)\](?: - (.+))?$", text, re.MULTILINE)
    released = [heading for heading in headings if heading[0] != "Unreleased"]

    assert headings[-len(released) :] == released
    version, day = released[0]
    assert __version__ == version
    assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", day)


def test_the_installed_version_is_this_one() -> None:
    """Where it is installed: a checkout on the path is not."""
    found = {
        distribution.version
        for distribution in importlib.metadata.distributions()
        if distribution.name == "crowdtwist-async"
    }

    assert found <= {__version__}
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


def test_importing_it_loads_the_core_alone() -> None:
    """The command, the emulator, the export and their extras cost nobody anything who does not use them."""
    added = loaded_by("import crowdtwist_async") - loaded_by("import httpx")

    parts = {name.split(".")[1] for name in added if name.startswith("crowdtwist_async.")}
    assert "client" in parts
    assert set() == parts & (NOT_THE_CORE | {"__main__", "budgets"})
    extras = {"aiohttp", "click", "cyclopts", "docutils", "redis", "rich", "trio", "uvicorn"}
    assert set() == {name.partition(".")[0] for name in added} & extras


def test_the_emulator_needs_no_extra_in_process() -> None:
    """Tests of other programs use it without a server."""
    added = loaded_by("import crowdtwist_async.emulator") - loaded_by("import httpx")

    assert set() == {name.partition(".")[0] for name in added} & {"cyclopts", "rich", "uvicorn"}


@on_every_module
def test_every_module_says_what_it_is(path: Path) -> None:
    """In a docstring, whose quotes stand on lines of their own."""
    source = path.read_text(encoding="utf-8")

    assert source.startswith('"""\n')
    assert ast.get_docstring(ast.parse(source))


@on_every_module
def test_no_module_is_bound_to_asyncio(path: Path) -> None:
    """All but the emulator's server, aiohttp and redis runs on trio too; and the core needs no other extra."""
    imported = imported_by(ast.parse(path.read_text(encoding="utf-8")))
    relative = path.relative_to(ROOT)

    assert ({"asyncio"} if relative.as_posix() == "emulator/server.py" else set()) == imported & {
        "asyncio",
        "trio",
    }
    if relative.parts[0] not in NOT_THE_CORE:
        needed = {"transports/aiohttp.py": {"aiohttp"}, "budgets/_connection.py": {"redis"}}
        assert needed.get(relative.as_posix(), set()) == imported & {
            "aiohttp",
            "cyclopts",
            "redis",
            "rich",
            "uvicorn",
        }


IMPORT_EACH_FIRST = """
import importlib, sys

def enter(package):
    importlib.import_module(package)
    before = dict(sys.modules)
    for name in INSIDE[package]:
        enter(name) if name in INSIDE else importlib.import_module(name)
        print(name)
        forget({new for new in sys.modules.keys() - before.keys() if new.startswith("crowdtwist_async.")})

def forget(names):
    for name in names:
        del sys.modules[name]
    for name in names:
        package, _, last = name.rpartition(".")
        if package in sys.modules:
            delattr(sys.modules[package], last)

enter("crowdtwist_async")
"""


def test_every_module_can_be_imported_first() -> None:
    """
    A cycle shows only to the module that enters it.

    Its packages come before it, whatever else is imported, so all modules in one begin with what that has loaded.
    """
    names = {name_of(path) for path in MODULES} - {"crowdtwist_async"}
    packages = [name_of(path) for path in MODULES if path.name == "__init__.py"]
    inside = {
        package: sorted(name for name in names if name.rpartition(".")[0] == package) for package in packages
    }
    done = new_interpreter(f"INSIDE = {inside}\n{IMPORT_EACH_FIRST}")

    assert sorted(names) == sorted(done)
