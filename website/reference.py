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
    """Headings and the names below them, as far as they are public; others come last."""
    elsewhere: str = ""
    """A module whose names are on a page of their own."""
    fixtures: bool = False
    """Its functions are none that one calls; the whole docstring says how to use them."""


MODULES = [
    Module(
        "client",
        "Client and models",
        PACKAGE,
        {
            "The client": ["CrowdTwistClient", "HmacKey"],
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
    Module("dask", "Exports on Dask", f"{PACKAGE}.export.dask", {}),
    Module("redis", "Budget over Redis", f"{PACKAGE}.budgets.redis", {}),
    Module("transports", "Transport over aiohttp", f"{PACKAGE}.transports.aiohttp", {}),
    Module("emulator", "Emulator", f"{PACKAGE}.emulator", {"": ["Emulator", "Fault"]}),
    Module("emulator-server", "Emulator on a socket", f"{PACKAGE}.emulator.server", {}),
    Module("openapi", "OpenAPI document", f"{PACKAGE}.emulator.openapi", {}),
    Module("testing", "Replies and models for tests", f"{PACKAGE}.testing", {}),
    Module("pytest-plugin", "Fixtures of pytest", f"{PACKAGE}.pytest_plugin", {}, fixtures=True),
]
"""Those that are there have a page."""
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
_WITHOUT_KIND = ["      show_symbol_type_heading: false", "      show_symbol_type_toc: false"]


def reference_pages() -> Iterator[tuple[str, str, str]]:
    """Yield the path, the title and the text of each page."""
    for module in MODULES:
        if not _file(module.module).is_file():
            continue
        words = ast.get_docstring(_parsed(module.module)) or ""
        words = words if module.fixtures else words.partition("\n\n")[0]
        lines = [f"# {module.title}", "", f"`{module.module}`", "", words, ""]
        for heading, names in grouped(module).items():
            level = 3 if heading else 2
            lines += [f"## {heading}", ""] if heading else []
            for name in names:
                kind = _WITHOUT_KIND if module.fixtures else []
                lines += [f"::: {module.module}.{name}", *_options(name, level), *kind, ""]
        yield f"reference/{module.page}.md", module.title, "\n".join(lines)


def pages_of_modules() -> dict[str, str]:
    """The page of each public module's file."""
    return {
        _file(module.module).relative_to(ROOT).as_posix(): f"reference/{module.page}.md" for module in MODULES
    }


def grouped(module: Module) -> dict[str, list[str]]:
    """All names of a page below their headings."""
    public = public_names(module.module)
    if module.elsewhere:
        public = [name for name in public if name not in public_names(module.elsewhere)]
    groups = {heading: [name for name in names if name in public] for heading, names in module.groups.items()}
    placed = {name for names in groups.values() for name in names}
    rest = [name for name in public if name not in placed]
    heading = "Others" if any(groups) else ""
    return {**groups, heading: [*groups.get(heading, []), *rest]} if rest else groups


def public_names(module: str) -> list[str]:
    """What a module offers: its `__all__`, or its classes and functions that are not private or hooks."""
    tree = _parsed(module)
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            listed: list[str] = ast.literal_eval(node.value)
            return listed
    defined = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    names = [node.name for node in tree.body if isinstance(node, defined)]
    return [name for name in names if not name.startswith(("_", "pytest_"))]


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


def _parsed(module: str) -> ast.Module:
    return ast.parse(_file(module).read_text())


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
