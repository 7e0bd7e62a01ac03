"""
Decoding alone: from the bytes of a page of 10 rewards to objects.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import msgspec

from benchmarks.contenders import found
from benchmarks.figures import Figures
from benchmarks.ours import KEY, OURS
from benchmarks.rounds import in_a_new_process
from benchmarks.server import page_body
from benchmarks.shapes import msgspec_page, pydantic_page
from crowdtwist_async._config import make_settings
from crowdtwist_async._protocol import rewards_call
from crowdtwist_async._secrets import Secret

PYDANTIC = "pydantic, frozen"
PYDANTIC_MUTABLE = "pydantic"


def decoders() -> dict[str, Callable[[bytes], Any]]:
    """How each of them turns a body into objects."""
    call = rewards_call(make_settings(api_key=Secret(KEY), client_id=1), "1", id_type="id")
    ways: dict[str, Callable[[bytes], Any]] = {
        OURS: lambda body: call.decode(msgspec.json.decode(body), call),
        "json.loads, no objects": json.loads,
        "msgspec.json.decode, no objects": msgspec.json.decode,
        "msgspec structs": msgspec.json.Decoder(msgspec_page(), strict=False).decode,
    }
    if found("pydantic"):
        ways[PYDANTIC] = pydantic_page().model_validate_json
        ways[PYDANTIC_MUTABLE] = pydantic_page(import_module("pydantic").BaseModel).model_validate_json
    return ways


def measure_decode(rounds: int, pages: int) -> Figures:
    """Let them take turns, in one process after the other."""
    taken = [in_a_new_process("benchmarks.decode", pages) for _ in range(rounds)]
    by_name = {name: [figures[name] for figures in taken] for name in taken[0]}
    return Figures("decoding a page", "us", by_name, OURS)


def _one_round(pages: int) -> dict[str, float]:
    """Microseconds of CPU a page."""
    body = page_body()
    taken: dict[str, float] = {}
    for name, decode in decoders().items():
        for _ in range(pages):
            decode(body)
        gc.collect()
        started = time.process_time()
        for _ in range(pages):
            decode(body)
        taken[name] = (time.process_time() - started) / pages * 1e6
    return taken


if __name__ == "__main__":
    print(json.dumps(_one_round(int(sys.argv[1]))))
