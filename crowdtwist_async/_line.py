"""
The line before each attempt: for the end of its host's pause, then a slot, then a permit.

A permit is asked for in a slot, so that it is used at once: permits that age behind slots would burst later.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel

from crowdtwist_async._budget import Budget
from crowdtwist_async._permits import Permits, Turn
from crowdtwist_async._progress import Progress, RunStats
from crowdtwist_async._reply_time import ReplyTime
from crowdtwist_async._waits import Waits
from crowdtwist_async.errors import (
    ClientClosedError,
    CrowdTwistError,
    TransportError,
)

_CLOSED = "the client was closed while this call waited"
_ADVICE = (
    "raise the deadline (None: no bound), or ask for less at once, for many users by fan_out with a lower"
    " concurrency"
)
_WAITED_FOR_A_SLOT = f"waiting for one of the max_in_flight slots: {_ADVICE}"
_WAITED_FOR_A_PERMIT = f"waiting for a permit of the request budget: {_ADVICE}"
_PAUSE_FOR_ALL = "server asked for by a 429"
_PAUSE_OF_A_HOST = "host asked for by a 503"
_LEFT_AFTER_PAUSE = 0.05
"""The share of its deadline that a call must have left after a pause: with less it would only fail later."""
_MOMENT = 0.001
"""Seconds by which a timer and a clock may differ."""


class Line:
    """Lets the attempts of one client through, `max_in_flight` at a time and as its budget allows."""

    def __init__(
        self,
        budget: Budget,
        max_in_flight: int,
        waits: Waits,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.slots = anyio.Semaphore(max_in_flight, fast_acquire=True)
        self.permits = Permits(budget, clock, sleep)
        self.reply_times: defaultdict[str, ReplyTime] = defaultdict(ReplyTime)
        """By endpoint: one may take much longer than another."""
        self._waits = waits
        self._clock = clock

    async def enter(self, progress: Progress[Any]) -> CrowdTwistError | None:
        """Wait for a slot and a permit; the error, if they don't come in time: else `leave` must follow."""
        origin = progress.call.base.origin
        while True:
            refusal = await self._sit_out(progress, origin) or await self._take_slot(progress)
            if refusal is not None:
                return await _after_others(refusal)
            entered = False
            try:
                if self._waits.over:
                    return ClientClosedError(_CLOSED)
                if self.permits.host_pause(origin) > 0:
                    continue
                turn = await self._take_permit(progress)
                if isinstance(turn, CrowdTwistError):
                    return await _after_others(turn)
                if turn is Turn.ASIDE or self.permits.host_pause(origin) > 0:
                    continue  # a permit is lost: after the pause it would be used beside that time's own
                entered = True
                return None
            finally:
                if not entered:
                    self.leave()

    def leave(self) -> None:
        """Give the slot back."""
        self.slots.release()

    async def heed(self, error: CrowdTwistError, progress: Progress[Any], longest: float) -> None:
        """Let everybody wait as the server asks, for at most so many seconds after a 429."""
        origin = progress.call.base.origin
        await self.permits.heed(error, origin, longest)
        if self.permits.host_pause(origin) >= (progress.deadline or math.inf) * (1 - _LEFT_AFTER_PAUSE):
            progress.meets_pause()

    def note_cut(self, progress: Progress[Any], left: float) -> str:
        """Take account of an attempt that its deadline cut; what to say of it, if it lacked its wait."""
        in_line = progress.slot_seconds + progress.permit_seconds
        if in_line <= left:
            return ""
        self.reply_times[progress.call.endpoint.name].note_cut(self._clock(), left)
        return f", after {in_line:.1f} s in line"

    async def sit_out_pause(self, run: RunStats) -> None:
        """Wait for the end of a 429's pause, and of those that are too long for calls of a run."""
        with self._waits.at_most():
            await self.permits.sit_out_pause()
            while run.paused:
                await self.permits.sit_out_host(run.paused.pop())

    async def _sit_out(self, progress: Progress[Any], origin: str) -> CrowdTwistError | None:
        if not self.permits.has_pause(origin):
            return None
        with progress.in_line(for_host=True), self._waits.at_most(progress.left(self._clock())):
            if not await self.permits.sit_out_host(origin, lambda: self.left_for_pause(progress)):
                progress.meets_pause()
                return progress.pause_too_long(_PAUSE_OF_A_HOST, self.permits.host_pause(origin))
        return None

    async def _take_slot(self, progress: Progress[Any]) -> CrowdTwistError | None:
        # A free slot needs no timer: nobody stands in line while there is one.
        with suppress(anyio.WouldBlock):
            self.slots.acquire_nowait()
            return None
        started = self._clock()
        if (refusal := self._outlasted(progress)) is not None:
            return refusal
        try:
            with progress.in_line(), self._waits.at_most(progress.left(started)) as waiting:
                await self.slots.acquire()
        finally:
            progress.slot_seconds += self._clock() - started
        if waiting.cancelled_caught:
            if self._waits.over:
                return ClientClosedError(_CLOSED)
            return progress.deadline_passed(_WAITED_FOR_A_SLOT)
        if progress.left(self._clock()) >= self._needed(progress):
            return None
        self.leave()
        return progress.deadline_passed(_WAITED_FOR_A_SLOT, ahead=True)

    def _outlasted(self, progress: Progress[Any]) -> CrowdTwistError | None:
        """The error of a call whose time the pause of a 429 outlasts."""
        pause = self.permits.pause()
        if pause > 0 and pause >= self.left_for_pause(progress):
            return progress.pause_too_long(_PAUSE_FOR_ALL, pause)
        return None

    def left_for_pause(self, progress: Progress[Any]) -> float:
        """Seconds within which a pause must end."""
        return progress.left(self._clock()) - _LEFT_AFTER_PAUSE * (progress.deadline or 0.0)

    def _needed(self, progress: Progress[Any]) -> float:
        """Seconds that a call which was in line must have left."""
        return self.reply_times[progress.call.endpoint.name].needed(progress.deadline, self._clock())

    async def _take_permit(self, progress: Progress[Any]) -> Turn | CrowdTwistError:
        started, origin = self._clock(), progress.call.base.origin
        if progress.left(started) > 0 and self.permits.take_at_once():
            return Turn.TAKEN
        if (refusal := self._outlasted(progress)) is not None:
            return refusal
        turn = Turn.OVER
        with progress.in_line(), self._waits.at_most(progress.left(started)):
            try:
                turn = await self.permits.take(
                    lambda: progress.left(self._clock()),
                    lambda: self._needed(progress),
                    lambda: self.permits.host_pause(origin) > 0,
                )
            except CrowdTwistError as error:
                progress.refused = True
                return error
            except Exception as error:  # noqa: BLE001 - the text of a budget's error may hold its password
                progress.refused = True
                return TransportError(f"the request budget raised {type(error).__name__}")
            finally:
                waited = self._clock() - started
                progress.permit_seconds += waited
                for stats in progress.stats:
                    stats.permit_seconds += waited
        return self._turn_or_refusal(turn, progress)

    def _turn_or_refusal(self, turn: Turn, progress: Progress[Any]) -> Turn | CrowdTwistError:
        """The turn that a call may use, or the error of one that has waited in vain."""
        left = progress.left(self._clock())
        if self._waits.over:
            return ClientClosedError(_CLOSED)
        if turn is not Turn.OVER and left > 0:
            return turn
        if (pause := self.permits.pause()) > 0:
            return progress.pause_too_long(_PAUSE_FOR_ALL, pause)
        return progress.deadline_passed(_WAITED_FOR_A_PERMIT, ahead=left > _MOMENT)


async def _after_others(refusal: CrowdTwistError) -> CrowdTwistError:
    """Let others run first: calls that are refused one after the other would block the event loop."""
    await anyio.lowlevel.checkpoint()
    return refusal
