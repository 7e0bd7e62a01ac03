"""
A lease: an object that says who exports, and until when that holds unless it is renewed.

It keeps two exporters from working side by side. That no row is doubled does not hang on it, nor on clocks:
see `ledger`.
"""

from __future__ import annotations

import secrets
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import msgspec

from crowdtwist_async.errors import OutputLockedError, StorageError
from crowdtwist_async.export.remote.objects import Objects

SECONDS = 60.0
RENEWED_AFTER = 20.0


class Holder(msgspec.Struct):
    """What the object holds."""

    owner: str
    """A random word of one run."""
    expires: datetime
    """Renewed long before, while the exporter lives."""


class Lease:
    """
    The lease of one output, held from the beginning.

    Args:
        objects: Where the output is.
        name: Of the object.
        place: What the output is called, for errors.

    Raises:
        OutputLockedError: Another export holds it.
        StorageError: The store can't be reached.
    """

    def __init__(self, objects: Objects, name: str, place: str) -> None:
        self.owner = secrets.token_hex(16)
        self._objects = objects
        self._name = name
        self._place = place
        self._alone = threading.Lock()
        self._ended = threading.Event()
        self._lost = False
        self._take()
        self._thread = threading.Thread(target=self._keep, name="crowdtwist-lease", daemon=True)
        self._thread.start()

    def _take(self) -> None:
        there = self._objects.read(self._name)
        if there is None:
            there = self._objects.create(self._name, self._content())
            if there is None:
                return
        holder = _holder(there)
        if holder is not None and holder.expires > datetime.now(UTC):
            raise self._locked(holder)
        self._objects.put(self._name, self._content())
        holder = self._held_by()
        if holder is None or holder.owner != self.owner:
            raise self._locked(holder)

    def _content(self) -> bytes:
        return msgspec.json.encode(Holder(self.owner, datetime.now(UTC) + timedelta(seconds=SECONDS)))

    def _held_by(self) -> Holder | None:
        there = self._objects.read(self._name)
        return None if there is None else _holder(there)

    def _locked(self, holder: Holder | None) -> OutputLockedError:
        until = "" if holder is None else f", or until {holder.expires:%Y-%m-%dT%H:%M:%SZ} if it was killed"
        return OutputLockedError(
            f"another export is writing {self._place}: wait until it ends{until}, or stop it"
        )

    def _keep(self) -> None:
        while not self._ended.wait(RENEWED_AFTER):
            with suppress(StorageError):  # the next commit meets it as well, and tells it
                try:
                    self.renew()
                except OutputLockedError:
                    return

    def renew(self) -> None:
        """
        Hold it for longer.

        Raises:
            OutputLockedError: Somebody else has taken it.
            StorageError: The store can't be reached.
        """
        with self._alone:
            self.check()
            if self._ended.is_set():
                return
            holder = self._held_by()
            if holder is None or holder.owner != self.owner:
                raise self.lost()
            self._objects.put(self._name, self._content())

    def check(self) -> None:
        """
        Tell what was last known of it, without asking the store.

        Raises:
            OutputLockedError: It is lost.
        """
        if self._lost:
            raise self.lost()

    def lost(self) -> OutputLockedError:
        """Note that somebody else exports, and return what to say of it."""
        self._lost = True
        return OutputLockedError(
            f"another export has taken {self._place} over, as this one was not heard of for {SECONDS:.0f}"
            " seconds, or somebody removed its lease: what was committed before stays"
        )

    def close(self) -> None:
        """Let others in; a store that does not answer lets them in when it expires."""
        self._ended.set()
        with self._alone, suppress(StorageError):
            holder = None if self._lost else self._held_by()
            if holder is not None and holder.owner == self.owner:
                self._objects.remove([self._name])
        self._thread.join()


def _holder(content: bytes) -> Holder | None:
    """Who holds it; `None`: nobody who can be told."""
    try:
        return msgspec.json.decode(content, type=Holder)
    except (msgspec.DecodeError, ValueError):
        return None
