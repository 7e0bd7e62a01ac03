"""
Reading the members to export: one id a line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from crowdtwist_async.errors import ConfigurationError


def read_ids(source: str) -> Iterator[str]:
    """
    Read ids lazily, one a line, from a file or from standard input (`-`).

    White space around an id, a byte order mark and blank lines are dropped.

    Raises:
        ConfigurationError: The file can't be read, or is no UTF-8 text.
    """
    if source == "-":
        yield from _ids_in(sys.stdin)
        return
    try:
        with Path(source).open(encoding="utf-8-sig") as lines:
            yield from _ids_in(lines)
    except OSError as error:
        raise ConfigurationError(f"the ids in {source} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"the ids in {source} can't be read: it is no UTF-8 text") from None


def _ids_in(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        user_id = line.strip().removeprefix("\ufeff")
        if user_id:
            yield user_id
