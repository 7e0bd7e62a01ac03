"""
Exports to an object store: parts and numbered manifests, with nothing on the local disk that must last.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import PurePosixPath

from crowdtwist_async.errors import ConfigurationError
from crowdtwist_async.export.formats.jsonl import BEGINS
from crowdtwist_async.export.formats.parquet import Names
from crowdtwist_async.export.places import ERRORS, check_outside
from crowdtwist_async.export.remote.ledger import FOLDER, NUMBERED, RemoteLedger, folder_of
from crowdtwist_async.export.remote.objects import Objects
from crowdtwist_async.export.remote.parquet import RemoteWriter
from crowdtwist_async.export.shard import Shard, check_mixture
from crowdtwist_async.export.storage import foreign

_OF_SHARD = re.compile(rf"(?:part-|{FOLDER}/)[0-9]{{1,5}}-of-([1-9][0-9]{{0,4}})[-/][0-9]{{6,}}\..*")
_OF_WHOLE = re.compile(rf"part-[0-9]{{6,}}\.parquet|{FOLDER}/{NUMBERED}")


class RemoteErrors:
    """The object of failed members, beside the output."""

    def __init__(self, objects: Objects, shard: Shard | None) -> None:
        self._folder, name = objects.split()
        stem = name.removesuffix(".parquet")
        self._name = f"{name if shard is None else f'{stem}.{shard.tag}.parquet'}{ERRORS}"
        there = self._folder.read(self._name)
        if there is not None and not there.startswith(BEGINS[: len(there)]):
            raise foreign(self._folder.url(self._name), "is there already, and was written by no export")

    def write(self, lines: Iterator[bytes] | None) -> str | None:
        """Write it whole and return its name, or remove it."""
        if lines is None:
            self._folder.remove([self._name])
            return None
        self._folder.put(self._name, b"".join(lines))
        return self._folder.url(self._name)


def open_remote(
    output: str, name: str, *, fresh: bool, shard: Shard | None
) -> tuple[RemoteLedger, RemoteWriter, RemoteErrors]:
    """
    Open an output in an object store.

    Raises:
        ConfigurationError: It is none that can be written, or a package is missing.
        ExportError: It is locked, damaged, somebody else's, or can't be written.
    """
    if not output.rstrip("/").endswith(".parquet"):
        raise ConfigurationError(
            "object stores take Parquet alone: name OUT.parquet there, or a local path for other formats"
        )
    check_outside(output, PurePosixPath(output).parents)
    objects = Objects.at(output)
    names = Names(shard)
    with ExitStack() as opened:
        opened.callback(objects.close)
        _check_place(objects, names, shard, fresh=fresh)
        errors = RemoteErrors(objects, shard)
        ledger = RemoteLedger(objects, names, shard, fresh=fresh)
        opened.callback(ledger.close)
        writer = RemoteWriter(objects, names, ledger, name)
        writer.check()
        opened.pop_all()
    return ledger, writer, errors


def _check_place(objects: Objects, names: Names, shard: Shard | None, *, fresh: bool) -> None:
    """Refuse what no export, or an export of other shards, wrote there."""
    there = objects.sizes()
    if objects.is_object():
        raise foreign(objects.place, "is an object, and no folder of an export")
    counts = {int(match[1]): name for name in there if (match := _OF_SHARD.fullmatch(name))}
    whole = next(filter(_OF_WHOLE.fullmatch, there), None)
    check_mixture(objects.place, counts, whole, shard)
    if fresh or any(re.fullmatch(f"{folder_of(shard)}/{NUMBERED}", name) for name in there):
        return
    if any(names.are_taken_by(name) for name in there if not name.startswith(f"{FOLDER}/")):
        raise foreign(objects.place, f"is there already, and no ledger is in its {folder_of(shard)}")
