"""
Replies, and the error bodies of the three endpoints, which have nothing in common.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from crowdtwist_async.emulator.calls import POINTS, REWARDS, Send

Headers = tuple[tuple[bytes, bytes], ...]

JSON_TYPE: Headers = ((b"content-type", b"application/json"),)
HTML_TYPE: Headers = ((b"content-type", b"text/html"),)


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply, before its length is known to anyone."""

    status: int
    body: bytes = field(repr=False)
    headers: Headers = field(default=JSON_TYPE, repr=False)
    rows: int = 0
    """How many rows of the endpoint the body holds."""


def refusal(endpoint: str | None, status: int, reason: str, message: str, headers: Headers = ()) -> Answer:
    """
    Say no in the endpoint's own words.

    An unknown path belongs to no endpoint: it gets the page of a web server, without a code that
    a client could take for a missing user.
    """
    if endpoint is None:
        page = f"<html><head><title>{status} {_phrase(status)}</title></head></html>"
        return Answer(status, page.encode(), HTML_TYPE + headers)
    body = error_body(endpoint, status, reason, message)
    return Answer(status, json.dumps(body).encode(), JSON_TYPE + headers)


def error_body(endpoint: str, status: int, reason: str, message: str) -> dict[str, Any]:
    """Build the error body that the reference gives for this endpoint."""
    if endpoint == POINTS:
        description = reason.replace("_", " ").capitalize()
        return {"system": "pos", "reason": reason, "description": description, "message": message}
    if endpoint == REWARDS:
        return {"error": reason, "message": message}
    # The reference's table promises {error, message} here as well; its sample is this.
    errors = [{"reason": reason, "message": message}]
    return {"error": {"code": status, "message": _phrase(status).capitalize(), "errors": errors}}


async def begin(answer: Answer, send: Send) -> None:
    """Send the status and the headers, with the length of the whole body."""
    length = (b"content-length", str(len(answer.body)).encode())
    await send({"type": "http.response.start", "status": answer.status, "headers": [*answer.headers, length]})


async def deliver(answer: Answer, send: Send) -> None:
    """Send the whole reply."""
    await begin(answer, send)
    await send({"type": "http.response.body", "body": answer.body})


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
