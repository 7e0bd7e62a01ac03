"""
An emulator that goes wrong for the members that a test chooses, and a check of what an export leaves.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Awaitable, Callable
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from anyio.lowlevel import checkpoint
from outputs import ledger_of, query

from crowdtwist_async import CrowdTwistError, Reply, Request, RetryPolicy
from crowdtwist_async.emulator import Emulator
from crowdtwist_async.export import EndpointName, ExportReport, export

Answer = Reply | CrowdTwistError | None | Awaitable[Reply]
ONCE = RetryPolicy(max_attempts=1)


class Detour:
    """A transport to an emulator; what `instead` returns for a member's request is the answer."""

    def __init__(self, emulator: Emulator, instead: Callable[[str], Answer] = lambda _: None) -> None:
        self._inner = emulator.transport()
        self._instead = instead
        self.asked: list[str] = []
        """The member of each request."""
        self.queries: list[str] = []

    async def send(self, request: Request, /) -> Reply | CrowdTwistError:
        """Answer, or ask the emulator."""
        found = re.search(r"[^/]*[0-9]{7}", request.path)
        user_id = found[0] if found else ""
        self.asked.append(user_id)
        self.queries.append(request.query)
        await checkpoint()
        answer = self._instead(user_id)
        await checkpoint()
        if isinstance(answer, Awaitable):
            answer = await answer
        return answer or await self._inner.send(request)

    async def aclose(self) -> None:
        """Do nothing: the emulator holds nothing."""


class Noted(NamedTuple):
    """What the ledger notes of a member."""

    status: str
    rows: int
    requests: int
    drifted: int


async def export_from(
    emulator: Emulator,
    output: Path,
    ids: Any = None,
    instead: Callable[[str], Answer] = lambda _: None,
    *,
    name: EndpointName = "points",
    retry: RetryPolicy = ONCE,
    **options: Any,
) -> ExportReport:
    """Export everybody, by default, and check that the report, the ledger and the rows agree."""
    detour = Detour(emulator, instead)
    ids = list(emulator.member_ids()) if ids is None else ids
    async with emulator.client(retry=retry, transport=detour) as client:
        report = await export(client, name, ids, output, **options)
    assert len(detour.asked) == report.requests
    check_counts(report, output)
    return report


def check_counts(report: ExportReport, output: Path) -> None:
    """Check a report against the ledger, and the ledger against the rows and the errors file."""
    noted = noted_in(output)
    counts = [
        sum(mark.status == status for mark in noted.values()) for status in ("ok", "not_found", "failed")
    ]
    assert counts == [report.members, report.not_found, report.failed]
    assert sum(mark.status == "ok" and not mark.rows for mark in noted.values()) == report.without_rows
    assert sum(mark.drifted for mark in noted.values()) == report.drifted
    assert sum(mark.rows for mark in noted.values()) == report.rows
    assert {user_id: mark.rows for user_id, mark in noted.items() if mark.rows} == {
        user_id: len(rows) for user_id, rows in members_in(output).items()
    }
    errors = Path(f"{output}.errors.jsonl")
    lines = errors.read_bytes().splitlines() if errors.exists() else []
    assert [user_id for user_id, mark in sorted(noted.items()) if mark.status == "failed"] == [
        json.loads(line)["requested_id"] for line in lines
    ]
    assert (str(errors) if lines else None) == report.errors_file
    assert (report.completed_at is not None) == report.status.endswith("complete")
    if report.completed_at is not None:
        assert report.ids == len(noted) + report.duplicates


def noted_in(output: Path) -> dict[str, Noted]:
    """The ledger."""
    marks = query(
        ledger_of(output), "SELECT requested_id, status, rows, requests, drifted FROM members ORDER BY 1"
    )
    return {user_id: Noted(*mark) for user_id, *mark in marks}


def members_in(output: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of each member that has any; those of a member stand together."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    for user_id, rows in groupby(rows_in(output), key=lambda row: str(row[0])):
        assert user_id not in found
        found[user_id] = list(rows)
    return found


def rows_in(output: Path) -> list[tuple[Any, ...]]:
    """All rows, in the output's order, as its format reads them back."""
    match output.suffix:
        case ".jsonl":
            lines = output.read_bytes().splitlines()
            return [tuple(map(str, json.loads(line).values())) for line in lines]
        case ".csv":
            with output.open(newline="", encoding="utf-8") as file:
                return [tuple(row) for row in csv.reader(file)][1:]
        case ".parquet":
            import pyarrow.parquet as pq

            parts = [pq.read_table(part).to_pylist() for part in sorted(output.glob("*.parquet"))]
            return [tuple(row.values()) for part in parts for row in part]
    return query(output, "SELECT * FROM purchases ORDER BY rowid")
