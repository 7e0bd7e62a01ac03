"""
The three endpoints without I/O: what is sent for which arguments, and what a page holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from conftest import KEY, any_text, leaks
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from crowdtwist_async import IdType, InvalidArgumentError, Request
from crowdtwist_async._config import make_settings
from crowdtwist_async._protocol import (
    POINTS,
    PURCHASES,
    REWARDS,
    Call,
    Endpoint,
    empty_page,
    entries_of,
    has_entries,
    page_in_link,
    points_call,
    purchases_call,
    rewards_call,
)
from crowdtwist_async._secrets import Secret

SETTINGS = make_settings(api_key=Secret(KEY), client_id=201, environment="sb-")
GATEWAY = make_settings(
    api_key=Secret(KEY), api_url="https://gateway.example/ct/api", pos_url="http://localhost:8000/pos"
)
ENDPOINTS = {"points": POINTS, "rewards": REWARDS, "purchases": PURCHASES}


def points(user_id: Any = "332170040", id_type: Any = "id") -> Call[Any]:
    """A call for points."""
    return points_call(SETTINGS, user_id, id_type)


def rewards(user_id: Any = "332170040", **arguments: Any) -> Call[Any]:
    """A call for rewards."""
    return rewards_call(SETTINGS, user_id, **{"id_type": "id", **arguments})


def purchases(user_id: Any = "332170040", **arguments: Any) -> Call[Any]:
    """A call for purchases."""
    return purchases_call(SETTINGS, user_id, **{"id_type": "id", **arguments})


def sent(call: Call[Any]) -> Request:
    """What goes out for a call."""
    return call.request(SETTINGS, 10.0)


def parameters(call: Call[Any]) -> dict[str, str]:
    """The query without the key."""
    return dict(parse_qsl(sent(call).query, strict_parsing=True)) if sent(call).query else {}


MAKERS: list[Any] = [
    pytest.param(points, id="points"),
    pytest.param(rewards, id="rewards"),
    pytest.param(purchases, id="purchases"),
]


def test_ruling_1_points_take_a_crowdtwist_id_in_the_path() -> None:
    """No query is needed then."""
    request = sent(points("11138266"))
    assert "https://sb-pos201.crowdtwist.com/fulfillment/users/11138266" == request.url


@pytest.mark.parametrize(
    ("id_type", "user_id", "expected"),
    [
        ("email", "test@crowdtwist.com", {"email_address": "test@crowdtwist.com"}),
        ("mobile_phone_number", "5551239687", {"mobile_phone_number": "5551239687"}),
        ("third_party_id", "97843", {"third_party_id": "97843"}),
        ("email", "a+b&c=d@example.com", {"email_address": "a+b&c=d@example.com"}),
    ],
)
def test_ruling_1_points_take_other_ids_in_the_query(
    id_type: str, user_id: str, expected: dict[str, str]
) -> None:
    """The path has no id then, and there is no `id_type`."""
    call = points(user_id, id_type)
    assert "/fulfillment/users" == sent(call).path
    assert expected == parameters(call)


def test_rewards_are_asked_for_on_the_api_host() -> None:
    """The key stands in the query there, and in no header."""
    request = sent(rewards("test@test.com", id_type="email", page=2, page_size=5, include_soldout=True))
    parts = urlsplit(request.url)

    assert "https://sb-api201.crowdtwist.com" == request.origin
    assert "/v2.1/users/test%40test.com/rewards" == parts.path
    assert {
        "id_type": "email",
        "page": "2",
        "page_size": "5",
        "include_soldout": "true",
        "api_key": KEY,
    } == dict(parse_qsl(parts.query, strict_parsing=True))
    assert "X-CT-Authorization" not in request.headers


def test_purchases_are_asked_for_on_the_pos_host() -> None:
    """The key stands in a header there, behind one space, and not in the URL."""
    call = purchases(id_type="id", page=1, date_start="2022-01-01", date_end=date(2022, 1, 12))
    request = sent(call)

    assert "https://sb-pos201.crowdtwist.com" == request.origin
    assert "/users/332170040/purchases" == request.path
    assert {
        "id_type": "id",
        "page": "1",
        "date_start": "2022-01-01",
        "date_end": "2022-01-12",
    } == parameters(call)
    assert f"CTApiKey {KEY}" == request.headers["X-CT-Authorization"]
    assert not leaks(request.url)


@pytest.mark.parametrize("make", [rewards, purchases], ids=["rewards", "purchases"])
def test_only_what_was_given_is_sent(make: Callable[..., Call[Any]]) -> None:
    """The server's own defaults hold for the rest."""
    assert {"id_type": "id"} == parameters(make())


@pytest.mark.parametrize(
    ("given_size", "sent_size"), [(1, "1"), (10, "10"), (11, "10"), (10**9, "10")], ids=str
)
def test_ruling_22_page_sizes_are_capped(given_size: int, sent_size: str) -> None:
    """What is sent is also what a walk reckons with."""
    call = rewards(page_size=given_size)
    assert sent_size == parameters(call)["page_size"]
    assert int(sent_size) == call.page_size


def test_without_a_page_size_a_page_holds_ten() -> None:
    """It is the server's default and its most."""
    assert (10, 10) == (rewards().page_size, purchases().page_size)


@pytest.mark.parametrize(("flag", "expected"), [(True, "true"), (False, "false"), (None, None)], ids=str)
def test_sold_out_rewards_are_a_flag(flag: bool | None, expected: str | None) -> None:
    """`False` is sent; not given is not sent."""
    assert expected == parameters(rewards(include_soldout=flag)).get("include_soldout")


@pytest.mark.parametrize("page", [1, 0, -1, 10**9], ids=str)
@pytest.mark.parametrize("make", [rewards, purchases], ids=["rewards", "purchases"])
def test_rulings_20_and_21_any_integer_is_a_page(make: Callable[..., Call[Any]], page: int) -> None:
    """The server has rules for pages out of range, so they are sent as asked."""
    assert str(page) == parameters(make(page=page))["page"]
    assert page == make(page=page).page


def test_the_page_of_a_call_without_a_query_is_its_first_parameter() -> None:
    """No ampersand stands alone."""
    assert "page=3" == sent(points().at_page(3)).query


def test_another_page_of_a_call_is_the_same_call() -> None:
    """Only the page differs, also from a page that was given."""
    call = rewards("alice@example.com", id_type="email", page=1, page_size=5)

    assert {**parameters(call), "page": "7"} == parameters(call.at_page(7))
    assert sent(call).path == sent(call.at_page(7)).path
    assert 1 == call.page


def test_ruling_2_a_link_never_leads_to_another_host() -> None:
    """Only the sample link's page number is used; host, path, user and key are the call's own."""
    page = page_in_link("https://api[client_id].ct.com/v2.1/rewards?page=2&api_key=")
    assert page is not None

    url = sent(rewards("alice@example.com", id_type="email").at_page(page)).url
    assert url.startswith("https://sb-api201.crowdtwist.com/v2.1/users/alice%40example.com/rewards?")
    assert ("page", "2") in parse_qsl(urlsplit(url).query)


def test_a_gateways_path_stands_before_the_apis() -> None:
    """Both hosts can be elsewhere."""
    calls: list[Call[Any]] = [points_call(GATEWAY, "1", "id"), rewards_call(GATEWAY, "1", id_type="id")]

    assert [
        "http://localhost:8000/pos/fulfillment/users/1",
        "https://gateway.example/ct/api/v2.1/users/1/rewards",
    ] == [call.request(GATEWAY, 1.0).url.partition("?")[0] for call in calls]
    assert ["localhost:8000", "gateway.example"] == [call.request(GATEWAY, 1.0).host for call in calls]


@pytest.mark.parametrize("make", MAKERS)
def test_a_request_lasts_as_long_as_it_is_told(make: Callable[..., Call[Any]]) -> None:
    """The seconds of one attempt and the endpoint's name go along."""
    call = make()
    assert (2.5, call.endpoint.name) == (call.request(SETTINGS, 2.5).timeout, sent(call).endpoint)


@pytest.mark.parametrize("make", MAKERS)
def test_reprs_show_neither_key_nor_user(make: Callable[..., Call[Any]]) -> None:
    """Calls and requests stand in frames that crash reporters print."""
    call = make("alice@example.com", id_type="email")
    shown = f"{call!r} {sent(call)!r}"

    assert not leaks(shown)
    assert "alice" not in shown


@pytest.mark.parametrize(
    ("make", "taken"),
    [
        pytest.param(points, {"id", "email", "third_party_id", "mobile_phone_number"}, id="points"),
        pytest.param(rewards, {id_type.value for id_type in IdType}, id="rewards"),
        pytest.param(purchases, {"id", "email", "third_party_id", "mobile_phone_number"}, id="purchases"),
    ],
)
def test_each_endpoint_takes_its_own_id_types(make: Callable[..., Call[Any]], taken: set[str]) -> None:
    """The tables of the reference say which; the others are refused before any request."""

    def takes(id_type: str) -> bool:
        try:
            return id_type == make("1", id_type=id_type).id_type
        except InvalidArgumentError:
            return False

    assert taken == {id_type.value for id_type in IdType if takes(id_type.value)}
    assert not takes("loyalty_card")


@pytest.mark.parametrize(
    ("make", "arguments", "said"),
    [
        pytest.param(rewards, {"page_size": 0}, "page_size must be 1 or more", id="page-size-0"),
        pytest.param(rewards, {"page_size": -1}, "page_size must be 1 or more", id="page-size-negative"),
        pytest.param(rewards, {"page_size": True}, "page_size must be an int", id="page-size-true"),
        pytest.param(rewards, {"page_size": "10"}, "page_size must be an int", id="page-size-text"),
        pytest.param(rewards, {"page": "2"}, "page must be an int", id="rewards-page-text"),
        pytest.param(purchases, {"page": 1.0}, "page must be an int", id="purchases-page-float"),
        pytest.param(purchases, {"page": True}, "page must be an int", id="purchases-page-true"),
        pytest.param(rewards, {"include_soldout": "true"}, "include_soldout must be True", id="soldout-text"),
        pytest.param(purchases, {"date_start": "yesterday"}, "date_start must be a date", id="no-date"),
        pytest.param(
            purchases,
            {"date_start": "2026-01-02", "date_end": "2026-01-01"},
            "date_end is before date_start",
            id="ruling-23-reversed",
        ),
        pytest.param(
            points, {"user_id": ".."}, "user_id is '.' or '..', which would change the path", id="dot-dot"
        ),
        pytest.param(rewards, {"user_id": ""}, "user_id is empty or blank", id="empty"),
        pytest.param(purchases, {"user_id": "1\r\n2"}, "user_id holds a control character", id="line-break"),
    ],
)
def test_arguments_are_refused_before_any_request(
    make: Callable[..., Call[Any]], arguments: dict[str, Any], said: str
) -> None:
    """No call is made of arguments that can't work."""
    with pytest.raises(InvalidArgumentError, match=f"^{re.escape(said)}"):
        make(**arguments)


HARD_IDS = [
    "/",
    "a/../b",
    "%2F",
    "%",
    "%%20",
    "+",
    "a+b",
    "?",
    "#",
    ";x=y",
    " ",
    "a b",
    "é",
    "漢字",
    "\u200f",
    "x" * 2048,
]


@hypothesis_settings(deadline=None, max_examples=300)
@given(any_text() | st.text(st.characters(categories=["Cs", "Cc", "Zl", "Zp", "Zs"])) | st.integers())
@example(".")
@example("..")
@example("...")
@example("\ud800")
@example("a/../b%2F?x=1#f;p=q&r +")
def test_any_user_id_is_refused_or_sent_exactly(user_id: str | int) -> None:
    """The path decodes to the very id, and the id adds no slash, no query and no fragment to it."""
    for make in (points, rewards, purchases):
        said = refusal(make, user_id)
        if said is None:
            assert_sent_exactly(sent(make(user_id)), sent(make("1")), str(user_id))
        else:
            assert said in {refusal(points, user) for user in ("", ".", "\x00", "\ud800", 2**63)}


def refusal(make: Callable[..., Call[Any]], user_id: str | int) -> str | None:
    """What the error says with which a user id is refused; `None` if it is taken."""
    try:
        make(user_id)
    except InvalidArgumentError as error:
        return str(error)
    return None


def assert_sent_exactly(request: Request, plain: Request, user_id: str) -> None:
    """A request is a plain one but for the id in one segment of its path."""
    segments, expected = request.path.split("/"), plain.path.split("/")
    place = expected.index("1")

    assert [*expected[:place], user_id, *expected[place + 1 :]] == [
        unquote(part, errors="strict") for part in segments
    ]
    assert re.fullmatch(r"([A-Za-z0-9._~-]|%[0-9A-F]{2})+", segments[place])
    assert request.path == urlsplit(request.url).path
    assert (plain.origin, plain.query) == (request.origin, request.query)


@pytest.mark.parametrize("user_id", HARD_IDS, ids=lambda user_id: ascii(user_id[:10]))
@pytest.mark.parametrize("make", MAKERS)
def test_hard_user_ids_are_sent_exactly(make: Callable[..., Call[Any]], user_id: str) -> None:
    """Everything that means something in a path or a query is encoded."""
    if user_id.isspace():
        with pytest.raises(InvalidArgumentError, match="empty or blank"):
            make(user_id)
    else:
        assert_sent_exactly(sent(make(user_id)), sent(make("1")), user_id)


@hypothesis_settings(deadline=None)
@given(any_text(), st.sampled_from(["email", "mobile_phone_number", "third_party_id"]))
@example("a&third_party_id=1#?/", "email")
def test_any_user_id_in_the_query_of_points_is_refused_or_sent_exactly(user_id: str, id_type: str) -> None:
    """The id can't add a parameter of its own."""
    try:
        call = points(user_id, id_type)
    except InvalidArgumentError:
        return
    [(_, value)] = parse_qsl(sent(call).query, keep_blank_values=True, strict_parsing=True)
    assert user_id == value
    assert "/fulfillment/users" == sent(call).path


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("https://pos12.crowdtwist.com/users/332170040/purchases?id_type=id&page=2", 2),
        ("https://api[client_id].ct.com/v2.1/rewards?page=21&api_key=", 21),
        ("http://example.ct.com/v2.1/rewards?page=3", 3),
        ("/rewards?page_size=10&page=4", 4),
        ("?id_type=id&amp;page=5", 5),
        ("?id_type=id;page=6", 6),
        ("?page=0", 0),
        ("?page=-1", -1),
        ("?page=007", 7),
        ("?page=2#page", 2),
        ("?page=2&page=3", 2),
        ("//evil.example/?page=2", 2),
        ("file:///etc/passwd?page=2", 2),
        ("https://user:pass@evil.example/?page=2", 2),
        ("?page=" + "9" * 18, 10**18 - 1),
        ("?page=" + "9" * 19, None),
        ("?page=", None),
        ("?page=two", None),
        ("?page=+2", None),
        ("?page=٢", None),
        ("?page_size=10", None),
        ("?mypage=2", None),
        ("page=2", None),
        ("/page/2", None),
        ("Link to next page", None),
        ("string", None),
        ("null", None),
        ("", None),
        (None, None),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_only_the_page_number_of_a_link_is_read(link: str | None, expected: int | None) -> None:
    """Ruling 4: a link without a readable page number counts as no link, wherever it leads."""
    assert expected == page_in_link(link)


def test_fingerprints_tell_walks_apart() -> None:
    """Host, base path, endpoint, user, parameters and direction count; the page does not."""
    elsewhere = make_settings(api_key=Secret(KEY), api_url="https://gateway.example/ct/v2")
    walks = [
        rewards("1").fingerprint("forward"),
        rewards("1").fingerprint("reverse"),
        rewards("2").fingerprint("forward"),
        rewards("1", page_size=5).fingerprint("forward"),
        rewards("1", id_type="username").fingerprint("forward"),
        purchases("1").fingerprint("forward"),
        rewards_call(GATEWAY, "1", id_type="id").fingerprint("forward"),
        rewards_call(elsewhere, "1", id_type="id").fingerprint("forward"),
    ]

    assert len(walks) == len(set(walks))
    assert walks[0] == rewards("1").at_page(5).fingerprint("forward")
    assert all(re.fullmatch(r"[0-9a-f]{6}", walk) for walk in walks)


def test_fingerprints_do_not_know_the_key() -> None:
    """A new key does not end a walk that is under way."""
    other = make_settings(api_key=Secret("another-key"), client_id=201, environment="sb-")
    assert rewards("1").fingerprint("forward") == rewards_call(other, "1", id_type="id").fingerprint(
        "forward"
    )


@pytest.mark.parametrize(
    ("endpoint", "body", "expected"),
    [
        pytest.param(REWARDS, {"rewards": [1]}, [1], id="rewards"),
        pytest.param(PURCHASES, {"purchases": []}, [], id="empty"),
        pytest.param(PURCHASES, {"purchases": None}, None, id="null"),
        pytest.param(REWARDS, {"rewards": [], "id": "1", "title": "a"}, [], id="array-before-inline"),
        pytest.param(
            REWARDS,
            {"id": "1", "title": "a", "x": 1, "paging": {}},
            [{"id": "1", "title": "a"}],
            id="inline",
        ),
    ],
)
def test_where_a_pages_entries_stand(endpoint: Endpoint, body: dict[str, Any], expected: Any) -> None:
    """In their array, or, as in the sample of the reference, one reward in its place."""
    assert has_entries(body, endpoint)
    assert expected == entries_of(body, endpoint)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        pytest.param(REWARDS, {}, id="nothing"),
        pytest.param(REWARDS, {"paging": {}}, id="paging-alone"),
        pytest.param(REWARDS, {"purchases": []}, id="of-another-endpoint"),
        pytest.param(REWARDS, {"id": "1"}, id="id-alone"),
        pytest.param(REWARDS, {"title": "a"}, id="title-alone"),
        pytest.param(PURCHASES, {"id": "1", "title": "a"}, id="inline-purchases"),
    ],
)
def test_a_missing_array_is_not_an_empty_one(endpoint: Endpoint, body: dict[str, Any]) -> None:
    """A page without entries of its own has none at all, and must not be skipped in silence."""
    assert not has_entries(body, endpoint)


@pytest.mark.parametrize(("page", "number"), [(None, 1), (1, 1), (5, 5), (0, 0), (-1, -1)], ids=str)
def test_an_empty_page_has_the_number_that_was_asked_for(page: int | None, number: int) -> None:
    """Zero is a page that can be asked for."""
    empty = empty_page(rewards(page=page), {"error": "no_data"})

    assert number == empty.number
    assert ((), 0, 0) == (empty.items, empty.total, empty.pages)
    assert {"error": "no_data"} == empty.raw


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("points", ("points_awaiting_fulfillment", "pos", "")),
        ("rewards", ("user_rewards", "api", "rewards")),
        ("purchases", ("user_purchases", "pos", "purchases")),
    ],
)
def test_endpoints_are_what_the_reference_says(name: str, expected: tuple[str, str, str]) -> None:
    """Each has its coroutine's name, its host, and the name of its array."""
    endpoint = ENDPOINTS[name]
    assert expected == (endpoint.name, endpoint.host, endpoint.entries)


@pytest.mark.parametrize(
    ("call", "template"),
    [
        pytest.param(points(), "/fulfillment/users/{user_id}", id="points"),
        pytest.param(points("a@example.com", "email"), "/fulfillment/users", id="points-by-parameter"),
        pytest.param(rewards(), "/v2.1/users/{user_id}/rewards", id="rewards"),
        pytest.param(
            rewards("a@example.com", id_type="email"), "/v2.1/users/{user_id}/rewards", id="rewards-by-email"
        ),
        pytest.param(purchases(), "/users/{user_id}/purchases", id="purchases"),
    ],
)
def test_a_template_is_the_path_without_the_user(call: Call[Any], template: str) -> None:
    """Telemetry names paths by it, so that there are few of them and no user in any."""
    assert template == call.template
    assert re.fullmatch(template.replace("{user_id}", "[^/]+"), call.path)
