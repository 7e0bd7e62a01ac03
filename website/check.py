"""
What was built is complete in itself: each link and anchor leads somewhere, nothing is loaded from elsewhere.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

_LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}
_STYLE = re.compile(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//")


class Link(NamedTuple):
    """What an element of a page leads to, or loads."""

    tag: str
    target: str


class Reader(HTMLParser):
    """Notes the anchors and the links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[Link] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one element."""
        found = dict(attrs)
        self.anchors |= {found[name] or "" for name in ("id", "name") if name in found}
        target = found.get(_LOADED.get(tag, "href"))
        if target is not None:
            self.links.append(Link(tag, target))


def problems_of(site: Path) -> list[str]:
    """Name the links that lead nowhere and what is loaded from other hosts, each with its page."""
    pages = {path: Reader(path.read_text()) for path in sorted(site.rglob("*.html"))}
    found = [
        f"{path.relative_to(site)}: {problem}"
        for path, page in pages.items()
        for link in page.links
        if (problem := _problem(link, path, site, pages))
    ]
    styles = [path for path in site.rglob("*.css") if _STYLE.search(path.read_text())]
    return found + [f"{path.relative_to(site)}: loads from another host" for path in styles]


def _problem(link: Link, page: Path, site: Path, pages: dict[Path, Reader]) -> str | None:
    parts = urlsplit(link.target)
    if parts.scheme == "data":
        return None
    if parts.scheme or parts.netloc:
        if link.tag in _LOADED:
            return f"<{link.tag}> loads {link.target}"
        # Nobody means one: it is a path with a slash too many.
        return None if parts.scheme else f"{link.target} leads to another host"
    # The page of errors is shown in the place of any other, so its links start at the root.
    start = site if parts.path.startswith("/") else page.parent
    path = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else page
    if path.is_dir():
        path /= "index.html"
    if not path.is_file():
        return f"{link.target} leads nowhere"
    anchor = unquote(parts.fragment)
    if anchor and path in pages and anchor not in pages[path].anchors | {"__search"}:
        return f"{link.target} has no such anchor"
    return None
