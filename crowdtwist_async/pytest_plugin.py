"""
Fixtures for tests of programs that use the client: `pytest_plugins = ["crowdtwist_async.pytest_plugin"]`.

In the `conftest.py` beside pytest's configuration, that line brings:

* `crowdtwist_emulator`: an `Emulator`, fresh for each test.
* `crowdtwist_client`: a client that asks it in process, ready for calls, whose pauses pass at once.
* `crowdtwist_emulator_server`: the emulator on a loopback socket, with `.url`; needs the extra `[cli]`.
* `crowdtwist_environment`: the variables that `CrowdTwistClient.from_env` reads name that server.
* `crowdtwist_clock`: what the pauses pass on; `skipped` is the seconds that nobody waited.
* `crowdtwist_faults_met`: fails a test that ends before all of its scripted faults have happened.

`@pytest.mark.crowdtwist_emulator(members=5)` gives the emulator's arguments, on a test, a class or a
module; the closest mark wins. For all tests, override the fixtures `crowdtwist_emulator_options` and
`crowdtwist_client_options`.

None of them is async: they work with pytest-asyncio in either mode, with anyio's plugin on asyncio and
trio, and in a test that calls `asyncio.run` or `anyio.run` itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from crowdtwist_async.client import CrowdTwistClient
from crowdtwist_async.emulator import Emulator
from crowdtwist_async.emulator.instant import InstantClock, discard, instant_client
from crowdtwist_async.errors import ConfigurationError

if TYPE_CHECKING:
    from crowdtwist_async.emulator.server import EmulatorServer

_MARK = "crowdtwist_emulator"
_HMAC = ("PUBLIC_KEY", "PRIVATE_KEY", "PRIVATE_KEY_FILE", "TIMESTAMP", "DIGEST")
_VARIABLES = ("API_KEY_FILE", "CLIENT_ID", "ENVIRONMENT", "BUDGET", *(f"HMAC_{name}" for name in _HMAC))
"""What the environment of the test run may hold, and a test must not see."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark, for `--strict-markers`."""
    config.addinivalue_line(
        "markers",
        f"{_MARK}(members=, seed=, faults=, fault_rate=, per_minute=, rewards=, ...): the arguments of the "
        "crowdtwist_async Emulator that the fixtures use.",
    )


@pytest.fixture
def crowdtwist_clock() -> InstantClock:
    """The clock on which pauses of `crowdtwist_client`, and delays of its replies, pass at once."""
    return InstantClock()


@pytest.fixture
def crowdtwist_emulator_options() -> dict[str, Any]:
    """The arguments of every test's emulator; override it, or see the mark `crowdtwist_emulator`."""
    return {}


@pytest.fixture
def crowdtwist_emulator(
    request: pytest.FixtureRequest,
    crowdtwist_emulator_options: dict[str, Any],
    crowdtwist_clock: InstantClock,
) -> Emulator:
    """
    An emulator of the API, fresh for each test: the same arguments give the same members.

    `script` says what goes wrong, `requests` what was asked. It has 1,000 members; no ceiling unless
    `per_minute` is given, which is then counted on `crowdtwist_clock`.
    """
    given = _named(crowdtwist_emulator_options, "crowdtwist_emulator_options", "{'members': 5}")
    options = {"clock": crowdtwist_clock.now, "sleep": crowdtwist_clock.delay, **given}
    for mark in reversed(list(request.node.iter_markers(_MARK))):
        if mark.args:
            pytest.fail(f"the mark {_MARK} takes arguments by name, such as members=5", pytrace=False)
        options |= mark.kwargs
    known = inspect.signature(Emulator).parameters
    unknown = sorted(repr(name) for name in options.keys() - known.keys())
    if unknown:
        problem = f"an emulator has no {' and no '.join(unknown)}; it has {', '.join(known)}"
        pytest.fail(f"the mark {_MARK}, or crowdtwist_emulator_options: {problem}", pytrace=False)
    try:
        return Emulator(**options)
    except (TypeError, ValueError) as error:
        problem = _told(error)
    pytest.fail(f"the mark {_MARK}, or crowdtwist_emulator_options: {problem}", pytrace=False)


@pytest.fixture
def crowdtwist_client_options() -> dict[str, Any]:
    """
    The arguments of every test's `crowdtwist_client`, such as `timeout` or `retry`; override it.

    With a budget the client is paced: `RateBudget(60, clock=crowdtwist_clock.elapsed)`.
    """
    return {}


@pytest.fixture
def crowdtwist_client(
    crowdtwist_emulator: Emulator,
    crowdtwist_clock: InstantClock,
    crowdtwist_client_options: dict[str, Any],
) -> Iterator[CrowdTwistClient]:
    """
    A client that asks `crowdtwist_emulator` in process; it is ready for calls, and closed after the test.

    An async fixture would belong to one plugin, and to that plugin's event loop. This client has no
    connections, so it needs no loop to open and close, and belongs to the one of its first call;
    `async with crowdtwist_client` is allowed, and changes nothing until it ends.

    It has the defaults of `CrowdTwistClient`, without pacing. Pauses before retries, those that a
    `Retry-After` asks for and delays of the emulator's replies pass at once on `crowdtwist_clock`:
    attempts, timeouts and deadlines end as they would if the time had passed.
    """
    options = _named(crowdtwist_client_options, "crowdtwist_client_options", "{'timeout': 5}")
    client, problem = None, ""
    try:
        client = instant_client(crowdtwist_emulator, crowdtwist_clock, **options)
    except (TypeError, ConfigurationError) as error:
        problem = _told(error)
    if client is None:
        pytest.fail(f"crowdtwist_client_options: {problem}", pytrace=False)
    yield client
    discard(client)


@pytest.fixture
def crowdtwist_emulator_server(crowdtwist_emulator: Emulator) -> Iterator[EmulatorServer]:
    """
    `crowdtwist_emulator` on a loopback socket: `url` says where, the key is `crowdtwist_emulator.api_key`.

    Delays and pauses are real here: give the client short ones, such as `RetryPolicy(initial=0)`.
    """
    try:
        from crowdtwist_async.emulator.server import EmulatorServer
    except ModuleNotFoundError:
        pytest.fail("the emulator's server needs `pip install 'crowdtwist-async[cli]'`", pytrace=False)
    with EmulatorServer(crowdtwist_emulator) as server:
        yield server


@pytest.fixture
def crowdtwist_environment(
    crowdtwist_emulator: Emulator,
    crowdtwist_emulator_server: EmulatorServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    Let `CrowdTwistClient.from_env` and the command ask `crowdtwist_emulator_server`, without pacing.

    They sign if the emulator has a key pair.
    """
    for name in _VARIABLES:
        monkeypatch.delenv(f"CROWDTWIST_{name}", raising=False)
    monkeypatch.setenv("CROWDTWIST_API_URL", crowdtwist_emulator_server.url)
    monkeypatch.setenv("CROWDTWIST_POS_URL", crowdtwist_emulator_server.url)
    monkeypatch.setenv("CROWDTWIST_API_KEY", crowdtwist_emulator.api_key)
    monkeypatch.setenv("CROWDTWIST_PER_MINUTE", "inf")
    signing = crowdtwist_emulator.signing
    if signing is not None:
        monkeypatch.setenv("CROWDTWIST_HMAC_PUBLIC_KEY", signing.public_key.reveal())
        monkeypatch.setenv("CROWDTWIST_HMAC_PRIVATE_KEY", signing.private_key.reveal())
        monkeypatch.setenv("CROWDTWIST_HMAC_TIMESTAMP", signing.timestamp)
        monkeypatch.setenv("CROWDTWIST_HMAC_DIGEST", signing.digest)


@pytest.fixture
def crowdtwist_faults_met(crowdtwist_emulator: Emulator) -> Iterator[None]:
    """Fail a test that ends before all of its scripted faults have happened; by default they may stay."""
    yield
    pending = crowdtwist_emulator.pending_faults
    if pending:
        number = "1 scripted fault has" if len(pending) == 1 else f"{len(pending)} scripted faults have"
        pytest.fail(f"{number} not happened: {', '.join(map(repr, pending))}", pytrace=False)


def _named(options: object, fixture: str, example: str) -> Mapping[str, Any]:
    """What a fixture that may be overridden gives."""
    if isinstance(options, Mapping):
        return options
    pytest.fail(
        f"{fixture} must return a dict such as {example}, not {type(options).__name__}", pytrace=False
    )


def _told(error: Exception) -> str:
    """What an error says; its frames have the options, and so perhaps a key, among their locals."""
    error.__traceback__ = None
    return str(error)
