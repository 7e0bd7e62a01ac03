"""
The budget that processes and machines share over Redis, the extra `[redis]`: on asyncio alone.

Redis is asked for a few permits at a time, as many as are used at once; each comes with its moment. What can
go wrong is bounded like this, `_lease.py` and `_script.py` having the rest:

1. A process that stands still drops permits that are half a second late: any 60 seconds see the permits of
   60.5 at most, and the burst.
2. Moments count from the arrival of an answer, so no permit is used early; when Redis was asked tells how
   late it is at most. No clock of this machine is compared with one of the server.
3. A process that dies takes a sixteenth of a second of the rate with it, or half a second far from Redis.
4. Others hear of a pause when they next ask, so within half a second; every request for permits repeats the
   pause that its process knows of, in case Redis has lost it.
"""

from __future__ import annotations

import logging
import math
from types import TracebackType
from typing import NoReturn, Self

from crowdtwist_async._arguments import is_encodable
from crowdtwist_async._budget import RateBudget
from crowdtwist_async._secrets import Secret
from crowdtwist_async.budgets._address import read_address
from crowdtwist_async.budgets._connection import Connection, no_answer
from crowdtwist_async.budgets._lease import HORIZON, LATE, Lease
from crowdtwist_async.errors import ClientClosedError, ConfigurationError, TransportError

_TRIES = 2
"""A connection that was idle for long may have been closed meanwhile."""
_DOWN = 1.0
"""Seconds for which nobody asks a Redis that could not be asked."""
_LOST = HORIZON + LATE
"""Seconds of a pause when Redis knows nothing of the key: as long as permits from before may be used."""
_LIFE = 86_400.0
"""Seconds after which Redis forgets a key that nobody uses."""
_LONGEST_PAUSE = 86_400.0
logger = logging.getLogger("crowdtwist_async")


class RedisBudget:
    """
    A `Budget` that is one for all processes which name the same key of the same Redis; on asyncio only.

    Make one in each process and event loop, and close it: `async with`, or `aclose`. It connects when the
    first permit is wanted. A pause after a 429 reaches the others within half a second; each may still send
    the one request for which it waits with a permit at that moment.

    Name the same `per_minute` and `burst` everywhere. Where they differ, each permit takes as much of the
    shared time as its own process says: nobody gets more than its own rate, and all together no more than the
    largest.

    When Redis can't be asked, calls fail with a `TransportError` that says so, at once after the first; after
    a second the next call asks again. With `fallback_per_minute`, this process goes on alone at that rate.

    Args:
        url: `redis://` on this machine, `rediss://` elsewhere, or `unix://`, with the password, if there is
            one. Options are `db`, `ssl_ca_certs`, `ssl_certfile` and `ssl_keyfile`.
        key: The key in Redis, one for each program.
        per_minute: Requests a minute, of all processes together.
        burst: Permits that may be used at once after an idle time.
        fallback_per_minute: Requests a minute of this process alone while Redis can't be asked; those of all
            processes together should be `per_minute` at most. `None`: no request is sent.

    Raises:
        ConfigurationError: One of them can't work; the URL's password is never in the text.
    """

    def __init__(
        self,
        url: str | Secret,
        *,
        key: str = "crowdtwist",
        per_minute: float = 9_700,
        burst: int = 10,
        fallback_per_minute: float | None = None,
    ) -> None:
        secret = Secret.of(url)
        del url  # so that no traceback through this frame shows the password
        RateBudget(per_minute, burst)  # refuses what can't be
        if math.inf in (per_minute, fallback_per_minute):
            raise ConfigurationError("a shared budget needs a finite per_minute and fallback_per_minute")
        if type(key) is not str or not key or not is_encodable(key):
            raise ConfigurationError("key must be the name of a key in Redis, in UTF-8")
        address = read_address(secret)
        if isinstance(address, str):
            raise ConfigurationError(address)
        self.key = key
        self.per_minute = per_minute
        self.burst = burst
        self.fallback_per_minute = fallback_per_minute
        self._fallback = None if fallback_per_minute is None else RateBudget(fallback_per_minute, burst=1)
        self._address = address
        self._interval = 60.0 / per_minute
        self._lease = Lease(self._interval)
        self._paused_until = self._down_until = -math.inf
        self._problem: str | None = None
        """While Redis can't be asked: why."""
        self._connection: Connection | None = None
        self._closed = False

    def __repr__(self) -> str:
        if not hasattr(self, "_address"):
            return "<RedisBudget refused>"
        return (
            f"RedisBudget({self._address.shown!r}, key={self.key!r}, per_minute={self.per_minute},"
            f" burst={self.burst}, fallback_per_minute={self.fallback_per_minute})"
        )

    async def reserve(self, n: int = 1, /) -> float:
        """
        Take `n` permits; return the seconds to wait before using them.

        Raises:
            TransportError: Redis can't be asked, and there is no fallback.
            ClientClosedError: It is closed, or was opened before a fork or on another event loop.
            ConfigurationError: The event loop is not asyncio's.
        """
        connection = self._connected()
        async with connection.gate:
            seconds = self._lease.take(connection.clock()) if n == 1 else None
            if seconds is None:
                seconds = await self._leased(connection, n)
            if seconds is None:
                seconds = await self._alone(n)
        return seconds

    async def penalize(self, seconds: float, /) -> None:
        """
        Let nobody send for so many seconds from now; a longer pause under way stays.

        Raises:
            TransportError: The others can't be told now; they are told with the next permit that is wanted.
        """
        connection = self._connected()
        seconds = min(max(seconds, 0.0), _LONGEST_PAUSE)
        until = connection.clock() + seconds
        self._paused_until = max(self._paused_until, until)
        if self._fallback is not None:
            await self._fallback.penalize(seconds)
        async with connection.gate:
            self._lease.clear()
            told = await self._ask(connection, needed=0, ahead=0, pause=max(until - connection.clock(), 0.0))
        if told is None:
            raise self._failure()

    async def aclose(self) -> None:
        """Close the connection; closing twice, or before it was used, does nothing more."""
        if self._connection is not None:
            self._connection.check_place()
        was_closed, self._closed = self._closed, True
        if self._connection is not None and not was_closed:
            await self._connection.aclose()

    async def __aenter__(self) -> Self:
        self._connected()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a RedisBudget can't be pickled or copied: make one in each process")

    def _connected(self) -> Connection:
        if self._closed:
            raise ClientClosedError("the RedisBudget is closed: keep it open for as long as its clients")
        if self._connection is None:
            self._connection = Connection(self._address)
        self._connection.check_place()
        return self._connection

    async def _leased(self, connection: Connection, n: int) -> float | None:
        """Take permits from Redis, and some ahead; `None`: it can't be asked."""
        for _ in range(_TRIES):
            asked = connection.clock()
            ahead = self._lease.wanted(asked) - 1 if n == 1 else 0
            left = self._paused_until - asked
            granted = await self._ask(connection, needed=n, ahead=ahead, pause=left if left > 0 else -1.0)
            if granted is None:
                return None
            permits, wait = granted
            answered = connection.clock()
            if n == 1:
                self._lease.fill(permits, wait, asked, answered)
                seconds = self._lease.take(answered)
            else:
                seconds = max(wait, 0.0) if answered <= asked + LATE else None
            if seconds is not None:
                return seconds
        self._fail(connection, f"its answers take longer than {LATE:g} s")
        return None

    async def _ask(
        self, connection: Connection, *, needed: int, ahead: int, pause: float
    ) -> tuple[int, float] | None:
        """Run the script: permits granted, and seconds until the first. `None`: it can't be run now."""
        self._connected()  # it may have been closed meanwhile
        if connection.clock() < self._down_until:
            return None
        slack = (self.burst - 1) * self._interval
        times = (self._interval, slack, pause, HORIZON, _LOST, _LIFE)
        arguments = [needed, ahead, *[f"{1e6 * seconds:.6f}" for seconds in times]]
        problem = ""
        for _ in range(1 if self._problem else _TRIES):
            try:
                answer = await connection.grant(self.key, arguments)
            except BaseException:
                # Each caller may have less time than a try takes, and none would learn of a failure.
                if connection.is_silent():
                    self._fail(connection, no_answer())
                raise
            if not isinstance(answer, str):
                self._work()
                return answer
            problem = answer
        self._fail(connection, problem)
        return None

    async def _alone(self, n: int) -> float:
        if self._fallback is None:
            raise self._failure()
        return await self._fallback.reserve(n)

    def _failure(self) -> TransportError:
        return TransportError(f"the request budget at {self._address.shown} can't be asked: {self._problem}")

    def _fail(self, connection: Connection, problem: str) -> None:
        if self._problem is None:
            alone = f"going on alone with {self.fallback_per_minute} requests a minute"
            then = "calls fail until it can" if self._fallback is None else alone
            logger.warning(
                "the request budget at %s can't be asked: %s; %s", self._address.shown, problem, then
            )
        self._problem = problem
        self._down_until = connection.clock() + _DOWN

    def _work(self) -> None:
        if self._problem is not None:
            logger.warning("the request budget at %s answers again", self._address.shown)
        self._problem = None
