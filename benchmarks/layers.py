"""
The share of each layer in a profile: each frame's own time, by the file that it is in.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

_OURS = "crowdtwist_async/"
_LAYERS = (
    ("decoding", (f"{_OURS}_convert", f"{_OURS}_slots", "json_decode", "/attr/", "/cattrs/")),
    ("replies and pages", (f"{_OURS}_replies", f"{_OURS}_protocol", f"{_OURS}_page")),
    ("emulator", (f"{_OURS}emulator/",)),
    ("export", (f"{_OURS}export/", "sqlite3", "/json/")),
    ("transport", (f"{_OURS}transports/",)),
    ("sending", (_OURS,)),
    ("anyio", ("/anyio/", "/sniffio/")),
    ("httpcore, h11", ("/httpcore/", "/h11/", "/httpx/")),
    ("aiohttp", ("/aiohttp/", "/yarl/", "/multidict/", "/propcache/", "/frozenlist/")),
)
_REST = "event loop, sockets, the rest"


def layer_of(path: str, function: str) -> str:
    """The first layer that has this file, or this built-in function."""
    place = f"{path.replace(chr(92), '/')} {function}"
    return next((name for name, parts in _LAYERS if any(part in place for part in parts)), _REST)


def shares(root: Any) -> dict[str, float]:
    """Per cent of the whole by layer, of a tree of pyinstrument's frames; the largest first."""
    seconds: dict[str, float] = defaultdict(float)
    _collect(root, _REST, seconds)
    whole = sum(seconds.values())
    ranked = sorted(seconds.items(), key=lambda item: -item[1])
    return {name: 100 * taken / whole for name, taken in ranked}


def _collect(frame: Any, caller: str, seconds: dict[str, float]) -> None:
    """A built-in function and a frame that pyinstrument made up belong to their caller."""
    path, function = frame.file_path or "", frame.function
    own = layer_of(path, function) if path.endswith(".py") or function == "json_decode" else caller
    seconds[own] += frame.time - sum(child.time for child in frame.children)
    for child in frame.children:
        _collect(child, own, seconds)
