"""
`python -m benchmarks.profiles`: where the time of a page goes, as pyinstrument's text, by transport.

Writes a file for each to `benchmarks/profiles`: the CPU time of a page, that of each layer, and the tree of
calls. Pages are asked for one after the other, on loopback. A third file has a row of an export of points to
JSON Lines, without a network. The whole is measured without the profiler; it takes several times as long with
it, which makes layers of many small functions look larger than they are.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender, taking_part
from benchmarks.layers import shares
from benchmarks.ours import OURS, OURS_AIOHTTP, Site
from benchmarks.sites import site
from crowdtwist_async.emulator import Emulator
from crowdtwist_async.export import export

_FOLDER = Path(__file__).with_name("profiles")
_FILES = {OURS: "default.txt", OURS_AIOHTTP: "aiohttp.txt"}
_PAGES = 4_000
_FIRST, _MEMBERS = Emulator.first_id, 30_000
_INTERVAL = 0.0002
_LEAST = 0.8
"""Per cent of the whole below which a line is left out."""


def _profiler() -> Any:
    # By CPU time: on a busy machine the rest is what others do meanwhile.
    import_module("pyinstrument.stack_sampler").get_stack_sampler().timer_func = time.thread_time
    return import_module("pyinstrument").Profiler(interval=_INTERVAL)


def _text(profiler: Any, what: str, cpu: float) -> str:
    """What a page or row takes, that by layer, and the tree."""
    renderer = import_module("pyinstrument.renderers.console").ConsoleRenderer
    tree = profiler.output(renderer(show_all=True, unicode=True, time="percent_of_total"))
    found = shares(profiler.last_session.root_frame())
    layers = [f"{share:5.1f}% {cpu * share / 100:5.0f} us  {name}" for name, share in found.items()]
    return "\n".join([f"{what}: {cpu:.0f} us of CPU", "", *layers, "", *_worth_a_line(tree)]) + "\n"


async def _profile(contender: Contender, at: Site) -> str:
    profiler = _profiler()
    async with contender.open(at) as page:

        async def ask(pages: int) -> float:
            started = time.thread_time()
            for _ in range(pages):
                await page(1)
            return (time.thread_time() - started) / pages * 1e6

        await ask(50)
        cpu = await ask(_PAGES)
        with profiler:
            await ask(_PAGES)
    return _text(profiler, f"a page, {contender.name}", cpu)


async def _profile_export(folder: Path) -> str:
    async def run(name: str) -> tuple[float, float]:
        whole, own = time.process_time(), time.thread_time()
        async with Emulator(members=_MEMBERS).client() as client:
            report = await export(client, "points", map(str, range(_FIRST, _FIRST + _MEMBERS)), folder / name)
        whole, own = time.process_time() - whole, time.thread_time() - own
        return own / report.rows * 1e6, (whole - own) / report.rows * 1e6

    profiler = _profiler()
    cpu, others = await run("plain.jsonl")
    with profiler:
        await run("profiled.jsonl")
    what = f"a row of an export of points to JSON Lines ({others:.0f} us in other threads aside)"
    return _text(profiler, what, cpu)


def _worth_a_line(text: str) -> list[str]:
    """The lines of what takes its least share of the whole."""
    found = [(re.search(r"([0-9.]+)%", line), line.rstrip()) for line in text.splitlines()]
    return [line for share, line in found if share and float(share[1]) >= _LEAST]


def main() -> None:
    """Profile and write."""
    _FOLDER.mkdir(exist_ok=True)
    with site() as at:
        for contender in taking_part(*_FILES):
            _write(_FILES[contender.name], asyncio.run(_profile(contender, at)))
    with tempfile.TemporaryDirectory() as folder:
        _write("export.txt", asyncio.run(_profile_export(Path(folder))))


def _write(name: str, text: str) -> None:
    (_FOLDER / name).write_text(text)
    print(text.partition("\n\n")[0], text.split("\n\n")[1], sep="\n", end="\n\n")


if __name__ == "__main__":
    main()
