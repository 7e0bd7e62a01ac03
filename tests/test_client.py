"""
The public client: settings, life, views, the environment, and calls against a second reading of the reference.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import subprocess
import sys
import traceback
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from conftest import KEY, PRIVATE_KEY, PUBLIC_KEY, captured_locals, leaks
from reference_server import ReferenceServer, make_purchases, make_rewards
from scripted import OK, ScriptedTransport, status
from signatures import PAIR
from wire import WireServer

from crowdtwist_async import (
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    CrowdTwistClient,
    CrowdTwistError,
    HmacKey,
    IdType,
    InvalidArgumentError,
    RateBudget,
    RetryPolicy,
    UserNotFoundError,
)
from crowdtwist_async.models import CommonIdTypeText

LOCAL: dict[str, Any] = {"api_key": KEY, "api_url": "http://localhost:1", "pos_url": "http://localhost:1"}


@pytest.fixture
def server() -> Iterator[ReferenceServer]:
    """A server that was written from the reference pages alone."""
    with ReferenceServer(
        key=KEY,
        purchases={"6": make_purchases(33), "7": make_purchases(133), "8": make_purchases(4), "9": []},
        rewards={"6": make_rewards(33), "7": make_rewards(133), "8": make_rewards(4), "9": []},
        points={"7": (7, 4000, 1000)},
        aliases={("email", "alice+1@example.com"): "7", ("third_party_id", "a/b%2F?#"): "7"},
    ) as running:
        yield running


def make_client(server: ReferenceServer, **options: Any) -> CrowdTwistClient:
    """A client of the reference server."""
    return CrowdTwistClient(api_key=KEY, api_url=server.url, pos_url=server.url, **options)


@pytest.mark.anyio
async def test_the_three_calls(server: ReferenceServer) -> None:
    """Each coroutine returns what a server sends that follows the reference."""
    async with make_client(server) as client:
        points = await client.points_awaiting_fulfillment("7")
        assert (7, 4000, 1000) == (
            points.user_id,
            points.total_points_awaiting_fulfillment,
            points.bonus_points_awaiting_fulfillment,
        )
        rewards = await client.user_rewards("7", page=2, page_size=50)
        assert (2, 133, 14, 10, "11") == (
            rewards.number,
            rewards.total,
            rewards.pages,
            len(rewards),
            rewards.items[0].id,
        )
        purchases = await client.user_purchases("7")
        assert (1, 133, 14, 10) == (purchases.number, purchases.total, purchases.pages, len(list(purchases)))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("user_id", "id_type"),
    [("alice+1@example.com", "email"), ("a/b%2F?#", "third_party_id"), (7, "id")],
    ids=["email", "third party", "number"],
)
async def test_other_ids_reach_the_same_member(
    server: ReferenceServer, user_id: str | int, id_type: CommonIdTypeText
) -> None:
    """Ids with characters of URLs arrive as they were given."""
    async with make_client(server) as client:
        assert 7 == (await client.points_awaiting_fulfillment(user_id, id_type=id_type)).user_id
        assert 133 == (await client.user_rewards(user_id, id_type=id_type)).total
        assert 133 == (await client.user_purchases(user_id, id_type=id_type)).total


@pytest.mark.anyio
async def test_unknown_members_and_wrong_keys(server: ReferenceServer) -> None:
    """All three endpoints' own errors are the same two classes."""
    async with (
        make_client(server) as client,
        CrowdTwistClient(api_key="wrong", api_url=server.url, pos_url=server.url) as intruder,
    ):
        for name in ("points_awaiting_fulfillment", "user_rewards", "user_purchases"):
            with pytest.raises(UserNotFoundError) as caught:
                await getattr(client, name)("nobody")
            assert (name, 1) == (caught.value.endpoint, caught.value.attempts)
            with pytest.raises(AuthenticationError):
                await getattr(intruder, name)("7")


@pytest.mark.anyio
@pytest.mark.parametrize("endpoint", ["rewards", "purchases"])
async def test_walks_cost_a_request_a_page(server: ReferenceServer, endpoint: str) -> None:
    """14 pages cost 14 requests in both directions, one page one, no rows one."""
    async with make_client(server) as client:
        walk = getattr(client, f"iter_user_{endpoint}")
        for user, rows, requests in (("7", 133, 14), ("8", 4, 1), ("9", 0, 1)):
            before = len(server.requests)
            forward = await walk(user).collect()
            assert (rows, requests) == (len(forward), len(server.requests) - before)
            backward = await walk(user, reverse=True).collect()
            assert (forward[::-1], 2 * requests) == (backward, len(server.requests) - before)


START_PAGES = {
    # start page: rows forward, requests forward, rows backward, requests backward
    0: (33, 5, 0, 1),
    -1: (33, 5, 0, 1),
    1: (33, 4, 10, 1),
    4: (3, 1, 33, 4),
    99: (0, 1, 33, 5),
}


@pytest.mark.anyio
@pytest.mark.parametrize("endpoint", ["rewards", "purchases"])
@pytest.mark.parametrize("start", START_PAGES)
async def test_walks_from_any_page(server: ReferenceServer, endpoint: str, start: int) -> None:
    """A walk may begin before, in, or beyond the range, in both directions."""
    async with make_client(server) as client:
        walk = getattr(client, f"iter_user_{endpoint}")
        everything = await walk("6").collect()
        before = len(server.requests)
        forward = await walk("6", start_page=start).collect()
        between = len(server.requests)
        backward = await walk("6", start_page=start, reverse=True).collect()
        found = len(forward), between - before, len(backward), len(server.requests) - between
    assert START_PAGES[start] == found
    assert everything[33 - len(forward) :] == forward
    assert everything[: len(backward)][::-1] == backward


@pytest.mark.anyio
@pytest.mark.parametrize("page", [0, -1, 1, 14, 15, 10**9])
async def test_single_pages_are_asked_for_as_given(server: ReferenceServer, page: int) -> None:
    """A single page out of range is what the server says: empty."""
    async with make_client(server) as client:
        found = await client.user_purchases("7", page=page)
    assert (page, 133) == (found.number, found.total)
    assert {1: 10, 14: 3}.get(page, 0) == len(found)


@pytest.mark.anyio
async def test_foreign_links_lead_nowhere() -> None:
    """A walk over links to another host asks only the configured one."""
    with WireServer() as other:
        rows = make_purchases(20)
        pages = [
            {
                "purchases": rows[:10],
                "paging": {"total": 20, "pages": 2, "next_page": f"{other.url}/users/7/purchases?page=2"},
            },
            {
                "purchases": rows[10:],
                "paging": {"total": 20, "pages": 2, "next_page": f"//{other.url[7:]}/?page=3"},
            },
        ]
        asked: list[str] = []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request.url.host)
            return httpx.Response(200, json=pages[int(request.url.params["page"]) - 1])

        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as injected:
            async with CrowdTwistClient(**LOCAL, http_client=injected) as client:
                assert 20 == len(await client.iter_user_purchases("7").collect())
        assert ["localhost", "localhost"] == asked
        assert 0 == other.connections


@pytest.mark.anyio
async def test_use_before_and_after() -> None:
    """A client that is not open says what to do, and is entered once."""
    client = CrowdTwistClient(**LOCAL, transport=ScriptedTransport())
    with pytest.raises(ClientClosedError, match="async with"):
        await client.points_awaiting_fulfillment("7")
    async with client:
        with pytest.raises(ClientClosedError, match="once"):
            await client.__aenter__()
    with pytest.raises(ClientClosedError, match="is closed"):
        await client.points_awaiting_fulfillment("7")
    with pytest.raises(ClientClosedError, match="once"):
        await client.__aenter__()


@pytest.mark.anyio
async def test_closing_twice_and_before_entering() -> None:
    """Closing closes the transport once, and never complains."""
    transport = ScriptedTransport()
    client = CrowdTwistClient(**LOCAL, transport=transport)
    async with client:
        await client.aclose()
    await client.aclose()
    assert 1 == transport.closed
    unused = CrowdTwistClient(**LOCAL, transport=transport)
    await unused.aclose()
    with pytest.raises(ClientClosedError):
        await unused.__aenter__()
    assert 1 == transport.closed


def test_another_event_loop_is_refused() -> None:
    """A client of one loop says so on another, and is closed on its own."""
    client = CrowdTwistClient(**LOCAL, transport=ScriptedTransport())
    with asyncio.Runner() as first:
        first.run(client.__aenter__())
        with asyncio.Runner() as second:
            with pytest.raises(ClientClosedError, match="another event loop"):
                second.run(client.points_awaiting_fulfillment("7"))
            with pytest.raises(ClientClosedError, match="another event loop"):
                second.run(client.aclose())
        first.run(client.aclose())


@pytest.mark.anyio
async def test_a_forked_child_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child of the process that opened a client must make its own."""
    async with CrowdTwistClient(**LOCAL, transport=ScriptedTransport()) as client:
        with monkeypatch.context() as child:
            pid = os.getpid()
            child.setattr(os, "getpid", lambda: pid + 1)
            with pytest.raises(ClientClosedError, match="fork"):
                await client.points_awaiting_fulfillment("7")


def test_a_forked_child_that_goes_on_in_the_coroutine_is_refused() -> None:
    """It has no event loop any more, and the error says what is wrong all the same."""
    program = """
import asyncio, os
from crowdtwist_async import ClientClosedError
from crowdtwist_async.emulator import Emulator

async def main():
    async with Emulator(members=1).client() as client:
        child = os.fork()
        if not child:
            try:
                await client.points_awaiting_fulfillment("10000000")
            except ClientClosedError as error:
                os._exit(0 if "fork" in str(error) else 1)
            os._exit(2)
        assert os.waitpid(child, 0)[1] == 0

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.anyio
async def test_a_client_that_is_never_closed_warns() -> None:
    """Forgetting to close is a ResourceWarning, not a silent leak."""
    client = await CrowdTwistClient(**LOCAL, transport=ScriptedTransport()).__aenter__()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        client._session.__del__()
    assert ["a CrowdTwistClient was never closed"] == [
        str(warning.message).split(":")[0] for warning in warned
    ]
    await client.aclose()
    client._session.__del__()


def test_a_client_that_could_not_be_made_warns_of_nothing() -> None:
    """An argument that is refused leaves nothing to close."""
    with pytest.raises(ConfigurationError):
        CrowdTwistClient(api_key="")
    gc.collect()


@pytest.mark.anyio
async def test_views_share_and_do_not_own() -> None:
    """A view has other options on the same client, and is neither entered nor closed."""
    transport = ScriptedTransport(OK)
    async with CrowdTwistClient(**LOCAL, transport=transport) as client:
        view = client.with_options(timeout=1.5, deadline=None, retry=RetryPolicy(max_attempts=1))
        await view.points_awaiting_fulfillment("7")
        await view.with_options(deadline=9).points_awaiting_fulfillment("7")
        await client.points_awaiting_fulfillment("7")
        assert [1.5, 1.5, 10.0] == [request.timeout for request in transport.requests]
        assert 3 == client.stats.requests == view.stats.requests
        with pytest.raises(ClientClosedError, match="view"):
            await view.aclose()
        with pytest.raises(ClientClosedError, match="view"):
            await view.__aenter__()
    with pytest.raises(ClientClosedError):
        await view.points_awaiting_fulfillment("7")


BAD_OPTIONS: dict[str, dict[str, Any]] = {
    "timeout zero": {"timeout": 0},
    "timeout infinite": {"timeout": float("inf")},
    "timeout true": {"timeout": True},
    "deadline negative": {"deadline": -1},
    "deadline nan": {"deadline": float("nan")},
    "retry a number": {"retry": 3},
    "max_in_flight zero": {"max_in_flight": 0},
    "max_in_flight true": {"max_in_flight": True},
    "budget a number": {"budget": 9_700},
    "timeout beyond reason": {"timeout": 10**400},
    "transport a text": {"transport": "aiohttp"},
    "transport without aclose": {"transport": httpx.AsyncBaseTransport},
    "http_client without send": {"http_client": type("Half", (), {"build_request": None})()},
    "environment beyond a label": {"environment": "a" * 80},
    "url with an empty label": {"api_url": "https://a..b"},
    "url with port 0": {"api_url": "https://a.example:0"},
    "http_client a text": {"http_client": "httpx"},
    "http_client synchronous": {"http_client": httpx.Client()},
    "http_client a class": {"http_client": httpx.AsyncClient},
    "transport a class": {"transport": ScriptedTransport},
    "budget a class": {"budget": RateBudget},
    "both": {"http_client": object(), "transport": ScriptedTransport()},
}


@pytest.mark.parametrize("options", BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_bad_options_are_refused_at_once(options: dict[str, Any]) -> None:
    """Every option that can't work is a ConfigurationError of the constructor."""
    with pytest.raises(ConfigurationError):
        CrowdTwistClient(**{**LOCAL, **options})


def test_repr_and_pickle() -> None:
    """The repr says where and in which state; a client is neither pickled nor copied."""
    client = CrowdTwistClient(api_key=KEY, client_id=201, environment="sb-")
    expected = (
        "<CrowdTwistClient api=https://sb-api201.crowdtwist.com pos=https://sb-pos201.crowdtwist.com new>"
    )
    assert expected == repr(client)
    signing = CrowdTwistClient(**LOCAL, signing=HmacKey(PUBLIC_KEY, PRIVATE_KEY))
    assert repr(signing).endswith(" signing new>")
    assert not leaks(repr(signing))
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="each process"):
            attempt(client)


@pytest.fixture
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("CROWDTWIST_"):
            monkeypatch.delenv(name)


@pytest.mark.usefixtures("_clean_environment")
def test_from_env_reads_every_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variables do what the arguments do; a file may hold the key."""
    (tmp_path / "key").write_text(f"{KEY}\n")
    monkeypatch.setenv("CROWDTWIST_API_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("CROWDTWIST_CLIENT_ID", "201")
    monkeypatch.setenv("CROWDTWIST_ENVIRONMENT", "de-")
    monkeypatch.setenv("CROWDTWIST_POS_URL", "https://gateway.example/pos/")
    monkeypatch.setenv("CROWDTWIST_PER_MINUTE", "120")
    client = CrowdTwistClient.from_env()
    settings = client._session.settings
    assert KEY == settings.key.reveal()
    assert ("https://de-api201.crowdtwist.com", "https://gateway.example", "/pos") == (
        settings.api.origin,
        settings.pos.origin,
        settings.pos.path,
    )
    assert isinstance(client._session.budget, RateBudget)
    assert 120 == client._session.budget.per_minute


@pytest.mark.usefixtures("_clean_environment")
def test_from_env_lets_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given in code replaces what the environment says."""
    monkeypatch.setenv("CROWDTWIST_API_KEY", "from the environment, and unusable")
    monkeypatch.setenv("CROWDTWIST_PER_MINUTE", "120")
    budget = RateBudget(7)
    client = CrowdTwistClient.from_env(api_key=KEY, client_id=5, budget=budget)
    assert KEY == client._session.settings.key.reveal()
    assert budget is client._session.budget


@pytest.mark.usefixtures("_clean_environment")
def test_from_env_keeps_the_rate_without_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """`budget=None` gives none, so the environment's rate holds."""
    monkeypatch.setenv("CROWDTWIST_PER_MINUTE", "120")
    client = CrowdTwistClient.from_env(api_key=KEY, budget=None)
    assert isinstance(client._session.budget, RateBudget)
    assert 120 == client._session.budget.per_minute


@pytest.mark.usefixtures("_clean_environment")
def test_from_env_signs_unless_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair of the environment goes with a key of the arguments; another pair, or none, replaces it."""
    monkeypatch.setenv("CROWDTWIST_HMAC_PUBLIC_KEY", PUBLIC_KEY)
    monkeypatch.setenv("CROWDTWIST_HMAC_PRIVATE_KEY", PRIVATE_KEY)
    client = CrowdTwistClient.from_env(api_key=KEY)
    assert [PUBLIC_KEY, PRIVATE_KEY] == [key.reveal() for key in client._session.settings.key_pair]
    monkeypatch.delenv("CROWDTWIST_HMAC_PRIVATE_KEY")
    for signing in (PAIR, None):
        client = CrowdTwistClient.from_env(api_key=KEY, signing=signing)
        assert signing is client._session.settings.signing


BAD_ENVIRONMENTS: dict[str, tuple[dict[str, str], str]] = {
    "no key": ({}, "CROWDTWIST_API_KEY"),
    "empty key": ({"API_KEY": ""}, "CROWDTWIST_API_KEY"),
    "two keys": ({"API_KEY": "a", "API_KEY_FILE": "b"}, "not both"),
    "no such file": ({"API_KEY_FILE": "/nowhere/key"}, "No such file"),
    "no text": ({"API_KEY_FILE": sys.executable}, "UTF-8"),
    "rate no number": ({"API_KEY": "a", "PER_MINUTE": "fast"}, "PER_MINUTE"),
    "rate zero": ({"API_KEY": "a", "PER_MINUTE": "0"}, "^CROWDTWIST_PER_MINUTE must be"),
}


@pytest.mark.usefixtures("_clean_environment")
@pytest.mark.parametrize("case", BAD_ENVIRONMENTS)
def test_from_env_says_what_is_missing(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is missing or can't work is named."""
    variables, says = BAD_ENVIRONMENTS[case]
    for name, value in variables.items():
        monkeypatch.setenv(f"CROWDTWIST_{name}", value)
    with pytest.raises(ConfigurationError, match=says):
        CrowdTwistClient.from_env()


@pytest.mark.usefixtures("_clean_environment")
def test_a_refused_key_is_in_no_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a key argument nor the environment's is a local of the traceback of its refusal."""
    monkeypatch.setenv("CROWDTWIST_API_KEY", f"{KEY}\n")
    refused: list[Callable[[], CrowdTwistClient]] = [
        lambda: CrowdTwistClient(api_key=f"{KEY} "),
        lambda: CrowdTwistClient.from_env(api_key=f"{KEY} "),
        lambda: CrowdTwistClient.from_env(),
    ]
    for make in refused:
        with pytest.raises(ConfigurationError) as caught:
            make()
        assert not leaks(str(caught.value))


@pytest.mark.anyio
async def test_arguments_are_refused_before_any_request() -> None:
    """What can't work is refused by the call itself, before the transport is asked."""
    transport = ScriptedTransport()
    async with CrowdTwistClient(**LOCAL, transport=transport) as client:
        for refused in (
            lambda: client.points_awaiting_fulfillment("7", id_type=IdType.USERNAME),
            lambda: client.points_awaiting_fulfillment(".."),
            lambda: client.user_rewards("7", page_size=0),
            lambda: client.user_purchases("7", date_start="2026-02-01", date_end="2026-01-01"),
        ):
            with pytest.raises(InvalidArgumentError):
                await refused()
        for walk in (
            lambda: client.iter_user_rewards("7", start_page=1, cursor="1:1:0:abcdef"),
            lambda: client.iter_user_purchases("7", max_items=-1),
        ):
            with pytest.raises(InvalidArgumentError):
                walk()
    assert not transport.requests


@pytest.mark.anyio
async def test_the_caller_s_own_scopes_work() -> None:
    """Cancelling a call from outside ends it, and the client goes on."""

    async def slow(_: object) -> Any:
        await anyio.sleep_forever()

    async with CrowdTwistClient(**LOCAL, transport=ScriptedTransport(slow, OK), max_in_flight=1) as client:
        with anyio.move_on_after(0.02) as scope:
            await client.points_awaiting_fulfillment("7")
        assert scope.cancelled_caught
        assert 40 == (await client.points_awaiting_fulfillment("7")).total_points_awaiting_fulfillment


@pytest.mark.anyio
async def test_no_frame_of_ours_holds_the_user() -> None:
    """Neither a failed call's traceback nor that of a refused argument shows an e-mail address."""
    user = "alice.canary@example.com"

    async def fail(_: object) -> Any:
        return ConnectionFailedError("cut")

    async with CrowdTwistClient(
        **LOCAL, transport=ScriptedTransport(fail), retry=RetryPolicy(max_attempts=1)
    ) as client:
        for call in (
            lambda: client.points_awaiting_fulfillment(user, id_type="email"),
            lambda: client.user_rewards(user, id_type="email"),
            lambda: client.user_rewards(user, id_type="email", page_size=0),
            lambda: client.user_rewards(f"{user}\n", id_type="email"),
            lambda: client.user_purchases(user, id_type="email"),
            lambda: client.user_purchases(user, id_type="email", date_start="soon"),
            lambda: client.iter_user_purchases(user, id_type="email").collect(),
            lambda: client.iter_user_rewards(user, id_type="email").first(),
        ):
            with pytest.raises(CrowdTwistError) as caught:
                await call()
            assert "canary" not in captured_locals(caught.value)


async def first_ahead(client: CrowdTwistClient) -> Any:
    """The first purchase, by prefetch."""
    async with client.iter_user_purchases("7").prefetch(2) as items:
        return await anext(aiter(items))


@pytest.mark.anyio
@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda client: client.user_purchases("7"), id="call"),
        pytest.param(lambda client: client.iter_user_purchases("7").collect(), id="walk"),
        pytest.param(first_ahead, id="prefetch"),
    ],
)
async def test_no_frame_of_ours_holds_the_error(ask: Callable[[CrowdTwistClient], Awaitable[Any]]) -> None:
    """Or error and frames, with the walk and its span, would live on until cycles are collected."""
    async with CrowdTwistClient(**LOCAL, transport=ScriptedTransport(status(404))) as client:
        with pytest.raises(CrowdTwistError) as caught:
            await ask(client)
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    ours = [frame for frame in frames if frame.f_globals["__name__"].startswith("crowdtwist_async.")]
    assert ours
    assert [] == [
        (frame.f_code.co_qualname, name)
        for frame in ours
        for name, value in frame.f_locals.items()
        if any(held is caught.value for held in (value, *gc.get_referents(value)))
    ]


@pytest.mark.anyio
async def test_statistics_outlive_the_client() -> None:
    """What was sent can be read after the block."""
    async with CrowdTwistClient(**LOCAL, transport=ScriptedTransport()) as client:
        await client.points_awaiting_fulfillment("7")
    assert (1, 0) == (client.stats.requests, client.stats.retries)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("user", "closed"), [("7", True), ("", False)], ids=["closed-client", "invalid-argument"]
)
def test_a_loop_of_calls_that_are_refused_can_be_cancelled(backend: str, user: str, closed: bool) -> None:
    """A task that swallows the errors, of ids from the wrong column, say: it would let no other run."""

    async def main() -> int:
        client = CrowdTwistClient(api_key=KEY, transport=ScriptedTransport(OK))
        calls = 0
        async with client:
            if closed:
                await client.aclose()
            with anyio.move_on_after(0.02):
                while calls < 1_000_000:
                    calls += 1
                    with suppress(ClientClosedError, InvalidArgumentError):
                        await client.points_awaiting_fulfillment(user)
        return calls

    assert 0 < anyio.run(main, backend=backend) < 1_000_000
