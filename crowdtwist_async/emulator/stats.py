"""
What the emulator has been asked, and what it has answered.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class EmulatorStats:
    """Counts since the emulator was made, or since `reset_stats`."""

    requests: int = 0
    """Requests that arrived, those that ended in a fault included."""
    rows: int = 0
    """Rows in whole 200 replies; a points reply is one row."""
    by_endpoint: Counter[str] = field(default_factory=Counter)
    """Requests by the name of the client's coroutine; unknown paths are in `requests` alone."""
    by_status: Counter[int] = field(default_factory=Counter)
    """Replies by HTTP status; a reset has none, and a cut reply counts by the status it began with."""
