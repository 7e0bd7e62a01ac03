"""
The only loop that sends: wait in line, attempt, then a result, a pause or an error, under one deadline.

The slot is given back before every pause. Attempts end in values, and the one `raise` here drops the
traceback and the context of what was caught inside, whose frames may hold the key.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import anyio

from crowdtwist_async._budget import Budget
from crowdtwist_async._clock import loop_clock
from crowdtwist_async._config import Settings
from crowdtwist_async._line import Line
from crowdtwist_async._progress import METER, Progress, RunStats, Stats
from crowdtwist_async._protocol import Call
from crowdtwist_async._quota import RetryQuota
from crowdtwist_async._replies import explain_refused_key, read_reply
from crowdtwist_async._retry import RetryPolicy, delay_before_retry, explain_no_retry
from crowdtwist_async._secrets import Redactor
from crowdtwist_async._signing import explain_refusal
from crowdtwist_async._waits import Waits
from crowdtwist_async.errors import (
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    CrowdTwistError,
    DeadlineExceededError,
    DecodeError,
    TransportError,
    UserNotFoundError,
)
from crowdtwist_async.transports import Reply, Request, Transport, checked_reply, timeout_error

if TYPE_CHECKING:
    from crowdtwist_async._telemetry import Telemetry

T = TypeVar("T")

_ANSWERS = (UserNotFoundError, BadRequestError, AuthenticationError)
"""Errors that show that the API works."""
logger = logging.getLogger("crowdtwist_async")
# A program that has not set up logging is not told of retries on its standard error.
logger.addHandler(logging.NullHandler())


class Options(NamedTuple):
    """What `with_options` can change."""

    timeout: float
    deadline: float | None
    retry: RetryPolicy


class Sender:
    """Sends calls over one transport and one budget, `max_in_flight` at a time."""

    def __init__(
        self,
        settings: Settings,
        transport: Transport,
        budget: Budget,
        max_in_flight: int,
        *,
        stats: Stats | None = None,
        telemetry: Telemetry | None = None,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.stats = stats or Stats()
        self.waits = Waits()
        """Those of the calls, which end when the client closes."""
        self.under_way = 0
        """Calls that have not ended."""
        self.when_idle: Callable[[], None] | None = None
        """Called when the last of them has ended."""
        self._settings = settings
        self._key_pair = settings.key_pair
        self._transport = transport
        self._clock = clock or loop_clock()
        self._sleep = sleep
        self._line = Line(budget, max_in_flight, self.waits, self._clock, sleep)
        self._quota = RetryQuota()
        self._telemetry = telemetry
        if telemetry is not None:
            telemetry.watch(self._quota)

    async def sit_out_pause(self, run: RunStats) -> None:
        """Wait while the client is open and the server wants no requests of a run."""
        await self._line.sit_out_pause(run)

    async def send(self, call: Call[T], options: Options) -> T:
        """
        Send until there is a result.

        Raises:
            CrowdTwistError: The last attempt's error, or `DeadlineExceededError`.
        """
        progress = Progress(call, self._clock(), options.deadline, _counted_in(self.stats))
        if self._telemetry is not None:
            progress.record = self._telemetry.call(call)
        self.under_way += 1
        try:
            outcome = await self._until_done(call, options, progress)
        except BaseException as error:
            # A cancellation that passed through the HTTP library has its frames, and so the URL.
            error.__traceback__ = error.__context__ = error.__cause__ = None
            if progress.record is not None:
                progress.record.ended(error, progress)
            raise
        finally:
            self.under_way -= 1
            if not self.under_way and self.when_idle is not None:
                self.when_idle()
        if progress.record is not None:
            progress.record.ended(outcome, progress)
        if isinstance(outcome, CrowdTwistError):
            try:
                raise progress.completed(outcome, self._clock()) from None
            finally:
                del outcome  # or it would keep itself: its traceback has this frame
        return outcome

    async def _until_done(
        self, call: Call[T], options: Options, progress: Progress[T]
    ) -> T | CrowdTwistError:
        redact = Redactor(self._settings.key, (call.user_id,), self._key_pair)
        while True:
            sent = progress.attempts
            outcome = await self._in_turn(call, options, progress, redact)
            if progress.attempts == sent and progress.retry_cost:
                # It was not sent again.
                self._quota.give_back(progress.retry_cost)
                progress.retry_cost = 0
            if not isinstance(outcome, CrowdTwistError) or isinstance(outcome, _ANSWERS):
                self._quota.give_back(progress.retry_cost)
                return outcome
            if isinstance(outcome, DeadlineExceededError) or progress.refused:
                return outcome
            with self.waits.at_most(progress.left(self._clock())):
                await self._line.heed(outcome, progress, options.retry.max_retry_after)
            delay = self._delay(outcome, options, progress)
            if delay is None:
                return outcome
            progress.last_error = outcome
            _log_retry(call, outcome, progress, delay)
            if progress.record is not None:
                progress.record.retried(outcome, progress.attempts, delay)
            if delay > 0:
                with self.waits.at_most():
                    await self._sleep(delay)

    def _delay(self, error: CrowdTwistError, options: Options, progress: Progress[T]) -> float | None:
        """The pause before the next attempt, or `None`: no next attempt."""
        if isinstance(error, ConnectionFailedError) and error.stale and not progress.uncounted:
            # The server had closed the kept-alive connection: that was no attempt.
            progress.uncounted = 1
            return 0.0
        progress.unreadable += isinstance(error, DecodeError)
        attempts, policy = progress.attempts - progress.uncounted, options.retry
        delay = delay_before_retry(error, attempts, policy, unreadable=progress.unreadable)
        if delay is None:
            if error.retryable and attempts < policy.max_attempts:
                explain_no_retry(error, policy.max_retry_after, "max_retry_after allows")
            return None
        if delay >= self._line.left_for_pause(progress):
            explain_no_retry(error, 0.0, "the deadline leaves")
            return None
        cost = self._quota.take(error)
        if cost is None:
            return None
        progress.retry_cost = cost
        return delay

    async def _in_turn(
        self, call: Call[T], options: Options, progress: Progress[T], redact: Redactor
    ) -> T | CrowdTwistError:
        refusal = await self._line.enter(progress)
        if refusal is not None:
            return refusal
        try:
            return await self._attempt(call, options, progress, redact)
        finally:
            self._line.leave()

    async def _attempt(
        self, call: Call[T], options: Options, progress: Progress[T], redact: Redactor
    ) -> T | CrowdTwistError:
        started = self._clock()
        left = progress.left(started)
        request = call.request(self._settings, min(options.timeout, left))
        progress.attempts += 1
        for stats in progress.stats:
            stats.requests += 1
            stats.retries += progress.attempts > 1
        if progress.record is not None:
            progress.record.sent()
        reply = await self._exchange(request)
        if progress.record is not None:
            progress.record.answered(reply)
        if reply is None and left <= options.timeout:
            after = self._line.note_cut(progress, left)
            return progress.deadline_passed(f"in an attempt (phase: {request.phase}){after}")
        ended = timeout_error(request) if reply is None else reply
        if logger.isEnabledFor(logging.DEBUG):
            _log_attempt(request, ended, progress, self._clock() - started)
        if isinstance(ended, CrowdTwistError):
            return ended
        self._line.reply_times[request.endpoint].note(self._clock() - started)
        return self._read(call, request, ended, redact)

    def _read(self, call: Call[T], request: Request, reply: Reply, redact: Redactor) -> T | CrowdTwistError:
        signed = request.signed
        outcome = read_reply(call, reply, redact if signed is None else redact.knowing(signed.signature))
        if not isinstance(outcome, AuthenticationError):
            return outcome
        if signed is None:
            return explain_refused_key(outcome)
        return explain_refusal(outcome, reply.headers.get("date"), self._settings.wall_clock())

    async def _exchange(self, request: Request) -> Reply | CrowdTwistError | None:
        """One attempt in its time; `None` when that was over."""
        with anyio.move_on_after(request.timeout):
            try:
                ended: object = await self._transport.send(request)
            except Exception as error:  # noqa: BLE001 - raised further, its frames and text may hold the key
                return TransportError(f"the transport raised {type(error).__name__}, which it must not")
            return checked_reply(ended)
        return None


def _counted_in(stats: Stats) -> tuple[Stats, ...]:
    return (stats, *METER.get())


def _log_retry(call: Call[Any], error: CrowdTwistError, progress: Progress[Any], delay: float) -> None:
    logger.warning(
        "%s: attempt %d failed with %s, next in %.2f s",
        call.endpoint.name,
        progress.attempts,
        type(error).__name__,
        delay,
    )


def _log_attempt(request: Request, reply: Any, progress: Progress[Any], seconds: float) -> None:
    ended = reply.status if isinstance(reply, Reply) else type(reply).__name__
    logger.debug(
        "%s: attempt %d at %s: %s in %.3f s",
        request.endpoint,
        progress.attempts,
        progress.call.base.host,
        ended,
        seconds,
    )
