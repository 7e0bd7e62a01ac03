"""
What an import costs, each in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.contenders import found
from benchmarks.figures import Figures
from benchmarks.ours import OURS

_TIMED = "import time; began = time.process_time(); import {}; print(time.process_time() - began)"
_MODULES = {
    OURS: "crowdtwist_async",
    "httpx": "httpx",
    "httpx2": "httpx2",
    "httpx + pydantic": "httpx, pydantic",
    "aiohttp": "aiohttp",
    "aiohttp + pydantic": "aiohttp, pydantic",
    "OpenAI SDK": "openai",
    "dlt": "dlt.sources.helpers.rest_client",
}


def measure_imports(rounds: int) -> Figures:
    """Let them take turns; CPU time."""
    there = {
        name: modules
        for name, modules in _MODULES.items()
        if all(found(module.partition(".")[0]) for module in modules.split(", "))
    }
    taken: dict[str, list[float]] = {name: [] for name in there}
    for turn in range(rounds + 1):
        for name, modules in there.items():
            command = [sys.executable, "-c", _TIMED.format(modules)]
            seconds = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            if turn:  # the first round writes and reads the byte code
                taken[name].append(seconds * 1e3)
    return Figures("import", "ms", taken, OURS)
