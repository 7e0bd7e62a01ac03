"""
The waits of a client's calls, which all end when it closes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.lowlevel

_ENDED_AT_ONCE = 100


class Waits:
    """Every wait of a client's calls that is not for a reply."""

    def __init__(self) -> None:
        self.over = False
        """Set when the client closes: nobody waits any more."""
        self._scopes: dict[anyio.CancelScope, None] = {}
        """In the order in which they wait: what they stand in line for forgets the first fastest."""

    @contextmanager
    def at_most(self, seconds: float = math.inf) -> Iterator[anyio.CancelScope]:
        """Let a block wait for some seconds at most, and until the client closes; it is left then."""
        with anyio.move_on_after(seconds) as scope:
            if self.over:
                scope.cancel()
            self._scopes[scope] = None
            try:
                yield scope
            finally:
                self._scopes.pop(scope, None)

    def refuse(self) -> None:
        """Let nobody wait any more."""
        self.over = True

    async def end(self) -> None:
        """End them all, some at a time: thousands would block the event loop."""
        self.refuse()
        scopes = list(self._scopes)[::-1]
        try:
            while scopes:
                for _ in range(min(_ENDED_AT_ONCE, len(scopes))):
                    scopes.pop().cancel()
                await anyio.lowlevel.checkpoint()
        finally:
            for scope in reversed(scopes):
                scope.cancel()
