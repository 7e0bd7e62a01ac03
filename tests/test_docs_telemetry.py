"""
Every block of the page on telemetry runs, each as a program of its own, and its tables name all that is told.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from blocks import ROOT, blocks_of, emulated, python, run
from conftest import KEY, leaks
from telling import telling

from crowdtwist_async import RetryPolicy, ServerError
from crowdtwist_async.emulator import Emulator, Fault

PAGE = ROOT / "docs" / "telemetry.md"
BLOCKS = [block.text for block in blocks_of(PAGE)]
MEMBER = "10000001"
_NAME = r"(?:crowdtwist|http|server|url|error)\.[\w.]+"


@pytest.fixture(name="environment", scope="module")
def in_a_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the blocks need: the emulator on a socket."""
    with emulated(tmp_path_factory.mktemp("telemetry")) as environment:
        yield environment


def printed_by(word: str, environment: dict[str, str], folder: Path) -> str:
    """What the one block that holds a word prints; it complains about nothing."""
    [text] = [text for text in BLOCKS if word in text]
    ran = run(python(text), environment, folder)
    assert (0, "") == (ran.returncode, ran.stderr)
    assert not leaks(ran.stdout)
    assert MEMBER not in ran.stdout
    return ran.stdout


def test_the_blocks_are_those_that_are_run_here() -> None:
    """One of each kind."""
    words = ["ConsoleSpanExporter", "ParentBasedTraceIdRatio", "JsonLines", "structlog"]
    assert words == [word for text in BLOCKS for word in words if word in text]


def test_spans_and_metrics_are_printed(environment: dict[str, str], tmp_path: Path) -> None:
    """With the program's own span above those of the package, and all that is waiting sent at the end."""
    printed = printed_by("ConsoleSpanExporter()", environment, tmp_path)
    spans = set(re.findall(r'^    "name": "([\w ]+)"', printed, re.MULTILINE))
    assert {"order history", "iter_user_purchases", "user_purchases"} == spans
    assert '"name": "http.client.request.duration"' in printed


def test_the_sampler_is_one(environment: dict[str, str], tmp_path: Path) -> None:
    """The block only makes it."""
    assert "" == printed_by("ParentBasedTraceIdRatio", environment, tmp_path)


def test_lines_of_the_standard_library(environment: dict[str, str], tmp_path: Path) -> None:
    """One line of JSON for the one attempt, with the trace of the program's own span."""
    [line] = map(json.loads, printed_by("JsonLines(", environment, tmp_path).splitlines())
    assert ("debug", "crowdtwist_async") == (line["level"], line["logger"])
    assert re.fullmatch(r"user_rewards: attempt 1 at 127\.0\.0\.1:\d+: 200 in \d\.\d{3} s", line["event"])
    assert re.fullmatch("[0-9a-f]{32}", line["trace_id"])


def test_lines_of_structlog(environment: dict[str, str], tmp_path: Path) -> None:
    """The attempt and the program's own event, alike, with what is bound."""
    attempt, own = map(json.loads, printed_by("structlog.get_logger", environment, tmp_path).splitlines())
    assert [("debug", "crowdtwist_async", "A-17"), ("info", "shop", "A-17")] == [
        (line["level"], line["logger"], line["order"]) for line in (attempt, own)
    ]
    assert attempt["event"].startswith("user_rewards: attempt 1 at 127.0.0.1:")
    assert "rewards offered" == own["event"]


def test_the_tables_name_all_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else: spans with their attributes, the event, metrics with their kinds, units and attributes."""
    emulator = Emulator(members=3, api_key=KEY, faults=[Fault.status(503), None, *[Fault.status(500)] * 9])

    async def use() -> None:
        async with emulator.client(retry=RetryPolicy(max_attempts=2, initial=0)) as client:
            await client.iter_user_purchases(MEMBER, max_items=1).collect()
            with pytest.raises(ServerError):
                await client.user_rewards(MEMBER)
            metrics.extend(told.metrics())

    metrics: list[Any] = []
    with telling(monkeypatch) as told:
        anyio.run(use)
        spans = told.spans()
    points = [point for metric in metrics for point in metric.data.data_points]
    events = [event for span in spans for event in span.events]
    attributes = {name for each in [*spans, *points, *events] for name in each.attributes or {}}
    names = attributes | {metric.name for metric in metrics} | {event.name for event in events}
    page = PAGE.read_text()
    assert names == set(re.findall(rf"`({_NAME})`", page))
    rows = re.findall(rf"^\| `({_NAME})` \| ([\w -]*(?:counter|histogram)) \| (\S+) \|", page, re.MULTILINE)
    kinds = {"Histogram": "histogram", "Sum": "counter"}
    assert {(metric.name, kinds[type(metric.data).__name__], metric.unit) for metric in metrics} == {
        (name, kind.split()[-1], unit) for name, kind, unit in rows
    }
