"""
Parquet in an object store: a part is an object that counts once a manifest names it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from typing import Any

from crowdtwist_async.errors import OutputLockedError, StorageError
from crowdtwist_async.export.formats.parquet import Names, PartWriter, is_ours
from crowdtwist_async.export.ledger import Mark
from crowdtwist_async.export.remote.ledger import RemoteLedger
from crowdtwist_async.export.remote.objects import Objects
from crowdtwist_async.export.rows import Row
from crowdtwist_async.export.storage import changed, foreign


class RemoteWriter(PartWriter):
    """Writes a part into a temporary file without a name, and puts it into the store."""

    def __init__(self, objects: Objects, names: Names, ledger: RemoteLedger, name: str) -> None:
        super().__init__("the temporary file of a part", ledger, name)
        self._objects = objects
        self._names = names
        self._remote = ledger

    def check(self) -> None:
        """
        Refuse a folder with parts that no export wrote, before anything in it is changed.

        Raises:
            OutputMismatchError: There are some.
        """
        for name in self._objects.sizes():
            if not name.endswith(".parquet") or name in self._remote.earlier or self._names.are_others(name):
                continue
            if not self._names.are_own(name) or not is_ours(BytesIO(self._objects.read(name) or b"")):
                raise foreign(
                    self._objects.url(name), "is a part that no export wrote, and would be read as one"
                )

    def recover(self) -> None:
        """Remove what no manifest names, and check that what they name is there."""
        if not self._remote.is_complete or self._strays(self._objects.sizes()):
            self._remote.claim()
        self._tidy()

    def _tidy(self) -> None:
        sizes, known = self._objects.sizes(), self._remote.parts()
        # After the listing: a part of somebody who has taken over meanwhile is none that is wrong here.
        self._remote.lease.renew()
        if {name: sizes.get(name) for name in known} != known:
            raise changed(
                self._objects.place, "lacks a part that its ledger names, or has it in another size"
            )
        for name in sizes:
            if self._names.number(name) >= self._remote.number:
                raise changed(self._objects.url(name), "is a part that its ledger does not name")
        self._objects.remove(self._strays(sizes))

    def _strays(self, sizes: dict[str, int]) -> list[str]:
        """
        The own parts that no manifest names, and the manifests that count no more.

        What has the number of a manifest to come is left: it may be of somebody who has taken over.
        """
        known, outdated = self._remote.parts(), self._remote.outdated
        return [
            name
            for name in sizes
            if name in outdated or (0 < self._names.number(name) < self._remote.number and name not in known)
        ]

    def write(self, rows: Sequence[Row]) -> None:
        """Take a member's rows, unless it is known by now that somebody else exports there."""
        self._remote.lease.check()
        super().write(rows)

    def commit(self, marks: Sequence[Mark]) -> None:
        """Put the part, then the manifest that names it; a part that none will name is taken back."""
        self._remote.claim()
        name = self._names.part(self._remote.number)
        is_put = self._part is not None or bool(self._group)
        try:
            super().commit(marks)
        except OutputLockedError:
            with suppress(StorageError):
                self._objects.remove([name] if is_put else ())
            raise

    def _begun(self) -> Any:
        return tempfile.TemporaryFile(prefix="crowdtwist-part-")

    def _kept(self) -> tuple[str, int]:
        name = self._names.part(self._remote.number)
        self._file.seek(0)
        content = self._file.read()
        self._file.close()
        self._objects.put(name, content)
        return name, len(content)

    def finish(self) -> None:
        """Write a part without rows if there is none, and remove what somebody else still put there."""
        super().finish()
        self._tidy()
