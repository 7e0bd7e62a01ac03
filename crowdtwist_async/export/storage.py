"""
Files that hold members' data: private, synced to the disk, and errors that say which could not be written.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any

from crowdtwist_async.errors import ConfigurationError, OutputLockedError, OutputMismatchError, StorageError

STANDARD_OUTPUT = "standard output"
PRIVATE = 0o600
PRIVATE_FOLDER = 0o700

_HELD = (
    "another program has held it in a transaction for longer than an export waits. End that program, or its"
    " transaction,"
)
_LOCKING = RLock()
"""Held while the process forks, so that a child knows of all locks: also by a signal handler amid locking."""
_LOCKED: dict[int, tuple[int, int]] = {}
"""
The files that this process holds, by descriptor: opening and closing one again would drop the locks that
SQLite has on it.
"""


@contextmanager
def storing(place: object, remedy: str = "") -> Iterator[None]:
    """
    Say of a failure to write what could not be written, and what helps when that is put right.

    Raises:
        StorageError: Instead of the system's own error.
        BrokenPipeError: As it is: whoever read standard output has gone.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = f"{error.strerror or type(error).__name__}. Put that right"
    except sqlite3.Error as error:
        busy = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
        reason = _HELD if busy else f"{error}. Put that right"
    else:
        return
    goes_on = "" if place == STANDARD_OUTPUT else ": it goes on from what was committed"
    remedy = remedy or f"export again{goes_on}"
    raise StorageError(f"{place} can't be written: {reason} and {remedy}")


def create(path: Path) -> int:
    """Create a private file that is not there yet, and return its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE)


def lock(path: Path, place: str) -> int:
    """
    Lock a file, which is made if need be; the system drops the lock when the process ends.

    Raises:
        OutputLockedError: Another export holds it.
        ConfigurationError: The system has no such locks.
    """
    _locks()
    with _LOCKING:
        if path.exists() and _identity(path.stat()) in _LOCKED.values():
            raise _locked(place)
        return hold(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE), place)


def hold(descriptor: int, place: object, *, alone: bool = True) -> int:
    """
    Lock a file, or a folder, that is open; it is closed if it can't be had.

    Args:
        descriptor: What to lock; `unlock` closes it.
        place: What it belongs to, for the error.
        alone: Whether nobody else may hold it; else others who say so may.

    Raises:
        OutputLockedError: Another export holds it.
    """
    locks = _locks()
    with _LOCKING:
        try:
            locks.flock(descriptor, (locks.LOCK_EX if alone else locks.LOCK_SH) | locks.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if not isinstance(error, BlockingIOError):
                raise
            raise _locked(place) from None
        _LOCKED[descriptor] = _identity(os.fstat(descriptor))
    return descriptor


def _locks() -> Any:
    try:
        import fcntl
    except ImportError:
        raise ConfigurationError(
            "exports to files lock them as Linux and macOS do: run it there, or write to -"
        ) from None
    return fcntl


def _locked(place: object) -> OutputLockedError:
    return OutputLockedError(f"another export is writing {place}: wait until it ends, or stop it")


def unlock(descriptor: int) -> None:
    """Let others in; a forked child that does so of its parent's lock changes nothing."""
    locks = _locks()
    with _LOCKING:
        if _LOCKED.pop(descriptor, None) is not None:
            # Closing alone lets nobody in as long as a program that is being started has a copy.
            with suppress(OSError):
                locks.flock(descriptor, locks.LOCK_UN)
            os.close(descriptor)


def _let_go_in_child() -> None:
    """Hold nothing in a forked child: as long as it has a copy of a descriptor, the file is locked."""
    for descriptor in _LOCKED:
        with suppress(OSError):
            # Closed before another is opened: there may be no more than this one.
            os.close(descriptor)
            nowhere = os.open(os.devnull, os.O_RDWR)
            # What the child has of its parent's export still knows the number: no other file may get it.
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor, inheritable=False)
                os.close(nowhere)
    _LOCKED.clear()
    _LOCKING.release()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no forks
    os.register_at_fork(
        before=_LOCKING.acquire, after_in_parent=_LOCKING.release, after_in_child=_let_go_in_child
    )


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def check_in_place(descriptor: int, path: Path) -> None:
    """Refuse to write on where nobody would find it: to a file that was moved away, removed or replaced."""
    try:
        in_place = os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        in_place = False
    if not in_place:
        raise changed(path, "was moved away or removed while it was written")


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of it: a file on a disk that fills up takes a part."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: Iterator[bytes]) -> None:
    """Write a private file whole: readers see the old one or the new one."""
    with replacing(path) as (_, descriptor):
        for some in content:
            write_all(descriptor, some)


@contextmanager
def replacing(path: Path) -> Iterator[tuple[Path, int]]:
    """Give the name and the descriptor of a new private file, which takes its place when it is written."""
    beside = _beside(path)
    remove_unfinished(path)
    try:
        descriptor = create(beside)
        try:
            yield beside, descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_file(path: Path) -> None:
    """Remove a file, and what a crash left of one that was to replace it."""
    remove_unfinished(path)
    path.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Remove what a crash left of a file that was to replace this one."""
    _beside(path).unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def changed(
    path: object, what: str, remedy: str = "give --fresh (fresh=True) to begin anew"
) -> OutputMismatchError:
    """The refusal to go on with an output that is not as it was left."""
    return OutputMismatchError(f"{path} {what}: put it back as it was, or {remedy}")


def foreign(path: object, what: str) -> OutputMismatchError:
    """The refusal to touch what this export did not write."""
    return OutputMismatchError(f"{path} {what}. It is left as it is: move it away, or name another output")


def check_version(version: str | None, wanted: str, ledger: str) -> None:
    """Refuse a ledger that another release wrote."""
    if version != wanted:
        raise OutputMismatchError(
            f"{ledger} is of version {version}, and this release writes {wanted}: go on with the release"
            " that began it, or give --fresh (fresh=True) to begin anew"
        )


def difference(key: str, before: str | None, now: str | None) -> str:
    """What an export was begun with, and what is asked for now."""
    if key == "ids":
        return "the ids are not the same"
    return f"{key.replace('_', '-')} was {before or 'not given'} and is {now or 'not given'}"
