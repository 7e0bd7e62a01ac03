"""
Cases that once went wrong: kept as files, and replayed by the tests.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from crowdtwist_async import Reply

CRASHES = Path(__file__).parent / "crashes"


class Case(NamedTuple):
    """A reply to one of the calls."""

    name: str
    call: int
    reply: Reply


def keep(call: int, reply: Reply, error: BaseException) -> Path:
    """Write a case down; the same one twice is the same file."""
    content: dict[str, Any] = {
        "call": call,
        "status": reply.status,
        "headers": dict(reply.headers),
        "body": base64.b64encode(reply.body).decode(),
        "error": f"{type(error).__name__}: {error}"[:200],
    }
    name = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
    path = CRASHES / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def kept() -> list[Case]:
    """All of them."""
    cases = []
    for path in sorted(CRASHES.glob("*.json")):
        content = json.loads(path.read_text())
        reply = Reply(content["status"], content["headers"], base64.b64decode(content["body"]))
        cases.append(Case(path.stem, content["call"], reply))
    return cases
