"""
What each endpoint answers instead of rows: statuses, reasons, and its own error body.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from crowdtwist_async._protocol import POINTS, PURCHASES, REWARDS
from crowdtwist_async.emulator.answers import error_body
from crowdtwist_async.emulator.openapi.schemas import Schema, reference


class Refusal(NamedTuple):
    """One reason for which an endpoint says no."""

    status: str
    """As the document writes it: a status, or `5XX`."""
    reason: str
    words: str


_KEY = Refusal("403", "invalid_auth", "The key is missing or wrong, or not where this host looks for it.")
_METHOD = Refusal("405", "not_supported", "The endpoint has no method but GET.")
_CEILING = Refusal(
    "429",
    "rate_limit_exceeded",
    "The program's ceiling of requests a minute is reached. The vendor's reference does not mention this"
    " answer; the emulator gives it in the endpoint's own body.",
)
_BROKEN = Refusal("5XX", "internal_error", "Something failed on the server; a retry may succeed.")
_NOT_CONFIGURED = Refusal("5XX", "not_configured", "The program lacks a setting; a retry won't succeed.")
_ALWAYS = (_KEY, _METHOD, _CEILING, _BROKEN, _NOT_CONFIGURED)

REFUSALS: dict[str, tuple[Refusal, ...]] = {
    POINTS.name: (
        Refusal("400", "user_not_found", "Nobody has this id, or the attributes name different members."),
        Refusal("400", "missing_data", "Neither an id nor an attribute was given."),
        *_ALWAYS,
    ),
    REWARDS.name: (
        Refusal("400", "page_not_found", "Nobody has this id; it is not about pages."),
        Refusal("400", "param_error", "A parameter has a value that the endpoint does not take."),
        Refusal("400", "no_data", "The program has no rewards at all."),
        *_ALWAYS,
    ),
    PURCHASES.name: (
        Refusal("400", "invalid_parameter", "The id type, or a date, or the order of the dates is wrong."),
        Refusal("404", "user_not_found", "Nobody has this id; the reason is also spelled `not_found`."),
        *_ALWAYS,
    ),
}

_BODIES: dict[str, Schema] = {
    POINTS.name: reference("PointsError"),
    REWARDS.name: reference("FlatError"),
    PURCHASES.name: {"anyOf": [reference("NestedError"), reference("FlatError")]},
}
_SERVER_ERROR = 500


def refusal_responses(endpoint: str) -> dict[str, Any]:
    """The responses of an endpoint but for the good one, by status."""
    found: dict[str, list[Refusal]] = {}
    for refusal in REFUSALS[endpoint]:
        found.setdefault(refusal.status, []).append(refusal)
    return {status: _response(endpoint, status, found[status]) for status in sorted(found)}


def _response(endpoint: str, status: str, refusals: list[Refusal]) -> dict[str, Any]:
    code = int(status) if status.isdigit() else _SERVER_ERROR
    examples = {
        refusal.reason: {"value": error_body(endpoint, code, refusal.reason, refusal.words)}
        for refusal in refusals
    }
    content = {"application/json": {"schema": _BODIES[endpoint], "examples": examples}}
    words = "\n".join(f"* `{refusal.reason}`: {refusal.words}" for refusal in refusals)
    return {"description": words, **_headers(status), "content": content}


def _headers(status: str) -> dict[str, Any]:
    if status == "405":
        return {"headers": {"Allow": {"description": "`GET`", "schema": {"type": "string"}}}}
    if status in ("429", "5XX"):
        words = "How long to wait: whole seconds, or an HTTP date."
        return {"headers": {"Retry-After": {"description": words, "schema": {"type": "string"}}}}
    return {}


def error_schemas() -> dict[str, Schema]:
    """The three error bodies, by name."""
    reason = _text("The reason's identifier; those that are known stand with the endpoint.")
    message = _text("What is wrong, in a sentence.")
    one = _object("One of the reasons.", {"reason": reason, "message": message})
    errors: Schema = {"type": "array", "items": one, "minItems": 1, "description": "All reasons."}
    code: Schema = {"type": "integer", "description": "The HTTP status."}
    nested: dict[str, Schema] = {"code": code, "message": _text("The status in words."), "errors": errors}
    return {
        "PointsError": _object(
            "The error body of the points.",
            {
                "system": _text("The system that refused: `pos`."),
                "reason": reason,
                "description": _text("The reason in words."),
                "message": message,
            },
        ),
        "FlatError": _object(
            "The error body of the rewards, and of the purchases by the text of their reference.",
            {"error": reason, "message": message},
        ),
        "NestedError": _object(
            "The error body of the purchases by the sample in their reference.",
            {"error": _object("What was refused, and why.", nested)},
        ),
    }


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


def _object(description: str, properties: dict[str, Schema]) -> Schema:
    """An object that has all of these properties, and may have more."""
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": list(properties),
        "additionalProperties": True,
    }
