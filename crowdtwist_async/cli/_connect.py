"""
Whom a command asks: the API that the environment names, or the emulator in this process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import anyio
from attrs import field, frozen

from crowdtwist_async._budget import RateBudget
from crowdtwist_async._config import rate_from_env
from crowdtwist_async.cli._shared import SharedBudget
from crowdtwist_async.client import CrowdTwistClient
from crowdtwist_async.emulator import Emulator
from crowdtwist_async.errors import ConfigurationError

DEFAULT_MEMBERS = 1_000


@frozen
class Connection:
    """What the flags say of it."""

    emulated: bool = False
    members: int | None = None
    """How many members the emulator has."""
    per_minute: float | None = None
    transport: Literal["httpx", "aiohttp"] | None = None
    """`httpx`, which is the default, or `aiohttp`."""
    shared: SharedBudget = field(factory=SharedBudget)

    def make_emulator(self) -> Emulator | None:
        """
        The emulator, if one is asked for.

        Raises:
            ConfigurationError: `members` without an emulator, a number that can't be, or a transport
                where nothing is sent.
        """
        if not self.emulated:
            if self.members is not None:
                raise ConfigurationError("--members sizes the emulator: give --emulator too")
            return None
        if self.transport is not None:
            raise ConfigurationError(
                "--transport is for requests over a network, and --emulator makes none: leave one of them out"
            )
        members = DEFAULT_MEMBERS if self.members is None else self.members
        if members < 1:
            raise ConfigurationError("--members must be 1 or more")
        return Emulator(members=members)

    def client(self, emulator: Emulator | None, usual_rate: float | None = None) -> CrowdTwistClient:
        """
        A client that is not open yet.

        Args:
            emulator: What `make_emulator` gave.
            usual_rate: Requests a minute where neither a flag nor the environment says.

        Raises:
            ConfigurationError: The environment lacks something, or the transport's package is not there.
        """
        if emulator is not None:
            return emulator.client(**self._paced(usual_rate))
        return CrowdTwistClient.from_env(**self._paced(usual_rate), **_sent_over(self.transport))

    def rate(self, usual_rate: float | None = None) -> float | None:
        """
        Requests a minute: those of the flag, else of the environment, else the usual ones.

        Returns:
            `None` for what the client or the emulator does by itself.

        Raises:
            ConfigurationError: The environment gives no number.
        """
        if self.per_minute is not None or (self.emulated and self.shared.url is None):
            return self.per_minute
        if self.emulated:
            return usual_rate
        given = rate_from_env()
        return usual_rate if given is None else given

    def _paced(self, usual_rate: float | None) -> dict[str, Any]:
        """The budget, as an argument of a client."""
        per_minute = self.rate(usual_rate)
        budget = self.shared.budget(per_minute, emulated=self.emulated)
        if budget is not None:
            return {"budget": budget}
        return {} if per_minute is None else {"budget": RateBudget(per_minute)}


def ended(command: Callable[..., Awaitable[int]], connection: Connection, *arguments: Any) -> int:
    """Run a command to its exit code, and close what it shared."""
    return anyio.run(connection.shared.closed_after, command, connection, *arguments)


def _sent_over(transport: str | None) -> dict[str, Any]:
    if transport != "aiohttp":
        return {}
    try:
        from crowdtwist_async.transports.aiohttp import AiohttpTransport
    except ImportError:
        raise ConfigurationError(
            "--transport aiohttp needs one more package: pip install 'crowdtwist-async[aiohttp]'"
        ) from None
    return {"transport": AiohttpTransport()}
