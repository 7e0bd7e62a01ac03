"""
The schemas of what the API sends, drawn from the models: fields, types, nulls, and the texts below them.

They allow what the vendor's server may send and the client reads, so properties that nobody knows too.
"""

from __future__ import annotations

import ast
import inspect
from datetime import datetime
from functools import cache
from types import NoneType
from typing import Any, get_args, get_type_hints

from attrs import NOTHING, AttrsInstance, fields

from crowdtwist_async import models
from crowdtwist_async._arguments import MAX_PAGE_SIZE
from crowdtwist_async._convert import known_names
from crowdtwist_async._protocol import PURCHASES, REWARDS, Endpoint
from crowdtwist_async.models import (
    ExtraData,
    Paging,
    Partner,
    PointsAwaitingFulfillment,
    Purchase,
    Reward,
    Segment,
)

Schema = dict[str, Any]

_MODELS: tuple[type[AttrsInstance], ...] = (
    PointsAwaitingFulfillment,
    Reward,
    Purchase,
    Paging,
    Segment,
    Partner,
)
_LEAVES: dict[type, str] = {int: "Integer", str: "Text", bool: "Flag", datetime: "Instant"}
_OTHER_LEAVES: dict[type, dict[type, str]] = {
    Reward: {datetime: "UnixSeconds"},
    # A link is read as a text alone: nobody wants the page of a number.
    Paging: {str: "Link"},
}
_OTHER_WORDS: dict[str, dict[str, str]] = {
    # The model's own words say what the client makes of them.
    "Paging": {
        "": "What a page says of the whole list. Its parts may contradict each other.",
        "total": "The number of entries on all pages.",
        "pages": "The number of pages.",
        "next_page": "The link to the next page, which may repeat the key. Null, empty or missing: none.",
        "prev_page": "The link to the previous page, which may repeat the key. Null, empty or missing: none.",
    },
    "Reward": {
        "sweepstakes_winners": "How many may win, if it is a sweepstake.",
        "sweepstake_winners": "Another spelling of `sweepstakes_winners` that is sent too.",
    },
}
_PATTERNS = {
    "integer": "^-?[0-9]{1,400}$",
    "flag": "^(0|1|[Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee])$",
    "seconds": r"^(-?[0-9]{1,10}(\.[0-9]{1,9})?)?$",
}
_LATEST_SECOND = 253_402_300_799
"""The last that a date can hold: the end of the year 9999."""


def model_schemas() -> dict[str, Schema]:
    """All schemas of good replies, by name."""
    drawn = {model.__name__: _drawn(model) for model in _MODELS}
    return {
        **drawn,
        "ExtraData": _extra_data(),
        "RewardsPage": _page(REWARDS),
        "SingleRewardPage": _single_reward(),
        "PurchasesPage": _page(PURCHASES),
        **_leaves(),
    }


def reference(name: str) -> Schema:
    """A reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


@cache
def descriptions(name: str) -> dict[str, str]:
    """The texts of a model's attributes, by name, and its own under the empty name."""
    tree = ast.parse(inspect.getsource(models))
    [body] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    texts = {"": ast.get_docstring(body) or ""}
    for node, following in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign | ast.Assign) and isinstance(following, ast.Expr):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            texts[ast.unparse(target)] = " ".join(str(ast.literal_eval(following.value)).split())
    return texts


def _drawn(model: type[AttrsInstance]) -> Schema:
    """One model: a field without a default is always sent, one that can be `None` may be null."""
    texts = descriptions(model.__name__) | _OTHER_WORDS.get(model.__name__, {})
    hints = get_type_hints(model)
    properties = {
        attribute.name: _property(model, hints[attribute.name]) | {"description": texts[attribute.name]}
        for attribute in fields(model)
    }
    for other in sorted(known_names(model) - properties.keys()):
        properties[other] = properties["sweepstakes_winners"] | {"description": texts[other]}
    required = [attribute.name for attribute in fields(model) if attribute.default is NOTHING]
    return _object(texts[""], properties, required)


def _property(model: type, hint: Any) -> Schema:
    kinds: list[type] = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
    names = _LEAVES | _OTHER_LEAVES.get(model, {})
    [schema] = [reference(names.get(kind, kind.__name__)) for kind in kinds]
    return {"anyOf": [schema, {"type": "null"}]} if NoneType in get_args(hint) else schema


def _object(description: str, properties: dict[str, Schema], required: list[str]) -> Schema:
    schema: Schema = {"type": "object", "description": description, "properties": properties}
    if required:
        schema["required"] = required
    return schema | {"additionalProperties": True}


def _extra_data() -> Schema:
    """The properties that the model can read by name; `postal_code` comes in two spellings."""
    known = [name for name, value in vars(ExtraData).items() if isinstance(value, property)]
    properties = {name: {"description": f"The {name.replace('_', ' ')}."} for name in known}
    properties["postal code"] = {"description": "Another spelling of `postal_code` that is sent too."}
    words = "The client's own properties of a reward, 20 at most, with whatever names and values it chose."
    return _object(words, properties, [])


def _page(endpoint: Endpoint) -> Schema:
    """One page of a paginated endpoint."""
    entries = {
        "type": "array",
        "items": reference(endpoint.model.__name__),
        "maxItems": MAX_PAGE_SIZE,
        "description": "The entries of this page; none, if the page is out of range.",
    }
    paging = _paging_of_rewards() if endpoint is REWARDS else reference("Paging")
    words = f"One page of {endpoint.entries}."
    return _object(words, {"paging": paging, endpoint.entries: entries}, ["paging", endpoint.entries])


def _paging_of_rewards() -> Schema:
    """The reference calls it an array, and shows an object."""
    one = {"type": "array", "items": reference("Paging"), "minItems": 1, "maxItems": 1}
    return {"anyOf": [reference("Paging"), one]}


def _single_reward() -> Schema:
    """What the reference's own sample is."""
    paging = {"type": "object", "properties": {"paging": _paging_of_rewards()}, "required": ["paging"]}
    words = "A page whose one reward stands beside `paging`, without an array."
    return {"description": words, "allOf": [reference("Reward"), paging]}


def _leaves() -> dict[str, Schema]:
    return {
        "Integer": {
            "description": "A whole number, or its digits as a text.",
            "anyOf": [{"type": "integer"}, {"type": "string", "pattern": _PATTERNS["integer"]}],
        },
        "Text": {
            "description": "A text. Ids come as numbers too, and mean the same.",
            "type": ["string", "integer"],
        },
        "Link": {"description": "A URL, or a text that is none.", "type": "string"},
        "Flag": {
            "description": "1 or 0, as a number or a text, or true or false.",
            "anyOf": [
                {"type": "integer", "enum": [0, 1]},
                {"type": "string", "pattern": _PATTERNS["flag"]},
                {"type": "boolean"},
            ],
        },
        "UnixSeconds": {
            "description": "Seconds since 1970 in UTC, as a number or a text. An empty text is like null.",
            "anyOf": [
                {"type": "number", "minimum": -62_135_596_800, "maximum": _LATEST_SECOND},
                {"type": "string", "pattern": _PATTERNS["seconds"]},
            ],
        },
        "Instant": {
            "description": "An instant in ISO 8601, in UTC. An empty text is like null.",
            "anyOf": [{"type": "string", "format": "date-time"}, {"type": "string", "maxLength": 0}],
        },
    }
