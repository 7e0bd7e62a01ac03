"""
CSV: a header and a row a line, as RFC 4180 quotes them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from crowdtwist_async.export.formats import Format, Writer
from crowdtwist_async.export.formats.lines import LineWriter, discard_lines
from crowdtwist_async.export.ledger import Ledger
from crowdtwist_async.export.rows import Row, columns, flatten, iso

BEGINS = b"requested_id,requested_id_type,"
_FORMULA = (*"=+-@\t\r\n", *"\uff1d\uff0b\uff0d\uff20")
"""Spreadsheets take a cell that begins so for a formula; some take the full-width signs as well."""


def make_format(*, disarm: bool) -> Format:
    """Make the format; `disarm` puts an apostrophe before texts that spreadsheets would calculate."""
    return Format(
        writer=partial(_writer, _disarmed if disarm else _cell),
        discard=lambda path: discard_lines(path, BEGINS),
        is_taken=lambda path: path.exists() or path.is_symlink(),
    )


def _writer(cell: Callable[[Any], Any], path: Path, ledger: Ledger, name: str) -> Writer:
    def encode(rows: Sequence[Row]) -> bytes:
        return _lines([cell(value) for value in flatten(row)] for row in rows)

    return LineWriter(path, ledger, encode, header=header(name), begins=BEGINS)


def header(name: str) -> bytes:
    """The first line of an endpoint's exports."""
    return _lines([columns(name)])


def _lines(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    """Booleans as JSON writes them, instants in ISO 8601, nulls as nothing."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return iso(value) if isinstance(value, datetime) else value


def _disarmed(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else _cell(value)
