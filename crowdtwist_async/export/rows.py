"""
Rows: the id that was asked for, the model's fields, and what the model does not know.

A row is nested, as JSON Lines take it; `flatten` gives the fixed columns that tables take.
"""

from __future__ import annotations

import typing
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from typing import Any

import msgspec
from attrs import AttrsInstance

from crowdtwist_async._convert import known_names
from crowdtwist_async.errors import DecodeError
from crowdtwist_async.models import (
    ExtraData,
    Partner,
    PointsAwaitingFulfillment,
    Purchase,
    Reward,
    Segment,
    as_dict,
    names_of,
)

SCHEMA_VERSION = 1
"""Of the columns and the ledger; an output of another version is not gone on with."""

Row = dict[str, Any]

MODELS: dict[str, type[AttrsInstance]] = {
    "points": PointsAwaitingFulfillment,
    "rewards": Reward,
    "purchases": Purchase,
}
_NESTED: dict[str, type[AttrsInstance]] = {"segment": Segment, "partner_info": Partner}
_EXTRA = "_extra"
"""Properties that the model does not know: the API grows every week, and fetching again takes a night."""
_INTEGERS = range(-(2**63), 2**63)


class Kind(StrEnum):
    """What a column holds."""

    TEXT = "text"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    INSTANT = "instant"
    JSON = "json"


_KINDS: dict[Any, Kind] = {
    str: Kind.TEXT,
    int: Kind.INTEGER,
    bool: Kind.BOOLEAN,
    datetime: Kind.INSTANT,
    ExtraData: Kind.JSON,
}


def make_row(user_id: str, id_type: str, item: AttrsInstance, sent: dict[str, Any]) -> Row:
    """
    Build a row from a model and the JSON object that it was read from.

    Raises:
        DecodeError: A number is beyond the 64 bits that tables have for it.
    """
    row = as_dict(item)
    _check_numbers(row)
    return {
        "requested_id": user_id,
        "requested_id_type": str(id_type),
        **row,
        _EXTRA: _unknown(type(item), sent) or None,
    }


def _check_numbers(row: Row, within: str = "") -> None:
    """Refuse what no column holds; JSON holds all numbers."""
    for name, value in row.items():
        if type(value) is int and value not in _INTEGERS:
            error = DecodeError("the number is beyond 64 bits, which no column of an export holds")
            error.path = f"{within}{name}"
            raise error
        if name in _NESTED and isinstance(value, dict):
            _check_numbers(value, f"{name}.")


def _unknown(model: type[AttrsInstance], sent: dict[str, Any]) -> Row:
    """The properties that a model does not know, those of its nested objects included."""
    known = known_names(model)
    unknown = {name: value for name, value in sent.items() if name not in known}
    for name, nested in _NESTED.items():
        if name in known and isinstance(sent.get(name), dict):
            inside = _unknown(nested, sent[name])
            if inside:
                unknown[name] = inside
    return unknown


@cache
def columns(name: str) -> dict[str, Kind]:
    """The columns of a flat export and what they hold, fixed by the model and not by the data."""
    flat: dict[str, Kind] = {"requested_id": Kind.TEXT, "requested_id_type": Kind.TEXT}
    for field, kind in _typed(MODELS[name]).items():
        if field in _NESTED:
            flat |= {f"{field}_{inner}": held for inner, held in _typed(_NESTED[field]).items()}
        else:
            flat[field] = kind
    return {**flat, _EXTRA: Kind.JSON}


def flatten(row: Row) -> list[Any]:
    """The same row with one value a column; what has no fixed shape is its JSON."""
    flat: list[Any] = []
    for name, value in row.items():
        if name in _NESTED:
            flat += [value[inner] if value else None for inner in names_of(_NESTED[name])]
        else:
            flat.append(value if type(value) is not dict else msgspec.json.encode(value).decode())
    return flat


def iso(moment: datetime) -> str:
    """An instant in ISO 8601, in UTC with a Z."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


@cache
def _typed(model: type[AttrsInstance]) -> dict[str, Kind]:
    """What each field holds when it is not null; nested models count as JSON."""
    hints = typing.get_type_hints(model)
    found: dict[str, Kind] = {}
    for name in names_of(model):
        held = next(kind for kind in (*typing.get_args(hints[name]), hints[name]) if kind is not type(None))
        found[name] = _KINDS.get(held, Kind.JSON)
    return found
