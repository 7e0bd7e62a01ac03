"""
Mutation testing: change one thing in a module, and see whether the tests of that module notice.

    python tests/mutation/mutate.py                       every group, half an hour
    python tests/mutation/mutate.py walk retry            some groups
    python tests/mutation/mutate.py walk --only 17,203    single mutants, with what the tests say

Each mutant is tried in a fork of this process, which has loaded everything but the package. A mutant that
no test notices is a survivor: `survivors.md` beside this file explains each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
from mutants import Mutant, mutants_of

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
TARGET = 0.9
"""The share of a module's mutants that tests must notice."""
_PRELOADED = [
    "aiohttp",
    "anyio",
    "anyio._backends._asyncio",
    "anyio._backends._trio",
    "attrs",
    "blockbuster",
    "cattrs",
    "httpx",
    "hypothesis",
    "hypothesis.stateful",
    "msgspec",
    "pyarrow.parquet",
    "pytest",
    "pytest_asyncio",
    "respx",
    "sqlite3",
    "trio",
    "trustme",
]
_LOADED = "ignore::pytest.PytestAssertRewriteWarning"
_OPTIONS = [
    "-x",
    "-q",
    "--no-header",
    "--tb=line",
    "-p",
    "no:randomly",
    "-p",
    "no:cacheprovider",
    "-W",
    _LOADED,
]


GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "walk": {"_walk": ("walk", "page_walk", "pager"), "_page_walk": ("page_walk", "pager", "fanout")},
    "retry": {"_retry": ("retry", "send"), "_quota": ("quota", "send")},
    "ledger": {
        "export.ledger": ("export_ledger", "export_storage", "export_target", "export_locks", "export_shard"),
        "export.database": ("export_ledger", "export_sqlite", "export_merge", "export_target"),
    },
    "redaction": {"_secrets": ("secrets", "replies", "client", "signing")},
    "protocol": {
        "_protocol": ("protocol", "replies", "page_walk", "signing"),
        "_replies": ("replies", "send"),
        "_arguments": ("arguments", "protocol", "client"),
    },
    "budget": {
        "_budget": ("budget", "permits"),
        "_permits": ("permits", "overload", "fanout_line", "send"),
        "_reply_time": ("overload",),
    },
}
"""Modules, each with the tests that should notice a change in it, the fastest first."""


class Finder(MetaPathFinder, Loader):
    """Gives one module of the package as changed code."""

    def __init__(self, name: str, code: CodeType) -> None:
        self._name = name
        self._code = code

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The changed module alone."""
        if name != self._name:
            return None
        return spec_from_loader(name, self, origin=self._code.co_filename)

    def exec_module(self, module: ModuleType) -> None:
        """Run the changed code."""
        module.__file__ = self._code.co_filename
        exec(self._code, vars(module))


class Order:
    """A plugin of pytest's: what noticed the mutant before comes first, what draws examples last."""

    def __init__(self, note: Path) -> None:
        self._note = note

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Sort the tests, and else leave them in their order."""
        first = self._note.read_text(encoding="utf-8") if self._note.exists() else ""
        items.sort(key=lambda item: (item.nodeid != first, hasattr(item.obj, "is_hypothesis_test")))

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Write down which test noticed."""
        if report.failed:
            self._note.write_text(report.nodeid, encoding="utf-8")


class Tally(NamedTuple):
    """What became of a module's mutants."""

    module: str
    killed: int
    survivors: list[Mutant]
    seconds: float

    @property
    def mutants(self) -> int:
        return self.killed + len(self.survivors)

    @property
    def share(self) -> float:
        return self.killed / self.mutants if self.mutants else 1.0


def try_mutant(
    name: str, path: Path, mutant: Mutant | None, test: str, note: Path, limit: float, *, loud: bool
) -> bool:
    """Run a file of tests in a fork; return whether one of them fails, or they do not end in time."""
    folder = tempfile.mkdtemp(prefix="crowdtwist-mutant-")
    child = os.fork()
    if child == 0:
        signal.alarm(round(limit) + 5)  # for where nobody waits for it any more
        _run_tests(name, path, mutant, [test, f"--basetemp={folder}/base"], note, loud=loud)
    begun = time.monotonic()
    try:
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() - begun > limit:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return True
            time.sleep(0.01)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ended[1] != 0


def _run_tests(
    name: str, path: Path, mutant: Mutant | None, arguments: list[str], note: Path, *, loud: bool
) -> None:
    """In the fork: never returns."""
    code = 1
    try:
        os.setsid()
        os.chdir(ROOT)
        if not loud:
            silent = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(silent, stream)
        if mutant is not None:
            sys.meta_path.insert(0, Finder(name, compile(mutant.tree, str(path), "exec")))
        import pytest

        arguments = [*_OPTIONS, "--hypothesis-profile=mutation", *arguments]
        code = int(pytest.main(arguments, plugins=[Order(note)]))
    except BaseException:  # noqa: BLE001 - the fork must not go on as if it were the parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def judge(module: str, tests: tuple[str, ...], only: set[int]) -> Tally:
    """Try all mutants of a module, or some of them."""
    path = ROOT / "crowdtwist_async" / f"{module.replace('.', '/')}.py"
    name = f"crowdtwist_async.{module}"
    killed, survivors, begun, limits = 0, [], time.monotonic(), {}
    with tempfile.TemporaryDirectory(prefix="crowdtwist-mutation-") as folder:
        notes = {str(TESTS / f"test_{test}.py"): Path(folder, test) for test in tests}
        for test, note in notes.items():
            since = time.monotonic()
            if try_mutant(name, path, None, test, note, 600.0, loud=False):
                raise SystemExit(f"{module}: {test} fails without any change")
            limits[test] = 20.0 + 3 * (time.monotonic() - since)
        for mutant in mutants_of(path.read_text(encoding="utf-8")):
            if only and mutant.number not in only:
                continue
            if any(
                try_mutant(name, path, mutant, test, note, limits[test], loud=bool(only))
                for test, note in notes.items()
            ):
                killed += 1
            else:
                survivors.append(mutant)
                print(f"  {module}:{mutant.line} #{mutant.number} survives: {mutant.what}", flush=True)
    return Tally(module, killed, survivors, time.monotonic() - begun)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python tests/mutation/mutate.py", description="Which changes no test notices."
    )
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(GROUPS)}; by default all")
    parser.add_argument("--module", help="one module of the groups, such as _walk")
    parser.add_argument("--only", default="", help="numbers of mutants, with what the tests say")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    flags = parser.parse_args()
    _preload()
    only = {int(number) for number in flags.only.split(",") if number}
    tallies = []
    for name in flags.groups or GROUPS:
        for module, tests in GROUPS[name].items():
            if flags.module in (None, module):
                tally = judge(module, tests, only)
                tallies.append(tally)
                print(
                    f"{module}: {tally.killed} of {tally.mutants} noticed"
                    f" ({tally.share:.1%}) in {tally.seconds:.0f} seconds",
                    flush=True,
                )
    if flags.json:
        flags.json.write_text(json.dumps([_figures(tally) for tally in tallies], indent=1))
    return 0 if all(tally.share >= TARGET for tally in tallies) else 1


def _figures(tally: Tally) -> dict[str, Any]:
    survivors = [f"{mutant.line} #{mutant.number}: {mutant.what}" for mutant in tally.survivors]
    return {"module": tally.module, "mutants": tally.mutants, "killed": tally.killed, "survivors": survivors}


def _preload() -> None:
    """Load what each fork would load, but for the package."""
    from contextlib import suppress
    from importlib import import_module

    for name in _PRELOADED:
        with suppress(ImportError):
            import_module(name)
    from hypothesis import HealthCheck, Phase, settings

    settings.register_profile(
        "mutation",
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    assert not any(name.split(".")[0] == "crowdtwist_async" for name in sys.modules)


if __name__ == "__main__":
    sys.exit(main())
