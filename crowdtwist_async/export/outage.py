"""
Telling an API that does not answer from members that fail.

After a few failures in a row, and before a member fails for good, a request for a member that it
answered before decides: if that fails as well, the run waits and asks again, ever less often, and
nobody's tries are counted. A redirect, or a 404 in which the API says nothing, may be a maintenance page
or a gateway's, and is met in the same way, with fewer tries.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from crowdtwist_async.errors import APIStatusError, CrowdTwistError, TransportError, UnexpectedRedirectError
from crowdtwist_async.export.source import Member

MOST_TRIES = 10
"""Tries without getting further, each with the client's own retries, before a member has failed."""
_MOST_ELSEWHERE = 2
"""Tries that something else than the API answers: the second after a moment, as maintenance ends."""
_SUSPICIOUS = 10
"""Failures in a row."""
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0


class OutageError(Exception):
    """The API has not answered for as long as the run would wait, or asks for longer."""


class Outage:
    """
    Watches what members end with.

    Args:
        ask: Makes one request that an API in order answers: for somebody else than the one that failed.
        longest: Seconds that an outage is waited for.
        sleep: Waits; it returns early when the run is to stop.
        stopping: Whether the run is to stop.
    """

    def __init__(
        self,
        ask: Callable[[Member], Awaitable[None]],
        longest: float,
        sleep: Callable[[float], Awaitable[None]],
        stopping: Callable[[], bool],
    ) -> None:
        self.reason: str | None = None
        """While there is one: what the API says."""
        self._ask = ask
        self._longest = longest
        self._sleep = sleep
        self._stopping = stopping
        self._failed: list[Member] = []
        """Those that failed since the API answered last; one that failed twice stands there twice."""
        self._over: anyio.Event | None = None

    def succeeded(self) -> None:
        """Note that the API answered; during an outage that is a request from before it."""
        if self._over is None:
            self._failed.clear()

    async def failed(self, member: Member, error: CrowdTwistError) -> None:
        """
        Count a try that failed and may not the next time; returns when the API answers.

        Raises:
            OutageError: It did not, for too long, or asks to be left alone for longer.
        """
        if _asked_for(error) > self._longest:
            raise _comes_back_later(error)
        member.tries += 1
        self._failed.append(member)
        suspicious = len(self._failed) >= _SUSPICIOUS or member.tries >= most_tries(error)
        if self._over is None and suspicious:
            self._over = anyio.Event()
            try:
                await self._wait_out(member)
            finally:
                self._end(self._over)
        await self.over()

    async def over(self) -> None:
        """Wait until there is none."""
        if self._over is not None:
            await self._over.wait()

    async def _wait_out(self, member: Member) -> None:
        began, pause = anyio.current_time(), _FIRST_PAUSE
        while not self._stopping() and (error := await self._answer(member)) is not None:
            self.reason = str(error)
            waited = anyio.current_time() - began
            left, asked = self._longest - waited, _asked_for(error)
            if left <= 0:
                raise OutageError(
                    f"the API has not answered for {waited:,.0f} seconds{_instead(error)}: {error}"
                )
            if asked > left:
                raise _comes_back_later(error)
            await self._sleep(min(max(pause, asked), left))
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _answer(self, member: Member) -> CrowdTwistError | None:
        """Ask; `None` is any answer of the API, a refusal too."""
        try:
            await self._ask(member)
        except CrowdTwistError as error:
            return error if may_pass(error) or is_from_elsewhere(error) else None
        return None

    def _end(self, over: anyio.Event) -> None:
        if self.reason is not None:
            for member in self._failed:
                member.tries = max(0, member.tries - 1)
        self._failed.clear()
        self.reason, self._over = None, None
        over.set()


def may_pass(error: CrowdTwistError) -> bool:
    """Whether another try may end otherwise."""
    # What a budget or a transport of the user's own raised says nothing of the member.
    return error.retryable or type(error) is TransportError


def is_from_elsewhere(error: CrowdTwistError) -> bool:
    """Whether something else seems to have answered in the API's place; another try may end otherwise."""
    if isinstance(error, APIStatusError):
        return error.status == 404 and error.code is None
    return isinstance(error, UnexpectedRedirectError)


def most_tries(error: CrowdTwistError) -> int:
    """After how many tries that ended so a member has failed, if the API answers for others."""
    return _MOST_ELSEWHERE if is_from_elsewhere(error) else MOST_TRIES


def _instead(error: CrowdTwistError) -> str:
    return ", but something else did (check the hosts and the id type)" if is_from_elsewhere(error) else ""


def _asked_for(error: CrowdTwistError) -> float:
    """Seconds that a server asks to wait."""
    return (error.retry_after or 0.0) if isinstance(error, APIStatusError) else 0.0


def _comes_back_later(error: CrowdTwistError) -> OutageError:
    return OutageError(f"the API asks to come back later: {error}")
