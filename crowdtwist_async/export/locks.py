"""
Locks: between processes, machines and forks, dropped by the system when a process ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any

from crowdtwist_async.errors import ConfigurationError, OutputLockedError, StorageError
from crowdtwist_async.export.storage import PRIVATE, is_in_place

_LOCKING = RLock()
"""Held while the process forks, so that a child knows of all locks: also by a signal handler amid locking."""
_LOCKED: dict[int, Path | None] = {}
"""The descriptors of the locks that this process holds, with the files that are there for the lock alone."""
_NOWHERE = "Write to a file system that has locks, or to an object store"


def lock(path: Path, place: object) -> int:
    """
    Lock a name, by a file beside it that is there for this alone.

    A lock on a SQLite file itself would keep SQLite out of it on NFS, where all locks are of one kind.

    Args:
        path: What to lock; a link stands for what it leads to.
        place: What it belongs to, for the error.

    Returns:
        What `unlock` takes.

    Raises:
        OutputLockedError: Another export holds it, or has held it until now.
        ConfigurationError: The system has no such locks.
    """
    _locks()
    real = Path(os.path.realpath(path))
    file = real.with_name(f".{real.name}.lock")
    descriptor = hold(_opened(file), place)
    try:
        if not is_in_place(os.fstat(descriptor), file):
            raise _locked(place)
    except BaseException:  # the check itself may fail
        unlock(descriptor)
        raise
    _LOCKED[descriptor] = file
    return descriptor


def _opened(file: Path) -> int:
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT, PRIVATE)
    except PermissionError:
        raise StorageError(
            f"{file} is not yours: another user's export runs, or was killed. Remove it if none runs, and"
            " export again"
        ) from None


def hold(descriptor: int, place: object, *, alone: bool = True) -> int:
    """
    Lock a file, or a folder, that is open; it is closed if it can't be had.

    Args:
        descriptor: What to lock; `unlock` closes it.
        place: What it belongs to, for the error.
        alone: Whether nobody else may hold it; else others who say so may.

    Raises:
        OutputLockedError: Another export holds it.
        StorageError: The file system has no locks.
    """
    locks = _locks()
    with _LOCKING:
        try:
            locks.flock(descriptor, (locks.LOCK_EX if alone else locks.LOCK_SH) | locks.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise _locked(place) from None
            raise StorageError(f"{place} can't be locked: {error.strerror}. {_NOWHERE}") from None
        _LOCKED[descriptor] = None
    return descriptor


def unlock(descriptor: int) -> None:
    """Let others in; a forked child that does so of its parent's lock changes nothing."""
    locks = _locks()
    with _LOCKING:
        if descriptor not in _LOCKED:
            return
        file = _LOCKED.pop(descriptor)
        if file is not None:
            with suppress(OSError):
                if is_in_place(os.fstat(descriptor), file):
                    file.unlink()
        # Closing alone lets nobody in as long as a program that is being started has a copy.
        with suppress(OSError):
            locks.flock(descriptor, locks.LOCK_UN)
        os.close(descriptor)


@contextmanager
def holding(descriptor: int, place: object, *, alone: bool = True) -> Iterator[None]:
    """`hold` for a block."""
    held = hold(descriptor, place, alone=alone)
    try:
        yield
    finally:
        unlock(held)


@contextmanager
def locking(path: Path, place: object) -> Iterator[None]:
    """`lock` for a block."""
    held = lock(path, place)
    try:
        yield
    finally:
        unlock(held)


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
