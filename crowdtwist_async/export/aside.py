"""
Lines that can be read once, put aside in a temporary file from which they can be read again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from threading import Lock
from weakref import finalize

import msgspec

from crowdtwist_async.errors import ConfigurationError
from crowdtwist_async.export.storage import TEMPORARY_IDS, storing

AT_ONCE = 1_000
"""Lines that are hashed, written or read together: one at a time takes three times as long."""
_BYTES = 2**14

encoded = msgspec.json.Encoder().encode_lines
"""Lines as bytes that no other lines have."""
_decoded = msgspec.json.Decoder(str).decode_lines


def chunked(lines: Iterable[str]) -> Iterator[list[str]]:
    """The same lines, some at a time."""
    left = iter(lines)
    while some := list(islice(left, AT_ONCE)):
        yield some


class Aside:
    """Lines in a temporary file that has no name."""

    def __init__(self) -> None:
        with storing(TEMPORARY_IDS):
            self._file = tempfile.TemporaryFile(prefix="crowdtwist-ids-")  # noqa: SIM115 - it goes with this
        self._lock = Lock()
        # Without its buffer: closing would write again what a full disk refused.
        finalize(self, self._file.raw.close)

    def add(self, lines: list[str]) -> None:
        """Append some; what is lost if the disk is full is told now, and not while they are read."""
        with storing(TEMPORARY_IDS):
            self._file.write(encoded(lines))
            self._file.flush()

    def lines(self) -> Iterator[str]:
        """Read all of them, also while somebody else does."""
        at = 0
        while True:
            with self._lock:
                self._file.seek(at)
                some = self._file.read(_BYTES) + self._file.readline()
            if not some:
                return
            at += len(some)
            yield from _decoded(some)


class Kept:
    """
    Lines that can be read once, put aside by the first who reads them.

    Args:
        lines: What is left of them goes to nobody else.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines: Iterator[str] | None = lines
        self._aside: Aside | None = None
        self._lock = Lock()

    def __call__(self) -> Iterator[str]:
        """
        Read them.

        Raises:
            ConfigurationError: That failed before, and what was read is lost.
        """
        with self._lock:
            if self._aside is None:
                self._aside = self._put_aside()
        return self._aside.lines()

    def _put_aside(self) -> Aside:
        lines, self._lines = self._lines, None
        if lines is None:
            raise ConfigurationError("the ids can be read once, and that failed: give them anew")
        aside = Aside()
        for some in chunked(lines):
            aside.add(some)
        return aside
