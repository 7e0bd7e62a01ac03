"""
The fixtures as users have them: in a pytest of their own, under each plugin that runs async tests.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest
from blocks import ROOT
from conftest import KEY, leaks

pytest_plugins = ["pytester"]

Run = Callable[..., pytest.RunResult]

EXAMPLE = ROOT / "examples" / "loyalty_app"
CONFTEST = 'pytest_plugins = ["crowdtwist_async.pytest_plugin"]\n'
STRICT = "--strict-markers", "--strict-config", "-p", "no:cacheprovider"
ASYNCIO = (
    "[pytest]\nfilterwarnings = error\nasyncio_mode = {}\nasyncio_default_fixture_loop_scope = function\n"
)
ANYIO_ONLY = "[pytest]\nfilterwarnings = error\nanyio_mode = "
ANYIO = ANYIO_ONLY + "strict\n"

# Every fixture, in async tests whose mark is to be filled in; the last needs no plugin at all.
USES = """
import asyncio
import pytest
from crowdtwist_async import CrowdTwistClient, RequestTimeoutError, RetryPolicy
from crowdtwist_async.emulator import Fault

pytestmark = pytest.mark.crowdtwist_emulator(members=5)


{mark}
async def test_a_script(crowdtwist_client, crowdtwist_emulator, crowdtwist_clock, crowdtwist_faults_met):
    crowdtwist_emulator.script(None, Fault.status(503), Fault.status(429, retry_after=7), Fault.truncate())
    purchases = await crowdtwist_client.iter_user_purchases("10000001").collect()
    assert crowdtwist_emulator.purchases_of("10000001") == len(purchases)
    assert [200, 503, 429, 200, 200] == [asked.status for asked in crowdtwist_emulator.requests][:5]
    assert 7 <= crowdtwist_clock.skipped < 9


{mark}
async def test_freshness(crowdtwist_client, crowdtwist_emulator):
    assert () == crowdtwist_emulator.requests
    async with crowdtwist_client.fan_out(
        crowdtwist_client.points_awaiting_fulfillment, crowdtwist_emulator.member_ids()
    ) as outcomes:
        assert 5 == len([outcome async for outcome in outcomes if outcome.ok])


{mark}
async def test_a_timeout(crowdtwist_client, crowdtwist_emulator):
    crowdtwist_emulator.script(Fault.delay(60))
    once = crowdtwist_client.with_options(retry=RetryPolicy(max_attempts=1))
    with pytest.raises(RequestTimeoutError):
        await once.points_awaiting_fulfillment("10000001")


{mark}
@pytest.mark.crowdtwist_emulator(rewards=7)
async def test_the_environment(crowdtwist_environment, crowdtwist_emulator, crowdtwist_emulator_server):
    crowdtwist_emulator.script(Fault.reset())
    async with CrowdTwistClient.from_env(retry=RetryPolicy(initial=0)) as client:
        assert crowdtwist_emulator_server.url in repr(client)
        rewards = await client.iter_user_rewards("10000004", include_soldout=True).collect()
    assert crowdtwist_emulator.rewards_of("10000004", include_soldout=True) == len(rewards) <= 7
    assert [None, 200] == [asked.status for asked in crowdtwist_emulator.requests]


def test_no_plugin(crowdtwist_client):
    points = asyncio.run(crowdtwist_client.points_awaiting_fulfillment("10000001"))
    assert 10_000_001 == points.user_id
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """
    Run pytest in another process, whose environment has nothing of this one's but the path.

    The plugins are those for async tests, unless all that are installed are wanted.
    """
    for name in list(os.environ):
        if name.startswith(("CROWDTWIST_", "PYTEST_", "COV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("NO_PROXY", "*")

    def run(ini: str, *arguments: str, all_plugins: bool = False) -> pytest.RunResult:
        pytester.makeini(ini)
        anyio_only = ini.startswith(ANYIO_ONLY)
        plugins: tuple[str, ...]
        if all_plugins:
            plugins = ("-p", "no:asyncio") if anyio_only else ()
        else:
            monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
            plugins = () if "no:anyio" in arguments else ("-p", "anyio.pytest_plugin")
            plugins += () if anyio_only else ("-p", "pytest_asyncio.plugin")
        return pytester.run(sys.executable, "-m", "pytest", *STRICT, *plugins, *arguments, timeout=300)

    return run


@pytest.fixture
def run_here(run: Run, pytester: pytest.Pytester) -> Run:
    """Run pytest within this process, where the canary and coverage look on."""

    def run_here(*arguments: str) -> pytest.RunResult:
        pytester.makeini(ANYIO)
        without = [f"-pno:{name}" for name in ("asyncio", "randomly", "xdist", "cov")]
        return pytester.runpytest_inprocess(*STRICT, *without, *arguments)

    return run_here


def write(pytester: pytest.Pytester, tests: str, conftest: str = CONFTEST) -> None:
    """Write a conftest and a module of tests."""
    pytester.makeconftest(conftest)
    pytester.makepyfile(test_them=tests)


@pytest.mark.parametrize(
    ("ini", "mark", "without", "passed"),
    [
        pytest.param(ASYNCIO.format("strict"), "@pytest.mark.asyncio", "anyio", 5, id="asyncio-strict"),
        pytest.param(ASYNCIO.format("auto"), "", "anyio", 5, id="asyncio-auto"),
        pytest.param(ANYIO, "@pytest.mark.anyio", "none", 9, id="anyio-strict"),
        pytest.param(f"{ANYIO_ONLY}auto\n", "", "none", 9, id="anyio-auto"),
        pytest.param(ASYNCIO.format("strict"), "@pytest.mark.anyio", "none", 9, id="anyio-beside-asyncio"),
    ],
)
def test_each_fixture_works_under_each_plugin(
    ini: str, mark: str, without: str, passed: int, run: Run, pytester: pytest.Pytester
) -> None:
    """On asyncio, and under anyio's plugin on trio too; alone, or beside the other plugin."""
    write(pytester, USES.format(mark=mark))
    run(ini, "-p", f"no:{without}").assert_outcomes(passed=passed)


def test_in_parallel_and_in_random_order(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test sees another's emulator, nor the account of who runs the tests."""
    for name in ("API_KEY_FILE", "CLIENT_ID", "ENVIRONMENT", "BUDGET", "PER_MINUTE"):
        monkeypatch.setenv(f"CROWDTWIST_{name}", "no such thing")
    write(pytester, USES.format(mark="@pytest.mark.anyio"))
    run(ASYNCIO.format("strict"), "-p", "xdist", "-n", "2", "-p", "randomly").assert_outcomes(passed=9)


def test_nobody_gets_it_unasked(run: Run, pytester: pytest.Pytester) -> None:
    """Without the line in the conftest there is no fixture, and no mark."""
    write(pytester, "def test_it(crowdtwist_emulator): ...", conftest="")
    result = run(ANYIO, all_plugins=True)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*fixture 'crowdtwist_emulator' not found*")


def test_the_mark_is_listed(run: Run, pytester: pytest.Pytester) -> None:
    """With what it takes."""
    write(pytester, "")
    run(ANYIO, "--markers").stdout.fnmatch_lines("@pytest.mark.crowdtwist_emulator(members=*")


def test_options(run_here: Run, pytester: pytest.Pytester) -> None:
    """Fixtures give them for all tests, marks on top of that, the closest last."""
    overriding = """
import pytest

@pytest.fixture
def crowdtwist_emulator_options():
    return {"members": 1, "rewards": 1, "api_key": "another-key"}

@pytest.fixture
def crowdtwist_client_options():
    return {"timeout": 3, "max_in_flight": 2}
"""
    tests = """
import anyio
import pytest
from crowdtwist_async import CrowdTwistClient
from crowdtwist_async.emulator import Fault

def of(emulator):
    return len(list(emulator.member_ids())), emulator.rewards_of("10000000", include_soldout=True)

def test_those_of_all(crowdtwist_emulator):
    assert (1, 1) == of(crowdtwist_emulator)

@pytest.mark.crowdtwist_emulator(members=2, rewards=0)
class TestMarked:
    def test_those_of_a_class(self, crowdtwist_emulator):
        assert (2, 0) == of(crowdtwist_emulator)

    @pytest.mark.crowdtwist_emulator(members=3)
    def test_those_of_a_test(self, crowdtwist_emulator):
        assert (3, 0) == of(crowdtwist_emulator)

def test_the_client(crowdtwist_client, crowdtwist_emulator, crowdtwist_clock):
    crowdtwist_emulator.script(Fault.delay(60))
    anyio.run(crowdtwist_client.points_awaiting_fulfillment, "10000000")
    assert 3 <= crowdtwist_clock.skipped < 4

def test_the_environment(crowdtwist_environment, crowdtwist_emulator):
    async def ask():
        async with CrowdTwistClient.from_env() as client:
            await client.points_awaiting_fulfillment("10000000")
    anyio.run(ask)
    assert [200] == [asked.status for asked in crowdtwist_emulator.requests]
"""
    write(pytester, tests, CONFTEST + overriding)
    run_here().assert_outcomes(passed=5)


@pytest.mark.parametrize("variable", ["PUBLIC_KEY", "PRIVATE_KEY", "PRIVATE_KEY_FILE", "TIMESTAMP", "DIGEST"])
def test_a_key_pair_of_the_shell_is_taken_away(
    variable: str, run_here: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a pair or a whole one: the emulator gets the key, or a signature by the pair that it has."""
    for name in ("PUBLIC_KEY", "PRIVATE_KEY"):
        monkeypatch.setenv(f"CROWDTWIST_HMAC_{name}", "of-the-shell")
    monkeypatch.setenv(f"CROWDTWIST_HMAC_{variable}", "of-the-shell")
    tests = """
import anyio
import pytest
from crowdtwist_async import CrowdTwistClient, HmacKey

def sent(emulator, monkeypatch):
    given = []
    monkeypatch.setattr(emulator, "_admits", lambda call: given.append(call) or type(emulator)._admits(emulator, call))
    async def ask():
        async with CrowdTwistClient.from_env() as client:
            await client.user_rewards("10000001")
    anyio.run(ask)
    [call] = given
    return "api_key" in call.query, (call.authorization or "").partition(":")[0]

def test_a_key(crowdtwist_environment, crowdtwist_emulator, monkeypatch):
    assert (True, "") == sent(crowdtwist_emulator, monkeypatch)

@pytest.mark.crowdtwist_emulator(signing=HmacKey("public-1", "private-1", timestamp="s", digest="raw"))
def test_a_pair(crowdtwist_environment, crowdtwist_emulator, monkeypatch):
    assert (False, "CTApiV2Auth public-1") == sent(crowdtwist_emulator, monkeypatch)
"""
    write(pytester, tests)
    run_here().assert_outcomes(passed=2)


def test_options_that_can_t_work(run_here: Run, pytester: pytest.Pytester) -> None:
    """Each test's setup ends with one sentence, and without a traceback that shows the options."""
    tests = f"""
import pytest

@pytest.fixture
def crowdtwist_emulator_options():
    return {{"api_key": {KEY!r}}}

@pytest.mark.crowdtwist_emulator(membres=5)
def test_unknown(crowdtwist_emulator): ...

@pytest.mark.crowdtwist_emulator(members=-5)
def test_unfit(crowdtwist_emulator): ...

@pytest.mark.crowdtwist_emulator(5)
def test_unnamed(crowdtwist_emulator): ...

@pytest.fixture
def crowdtwist_client_options(request):
    return request.param | {{"api_key": {KEY!r}}}

@pytest.mark.parametrize(
    "crowdtwist_client_options",
    [{{"timout": 1}}, {{"timeout": -1}}, {{"transport": None}}],
    ids=["unknown", "unfit", "transport"],
    indirect=True,
)
def test_client(crowdtwist_client): ...
"""
    write(pytester, tests)
    result = run_here("-l", "--tb=long")
    result.assert_outcomes(errors=6)
    result.stdout.fnmatch_lines(
        [
            "*the mark crowdtwist_emulator*an emulator has no 'membres'; it has members, seed, api_key, *",
            "*the mark crowdtwist_emulator*: members must be an integer of 0 or more*",
            "*takes arguments by name, such as members=5*",
            "*crowdtwist_client_options:*'timout'*",
            "*crowdtwist_client_options: timeout*",
            "*has its own transport*",
        ]
    )
    assert not leaks(result.stdout.str() + result.stderr.str())


def test_options_that_are_no_mapping(run_here: Run, pytester: pytest.Pytester) -> None:
    """One sentence names the fixture, and no value."""
    tests = f"""
import pytest

@pytest.fixture
def crowdtwist_emulator_options():
    return [{KEY!r}]

def test_emulator(crowdtwist_emulator): ...

class TestClient:
    @pytest.fixture
    def crowdtwist_emulator_options(self):
        return {{}}

    @pytest.fixture
    def crowdtwist_client_options(self):
        return None

    def test_client(self, crowdtwist_client): ...
"""
    write(pytester, tests)
    result = run_here("-l", "--tb=long")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "*crowdtwist_emulator_options must return a dict such as {'members': 5}, not list*",
            "*crowdtwist_client_options must return a dict such as {'timeout': 5}, not NoneType*",
        ]
    )
    assert not leaks(result.stdout.str() + result.stderr.str())


def test_a_server_without_its_extra(
    run_here: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who lacks uvicorn is told what to install."""
    for name in ("uvicorn", "crowdtwist_async.emulator.server"):
        monkeypatch.setitem(sys.modules, name, None)
    write(pytester, "def test_it(crowdtwist_emulator_server): ...")
    result = run_here()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*needs `pip install 'crowdtwist-async[[]cli[]]'`*")


def test_faults_that_never_happened(run_here: Run, pytester: pytest.Pytester) -> None:
    """They fail who asks for that, and nobody else."""
    test = """
import anyio
import pytest
from crowdtwist_async.emulator import Fault

@pytest.mark.usefixtures("crowdtwist_faults_met")
@pytest.mark.parametrize("faults", [1, 2])
def test_strictly(faults, crowdtwist_client, crowdtwist_emulator):
    crowdtwist_emulator.script(*[Fault.status(503)] * faults)
    anyio.run(crowdtwist_client.with_options(deadline=30).points_awaiting_fulfillment, "10000001")
    crowdtwist_emulator.script(*[Fault.status(503)] * (faults - 1))

def test_by_default(crowdtwist_emulator):
    crowdtwist_emulator.script(Fault.status(503))
"""
    write(pytester, test)
    result = run_here()
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines("*1 scripted fault has not happened: Fault(kind='status', code=503)*")


def test_no_failure_shows_the_key(run: Run, pytester: pytest.Pytester) -> None:
    """Neither assertions nor locals nor captured logs, in process and over a socket."""
    test = f"""
import logging
import anyio
import pytest
from crowdtwist_async import CrowdTwistClient
from crowdtwist_async.emulator import Fault

pytestmark = pytest.mark.crowdtwist_emulator(api_key={KEY!r})

@pytest.fixture(autouse=True)
def _loud(caplog):
    caplog.set_level(logging.DEBUG)

def test_asserting(crowdtwist_client, crowdtwist_emulator, crowdtwist_clock):
    anyio.run(crowdtwist_client.user_rewards, "10000001")
    assert crowdtwist_client == (crowdtwist_emulator, crowdtwist_clock, crowdtwist_emulator.requests)

def test_raising(crowdtwist_client, crowdtwist_emulator):
    crowdtwist_emulator.script(*[Fault.status(500)] * 4)
    anyio.run(crowdtwist_client.user_rewards, "10000001")

def test_breaking(crowdtwist_client, crowdtwist_emulator):
    crowdtwist_emulator.script(*[Fault.rewrite(lambda body: body["nothing"])] * 4)
    anyio.run(crowdtwist_client.user_rewards, "10000001")

def test_over_a_socket(crowdtwist_environment, crowdtwist_emulator_server, monkeypatch):
    async def ask():
        async with CrowdTwistClient.from_env(deadline=5) as client:
            await client.user_rewards("10000001", page=1)
            await client.user_rewards("nobody")
    anyio.run(ask)
"""
    write(pytester, test)
    # The module's own text is shown in a traceback: there the key is spelt out by the test itself.
    result = run(ANYIO, "-l", "--tb=long", "-p", "no:randomly")
    result.assert_outcomes(failed=4)
    assert not leaks(result.stdout.str() + result.stderr.str())


@pytest.mark.parametrize(
    ("ini", "without", "least"),
    [
        pytest.param(ASYNCIO.format("auto"), "anyio", 24, id="pytest-asyncio"),
        pytest.param(f"{ANYIO_ONLY}auto\n", "none", 47, id="anyio"),
    ],
)
def test_the_sample_application(
    ini: str, without: str, least: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its tests pass with the shipped fixtures alone, on each loop that the plugin has."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{EXAMPLE}")
    result = run(ini, "-c", "tox.ini", f"--rootdir={EXAMPLE}", "-p", f"no:{without}", str(EXAMPLE / "tests"))
    outcomes = result.parseoutcomes()
    assert {"passed"} == outcomes.keys()
    assert least == outcomes["passed"]


def test_the_sample_application_uses_what_is_public() -> None:
    """It is a project of its own, outside the package."""
    assert (EXAMPLE / "pyproject.toml").is_file()
    imported = {
        line
        for path in EXAMPLE.rglob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith(("from crowdtwist_async", "import crowdtwist_async"))
    }
    assert len(imported) > 5
    assert not [line for line in imported if "._" in line or " _" in line]
