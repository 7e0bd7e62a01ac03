"""
The pages of the site: README.md, CHANGELOG.md and docs as they are, with their links turned to the pages.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import NamedTuple

from website.reference import pages_of_modules, reference_pages

ROOT = Path(__file__).parent.parent
FIRST = [
    "exporting",
    "sharing",
    "sharding",
    "dask",
    "object-stores",
    "capacity",
    "deployment",
    "signing",
    "telemetry",
    "testing",
    "openapi",
]
"""How-tos in this order, as far as they are there; pages that are not named here come after them."""
BACKGROUND = ["errors", "api-rulings", "design"]
"""Pages that must be there, and are no how-tos."""
_LINK = re.compile(r"((?<=\[)[\w./-]+\.md)?\]\(([^)\s]+)\)")
"""The end of a link: its text, if that is a file's name, and its target."""
_EXAMPLE = re.compile(r"\[([^\]]+)\]\((?:\.\./)?examples/[^)\s]+\)")
"""A link to what is read as files, and on no site."""
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_VERSION = re.compile(r"^## \[(.+)\]", re.MULTILINE)
"""A heading of the changelog, whose brackets are a link on the pages of a forge alone."""
_FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)


class Source(NamedTuple):
    """Where a page comes from."""

    path: str
    """Its file, from the root of the repository."""
    text: str


def stage(folder: Path, root: Path = ROOT) -> Path:
    """
    Write everything that Zensical needs into a folder; return the path of its configuration.

    Raises:
        LookupError: A link leads to a file that is no page, or a page or section is missing.
    """
    sources = sources_of(root)
    pages = folder / "pages"
    for page, source in sources.items():
        _write(pages / page, turned(source, sources))
    for file in sorted((root / "docs").iterdir()):
        if file.is_file() and file.suffix != ".md":
            shutil.copy(file, pages)
    reference = [*reference_pages()]
    for page, _, text in reference:
        _write(pages / page, text)
    shutil.copy(root / "website" / "extra.css", pages)
    shutil.copytree(root / "website" / "theme", folder / "theme")
    nav: dict[str, str | list[dict[str, str]]] = {
        "Quickstart": "index.md",
        "How to": [{title_of(sources[page].text): page} for page in how_tos(sources)],
        "Background": [{title_of(sources[page].text): page} for page in background()],
        "API reference": [{title: page} for page, title, _ in reference],
        "Changelog": "changelog.md",
    }
    written = ", ".join(_entry(title, pages) for title, pages in nav.items())
    template = (root / "website" / "zensical.toml").read_text()
    return _write(folder / "zensical.toml", template.replace("nav = []", f"nav = [{written}]", 1))


def sources_of(root: Path) -> dict[str, Source]:
    """All pages but those of the API reference, by their paths on the site."""
    readme = (root / "README.md").read_text()
    performance = f"# Performance{section(readme, 'Performance')}{profiles(root / 'benchmarks' / 'profiles')}"
    sources = {
        "index.md": Source("README.md", without_sections(readme, "Performance", "Development")),
        "performance.md": Source("README.md", performance),
        "changelog.md": Source("CHANGELOG.md", _VERSION.sub(r"## \1", (root / "CHANGELOG.md").read_text())),
    }
    for file in sorted((root / "docs").glob("*.md")):
        sources[file.name] = Source(f"docs/{file.name}", file.read_text())
    for page in background():
        if page not in sources:
            raise LookupError(f"docs/{page} is missing")
    return sources


def how_tos(sources: dict[str, Source]) -> list[str]:
    """The pages that say how to do something, in their order."""
    there = {
        Path(page).stem
        for page, source in sources.items()
        if source.path.startswith("docs/") and page not in background()
    }
    named = [name for name in FIRST if name in there]
    return [f"{name}.md" for name in [*named, *sorted(there - {*named})]]


def background() -> list[str]:
    """The pages that say why, in their order."""
    return [*(f"{name}.md" for name in BACKGROUND), "performance.md"]


def turned(source: Source, sources: dict[str, Source]) -> str:
    """
    A page's text with the links between files turned into links between pages.

    A link to a module leads to its page of the reference. A link whose text is the name of its file gets the
    title of the page; of one to an example the text stays.

    Raises:
        LookupError: A link leads to a file that is no page.
    """
    homes = {**pages_of_modules(), **{kept.path: name for name, kept in reversed(sources.items())}}

    def turn(link: re.Match[str]) -> str:
        target = _aimed(link[2], source.path, homes)
        page = sources.get(target.partition("#")[0])
        named = page and PurePosixPath(link[1] or "").name == PurePosixPath(page.path).name
        return f"{title_of(page.text) if page and named else link[1] or ''}]({target})"

    def of_the_site(text: str) -> str:
        return _LINK.sub(turn, _EXAMPLE.sub(r"\1", text))

    parts = _FENCE.split(source.text)
    return "".join(part if part.startswith("```") else of_the_site(part) for part in parts)


def _aimed(link: str, path: str, homes: dict[str, str]) -> str:
    """Where a link of a file leads on the site."""
    target, mark, anchor = link.partition("#")
    if re.match(r"[a-z]+:", target):
        return link
    found = normpath(PurePosixPath(path).parent / target) if target else path
    if (found, anchor) == ("README.md", "performance"):
        return "performance.md"
    if not target:
        return link
    if found.startswith("docs/") and not found.endswith(".md"):
        return PurePosixPath(found).name
    if found not in homes:
        raise LookupError(f"{path}: {link} is not on the site")
    return f"{homes[found]}{mark}{anchor}"


def profiles(folder: Path) -> str:
    """Where the time of a page goes: the sums that stand above the calls in each profile."""
    sums = ["\n\n".join(file.read_text().split("\n\n")[:2]) for file in sorted(folder.glob("*.txt"))]
    blocks = "\n\n".join(f"```text\n{text}\n```" for text in sums)
    return f"## Where the time goes\n\nBy `python -m benchmarks.profiles`, layer by layer.\n\n{blocks}\n"


def section(text: str, heading: str) -> str:
    """
    What stands below a second-level heading.

    Raises:
        LookupError: There is no such heading.
    """
    parts = _SECTION.split(text)
    try:
        return parts[parts.index(heading) + 1]
    except ValueError:
        raise LookupError(f"there is no section {heading}") from None


def without_sections(text: str, *headings: str) -> str:
    """A text without some of its sections."""
    for heading in headings:
        text = text.replace(f"## {heading}\n{section(text, heading)[1:]}", "")
    return text


def title_of(text: str) -> str:
    """The heading of a page."""
    return text.partition("\n")[0].removeprefix("# ")


def _entry(title: str, pages: str | list[dict[str, str]]) -> str:
    if isinstance(pages, str):
        return f"{{ {json.dumps(title)} = {json.dumps(pages)} }}"
    inner = ", ".join(_entry(name, page) for entry in pages for name, page in entry.items())
    return f"{{ {json.dumps(title)} = [{inner}] }}"


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
