"""
Cursors: a place in a walk as a short text that names no user.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from crowdtwist_async.errors import InvalidArgumentError

_VERSION = 1
_CURSOR = r"1:(-?[0-9]{1,19}|end):([0-9]{1,9}):([0-9a-f]{6})"


class Position(NamedTuple):
    """A place in a walk: so many rows of this page are taken. No page: the last one, going backward."""

    page: int | None
    taken: int = 0

    def cursor(self, fingerprint: str) -> str:
        """The text that users keep."""
        return f"{_VERSION}:{'end' if self.page is None else self.page}:{self.taken}:{fingerprint}"


def read_cursor(cursor: object, fingerprint: str) -> Position:
    """
    Read a cursor of the same walk.

    Raises:
        InvalidArgumentError: It is no cursor, or one of another walk.
    """
    match = re.fullmatch(_CURSOR, cursor) if isinstance(cursor, str) else None
    if match is None:
        raise InvalidArgumentError("cursor is not one that a pager or an error gave")
    if match[3] != fingerprint:
        raise InvalidArgumentError(
            "cursor is from another walk: give it with the same host, user, parameters and direction"
        )
    return Position(None if match[1] == "end" else int(match[1]), int(match[2]))
