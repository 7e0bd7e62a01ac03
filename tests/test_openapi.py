"""
The OpenAPI document: that it cannot drift from the models, the client and the file, and how the emulator serves it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import anyio
import pytest
from attrs import NOTHING, fields
from command import Command, in_this_process  # noqa: F401 - a fixture
from conftest import KEY, leaks
from signatures import PAIR

from crowdtwist_async._config import make_settings
from crowdtwist_async._protocol import POINTS, PURCHASES, REWARDS, points_call, purchases_call, rewards_call
from crowdtwist_async._secrets import Secret
from crowdtwist_async.emulator import Emulator, EmulatorStats, Fault
from crowdtwist_async.emulator.calls import route
from crowdtwist_async.emulator.openapi import document, rendered
from crowdtwist_async.emulator.openapi.operations import BY_ATTRIBUTE
from crowdtwist_async.models import (
    IdType,
    Paging,
    Partner,
    PointsAwaitingFulfillment,
    Purchase,
    Reward,
    Segment,
)
from crowdtwist_async.transports import Reply, Request

DOCUMENT = document()
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = {item["get"]["operationId"]: (path, item["get"]) for path, item in DOCUMENT["paths"].items()}
RENDERED = Path(__file__).parent.parent / "docs" / "openapi.json"
PAGES = ["/openapi.json", "/docs", "/docs/", "/docs/page.css", "/docs/page.js"]
SETTINGS = make_settings(api_key=Secret(KEY), client_id=201)
ENDPOINTS = {endpoint.name: endpoint for endpoint in (POINTS, REWARDS, PURCHASES)}

on_every_page = pytest.mark.parametrize("path", PAGES)


def ask(emulator: Emulator, *targets: str, query: str = "") -> list[Reply]:
    """Ask in process, one after the other."""

    async def ask_all() -> list[Any]:
        transport = emulator.transport()
        requests = [
            Request(endpoint="", origin="http://localhost", path=path, query=query) for path in targets
        ]
        return [await transport.send(request) for request in requests]

    return anyio.run(ask_all)


def sent(emulator: Emulator, path: str, method: str) -> list[Any]:
    """What the app sends for any method."""
    messages: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        messages.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [],
        "scheme": "http",
    }
    anyio.run(emulator, scope, receive, send)
    return messages


def test_the_file_is_what_is_generated() -> None:
    """`crowdtwist openapi > docs/openapi.json` makes it anew."""
    assert rendered() == RENDERED.read_text(encoding="utf-8")
    assert document() == json.loads(rendered())


def test_the_command_prints_it(crowdtwist: Command) -> None:
    """Whole, and nothing else."""
    assert (0, rendered(), "") == crowdtwist("openapi")


@pytest.mark.parametrize(
    "model",
    [PointsAwaitingFulfillment, Reward, Purchase, Paging, Segment, Partner],
    ids=lambda model: model.__name__,
)
def test_schemas_follow_the_models(model: Any) -> None:
    """Fields in their order, all with a text, required without a default, nullable where `None` is a value."""
    schema = SCHEMAS[model.__name__]
    attributes = {attribute.name: attribute for attribute in fields(model)}
    named = [name for name in schema["properties"] if name != "sweepstake_winners"]

    assert [*attributes] == named
    assert all(inner["description"] for inner in schema["properties"].values())
    required = [name for name, attribute in attributes.items() if attribute.default is NOTHING]
    assert required == schema.get("required", [])
    nullable = {name for name in named if {"type": "null"} in schema["properties"][name].get("anyOf", [])}
    assert {name for name in attributes if "None" in str(attributes[name].type)} == nullable
    assert schema["additionalProperties"] is True


def test_every_reference_leads_somewhere() -> None:
    """And every schema and scheme is used."""
    used = set(re.findall(r'"#/components/schemas/(\w+)"', rendered()))
    schemes = {
        name for _, operation in OPERATIONS.values() for either in operation["security"] for name in either
    }

    assert set(SCHEMAS) == used
    assert set(DOCUMENT["components"]["securitySchemes"]) == schemes


CALLS: list[tuple[str, Callable[[str], Any]]] = [
    (POINTS.name, lambda kind: points_call(SETTINGS, "a b/c", kind)),
    (
        REWARDS.name,
        lambda kind: rewards_call(SETTINGS, "a b/c", id_type=kind, page=2, page_size=3, include_soldout=True),
    ),
    (
        PURCHASES.name,
        lambda kind: purchases_call(
            SETTINGS, "a b/c", id_type=kind, page=2, date_start="2026-01-01", date_end="2026-01-02"
        ),
    ),
]


@pytest.mark.parametrize(("name", "call"), CALLS, ids=[name for name, _ in CALLS])
def test_the_client_asks_as_the_document_says(name: str, call: Callable[[str], Any]) -> None:
    """With every id type: its host, its path, and all the parameters that are described."""
    asked: dict[str, set[str]] = {}
    for kind in ENDPOINTS[name].id_types:
        request = call(kind).request(SETTINGS, 1.0)
        by_attribute = name == POINTS.name and kind is not IdType.ID
        path, _ = OPERATIONS[BY_ATTRIBUTE if by_attribute else name]
        [server] = DOCUMENT["paths"][path]["servers"]
        assert path.replace("{user_id}", "a%20b%2Fc") == request.path
        assert server["url"].format(environment="", client_id=201) == request.origin
        asked.setdefault(path, set()).update(re.findall(r"(\w+)=", request.query))

    of_this = {path: operation for path, operation in OPERATIONS.values() if name in operation["tags"]}
    described = {
        path: {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "query"}
        for path, operation in of_this.items()
    }
    assert described == asked
    assert {name} == {route(path.replace("{user_id}", "x"))[0] for path in of_this}


def test_signatures_are_as_described() -> None:
    """In the headers that it names, and an emulator with the pair takes them, as it says."""
    settings = make_settings(
        api_key=Secret(KEY), api_url="http://localhost", pos_url="http://localhost", signing=Secret(PAIR)
    )
    request = rewards_call(settings, Emulator.first_id, id_type="id").request(settings, 1.0)
    reply = anyio.run(Emulator(api_key=KEY, signing=PAIR).transport().send, request)
    assert isinstance(reply, Reply)
    assert 200 == reply.status

    _, signed = OPERATIONS[REWARDS.name][1]["security"]
    schemes = [DOCUMENT["components"]["securitySchemes"][name] for name in signed]
    assert {scheme["name"] for scheme in schemes} == {name for name in request.headers if "X-CT" in name}
    assert [True, True] == ["An emulator takes it if" in scheme["description"] for scheme in schemes]


@pytest.mark.parametrize("name", [REWARDS.name, PURCHASES.name])
def test_id_types_are_those_of_the_client(name: str) -> None:
    """In the model's order."""
    [schema] = [
        parameter["schema"]
        for parameter in OPERATIONS[name][1]["parameters"]
        if parameter["name"] == "id_type"
    ]

    assert [str(kind) for kind in IdType if kind in ENDPOINTS[name].id_types] == schema["enum"]


def test_nothing_of_an_account_is_in_it() -> None:
    """Hosts are made from variables, whose defaults name no program."""
    hosts = {name for server in DOCUMENT["servers"] for name in re.findall(r"//([^/]+)", server["url"])}

    assert {f"{{environment}}{host}{{client_id}}.crowdtwist.com" for host in ("api", "pos")} == hosts
    assert {""} == {
        variable["default"] for server in DOCUMENT["servers"] for variable in server["variables"].values()
    }


@on_every_page
def test_the_emulator_serves_it(path: str) -> None:
    """With a type, uncached, and forbidden to load or ask anything else."""
    [reply] = ask(Emulator(api_key=KEY), path)

    assert 200 == reply.status
    kinds = {"json": "application/json", "css": "text/css", "js": "text/javascript"}
    kind = kinds.get(path.rpartition(".")[2], "text/html")
    assert kind == reply.headers["content-type"].partition(";")[0]
    assert "no-store" == reply.headers["cache-control"]
    assert reply.headers["content-security-policy"].startswith("default-src 'none'; connect-src 'self'")
    assert reply.body
    assert not leaks(reply.body.decode())


def test_the_served_document_names_the_emulator_first() -> None:
    """And is the same otherwise."""
    [reply] = ask(Emulator(), "/openapi.json")

    served = json.loads(reply.body)
    assert "/" == served["servers"].pop(0)["url"]
    for item in served["paths"].values():
        assert "/" == item["servers"].pop(0)["url"]
    assert document() == served


@on_every_page
def test_pages_are_no_requests_to_the_api(path: str) -> None:
    """They count nowhere, take no fault, and no place below the ceiling."""
    emulator = Emulator(faults=[Fault.status(503)], fault_rate=1.0, per_minute=1, clock=lambda: 0.0)

    assert [200] * 3 == [reply.status for reply in ask(emulator, path, path, path)]
    assert EmulatorStats() == emulator.stats
    assert 1 == len(emulator.pending_faults)
    assert [503] == [reply.status for reply in ask(emulator, "/users/1/purchases")]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
@on_every_page
def test_pages_can_only_be_read(path: str, method: str) -> None:
    """The answer says how."""
    start, *_ = sent(Emulator(), path, method)

    assert (405, (b"allow", b"GET, HEAD")) == (start["status"], start["headers"][0])


@pytest.mark.parametrize(
    "path", ["/docs//", "/docs/page.html", "/docs/../page.js", "/openapi.json/", "/openapi.jsonl"]
)
def test_what_is_beside_the_pages_is_an_unknown_path(path: str) -> None:
    """It is answered and counted as ever."""
    emulator = Emulator()

    assert [404] == [reply.status for reply in ask(emulator, path)]
    assert 1 == emulator.stats.requests


@pytest.mark.parametrize(
    ("expected", "key"),
    [pytest.param("emulator-key", "emulator-key", id="the-public-one"), pytest.param("", KEY, id="another")],
)
def test_only_the_public_key_is_filled_in(expected: str, key: str) -> None:
    """Another may be a real one, of a program that is being imitated."""
    [reply] = ask(Emulator(api_key=key), "/docs")

    assert [expected] == re.findall(r'<input id="key"[^>]* value="([^"]*)">', reply.body.decode())


def test_the_page_is_self_contained() -> None:
    """No address but the emulator's own is in its files, and nothing that keeps what is typed."""
    folder = files("crowdtwist_async.emulator.openapi").joinpath("browse")
    text = "\n".join(file.read_text(encoding="utf-8") for file in folder.iterdir())

    assert [] == re.findall(r"(?:https?:)?//(?!\s)[\w.-]+\.\w+|@import|url\(", text)
    assert [] == re.findall(r"localStorage|sessionStorage|cookie|indexedDB|innerHTML|\beval\b", text)


@pytest.mark.anyio
async def test_both_event_loops_can_ask_for_it() -> None:
    """The files are read beside the loop."""
    request = Request(endpoint="", origin="http://localhost", path="/docs", query="")

    reply = await Emulator().transport().send(request)

    assert isinstance(reply, Reply)
    assert 200 == reply.status
