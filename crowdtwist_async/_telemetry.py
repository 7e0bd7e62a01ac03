"""
Spans and metrics, for programs that use OpenTelemetry: no other imports this module.

They hold names, numbers and types: no URL, no id, no key, no cursor, and no text of a server's, so no
exception is recorded, whose message would be sent along. No span is made the current one: a walk may go
on in another task than it began in, so the context of its span is handed to its calls instead.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from opentelemetry import context, metrics, trace
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation
from opentelemetry.trace import SpanKind, StatusCode

from crowdtwist_async.__about__ import __version__
from crowdtwist_async._config import Base
from crowdtwist_async._progress import Progress
from crowdtwist_async._protocol import Call, page_number
from crowdtwist_async._quota import RetryQuota

SCOPE = "crowdtwist_async"
SCHEMA_URL = "https://opentelemetry.io/schemas/1.30.0"
"""The conventions that the names which are not our own are from."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The conventions' boundaries for HTTP; by default they would be those of milliseconds."""
_LONGER = (*_SECONDS, 20.0, 30.0, 60.0, 120.0)
_DEFAULT_PORTS = {"https": 443, "http": 80}
# `suppress_instrumentation` of opentelemetry-instrumentation sets the plain name beside this key.
_SUPPRESSED = "suppress_instrumentation"

Attributes = dict[str, str | int | float | bool]


class _Instruments:
    """The metrics of all clients."""

    def __init__(self, meter: Meter) -> None:
        self.durations = _histogram(
            meter, "http.client.request.duration", "Duration of HTTP client requests.", _SECONDS
        )
        self.active = meter.create_up_down_counter(
            "http.client.active_requests", "{request}", "Number of active HTTP requests."
        )
        self.requests = meter.create_counter(
            "crowdtwist.client.requests", "{request}", "Requests that ended, retries included."
        )
        self.retries = meter.create_counter(
            "crowdtwist.client.retries", "{request}", "Requests that were sent again after a failure."
        )
        self.calls = _histogram(
            meter, "crowdtwist.client.call.duration", "Duration of calls with all waits, attempts and pauses."
        )
        self.slot_waits = _histogram(
            meter, "crowdtwist.client.slot.wait", "What a call waited for slots of max_in_flight."
        )
        self.permit_waits = _histogram(
            meter, "crowdtwist.client.permit.wait", "What a call waited for permits of the request budget."
        )
        meter.create_observable_up_down_counter(
            "crowdtwist.client.retry_quota",
            [_quotas_left],
            "{token}",
            "What is left for retries, in all open clients.",
        )


def _histogram(meter: Meter, name: str, says: str, boundaries: tuple[float, ...] = _LONGER) -> Histogram:
    return meter.create_histogram(name, "s", says, explicit_bucket_boundaries_advisory=boundaries)


_INSTRUMENTS: WeakKeyDictionary[Any, _Instruments] = WeakKeyDictionary()
"""By provider: the API's own keeps every meter that it is asked for."""
_OPEN: dict[int, tuple[RetryQuota, Attributes]] = {}
if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no forks
    # No client is open in a forked child, where the SDK goes on.
    os.register_at_fork(after_in_child=_OPEN.clear)


def _instruments() -> _Instruments:
    provider = metrics.get_meter_provider()
    if provider not in _INSTRUMENTS:
        _INSTRUMENTS[provider] = _Instruments(
            metrics.get_meter(SCOPE, __version__, provider, schema_url=SCHEMA_URL)
        )
    return _INSTRUMENTS[provider]


def _quotas_left(_: CallbackOptions) -> Iterator[Observation]:
    """Read from the thread of whoever collects; what is of the same host would be lost but for the sum."""
    sums: dict[Any, int] = {}
    for quota, labels in tuple(_OPEN.values()):
        place = tuple(labels.items())
        sums[place] = sums.get(place, 0) + quota.tokens
    for place, tokens in sums.items():
        yield Observation(tokens, dict(place))


class Telemetry:
    """What one open client tells."""

    def __init__(self, base: Base) -> None:
        self.tracer = trace.get_tracer(SCOPE, __version__, schema_url=SCHEMA_URL)
        self.instruments = _instruments()
        self._base = base
        self._labels: dict[tuple[str, str], Attributes] = {}

    def watch(self, quota: RetryQuota) -> None:
        """Tell what is left of a quota until the client closes."""
        _OPEN[id(self)] = quota, _place(self._base)

    def close(self) -> None:
        """Forget the quota."""
        _OPEN.pop(id(self), None)

    def call(self, call: Call[Any]) -> CallRecord | None:
        """Begin the span of a call; `None` where the program suppresses instrumentations."""
        return None if context.get_value(_SUPPRESSED) else CallRecord(self, call)

    def walk(self, call: Call[Any]) -> WalkRecord | None:
        """Begin the span of a walk, likewise."""
        return None if context.get_value(_SUPPRESSED) else WalkRecord(self, call)

    def labels(self, call: Call[Any]) -> Attributes:
        """What is the same for all calls of a kind."""
        labels = self._labels.get((call.endpoint.name, call.template))
        if labels is None:
            labels = self._labels[call.endpoint.name, call.template] = {
                "crowdtwist.endpoint": call.endpoint.name,
                "http.request.method": "GET",
                **_place(call.base),
                "url.template": call.template,
            }
        return labels


class CallRecord:
    """The span of one call, and what it adds to the metrics."""

    def __init__(self, telemetry: Telemetry, call: Call[Any]) -> None:
        self._instruments = telemetry.instruments
        self._labels = telemetry.labels(call)
        parent = context.get_current() if call.parent is None else call.parent
        page: Attributes = {"crowdtwist.page": page_number(call)} if call.endpoint.entries else {}
        self._span = telemetry.tracer.start_span(
            call.endpoint.name, parent, SpanKind.CLIENT, {**self._labels, **page}
        )
        self._context = trace.set_span_in_context(self._span, parent)
        self._began = time.perf_counter()
        self._sent: float | None = None
        """When the attempt began that is not counted yet."""
        self._seconds: float | None = None
        """How long it took; `None` while it is under way."""
        self._status: int | None = None

    def sent(self) -> None:
        """Begin an attempt."""
        self._sent, self._seconds, self._status = time.perf_counter(), None, None
        self._instruments.active.add(1, self._labels, self._context)

    def answered(self, reply: object = None) -> None:
        """End what is on the wire: by a reply, an error, or nothing in time."""
        self._seconds = time.perf_counter() - (self._sent or 0.0)
        self._instruments.active.add(-1, self._labels, self._context)
        # Of a reply, or of the error that a transport made of one.
        self._status = getattr(reply, "status", None) or None

    def retried(self, error: Exception, attempts: int, delay: float) -> None:
        """Tell of an attempt after which another follows."""
        kind = type(error).__name__
        self._count_attempt(kind)
        self._instruments.retries.add(1, {**self._labels, "error.type": kind}, self._context)
        event: Attributes = {"crowdtwist.attempt": attempts, "crowdtwist.delay": delay, "error.type": kind}
        self._span.add_event("crowdtwist.retry", {**event, **self._replied()})

    def ended(self, outcome: object, progress: Progress[Any]) -> None:
        """End the span: with a result, an error, or a cancellation."""
        failure = _failure(outcome)
        self._count_attempt(failure.get("error.type"))
        labels, here = {**self._labels, **failure}, self._context
        self._instruments.calls.record(time.perf_counter() - self._began, labels, here)
        self._instruments.slot_waits.record(progress.slot_seconds, self._labels, here)
        self._instruments.permit_waits.record(progress.permit_seconds, self._labels, here)
        if self._span.is_recording():
            self._span.set_attributes(
                {
                    "crowdtwist.attempts": progress.attempts,
                    "crowdtwist.slot.wait": progress.slot_seconds,
                    "crowdtwist.permit.wait": progress.permit_seconds,
                    **({"http.request.resend_count": progress.attempts - 1} if progress.attempts > 1 else {}),
                    **self._replied(),
                }
            )
        _end(self._span, failure)

    def _count_attempt(self, kind: str | None) -> None:
        if self._sent is None:
            return
        if self._seconds is None:
            self.answered()
        failure: Attributes = {} if kind is None else {"error.type": kind}
        labels: Attributes = {**self._labels, **failure}
        self._instruments.durations.record(self._seconds or 0.0, {**labels, **self._replied()}, self._context)
        if self._status is not None:
            labels["crowdtwist.status_class"] = f"{self._status // 100}xx"
        self._instruments.requests.add(1, labels, self._context)
        self._sent = None

    def _replied(self) -> Attributes:
        return {} if self._status is None else {"http.response.status_code": self._status}


class WalkRecord:
    """The span of one walk, from its first page to its end, to an error, or to where it was left."""

    def __init__(self, telemetry: Telemetry, call: Call[Any]) -> None:
        parent = context.get_current()
        attributes = {"crowdtwist.endpoint": call.endpoint.name, **_place(call.base)}
        self._span = telemetry.tracer.start_span(
            f"iter_{call.endpoint.name}", parent, SpanKind.INTERNAL, attributes
        )
        self.context = trace.set_span_in_context(self._span, parent)
        """What the calls of its pages belong to."""
        self.pages = 0
        self.items = 0

    def ended(self, error: BaseException | None = None, *, complete: bool = False) -> None:
        """
        End the span.

        Args:
            error: What the walk failed with.
            complete: Whether it came to its end by itself.
        """
        self._span.set_attributes(
            {
                "crowdtwist.walk.pages": self.pages,
                "crowdtwist.walk.items": self.items,
                "crowdtwist.walk.complete": complete,
            }
        )
        _end(self._span, _failure(error))


def _place(base: Base) -> Attributes:
    parts = urlsplit(base.origin)
    return {
        "server.address": parts.hostname or "",
        "server.port": parts.port or _DEFAULT_PORTS[parts.scheme],
    }


def _failure(outcome: object) -> dict[str, str]:
    """The type of an error; asyncio and trio name a cancellation differently."""
    if isinstance(outcome, Exception):
        return {"error.type": type(outcome).__name__}
    return {"error.type": "cancelled"} if isinstance(outcome, BaseException) else {}


def _end(span: trace.Span, failure: dict[str, str]) -> None:
    if failure:
        span.set_attributes(failure)
        # Leaving a prefetch early cancels calls: that is no failure.
        if failure["error.type"] != "cancelled":
            span.set_status(StatusCode.ERROR)
    span.end()
