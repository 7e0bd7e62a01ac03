"""
The pages of the API reference: every public name of every public module, from its docstring.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PACKAGE = "crowdtwist_async"


class Module(NamedTuple):
    """One page of the reference."""

    page: str
    title: str
    module: str
    groups: dict[str, list[str]]
    """Headings and the names below them; without any, all names of the module's `__all__`."""
    elsewhere: str = ""
    """A module whose names are on a page of their own."""


MODULES = [
    Module(
        "client",
        "Client and models",
        PACKAGE,
        {
            "The client": ["CrowdTwistClient"],
            "Walks and fan-outs": ["Pager", "Prefetched", "FanOut", "Outcome"],
            "Results": [
                "PointsAwaitingFulfillment",
                "Reward",
                "Segment",
                "Partner",
                "ExtraData",
                "Purchase",
                "Page",
                "Paging",
                "IdType",
            ],
            "Rates, retries, counts": ["RateBudget", "Budget", "RetryPolicy", "Stats"],
            "Moving bytes": ["Transport", "Request", "Reply", "HttpxTransport"],
        },
        elsewhere=f"{PACKAGE}.errors",
    ),
    Module("errors", "Error classes", f"{PACKAGE}.errors", {}),
    Module("export", "Exports", f"{PACKAGE}.export", {}),
    Module("dask", "Exports on Dask", f"{PACKAGE}.export.dask", {"": ["export_on_dask"]}),
    Module("redis", "Budget over Redis", f"{PACKAGE}.budgets.redis", {"": ["RedisBudget"]}),
    Module(
        "transports",
        "Transport over aiohttp",
        f"{PACKAGE}.transports.aiohttp",
        {"": ["AiohttpTransport"]},
    ),
    Module("emulator", "Emulator", f"{PACKAGE}.emulator", {}),
    Module(
        "emulator-server",
        "Emulator on a socket",
        f"{PACKAGE}.emulator.server",
        {"": ["EmulatorServer", "serve"]},
    ),
]

INTERNAL = {
    "FanOut": ["over", "start_worker"],
    "Fault": ["fits", "reply", "rewritten", "cut"],
    "IdSource": ["of"],
    "MergeReport": ["add"],
    "Shard": ["beside", "held", "tag"],
}
"""Members that other modules of the package need, and nobody else."""
PLAIN = {"Emulator", "ExportReport", "IdType", "MergeReport", "Outcome", "Plan", "Reply"}
"""Classes with members that their names alone describe."""


def reference_pages() -> Iterator[tuple[str, str, str]]:
    """
    Yield the path, the title and the text of each page.

    Raises:
        LookupError: A public name is on no page, or a page has a name that is not public.
    """
    for module in MODULES:
        groups = module.groups or {"": public_names(module.module)}
        if module.module == PACKAGE:
            _check(module, [name for names in groups.values() for name in names])
        lines = [f"# {module.title}", "", f"`{module.module}`", "", _summary(module.module), ""]
        for heading, names in groups.items():
            level = 3 if heading else 2
            lines += [f"## {heading}", ""] if heading else []
            for name in names:
                lines += [f"::: {module.module}.{name}", *_options(name, level), ""]
        yield f"reference/{module.page}.md", module.title, "\n".join(lines)


def public_names(module: str) -> list[str]:
    """What a module offers: its `__all__`, or its public classes and functions, in their order."""
    tree = _parsed(module)
    for node in tree.body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == [
            "__all__"
        ]:
            names: list[str] = ast.literal_eval(node.value)
            return names
    defined = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [node.name for node in tree.body if isinstance(node, defined) and not node.name.startswith("_")]


def _options(name: str, level: int) -> list[str]:
    """How mkdocstrings shows one name; a class that users do not make themselves has no signature."""
    hidden = "|".join(INTERNAL.get(name, ()))
    return [
        "    options:",
        f"      heading_level: {level}",
        f"      merge_init_into_class: {str('Args:' in _docstring(name)).lower()}",
        f"      show_if_no_docstring: {str(name in PLAIN).lower()}",
        *(["      filters:", "        - '!^_'", f"        - '!^({hidden})$'"] if hidden else []),
    ]


@cache
def _class_docstrings() -> dict[str, str]:
    files = ROOT.joinpath(PACKAGE).rglob("*.py")
    nodes = (node for file in files for node in ast.parse(file.read_text()).body)
    return {node.name: ast.get_docstring(node) or "" for node in nodes if isinstance(node, ast.ClassDef)}


def _docstring(name: str) -> str:
    """That of a class, wherever it is defined."""
    return _class_docstrings().get(name, "")


def _check(module: Module, shown: list[str]) -> None:
    wanted = {*public_names(module.module)} - {*public_names(module.elsewhere)}
    if wanted != {*shown} or len(wanted) != len(shown):
        raise LookupError(f"{module.module}: {sorted(wanted ^ {*shown})} are public or on the page, not both")


def _summary(module: str) -> str:
    text = ast.get_docstring(_parsed(module)) or ""
    return text.partition("\n\n")[0]


def _parsed(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text())
