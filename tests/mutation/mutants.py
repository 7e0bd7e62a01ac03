"""
Small changes to a module, each of which a test should notice.

Annotations, docstrings, decorators and the sentences of errors are left as they are.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_SWAPPED = {"min": "max", "max": "min"}
_TEXTLESS = (ast.JoinedStr, ast.Raise)
"""What holds sentences for people, whose wording is not judged."""


class Mutant(NamedTuple):
    """One changed module."""

    number: int
    line: int
    what: str
    """The change, such as `a < b -> a <= b`; within one version of a module it names the mutant."""
    tree: ast.Module


def mutants_of(source: str) -> Iterator[Mutant]:
    """All changes to a module, one at a time, in the order of its lines."""
    tree = ast.parse(source)
    places = sorted(_places(tree), key=lambda place: (place.line, place.column))
    for number, place in enumerate(places):
        changed = copy.deepcopy(tree)
        parent: Any = changed
        for name, index in place.way:
            parent = getattr(parent, name) if index is None else getattr(parent, name)[index]
        name, index = place.last
        if index is None:
            setattr(parent, name, place.new)
        else:
            getattr(parent, name)[index] = place.new
        what = f"{_told(place.old)} -> {_told(place.new)}"
        yield Mutant(number, place.line, what, ast.fix_missing_locations(changed))


Step = tuple[str, int | None]


class _Place(NamedTuple):
    """Where something is replaced, and by what."""

    way: tuple[Step, ...]
    last: Step
    old: ast.AST
    new: ast.AST

    @property
    def line(self) -> int:
        return getattr(self.old, "lineno", 0)

    @property
    def column(self) -> int:
        return getattr(self.old, "col_offset", 0)


def _told(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) < 100 else f"{text[:97]}..."


def _places(tree: ast.Module) -> Iterator[_Place]:
    pending: list[tuple[ast.AST, tuple[Step, ...], bool]] = [(tree, (), False)]
    while pending:
        node, way, quiet = pending.pop()
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "bases"):
                continue
            for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if not isinstance(child, ast.AST) or _is_fixed(child, name):
                    continue
                silent = quiet or isinstance(child, _TEXTLESS)
                for new in _changes(child, quiet=silent):
                    yield _Place(way, (name, index), child, ast.copy_location(new, child))
                pending.append((child, (*way, (name, index)), silent))


def _is_fixed(node: ast.AST, name: str) -> bool:
    """A docstring, an import, a name for type checkers alone."""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.alias):
        return True
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith(("TypeVar(", "Literal[")):
        return True
    return name == "body" and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _changes(node: ast.AST, *, quiet: bool) -> Iterator[ast.AST]:  # noqa: C901 - a table of cases
    match node:
        case ast.Compare(left, ops, comparators):
            for at, op in enumerate(ops):
                for other in _COMPARISONS[type(op)]:
                    yield ast.Compare(left, [*ops[:at], other(), *ops[at + 1 :]], comparators)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.BinOp(left, op, right) if type(op) in _ARITHMETIC:
            yield ast.BinOp(left, _ARITHMETIC[type(op)](), right)
        case ast.Constant(value):
            yield from _constants(value, quiet=quiet)
        case ast.Call(ast.Name(name), arguments, keywords) if name in _SWAPPED:
            yield ast.Call(ast.Name(_SWAPPED[name], ast.Load()), arguments, keywords)
        case ast.IfExp(test, body, orelse) if _is_plain(test):
            yield ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.comprehension(target, iterated, [test, *rest], is_async) if _is_plain(test):
            yield ast.comprehension(target, iterated, [ast.UnaryOp(ast.Not(), test), *rest], is_async)
        case ast.stmt():
            yield from _changed_statements(node)


def _constants(value: Any, *, quiet: bool) -> Iterator[ast.AST]:
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value + 1)
    elif isinstance(value, str | bytes) and value and not quiet:
        yield ast.Constant("XX" + value if isinstance(value, str) else b"XX" + value)


def _changed_statements(node: ast.stmt) -> Iterator[ast.AST]:  # noqa: C901 - a table of cases
    match node:
        case ast.If(test, body, orelse) if _is_plain(test):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.While(test, body, orelse) if _is_plain(test):
            yield ast.While(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Return(ast.AST() as value) if ast.unparse(value) != "None":
            yield ast.Return(ast.Constant(None))
        case ast.AugAssign(target, op, value) if type(op) in _ARITHMETIC:
            yield ast.AugAssign(target, _ARITHMETIC[type(op)](), value)
            yield ast.Pass()
        case ast.Assign([ast.Attribute() | ast.Subscript()], _):
            yield ast.Pass()
        case ast.Expr(ast.Call() | ast.Await() | ast.YieldFrom()) | ast.Delete() | ast.Raise():
            yield ast.Pass()
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()


def _is_plain(test: ast.expr) -> bool:
    """Whether nothing within a condition negates it already."""
    return not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp) and ast.unparse(test) != "True"
