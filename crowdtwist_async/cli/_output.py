"""
Standard output, for what a command prints.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from crowdtwist_async.errors import StorageError
from crowdtwist_async.export.storage import write_whole


def write(text: str) -> None:
    """
    Write to standard output, at once; in UTF-8, whatever the locale, with the names of files as they are.

    Raises:
        BrokenPipeError: Whoever read it has gone.
        StorageError: It is closed, or can't be written.
    """
    if sys.stdout is None:
        raise StorageError("standard output is closed: open it, or send it to a file")
    try:
        # A notebook's takes texts alone.
        if (binary := getattr(sys.stdout, "buffer", None)) is None:
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            write_whole(binary, text.encode(errors="surrogateescape"))
    except BrokenPipeError:
        raise
    except OSError as error:
        drop()
        raise StorageError(f"standard output can't be written: {error.strerror}") from None


def show(sentence: str) -> None:
    """Write a line."""
    write(f"{sentence}\n")


def drop() -> None:
    """Leave nothing that the interpreter's own flush, at its end, would complain about."""
    # A standard output that is no file has nothing to flush.
    with suppress(AttributeError, OSError):
        number = sys.stdout.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
