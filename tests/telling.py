"""
What the package tells OpenTelemetry, read back; the process's own providers stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from conftest import leaks
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

MEMBERS = {
    "id": "3321700401126",
    "email": "alice+tag@example.com",
    "mobile_phone_number": "+1 (555) 123-9687",
    "third_party_id": "crm/77 31%f9",
}
"""A member under the kinds of id that an endpoint may take."""
_FORMS = {
    form
    for member in MEMBERS.values()
    for form in (
        member,
        quote(member, safe=""),
        quote(member),
        quote_plus(member),
        re.sub(r"[^0-9]", "", member),
    )
    if len(form) > 6
}


def names_a_member(text: str) -> bool:
    """Whether a text holds one of the ids, in any form."""
    return any(form.lower() in text.lower() for form in _FORMS)


class Told:
    """Spans and metrics of one test."""

    def __init__(self, sampler: Sampler) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)

    def spans(self, name: str | None = None) -> list[ReadableSpan]:
        """The spans that ended, in the order of their ends."""
        return [span for span in self._exporter.get_finished_spans() if name in (None, span.name)]

    def points(self, name: str) -> list[Any]:
        """The data points of a metric."""
        return [
            point for metric in self.metrics() if metric.name == name for point in metric.data.data_points
        ]

    def values(self, name: str, *attributes: str) -> dict[tuple[Any, ...], Any]:
        """The value of each point, or how many a histogram counts, by some of the attributes."""
        return {
            tuple((point.attributes or {}).get(attribute) for attribute in attributes): (
                point.value if hasattr(point, "value") else point.count
            )
            for point in self.points(name)
        }

    def metrics(self) -> list[Any]:
        """All metrics."""
        found: Any = self._reader.get_metrics_data()
        return [metric for scope in self.scopes(found) for metric in scope.metrics]

    @staticmethod
    def scopes(found: Any) -> list[Any]:
        """The scopes of what a reader gave."""
        resources = [] if found is None else found.resource_metrics
        return [scope for resource in resources for scope in resource.scope_metrics]

    def scope_of_metrics(self) -> Any:
        """The scope of all metrics."""
        [scope] = self.scopes(self._reader.get_metrics_data())
        return scope.scope

    def everything(self) -> str:
        """All that an exporter would send."""
        found = self._reader.get_metrics_data()
        spans = [f"{span.to_json()}{span!r}{span.resource.to_json()}" for span in self.spans()]
        return "\n".join([*spans, "" if found is None else f"{found.to_json()}{found!r}"])


@contextmanager
def telling(monkeypatch: pytest.MonkeyPatch, sampler: Sampler = ALWAYS_ON) -> Iterator[Told]:
    """Providers that stand for the process's own; at the end all is searched for the key and for ids."""
    told = Told(sampler)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: told.tracers)
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: told.meters)
    yield told
    everything = told.everything()
    told.tracers.shutdown()
    told.meters.shutdown()
    assert not leaks(everything), "the key is in a span or a metric"
    assert not names_a_member(everything), "a user id is in a span or a metric"
