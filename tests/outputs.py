"""
Outputs for tests: rows of the reference's samples, written as an export writes them, and read back.
"""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from reference_server import make_purchases, make_rewards

from crowdtwist_async._convert import structure
from crowdtwist_async.export.ledger import Mark
from crowdtwist_async.export.rows import MODELS, Row, make_row
from crowdtwist_async.export.target import Target

FULL, SPARSE = make_rewards(2)
PURCHASE = make_purchases(1)[0]
POINTS = {"user_id": 7, "total_points_awaiting_fulfillment": 4000, "bonus_points_awaiting_fulfillment": 10}
SUFFIXES = ("jsonl", "csv", "parquet", "sqlite")
ASKED = {"endpoint": "purchases", "ids": "0f"}
"""What an export is begun with."""


def row_of(name: str, sent: dict[str, Any], user_id: str = "7", id_type: str = "id") -> Row:
    """The row of a JSON object as the API sends it."""
    return make_row(user_id, id_type, structure(sent, MODELS[name]), sent)


def purchases_of(user_id: str, count: int = 2) -> list[Row]:
    """A member's rows: purchases numbered from 0."""
    return [row_of("purchases", PURCHASE | {"purchase_id": f"{number}"}, user_id) for number in range(count)]


def mark_of(user_id: str, status: str = "ok", rows: int = 0, **rest: Any) -> Mark:
    """What the ledger notes of a member."""
    return Mark(user_id, status, rows, rows + 1, drifted=False, fetched_at="2026-01-31T00:00:00Z", **rest)


def opened(path: Path | str, name: str = "purchases", **options: Any) -> Target:
    """An output that is begun, or gone on with."""
    target = Target(str(path), name, **options)
    try:
        target.begin(ASKED)
    except BaseException:
        target.close()
        raise
    return target


def commit(target: Target, *user_ids: str, count: int = 2) -> None:
    """Write members with their purchases, and commit them."""
    for user_id in user_ids:
        target.writer.write(purchases_of(user_id, count))
    target.writer.commit([mark_of(user_id, rows=count) for user_id in user_ids])


def exported(path: Path, *user_ids: str) -> None:
    """Make a complete output of these members."""
    with closing(opened(path)) as target:
        commit(target, *user_ids)
        target.complete()


def written(path: Path, name: str, rows: Iterable[Row]) -> None:
    """Make a complete output of these rows of one member."""
    some = list(rows)
    with closing(opened(path, name)) as target:
        if some:
            target.writer.write(some)
        target.writer.commit([mark_of("7", rows=len(some))])
        target.complete()


def ledger_of(path: Path) -> Path:
    """Where an output's ledger is."""
    return path if path.suffix == ".sqlite" else path.with_name(f"{path.name}.ledger.sqlite")


def query(path: Path, sql: str) -> list[Any]:
    """Ask a SQLite file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def stored(path: Path) -> list[tuple[str, str]]:
    """Whose purchases are in an output, in its order, each as (requested_id, purchase_id)."""
    match path.suffix:
        case ".jsonl":
            rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        case ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file, strict=True))
        case ".parquet":
            rows = pq.read_table(path).to_pylist()
        case _:
            return query(path, "SELECT requested_id, purchase_id FROM purchases ORDER BY rowid")
    return [(row["requested_id"], row["purchase_id"]) for row in rows]


def expected(*user_ids: str, count: int = 2) -> list[tuple[str, str]]:
    """What `stored` gives for members that `commit` wrote."""
    return [(user_id, f"{number}") for user_id in user_ids for number in range(count)]
