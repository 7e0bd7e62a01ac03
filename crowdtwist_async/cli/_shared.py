"""
The budget that a command shares with other programs: `--budget`, or `CROWDTWIST_BUDGET`.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attrs import define
from cyclopts import Parameter

from crowdtwist_async._budget import RateBudget
from crowdtwist_async._secrets import Secret
from crowdtwist_async.budgets import BUDGET
from crowdtwist_async.errors import ConfigurationError

if TYPE_CHECKING:
    from crowdtwist_async.budgets.redis import RedisBudget


@define
class SharedBudget:
    """Where it is, and, once a client has asked for it, what has to be closed with the command."""

    url: Secret | None = None
    """As the flag gives it."""
    name: str | None = None
    """What the flag calls the rate in Redis."""
    _opened: RedisBudget | None = None

    @property
    def key(self) -> str:
        """What the rate is called in Redis."""
        return self.name or "crowdtwist"

    def check_named(self) -> None:
        """
        Refuse the name of a rate that is nowhere: the command would take a rate of its own.

        Raises:
            ConfigurationError: There is one.
        """
        if self.name is not None:
            raise ConfigurationError(
                f"--budget-name names a rate in Redis, and none is given: set {BUDGET}, or give --budget"
            )

    def budget(self, per_minute: float | None, *, emulated: bool) -> RedisBudget | None:
        """
        The budget that the flag names, or else the environment, which the emulator does not heed.

        Args:
            per_minute: Requests a minute of all who share it; `None` for the usual ones.
            emulated: Whether the emulator is asked.

        Raises:
            ConfigurationError: It can't be used, or the extra is missing.
        """
        url = self.url or (None if emulated else _url_of_environment())
        if url is None:
            self.check_named()
            return None
        try:
            from crowdtwist_async.budgets.redis import RedisBudget
        except ImportError as error:
            problem = str(error)
        else:
            rate = RateBudget().per_minute if per_minute is None else per_minute
            self._opened = RedisBudget(url, key=self.key, per_minute=rate)
            return self._opened
        raise ConfigurationError(problem)

    async def closed_after(self, command: Callable[..., Awaitable[int]], *arguments: Any) -> int:
        """Run a command, and close the budget that it has opened."""
        try:
            return await command(*arguments)
        finally:
            if self._opened is not None:
                await self._opened.aclose()


@Parameter(name="*")
@dataclass(kw_only=True)
class BudgetFlags:
    """With whom to share the request rate."""

    budget: str | None = None
    """Redis at this URL: one request rate for all who name it. CROWDTWIST_BUDGET hides a password better."""
    budget_name: str | None = None
    """What that rate is called in Redis, one name for each program; by default crowdtwist."""

    def shared(self) -> SharedBudget:
        """The budget that the flags name."""
        return SharedBudget(None if self.budget is None else Secret(self.budget), self.budget_name)


def _url_of_environment() -> Secret | None:
    return Secret(os.environ[BUDGET]) if os.environ.get(BUDGET) else None
