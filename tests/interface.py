"""
The public interface as text, a line for each thing that a user's program can rely on.

`interface.txt` is what the latest release promised. A line of it that is missing now breaks somebody's program,
and so does a new parameter that must be given. `python tests/interface.py` says which; with `--accept` it writes
down what is there. Nothing is imported: the lines are the same whatever Python and extras there are.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import griffe

ROOT = Path(__file__).parent.parent
PROMISED = Path(__file__).with_name("interface.txt")
PUBLIC = (
    "crowdtwist_async",
    "crowdtwist_async.budgets.redis.RedisBudget",
    "crowdtwist_async.emulator",
    "crowdtwist_async.export",
    "crowdtwist_async.export.dask.export_on_dask",
    "crowdtwist_async.testing",
    "crowdtwist_async.transports.aiohttp.AiohttpTransport",
)
"""Names, and packages all of whose `__all__` is public."""
GIVEN = frozenset({"EmulatorStats", "FanOut", "Fault", "IdSource", "Outcome", "Pager", "Prefetched", "Stats"})
"""Classes that users are given, and do not make: how they are made is no promise."""
REQUIRED = "required"
Named: TypeAlias = griffe.Object | griffe.Alias
_SPECIAL = ("__init__", "__iter__", "__aiter__", "__len__", "__getitem__", "__enter__", "__aenter__")


def interface(folder: Path, public: Sequence[str] = PUBLIC) -> list[str]:
    """The lines for what the packages and names in a folder promise, sorted."""
    loader = griffe.GriffeLoader(search_paths=[folder], allow_inspection=False)
    loader.load(public[0].partition(".")[0])
    loader.resolve_aliases()
    names = [name for path in public for name in _names(path, loader.modules_collection[path])]
    things = {name: loader.modules_collection[name] for name in names}
    told = {thing.canonical_path for thing in things.values()}
    return sorted({line for name, thing in things.items() for line in _lines(name, thing, told)})


def breaks(promised: Sequence[str], found: Sequence[str]) -> list[str]:
    """What would break a program that relies on the promised lines: each with a `-` or a `+`."""
    known = {_owner(line) for line in promised}
    new = set(found) - set(promised)
    return [f"- {line}" for line in promised if line not in set(found)] + [
        f"+ {line}" for line in sorted(new) if line.endswith(REQUIRED) and _owner(line) in known
    ]


def _owner(line: str) -> str:
    return line.partition(":")[0].partition("(")[0]


def _names(path: str, thing: Named) -> list[str]:
    if not thing.is_module:
        return [path]
    return [f"{path}.{name}" for name in thing.exports or () if name in thing.members]


def _lines(name: str, named: Named, told: Collection[str]) -> Iterator[str]:
    thing = named.final_target if isinstance(named, griffe.Alias) else named
    if isinstance(thing, griffe.Class):
        yield f"{name}: class of {', '.join(str(base) for base in thing.bases) or 'object'}"
        for key, member in _members(thing, told):
            yield from _lines(f"{name}.{key}", member, told)
    elif isinstance(thing, griffe.Function):
        yield from _of_function(name, thing)
    elif isinstance(thing, griffe.Attribute):
        kind = "property" if "property" in thing.labels else "attribute"
        annotation = f" {thing.annotation}" if thing.annotation else ""
        yield f"{name}: {kind}{annotation}{_default(thing.value)}"


def _members(thing: griffe.Class, told: Collection[str]) -> Iterator[tuple[str, Named]]:
    """Those that users name; what comes from a public base is told there."""
    for key, member in thing.all_members.items():
        if key.startswith("_") and (key not in _SPECIAL or (key == "__init__" and thing.name in GIVEN)):
            continue
        if not member.inherited or member.canonical_path.rpartition(".")[0] not in told:
            yield key, member


def _of_function(name: str, function: griffe.Function) -> Iterator[str]:
    decorators = "".join(f"@{decorator.value} " for decorator in function.decorators)
    kind = "async function" if "async" in function.labels else "function"
    yield f"{name}: {decorators}{kind} of {function.returns}"
    place = 0
    for parameter in function.parameters:
        if parameter.name in ("self", "cls"):
            continue
        place += 1
        where = "by name" if parameter.kind is griffe.ParameterKind.keyword_only else f"place {place}"
        if str(parameter.kind.value).startswith("variadic"):
            where = str(parameter.kind.value)
        default = f"= {parameter.default}" if parameter.default is not None else REQUIRED
        yield f"{name}({parameter.name}): {parameter.annotation}, {where}, {default}"


def _default(value: object) -> str:
    """Whether an attribute has one; what it is too, where it is a plain value."""
    if value is None:
        return ""
    if not isinstance(value, griffe.ExprCall):
        return f" = {value}"
    given = {str(argument.name) for argument in value.arguments if isinstance(argument, griffe.ExprKeyword)}
    return " = ..." if given & {"default", "factory"} else ""


def main(arguments: Sequence[str]) -> str | None:
    """Compare, or accept; what is broken."""
    found = interface(ROOT)
    if "--accept" in arguments:
        PROMISED.write_text("".join(f"{line}\n" for line in found))
    promised = PROMISED.read_text().splitlines()
    for line in found:
        if line not in promised:
            print("new:", line)
    broken = breaks(promised, found)
    if broken:
        return "\n".join([*broken, "That breaks programs. `nox -s api -- --accept` if it is meant."])
    return print(f"{len(promised)} lines of the public interface hold")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
