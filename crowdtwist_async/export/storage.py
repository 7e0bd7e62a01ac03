"""
Files that hold members' data: private, synced to the disk, and errors that say which could not be written.
"""

from __future__ import annotations

import errno
import io
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from crowdtwist_async.errors import OutputMismatchError, StorageError

STANDARD_OUTPUT = "standard output"
TEMPORARY_LEDGER = "the temporary ledger"
TEMPORARY_IDS = "the temporary file of the ids"
_OF_ONE_RUN = (STANDARD_OUTPUT, TEMPORARY_LEDGER, TEMPORARY_IDS)
PRIVATE = 0o600
PRIVATE_FOLDER = 0o700
NEEDS_MORE = (
    "exports to object stores need more packages: pip install 'crowdtwist-async[s3]', or [gcs]; for another"
    " store 'crowdtwist-async[remote]' and its fsspec package"
)

_HELD = (
    "another program has held it in a transaction for longer than an export waits. End that program, or its"
    " transaction,"
)


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
    goes_on = "" if place in _OF_ONE_RUN else ": it goes on from what was committed"
    remedy = remedy or f"export again{goes_on}"
    raise StorageError(f"{place} can't be written: {reason} and {remedy}")


def create(path: Path) -> int:
    """Create a private file that is not there yet, and return its descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, PRIVATE)
    make_private(descriptor, PRIVATE)
    return descriptor


def make_private(file: int | Path, mode: int) -> None:
    """Give a file or folder its mode, where the umask, or whoever made it, has given it another."""
    if stat.S_IMODE(os.stat(file).st_mode) != mode:  # noqa: PTH116 - it may be a descriptor
        # Some file systems, of Windows's kind, have no modes.
        with suppress(OSError):
            os.chmod(file, mode)  # noqa: PTH101 - the same


def is_in_place(opened: os.stat_result, path: Path) -> bool:
    """Whether an open file is still there; NFS only renames one that is removed."""
    try:
        return opened.st_nlink > 0 and os.path.samestat(opened, path.stat())
    except FileNotFoundError:
        return False


def check_in_place(opened: os.stat_result, path: Path) -> None:
    """Refuse to write on where nobody would find it: to a file that was moved away, removed or replaced."""
    if not is_in_place(opened, path):
        raise changed(path, "was moved away or removed while it was written")


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of it: a file on a disk that fills up takes a part."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def write_whole(stream: BinaryIO, content: bytes) -> None:
    """
    Write all of it to a standard stream, and wait for whoever reads it.

    Without a buffer (`PYTHONUNBUFFERED`) a write may take a part; and who has the other end of a pipe may
    have set it not to wait.
    """
    with suppress(AttributeError, OSError, ValueError):  # it may be no file; on Windows
        os.set_blocking(stream.fileno(), True)
    left = memoryview(content)
    while left:
        written: int | None = stream.write(left)  # what is raw may say nothing
        if written is None and isinstance(stream, io.RawIOBase):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        left = left[len(left) if written is None else written :]
    stream.flush()


def make_folder(path: Path) -> None:
    """Make a private folder, if none is there."""
    try:
        path.mkdir(mode=PRIVATE_FOLDER)
    except FileExistsError:
        return
    make_private(path, PRIVATE_FOLDER)


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems sync no folders, as they need not, or can't.
        if error.errno not in (errno.EINVAL, errno.EBADF):
            raise
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
