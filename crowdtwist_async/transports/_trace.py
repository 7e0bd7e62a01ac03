"""
Following one request through httpcore, and the times of a connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crowdtwist_async.transports import Request

KEEPALIVE_SECONDS = 55.0
"""Below the 60 seconds after which most servers and balancers drop an idle connection."""
CLOSE_SECONDS = 0.05
"""What closing may take: it is shielded, and a cancelled caller waits for it."""


class PhaseTrace:
    """Follows httpcore's trace of one request: its phase, and whether it made a new connection."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.connected = False
        self.socket: Any = None

    async def follow(self, event: str, info: Mapping[str, Any]) -> None:
        """Take one event."""
        if event.endswith("connect_tcp.started"):
            self._request.phase, self.connected = "connect", True
        elif event.endswith("connect_tcp.complete"):
            self.socket = info["return_value"]
        elif event.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
            self._request.phase = "response"
