"""
`python -m benchmarks.profiles`: where the time of a page goes, as pyinstrument's text, by transport.

Writes a file for each to `benchmarks/profiles`: the tree of calls, by CPU time. Pages are asked for one
after the other, on loopback.
"""

from __future__ import annotations

import asyncio
import re
import time
from importlib import import_module
from pathlib import Path

from benchmarks.contenders import Contender, taking_part
from benchmarks.ours import OURS, OURS_AIOHTTP, Site
from benchmarks.sites import site

_FOLDER = Path(__file__).with_name("profiles")
_FILES = {OURS: "default.txt", OURS_AIOHTTP: "aiohttp.txt"}
_PAGES = 4_000
_INTERVAL = 0.0002
_LEAST = 0.8
"""Per cent of the whole below which a line is left out."""


async def _profile(contender: Contender, at: Site) -> str:
    profiler = import_module("pyinstrument").Profiler(interval=_INTERVAL)
    # By CPU time: on a busy machine the rest is what others do meanwhile.
    import_module("pyinstrument.stack_sampler").get_stack_sampler().timer_func = time.process_time
    renderer = import_module("pyinstrument.renderers.console").ConsoleRenderer
    async with contender.open(at) as page:
        for _ in range(50):
            await page(1)
        with profiler:
            for _ in range(_PAGES):
                await page(1)
    options = {"show_all": True, "unicode": True, "time": "percent_of_total"}
    return "\n".join(_shares(profiler.output(renderer(**options)))) + "\n"


def _shares(text: str) -> list[str]:
    """The lines of what takes its least share of the whole."""
    shares = [(re.search(r"([0-9.]+)%", line), line.rstrip()) for line in text.splitlines()]
    return [line for share, line in shares if share and float(share[1]) >= _LEAST]


def main() -> None:
    """Profile and write."""
    _FOLDER.mkdir(exist_ok=True)
    with site() as at:
        for contender in taking_part(*_FILES):
            text = asyncio.run(_profile(contender, at))
            (_FOLDER / _FILES[contender.name]).write_text(text)
            print(f"{_FOLDER / _FILES[contender.name]}: {len(text.splitlines())} lines")


if __name__ == "__main__":
    main()
