"""
The whole document: what it is, the two hosts, the keys, and the parts from the other modules.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from crowdtwist_async.emulator.openapi.operations import TAGS, endpoint_of, paths
from crowdtwist_async.emulator.openapi.refusals import error_schemas
from crowdtwist_async.emulator.openapi.schemas import model_schemas

VERSION = "1.0.0"
"""Of the document, not of the API: what makes clients differ raises it."""

_DESCRIPTION = """\
The three read endpoints of the Oracle CrowdTwist loyalty API, as the open-source client `crowdtwist-async` \
knows them. The project wrote this document; it is not the vendor's, who publishes none. Where the vendor's \
reference contradicts itself or is silent, it says what that client accepts.

* A program may send 10,000 requests a minute, all of its traffic together.
* New properties come at any time: ignore those that you do not know.
* The api host takes the key in the query. The key is then part of the URL, and of whatever logs URLs.
* Something between you and the API may answer with HTML, or with nothing; no such answer is listed here.
"""
_ENVIRONMENTS = ("", "sb-", "sb2-", "de-", "us2-")
_HOSTS = {"api": "Rewards.", "pos": "Points and purchases."}
_PROVISIONAL = (
    " Optional, by agreement with the vendor, instead of `keyInQuery`. Provisional: drawn from prose, and not"
    " tried against the API. An emulator takes it if it was given a key pair."
)


def document(server: str | None = None) -> dict[str, Any]:
    """
    Build the OpenAPI 3.1 document.

    Args:
        server: The URL of an emulator, which answers for both hosts and comes before them.
    """
    own = [] if server is None else [{"url": server, "description": "The emulator."}]
    found = paths()
    for item in found.values():
        item["servers"] = [*own, _host(endpoint_of(item["get"]).host)]
    return {
        "openapi": "3.1.0",
        "info": _info(),
        "servers": [*own, *map(_host, _HOSTS)],
        "tags": [
            {"name": name, "x-displayName": title, "description": words}
            for name, (title, words) in TAGS.items()
        ],
        "paths": found,
        "components": {
            "schemas": {**model_schemas(), **error_schemas()},
            "securitySchemes": _security_schemes(),
        },
    }


@cache
def rendered(server: str | None = None) -> str:
    """Write the document as JSON text that ends with its last line's end."""
    return json.dumps(document(server), indent=2, ensure_ascii=False) + "\n"


def _info() -> dict[str, Any]:
    return {
        "title": "CrowdTwist: points, rewards, purchases",
        "version": VERSION,
        "summary": "An unofficial description, checked against the emulator of crowdtwist-async.",
        "description": _DESCRIPTION,
        "license": {"name": "MIT", "identifier": "MIT"},
    }


def _host(name: str) -> dict[str, Any]:
    return {
        "url": f"https://{{environment}}{name}{{client_id}}.crowdtwist.com",
        "description": _HOSTS[name],
        "variables": {
            "environment": {
                "enum": list(_ENVIRONMENTS),
                "default": "",
                "description": "Production in the US has none, its sandboxes `sb-` and `sb2-`; `de-` and"
                " `us2-` are production elsewhere. Each has keys of its own.",
            },
            "client_id": {
                "default": "",
                "description": "The number that CrowdTwist gave the program, such as 201; some have none.",
            },
        },
    }


def _security_schemes() -> dict[str, Any]:
    header = {"type": "apiKey", "in": "header"}
    return {
        "keyInQuery": {
            "type": "apiKey",
            "in": "query",
            "name": "api_key",
            "description": "The API key, on the api host alone.",
        },
        "keyInHeader": {
            **header,
            "name": "X-CT-Authorization",
            "description": "`CTApiKey KEY`, with one space, on the pos host alone.",
        },
        "signature": {
            **header,
            "name": "X-CT-Authorization",
            "description": "`CTApiV2Auth PUBLIC_KEY:SIGNATURE`: an HMAC-SHA256, in Base64, of the method, two"
            " empty lines, the timestamp and the request's URI, on the api host alone." + _PROVISIONAL,
        },
        "signatureTimestamp": {
            **header,
            "name": "X-CT-Timestamp",
            "description": "When the request was signed: unix time, in milliseconds by the vendor's examples;"
            " 15 minutes off are accepted." + _PROVISIONAL,
        },
    }
