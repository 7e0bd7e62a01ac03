"""
HMAC signing: the signature itself, the key pair, what is sent, what an emulator accepts, and what leaks.
"""

from __future__ import annotations

import base64
import copy
import logging
import math
import pickle
import re
import shutil
import subprocess
from collections.abc import Callable
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import anyio
import pytest
from blocks import ROOT, blocks_of, emulated, python, run, shell
from carriers import Carrier, open_client, over_each
from conftest import KEY, PRIVATE_KEY, PUBLIC_KEY, captured_locals, leaks
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scripted import FakeTime, Outcome, ScriptedTransport, status
from signatures import FORMAT_IDS, FORMATS, PAIR, headers_of, is_signed
from wire import PAGE as REWARDS
from wire import Exchange, WireServer, raw, reply

from crowdtwist_async import (
    AuthenticationError,
    ConfigurationError,
    CrowdTwistClient,
    CrowdTwistError,
    HmacKey,
    IdType,
    RateBudget,
    Reply,
    Request,
    RetryPolicy,
)
from crowdtwist_async._client_options import ClientOptions
from crowdtwist_async._config import Settings, make_settings
from crowdtwist_async._protocol import Call, points_call, purchases_call, rewards_call
from crowdtwist_async._secrets import Redactor, Secret
from crowdtwist_async._send import Options, Sender
from crowdtwist_async._signing import WINDOW, sign, signature_of, string_to_sign
from crowdtwist_async.emulator import Emulator, Fault
from crowdtwist_async.emulator.server import EmulatorServer
from crowdtwist_async.emulator.transport import EmulatorTransport
from crowdtwist_async.export import export

PAGE = ROOT / "docs" / "signing.md"
LOCAL: dict[str, Any] = {"api_key": KEY, "api_url": "http://localhost:1", "pos_url": "http://localhost:1"}
NOW = 1_490_688_000.123
USER = "10000001"
AWKWARD = [
    "a b@example.com",
    "../..",
    "...",
    "a/../b",
    "é😀",
    "%2F",
    "a?x=1&y#z",
    "+1 (555) 123",
    "a+b",
    "~_-'!*",
]
"""User ids that change when they are encoded, or that a client or a server may be tempted to normalise."""
on_every_format = pytest.mark.parametrize(("timestamp", "digest"), FORMATS, ids=FORMAT_IDS)

# timestamp, URI, private key, Base64 of the hexadecimal digest, Base64 of the raw one: all made by OpenSSL 3.0.
VECTORS = [
    pytest.param(
        "1490688000123",
        "/v2.1/users/11138266/rewards?id_type=id&page=2",
        "private-1",
        "M2MxOTFlYjVjN2Q3ZDFhNzA3YzY1NWUwMjY2ZmY2ZWI4MDA2YjExNzY2YWIxNGM5OTgyY2ZjY2EwNDQ3YTI5MQ==",
        "PBketcfX0acHxlXgJm/264AGsRdmqxTJmCz8ygRHopE=",
        id="milliseconds",
    ),
    pytest.param(
        "1490688000123",
        "/v2.1/users/a%2Fb%40c.d/rewards?id_type=email",
        PRIVATE_KEY,
        "MjhlNDdlYmVkMDE1ZGNkNjNiOTEyM2E4MGRkMzEyZmUyZTI1ZGNkMTNhNWFjYTcxNmQ5OTIwMTY0YTdmMmZhOA==",
        "KOR+vtAV3NY7kSOoDdMS/i4l3NE6WspxbZkgFkp/L6g=",
        id="milliseconds-escapes",
    ),
    pytest.param(
        "1490688000",
        "/v2.1/users/11138266/rewards?id_type=id&page=2",
        PRIVATE_KEY,
        "Yzk4ZjZhMGRlMGVmYWEwNzNhOTc0NDVkYzIwZmM0NjljZDJhMTcwMmQ4NjMyZjgxYTY3ZWE3OTUzZTY2ZmEzMA==",
        "yY9qDeDvqgc6l0Rdwg/Eac0qFwLYYy+Bpn6nlT5m+jA=",
        id="seconds",
    ),
    pytest.param(
        "1490688000",
        "/v2.1/users/a%2Fb%40c.d/rewards?id_type=email",
        "private-1",
        "NzI2ODUyZTE3OGUzZTQ1NGJiZDc4NDFlMzlkNjYyMzE4MTNjZjQ3NTQwYjczYWMyNzk4NDc1MjNkYzJjMmM1Ng==",
        "cmhS4Xjj5FS714QeOdZiMYE89HVAtzrCeYR1I9wsLFY=",
        id="seconds-escapes",
    ),
]


# The signature


with_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="OpenSSL is not on every machine")
"""`.ci/run` installs it."""


def signed_by_openssl(private_key: str, text: str, digest: str) -> str:
    """The signature that OpenSSL's command makes."""
    hmac = ["openssl", "dgst", "-sha256", "-hmac", private_key]
    made = subprocess.run(
        [*hmac, "-r" if digest == "hex" else "-binary"], input=text.encode(), capture_output=True, check=True
    ).stdout
    encode = ["openssl", "base64", "-A"]
    made = made[:64] if digest == "hex" else made
    return subprocess.run(encode, input=made, capture_output=True, check=True).stdout.decode()


@pytest.mark.parametrize(("timestamp", "uri", "private_key", "of_hex", "of_raw"), VECTORS)
def test_signatures_are_the_fixed_ones(
    timestamp: str, uri: str, private_key: str, of_hex: str, of_raw: str
) -> None:
    """Both formats of both timestamps."""
    text = string_to_sign(uri, timestamp)

    assert of_hex == signature_of(HmacKey("public", private_key), text)
    assert of_raw == signature_of(HmacKey("public", private_key, digest="raw"), text)


@with_openssl
@pytest.mark.parametrize(("timestamp", "uri", "private_key", "of_hex", "of_raw"), VECTORS)
def test_openssl_agrees(timestamp: str, uri: str, private_key: str, of_hex: str, of_raw: str) -> None:
    """The fixed vectors come out of another implementation, today as well."""
    text = f"GET\n\n\n{timestamp}\n{uri}"

    assert [of_hex, of_raw] == [signed_by_openssl(private_key, text, digest) for digest in ("hex", "raw")]


@with_openssl
@on_every_format
@pytest.mark.parametrize("user", AWKWARD, ids=ascii)
def test_openssl_makes_what_is_sent(
    user: str, timestamp: Literal["ms", "s"], digest: Literal["hex", "raw"]
) -> None:
    """A whole request's headers, for every kind of user id."""
    pair = HmacKey(PUBLIC_KEY, PRIVATE_KEY, timestamp=timestamp, digest=digest)
    made = make_settings(api_key=Secret(KEY), signing=Secret(pair))._replace(wall_clock=lambda: NOW)

    request = rewards_call(made, user, id_type="username", page=2).request(made, 1.0)

    moment = {"ms": "1490688000123", "s": "1490688000"}[timestamp]
    target = f"/v2.1/users/{quote(user, safe='')}/rewards?id_type=username&page=2"
    signature = signed_by_openssl(PRIVATE_KEY, f"GET\n\n\n{moment}\n{target}", digest)
    assert target == request.target
    assert moment == request.headers["X-CT-Timestamp"]
    assert f"CTApiV2Auth {PUBLIC_KEY}:{signature}" == request.headers["X-CT-Authorization"]


def test_the_digest_is_that_of_the_standard() -> None:
    """Test case 2 of RFC 4231."""
    pair = HmacKey("public", "Jefe", digest="raw")
    expected = bytes.fromhex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
    assert base64.b64encode(expected).decode() == signature_of(pair, "what do ya want for nothing?")


@hypothesis_settings(deadline=None)
@given(
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E)),
    st.floats(0, 1e11),
    st.sampled_from(FORMATS),
)
def test_whatever_is_signed_is_verified_by_a_second_reading(
    uri: str, now: float, formats: tuple[Literal["ms", "s"], Literal["hex", "raw"]]
) -> None:
    """Any URI at any time: the timestamp is a whole number, never in the future, and the signature fits it."""
    timestamp, digest = formats
    made = sign(HmacKey(PUBLIC_KEY, PRIVATE_KEY, timestamp=timestamp, digest=digest), uri, now)

    unit = 1000 if timestamp == "ms" else 1
    assert math.floor(now * unit) == int(made.timestamp)
    assert f"CTApiV2Auth {PUBLIC_KEY}:{made.signature.reveal()}" == made.authorization.reveal()
    decoded = base64.b64decode(made.signature.reveal(), validate=True)
    assert (64 if digest == "hex" else 32) == len(decoded)


# The key pair


@pytest.mark.parametrize(
    ("public", "private", "said"),
    [
        pytest.param("", "qwertyuiop", "public_key is empty: give the pair", id="empty-public"),
        pytest.param("qwertyuiop", "", "private_key is empty: give the pair", id="empty-private"),
        pytest.param(None, "qwertyuiop", "public_key must be a str, not NoneType", id="no-public"),
        pytest.param("qwertyuiop", b"qwertyuiop", "private_key must be a str, not bytes", id="bytes"),
        pytest.param("qwerty:uiop", "qwertyuiop", "public_key .* a colon,", id="colon"),
        pytest.param("qwertyuiop\n", "x", "public_key .* a line break, a colon,", id="line-feed"),
        pytest.param("x", "qwertyuiop\r\nX: y", "private_key .* a line break, or another", id="injection"),
        pytest.param("x", " qwertyuiop", "private_key .* holds a space,", id="space"),
        pytest.param("qwertyuiöp", "x", "public_key .* another character", id="non-ascii"),
        pytest.param("x", "qwertyuiop\x00", "private_key .* another character", id="nul"),
        pytest.param("q" * 257, "x", "public_key is too long", id="long-public"),
        pytest.param("x", "q" * 4097, "private_key is too long", id="long-private"),
    ],
)
def test_pairs_that_cannot_work_are_refused_unseen(public: Any, private: Any, said: str) -> None:
    """The refusal says what to do, and shows neither key in its text nor in the locals of its frames."""
    with pytest.raises(ConfigurationError, match=f"^HmacKey's {said}") as caught:
        HmacKey(public, private)

    shown = f"{caught.value!r}{caught.value.args}{captured_locals(caught.value)}"
    assert "qwerty" not in shown
    assert "q" * 100 not in shown


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        pytest.param({"timestamp": "us"}, "timestamp must be 'ms' or 's'", id="timestamp"),
        pytest.param({"timestamp": None}, "timestamp must be 'ms' or 's'", id="no-timestamp"),
        pytest.param({"digest": "HEX"}, "digest must be 'hex' or 'raw'", id="digest"),
        pytest.param({"digest": ["hex"]}, "digest must be 'hex' or 'raw'", id="unhashable"),
    ],
)
def test_unknown_switches_are_refused(switches: dict[str, Any], said: str) -> None:
    """With what they can be."""
    with pytest.raises(ConfigurationError, match=f"^HmacKey's {said}$") as caught:
        HmacKey(PUBLIC_KEY, PRIVATE_KEY, **switches)
    assert not leaks(captured_locals(caught.value))


def test_a_colon_may_be_in_the_private_key() -> None:
    """No header holds it."""
    assert "a:b" == HmacKey("public", "a:b").private_key.reveal()


def test_a_pair_shows_its_switches_alone() -> None:
    """Neither repr, str nor its attributes show a key."""
    pair = HmacKey(PUBLIC_KEY, PRIVATE_KEY, timestamp="s", digest="raw")

    assert ["HmacKey(***, timestamp='s', digest='raw')"] * 3 == [repr(pair), str(pair), f"{pair}"]
    assert not leaks(repr([getattr(pair, name) for name in dir(pair)]))
    assert "<HmacKey refused>" == repr(object.__new__(HmacKey))


@pytest.mark.parametrize(
    "copied",
    [
        *(
            pytest.param(lambda pair, n=protocol: pickle.dumps(pair, n), id=f"pickle-{protocol}")
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
        copy.copy,
        copy.deepcopy,
    ],
)
def test_a_pair_cannot_be_pickled_or_copied(copied: Callable[[object], object]) -> None:
    """A pickle is a file somewhere, or a task on another machine."""
    with pytest.raises(TypeError, match="^a key pair can't be pickled or copied: make it in each process$"):
        copied(PAIR)


def test_a_pair_cannot_be_changed() -> None:
    """Signatures in flight are all of one pair."""
    with pytest.raises(AttributeError):
        PAIR.digest = "raw"  # type: ignore[misc] # that is the point


@pytest.mark.parametrize(
    "signing", [(PUBLIC_KEY, PRIVATE_KEY), {PUBLIC_KEY: PRIVATE_KEY}, f"{PUBLIC_KEY}:{PRIVATE_KEY}"], ids=type
)
def test_other_signing_is_refused_unseen(signing: Any) -> None:
    """A pair of plain texts is an easy mistake, and no traceback shows it."""
    said = r"^signing must be an HmacKey: HmacKey\(public_key, private_key\)$"
    with pytest.raises(ConfigurationError, match=said) as caught:
        CrowdTwistClient(**LOCAL, signing=signing)
    assert not leaks(captured_locals(caught.value))

    with pytest.raises(ConfigurationError, match=said) as from_env:
        CrowdTwistClient.from_env(**LOCAL, signing=signing)
    assert not leaks(captured_locals(from_env.value))


# What is sent


SETTINGS = make_settings(**(LOCAL | {"api_key": Secret(KEY)}), signing=Secret(PAIR))


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(points_call(SETTINGS, "7", "id"), id="points"),
        pytest.param(purchases_call(SETTINGS, "7", id_type="id"), id="purchases"),
    ],
)
def test_the_commerce_host_takes_the_key_as_ever(call: Call[Any]) -> None:
    """Signing is for the other host alone."""
    headers = call.request(SETTINGS, 1.0).headers

    assert f"CTApiKey {KEY}" == headers["X-CT-Authorization"]
    assert "X-CT-Timestamp" not in headers


def test_a_request_shows_no_signature() -> None:
    """Requests stand in frames that crash reporters print."""
    request = rewards_call(SETTINGS, "7", id_type="id").request(SETTINGS, 1.0)

    assert request.signed is not None
    signature = request.signed.signature.reveal()
    assert signature in request.headers["X-CT-Authorization"]
    assert signature not in f"{request!r}{vars(request)!r}{SETTINGS!r}"
    assert not leaks(f"{request!r}{vars(request)!r}{SETTINGS!r}{request.url}")


def test_a_gateways_path_is_signed_as_it_is_sent() -> None:
    """What is signed begins with the base path."""
    made = make_settings(
        api_key=Secret(KEY), api_url="https://gateway.example/ct/v1", signing=Secret(PAIR)
    )._replace(wall_clock=lambda: NOW)
    request = rewards_call(made, "7", id_type="id").request(made, 1.0)

    assert "/ct/v1/v2.1/users/7/rewards?id_type=id" == request.target
    assert sign(PAIR, request.target, NOW).signature.reveal() in request.headers["X-CT-Authorization"]


def sender_over(
    *outcomes: Outcome, time: FakeTime, wall_clock: Callable[[], float] | None = None
) -> tuple[Sender, ScriptedTransport]:
    """A sender of signed requests on a fake clock, and the transport that plays the replies."""
    transport = ScriptedTransport(*outcomes)
    settings: Settings = SETTINGS._replace(wall_clock=wall_clock or time.clock)
    budget = RateBudget(math.inf, 1, clock=time.clock)
    return Sender(settings, transport, budget, 64, clock=time.clock, sleep=time.sleep), transport


def options(retry: RetryPolicy | None = None) -> Options:
    """Without a deadline."""
    return Options(timeout=10.0, deadline=None, retry=retry or RetryPolicy(max_attempts=1))


CALL = rewards_call(SETTINGS, "7", id_type="id")


@pytest.mark.anyio
async def test_every_attempt_has_its_own_timestamp() -> None:
    """A retry after a long pause is signed when it is sent."""
    time = FakeTime()
    sender, transport = sender_over(
        status(503, retry_after="100"), status(429, retry_after="50"), status(200, REWARDS), time=time
    )

    await sender.send(CALL, options(RetryPolicy(max_attempts=3)))

    stamps = [request.headers["X-CT-Timestamp"] for request in transport.requests]
    signatures = {request.headers["X-CT-Authorization"] for request in transport.requests}
    assert "1000000" == stamps[0]
    assert [100, 50] == [round((int(b) - int(a)) / 1000) for a, b in pairwise(stamps)]
    assert 3 == len(signatures)


@pytest.mark.anyio
async def test_a_replaced_connection_is_signed_anew() -> None:
    """An attempt that does not count has a signature of its own as well."""
    seen: list[bytes] = []

    def closing(exchange: Exchange) -> None:
        seen.append(exchange.head)
        raw(reset=True)(exchange)

    with WireServer(reply(REWARDS), closing, reply(REWARDS)) as server:
        async with CrowdTwistClient(
            api_key=KEY, api_url=server.url, signing=PAIR, retry=RetryPolicy(max_attempts=1)
        ) as client:
            await client.user_rewards("7")
            await client.user_rewards("7")
        assert 3 == len(server.heads)
        assert all(map(is_signed, server.heads))
        assert [server.heads[1]] == seen


@pytest.mark.anyio
@over_each
async def test_what_is_signed_is_what_is_on_the_wire(carrier: Carrier) -> None:
    """Every byte of the target, for every kind of user id; and the commerce host is not signed."""
    with WireServer(reply(REWARDS)) as server, WireServer() as pos:
        async with open_client(carrier, server.url, pos_url=pos.url, signing=PAIR) as client:
            for number, user in enumerate(AWKWARD):
                await client.user_rewards(user, id_type=IdType.USERNAME, page=number, include_soldout=True)
            await client.points_awaiting_fulfillment("7")
        assert [
            f"/v2.1/users/{quote(user, safe='')}/rewards?id_type=username&include_soldout=true&page={number}"
            for number, user in enumerate(AWKWARD)
        ] == server.targets
        assert all(map(is_signed, server.heads))
        [head] = pos.heads
        assert f"CTApiKey {KEY}" == headers_of(head)["x-ct-authorization"]
        assert b"x-ct-timestamp" not in head.lower()


@pytest.mark.anyio
@over_each
@on_every_format
async def test_the_emulator_verifies_over_a_socket(
    carrier: Carrier, timestamp: Literal["ms", "s"], digest: Literal["hex", "raw"]
) -> None:
    """In every format, with another key in the URL's place that would be refused."""
    pair = HmacKey(PUBLIC_KEY, PRIVATE_KEY, timestamp=timestamp, digest=digest)
    emulator = Emulator(members=3, signing=pair)
    async with EmulatorServer(emulator) as server:
        async with open_client(carrier, server.url, signing=pair) as client:
            page = await client.user_rewards("member10000001@example.com", id_type="email")
            for user in ("../..", "a b", "é/😀"):
                with pytest.raises(CrowdTwistError, match="does not exist"):
                    await client.user_rewards(user, id_type="username")
            with pytest.raises(AuthenticationError):
                await client.points_awaiting_fulfillment(USER)
    assert emulator.rewards_of(USER) == page.total


# What a refusal says


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("date", "said"),
    [
        pytest.param(None, "that this machine's clock is right to 15 minutes", id="no-date"),
        pytest.param("soon", "that this machine's clock is right to 15 minutes", id="unreadable"),
        pytest.param(
            formatdate(NOW + 899, usegmt=True), "that this machine's clock is right to 15 minutes", id="near"
        ),
        pytest.param(
            formatdate(NOW + 1200, usegmt=True),
            "this machine's clock, which is 20 minutes behind the server's",
            id="behind",
        ),
        pytest.param(
            formatdate(NOW - 90_000, usegmt=True),
            "this machine's clock, which is 1,500 minutes ahead of the server's",
            id="ahead",
        ),
    ],
)
@pytest.mark.parametrize("code", [401, 403])
async def test_a_refused_signature_says_what_to_check(date: str | None, said: str, code: int) -> None:
    """The clock, with the server's where it differs, the pair and the switches; and nothing is retried."""
    headers = {} if date is None else {"date": date}
    refused = status(code, b'{"error": "invalid_auth", "message": "no"}', **headers)
    sender, transport = sender_over(refused, time=FakeTime(), wall_clock=lambda: NOW)

    with pytest.raises(AuthenticationError) as caught:
        await sender.send(CALL, options(RetryPolicy()))

    assert (
        f"{code} invalid_auth: no (the request was signed: check {said}, that the HMAC key pair is this"
        " program's and signing is switched on for it, HmacKey's timestamp and digest"
        " (CROWDTWIST_HMAC_TIMESTAMP and _DIGEST), and that no gateway changes the path)"
    ) == caught.value.reason
    assert ("invalid_auth", "no", code, 1) == (
        caught.value.code,
        caught.value.message,
        caught.value.status,
        caught.value.attempts,
    )
    assert 1 == len(transport.requests)
    assert caught.value.reason == pickle.loads(pickle.dumps(caught.value)).reason


@pytest.mark.anyio
async def test_a_refused_key_says_nothing_of_signatures() -> None:
    """On the commerce host."""
    sender, _ = sender_over(status(403, b'{"reason": "invalid_auth"}'), time=FakeTime())

    with pytest.raises(AuthenticationError, match=r"^403 invalid_auth \(check the API key, ") as caught:
        await sender.send(points_call(SETTINGS, "7", "id"), options())
    assert "signed" not in str(caught.value)


# What an emulator accepts


def rewards_request(
    pair: HmacKey | None, now: float = NOW, *, key: str = "", user: str = USER, **changed: str
) -> Request:
    """A request for rewards, signed at a time, with a key in its URL, or both."""
    query = f"id_type=id&api_key={key}" if key else "id_type=id"
    request = Request("user_rewards", "http://localhost", f"/v2.1/users/{user}/rewards", query)
    if pair is not None:
        request.signed = sign(pair, changed.get("uri", request.target), now)
    if "timestamp" in changed:
        assert request.signed is not None
        request.signed = request.signed._replace(timestamp=changed["timestamp"])
    return request


def status_of(emulator: Emulator, request: Request) -> tuple[int, bytes]:
    """What the emulator answers in process: the status, and the body of a refusal."""

    async def send() -> Reply | CrowdTwistError:
        return await emulator.transport().send(request)

    got = anyio.run(send)
    assert isinstance(got, Reply)
    return got.status, b"" if got.status == 200 else got.body


WELCOME = (200, b"")
REFUSED = (403, b'{"error": "invalid_auth", "message": "Invalid access credentials."}')


def verifying(pair: HmacKey = PAIR, now: float = NOW) -> Emulator:
    """An emulator whose clock stands still."""
    return Emulator(members=3, signing=pair, api_key="k", wall_clock=lambda: now)


@pytest.mark.parametrize(
    ("signed_at", "expected"),
    [
        pytest.param(2e9, WELCOME, id="now"),
        pytest.param(2e9 - WINDOW, WELCOME, id="oldest"),
        pytest.param(2e9 + WINDOW, WELCOME, id="newest"),
        pytest.param(2e9 - WINDOW - 1, REFUSED, id="too-old"),
        pytest.param(2e9 + WINDOW + 1, REFUSED, id="too-new"),
        pytest.param(0, REFUSED, id="1970"),
    ],
)
@on_every_format
def test_timestamps_count_for_15_minutes(
    signed_at: float,
    expected: tuple[int, bytes],
    timestamp: Literal["ms", "s"],
    digest: Literal["hex", "raw"],
) -> None:
    """Both ways, to the second, in either unit."""
    pair = HmacKey(PUBLIC_KEY, PRIVATE_KEY, timestamp=timestamp, digest=digest)
    assert expected == status_of(verifying(pair, 2e9), rewards_request(pair, signed_at))


@pytest.mark.parametrize("theirs", FORMATS, ids=FORMAT_IDS)
@pytest.mark.parametrize("ours", FORMATS, ids=FORMAT_IDS)
def test_the_formats_must_be_the_same(
    ours: tuple[Literal["ms", "s"], Literal["hex", "raw"]],
    theirs: tuple[Literal["ms", "s"], Literal["hex", "raw"]],
) -> None:
    """Each of the four is refused where another is expected."""
    expecting, sending = (
        HmacKey(PUBLIC_KEY, PRIVATE_KEY, timestamp=timestamp, digest=digest)
        for timestamp, digest in (theirs, ours)
    )
    expected = WELCOME if ours == theirs else REFUSED
    assert expected == status_of(verifying(expecting), rewards_request(sending))


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(rewards_request(HmacKey("another", PRIVATE_KEY)), id="public-key"),
        pytest.param(rewards_request(HmacKey(PUBLIC_KEY, "another")), id="private-key"),
        pytest.param(rewards_request(HmacKey(PUBLIC_KEY[:-1], PRIVATE_KEY)), id="shorter-public-key"),
        pytest.param(rewards_request(PAIR, uri="/v2.1/users/8/rewards?id_type=id"), id="another-uri"),
        pytest.param(rewards_request(PAIR, timestamp="1490688000124"), id="another-timestamp"),
        pytest.param(rewards_request(PAIR, timestamp=""), id="no-timestamp"),
        pytest.param(rewards_request(PAIR, timestamp="1e12"), id="no-number"),
        pytest.param(rewards_request(PAIR, timestamp="9" * 400), id="endless-timestamp"),
        pytest.param(rewards_request(HmacKey(PUBLIC_KEY, "another"), key="k"), id="key-beside-a-wrong-one"),
        pytest.param(rewards_request(None), id="nothing"),
        pytest.param(rewards_request(None, key="another"), id="another-key"),
    ],
)
def test_whatever_is_wrong_is_refused(request_: Request) -> None:
    """In the endpoint's own words; a wrong signature also beside the right key."""
    assert REFUSED == status_of(verifying(), request_)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(rewards_request(PAIR), id="signature"),
        pytest.param(rewards_request(None, key="k"), id="key"),
        pytest.param(rewards_request(PAIR, key="k"), id="both"),
        pytest.param(rewards_request(PAIR, key="another"), id="signature-beside-another-key"),
    ],
)
def test_a_key_or_a_signature_gets_in(request_: Request) -> None:
    """Where there is a signature, it decides."""
    assert WELCOME == status_of(verifying(), request_)


def test_without_a_pair_no_signature_counts() -> None:
    """And the key is accepted as ever, also beside one."""
    emulator = Emulator(members=3, api_key="k")

    assert REFUSED == status_of(emulator, rewards_request(PAIR))
    assert WELCOME == status_of(emulator, rewards_request(PAIR, key="k"))


def test_the_commerce_host_takes_no_signature() -> None:
    """Signed purchases are refused."""
    request = Request("user_purchases", "http://localhost", f"/users/{USER}/purchases", "id_type=id")
    request.signed = sign(PAIR, request.target, NOW)

    assert 403 == status_of(verifying(), request)[0]


# Everything together


class Recording(EmulatorTransport):
    """The emulator in process, and what it was asked."""

    def __init__(self, emulator: Emulator) -> None:
        super().__init__(emulator)
        self.requests: list[Request] = []

    async def send(self, request: Request, /) -> Reply | CrowdTwistError:
        """Note the request."""
        self.requests.append(request)
        return await super().send(request)


def signed_client(emulator: Emulator, **further: Any) -> tuple[CrowdTwistClient, list[Request]]:
    """A client that gets rewards by its signatures alone: its key is refused."""
    transport = Recording(emulator)
    return emulator.client(api_key=KEY, transport=transport, **further), transport.requests


@pytest.mark.anyio
async def test_walks_prefetch_fan_out_and_views_are_signed() -> None:
    """Every request of each; faults in between cost nothing."""
    emulator = Emulator(
        members=5, signing=PAIR, faults=[None, Fault.status(503), Fault.reset(), Fault.truncate()]
    )
    client, requests = signed_client(emulator, retry=RetryPolicy(initial=0))
    count = emulator.rewards_of(USER)
    async with client:
        walked = [reward async for reward in client.iter_user_rewards(USER)]
        backward = await client.iter_user_rewards(USER, reverse=True).collect()
        prefetched = await client.iter_user_rewards(USER).collect(prefetch=4)
        seen = await client.with_options(timeout=5).user_rewards(USER)
        async with client.fan_out(client.iter_user_rewards, emulator.member_ids()) as outcomes:
            fanned = {outcome.key: len(outcome.unwrap()) async for outcome in outcomes}
    assert walked == prefetched == backward[::-1]
    assert count == len(walked) == seen.total
    assert {user: emulator.rewards_of(user) for user in emulator.member_ids()} == fanned
    assert all(request.signed for request in requests)
    assert not [request.target for request in requests if "api_key" in request.target]


def files_in(folder: Path) -> list[Path]:
    """An output and what lies beside it."""
    return list(folder.iterdir())


@pytest.mark.anyio
async def test_exports_are_signed(tmp_path: Path) -> None:
    """Every row arrives, and no file holds a key."""
    emulator = Emulator(members=5, signing=PAIR)
    client, requests = signed_client(emulator)
    async with client:
        report = await export(client, "rewards", list(emulator.member_ids()), tmp_path / "out.jsonl")
    assert "complete" == report.status
    lines = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert sum(map(emulator.rewards_of, emulator.member_ids())) == len(lines)
    assert all(request.signed for request in requests)
    assert not [path for path in files_in(tmp_path) if leaks(path.read_bytes().decode("latin-1"))]


@pytest.mark.anyio
async def test_an_emulators_client_signs_unless_told_not_to() -> None:
    """`signing=None` asks with the key."""
    emulator = Emulator(members=3, signing=PAIR, api_key=KEY)
    for signs in (True, False):
        transport = Recording(emulator)
        given: ClientOptions = {"transport": transport}
        if not signs:
            given["signing"] = None
        async with emulator.client(**given) as client:
            await client.user_rewards(USER)
        assert [signs] == [request.signed is not None for request in transport.requests]
        assert [not signs] == ["api_key=" in request.target for request in transport.requests]


# What leaks


ECHOES: dict[str, Callable[[str], str]] = {
    "header": lambda signature: f"X-CT-Authorization: CTApiV2Auth {PUBLIC_KEY}:{signature} is wrong",
    "encoded": lambda signature: quote(f"CTApiV2Auth {PUBLIC_KEY}:{signature}", safe=""),
    "public-key": lambda _: f"no private key for {PUBLIC_KEY}",
    "private-key": lambda _: f"used {PRIVATE_KEY} and {quote(PRIVATE_KEY, safe='')}",
    "signature": lambda signature: f"got {signature} or {quote(signature, safe='')}",
    "slashes": lambda signature: f"{PUBLIC_KEY}:{signature}".replace("/", "\\/"),
}


@pytest.mark.anyio
@pytest.mark.parametrize("digest", ["hex", "raw"])
@pytest.mark.parametrize("echo", ECHOES)
async def test_a_server_that_echoes_keys_and_signatures(echo: str, digest: Literal["hex", "raw"]) -> None:
    """Nothing that the error keeps, and no captured local, holds one."""
    pair = HmacKey(PUBLIC_KEY, PRIVATE_KEY, digest=digest)
    settings = SETTINGS._replace(signing=pair)
    signatures: list[str] = []

    async def echoing(request: Request) -> Reply:
        assert request.signed is not None
        signatures.append(request.signed.signature.reveal())
        said = ECHOES[echo](signatures[-1]).replace("\\", "\\\\")
        body = f'{{"error": "invalid_auth {said}", "message": "{said}", "errors": [{{"reason": "{said}"}}]}}'
        return status(403, body.encode())

    sender = Sender(settings, ScriptedTransport(echoing), RateBudget(math.inf), 1)
    with pytest.raises(AuthenticationError) as caught:
        await sender.send(CALL, options())

    shown = f"{caught.value}{vars(caught.value)}{captured_locals(caught.value)}{pickle.dumps(caught.value)!r}"
    assert "***" in shown
    assert not leaks(shown)
    [signature] = signatures
    for form in (signature, quote(signature, safe=""), quote(signature), signature.replace("/", "\\/")):
        assert form not in shown


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param("CTApiV2Auth pub:c2ln+/== no", "CTApiV2Auth *** no", id="header"),
        pytest.param("'CTApiV2Auth pub:c2ln'", "'CTApiV2Auth ***'", id="quoted"),
        pytest.param('"CTApiV2Auth p\'u,b:c2ln", 1', '"CTApiV2Auth ***", 1', id="marks-in-the-public-key"),
        pytest.param("CTApiV2Auth%20pub%3ac2ln%2B%3D&x", "CTApiV2Auth%20***&x", id="encoded"),
        pytest.param("CTApiV2Auth+pub%3Ac2ln&x", "CTApiV2Auth+***&x", id="plus"),
        pytest.param("CTApiV2Auth is missing: no", "CTApiV2Auth is missing: no", id="the-word-alone"),
    ],
)
def test_signatures_are_masked_where_signatures_stand(said: str, expected: str) -> None:
    """Behind `CTApiV2Auth` stands one, be it another pair's."""
    assert expected == Redactor(Secret(KEY), (), (Secret(PUBLIC_KEY),))(said)


@pytest.mark.anyio
async def test_nothing_of_a_signed_call_leaks(caplog: pytest.LogCaptureFixture) -> None:
    """No log at DEBUG, no repr, no error, no captured local: not after retries, nor with headers that echo."""
    caplog.set_level(logging.DEBUG)

    def echoing(exchange: Exchange) -> None:
        sent = headers_of(exchange.head)["x-ct-authorization"]
        reply(REWARDS, headers=[f"X-Got: {sent}", f"X-Used: {PUBLIC_KEY} {PRIVATE_KEY}"])(exchange)

    acts = (reply(b"{}", "503 Nope"), raw(reset=True), reply(b'{"error": "invalid_auth"}', "403 No"))
    with WireServer(echoing, *acts) as server:
        async with CrowdTwistClient(
            api_key=KEY, api_url=server.url, signing=PAIR, retry=RetryPolicy(initial=0)
        ) as client:
            await client.user_rewards("7")
            with pytest.raises(AuthenticationError) as caught:
                await client.with_options(timeout=5).user_rewards("7")
            assert not leaks(repr(client))
        sent = [headers_of(head)["x-ct-authorization"].rpartition(":")[2] for head in server.heads]
    shown = f"{caplog.text}{caught.value}{captured_locals(caught.value)}"
    assert "attempt 3" in caplog.text
    assert "b'X-Got', b'***'" in caplog.text
    assert not leaks(shown)
    assert 4 == len(sent)
    assert not [signature for signature in sent if signature in shown]


@pytest.mark.anyio
async def test_a_cancelled_signed_call_leaks_nothing() -> None:
    """What passes through the frames that sign has their locals no more."""

    async def cancelled(_: Request) -> Reply:
        raise KeyboardInterrupt

    sender, _ = sender_over(cancelled, time=FakeTime())
    with pytest.raises(KeyboardInterrupt) as caught:
        await sender.send(CALL, options())
    assert not leaks(captured_locals(caught.value))


# The page


def test_all_blocks_of_the_page_run(tmp_path: Path) -> None:
    """Signatures alone get them in: the key of the environment is another."""
    account = {
        "CROWDTWIST_API_KEY": "another-key",
        "CROWDTWIST_HMAC_PUBLIC_KEY": PUBLIC_KEY,
        "CROWDTWIST_HMAC_PRIVATE_KEY": PRIVATE_KEY,
    }
    blocks = [block for block in blocks_of(PAGE) if block.language]
    assert {"python", "sh"} == {block.language for block in blocks}
    with emulated(tmp_path, signing=PAIR) as environment:
        for block in blocks:
            make = {"python": python, "sh": shell}[block.language]
            ran = run(make(block.text), environment | account, tmp_path)
            assert (0, "") == (ran.returncode, ran.stderr), ran.stderr
            assert ran.stdout
            assert not leaks(ran.stdout)


def test_the_page_names_every_variable_and_switch() -> None:
    """Those of the package, and no others."""
    text = PAGE.read_text()
    source = (ROOT / "crowdtwist_async" / "client.py").read_text()
    variables = set(re.findall(r"CROWDTWIST_HMAC_[A-Z_]+", source))

    assert variables == set(re.findall(r"CROWDTWIST_HMAC_[A-Z_]+", text))
    assert all(f'`{name}="{value}"`' in text for name, value in [("timestamp", "s"), ("digest", "raw")])
