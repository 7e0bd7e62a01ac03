"""
The rules of the vendor's reference, endpoint by endpoint, asked through plain ASGI.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from urllib.parse import unquote

import pytest

from crowdtwist_async.emulator import Emulator
from crowdtwist_async.emulator.calls import route

KEY = "emulator-key"
FIRST, SECOND, THIRD = "10000000", "10000001", "10000002"
NOBODY = "999"

POINTS = f"/fulfillment/users/{FIRST}"
REWARDS = f"/v2.1/users/{FIRST}/rewards"
PURCHASES = f"/users/{FIRST}/purchases"

REQUIRED = {
    "id", "group_id", "title", "description", "current_quantity", "total_quantity", "num_points",
    "date_start", "date_end", "date_end_redeemable", "no_end_date", "is_enabled", "category_id",
    "max_per_user", "is_shipping_required", "is_phone_number_required", "is_min_age_required",
    "is_digital_download", "total_coupons", "remaining_coupons", "image",
}  # fmt: skip
NULLABLE = {
    "max_select_quantity", "min_age", "sweepstake_winners", "extra_data", "reference_id", "freq_cap",
    "freq_period_id", "freq_period_name", "reward_terms", "min_tier_id", "segment", "partner_info",
}  # fmt: skip


@dataclass
class Got:
    """What the app sent."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)


def ask(emulator: Emulator, target: str, *, auth: str | None = None, method: str = "GET") -> Got:
    """Send one request through ASGI; with the right key, unless `auth` replaces it."""
    path, _, query = target.partition("?")
    if auth is None and path.startswith("/v2.1/"):
        query = f"api_key={KEY}&{query}" if query else f"api_key={KEY}"
    elif auth is None:
        auth = f"CTApiKey {KEY}"
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "scheme": "https",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", b"pos201.crowdtwist.com"), (b"x-ct-authorization", (auth or "").encode())],
    }
    asyncio.run(emulator(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Got(sent[0]["status"], headers, b"".join(message["body"] for message in sent[1:]))


def walk(emulator: Emulator, target: str, rows: str) -> Iterator[dict[str, Any]]:
    """Read every row of every page, by number."""
    separator = "&" if "?" in target else "?"
    pages = ask(emulator, target).body["paging"]["pages"]
    for number in range(1, pages + 1):
        yield from ask(emulator, f"{target}{separator}page={number}").body[rows]


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    """One program for all tests here: none of them changes it."""
    return Emulator(members=200)


@pytest.mark.parametrize(
    ("expected", "path"),
    [
        pytest.param(("points_awaiting_fulfillment", "1"), "/fulfillment/users/1", id="points"),
        pytest.param(("points_awaiting_fulfillment", None), "/fulfillment/users", id="points by query"),
        pytest.param(("user_rewards", "1"), "/v2.1/users/1/rewards", id="rewards"),
        pytest.param(("user_purchases", "1"), "/users/1/purchases", id="purchases"),
        pytest.param(("user_purchases", "a/b"), "/users/a%2Fb/purchases", id="slash"),
        pytest.param(("user_purchases", "a%2Fb"), "/users/a%252Fb/purchases", id="decoded once"),
        pytest.param(("user_purchases", "é+😀"), "/users/%C3%A9+%F0%9F%98%80/purchases", id="unicode"),
        pytest.param((None, None), "/users/a/b/purchases", id="too deep"),
        pytest.param((None, None), "/users//purchases", id="no id"),
        pytest.param((None, None), "/v2.1/users/1/purchases", id="wrong host's path"),
        pytest.param((None, None), "/", id="root"),
    ],
)
def test_route_decodes_the_id_once(expected: tuple[str | None, str | None], path: str) -> None:
    """The path alone decides the endpoint, and an id survives whatever it is made of."""
    assert expected == route(path)


def test_unknown_path_is_no_missing_user(emulator: Emulator) -> None:
    """An unknown path gets a web server's page, without a code."""
    got = ask(emulator, "/v3/users/1")

    assert (404, "text/html") == (got.status, got.headers["content-type"])


@pytest.mark.parametrize(
    ("expected", "target"),
    [
        pytest.param(
            {
                "system": "pos",
                "reason": "not_supported",
                "description": "Not supported",
                "message": "HTTP method is not supported.",
            },
            POINTS,
            id="points",
        ),
        pytest.param(
            {"error": "not_supported", "message": "HTTP method is not supported."}, REWARDS, id="rewards"
        ),
        pytest.param(
            {
                "error": {
                    "code": 405,
                    "message": "Method not allowed",
                    "errors": [{"reason": "not_supported", "message": "HTTP method is not supported."}],
                }
            },
            PURCHASES,
            id="purchases",
        ),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
def test_other_methods_are_refused(
    emulator: Emulator, method: str, target: str, expected: dict[str, Any]
) -> None:
    """Anything but GET is a 405 in the endpoint's own error body."""
    got = ask(emulator, target, method=method)

    assert (405, expected, "GET") == (got.status, got.body, got.headers["allow"])


@pytest.mark.parametrize(
    ("expected", "target"),
    [
        pytest.param(
            {
                "system": "pos",
                "reason": "invalid_auth",
                "description": "Invalid auth",
                "message": "Invalid access credentials.",
            },
            POINTS,
            id="points",
        ),
        pytest.param(
            {"error": "invalid_auth", "message": "Invalid access credentials."}, REWARDS, id="rewards"
        ),
        pytest.param(
            {
                "error": {
                    "code": 403,
                    "message": "Forbidden",
                    "errors": [{"reason": "invalid_auth", "message": "Invalid access credentials."}],
                }
            },
            PURCHASES,
            id="purchases",
        ),
    ],
)
def test_missing_key_is_refused(emulator: Emulator, target: str, expected: dict[str, Any]) -> None:
    """Without a key, each endpoint says 403 in its own error body."""
    got = ask(emulator, target, auth="")

    assert (403, expected) == (got.status, got.body)


@pytest.mark.parametrize(
    ("target", "auth"),
    [
        pytest.param(POINTS, "CTApiKey wrong", id="wrong key"),
        pytest.param(POINTS, f"CTApiKey  {KEY}", id="two spaces"),
        pytest.param(POINTS, KEY, id="no scheme"),
        pytest.param(POINTS, f"ctapikey {KEY}", id="scheme in lower case"),
        pytest.param(f"{POINTS}?api_key={KEY}", "", id="key in the query of points"),
        pytest.param(f"{PURCHASES}?api_key={KEY}", "", id="key in the query of purchases"),
        pytest.param(REWARDS, f"CTApiKey {KEY}", id="key in the header of rewards"),
        pytest.param(f"{REWARDS}?api_key=wrong", "", id="wrong key in the query"),
    ],
)
def test_key_counts_only_where_its_host_looks(emulator: Emulator, target: str, auth: str) -> None:
    """The pos paths read the header, exactly as written; the api path reads the query."""
    assert 403 == ask(emulator, target, auth=auth).status


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(f"/fulfillment/users/{SECOND}", id="path"),
        pytest.param("/fulfillment/users?email_address=member10000001%40example.com", id="email"),
        pytest.param("/fulfillment/users?mobile_phone_number=5550000001", id="phone"),
        pytest.param("/fulfillment/users?third_party_id=tp-10000001", id="third party"),
        pytest.param(
            "/fulfillment/users?third_party_id=tp-10000001&mobile_phone_number=5550000001",
            id="two that agree",
        ),
    ],
)
def test_points_finds_the_member_by_path_or_attribute(emulator: Emulator, target: str) -> None:
    """All ways to name the second member give the same three integers."""
    expected = ask(emulator, f"/fulfillment/users/{SECOND}").body

    got = ask(emulator, target)

    assert (200, expected, 10_000_001) == (got.status, got.body, got.body["user_id"])
    names = {"user_id", "total_points_awaiting_fulfillment", "bonus_points_awaiting_fulfillment"}
    assert names == set(got.body)
    assert {int} == {type(value) for value in got.body.values()}


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(f"/fulfillment/users/{NOBODY}", id="path"),
        pytest.param(f"/fulfillment/users/0{FIRST}", id="leading zero"),
        pytest.param("/fulfillment/users?email_address=nobody%40example.com", id="email"),
        pytest.param(
            "/fulfillment/users?third_party_id=tp-10000001&mobile_phone_number=5550000000",
            id="two that differ",
        ),
    ],
)
def test_points_of_an_unknown_user(emulator: Emulator, target: str) -> None:
    """The error is the reference's example, word for word."""
    got = ask(emulator, target)

    expected = {
        "system": "pos",
        "reason": "user_not_found",
        "description": "User not found",
        "message": "User with given attributes could not be found.",
    }
    assert (400, expected) == (got.status, got.body)


def test_points_needs_some_attribute(emulator: Emulator) -> None:
    """Without an id and without a query, data is missing."""
    got = ask(emulator, "/fulfillment/users")

    assert (400, "missing_data") == (got.status, got.body["reason"])


@pytest.mark.parametrize(
    ("id_type", "user"),
    [
        ("email", "member10000001%40example.com"),
        ("facebook_user_id", "100000000000001"),
        ("twitter_user_id", "2000000001"),
        ("id", SECOND),
        ("third_party_id", "tp-10000001"),
        ("username", "member10000001"),
        ("mobile_phone_number", "5550000001"),
    ],
)
def test_rewards_takes_seven_id_types(emulator: Emulator, id_type: str, user: str) -> None:
    """Each type finds the member that the CrowdTwist id finds, which is the default type."""
    expected = ask(emulator, f"/v2.1/users/{SECOND}/rewards").body["rewards"]

    got = ask(emulator, f"/v2.1/users/{user}/rewards?id_type={id_type}")

    assert (200, expected) == (got.status, got.body["rewards"])


@pytest.mark.parametrize(
    ("id_type", "user"),
    [
        ("email", "member10000001%40example.com"),
        ("id", SECOND),
        ("third_party_id", "tp-10000001"),
        ("mobile_phone_number", "5550000001"),
    ],
)
def test_purchases_takes_four_id_types(emulator: Emulator, id_type: str, user: str) -> None:
    """Each type finds the member that the CrowdTwist id finds, which is the default type."""
    expected = ask(emulator, f"/users/{SECOND}/purchases").body["purchases"]

    got = ask(emulator, f"/users/{user}/purchases?id_type={id_type}")

    assert (200, expected) == (got.status, got.body["purchases"])


@pytest.mark.parametrize("id_type", ["username", "facebook_user_id", "twitter_user_id", "loyalty_id", ""])
def test_purchases_refuses_other_id_types(emulator: Emulator, id_type: str) -> None:
    """The types that only rewards knows are as wrong as those that nobody knows."""
    got = ask(emulator, f"/users/member10000001/purchases?id_type={id_type}")

    expected = [{"reason": "invalid_parameter", "message": "ID type is invalid."}]
    assert (400, expected) == (got.status, got.body["error"]["errors"])


def test_rewards_refuses_other_id_types(emulator: Emulator) -> None:
    """An unknown type is the reference's `param_error`."""
    got = ask(emulator, f"{REWARDS}?id_type=loyalty_id")

    expected = {"error": "param_error", "message": "Param id_type has invalid value."}
    assert (400, expected) == (got.status, got.body)


def test_rewards_of_an_unknown_user(emulator: Emulator) -> None:
    """The error is the reference's example, word for word."""
    got = ask(emulator, f"/v2.1/users/{NOBODY}/rewards")

    assert (400, {"error": "page_not_found", "message": "User does not exist."}) == (got.status, got.body)


def test_purchases_of_an_unknown_user(emulator: Emulator) -> None:
    """The error is the reference's sample, word for word."""
    got = ask(emulator, f"/users/{NOBODY}/purchases")

    expected = {
        "error": {
            "code": 404,
            "message": "Not found",
            "errors": [{"reason": "user_not_found", "message": "User does not exist"}],
        }
    }
    assert (404, expected) == (got.status, got.body)


def test_rewards_of_a_program_without_any() -> None:
    """An empty catalogue is an error of its own."""
    got = ask(Emulator(members=1, rewards=0), REWARDS)

    expected = {"error": "no_data", "message": "There are no rewards available to this client."}
    assert (400, expected) == (got.status, got.body)


@pytest.mark.parametrize(
    ("rows", "following", "preceding", "page"),
    [
        pytest.param(10, 2, None, None, id="none"),
        pytest.param(10, 2, None, "1", id="first"),
        pytest.param(10, 8, 6, "7", id="middle"),
        pytest.param(2, None, 13, "14", id="last"),
        pytest.param(0, None, 14, "15", id="just beyond"),
        pytest.param(0, None, 14, "99999999999999999999", id="far beyond"),
        pytest.param(0, 1, None, "0", id="zero"),
        pytest.param(0, 1, None, "-3", id="negative"),
        pytest.param(10, 2, None, "two", id="a word"),
        pytest.param(10, 2, None, "1.5", id="a fraction"),
        pytest.param(10, 2, None, "1_0", id="an underscore"),
        pytest.param(10, 2, None, "%D9%A3", id="an Arabic digit"),
        pytest.param(10, 2, None, "9" * 5000, id="more digits than are read"),
        pytest.param(10, 2, None, "", id="empty"),
    ],
)
def test_page_rules(
    emulator: Emulator, rows: int, following: int | None, preceding: int | None, page: str | None
) -> None:
    """The reference's rules for a page in range, out of range, and not a number, on 132 purchases."""
    url = f"https://pos201.crowdtwist.com/users/{SECOND}/purchases?page="

    got = ask(emulator, f"/users/{SECOND}/purchases" + ("" if page is None else f"?page={page}")).body

    expected = {
        "total": 132,
        "pages": 14,
        "next_page": "" if following is None else f"{url}{following}",
        "prev_page": "" if preceding is None else f"{url}{preceding}",
    }
    assert (rows, expected) == (len(got["purchases"]), got["paging"])


@pytest.mark.parametrize(
    ("expected", "page"),
    [
        pytest.param((10, True, False), "1", id="first"),
        pytest.param((0, True, False), "0", id="zero"),
        pytest.param((0, False, True), "99", id="beyond"),
    ],
)
def test_rewards_follow_the_same_page_rules(
    emulator: Emulator, expected: tuple[int, bool, bool], page: str
) -> None:
    """Rewards send null for an absent link."""
    body = ask(emulator, f"{REWARDS}?page={page}").body
    links = body["paging"]["next_page"] is not None, body["paging"]["prev_page"] is not None

    assert expected == (len(body["rewards"]), *links)


def test_links_repeat_the_request_with_another_page(emulator: Emulator) -> None:
    """Scheme, host, path and query are the caller's own, its key included."""
    target = "/v2.1/users/member10000000%40example.com/rewards?page=2&id_type=email&page_size=3"

    paging = ask(emulator, target).body["paging"]

    url = (
        "https://pos201.crowdtwist.com/v2.1/users/member10000000%40example.com/rewards"
        f"?api_key={KEY}&id_type=email&page_size=3&page="
    )
    assert (url + "3", url + "1") == (paging["next_page"], paging["prev_page"])


@pytest.mark.parametrize(
    ("expected", "size"),
    [
        *[(1, "1"), (3, "3"), (10, "10"), (10, "11"), (10, "1000000000")],
        *[(10, "0"), (10, "-1"), (10, "few"), (10, "2.5"), (10, "")],
    ],
)
def test_page_size_is_10_at_most(emulator: Emulator, expected: int, size: str) -> None:
    """A larger page is capped, and an invalid one is the default."""
    body = ask(emulator, f"{REWARDS}?page_size={size}").body

    pages = -(-emulator.rewards_of(FIRST) // expected)
    assert (expected, pages) == (len(body["rewards"]), body["paging"]["pages"])


def test_purchases_know_no_page_size(emulator: Emulator) -> None:
    """The parameter belongs to rewards."""
    assert 10 == len(ask(emulator, f"/users/{SECOND}/purchases?page_size=3").body["purchases"])


def test_a_member_without_purchases(emulator: Emulator) -> None:
    """An empty list has no pages, and no links."""
    expected = {"total": 0, "pages": 0, "next_page": "", "prev_page": ""}

    assert {"purchases": [], "paging": expected} == ask(emulator, f"/users/{THIRD}/purchases").body


@pytest.mark.parametrize("user", [FIRST, SECOND, THIRD, "10000042"])
def test_purchases_are_distinct_and_newest_first(emulator: Emulator, user: str) -> None:
    """A walk yields as many as `purchases_of` says, each older than the one before."""
    rows = list(walk(emulator, f"/users/{user}/purchases", "purchases"))

    times = [datetime.strptime(row["last_date_purchased"], "%Y-%m-%dT%H:%M:%S%z") for row in rows]
    assert emulator.purchases_of(user) == len({row["purchase_id"] for row in rows}) == len(rows)
    assert all(newer > older for newer, older in pairwise(times))


def test_purchases_have_the_fields_of_the_reference(emulator: Emulator) -> None:
    """`points_awaiting_fulfillment` is missing in some, and both types of id occur."""
    rows = list(walk(emulator, f"/users/{SECOND}/purchases", "purchases"))

    required = {
        "last_date_purchased",
        "purchase_id",
        "purchase_id_type",
        "purchase_total",
        "total_points_awarded",
        "total_points_earned",
    }
    shapes = {frozenset(row) for row in rows}
    assert {frozenset(required), frozenset(required | {"points_awaiting_fulfillment"})} == shapes
    assert {"order_id", "receipt_id"} == {row["purchase_id_type"] for row in rows}
    assert all(row["total_points_awarded"] <= row["total_points_earned"] for row in rows)


def test_dates_are_inclusive_utc_days(emulator: Emulator) -> None:
    """A range has exactly the purchases of its days; an open end has all beyond."""
    target = f"/users/{SECOND}/purchases"
    days = [row["last_date_purchased"][:10] for row in walk(emulator, target, "purchases")]
    first, last = days[90], days[30]

    def found(query: str) -> list[str]:
        rows = walk(emulator, f"{target}?{query}", "purchases")
        return [row["last_date_purchased"][:10] for row in rows]

    assert [day for day in days if first <= day <= last] == found(f"date_start={first}&date_end={last}")
    assert [day for day in days if first <= day] == found(f"date_start={first}")
    assert [day for day in days if day <= last] == found(f"date_end={last}")
    assert [day for day in days if day == first] == found(f"date_start={first}&date_end={first}")
    before = date.fromisoformat(days[-1]) - timedelta(days=1)
    assert [] == found(f"date_end={before}")
    assert days == found("date_start=0001-01-01&date_end=9999-12-31")


@pytest.mark.parametrize(
    ("message", "query"),
    [
        pytest.param("Dates must be given as YYYY-MM-DD.", "date_start=20260101", id="no dashes"),
        pytest.param("Dates must be given as YYYY-MM-DD.", "date_start=2026-W01-1", id="a week"),
        pytest.param("Dates must be given as YYYY-MM-DD.", "date_end=2026-02-30", id="no such day"),
        pytest.param("Dates must be given as YYYY-MM-DD.", "date_end=2026-01-01T00:00:00", id="a time"),
        pytest.param("Dates must be given as YYYY-MM-DD.", "date_end=", id="empty"),
        pytest.param(
            "date_end can't be before date_start.", "date_start=2026-01-02&date_end=2026-01-01", id="reversed"
        ),
    ],
)
def test_bad_dates_are_refused(emulator: Emulator, message: str, query: str) -> None:
    """A malformed or reversed range is an error in the nested body."""
    got = ask(emulator, f"{PURCHASES}?{query}")

    expected = {
        "error": {
            "code": 400,
            "message": "Bad request",
            "errors": [{"reason": "invalid_parameter", "message": message}],
        }
    }
    assert (400, expected) == (got.status, got.body)


def test_rewards_have_the_fields_of_the_reference(emulator: Emulator) -> None:
    """Every field is there, in the vendor's own types and spelling, and every optional one varies."""
    rows = list(walk(emulator, f"{REWARDS}?include_soldout=true", "rewards"))

    assert {frozenset(REQUIRED | NULLABLE)} == {frozenset(row) for row in rows}
    assert {str} == {type(row["id"]) for row in rows}
    assert {"0", "1"} == {row["is_min_age_required"] for row in rows}
    assert {(1, type(None)), (0, int)} == {(row["no_end_date"], type(row["date_end"])) for row in rows}
    assert NULLABLE == {name for name in NULLABLE if {True, False} == {row[name] is None for row in rows}}


@pytest.mark.parametrize("user", [FIRST, SECOND, THIRD])
@pytest.mark.parametrize("flag", ["true", "TRUE"])
def test_sold_out_rewards_come_only_when_asked_for(emulator: Emulator, user: str, flag: str) -> None:
    """The walks differ by the rewards whose quantity is 0."""
    target = f"/v2.1/users/{user}/rewards"

    available = list(walk(emulator, target, "rewards"))
    everything = list(walk(emulator, f"{target}?include_soldout={flag}", "rewards"))

    assert [row for row in everything if row["current_quantity"]] == available
    assert emulator.rewards_of(user) == len(available) < len(everything)
    assert emulator.rewards_of(user, include_soldout=True) == len(everything)


def test_segments_decide_who_sees_a_reward(emulator: Emulator) -> None:
    """A reward for a segment and one for everyone else never come to the same member."""
    seen = set()
    for user in islice(emulator.member_ids(), 20):
        segments = [row["segment"] for row in walk(emulator, f"/v2.1/users/{user}/rewards", "rewards")]
        kinds = {(segment["name"], segment["eligibility_type"]) for segment in segments if segment}
        assert len(kinds) == len({name for name, _ in kinds})
        seen |= kinds

    assert {"inclusion", "exclusion"} == {eligibility_type for _, eligibility_type in seen}
    assert 1 < len({emulator.rewards_of(user) for user in emulator.member_ids()})
