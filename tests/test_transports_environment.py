"""
What the environment says of connections, and OpenTelemetry's silence on the wire.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trustme
from conftest import KEY, leaks
from opentelemetry import trace
from opentelemetry.instrumentation import httpx as instrumentation
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from wire import PAGE, WireServer, reply

from crowdtwist_async import CrowdTwistClient
from crowdtwist_async.transports._environment import MadeOnce, no_wire_spans, proxy_for, tls_context

INSTRUMENTED = {"httpx": "HTTPXClientInstrumentor", "httpx2": "HTTPX2ClientInstrumentor"}


@pytest.mark.anyio
async def test_what_is_made_once_takes_no_thread_of_the_program_s() -> None:
    """They may all wait for it: handlers in threads that call the client through the event loop."""
    numbers = count()
    once = MadeOnce(lambda: 7 + next(numbers))
    program = anyio.to_thread.current_default_thread_limiter()
    threads, program.total_tokens = program.total_tokens, 1
    release = Event()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(anyio.to_thread.run_sync, release.wait))
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(10):
                assert [7, 7] == [await once.get(), await once.get()]
            release.set()
    finally:
        release.set()
        program.total_tokens = threads


@pytest.mark.anyio
async def test_what_hangs_while_it_is_made_holds_up_nobody() -> None:
    """A file may hang: its callers end in time, one thread goes on, and who comes then gets it."""
    release, begun = Event(), list[int]()

    def make() -> int:
        begun.append(1)
        release.wait()
        return len(begun)

    once = MadeOnce(make)
    for _ in range(20):
        with anyio.move_on_after(0.01) as scope:
            await once.get()
        assert scope.cancelled_caught
    release.set()
    with anyio.fail_after(10):
        assert 1 == await once.get()


@pytest.mark.anyio
async def test_what_could_not_be_made_is_made_anew() -> None:
    """Somebody may put it right; all that waited for it are told."""
    outcomes: list[int | None] = [None, 5]

    def make() -> int:
        outcome = outcomes.pop(0)
        if outcome is None:
            raise OSError
        return outcome

    once, told = MadeOnce(make), list[int]()

    async def get() -> None:
        try:
            await once.get()
        except OSError:
            told.append(1)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(get)
    assert [1] * 3 == told
    assert [5, 5] == [await once.get(), await once.get()]


@pytest.fixture(params=[name for name in INSTRUMENTED if find_spec(name)])
def library(request: pytest.FixtureRequest) -> Any:
    """The library whose client is injected."""
    return import_module(request.param)


@pytest.fixture
def spans(library: Any) -> Iterator[InMemorySpanExporter]:
    """What an instrumented httpx, and the library of an injected client, export."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    names = {"HTTPXClientInstrumentor", INSTRUMENTED[library.__name__]}
    instrumentors = [getattr(instrumentation, name)() for name in names]
    for instrumentor in instrumentors:
        instrumentor.instrument(tracer_provider=provider)
    yield exporter
    for instrumentor in instrumentors:
        instrumentor.uninstrument()


@pytest.mark.anyio
async def test_an_instrumented_httpx_sees_nothing_of_ours(library: Any, spans: InMemorySpanExporter) -> None:
    """The URL with the key is in no span, on the default transport and on an injected client."""
    with WireServer(reply(PAGE)) as server:
        urls: dict[str, Any] = {"api_key": KEY, "api_url": server.url, "pos_url": server.url}
        async with library.AsyncClient() as injected:
            async with (
                CrowdTwistClient(**urls) as client,
                CrowdTwistClient(**urls, http_client=injected) as other,
            ):
                await client.user_rewards("7")
                await other.user_rewards("7")
            assert () == spans.get_finished_spans()
            await injected.get(f"{server.url}/mine")
    [mine] = spans.get_finished_spans()
    assert not leaks(f"{mine.name}{mine.attributes}")


def test_without_opentelemetry_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that has not imported it pays nothing."""
    monkeypatch.delitem(sys.modules, "opentelemetry.context")
    with no_wire_spans():
        assert not trace.get_current_span().is_recording()


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://proxy.test:3128"}, "http://proxy.test:3128"),
        ({"https_proxy": "http://proxy.test:3128"}, "http://proxy.test:3128"),
        ({"HTTPS_PROXY": "proxy.test:3128"}, "http://proxy.test:3128"),
        ({"ALL_PROXY": "http://proxy.test:3128"}, "http://proxy.test:3128"),
        ({"HTTPS_PROXY": "http://proxy.test:3128", "NO_PROXY": "crowdtwist.com"}, None),
        ({"HTTPS_PROXY": "http://proxy.test:3128", "NO_PROXY": "*"}, None),
        ({"HTTP_PROXY": "http://proxy.test:3128"}, None),
    ],
    ids=["none", "upper", "lower", "no scheme", "all", "excepted", "all excepted", "other scheme"],
)
def test_proxies(variables: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual variables decide, by the usual rules."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy == proxy_for("https://pos201.crowdtwist.com")
    assert proxy_for("http://127.0.0.1:8777") is None


@pytest.mark.parametrize("given", [None, "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_trusted_certificates(given: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's certificates replace the default ones."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "ca.pem").write_bytes(trustme.CA().cert_pem.bytes())
    if given is not None:
        monkeypatch.setenv(given, str(tmp_path / "ca.pem" if given == "SSL_CERT_FILE" else tmp_path))
    loaded = len(tls_context().get_ca_certs())
    assert {None: loaded > 50, "SSL_CERT_FILE": loaded == 1, "SSL_CERT_DIR": loaded == 0}[given]
