"""
The emulator's page in a headless Chromium: what it shows, what it sends, and that it asks nobody else.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import KEY, leaks
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from crowdtwist_async.emulator import Emulator, Fault
from crowdtwist_async.emulator.openapi import document
from crowdtwist_async.emulator.server import EmulatorServer

OPERATIONS = {item["get"]["operationId"]: path for path, item in document()["paths"].items()}
SECOND = "10000001"
PHONE, DESKTOP = (390, 844), (1280, 900)

_emulator = Emulator(members=20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, which must be there: these tests are for nothing else."""
    path = shutil.which("chromium")
    assert path is not None, "there is no chromium on this machine: apt-get install chromium"
    # Chromium refuses to sandbox what root runs.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=path, args=options) as opened,
    ):
        yield opened


@pytest.fixture(scope="module")
def server() -> Iterator[EmulatorServer]:
    """One server for all tests here."""
    with EmulatorServer(_emulator) as running:
        yield running


@pytest.fixture(scope="module")
def guarded() -> Iterator[EmulatorServer]:
    """A server with another key than the public one."""
    with EmulatorServer(Emulator(members=2, api_key=KEY)) as running:
        yield running


@pytest.fixture(scope="module")
def faulty() -> Iterator[EmulatorServer]:
    """A server on which the second request gets a page of HTML, and those after it none at all."""
    # A browser asks again where a connection was reset.
    with EmulatorServer(Emulator(faults=[None, Fault.not_json(), *[Fault.reset()] * 5])) as running:
        yield running


@pytest.fixture
def emulator() -> Emulator:
    """The emulator behind `server`, which counts from zero."""
    _emulator.reset_stats()
    return _emulator


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """One for all pages that keep nothing: each more is a process of Chromium's."""
    width, height = DESKTOP
    with browser.new_context(viewport={"width": width, "height": height}, bypass_csp=False) as opened:
        yield opened


class Watched:
    """A page, and everything that it complained about and asked for."""

    def __init__(
        self, context: BrowserContext, url: str, size: tuple[int, int] = DESKTOP, scheme: Any = "light"
    ) -> None:
        width, height = size
        self.page: Page = context.new_page()
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.emulate_media(color_scheme=scheme)
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heed)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(f"{url}/docs")
        expect(self.page.locator("article")).to_have_count(len(OPERATIONS))

    def _heed(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def form(self, name: str) -> Locator:
        """The form of an operation."""
        return self.page.locator(f"#try-{name}")

    def send(self, name: str, status: int, **values: str) -> str:
        """Fill a form in, send it, and return the reply that is shown when there is a new one."""
        form = self.form(name)
        form.locator(".reply").evaluate("node => node.replaceChildren()")
        for label, value in values.items():
            field = form.get_by_label(label, exact=True)
            if field.evaluate("node => node.tagName") == "SELECT":
                field.select_option(value)
            else:
                field.fill(value)
        form.get_by_role("button", name="Send").click()
        expect(form.locator(".reply strong")).to_have_text(f"{status} ")
        shown: str = form.locator(".reply").inner_text()
        return shown


@pytest.fixture
def watched(context: BrowserContext, server: EmulatorServer) -> Iterator[Watched]:
    """The page, which complains about nothing and asks nobody but its emulator."""
    opened = Watched(context, server.url)
    yield opened
    opened.page.close()
    assert [] == opened.complaints
    assert [] == [url for url in opened.asked if not url.startswith((f"{server.url}/", "data:"))]
    assert f"{server.url}/openapi.json" in opened.asked


def test_it_shows_the_operations(watched: Watched, emulator: Emulator) -> None:
    """Of three endpoints, with their parameters, statuses and schemas; showing them is no request to the API."""
    page = watched.page

    assert [
        "Points Awaiting Fulfillment",
        "User Rewards",
        "User Purchase History",
        "Schemas",
    ] == page.locator("main h2").all_inner_texts()
    shown = [text.removeprefix("GET").strip() for text in page.locator("article h3").all_inner_texts()]
    assert [*OPERATIONS.values()] == shown
    assert [*document()["components"]["schemas"]] == page.locator(".schema summary").all_inner_texts()
    # The page encodes what is typed: who does so as well would send it encoded twice.
    assert "percent-encoded" in str(document())
    assert "percent-encoded" not in page.locator("main").inner_text()
    for name, path in OPERATIONS.items():
        operation = document()["paths"][path]["get"]
        labels = watched.form(name).locator("label").all_inner_texts()
        assert [parameter["name"] for parameter in operation["parameters"]] == labels
        statuses = page.locator(f"#{name} summary").all_inner_texts()
        assert [*operation["responses"]] == [text.split()[0] for text in statuses]
    assert 0 == emulator.stats.requests


@pytest.mark.parametrize(
    ("expected", "name", "values"),
    [
        pytest.param('"user_id": 10000001', "points_awaiting_fulfillment", {"user_id": SECOND}, id="points"),
        pytest.param(
            '"user_id": 10000001',
            "points_awaiting_fulfillment_by_attribute",
            {"email_address": f"member{SECOND}@example.com"},
            id="points-by-attribute",
        ),
        pytest.param(
            "10 rows of 132",
            "user_purchases",
            {"user_id": f"tp-{SECOND}", "id_type": "third_party_id", "page": "2", "date_start": "2000-01-31"},
            id="purchases",
        ),
        pytest.param(
            "3 rows of ", "user_rewards", {"page_size": "3", "include_soldout": "true"}, id="rewards"
        ),
    ],
)
def test_a_form_is_sent(
    watched: Watched, emulator: Emulator, expected: str, name: str, values: dict[str, str]
) -> None:
    """With the key where its host looks for it, and the reply is shown without it."""
    shown = watched.send(name, 200, **values)

    assert expected in shown
    assert "emulator-key" not in shown
    assert [1] == list(emulator.stats.by_endpoint.values())
    assert {200: 1} == emulator.stats.by_status


def test_pages_are_turned(watched: Watched, emulator: Emulator) -> None:
    """By the links of the reply: of the first page, there is none before it."""
    first = watched.send("user_purchases", 200)
    form = watched.form("user_purchases")

    assert "Previous page" not in first
    form.get_by_role("button", name="Next page").click()
    expect(form.get_by_role("button", name="Previous page")).to_be_visible()
    expect(form.locator(".reply code")).to_contain_text("page=2")
    assert 2 == emulator.stats.requests


def test_refusals_and_faults_are_shown(context: BrowserContext, faulty: EmulatorServer) -> None:
    """As they came, never as markup; a lost connection in words."""
    watched = Watched(context, faulty.url)

    assert "user_not_found" in watched.send("user_purchases", 404, user_id="<b>nobody</b>")
    assert "Please sign in." in watched.send("user_purchases", 200)
    form = watched.form("user_purchases")
    form.get_by_role("button", name="Send").click()
    expect(form.locator(".reply")).to_contain_text("No reply")
    assert 0 == watched.page.locator(".reply b").count()
    watched.page.close()


def test_the_key_stays_in_its_field(browser: Browser, guarded: EmulatorServer) -> None:
    """Another than the public one is asked for, hidden, sent, never shown, and gone after a reload."""
    context = browser.new_context()
    watched = Watched(context, guarded.url)
    page, field = watched.page, watched.page.get_by_label("API key")
    assert ("", "password") == (field.input_value(), field.get_attribute("type"))
    watched.send("user_rewards", 403)
    field.fill(KEY)
    for name in ("user_rewards", "points_awaiting_fulfillment"):
        shown = watched.send(name, 200)
        assert not leaks(shown)
        assert "canary" not in shown
    kept = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.href]")
    assert [0, 0, "", f"{guarded.url}/docs"] == kept
    page.get_by_label("Show it").check()
    assert "text" == field.get_attribute("type")
    page.reload()
    expect(page.locator("article")).to_have_count(len(OPERATIONS))
    assert "" == field.input_value()
    context.close()


def test_a_link_opens_its_schema(watched: Watched) -> None:
    """And leads there."""
    reward = watched.page.locator("#schema-Reward details")
    assert reward.get_attribute("open") is None
    watched.page.locator("nav").get_by_text("Reward", exact=True).click()

    expect(reward).to_have_attribute("open", "")
    expect(reward.get_by_text("group_id", exact=True)).to_be_in_viewport()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_everybody_can_read_it(
    context: BrowserContext, server: EmulatorServer, size: tuple[int, int], scheme: str
) -> None:
    """Nothing is wider than the window, all fields have labels, and no text is fainter than WCAG's 4.5 to 1."""
    watched = Watched(context, server.url, size, scheme)
    watched.send("user_rewards", 200)
    watched.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")

    assert size[0] == watched.page.evaluate("document.documentElement.scrollWidth")
    unlabelled = (
        "[...document.querySelectorAll('input, select')].filter((field) => !field.labels.length).length"
    )
    assert 0 == watched.page.evaluate(unlabelled)
    faint = [(ratio, text) for ratio, text in watched.page.evaluate(CONTRASTS) if ratio < 4.5]
    assert [] == faint
    assert ("dark" == scheme) == (watched.page.evaluate(LUMINANCE_OF_BODY) < 0.5)
    watched.page.close()


_COLOURS = """
const levels = (colour) => colour.match(/[\\d.]+/g).map(Number);
const luminance = (colour) => levels(colour).slice(0, 3).map((level) => level / 255)
  .map((level) => (level <= .04045 ? level / 12.92 : ((level + .055) / 1.055) ** 2.4))
  .reduce((sum, level, at) => sum + level * [.2126, .7152, .0722][at], 0);
const behind = (node) => {
  const colour = getComputedStyle(node).backgroundColor;
  return levels(colour)[3] === 0 ? behind(node.parentElement) : colour;
};
"""
LUMINANCE_OF_BODY = f"() => {{ {_COLOURS} return luminance(behind(document.body)); }}"
CONTRASTS = f"""() => {{ {_COLOURS}
  const own = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  return [...document.body.querySelectorAll("*")].filter((node) => own(node) && node.tagName !== "NOSCRIPT").map((node) => {{
    const [text, paper] = [luminance(getComputedStyle(node).color), luminance(behind(node))];
    return [(Math.max(text, paper) + .05) / (Math.min(text, paper) + .05), node.textContent.slice(0, 40)];
  }});
}}"""


def test_contrasts_are_measured(browser: Browser) -> None:
    """Black on white is 21 to 1, and grey on white is not."""
    page = browser.new_page()
    page.set_content('<body style="background: #fff; color: #000">a<p style="color: #ccc">b</p></body>')

    [(grey, _)] = page.evaluate(CONTRASTS)
    page.close()
    assert re.fullmatch(r"1\.6\d*", str(grey))
