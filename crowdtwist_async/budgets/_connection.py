"""
The connection to Redis of one budget, on one event loop of one process.
"""

from __future__ import annotations

import os
from typing import Any

import anyio
import anyio.lowlevel
import sniffio

try:
    import redis.asyncio
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
    from redis.exceptions import TimeoutError as NoAnswerError
except ImportError as error:
    raise ImportError("RedisBudget needs redis: pip install 'crowdtwist-async[redis]'") from error

from crowdtwist_async._clock import loop_clock
from crowdtwist_async._secrets import Secret
from crowdtwist_async.budgets._address import Address
from crowdtwist_async.budgets._script import CLOCK, GRANT
from crowdtwist_async.errors import ClientClosedError, ConfigurationError

_PATIENCE = 0.5
"""Seconds for one try to ask, connecting included."""

_PROBLEMS = {
    "WRONGTYPE": "the key holds something else: name another",
    "DB index": "it has no database of that number",
}


class Connection:
    """
    Asks one Redis, one request at a time.

    Raises:
        ConfigurationError: The event loop is not asyncio's.
    """

    def __init__(self, address: Address) -> None:
        if sniffio.current_async_library() != "asyncio":
            raise ConfigurationError("RedisBudget runs on asyncio only: use a RateBudget elsewhere")
        self.clock = loop_clock()
        self.gate = anyio.Lock(fast_acquire=True)
        self._pid, self._loop = os.getpid(), anyio.lowlevel.current_token()
        self._unanswered = 0.0
        """Seconds that cancelled callers have waited since the last answer."""
        # redis would look up its own version in a file, to tell the server; before 7 it did when imported.
        options: dict[str, Any] = {"driver_info": None} if hasattr(redis, "DriverInfo") else {}
        if address.encrypted:
            # Before version 6, it does not check the host's name unless it is told to.
            options |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
        made = _made(address.url, options)
        if made is None:
            raise ConfigurationError(f"redis can't use the URL of {address.shown}: check its options")
        self._redis = made
        self._script: Any = self._redis.register_script(CLOCK + GRANT)

    def check_place(self) -> None:
        """
        Refuse another process or event loop.

        Raises:
            ClientClosedError: This is one.
        """
        if os.getpid() != self._pid:
            raise ClientClosedError("the RedisBudget was opened before a fork: make one in each process")
        if anyio.lowlevel.current_token() != self._loop:
            raise ClientClosedError(
                "the RedisBudget was opened on another event loop: make one for each loop"
            )

    async def grant(self, key: str, arguments: list[Any]) -> tuple[int, float] | str:
        """Run the script: permits, and seconds until the first. A text says why it can't be run."""
        asked = self.clock()
        try:
            with anyio.fail_after(_PATIENCE):
                granted, wait = await self._script(keys=[key], args=arguments)
        except (RedisError, OSError) as error:
            if isinstance(error, ResponseError):
                self._unanswered = 0.0
                # It may be a replica by now, and the name lead elsewhere: the next try connects anew.
                await self._redis.connection_pool.disconnect()
            return _problem(error)
        except BaseException:  # above all of a caller that gives up
            self._unanswered += self.clock() - asked
            raise
        self._unanswered = 0.0
        return granted, float(wait) / 1e6

    def is_silent(self) -> bool:
        """Whether callers that gave up have waited together as long as one would; they begin anew then."""
        if self._unanswered < _PATIENCE:
            return False
        self._unanswered = 0.0
        return True

    async def aclose(self) -> None:
        """Close it, when nobody asks any more; a cancellation is raised only then."""
        with anyio.CancelScope(shield=True):
            try:
                async with self.gate:
                    await self._redis.aclose()
            except anyio.get_cancelled_exc_class():
                # Of the asyncio task itself, which no shield keeps out.
                await self.aclose()
                raise


def no_answer() -> str:
    """What is wrong with a Redis that says nothing."""
    return f"no answer within {_PATIENCE:g} s"


def _made(url: Secret, options: dict[str, Any]) -> redis.asyncio.Redis | None:
    """Redis's own client; `None`, as its error's frames would show the password."""
    try:
        return redis.asyncio.Redis.from_url(
            url.reveal(),
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=_PATIENCE,
            socket_timeout=_PATIENCE,
            **options,
        )
    except (ValueError, TypeError):
        return None


def _problem(error: Exception) -> str:
    """What is wrong, without the texts of others, which may hold anything."""
    if isinstance(error, AuthenticationError):
        return "it refuses the user or the password"
    if isinstance(error, NoPermissionError):
        return "its user may not run the script"
    if isinstance(error, ResponseError):
        for said, problem in _PROBLEMS.items():
            if said in str(error):
                return problem
        return f"it answers with an error ({type(error).__name__})"
    if isinstance(error, TimeoutError | NoAnswerError):
        return no_answer()
    return f"no connection ({type(error).__name__})"
