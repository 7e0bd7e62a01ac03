"""
What JSON Lines and CSV have in common: one file that grows, and whose committed bytes the ledger knows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from crowdtwist_async.export.formats import Limits
from crowdtwist_async.export.ledger import COMPLETED_AT, Ledger, Mark
from crowdtwist_async.export.locks import hold, holding, unlock
from crowdtwist_async.export.rows import Row
from crowdtwist_async.export.storage import (
    changed,
    check_in_place,
    create,
    foreign,
    storing,
    sync_folder,
    write_all,
)

BYTES = "bytes"
TAIL = "tail"
"""A digest of the last committed bytes: a file that was saved anew has others there."""
_TAIL_BYTES = 256
_BUFFERED = 1 << 18
_CLOSED = -1


class LineWriter:
    """Appends lines; on resuming, cuts off what came after the last commit."""

    limits = Limits()

    def __init__(
        self,
        path: Path,
        ledger: Ledger,
        encode: Callable[[Sequence[Row]], bytes],
        header: bytes,
        begins: bytes,
    ) -> None:
        self._path = path
        self._ledger = ledger
        self._encode = encode
        self._header = header
        self._begins = begins
        self._file = _CLOSED
        self._committed = 0
        self._buffer = bytearray()
        self._tail = b""

    def recover(self) -> None:
        """Cut the file to its committed bytes, or begin it."""
        self._committed = int(self._ledger.get(BYTES) or 0)
        with storing(self._path):
            # The ledger's lock is by its name, and a file may have several.
            self._file = hold(self._opened(), self._path)
            self._check_tail()
            sync_folder(self._path.parent)
            os.ftruncate(self._file, self._committed)
            os.lseek(self._file, self._committed, os.SEEK_SET)
            if not self._committed:
                write_all(self._file, self._header)
                self._tail = self._header[-_TAIL_BYTES:]
        if not self._committed:
            self.commit(())

    def _opened(self) -> int:
        if not self._path.exists():
            if self._committed > len(self._header):
                raise changed(self._path, "is not there any more")
            self._committed = 0
            return create(self._path)
        if not looks_ours(self._path, self._begins):
            raise foreign(self._path, "is no output of an export")
        size = self._path.stat().st_size
        if size < self._committed:
            raise changed(self._path, "is shorter than its ledger says")
        if size > self._committed and self._ledger.get(COMPLETED_AT) is not None:
            raise changed(self._path, "is longer than its ledger says, though it was complete")
        return os.open(self._path, os.O_RDWR)

    def _check_tail(self) -> None:
        begin = max(self._committed - _TAIL_BYTES, 0)
        os.lseek(self._file, begin, os.SEEK_SET)
        self._tail = os.read(self._file, self._committed - begin)
        if self._committed and self._ledger.get(TAIL) not in (None, _digest(self._tail)):
            raise changed(self._path, "was changed: its committed rows do not end where its ledger says")

    def write(self, rows: Sequence[Row]) -> None:
        """Append a member's lines."""
        self._buffer += self._encode(rows)
        if len(self._buffer) >= _BUFFERED:
            self._flush()

    def commit(self, marks: Sequence[Mark]) -> None:
        """Sync the file, then note how long it is."""
        self._flush()
        with storing(self._path):
            check_in_place(os.fstat(self._file), self._path)
            os.fsync(self._file)
            self._committed = os.lseek(self._file, 0, os.SEEK_CUR)
        self._ledger.commit(marks, {BYTES: str(self._committed), TAIL: _digest(self._tail)})

    def _flush(self) -> None:
        with storing(self._path):
            write_all(self._file, bytes(self._buffer))
        self._tail = (self._tail + self._buffer[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        self._buffer.clear()

    def finish(self) -> None:
        """Do nothing: the file has been whole since the last commit."""

    def close(self) -> None:
        """Close the file; a torn end stays until the next time."""
        if self._file != _CLOSED:
            with suppress(OSError):  # of a network's disk: what counts was synced
                unlock(self._file)
            self._file = _CLOSED


def _digest(tail: bytes) -> str:
    return blake2b(tail, digest_size=8).hexdigest()


def looks_ours(path: Path, begins: bytes) -> bool:
    """Whether a file begins as an export does, or is empty."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(len(begins))
    return begins.startswith(head)


def _opened_to_lock(path: Path) -> int:
    # To write, where it may be written: NFS has locks of one's own on no others.
    try:
        return os.open(path, os.O_RDWR)
    except PermissionError:
        return os.open(path, os.O_RDONLY)


def discard_lines(path: Path, begins: bytes) -> None:
    """Remove an output; refuse what is none."""
    if not path.exists() and not path.is_symlink():
        return
    if not looks_ours(path, begins):
        raise foreign(path, "is no output of an export")
    descriptor = _opened_to_lock(path)
    with holding(descriptor, path):
        if path.is_symlink():
            os.ftruncate(descriptor, 0)  # the link stays
        else:
            path.unlink()
