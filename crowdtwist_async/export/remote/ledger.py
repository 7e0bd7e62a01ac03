"""
The ledger of an output in an object store: a manifest for every commit, and none is ever changed.

    _ledger/000001.json.gz   what was asked for: `begins` is true, what came before counts no more
    _ledger/000002.json.gz   a part, and the members whose rows are in it
    ...
    _ledger/lease.json       who exports: see `lease`

A manifest is created only where none is. So of two exporters that both believe that they hold the lease one
alone gets the next number, and the other stops. Every run begins with a manifest that names no part, and a
part has the number of the manifest that names it: no two exporters ever write a part of the same name.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime

import msgspec

from crowdtwist_async.errors import OutputMismatchError
from crowdtwist_async.export.formats.parquet import Names
from crowdtwist_async.export.ledger import COMPLETED_AT, Ledger, Mark
from crowdtwist_async.export.remote.lease import Lease
from crowdtwist_async.export.remote.objects import Objects
from crowdtwist_async.export.rows import SCHEMA_VERSION, iso
from crowdtwist_async.export.shard import Shard
from crowdtwist_async.export.storage import changed, check_version

FOLDER = "_ledger"
_LEASE = "lease.json"
NUMBERED = r"([0-9]{6,})\.json\.gz"


def folder_of(shard: Shard | None) -> str:
    """The folder of the manifests."""
    return FOLDER if shard is None else f"{FOLDER}/{shard.tag}"


class Member(msgspec.Struct, omit_defaults=True):
    """A member's line of the ledger, and of its failures."""

    requested_id: str
    status: str
    rows: int
    requests: int
    drifted: bool
    fetched_at: str
    error: str = ""
    message: str = ""


class Part(msgspec.Struct):
    """A part of the output."""

    name: str
    rows: int
    bytes: int


class Manifest(msgspec.Struct):
    """One commit."""

    owner: str
    written_at: str
    begins: bool
    state: dict[str, str | None]
    part: Part | None
    members: list[Member]


class RemoteLedger(Ledger):
    """
    The ledger of one output, under a lease, with a temporary copy that answers questions.

    Args:
        objects: Where the output is.
        names: How its parts are called.
        shard: Whose ledger it is; `None`: that of the whole output.
        fresh: Whether what is there counts no more.

    Raises:
        OutputLockedError: Another export holds it.
        OutputMismatchError: It is damaged, or of another version.
        StorageError: The store can't be reached.
    """

    def __init__(self, objects: Objects, names: Names, shard: Shard | None = None, *, fresh: bool) -> None:
        place = objects.place if shard is None else f"shard {shard} of {objects.place}"
        super().__init__(None, place)
        self._objects = objects
        self._folder = folder_of(shard)
        self.number = 1
        """That of the next manifest, and of the part that it names."""
        self.earlier: set[str] = set()
        """The parts of all manifests, also of those that count no more."""
        self.outdated: set[str] = set()
        """Manifests that count no more."""
        self._beyond = 0
        """The first number that no part has: somebody may have removed the manifests of some."""
        self._has_begun = False
        self._has_claimed = False
        try:
            self.lease = Lease(objects, f"{self._folder}/{_LEASE}", place)
            try:
                self._read(names, fresh=fresh)
            except BaseException:
                self.lease.close()
                raise
        except BaseException:
            super().close()
            raise

    def _read(self, parts: Names, *, fresh: bool) -> None:
        """Copy what the manifests say."""
        sizes = self._objects.sizes()
        numbered = ((re.fullmatch(f"{self._folder}/{NUMBERED}", name), name) for name in sizes)
        names = dict(sorted((int(match[1]), name) for match, name in numbered if match))
        self.number = 1 + max(names, default=0)
        with suppress(*((OutputMismatchError,) if fresh else ())):
            self._replay(names)
        if fresh:
            self._forget(names.values())
            self._beyond = parts.next_number(sizes)

    def _replay(self, names: Mapping[int, str]) -> None:
        read: list[str] = []
        missing = next(iter(names), None)  # until one is found that begins
        for number, (name, content) in zip(names, self._objects.read_all(names.values()), strict=True):
            manifest = self._decoded(name, content)
            if manifest.begins:
                self._forget(read)
                self._has_begun, missing = True, None
            elif missing is None and number - 1 not in names:
                missing = number - 1
            read.append(name)
            if manifest.part is not None:
                self.earlier.add(manifest.part.name)
            if missing is None:
                super().commit(*_as_committed(manifest))
        if missing is not None:
            raise changed(self._objects.url(self._folder), f"lacks manifest {missing:06}")
        if names:
            ledger = f"the ledger {self._objects.url(self._folder)}"
            check_version(self.get("schema_version"), str(SCHEMA_VERSION), ledger)

    def _decoded(self, name: str, content: bytes | None) -> Manifest:
        try:
            return msgspec.json.decode(gzip.decompress(content or b""), type=Manifest)
        except (msgspec.DecodeError, OSError, EOFError, zlib.error, ValueError):
            raise changed(self._objects.url(name), "is damaged") from None

    def _forget(self, outdated: Iterable[str]) -> None:
        self.outdated.update(outdated)
        self._has_begun = False
        connection = self.open_transaction()
        for table in ("members", "failures", "parts", "export_state"):
            connection.execute(f"DELETE FROM {table}")  # noqa: S608 - one of four
        connection.execute("COMMIT")

    def commit(
        self,
        marks: Iterable[Mark],
        state: Mapping[str, str | None] | None = None,
        part: tuple[str, int, int] | None = None,
    ) -> None:
        """
        Create the next manifest, then note the same in the copy.

        Raises:
            OutputLockedError: Somebody else exports there now.
            StorageError: It can't be written.
        """
        if self._beyond > self.number + 1:
            # Whoever is about to write this number must not get it, however far the next one is.
            self._create([], {}, None)
            self.number = self._beyond
        some = list(marks)
        self._create(some, state or {}, part)
        self._has_begun = self._has_claimed = True
        super().commit(some, state, part)

    def _create(
        self, marks: list[Mark], state: Mapping[str, str | None], part: tuple[str, int, int] | None
    ) -> None:
        manifest = Manifest(
            owner=self.lease.owner,
            written_at=iso(datetime.now(UTC).replace(microsecond=0)),
            begins=not self._has_begun,
            state=dict(state),
            part=None if part is None else Part(*part),
            members=[Member(*mark) for mark in marks],
        )
        self.lease.renew()
        content = gzip.compress(msgspec.json.encode(manifest), 6, mtime=0)
        if self._objects.create(f"{self._folder}/{self.number:06}.json.gz", content) is not None:
            raise self.lease.lost()
        self.number += 1

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.get(COMPLETED_AT) is not None

    def claim(self) -> None:
        """Make sure that nobody else can write the next manifest: nobody who began earlier."""
        if not self._has_claimed:
            self.commit(())

    def close(self) -> None:
        """Let others in, close the copy and the connections."""
        with ExitStack() as closing:
            closing.callback(self._objects.close)
            closing.callback(super().close)
            self.lease.close()


def _as_committed(
    manifest: Manifest,
) -> tuple[list[Mark], dict[str, str | None], tuple[str, int, int] | None]:
    part = manifest.part
    marks = [Mark(*(getattr(member, field) for field in Mark._fields)) for member in manifest.members]
    return marks, manifest.state, None if part is None else (part.name, part.rows, part.bytes)
