"""
Rounds that have a process each.

What a process has by chance, the layout of its memory and the order of its sets, then differs between the
rounds of a run as it does between runs: the intervals hold it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def in_a_new_process(module: str, *arguments: object) -> Any:
    """What a module of the benchmarks prints as JSON."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
