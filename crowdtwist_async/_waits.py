"""
The waits of a client's calls, which all end when it closes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import anyio


class Waits:
    """Every wait of a client's calls that is not for a reply."""

    def __init__(self) -> None:
        self.over = False
        """Set when the client closes: nobody waits any more."""
        self._scopes: set[anyio.CancelScope] = set()

    @contextmanager
    def at_most(self, seconds: float = math.inf) -> Iterator[anyio.CancelScope]:
        """Let a block wait for some seconds at most, and until the client closes; it is left then."""
        with anyio.move_on_after(seconds) as scope:
            if self.over:
                scope.cancel()
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)

    def refuse(self) -> None:
        """Let nobody wait any more."""
        self.over = True

    def end(self) -> None:
        """End them all."""
        self.refuse()
        for scope in tuple(self._scopes):
            scope.cancel()
