"""
The same page in the models of other libraries: the fields, types and defaults of this package's classes.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, get_type_hints

import msgspec
from attrs import NOTHING, fields

from crowdtwist_async.models import ExtraData, Paging, Partner, Reward, Segment

_PARTS = (Segment, Partner, Paging)


def _members(model: type, parts: dict[Any, Any]) -> dict[str, tuple[Any, Any]]:
    """Name to type and default; `...` for a required one."""
    hints = get_type_hints(model)
    return {
        field.name: (
            parts.get(hints[field.name], hints[field.name]),
            ... if field.default is NOTHING else field.default,
        )
        for field in fields(model)
    }


@cache
def pydantic_page(base: type | None = None) -> Any:
    """A pydantic model of a page of rewards; frozen, unless a base of its own decides."""
    pydantic = import_module("pydantic")
    create_model, frozen = pydantic.create_model, pydantic.ConfigDict(frozen=True)
    settings: dict[str, Any] = {"__base__": base} if base else {"__config__": frozen}
    parts: dict[Any, Any] = {ExtraData | None: dict[str, Any] | None}
    for part in _PARTS:
        made = create_model(part.__name__, **settings, **_members(part, {}))
        parts |= {part: made, part | None: made | None}
    reward = create_model("Reward", **settings, **_members(Reward, parts))
    return create_model("Page", **settings, paging=(parts[Paging], ...), rewards=(list[reward], ...))  # type: ignore[valid-type]  # a class made at run time


@cache
def msgspec_page() -> Any:
    """A msgspec struct of a page of rewards."""
    parts: dict[Any, Any] = {ExtraData | None: dict[str, Any] | None}
    for part in _PARTS:
        made = _struct(part, {})
        parts |= {part: made, part | None: made | None}
    page = [("paging", parts[Paging]), ("rewards", list[_struct(Reward, parts)])]  # type: ignore[misc]  # as above
    return msgspec.defstruct("Page", page)


def _struct(model: type, parts: dict[Any, Any]) -> Any:
    members = [
        (name, kind) if default is ... else (name, kind, default)
        for name, (kind, default) in _members(model, parts).items()
    ]
    return msgspec.defstruct(model.__name__, members, frozen=True, kw_only=True)
