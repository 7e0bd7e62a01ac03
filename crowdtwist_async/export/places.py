"""
Where an output and the files beside it are, and whether they can be there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePath

from crowdtwist_async.errors import ConfigurationError
from crowdtwist_async.export.formats import Format, format_of
from crowdtwist_async.export.shard import LEDGER, Shard
from crowdtwist_async.export.storage import storing

STANDARD_OUTPUT = "-"
ERRORS = ".errors.jsonl"


def is_local(output: str) -> bool:
    """Whether an output has files: standard output and objects have none."""
    return output != STANDARD_OUTPUT and "://" not in output


def own_path(output: Path, shard: Shard | None) -> Path:
    """The name that the files of an export have in common: those of a shard have one of their own."""
    return output if shard is None else shard.beside(output)


def ledger_path(output: Path, shard: Shard | None) -> Path:
    """The ledger: a SQLite output has it in itself."""
    own = own_path(output, shard)
    return own if output.suffix == ".sqlite" else own.with_name(f"{own.name}{LEDGER}")


def errors_path(output: Path, shard: Shard | None) -> Path:
    """The file of failed members."""
    own = own_path(output, shard)
    return own.with_name(f"{own.name}{ERRORS}")


def files_of(output: str, shard: Shard | None) -> list[Path]:
    """What an export writes; the output itself belongs to its shards together."""
    whole = Path(output)
    if not is_local(output) or not whole.name:
        return []
    return [whole, own_path(whole, shard), ledger_path(whole, shard), errors_path(whole, shard)]


def check_place(output: str, shard: Shard | None = None, *, disarm_formulas: bool = False) -> Format | None:
    """
    Check that an export can write there, and return the format, if it has files.

    Raises:
        ConfigurationError: It can't.
        StorageError: The system does not say.
    """
    if disarm_formulas and not output.endswith(".csv"):
        raise ConfigurationError("disarming formulas is for CSV alone: no other format has any")
    if not is_local(output):
        return None
    with storing(output):
        path = checked_path(output)
        made = format_of(path, disarm_formulas=disarm_formulas, shard=shard)
        _check_name(own_path(path, shard))
    return made


def checked_path(output: str) -> Path:
    """
    An output's path.

    Raises:
        ConfigurationError: No file can be there.
    """
    if "://" in output:
        raise ConfigurationError(
            "object stores take Parquet alone, which needs no merging: it is read as one table as it is"
        )
    if not output:
        raise ConfigurationError("the output has no name: give a file's, such as out.jsonl")
    path = Path(output)
    if not path.parent.is_dir():
        raise ConfigurationError(f"the folder of {output} is not there: make it first")
    _check_name(path)
    if path.suffix != ".parquet" and path.is_dir():
        raise ConfigurationError(f"{output} is a folder: name a file in it")
    if not os.access(path.parent, os.W_OK):
        raise ConfigurationError(f"the folder of {output} can't be written to")
    check_outside(output, Path(os.path.realpath(path)).parents)
    return path


def check_outside(output: str, folders: Iterable[PurePath]) -> None:
    """
    Refuse a place in a folder that is read as one table, with all that is in it.

    Raises:
        ConfigurationError: It is in one.
    """
    for folder in folders:
        if folder.suffix == ".parquet":
            raise ConfigurationError(
                f"{output} is in {folder.name}, which readers take for a Parquet output: name one outside"
            )


def _check_name(path: Path) -> None:
    """Refuse a name that is too long for the files beside it."""
    most = os.pathconf(path.parent, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    longest = most - len(f"{LEDGER}-journal")
    if (length := len(os.fsencode(path.name))) > longest:
        raise ConfigurationError(
            f"the output's name has {length} bytes, and the files beside it take some more: {longest} at most"
        )


def check_apart(ids: Path | None, output: str, shard: Shard | None) -> None:
    """
    Check that the ids are in no file that the export writes.

    Raises:
        ConfigurationError: They are.
    """
    if ids is None:
        return
    with storing(output):
        for path in files_of(output, shard):
            if ids.exists() and path.exists() and path.samefile(ids):
                raise ConfigurationError(
                    f"the ids are in {path}, which this export writes: copy them to a file of their own, or"
                    " name another output"
                )
