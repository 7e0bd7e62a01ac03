"""
JSON Lines: nested rows in a file, or on standard output.
"""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import closing
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import pytest
from outputs import FULL, SPARSE, mark_of, opened, row_of, written

from crowdtwist_async import ConfigurationError, StorageError
from crowdtwist_async.cli._output import write

AWKWARD = 'Mug, "large"\r\nblue\u2028or red; ünï 🎁\0'


def test_lines_keep_the_nesting(tmp_path: Path) -> None:
    """Each line is a row as it is, its instants in ISO 8601, whatever its texts hold."""
    rows = [row_of("rewards", FULL), row_of("rewards", SPARSE | {"title": AWKWARD, "new": {"a": 2**70}})]
    written(tmp_path / "out.jsonl", "rewards", rows)

    lines = (tmp_path / "out.jsonl").read_bytes().decode().split("\n")

    assert "" == lines.pop()
    [full, sparse] = [json.loads(line) for line in lines]
    assert ["requested_id", "requested_id_type", "id"] == list(full)[:3]
    assert (FULL["segment"], FULL["extra_data"]) == (full["segment"], full["extra_data"])
    assert ("2017-03-28T08:00:00Z", True, None) == (full["date_start"], full["is_enabled"], full["_extra"])
    assert (AWKWARD, {"new": {"a": 2**70}}, None) == (sparse["title"], sparse["_extra"], sparse["segment"])
    assert list(full) == list(sparse)


def test_no_rows_are_an_empty_file(tmp_path: Path) -> None:
    """There is no header."""
    written(tmp_path / "out.jsonl", "rewards", [])

    assert b"" == (tmp_path / "out.jsonl").read_bytes()


class Stdout:
    """A standard output whose bytes go somewhere else."""

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer


@pytest.mark.parametrize("buffering", [0, -1], ids=["unbuffered", "buffered"])
@pytest.mark.parametrize("by", ["export", "command"])
def test_a_pipe_that_does_not_wait_gets_every_byte(
    monkeypatch: pytest.MonkeyPatch, buffering: int, by: str
) -> None:
    """Whoever has its other end may have set it so; without a buffer a write takes a part, and says so alone."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    row = row_of("rewards", FULL | {"description": "x" * 300_000})
    got: list[bytes] = []

    def read() -> None:
        with os.fdopen(reader, "rb") as pipe:
            sleep(0.1)
            got.append(pipe.read())

    reading = Thread(target=read)
    reading.start()
    with os.fdopen(writer, "wb", buffering) as pipe:
        monkeypatch.setattr(sys, "stdout", Stdout(pipe))
        if by == "command":
            write("y" * 300_000)
        else:
            with closing(opened(Path("-"), "rewards")) as target:
                target.writer.write([row, row])
    reading.join()
    if by == "command":
        assert [b"y" * 300_000] == got
    else:
        assert [300_000] * 2 == [len(json.loads(line)["description"]) for line in got[0].splitlines()]


def test_a_stream_that_says_nothing_has_written_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs put objects of their own there; only what is raw says that it would have to wait."""
    got: list[bytes] = []

    class Silent:
        def write(self, content: memoryview) -> None:
            got.append(bytes(content))

        def flush(self) -> None: ...

    monkeypatch.setattr(sys, "stdout", Stdout(Silent()))
    write("text")
    assert [b"text"] == got


def test_standard_output_gets_a_member_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are there before its mark; the ledger is a temporary one, and nothing is closed."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Stdout(io.BufferedWriter(raw)))
    with closing(opened(Path("-"), "rewards")) as target:
        target.writer.write([row_of("rewards", FULL), row_of("rewards", SPARSE)])
        lines = [json.loads(line) for line in raw.getvalue().splitlines()]
        assert [FULL["title"], SPARSE["title"]] == [line["title"] for line in lines]

        target.writer.commit([mark_of("7", rows=2)])
        assert ("ok", 2) == (target.ledger.status_of("7"), target.ledger.totals().rows)
        target.complete()
        assert target.write_errors("id") is None

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
        pytest.param(OSError("odd"), "OSError", id="without-a-reason"),
    ],
)
def test_standard_output_on_a_full_disk_is_told(
    monkeypatch: pytest.MonkeyPatch, error: OSError, reason: str
) -> None:
    """It is named as what it is."""
    monkeypatch.setattr(sys, "stdout", Stdout(Failing(error)))

    with closing(opened(Path("-"), "rewards")) as target:
        with pytest.raises(StorageError, match=rf"^standard output can't be written: {reason}\. Put that"):
            target.writer.write([row_of("rewards", FULL)])


def test_a_closed_pipe_is_no_storage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads has seen enough: the command ends without a word."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as pipe, closing(opened(Path("-"), "rewards")) as target:
        monkeypatch.setattr(sys, "stdout", Stdout(pipe))
        with pytest.raises(BrokenPipeError):
            target.writer.write([row_of("rewards", FULL)])


@pytest.mark.parametrize("stdout", [None, io.StringIO()], ids=["closed", "notebook"])
def test_a_standard_output_that_takes_no_bytes_is_refused(
    monkeypatch: pytest.MonkeyPatch, stdout: io.StringIO | None
) -> None:
    """An interpreter without one has `None`, a notebook one for text alone."""
    monkeypatch.setattr(sys, "stdout", stdout)

    with pytest.raises(
        ConfigurationError, match="^standard output is closed, or takes no bytes: name a file$"
    ):
        opened(Path("-"), "rewards")
