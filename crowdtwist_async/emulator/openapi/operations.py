"""
The operations: where each endpoint lies, what it takes, and how it is asked for.
"""

from __future__ import annotations

from typing import Any

from crowdtwist_async._arguments import MAX_PAGE_SIZE
from crowdtwist_async._protocol import POINTS, PURCHASES, REWARDS, Endpoint
from crowdtwist_async.emulator.calls import POINTS_PARAMETERS
from crowdtwist_async.emulator.catalogue import reward
from crowdtwist_async.emulator.members import FIRST_ID
from crowdtwist_async.emulator.openapi.refusals import refusal_responses
from crowdtwist_async.emulator.openapi.schemas import Schema, descriptions, reference
from crowdtwist_async.emulator.purchases import History
from crowdtwist_async.models import IdType

Parameter = dict[str, Any]

BY_ATTRIBUTE = f"{POINTS.name}_by_attribute"
"""The operation id of the points' second path; those of the others are the endpoints' names."""

TAGS = {
    POINTS.name: ("Points Awaiting Fulfillment", "The points of one member that are not fulfilled yet."),
    REWARDS.name: ("User Rewards", "Version 2.1: the rewards that are available to one member, 10 a page."),
    PURCHASES.name: ("User Purchase History", "One member's purchases, 10 a page."),
}
"""What each endpoint is called, and what it gives."""
SECURITY: dict[str, list[dict[str, list[str]]]] = {
    "api": [{"keyInQuery": []}, {"signature": [], "signatureTimestamp": []}],
    "pos": [{"keyInHeader": []}],
}

_ATTRIBUTES = {
    "email_address": "The member's e-mail address.",
    "mobile_phone_number": "The member's phone number.",
    "third_party_id": "The id that the program's own systems gave the member.",
}
_EXAMPLE_ID = str(FIRST_ID + 1)


def paths() -> dict[str, dict[str, Any]]:
    """The path items without their servers."""
    user = _user("The member's id, of the type that `id_type` names, percent-encoded.")
    return {
        "/fulfillment/users/{user_id}": {
            "get": _operation(
                POINTS, POINTS.name, "Points of a member, by CrowdTwist id", [_user("The CrowdTwist id.")]
            )
        },
        "/fulfillment/users": {
            "get": _operation(POINTS, BY_ATTRIBUTE, "Points of a member, by an attribute", _attributes())
            | {"description": "At least one attribute is needed; all that are given must name one member."}
        },
        "/v2.1/users/{user_id}/rewards": {
            "get": _operation(
                REWARDS, REWARDS.name, "Rewards of a member", [user, _id_type(REWARDS), *_rewards_only()]
            )
        },
        "/users/{user_id}/purchases": {
            "get": _operation(
                PURCHASES,
                PURCHASES.name,
                "Purchases of a member",
                [user, _id_type(PURCHASES), *_purchases_only()],
            )
        },
    }


def endpoint_of(operation: dict[str, Any]) -> Endpoint:
    """The endpoint that an operation belongs to."""
    return {endpoint.name: endpoint for endpoint in (POINTS, REWARDS, PURCHASES)}[operation["tags"][0]]


def _operation(endpoint: Endpoint, name: str, summary: str, parameters: list[Parameter]) -> dict[str, Any]:
    content = {"application/json": {"schema": _good(endpoint), "example": _example(endpoint)}}
    return {
        "tags": [endpoint.name],
        "operationId": name,
        "summary": summary,
        "parameters": parameters,
        "security": SECURITY[endpoint.host],
        "responses": {
            "200": {"description": _GOOD[endpoint.name], "content": content},
            **refusal_responses(endpoint.name),
        },
    }


_GOOD = {
    POINTS.name: "The member's points.",
    REWARDS.name: "A page of rewards, which is empty out of range.",
    PURCHASES.name: "A page of purchases, which is empty out of range.",
}


def _good(endpoint: Endpoint) -> Schema:
    if endpoint is REWARDS:
        return {"anyOf": [reference("RewardsPage"), reference("SingleRewardPage")]}
    return reference("PurchasesPage" if endpoint is PURCHASES else endpoint.model.__name__)


def _example(endpoint: Endpoint) -> Any:
    """A small good reply, of the rows that the emulator serves."""
    if endpoint is POINTS:
        body = {"total_points_awaiting_fulfillment": 1250, "bonus_points_awaiting_fulfillment": 300}
        return {"user_id": int(_EXAMPLE_ID), **body}
    if endpoint is REWARDS:
        only = {"total": 1, "pages": 1, "next_page": None, "prev_page": None}
        return {"paging": only, "rewards": [reward(0, 0)]}
    whole = {"total": 2, "pages": 1, "next_page": "", "prev_page": ""}
    rows = [History(0, 1, 2, 2).row(serial) for serial in (1, 0)]
    return {"purchases": rows, "paging": whole}


def _user(description: str) -> Parameter:
    return {
        "name": "user_id",
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string", "minLength": 1},
        "example": _EXAMPLE_ID,
    }


def _query(name: str, description: str, schema: Schema) -> Parameter:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def _attributes() -> list[Parameter]:
    return [_query(name, _ATTRIBUTES[name], {"type": "string", "minLength": 1}) for name in POINTS_PARAMETERS]


def _id_type(endpoint: Endpoint) -> Parameter:
    """The id types in the order of the model, with what it says of them."""
    texts = descriptions("IdType")
    kinds = [kind for kind in IdType if kind in endpoint.id_types]
    said = "".join(f"\n* `{kind}`: {texts[kind.name]}" for kind in kinds if kind.name in texts)
    schema = {"type": "string", "enum": [str(kind) for kind in kinds], "default": str(IdType.ID)}
    return _query("id_type", f"What `user_id` is matched against.\n{said}", schema)


def _page() -> Parameter:
    words = (
        "The page, counted from 1. Without one, or with one that is no integer, it is page 1. At 0 or below"
        " the page is empty and links to page 1; beyond the last, it is empty and links to the last."
    )
    return _query("page", words, {"type": "integer", "default": 1})


def _rewards_only() -> list[Parameter]:
    size = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_SIZE, "default": MAX_PAGE_SIZE}
    flag = {"type": "string", "enum": ["true", "false"], "default": "false"}
    return [
        _page(),
        _query("page_size", f"Rewards on a page, {MAX_PAGE_SIZE} at most.", size),
        _query("include_soldout", "Whether rewards of which none are left come too.", flag),
    ]


def _purchases_only() -> list[Parameter]:
    day = {"type": "string", "format": "date"}
    return [
        _page(),
        _query("date_start", "The first day, in UTC, included. Alone: from then until today.", day),
        _query(
            "date_end", "The last day, in UTC, included; not before `date_start`. Alone: until then.", day
        ),
    ]
