"""
The output: its formats, its place, who may read it, and what happens when it can't be written.
"""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from reference_server import make_rewards

from crowdtwist_async import ConfigurationError, Reward, StorageError
from crowdtwist_async._convert import structure
from crowdtwist_async.export.files import Output
from crowdtwist_async.export.rows import Row, columns, make_row

FULL, SPARSE = make_rewards(2)
AWKWARD = 'Mug, "large"\r\nblue\nor red; ünï 🎁'


def reward_row(sent: dict[str, Any], **changed: Any) -> Row:
    """A row of one reward."""
    whole = sent | changed
    return make_row("7", "id", structure(whole, Reward), whole)


def written(path: Path, rows: list[Row], name: str = "rewards") -> str:
    """What a complete output holds."""
    output = Output(str(path), name)
    output.write(rows)
    output.complete()
    return path.read_bytes().decode()


def table(text: str) -> list[dict[str, str]]:
    """The records of a CSV, by column."""
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_json_lines_keep_the_nesting(tmp_path: Path) -> None:
    """Each line is a row as it is."""
    rows = [reward_row(FULL), reward_row(SPARSE, title=AWKWARD)]

    lines = written(tmp_path / "out.jsonl", rows).split("\n")

    assert rows == [json.loads(line) for line in lines[:-1]]
    assert "" == lines[-1]
    assert "New York Members" == json.loads(lines[0])["segment"]["name"]


def test_csv_begins_with_the_columns(tmp_path: Path) -> None:
    """One record for each row, flattened."""
    text = written(tmp_path / "out.csv", [reward_row(FULL), reward_row(SPARSE)])

    assert columns("rewards") == tuple(text.partition("\r\n")[0].split(","))
    [full, sparse] = table(text)
    assert ("New York Members", "56577") == (full["segment_name"], full["partner_info_id"])
    assert ("", "") == (sparse["segment_name"], sparse["partner_info_id"])


@pytest.mark.parametrize("name", ["points", "rewards", "purchases"])
def test_an_empty_csv_has_its_columns(tmp_path: Path, name: str) -> None:
    """They are fixed by the model, and not by the data."""
    assert ",".join(columns(name)) + "\r\n" == written(tmp_path / "out.csv", [], name)


def test_empty_json_lines_are_an_empty_file(tmp_path: Path) -> None:
    """There is no header."""
    assert "" == written(tmp_path / "out.jsonl", [])


def test_csv_quotes_what_would_break_it(tmp_path: Path) -> None:
    """Commas, quotes and line breaks of a title come back as they were sent."""
    text = written(tmp_path / "out.csv", [reward_row(FULL, title=AWKWARD), reward_row(FULL)])

    assert [AWKWARD, FULL["title"]] == [record["title"] for record in table(text)]


def test_csv_writes_values_as_json_does(tmp_path: Path) -> None:
    """Booleans in lower case, objects as JSON, nulls as nothing, instants with a Z."""
    [record] = table(written(tmp_path / "out.csv", [reward_row(FULL, min_age=None, new={"a": [1, None]})]))

    assert ("true", "false") == (record["is_enabled"], record["is_phone_number_required"])
    assert FULL["extra_data"] == json.loads(record["extra_data"])
    assert {"new": {"a": [1, None]}} == json.loads(record["_extra"])
    assert ("", "2017-03-28T08:00:00Z") == (record["min_age"], record["date_start"])


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_nobody_else_may_read_it(tmp_path: Path, suffix: str) -> None:
    """It holds members' data, while it is written and after."""
    umask = os.umask(0)
    try:
        output = Output(str(tmp_path / f"out{suffix}"), "points")
        [partial] = tmp_path.iterdir()
        assert 0o600 == stat.S_IMODE(partial.stat().st_mode)
        output.complete()
    finally:
        os.umask(umask)

    assert 0o600 == stat.S_IMODE((tmp_path / f"out{suffix}").stat().st_mode)


def test_what_an_earlier_run_left_is_not_reused(tmp_path: Path) -> None:
    """It may be longer than the new output, be readable for others, or lead to another file."""
    other = tmp_path / "other"
    other.write_text("precious")
    (tmp_path / "out.jsonl.partial").symlink_to(other)
    left = tmp_path / "left.jsonl.partial"
    left.write_text("old rows\n" * 1000)
    left.chmod(0o644)

    for name in ("out.jsonl", "left.jsonl"):
        assert "" == written(tmp_path / name, [])
        assert 0o600 == stat.S_IMODE((tmp_path / name).stat().st_mode)

    assert "precious" == other.read_text()


def test_it_takes_its_place_when_it_is_complete(tmp_path: Path) -> None:
    """Until then there is only the partial file beside it."""
    path = tmp_path / "out.jsonl"
    output = Output(str(path), "rewards")
    output.write([reward_row(FULL)])

    assert ["out.jsonl.partial"] == [file.name for file in tmp_path.iterdir()]
    output.complete()
    assert ["out.jsonl"] == [file.name for file in tmp_path.iterdir()]


def test_an_abandoned_output_says_where_it_is(tmp_path: Path) -> None:
    """What was written so far is kept, and the name stays free."""
    path = tmp_path / "out.jsonl"
    output = Output(str(path), "rewards")
    output.write([reward_row(FULL)])

    left = output.abandon()

    assert str(path) + ".partial" == left
    assert not path.exists()
    assert reward_row(FULL) == json.loads(Path(left).read_text())


def test_an_existing_file_is_refused(tmp_path: Path) -> None:
    """It stays as it is, and nothing is put beside it."""
    path = tmp_path / "out.jsonl"
    path.write_text("precious")

    with pytest.raises(ConfigurationError, match="is there already: name another file, or give --fresh"):
        Output(str(path), "points")
    assert [("out.jsonl", "precious")] == [(file.name, file.read_text()) for file in tmp_path.iterdir()]


def test_an_existing_file_is_replaced_when_told(tmp_path: Path) -> None:
    """But not before the new one is complete."""
    path = tmp_path / "out.jsonl"
    path.write_text("precious")

    output = Output(str(path), "points", replace=True)

    assert "precious" == path.read_text()
    output.complete()
    assert "" == path.read_text()


@pytest.mark.parametrize("target", ["out.txt", "out", "out.jsonl.gz", ".jsonl"])
def test_an_unknown_format_is_refused(tmp_path: Path, target: str) -> None:
    """The suffix decides; nothing is created."""
    with pytest.raises(ConfigurationError, match="it must end in .jsonl or .csv, or be -$"):
        Output(str(tmp_path / target), "points")
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_is_refused(tmp_path: Path, replace: bool) -> None:
    """Before the export, and not when it wants to take its place."""
    (tmp_path / "out.csv").mkdir()

    with pytest.raises(ConfigurationError, match="is a folder: name a file in it$"):
        Output(str(tmp_path / "out.csv"), "points", replace=replace)


def test_a_missing_folder_is_told_at_once(tmp_path: Path) -> None:
    """With the system's reason."""
    path = tmp_path / "missing" / "out.jsonl"

    with pytest.raises(StorageError) as caught:
        Output(str(path), "points")
    assert f"{path} can't be written: No such file or directory" == str(caught.value)


class FullDisk(io.RawIOBase):
    """A file on a disk that is full."""

    def writable(self) -> bool:
        """It was opened for writing."""
        return True

    def write(self, _: Any) -> int:
        """Fail as a full disk does, without the system's own text on some."""
        raise OSError(28, "No space left on device")


def _full(monkeypatch: pytest.MonkeyPatch, buffered: bool) -> None:
    def fdopen(descriptor: int, _: str) -> BinaryIO:
        os.close(descriptor)
        raw: Any = FullDisk()
        return io.BufferedWriter(raw) if buffered else raw

    monkeypatch.setattr(os, "fdopen", fdopen)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While rows are written, and abandoning afterwards is no second error."""
    _full(monkeypatch, buffered=False)
    output = Output(str(tmp_path / "out.jsonl"), "rewards")

    with pytest.raises(StorageError, match=r"out.jsonl can't be written: No space left on device$"):
        output.write([reward_row(FULL)])
    assert str(tmp_path / "out.jsonl.partial") == output.abandon()


def test_a_disk_that_is_full_at_the_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was buffered counts: the file does not take its place without it."""
    _full(monkeypatch, buffered=True)
    output = Output(str(tmp_path / "out.jsonl"), "rewards")
    output.write([reward_row(FULL)])

    with pytest.raises(StorageError, match=r"out.jsonl can't be written: No space left on device$"):
        output.complete()
    assert not (tmp_path / "out.jsonl").exists()
    output.abandon()


class Stdout:
    """A standard output whose bytes go somewhere else."""

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer


def test_standard_output_gets_json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member's rows are there as soon as they are written; it is not closed."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Stdout(io.BufferedWriter(raw)))
    output = Output("-", "rewards")

    output.write([reward_row(FULL), reward_row(SPARSE)])

    assert [reward_row(FULL), reward_row(SPARSE)] == [
        json.loads(line) for line in raw.getvalue().splitlines()
    ]
    output.complete()
    assert output.abandon() is None
    assert not raw.closed


class Failing:
    """A file that can't be written."""

    def __init__(self, error: OSError) -> None:
        self._error = error

    def write(self, _: bytes) -> int:
        """Fail."""
        raise self._error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(OSError(28, "No space left on device"), "No space left on device", id="full"),
        pytest.param(OSError("odd"), "unknown reason", id="without-a-reason"),
    ],
)
def test_standard_output_on_a_full_disk_is_told(
    monkeypatch: pytest.MonkeyPatch, error: OSError, reason: str
) -> None:
    """It is named as what it is."""
    monkeypatch.setattr(sys, "stdout", Stdout(Failing(error)))

    with pytest.raises(StorageError) as caught:
        Output("-", "points").write([])
    assert f"standard output can't be written: {reason}" == str(caught.value)


def test_a_closed_pipe_is_no_storage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads has seen enough: the command ends without a word."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as pipe:
        monkeypatch.setattr(sys, "stdout", Stdout(pipe))
        with pytest.raises(BrokenPipeError):
            Output("-", "rewards").write([reward_row(FULL)])


def test_a_closed_standard_output_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter then has none."""
    monkeypatch.setattr(sys, "stdout", None)

    with pytest.raises(ConfigurationError, match="^standard output is closed: name a file$"):
        Output("-", "points")


def test_an_output_without_rows_leaves_nothing(tmp_path: Path) -> None:
    """An export that fails before its first row has nothing to point to."""
    output = Output(str(tmp_path / "out.jsonl"), "rewards")
    assert output.abandon() is None
    assert [] == list(tmp_path.iterdir())


def test_failures_that_can_not_be_written_are_told(tmp_path: Path) -> None:
    """A folder in the place of the file of failures is an error that names it."""
    (tmp_path / "out.jsonl.errors.jsonl").mkdir()
    output = Output(str(tmp_path / "out.jsonl"), "rewards")
    assert output.errors_file is None
    with pytest.raises(StorageError, match="errors.jsonl can't be written"):
        output.note_failure({"requested_id": "7"})
    output.abandon()


def test_failures_of_an_export_to_standard_output_have_no_file() -> None:
    """There is no place beside it."""
    output = Output("-", "rewards")
    output.note_failure({"requested_id": "7"})
    assert output.errors_file is None
