"""
What the emulator serves about itself: the document, and a page that shows it and lets one try it.

The page is one origin's alone: it loads nothing, and asks nobody, but the emulator that serves it.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from crowdtwist_async.emulator.answers import JSON_TYPE, Answer, Headers
from crowdtwist_async.emulator.openapi.document import rendered

PUBLIC_KEY = "emulator-key"
"""The key that every emulator has unless told otherwise: the page may show it, and no other."""

_PAGE = ("page.html", b"text/html; charset=utf-8")
_TYPES = {
    "/docs": _PAGE,
    "/docs/": _PAGE,
    "/docs/page.css": ("page.css", b"text/css; charset=utf-8"),
    "/docs/page.js": ("page.js", b"text/javascript; charset=utf-8"),
}
_POLICY = (
    b"default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self'; img-src data:;"
    b" base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SECURITY: Headers = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", _POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


def page(path: str, method: str, api_key: str) -> Answer | None:
    """Answer what is about the emulator itself; `None`: the path is the API's."""
    if path != "/openapi.json" and path not in _TYPES:
        return None
    if method not in ("GET", "HEAD"):
        return Answer(405, b"", ((b"allow", b"GET, HEAD"),))
    if path == "/openapi.json":
        return Answer(200, rendered("/").encode(), JSON_TYPE + _SECURITY)
    name, kind = _TYPES[path]
    shown = PUBLIC_KEY if api_key == PUBLIC_KEY else ""
    return Answer(200, _text(name).replace("{key}", shown).encode(), ((b"content-type", kind), *_SECURITY))


@cache
def _text(name: str) -> str:
    return files("crowdtwist_async.emulator.openapi").joinpath("browse", name).read_text(encoding="utf-8")
