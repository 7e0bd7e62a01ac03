"""
The formats of a file: JSON Lines and CSV.

A file is written beside its place, and takes it only when the export is complete.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from crowdtwist_async.errors import ConfigurationError, StorageError
from crowdtwist_async.export.rows import Row, columns, flatten

_PRIVATE = 0o600
"""An export holds members' data: nobody else may read it."""


class Output:
    """
    Where rows go: `OUT.jsonl`, `OUT.csv`, or `-` for JSON Lines on standard output.

    Args:
        target: The file.
        name: `points`, `rewards` or `purchases`: it decides the columns.
        replace: Whether a file that is there already may be replaced.

    Raises:
        ConfigurationError: The format is unknown, or the file is there, or can't be written.
    """

    def __init__(self, target: str, name: str, *, replace: bool = False) -> None:
        self._path = None if target == "-" else Path(target)
        self._place = "standard output" if self._path is None else target
        self._encode = _encoder(self._path)
        self._written = False
        self._errors: BinaryIO | None = None
        self._file: BinaryIO
        if self._path is None:
            if sys.stdout is None:
                raise ConfigurationError("standard output is closed: name a file")
            self._file = sys.stdout.buffer
            return
        if self._path.is_dir():
            raise ConfigurationError(f"{target} is a folder: name a file in it")
        if not replace and self._path.exists():
            raise ConfigurationError(
                f"{target} is there already: name another file, or give --fresh to replace it"
            )
        try:
            self._file = _create(self._partial(self._path))
        except OSError as error:
            raise _storage_error(self._place, error) from None
        if self._path.suffix == ".csv":
            self._file.write(_csv_lines([columns(name)]))

    def write(self, rows: Iterable[Row]) -> None:
        """
        Append rows.

        Raises:
            StorageError: The disk is full, or the file can't be written any more.
            BrokenPipeError: Nobody reads standard output any more.
        """
        self._written = True
        try:
            self._file.write(self._encode(rows))
            if self._path is None:
                self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _storage_error(self._place, error) from None

    def note_failure(self, failure: Row) -> None:
        """
        Append a failed member to `OUT.errors.jsonl`, which is made with the first one.

        Raises:
            StorageError: It can't be written.
        """
        if self._path is None:
            return
        try:
            if self._errors is None:
                self._errors = _create(self._path.with_name(self._path.name + ".errors.jsonl"))
            self._errors.write(_json_lines([failure]))
            self._errors.flush()
        except OSError as error:
            raise _storage_error(f"{self._place}.errors.jsonl", error) from None

    @property
    def errors_file(self) -> str | None:
        """Where the failed members stand, if there are any and the output is a file."""
        return f"{self._place}.errors.jsonl" if self._errors is not None else None

    def complete(self) -> None:
        """
        Put the file in its place.

        Raises:
            StorageError: What was buffered can't be written.
        """
        if self._path is None:
            return
        try:
            self._close()
            self._partial(self._path).replace(self._path)
        except OSError as error:
            raise _storage_error(self._place, error) from None

    def abandon(self) -> str | None:
        """Leave the rows that are written so far; return where, if there are any and it is a file."""
        if self._path is None:
            return None
        partial = self._partial(self._path)
        with suppress(OSError):  # a full disk is told already
            self._close()
            if not self._written:
                partial.unlink()
        return str(partial) if self._written else None

    def _close(self) -> None:
        if self._errors is not None:
            self._errors.close()
        self._file.close()

    @staticmethod
    def _partial(path: Path) -> Path:
        return path.with_name(path.name + ".partial")


def _storage_error(place: str, error: OSError) -> StorageError:
    return StorageError(f"{place} can't be written: {error.strerror or 'unknown reason'}")


def _create(path: Path) -> BinaryIO:
    # What an earlier run left may be readable for others, or be a link to another file.
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    return os.fdopen(descriptor, "wb")


def _encoder(path: Path | None) -> Callable[[Iterable[Row]], bytes]:
    if path is None or path.suffix == ".jsonl":
        return _json_lines
    if path.suffix == ".csv":
        return lambda rows: _csv_lines([[_cell(value) for value in flatten(row).values()] for row in rows])
    raise ConfigurationError(f"{path.name} has no known format: it must end in .jsonl or .csv, or be -")


def _json_lines(rows: Iterable[Row]) -> bytes:
    return b"".join([msgspec.json.encode(row) + b"\n" for row in rows])


def _csv_lines(lines: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    """Booleans as JSON writes them, objects as JSON, nulls as nothing."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else value
