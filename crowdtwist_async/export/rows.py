"""
Rows: the id that was asked for, the model's fields, and what the model does not know.

A row is nested, as JSON Lines take it; `flatten` gives the fixed columns that tables take.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import Any

from attrs import AttrsInstance, fields, has

from crowdtwist_async._convert import known_names
from crowdtwist_async.models import ExtraData, Partner, PointsAwaitingFulfillment, Purchase, Reward, Segment

Row = dict[str, Any]

MODELS: dict[str, type[AttrsInstance]] = {
    "points": PointsAwaitingFulfillment,
    "rewards": Reward,
    "purchases": Purchase,
}
_NESTED: dict[str, type[AttrsInstance]] = {"segment": Segment, "partner_info": Partner}
_REQUESTED = ("requested_id", "requested_id_type")
_EXTRA = "_extra"
"""Properties that the model does not know: the API grows every week, and fetching again takes a night."""


def make_row(user_id: str, id_type: str, item: AttrsInstance, sent: dict[str, Any]) -> Row:
    """Build a row from a model and the JSON object that it was read from."""
    return {
        "requested_id": user_id,
        "requested_id_type": str(id_type),
        **plain(item),
        _EXTRA: _unknown(type(item), sent) or None,
    }


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


def plain(item: AttrsInstance) -> Row:
    """A model as JSON takes it: instants as texts, nested models as objects."""
    return {name: _plain(getattr(item, name)) for name in _names(type(item))}


@cache
def columns(name: str) -> tuple[str, ...]:
    """The columns of a flat export, fixed by the model and not by the data."""
    flat = [
        f"{field}_{inner}" if inner else field
        for field in _names(MODELS[name])
        for inner in (_names(_NESTED[field]) if field in _NESTED else ("",))
    ]
    return (*_REQUESTED, *flat, _EXTRA)


def flatten(row: Row) -> Row:
    """The same row with one value a column; what has no fixed shape stays an object."""
    flat: Row = {}
    for name, value in row.items():
        if name in _NESTED:
            for inner in _names(_NESTED[name]):
                flat[f"{name}_{inner}"] = value[inner] if value else None
        else:
            flat[name] = value
    return flat


def iso(moment: datetime) -> str:
    """An instant in ISO 8601, in UTC with a Z."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


@cache
def _names(model: type[AttrsInstance]) -> tuple[str, ...]:
    return tuple(attribute.name for attribute in fields(model))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, ExtraData):
        return dict(value)
    return plain(value) if has(type(value)) else value
