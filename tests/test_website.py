"""
The site: what its pages are made of, the links of the pages they come from, and what checks the built ones.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from blocks import ROOT

from website import pages, reference
from website.check import problems_of

SOURCES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGE = "# Page\n\nSee [it]({}).\n"


def slugs_of(text: str) -> set[str]:
    """The anchors of a page's headings, as a forge makes them."""
    without_code = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links_of(text: str) -> list[str]:
    """Where a page's links lead, code left out."""
    without_code = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", without_code)


@pytest.fixture(name="root")
def small_repository(tmp_path: Path) -> Path:
    """Just what the site needs."""
    root = tmp_path / "repository"
    (root / "docs").mkdir(parents=True)
    (root / "website" / "theme").mkdir(parents=True)
    (root / "README.md").write_text(
        "# Client\n\n[how](docs/exporting.md#how)\n\n## Performance\n\nFast.\n\n## Development\n\nNox.\n"
    )
    (root / "CHANGELOG.md").write_text("# Changelog\n\n## [0.1.0] - 2026-11-21\n")
    for page in ("exporting", "errors", "api-rulings", "design", "zebra", "signing"):
        (root / "docs" / f"{page}.md").write_text(f"# About {page}\n\n## How\n")
    (root / "docs" / "chart.svg").write_text("<svg/>")
    (root / "website" / "zensical.toml").write_text("nav = []\n")
    (root / "website" / "extra.css").write_text("")
    (root / "benchmarks" / "profiles").mkdir(parents=True)
    (root / "benchmarks" / "profiles" / "default.txt").write_text(
        "a page: 457 us\n\n 30 %  decoding\n\n100 % run_forever\n"
    )
    return root


@pytest.mark.parametrize("page", SOURCES, ids=[page.stem for page in SOURCES])
def test_links_work_where_the_files_lie(page: Path) -> None:
    """Each leads to a file of the repository, and to a heading in it, as a forge names them."""
    for link in links_of(page.read_text()):
        if re.match(r"https?:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.is_file(), link
        assert file.is_relative_to(ROOT), link
        assert not anchor or anchor in slugs_of(file.read_text()), link


def test_the_pages_are_those_of_the_repository(root: Path, tmp_path: Path) -> None:
    """Whatever how-to is there is in the navigation: those that are known in their order, then the others."""
    configuration = pages.stage(tmp_path / "stage", root).read_text()
    staged = tmp_path / "stage" / "pages"

    how_to = re.search(r'"How to" = \[(.*?)\]', configuration)
    assert how_to is not None
    assert ["exporting.md", "signing.md", "zebra.md"] == re.findall(r'"(\S+\.md)"', how_to[1])
    assert "# Client\n\n[how](exporting.md#how)\n\n" == (staged / "index.md").read_text()
    fast, where, profile = (staged / "performance.md").read_text().partition("## Where the time goes\n")
    assert ("# Performance\n\nFast.\n\n", True) == (fast, bool(where))
    assert profile.endswith("\n```text\na page: 457 us\n\n 30 %  decoding\n```\n")
    assert "# Changelog\n\n## 0.1.0 - 2026-11-21\n" == (staged / "changelog.md").read_text()
    assert (staged / "chart.svg").is_file()


@pytest.mark.parametrize(
    ("link", "turned"),
    [
        pytest.param("../README.md", "index.md", id="readme"),
        pytest.param("../README.md#paging", "index.md#paging", id="section"),
        pytest.param("../README.md#performance", "performance.md", id="section-with-a-page"),
        pytest.param("../CHANGELOG.md", "changelog.md", id="changelog"),
        pytest.param("errors.md#how", "errors.md#how", id="neighbour"),
        pytest.param("chart.svg", "chart.svg", id="picture"),
        pytest.param("../crowdtwist_async/testing.py", "reference/testing.md", id="module"),
        pytest.param("../crowdtwist_async/export/__init__.py", "reference/export.md", id="package"),
        pytest.param("#how", "#how", id="itself"),
        pytest.param("https://example.com/a.md", "https://example.com/a.md", id="elsewhere"),
    ],
)
def test_links_are_turned_to_pages(root: Path, link: str, turned: str) -> None:
    """From where the files lie to where the pages are."""
    (root / "docs" / "zebra.md").write_text(PAGE.format(link))
    sources = pages.sources_of(root)

    assert PAGE.format(turned) == pages.turned(sources["zebra.md"], sources)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("errors.md", "About errors", id="name"),
        pytest.param("docs/errors.md", "About errors", id="path"),
        pytest.param("the errors", "the errors", id="words"),
        pytest.param("signing.md", "signing.md", id="another-name"),
    ],
)
def test_a_link_by_the_name_of_its_file_has_the_title(root: Path, text: str, shown: str) -> None:
    """Readers of the site know no files."""
    (root / "docs" / "zebra.md").write_text(f"# Page\n\nSee [{text}](errors.md#how).\n")
    sources = pages.sources_of(root)

    assert f"# Page\n\nSee [{shown}](errors.md#how).\n" == pages.turned(sources["zebra.md"], sources)


def test_a_link_to_an_example_is_its_text_alone(root: Path) -> None:
    """Whoever has the files can follow it, and the site has none of them."""
    (root / "docs" / "zebra.md").write_text("# Page\n\nSee [`it`](../examples/it/README.md), [how](#how).\n")
    sources = pages.sources_of(root)

    assert "# Page\n\nSee `it`, [how](#how).\n" == pages.turned(sources["zebra.md"], sources)


def test_code_is_left_alone(root: Path) -> None:
    """What looks like a link in a block is none."""
    text = "# Code\n\n```python\ncalls[0](nowhere)\n```\n"
    (root / "docs" / "zebra.md").write_text(text)
    sources = pages.sources_of(root)

    assert text == pages.turned(sources["zebra.md"], sources)


@pytest.mark.parametrize("link", ["nowhere.md", "../benchmarks/plan.py"])
def test_a_link_to_what_is_no_page_is_refused(root: Path, tmp_path: Path, link: str) -> None:
    """With the page that has it."""
    (root / "docs" / "zebra.md").write_text(PAGE.format(link))

    with pytest.raises(LookupError, match=rf"^docs/zebra\.md: {link} is not on the site$"):
        pages.stage(tmp_path / "stage", root)


def test_a_page_that_must_be_there_is_missed(root: Path, tmp_path: Path) -> None:
    """By its name."""
    (root / "docs" / "design.md").unlink()

    with pytest.raises(LookupError, match=r"^docs/design\.md is missing$"):
        pages.stage(tmp_path / "stage", root)


def test_a_section_that_has_a_page_is_missed(root: Path, tmp_path: Path) -> None:
    """By its heading."""
    (root / "README.md").write_text("# Client\n")

    with pytest.raises(LookupError, match="^there is no section Performance$"):
        pages.stage(tmp_path / "stage", root)


def test_the_reference_has_every_public_name() -> None:
    """Of each module that says what is public, and of the errors."""
    written = "\n".join(text for _, _, text in reference.reference_pages())
    package = ROOT / "crowdtwist_async"
    saying = [
        path for path in package.rglob("*.py") if re.search(r"^__all__ = ", path.read_text(), re.MULTILINE)
    ]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in saying]
    names = {name for module in modules for name in reference.public_names(module.removesuffix(".__init__"))}

    assert {*reference.public_names("crowdtwist_async.errors")} < names
    assert names <= {*re.findall(r"^::: crowdtwist_async\S*\.(\w+)$", written, re.MULTILINE)}


def test_names_without_a_heading_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is left out, and one that is not public any more is."""
    monkeypatch.setattr(reference, "public_names", lambda module: ["A", "B", "C"] if module == "m" else ["C"])
    module = reference.Module("page", "Title", "m", {"First": ["B", "Gone"]}, elsewhere="errors")

    assert {"First": ["B"], "Others": ["A"]} == reference.grouped(module)
    assert {"": ["A", "B"]} == reference.grouped(module._replace(groups={}))
    assert {"": ["B", "A"]} == reference.grouped(module._replace(groups={"": ["B"]}))


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        pytest.param('<a href="other.html#there">', None, id="fine"),
        pytest.param('<a href="../site/">', None, id="folder"),
        pytest.param('<a href="https://example.com">', None, id="link-to-elsewhere"),
        pytest.param('<img src="data:image/png;base64,">', None, id="picture-in-the-page"),
        pytest.param('<a href="gone.html">', "gone.html leads nowhere", id="no-page"),
        pytest.param('<a href="other.html#gone">', "other.html#gone has no such anchor", id="no-anchor"),
        pytest.param(
            '<a href="//other.html">', "//other.html leads to another host", id="one-slash-too-many"
        ),
        pytest.param('<a href="#gone">', "#gone has no such anchor", id="no-anchor-here"),
        pytest.param(
            '<script src="//cdn.example.com/x.js">', "<script> loads //cdn.example.com/x.js", id="script"
        ),
        pytest.param(
            '<link href="https://fonts.example.com">', "<link> loads https://fonts.example.com", id="font"
        ),
    ],
)
def test_what_is_wrong_with_a_site_is_told(tmp_path: Path, body: str, problem: str | None) -> None:
    """Links that lead nowhere, and whatever is loaded from other hosts."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text(body)
    (site / "other.html").write_text('<p id="there">')

    assert ([f"index.html: {problem}"] if problem else []) == problems_of(site)


def test_a_style_that_loads_from_elsewhere_is_told(tmp_path: Path) -> None:
    """Fonts, say."""
    (tmp_path / "style.css").write_text("@import url('https://fonts.example.com/css');")

    assert ["style.css: loads from another host"] == problems_of(tmp_path)
