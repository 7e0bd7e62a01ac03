"""
CSV: what a reader of RFC 4180 gets back, and what a spreadsheet must not calculate.
"""

from __future__ import annotations

import csv
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from outputs import FULL, SPARSE, mark_of, opened, row_of, written

from crowdtwist_async.export.rows import Row, columns

AWKWARD = 'Mug, "large"\r\nblue\nor red; ünï 🎁\0 end\r'


def records(path: Path) -> list[dict[str, str]]:
    """The records of a CSV file, by column."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


@pytest.mark.parametrize("name", ["points", "rewards", "purchases"])
def test_an_empty_csv_has_its_columns(tmp_path: Path, name: str) -> None:
    """They are fixed by the model, and not by the data."""
    written(tmp_path / "out.csv", name, [])

    assert ",".join(columns(name)) + "\r\n" == (tmp_path / "out.csv").read_bytes().decode()


def test_a_record_is_a_flat_row(tmp_path: Path) -> None:
    """A nested object has a column for each of its fields, and is empty where it is null."""
    written(tmp_path / "out.csv", "rewards", [row_of("rewards", FULL), row_of("rewards", SPARSE)])

    [full, sparse] = records(tmp_path / "out.csv")

    assert list(columns("rewards")) == list(full)
    assert ("7", "id") == (full["requested_id"], full["requested_id_type"])
    assert ("New York Members", "56577") == (full["segment_name"], full["partner_info_id"])
    assert ("", "") == (sparse["segment_name"], sparse["partner_info_id"])


def test_quoting_keeps_every_text(tmp_path: Path) -> None:
    """Commas, quotes and line breaks come back as they were sent, and the next record is whole."""
    rows = [row_of("rewards", FULL | {"title": AWKWARD, "new": AWKWARD}), row_of("rewards", FULL)]
    written(tmp_path / "out.csv", "rewards", rows)

    [awkward, plain] = records(tmp_path / "out.csv")

    assert (AWKWARD, {"new": AWKWARD}) == (awkward["title"], json.loads(awkward["_extra"]))
    assert FULL["title"] == plain["title"]


def test_values_are_written_as_json_writes_them(tmp_path: Path) -> None:
    """Booleans in lower case, objects as JSON, nulls as nothing, instants with a Z, whole numbers."""
    changed = {"min_age": None, "num_points": 2**63 - 1, "new": {"a": [1, None]}}
    written(tmp_path / "out.csv", "rewards", [row_of("rewards", FULL | changed)])

    [record] = records(tmp_path / "out.csv")

    assert ("true", "false") == (record["is_enabled"], record["is_phone_number_required"])
    assert FULL["extra_data"] == json.loads(record["extra_data"])
    assert {"new": {"a": [1, None]}} == json.loads(record["_extra"])
    assert ("", "2017-03-28T08:00:00Z") == (record["min_age"], record["date_start"])
    assert "9223372036854775807" == record["num_points"]


FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "\uff1d1",
    "\uff0b1",
    "\uff0d1",
    "\uff201",
]
TEXTS = ["1+1", "a=1", "", "'=1", " plain"]


def _title(path: Path, title: str, disarm: bool) -> Row:
    with closing(opened(path, "rewards", disarm_formulas=disarm)) as target:
        target.writer.write([row_of("rewards", FULL | {"title": title, "num_points": -5}, title)])
        target.writer.commit([mark_of("7", rows=1)])
    [record] = records(path)
    return record


@pytest.mark.parametrize("text", FORMULAS, ids=ascii)
def test_formulas_are_disarmed_when_asked(tmp_path: Path, text: str) -> None:
    """An apostrophe makes them texts, the id that was asked for included; numbers stay numbers."""
    record: dict[str, Any] = _title(tmp_path / "out.csv", text, disarm=True)

    assert [f"'{text}", f"'{text}", "-5"] == [
        record[name] for name in ("title", "requested_id", "num_points")
    ]
    assert ("true", "2017-03-28T08:00:00Z") == (record["is_enabled"], record["date_start"])


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_other_texts_are_not_disarmed(tmp_path: Path, text: str) -> None:
    """Nobody calculates them."""
    assert text == _title(tmp_path / "out.csv", text, disarm=True)["title"]


@pytest.mark.parametrize("text", FORMULAS, ids=ascii)
def test_texts_are_as_sent_otherwise(tmp_path: Path, text: str) -> None:
    """A program that reads the file wants them so."""
    assert text == _title(tmp_path / "out.csv", text, disarm=False)["title"]
