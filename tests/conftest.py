"""
What every test has: the canary, which looks for the key everywhere, and a guard against blocking calls.
"""

from __future__ import annotations

import gc
import io
import logging
import pickle
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from blockbuster import BlockBusterFunction, BlockingError, blockbuster_ctx
from hypothesis import settings
from hypothesis import strategies as st

from crowdtwist_async import CrowdTwistClient, CrowdTwistError

KEY = "canary/K3y+9f%27~Zq"
"""The key of all tests: it changes when it is percent-encoded, in every way that a key can."""
PUBLIC_KEY, PRIVATE_KEY = "canary/Pub1ic+7f%2A~Qz", "canary/Pr1v8+3d%27=~Xw"
"""The key pair of all tests that sign."""

_WANTED = {
    "dlt": ["test_docs.py"],
    "schemathesis": ["test_docs_openapi.py", "test_openapi_checks.py", "test_openapi_page.py"],
}
collect_ignore = [name for tool, names in _WANTED.items() if not find_spec(tool) for name in names]
"""What these run with weighs more than everything else: `nox -s docs openapi` has it."""

# How long an example takes is the machine's affair.
settings.register_profile("patient", settings(), deadline=None)
settings.load_profile("patient")

_BLOCKING = ("os.fsync", "os.ftruncate", "os.open", "fcntl.flock")
"""What blockbuster does not know, and exports do."""

_TESTS = str(Path(__file__).parent)
_FORMS = {
    form.lower()
    for key in (KEY, PUBLIC_KEY, PRIVATE_KEY)
    for form in (key, quote(key, safe=""), quote(key), quote_plus(key), key.replace("/", "\\/"))
}


def any_text(**sizes: int) -> st.SearchStrategy[str]:
    """What `st.text()` draws, which first encodes all that Unicode has, for seconds, to leave the surrogates out."""
    return st.text(st.characters(exclude_categories=["Cs"]), **sizes)


def leaks(text: str) -> bool:
    """Whether a text holds the key, or one of the pair, in any form."""
    text = text.lower()
    return any(form in text for form in _FORMS)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run every test that is marked `anyio` on both event loops."""
    backend: str = request.param
    return backend


def pytest_collection_finish() -> None:
    """Keep the tests themselves out of what is collected as garbage, which many of them ask for."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Let the processes of tests heed Ctrl-C: shells have what they start in the background ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test ask a name server, and so reach no other machine."""
    resolve = socket.getaddrinfo

    def resolve_here(host: Any, *arguments: Any, **options: Any) -> Any:
        if host in (None, "localhost", "127.0.0.1", "::1", b"127.0.0.1", b"localhost"):
            return resolve(host, *arguments, **options)
        raise socket.gaierror(socket.EAI_NONAME, "no other machine is asked in tests")

    monkeypatch.setattr(socket, "getaddrinfo", resolve_here)


@pytest.fixture(autouse=True)
def blocking_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BlockingError]]:
    """
    Fail a test in which the package blocks asyncio's event loop, also where the package catches that error.

    What may block, by blockbuster's own table: what Python does to import a module, to find the lines of a
    traceback and to start a thread, asyncio's own sockets, pytest and coverage; by ours, a lock that coverage
    takes while it follows our code, and the log handlers, which are the program's (pytest's write to a file).
    Trio's loop is not watched, nor what only takes long.
    """
    calls: list[BlockingError] = []
    _record_instances(monkeypatch, BlockingError, calls)
    with blockbuster_ctx("crowdtwist_async") as blocking:
        for name in ("threading.Lock.acquire", "threading.Lock.acquire_lock"):
            blocking.functions[name].can_block_in("coverage/collector.py", "lock_data")
            _let_coverage_lock(blocking.functions[name])
        for function in blocking.functions.values():
            function.can_block_in("logging/__init__.py", "emit")
        added = [BlockBusterFunction(None, name, scanned_modules="crowdtwist_async") for name in _BLOCKING]
        for function in added:
            function.activate()
        yield calls
        for function in added:
            function.deactivate()
    assert [] == [str(call) for call in calls], "the event loop is blocked"


def _let_coverage_lock(function: BlockBusterFunction) -> None:
    """Except coverage's own lock, which it takes from C (7.17.5 does), without a frame to know it by."""
    coverage = sys.modules.get("coverage")
    running = coverage and coverage.Coverage.current()
    lock = getattr(getattr(running, "_collector", None), "data_lock", None)
    if lock is not None:
        usual = function.can_block_predicate
        function.deactivate()
        function.can_block_predicate = lambda *args, **named: args[0] is lock or usual(*args, **named)
        function.activate()


@pytest.fixture(autouse=True)
def canary(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look for the key in all logs at DEBUG, and in every error, warning and client of a test."""
    log = io.StringIO()
    errors: list[CrowdTwistError] = []
    clients: list[CrowdTwistClient] = []
    warned: list[str] = []
    handler = logging.StreamHandler(log)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    _record_instances(monkeypatch, CrowdTwistError, errors)
    _record_instances(monkeypatch, CrowdTwistClient, clients)
    warn = warnings.warn

    def recording_warn(message: Any, category: Any = None, stacklevel: int = 1, **rest: Any) -> None:
        warned.append(str(message))
        warn(message, category, stacklevel + 1, **rest)

    monkeypatch.setattr(warnings, "warn", recording_warn)
    yield
    root.removeHandler(handler)
    root.setLevel(level)
    assert not leaks(log.getvalue()), "the key is in a log"
    assert not leaks("\n".join(warned)), "the key is in a warning"
    for client in clients:
        if hasattr(client, "_session"):  # a refused one has none
            assert not leaks(repr(client) + str(client)), "the key is in a client's repr"
    for error in errors:
        _check_error(error)


def _record_instances(monkeypatch: pytest.MonkeyPatch, kind: type[Any], into: list[Any]) -> None:
    init = kind.__init__

    def recording_init(self: Any, *args: Any, **kwargs: Any) -> None:
        into.append(self)
        init(self, *args, **kwargs)

    monkeypatch.setattr(kind, "__init__", recording_init)


def _check_error(error: CrowdTwistError) -> None:
    said = f"{error}\n{error!r}\n{error.args}\n{vars(error)}"
    assert not leaks(said), f"the key is in the text or the attributes of {type(error).__name__}"
    assert not leaks(repr(pickle.dumps(error))), f"the key is in the pickle of {type(error).__name__}"
    report = captured_locals(error)
    assert not leaks(report), (
        f"the key is in the locals that a traceback of {type(error).__name__} shows:\n{report}"
    )


@contextmanager
def _integers_of_any_length() -> Iterator[None]:
    """Let any integer be written: an argument that was refused may be one that Python would not."""
    most = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(most)


def _looked_into(value: Any, levels: int = 4) -> Iterator[str]:
    """The repr of a value, or of what is in it."""
    if not levels or not isinstance(value, tuple | list | dict):
        with suppress(Exception):
            yield repr(value)
        return
    for entry in [*value, *value.values()] if isinstance(value, dict) else value:
        yield from _looked_into(entry, levels - 1)


def captured_locals(error: BaseException | None) -> str:
    """
    What crash reporters print of an error and its causes, the tests' own frames left out.

    Some take the repr of each local, some look into tuples and the like, named ones included.
    """
    lines: list[str] = []
    seen: set[int] = set()
    with _integers_of_any_length():
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            frames = [
                (frame, line)
                for frame, line in traceback.walk_tb(error.__traceback__)
                if not frame.f_code.co_filename.startswith(_TESTS)
            ]
            report = traceback.StackSummary.extract(iter(frames), lookup_lines=False, capture_locals=True)
            lines.append(str(error))
            lines += [f"{frame.filename}:{frame.lineno} {frame.locals}" for frame in report]
            for frame, _ in frames:
                lines += _looked_into(list(frame.f_locals.values()))
            error = error.__cause__ or error.__context__
    return "\n".join(lines)
