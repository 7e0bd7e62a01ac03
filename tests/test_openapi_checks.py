"""
The OpenAPI document against its specification, the samples of the vendor's reference, the emulator, and the client.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest
from cattrs import Converter
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from jsonschema.validators import extend
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError
from referencing.exceptions import Unresolvable

from crowdtwist_async._convert import make_converter
from crowdtwist_async._protocol import POINTS, PURCHASES, REWARDS
from crowdtwist_async._secrets import Secret
from crowdtwist_async.emulator import Emulator, Fault
from crowdtwist_async.emulator.calls import POINTS_PARAMETERS, route
from crowdtwist_async.emulator.openapi import document
from crowdtwist_async.emulator.openapi.operations import BY_ATTRIBUTE
from crowdtwist_async.emulator.openapi.refusals import REFUSALS
from crowdtwist_async.models import Reward
from crowdtwist_async.transports import Reply, Request

DOCUMENT = document()
OPERATIONS = {item["get"]["operationId"]: item["get"] for item in DOCUMENT["paths"].values()}
ENDPOINTS = {endpoint.name: endpoint for endpoint in (POINTS, REWARDS, PURCHASES)}
REPLIES = Path(__file__).parent / "replies"
SAMPLES = sorted(REPLIES.glob("*/*.json"))
MEMBERS = 30
PUBLIC = "emulator-key"

on_every_operation = pytest.mark.parametrize("name", OPERATIONS)


def items_once(
    validator: Any, schema: dict[str, Any], items: Any, parent: dict[str, Any]
) -> Iterator[ValidationError]:
    """Judge the items of a list, but those among which nothing is new and nothing was wrong."""
    listed = items if isinstance(items, list) else []
    new = {f"{schema} {json.dumps(item)}" for item in listed} - FINE
    found = [*Draft202012Validator.VALIDATORS["items"](validator, schema, items, parent)] if new else []
    if not found:
        FINE.update(new)
    yield from found


FINE: set[str] = set()
"""Schemas of the document with items of lists that are as they say."""
Validator = extend(Draft202012Validator, {"items": items_once})


def judge(schema: dict[str, Any]) -> Any:
    """A validator of a schema that refers to others of the document, formats included."""
    whole = {**schema, "components": DOCUMENT["components"]}
    return Validator(whole, format_checker=FormatChecker())


JUDGES = {
    (name, status): judge(response["content"]["application/json"]["schema"])
    for name, operation in OPERATIONS.items()
    for status, response in operation["responses"].items()
}


def wrong(name: str, status: int | str, body: Any) -> list[str]:
    """What a reply has that the operation's document does not allow."""
    key = "5XX" if isinstance(status, int) and status >= 500 else str(status)
    return [f"{error.json_path}: {error.message}" for error in JUDGES[name, key].iter_errors(body)]


def test_it_is_valid() -> None:
    """By the official schema of OpenAPI 3.1, its schemas by JSON Schema 2020-12, its examples by their schemas."""
    validate(DOCUMENT, cls=OpenAPIV31SpecValidator)
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda copied: copied.pop("info"), id="no-info"),
        pytest.param(lambda copied: copied["paths"]["/fulfillment/users"]["get"].update(tags=1), id="tags"),
        pytest.param(lambda copied: copied["components"]["schemas"].pop("Flag"), id="reference"),
    ],
)
def test_the_validator_sees_faults(spoil: Callable[[dict[str, Any]], Any]) -> None:
    """Of the kinds that a slip would make."""
    copied = deepcopy(DOCUMENT)
    spoil(copied)

    with pytest.raises((OpenAPIValidationError, Unresolvable)):
        validate(copied, cls=OpenAPIV31SpecValidator)


@on_every_operation
def test_its_own_examples_are_valid(name: str) -> None:
    """Of every status."""
    for status, response in OPERATIONS[name]["responses"].items():
        content = response["content"]["application/json"]
        examples = (
            [content["example"]]
            if status == "200"
            else [one["value"] for one in content["examples"].values()]
        )
        assert examples
        assert [[]] * len(examples) == [wrong(name, status, example) for example in examples]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_samples_of_the_reference_are_valid(path: Path) -> None:
    """Each in a good reply, or in one of its endpoint's refusals."""
    name, body = path.parent.name, json.loads(path.read_text(encoding="utf-8"))
    statuses = [status for status in OPERATIONS[name]["responses"] if wrong(name, status, body) == []]

    refusals = [status for status in OPERATIONS[name]["responses"] if status != "200"]
    good = path.stem in ("sample", "page")
    assert (["200"] if good else refusals) == statuses


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        pytest.param(POINTS.name, 200, {"user_id": 1}, id="missing"),
        pytest.param(REWARDS.name, 200, {"paging": {}}, id="no-rewards"),
        pytest.param(REWARDS.name, 200, {"paging": [{}, {}], "rewards": []}, id="two-pagings"),
        pytest.param(PURCHASES.name, 200, {"paging": {}, "purchases": [{}]}, id="empty-purchase"),
        pytest.param(PURCHASES.name, 404, {"error": {"message": "x"}}, id="no-reasons"),
        pytest.param(POINTS.name, 400, {"error": "x", "message": "y"}, id="body-of-another-endpoint"),
    ],
)
def test_other_bodies_are_not(name: str, status: int, body: Any) -> None:
    """What the client refuses to read as such."""
    assert wrong(name, status, body)


# The emulator


def ask(emulator: Emulator, *targets: str, key: str = PUBLIC) -> list[Reply]:
    """Ask in process; each with the key where its host looks for it."""

    def request(target: str) -> Request:
        path, _, query = target.partition("?")
        on_api = path.startswith("/v2.1/")
        return Request(
            endpoint="",
            origin="http://localhost",
            path=path,
            query=query,
            secret_query=Secret(f"api_key={key}") if on_api else None,
            secret_header=None if on_api else Secret(f"CTApiKey {key}"),
        )

    async def ask_all() -> list[Any]:
        transport = emulator.transport()
        return [await transport.send(request(target)) for target in targets]

    return anyio.run(ask_all)


def operation_of(target: str) -> str:
    """The operation that a target belongs to."""
    name, user = route(target.partition("?")[0])
    assert name is not None
    return BY_ATTRIBUTE if name == POINTS.name and user is None else name


def judged(emulator: Emulator, *targets: str, key: str = PUBLIC) -> dict[int, set[str]]:
    """Ask, find nothing wrong, and return the reasons by status."""
    found: dict[int, set[str]] = defaultdict(set)
    for target, reply in zip(targets, ask(emulator, *targets, key=key), strict=True):
        body = json.loads(reply.body)
        assert [] == wrong(operation_of(target), reply.status, body), target
        found[reply.status].add(reason_of(body) if reply.status != 200 else "")
    return found


def reason_of(body: Any) -> str:
    """The reason in any of the three bodies."""
    error = body.get("error", body)
    reason = error if isinstance(error, str) else error.get("reason") or error["errors"][0]["reason"]
    return str(reason)


def targets_of(name: str) -> list[str]:
    """Every member by every id type, every page and some beyond, with every parameter."""
    emulator = Emulator(members=MEMBERS)
    if name == BY_ATTRIBUTE:
        kinds = POINTS_PARAMETERS.items()
        return [
            f"/fulfillment/users?{parameter}={quote(user, safe='')}"
            for parameter, kind in kinds
            for user in emulator.member_ids(kind)
        ]
    if name == POINTS.name:
        return [f"/fulfillment/users/{user}" for user in emulator.member_ids()]
    path = "/v2.1/users/{}/rewards" if name == REWARDS.name else "/users/{}/purchases"
    more = (
        ["&include_soldout=true", "&page_size=1", "&page_size=3&page=2"]
        if name == REWARDS.name
        else ["&date_start=2026-01-01", "&date_end=2026-01-01", "&date_start=2020-01-01&date_end=2026-12-31"]
    )
    targets = []
    for kind in sorted(ENDPOINTS[name].id_types):
        for user in emulator.member_ids(kind):
            base = f"{path.format(quote(user, safe=''))}?id_type={kind}"
            targets += [base, *(base + query for query in more)]
    base = path.format(10_000_001)
    return [*targets, *(f"{base}?page={page}" for page in range(-2, 20)), f"{base}?page=two"]


@on_every_operation
def test_good_replies_of_the_emulator_are_valid(name: str) -> None:
    """All endpoints, id types, members, pages and parameters."""
    targets = targets_of(name)

    assert {200: {""}} == judged(Emulator(members=MEMBERS), *targets)
    assert len(targets) >= MEMBERS


BAD = {
    POINTS.name: ["/fulfillment/users/1"],
    BY_ATTRIBUTE: ["/fulfillment/users", "/fulfillment/users?third_party_id=x"],
    REWARDS.name: ["/v2.1/users/1/rewards", "/v2.1/users/1/rewards?id_type=x"],
    PURCHASES.name: [
        "/users/1/purchases",
        *(f"/users/1/purchases?{query}" for query in ("id_type=x", "date_start=x", "date_end=2026-02-30")),
        "/users/1/purchases?date_start=2026-01-02&date_end=2026-01-01",
    ],
}


@on_every_operation
def test_refusals_of_the_emulator_are_described(name: str) -> None:
    """Their statuses, bodies and reasons: whatever it can say, and nothing is described that it can't."""
    target, others = BAD[name][0], [Fault.status(status) for status in (500, 502, 503)]
    endpoint = OPERATIONS[name]["tags"][0]
    broken = Emulator(faults=[*others, Fault.status(500, reason="not_configured")])
    full = Emulator(per_minute=1, clock=lambda: 0.0)
    found: dict[str, set[str]] = defaultdict(set)
    for seen in (
        judged(Emulator(), *BAD[name]),
        judged(Emulator(), target, key="wrong"),
        judged(broken, *[target] * 4),
        judged(full, target, target),
        judged(Emulator(rewards=0), "/v2.1/users/10000000/rewards") if name == REWARDS.name else {},
        {405: {"not_supported"}},
    ):
        for status, reasons in seen.items():
            found["5XX" if status >= 500 else str(status)] |= reasons

    described: dict[str, set[str]] = defaultdict(set)
    for refusal in REFUSALS[endpoint]:
        described[refusal.status].add(refusal.reason)
    if name == POINTS.name:
        described["400"].remove("missing_data")  # an id in the path is there, whatever it is
    assert described == found


# The client


LEAVES: list[tuple[str, Any]] = [
    ("Integer", int),
    ("Text", str),
    ("Flag", bool),
    ("UnixSeconds", datetime | None),
    ("Instant", datetime | None),
]
DIGITS = st.from_regex(r"-?[0-9]{1,12}(\.[0-9]{1,3})?", fullmatch=True)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-1, 2),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.sampled_from(
        ["0", "1", "true", "TRUE", "False", "yes", "", " ", "2018-01-01T11:00:18Z", "01", "-", "٣"]
    ),
    DIGITS,
    st.datetimes(min_value=datetime(1900, 1, 1), timezones=st.just(UTC)).map(
        lambda moment: moment.isoformat()
    ),
    st.lists(st.none(), max_size=1),
    st.dictionaries(st.text(max_size=2), st.none(), max_size=1),
)


def reads(converter: Converter, value: Any, kind: Any) -> bool:
    """Whether the client takes a value."""
    with suppress(Exception):
        converter.structure(value, kind)
        return True
    return False


@pytest.mark.parametrize(("name", "kind"), LEAVES, ids=[name for name, _ in LEAVES])
@given(value=SCALARS)
def test_the_client_reads_whatever_is_allowed(name: str, kind: Any, value: Any) -> None:
    """And what it reads of texts, flags and whole numbers is allowed."""
    allowed = judge({"$ref": f"#/components/schemas/{name}"}).is_valid(value)
    read = reads(make_converter(), value, kind)

    if isinstance(value, float) and name != "UnixSeconds":
        return  # JSON Schema takes 1.0 for an integer, of any size
    assert read or not allowed
    if name in ("Integer", "Text", "Flag"):
        assert allowed == read


@pytest.mark.parametrize("missing", [True, False], ids=["missing", "null"])
@pytest.mark.parametrize("field", DOCUMENT["components"]["schemas"]["Reward"]["properties"])
def test_the_client_misses_what_is_required(field: str, missing: bool) -> None:
    """Field by field of a reward, absent and null: both agree."""
    page = json.loads((REPLIES / "user_rewards" / "page.json").read_text(encoding="utf-8"))
    sent = page["rewards"][0] | {field: None}
    if missing:
        del sent[field]

    allowed = wrong(REWARDS.name, 200, page | {"rewards": [sent]}) == []
    assert allowed == reads(make_converter(), sent, Reward)
