"""
The life of a client: not entered, open on one event loop of one process, closed.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio.lowlevel

from crowdtwist_async._budget import Budget
from crowdtwist_async._config import Base, Settings
from crowdtwist_async._progress import RunStats, Stats
from crowdtwist_async._secrets import LogRedaction, Redactor
from crowdtwist_async._send import Sender
from crowdtwist_async.errors import ClientClosedError
from crowdtwist_async.transports import Transport

if TYPE_CHECKING:
    from crowdtwist_async._telemetry import Telemetry

_OPENTELEMETRY = ("opentelemetry.trace", "opentelemetry.metrics")


class Session:
    """What a client and its views share."""

    def __init__(self, settings: Settings, transport: Transport, budget: Budget, max_in_flight: int) -> None:
        self.settings = settings
        self._transport = transport
        self.budget = budget
        self.max_in_flight = max_in_flight
        self._log_redaction = LogRedaction(
            Redactor(settings.key, further=settings.key_pair), {settings.api.origin, settings.pos.origin}
        )
        self.stats = Stats()
        self._telemetry: Telemetry | None = None
        self._sender: Sender | None = None
        self._closed = False
        self._pid = 0
        self._loop: Any = None

    @property
    def state(self) -> str:
        """`new`, `open` or `closed`."""
        return "closed" if self._closed else "open" if self._sender else "new"

    @property
    def telemetry(self) -> Telemetry | None:
        """What tells OpenTelemetry of an open client, in a program that uses it."""
        return self._telemetry

    @property
    def sender(self) -> Sender:
        """
        What sends, if this is the place to send from.

        Raises:
            ClientClosedError: The client is not open, or open elsewhere.
        """
        if self._closed:
            raise ClientClosedError("the client is closed: make a new one, and keep it open while it is used")
        if self._sender is None:
            raise ClientClosedError(
                "the client is not open yet: use it inside `async with CrowdTwistClient(...)`"
            )
        self._check_place()
        return self._sender

    async def sit_out_pause(self, run: RunStats) -> None:
        """Wait while the server wants no requests of a run."""
        if self._sender is not None:
            await self._sender.sit_out_pause(run)

    def open(self) -> None:
        """Bind the client to this process and event loop."""
        if self._closed or self._sender is not None:
            raise ClientClosedError("a client is entered once: make a new one")
        self._pid, self._loop = os.getpid(), anyio.lowlevel.current_token()
        self._telemetry = _telemetry_at(self.settings.api)
        self._sender = self._make_sender()
        self._log_redaction.install()

    async def aclose(self) -> None:
        """Close the connections; closing twice, or before entering, does nothing more."""
        if self._sender is None or self._closed:
            self._closed = True
            return
        self._check_place()
        self._closed = True
        try:
            await self._sender.waits.end()
        finally:
            try:
                await self._transport.aclose()
            finally:
                self._let_go()

    def _let_go(self) -> None:
        """Take back what the process knows of an open client; what is still under way may log its URL."""
        if self._sender is not None and self._sender.under_way:
            self._sender.when_idle = self._log_redaction.remove
        else:
            self._log_redaction.remove()
        if self._telemetry is not None:
            self._telemetry.close()

    def _make_sender(self, kind: Callable[..., Sender] = Sender) -> Sender:
        return kind(
            self.settings,
            self._transport,
            self.budget,
            self.max_in_flight,
            stats=self.stats,
            telemetry=self._telemetry,
        )

    def _check_place(self) -> None:
        if os.getpid() != self._pid:
            raise ClientClosedError("the client was opened before a fork: make one in each process")
        if anyio.lowlevel.current_token() != self._loop:
            raise ClientClosedError("the client was opened on another event loop: make one for each loop")

    def __del__(self) -> None:
        # Half-made instances have no state yet.
        if getattr(self, "_sender", None) is None or self._closed or os.getpid() != self._pid:
            return
        self._let_go()
        warnings.warn(
            "a CrowdTwistClient was never closed: use `async with`, or await aclose()",
            ResourceWarning,
            source=self,
            stacklevel=2,
        )


def _telemetry_at(base: Base) -> Telemetry | None:
    """Import nothing of OpenTelemetry unless the program has."""
    if not any(sys.modules.get(name) for name in _OPENTELEMETRY):
        return None
    try:
        from crowdtwist_async._telemetry import Telemetry

        return Telemetry(base)
    except (ImportError, TypeError):
        logging.getLogger("crowdtwist_async").warning(
            "no spans and no metrics: they need opentelemetry-api 1.30 or later, the extra [otel]"
        )
        return None
