"""
The settings: hosts, keys, the environment's variables, and everything that is refused before any request.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from conftest import KEY, PRIVATE_KEY, PUBLIC_KEY, any_text, captured_locals, leaks
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from crowdtwist_async import ConfigurationError
from crowdtwist_async._config import (
    Base,
    Settings,
    checked_positive,
    checked_seconds,
    is_loopback,
    make_settings,
    settings_from_env,
)
from crowdtwist_async._protocol import points_call, rewards_call
from crowdtwist_async._secrets import Secret


def settings(**arguments: Any) -> Settings:
    """Settings with the key of all tests."""
    return make_settings(api_key=Secret(KEY), **arguments)


@pytest.mark.parametrize(
    ("client_id", "environment", "api", "pos"),
    [
        pytest.param(201, "", "api201", "pos201", id="us"),
        pytest.param("201", "sb-", "sb-api201", "sb-pos201", id="sandbox"),
        pytest.param("012", "sb2-", "sb2-api012", "sb2-pos012", id="leading-zero"),
        pytest.param(0, "de-", "de-api0", "de-pos0", id="zero"),
        pytest.param(None, "us2-", "us2-api", "us2-pos", id="no-client-id"),
        pytest.param("", "", "api", "pos", id="empty-client-id"),
    ],
)
def test_hosts_follow_from_environment_and_client_id(
    client_id: object, environment: str, api: str, pos: str
) -> None:
    """Every documented environment has its two hosts."""
    made = settings(client_id=client_id, environment=environment)

    assert Base(f"https://{api}.crowdtwist.com") == made.api
    assert Base(f"https://{pos}.crowdtwist.com") == made.pos
    assert f"{api}.crowdtwist.com" == made.api.host


@pytest.mark.parametrize(
    "client_id",
    [
        *(-1, 1.0, True, "20a", "201.evil.example", "201/", " 201", "201\n", "²", "1" * 21, b"201", 10**20),
        pytest.param(10**5_000, id="more digits than Python writes"),
    ],
    ids=repr,
)
def test_client_ids_are_digits(client_id: object) -> None:
    """Anything else could lead the key to another host."""
    with pytest.raises(ConfigurationError, match="^client_id must be the digits"):
        settings(client_id=client_id)


@pytest.mark.parametrize(
    "environment", ["SB-", "sb_", "evil.example/", "sb--", "-sb", "sb-\n", None, 1], ids=repr
)
def test_environments_are_host_prefixes(environment: object) -> None:
    """Anything else could lead the key to another host."""
    with pytest.raises(ConfigurationError, match="^environment must be a host prefix"):
        settings(environment=environment)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("https://gateway.example", Base("https://gateway.example"), id="host"),
        pytest.param("https://gateway.example/", Base("https://gateway.example"), id="slash"),
        pytest.param("HTTPS://Gateway.Example", Base("https://gateway.example"), id="upper-case"),
        pytest.param("https://gateway.example:443", Base("https://gateway.example"), id="default-port"),
        pytest.param("https://gateway.example:8443", Base("https://gateway.example:8443"), id="port"),
        pytest.param("https://gateway.example/ct/v1/", Base("https://gateway.example", "/ct/v1"), id="path"),
        pytest.param("https://[2001:db8::1]:8443", Base("https://[2001:db8::1]:8443"), id="ipv6"),
        pytest.param("http://127.0.0.1:8000", Base("http://127.0.0.1:8000"), id="loopback"),
        pytest.param("http://127.0.0.1:80", Base("http://127.0.0.1"), id="loopback-default-port"),
        pytest.param("http://localhost:443", Base("http://localhost:443"), id="other-scheme-port"),
        pytest.param("http://[::1]:8000", Base("http://[::1]:8000"), id="ipv6-loopback"),
    ],
)
@pytest.mark.parametrize("name", ["api", "pos"])
def test_urls_are_normalised_and_replace_one_host(name: str, url: str, expected: Base) -> None:
    """One URL changes one of the two hosts and leaves the other."""
    made = settings(client_id=201, **{f"{name}_url": url})
    other = "pos" if name == "api" else "api"

    assert expected == getattr(made, name)
    assert Base(f"https://{other}201.crowdtwist.com") == getattr(made, other)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        pytest.param("", "must look like", id="empty"),
        pytest.param("gateway.example", "must look like", id="no-scheme"),
        pytest.param("https://", "must look like", id="no-host"),
        pytest.param("https:///path", "must look like", id="path-only"),
        pytest.param("https://gate way.example", "must look like", id="space-in-host"),
        pytest.param("https://gatewäy.example", "must look like", id="non-ascii-host"),
        pytest.param("https://gateway.example:", "must look like", id="empty-port"),
        pytest.param("https://gateway.example/a b", "must look like", id="space-in-path"),
        pytest.param("https://gateway.example/%2e%2e", "must look like", id="encoded-path"),
        pytest.param("https://gateway.example/a/../b", "must look like", id="dot-dot"),
        pytest.param("https://gateway.example/./b", "must look like", id="dot"),
        pytest.param("https://gateway.example//b", "must look like", id="double-slash"),
        pytest.param("https://gateway.example:99999", "is no URL", id="port-out-of-range"),
        pytest.param("https://gateway.example:https", "is no URL", id="port-no-number"),
        pytest.param("https://[::1", "is no URL", id="open-bracket"),
        pytest.param("https://user:pass@gateway.example", "no user, query or fragment", id="user"),
        pytest.param("https://gateway.example?", "no user, query or fragment", id="query"),
        pytest.param("https://gateway.example/#", "no user, query or fragment", id="fragment"),
        pytest.param("https://gateway.example\\evil", "no user, query or fragment", id="backslash"),
        pytest.param("http://gateway.example", "must be https", id="plain-http"),
        pytest.param("http://10.0.0.1", "must be https", id="plain-http-lan"),
        pytest.param("http://localhost.evil.example", "must be https", id="looks-like-loopback"),
        pytest.param("ftp://127.0.0.1", "must be https", id="other-scheme"),
        pytest.param(b"https://gateway.example", "must be a str, not bytes", id="bytes"),
        pytest.param(1, "must be a str, not int", id="number"),
    ],
)
@pytest.mark.parametrize("argument", ["api_url", "pos_url"])
def test_urls_that_could_lose_the_key_are_refused(argument: str, url: object, said: str) -> None:
    """No plain http but to this machine, no user, no query, no path that means another one."""
    with pytest.raises(ConfigurationError, match=f"^{argument} {said}|^{argument} must have {said}"):
        settings(**{argument: url})


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("[::1]", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.168.0.1", False),
        ("example.com", False),
        ("[2001:db8::1]", False),
    ],
)
def test_loopback_is_this_machine_only(host: str, expected: bool) -> None:
    """A name is never resolved: it is this machine only as `localhost`."""
    assert expected is is_loopback(host)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        pytest.param(None, "api_key is missing", id="none"),
        pytest.param("", "api_key is empty", id="empty"),
        pytest.param(b"qwertyuiop", "api_key must be a str, not bytes", id="bytes"),
        pytest.param(81723645, "api_key must be a str, not int", id="number"),
        pytest.param("qwertyuiop\n", "api_key holds a space, a line break", id="line-feed"),
        pytest.param("qwertyuiop\r\nX: y", "api_key holds a space, a line break", id="header-injection"),
        pytest.param("qwertyuiop\x00", "api_key holds a space, a line break", id="nul"),
        pytest.param(" qwertyuiop", "api_key holds a space, a line break", id="space"),
        pytest.param("qwertyuiöp", "api_key holds a space, a line break", id="non-ascii"),
        pytest.param("q" * 4097, "api_key holds a space, a line break", id="too-long"),
    ],
)
def test_keys_that_cannot_work_are_refused_unseen(key: Any, said: str) -> None:
    """The refusal shows the key neither in its text nor in the locals of its frames."""
    secret = Secret(key)

    with pytest.raises(ConfigurationError, match=f"^{said}") as caught:
        make_settings(api_key=secret)

    shown = f"{caught.value!r}{caught.value.args}{captured_locals(caught.value)}"
    assert "qwerty" not in shown
    assert "81723645" not in shown
    assert "q" * 100 not in shown


def refusal(key: str) -> str:
    """What a refused key's error says."""
    with pytest.raises(ConfigurationError) as caught:
        make_settings(api_key=Secret(key))
    return f"{caught.value}{caught.value.args}"


@hypothesis_settings(deadline=None)
@given(st.one_of(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E)), any_text()))
@example(KEY)
@example("a&b=c#d?e/f%2F\\\"'<>;")
def test_keys_are_refused_unseen_or_sent_exactly(key: str) -> None:
    """Header and query decode to the very key; a refusal is worded without it."""
    try:
        made = make_settings(api_key=Secret(key))
    except ConfigurationError:
        assert refusal(key) in {refusal(""), refusal("\n")}
        return

    header = points_call(made, "1", "id").request(made, 1.0).headers["X-CT-Authorization"]
    request = rewards_call(made, "1", id_type="id").request(made, 1.0)
    assert f"CTApiKey {key}" == header
    assert [("id_type", "id"), ("api_key", key)] == parse_qsl(
        request.target.partition("?")[2], strict_parsing=True
    )
    assert re.fullmatch(r"api_key=([A-Za-z0-9._~-]|%[0-9A-F]{2})+", made.key_query.reveal())
    assert f"{request.path}?{request.query}&{made.key_query.reveal()}" == request.target


def test_the_repr_of_settings_shows_no_key() -> None:
    """Settings stand in frames that crash reporters print."""
    assert "Secret(***)" in repr(settings())
    assert KEY not in repr(settings())


@pytest.mark.parametrize(("given", "expected"), [(1, 1.0), (0.25, 0.25), (10**6, 1e6)], ids=str)
def test_seconds_are_positive_numbers(given: Any, expected: float) -> None:
    """Integers and floats become floats."""
    assert expected == checked_seconds(given, "timeout")


@pytest.mark.parametrize(
    "given", [0, -1, True, "1", None, float("nan"), float("inf"), float("-inf")], ids=repr
)
def test_other_seconds_are_refused(given: Any) -> None:
    """Zero, the infinite, and what is no number can't bound anything."""
    with pytest.raises(
        ConfigurationError, match="^timeout must be a positive number of seconds(, not (bool|str|NoneType))?$"
    ):
        checked_seconds(given, "timeout")


def test_positive_integers_begin_at_one() -> None:
    """One is the least."""
    assert 1 == checked_positive(1, "max_in_flight")


@pytest.mark.parametrize("given", [0, -1, True, 1.0, "1", None], ids=repr)
def test_other_positive_integers_are_refused(given: Any) -> None:
    """No slot at all would let every call wait for ever."""
    with pytest.raises(ConfigurationError, match="^max_in_flight must be an int of 1 or more$"):
        checked_positive(given, "max_in_flight")


SIGNING = ("HMAC_PUBLIC_KEY", "HMAC_PRIVATE_KEY", "HMAC_PRIVATE_KEY_FILE", "HMAC_TIMESTAMP", "HMAC_DIGEST")
VARIABLES = (
    *("API_KEY", "API_KEY_FILE", "CLIENT_ID", "ENVIRONMENT", "API_URL", "POS_URL", "PER_MINUTE"),
    *SIGNING,
)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(f"CROWDTWIST_{name}", raising=False)


def test_without_variables_nothing_is_set() -> None:
    """No key is no argument, so that one given in code counts."""
    expected = {"client_id": None, "environment": "", "api_url": None, "pos_url": None}
    assert expected == settings_from_env()


def test_every_variable_becomes_its_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and values are those of the client's arguments; the key arrives wrapped."""
    variables = {
        "CLIENT_ID": "201",
        "ENVIRONMENT": "sb-",
        "API_URL": "https://a.example",
        "POS_URL": "https://p.example",
    }
    for name, value in {**variables, "API_KEY": KEY, "PER_MINUTE": "5000.5"}.items():
        monkeypatch.setenv(f"CROWDTWIST_{name}", value)

    arguments = settings_from_env()

    assert KEY == arguments.pop("api_key").reveal()
    assert {name.lower(): value for name, value in variables.items()} | {"per_minute": 5000.5} == arguments


def test_empty_variables_count_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files and CI set variables to nothing."""
    for name in VARIABLES:
        monkeypatch.setenv(f"CROWDTWIST_{name}", "")

    expected = {"client_id": None, "environment": "", "api_url": None, "pos_url": None}
    assert expected == settings_from_env()


def test_the_key_can_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A secret's file ends with a line break, which is no part of the key."""
    (tmp_path / "key").write_text(f"{KEY}\n", encoding="utf-8")
    monkeypatch.setenv("CROWDTWIST_API_KEY_FILE", str(tmp_path / "key"))

    assert KEY == settings_from_env()["api_key"].reveal()


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        pytest.param("\n", "is empty", id="empty"),
        pytest.param(f"\ufeff{KEY}\n", "holds something else", id="byte-order-mark"),
        pytest.param(f"{KEY}\n{KEY}\n", "holds something else", id="two-lines"),
        pytest.param(f"key = {KEY}", "holds something else", id="assignment"),
    ],
)
@pytest.mark.parametrize("name", ["API_KEY_FILE", "HMAC_PRIVATE_KEY_FILE"])
def test_a_key_file_holds_the_key_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str, holds: str
) -> None:
    """The variable is named, what the file should be is said, and the key is not shown."""
    (tmp_path / "key").write_text(text, encoding="utf-8")
    monkeypatch.setenv(f"CROWDTWIST_{name}", str(tmp_path / "key"))

    said = f"^the file of CROWDTWIST_{name} {holds}: it must hold one line, the key alone, without a byte"
    with pytest.raises(ConfigurationError, match=said) as caught:
        settings_from_env()
    assert not leaks(f"{caught.value}{captured_locals(caught.value)}")


def test_a_key_given_twice_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Which one was meant would be a guess."""
    monkeypatch.setenv("CROWDTWIST_API_KEY", KEY)
    monkeypatch.setenv("CROWDTWIST_API_KEY_FILE", str(tmp_path / "key"))

    with pytest.raises(ConfigurationError, match="not both$"):
        settings_from_env()


def test_a_missing_key_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The operating system's reason is in the text."""
    monkeypatch.setenv("CROWDTWIST_API_KEY_FILE", str(tmp_path / "absent"))

    with pytest.raises(ConfigurationError, match="can't be read: No such file") as caught:
        settings_from_env()
    assert caught.value.__context__ is None


def test_a_binary_key_file_is_refused_unseen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A decoding error would hold the bytes, so it is neither cause nor context."""
    (tmp_path / "key").write_bytes(KEY.encode() + b"\xff")
    monkeypatch.setenv("CROWDTWIST_API_KEY_FILE", str(tmp_path / "key"))

    with pytest.raises(
        ConfigurationError, match="can't be read: it is no UTF-8 text: it must hold"
    ) as caught:
        settings_from_env()
    assert caught.value.__context__ is None


def test_the_key_can_be_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gives a key in code is not bothered by the environment's two."""
    monkeypatch.setenv("CROWDTWIST_API_KEY", KEY)
    monkeypatch.setenv("CROWDTWIST_API_KEY_FILE", "absent")

    assert "api_key" not in settings_from_env(with_key=False)


@pytest.mark.parametrize(
    ("switches", "formats"),
    [
        pytest.param({}, ("ms", "hex"), id="defaults"),
        pytest.param({"HMAC_TIMESTAMP": "s", "HMAC_DIGEST": "raw"}, ("s", "raw"), id="switched"),
    ],
)
def test_a_key_pair_comes_from_variables(
    monkeypatch: pytest.MonkeyPatch, switches: dict[str, str], formats: tuple[str, str]
) -> None:
    """With the switches, if they are set."""
    for name, value in {"HMAC_PUBLIC_KEY": PUBLIC_KEY, "HMAC_PRIVATE_KEY": PRIVATE_KEY, **switches}.items():
        monkeypatch.setenv(f"CROWDTWIST_{name}", value)

    signing = settings_from_env()["signing"]

    assert (PUBLIC_KEY, PRIVATE_KEY) == (signing.public_key.reveal(), signing.private_key.reveal())
    assert formats == (signing.timestamp, signing.digest)


def test_the_private_key_can_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the API key can."""
    (tmp_path / "key").write_text(f"{PRIVATE_KEY}\n", encoding="utf-8")
    monkeypatch.setenv("CROWDTWIST_HMAC_PUBLIC_KEY", PUBLIC_KEY)
    monkeypatch.setenv("CROWDTWIST_HMAC_PRIVATE_KEY_FILE", str(tmp_path / "key"))

    assert PRIVATE_KEY == settings_from_env()["signing"].private_key.reveal()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        pytest.param({"HMAC_PUBLIC_KEY": PUBLIC_KEY}, "signing takes two keys: set .*, or none", id="public"),
        pytest.param(
            {"HMAC_PRIVATE_KEY": PRIVATE_KEY}, "signing takes two keys: set .*, or none", id="private"
        ),
        pytest.param(
            {"HMAC_PUBLIC_KEY": PUBLIC_KEY, "HMAC_PRIVATE_KEY": PRIVATE_KEY, "HMAC_PRIVATE_KEY_FILE": "key"},
            "set CROWDTWIST_HMAC_PRIVATE_KEY or CROWDTWIST_HMAC_PRIVATE_KEY_FILE, not both",
            id="twice",
        ),
        pytest.param(
            {"HMAC_PUBLIC_KEY": PUBLIC_KEY, "HMAC_PRIVATE_KEY_FILE": "/nowhere/key"},
            "CROWDTWIST_HMAC_PRIVATE_KEY_FILE can't be read: No such file",
            id="no-file",
        ),
        pytest.param(
            {"HMAC_PUBLIC_KEY": f"{PUBLIC_KEY}\n", "HMAC_PRIVATE_KEY": PRIVATE_KEY},
            "CROWDTWIST_HMAC_PUBLIC_KEY .* a newline at its end",
            id="newline",
        ),
        pytest.param(
            {"HMAC_PUBLIC_KEY": PUBLIC_KEY, "HMAC_PRIVATE_KEY": PRIVATE_KEY, "HMAC_DIGEST": "base64"},
            "CROWDTWIST_HMAC_DIGEST must be 'hex' or 'raw'$",
            id="digest",
        ),
        pytest.param(
            {"HMAC_PUBLIC_KEY": PUBLIC_KEY, "HMAC_PRIVATE_KEY": PRIVATE_KEY, "HMAC_TIMESTAMP": "sec"},
            "CROWDTWIST_HMAC_TIMESTAMP must be 'ms' or 's'$",
            id="timestamp",
        ),
    ],
)
def test_variables_that_cannot_sign_are_refused_unseen(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    """Half a pair would send the key in the URL, or nothing that a server accepts."""
    for name, value in variables.items():
        monkeypatch.setenv(f"CROWDTWIST_{name}", value)

    with pytest.raises(ConfigurationError, match=f"^{said}") as caught:
        settings_from_env(with_key=False)
    assert not leaks(f"{caught.value!r}{captured_locals(caught.value)}")
    assert "signing" not in settings_from_env(with_signing=False)


def test_a_rate_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is named."""
    monkeypatch.setenv("CROWDTWIST_PER_MINUTE", "fast")

    with pytest.raises(ConfigurationError, match="^CROWDTWIST_PER_MINUTE must be a number"):
        settings_from_env()


def test_an_infinite_rate_is_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """`inf` switches pacing off."""
    monkeypatch.setenv("CROWDTWIST_PER_MINUTE", "inf")

    assert float("inf") == settings_from_env()["per_minute"]


@pytest.mark.parametrize("url", ["https://ho\nst.example", "https://ho\tst.example", " https://host.example"])
def test_white_space_in_a_url_is_not_dropped_in_silence(url: str) -> None:
    """Another host than the one that was written is never asked."""
    with pytest.raises(ConfigurationError, match="white space"):
        make_settings(api_key=Secret("k"), api_url=url)
