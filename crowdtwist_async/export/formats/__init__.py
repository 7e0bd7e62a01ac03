"""
The formats of an output, one a module; the end of its name chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from crowdtwist_async.errors import ConfigurationError
from crowdtwist_async.export.ledger import Ledger, Mark
from crowdtwist_async.export.rows import Row
from crowdtwist_async.export.shard import Shard


class Limits(NamedTuple):
    """How much may be lost to a crash, and fetched again: when a commit is due."""

    seconds: float = 1.0
    members: int = 500
    rows: int = 10_000


class Writer(Protocol):
    """
    Where rows go. Its methods block, and are called one at a time.

    Rows that were written count only with the commit that names their members.
    """

    limits: Limits

    def recover(self) -> None:
        """
        Begin the output, or bring it to what its ledger says: what was not committed is removed.

        Raises:
            OutputMismatchError: It is not what its ledger says.
            StorageError: It can't be written.
        """

    def write(self, rows: Sequence[Row]) -> None:
        """Take one member's rows."""

    def commit(self, marks: Sequence[Mark]) -> None:
        """Make the rows last, and the marks of their members with them."""

    def finish(self) -> None:
        """Complete an output that may be without rows."""

    def close(self) -> None:
        """Let go of the files, without what is not committed."""


class Format(NamedTuple):
    """One format."""

    writer: Callable[[Path, Ledger, str], Writer]
    """Makes the writer for a place and an endpoint's name."""
    discard: Callable[[Path], None]
    """Removes an output; refuses what no export wrote."""
    is_taken: Callable[[Path], bool]
    """Whether something is there."""
    is_folder: bool = False
    """The shards of an output have files of their own in it, instead of beside it."""


SUFFIXES = (".jsonl", ".csv", ".parquet", ".sqlite")


def format_of(path: Path, *, disarm_formulas: bool = False, shard: Shard | None = None) -> Format:
    """
    The format of an output's name.

    Raises:
        ConfigurationError: There is none for it.
    """
    match path.suffix:
        case ".jsonl":
            from crowdtwist_async.export.formats import jsonl

            return jsonl.FORMAT
        case ".csv":
            from crowdtwist_async.export.formats import csv

            return csv.make_format(disarm=disarm_formulas)
        case ".parquet":
            from crowdtwist_async.export.formats import parquet

            return parquet.make_format(shard)
        case ".sqlite":
            from crowdtwist_async.export.formats import sqlite

            return sqlite.FORMAT
    raise ConfigurationError(
        f"{path.name} has no known format: it must end in {', '.join(SUFFIXES)}, or be -"
    )
