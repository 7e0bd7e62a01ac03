"""
JSON Lines: a row an object, nested as the API nests it; to a file, or to standard output.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from crowdtwist_async.errors import ConfigurationError
from crowdtwist_async.export.formats import Format, Limits, Writer
from crowdtwist_async.export.formats.lines import LineWriter, discard_lines
from crowdtwist_async.export.ledger import Ledger, Mark
from crowdtwist_async.export.rows import Row
from crowdtwist_async.export.storage import STANDARD_OUTPUT, storing, write_whole

BEGINS = b'{"requested_id":'
"""What every line begins with, and no other file is likely to."""


def encode(rows: Sequence[Row]) -> bytes:
    """One line a row."""
    dump = msgspec.json.encode
    return b"".join([dump(row) + b"\n" for row in rows])


def _writer(path: Path, ledger: Ledger, _: str) -> Writer:
    return LineWriter(path, ledger, encode, header=b"", begins=BEGINS)


FORMAT = Format(
    writer=_writer,
    discard=lambda path: discard_lines(path, BEGINS),
    is_taken=lambda path: path.exists() or path.is_symlink(),
)


class StandardOutput:
    """JSON Lines on standard output, each member's at once; there is nothing to go on with."""

    limits = Limits()

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def recover(self) -> None:
        """
        Check that there is a standard output.

        Raises:
            ConfigurationError: It is closed, or takes no bytes, as in a notebook.
        """
        if getattr(sys.stdout, "buffer", None) is None:
            raise ConfigurationError("standard output is closed, or takes no bytes: name a file")

    def write(self, rows: Sequence[Row]) -> None:
        """Write a member's lines."""
        with storing(STANDARD_OUTPUT):
            write_whole(sys.stdout.buffer, encode(rows))

    def commit(self, marks: Sequence[Mark]) -> None:
        """Note the members, so that none is fetched twice."""
        self._ledger.commit(marks)

    def finish(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
