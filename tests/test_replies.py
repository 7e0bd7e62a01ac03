"""
What a reply means: the vendor's own bodies, the rulings on what they leave open, and every broken one.
"""

from __future__ import annotations

import copy
import gzip
import json
import pickle
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import KEY, any_text, leaks
from hypothesis import example, given, settings
from hypothesis import strategies as st

from crowdtwist_async import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    CrowdTwistError,
    DecodeError,
    Page,
    Paging,
    Partner,
    PointsAwaitingFulfillment,
    RateLimitError,
    Reply,
    ResponseTooLargeError,
    Segment,
    ServerError,
    UnexpectedRedirectError,
    UserNotFoundError,
)
from crowdtwist_async._config import make_settings
from crowdtwist_async._protocol import Call, points_call, purchases_call, rewards_call
from crowdtwist_async._replies import read_reply
from crowdtwist_async._secrets import Redactor, Secret
from crowdtwist_async._walk import Seen, next_forward

REPLIES = Path(__file__).parent / "replies"
SETTINGS = make_settings(api_key=Secret(KEY), client_id=201)
ALICE = "alice@example.com"
POINTS = points_call(SETTINGS, "1", "id")
REWARDS = rewards_call(SETTINGS, ALICE, id_type="email")
PURCHASES = purchases_call(SETTINGS, "332170040", id_type="id")
CALLS: dict[str, Call[Any]] = {
    "points_awaiting_fulfillment": POINTS,
    "user_rewards": REWARDS,
    "user_purchases": PURCHASES,
}


def recorded(call: Call[Any], case: str) -> Any:
    """A body out of `replies/<endpoint>/<case>.json`."""
    return json.loads((REPLIES / call.endpoint.name / f"{case}.json").read_text(encoding="utf-8"))


def read(call: Call[Any], status: int, body: Any, **headers: str) -> Any:
    """What a reply means; a body that is no bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_reply(
        call,
        Reply(status=status, headers=named, body=content),
        Redactor(Secret(KEY), (call.user_id,)),
    )


def said(error: APIStatusError) -> tuple[str | None, ...]:
    """What the attributes of a server's error hold."""
    return (error.code, error.message, error.description, error.system)


def decode_error(outcome: Any) -> DecodeError:
    """The outcome, which must be a `DecodeError`."""
    assert isinstance(outcome, DecodeError), outcome
    return outcome


def status_error(outcome: Any) -> APIStatusError:
    """The outcome, which must be a server's error."""
    assert isinstance(outcome, APIStatusError), outcome
    return outcome


def rewards_page(**changes: Any) -> dict[str, Any]:
    """A page with the reward of the reference's table, some of whose fields are changed."""
    [reward] = recorded(REWARDS, "page")["rewards"]
    return {"paging": {"total": 1, "pages": 1}, "rewards": [{**reward, **changes}]}


def purchases_page(**changes: Any) -> dict[str, Any]:
    """A page with the purchase of the reference's table, some of whose fields are changed."""
    [purchase] = recorded(PURCHASES, "page")["purchases"]
    return {"paging": {"total": 1, "pages": 1}, "purchases": [{**purchase, **changes}]}


GOOD = {
    "points_awaiting_fulfillment": recorded(POINTS, "sample"),
    "user_rewards": rewards_page(),
    "user_purchases": purchases_page(),
}
BY_ENDPOINT = [pytest.param(call, id=name) for name, call in CALLS.items()]


def test_the_sample_of_points() -> None:
    """The table's sample values become a model."""
    expected = PointsAwaitingFulfillment(
        user_id=1, total_points_awaiting_fulfillment=4000, bonus_points_awaiting_fulfillment=1000
    )
    assert expected == read(POINTS, 200, recorded(POINTS, "sample"))


def test_the_sample_of_rewards() -> None:
    """The vendor's body is read to the last field, with everything that is odd about it."""
    body = recorded(REWARDS, "sample")
    page = read(REWARDS, 200, (REPLIES / "user_rewards" / "sample.json").read_bytes())

    [reward] = page
    assert ("541043", 8116, "Test Reward #7") == (reward.id, reward.group_id, reward.title)
    assert "Reward with variance and required shipping and phone" == reward.description
    assert (4, 20, 9999999, 2) == (
        reward.current_quantity,
        reward.num_points,
        reward.total_quantity,
        reward.max_per_user,
    )
    assert datetime(2014, 6, 6, 12, 31, tzinfo=UTC) == reward.date_start
    assert (True, True) == (reward.is_enabled, reward.no_end_date)
    assert (False, True, False, False) == (
        reward.is_shipping_required,
        reward.is_phone_number_required,
        reward.is_min_age_required,
        reward.is_digital_download,
    )
    assert (2631, 0, 0) == (reward.category_id, reward.total_coupons, reward.remaining_coupons)
    assert "https://cdn.crowdtwist.com/img/v2/image.jpg" == reward.image
    assert "46a6sd " == reward.reference_id
    assert Segment("5x login", 123, "inclusion") == reward.segment
    assert Partner(4869684, "Acme Car Rentals") == reward.partner_info
    for name in ("date_end", "date_end_redeemable", "max_select_quantity", "min_age", "sweepstakes_winners"):
        assert getattr(reward, name) is None
    for name in (
        "extra_data",
        "freq_cap",
        "freq_period_id",
        "freq_period_name",
        "reward_terms",
        "min_tier_id",
    ):
        assert getattr(reward, name) is None
    assert (133, 14, 1) == (page.total, page.pages, page.number)
    assert body == page.raw


def test_the_sample_of_purchases() -> None:
    """The vendor's two purchases come in its order."""
    page = read(PURCHASES, 200, (REPLIES / "user_purchases" / "sample.json").read_bytes())

    assert ["order_100", "order_200"] == [purchase.purchase_id for purchase in page]
    assert ["receipt_id"] * 2 == [purchase.purchase_id_type for purchase in page]
    assert [datetime(2018, 1, 1, 11, 0, 18, tzinfo=UTC)] * 2 == [each.last_date_purchased for each in page]
    assert [(400, 400, 400), (500, 500, 500)] == [
        (purchase.purchase_total, purchase.total_points_awarded, purchase.total_points_earned)
        for purchase in page
    ]
    assert Paging(2, 1, "Link to next page", "Link to previous page") == page.paging


def test_the_table_of_rewards() -> None:
    """The sample values of the table make a whole reward."""
    [reward] = read(REWARDS, 200, recorded(REWARDS, "page"))
    assert (100, "1", "2", "Calendar Day", 45) == (
        reward.sweepstakes_winners,
        reward.freq_cap,
        reward.freq_period_id,
        reward.freq_period_name,
        reward.min_tier_id,
    )


@pytest.mark.parametrize(
    ("endpoint", "case", "status", "cls", "expected"),
    [
        pytest.param(
            "user_purchases",
            "sample_error",
            404,
            UserNotFoundError,
            ("user_not_found", "User does not exist", "Not found", None),
            id="purchases-sample",
        ),
        pytest.param(
            "user_purchases",
            "not_found",
            404,
            UserNotFoundError,
            ("not_found", "User ID not found.", None, None),
            id="purchases-not-found",
        ),
        pytest.param(
            "user_purchases",
            "invalid_parameter",
            400,
            BadRequestError,
            ("invalid_parameter", "ID type is invalid.", None, None),
            id="purchases-invalid-parameter",
        ),
        pytest.param(
            "user_purchases",
            "internal_error",
            500,
            ServerError,
            ("internal_error", "User could not be found", None, None),
            id="purchases-internal-error",
        ),
        pytest.param(
            "user_rewards",
            "sample_error",
            403,
            AuthenticationError,
            ("invalid_auth", "Invalid access credentials.", None, None),
            id="rewards-sample",
        ),
        pytest.param(
            "user_rewards",
            "param_error",
            400,
            BadRequestError,
            ("param_error", "Param category has invalid value.", None, None),
            id="rewards-param-error",
        ),
        pytest.param(
            "user_rewards",
            "page_not_found",
            400,
            UserNotFoundError,
            ("page_not_found", "User does not exist.", None, None),
            id="rewards-page-not-found",
        ),
        pytest.param(
            "points_awaiting_fulfillment",
            "sample_error",
            500,
            ServerError,
            ("internal_error", "User could not be found", "Field value is empty", "pos"),
            id="points-sample",
        ),
        pytest.param(
            "points_awaiting_fulfillment",
            "user_not_found",
            400,
            UserNotFoundError,
            ("user_not_found", "User with given attributes could not be found.", "User not found", "pos"),
            id="points-user-not-found",
        ),
        pytest.param(
            "points_awaiting_fulfillment",
            "not_configured",
            500,
            ServerError,
            ("not_configured", "The configuration has not been configured yet.", "Not configured", "pos"),
            id="points-not-configured",
        ),
    ],
)
def test_the_vendors_error_bodies(
    endpoint: str, case: str, status: int, cls: type[APIStatusError], expected: tuple[str | None, ...]
) -> None:
    """Each of the three shapes becomes the right error with the same attributes."""
    call = CALLS[endpoint]
    error = status_error(read(call, status, recorded(call, case)))

    assert cls is type(error)
    assert status == error.status
    assert expected == said(error)
    assert f"{status} {expected[0]}: {expected[1]}" == str(error)


def test_ruling_5_counts_that_contradict_each_other_are_both_kept() -> None:
    """A total of 203 on 10 pages: the walk goes on to page 11 rather than lose rows."""
    [purchase] = purchases_page()["purchases"]
    page = read(
        PURCHASES.at_page(10), 200, {"paging": {"total": 203, "pages": 10}, "purchases": [purchase] * 10}
    )

    assert (203, 10) == (page.total, page.pages)
    assert 11 == next_forward(Seen.of(page, 10))


@pytest.mark.parametrize("as_array", [False, True], ids=["object", "array"])
def test_ruling_6_paging_is_an_object_or_an_array(as_array: bool) -> None:
    """The table and the sample disagree."""
    paging = {"total": 1, "pages": 1, "next_page": None, "prev_page": None}
    body = {**rewards_page(), "paging": [paging] if as_array else paging}
    assert Paging(total=1, pages=1) == read(REWARDS, 200, body).paging


def test_ruling_7_the_fields_of_a_reward_may_stand_beside_paging() -> None:
    """That is a page with one reward; unknown fields stay in the raw body."""
    body = {**recorded(REWARDS, "sample"), "added": 1}
    page = read(REWARDS, 200, body)
    assert (1, "541043", 1) == (len(page), page.items[0].id, page.raw["added"])


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"paging": {"total": 0, "pages": 0}}, id="paging-alone"),
        pytest.param({}, id="empty-object"),
        pytest.param({"paging": {"total": 0, "pages": 0}, "purchases": []}, id="of-another-endpoint"),
        pytest.param({"paging": {"total": 0, "pages": 0}, "message": "ok"}, id="with-a-message"),
    ],
)
def test_ruling_7_no_rewards_at_all_is_no_empty_page(body: dict[str, Any]) -> None:
    """Neither an array nor an inline reward: a page must not be skipped in silence."""
    error = decode_error(read(REWARDS, 200, body))
    assert ("rewards", "a required field is missing") == (error.path, error.reason)


@pytest.mark.parametrize("name", ["sweepstakes_winners", "sweepstake_winners"])
def test_ruling_8_winners_have_two_spellings(name: str) -> None:
    """Table and sample spell the field differently, in an array and inline."""
    body = rewards_page(**{"sweepstakes_winners": None, name: 3})
    inline = {**recorded(REWARDS, "sample"), name: 3}
    assert [3, 3] == [read(REWARDS, 200, each).items[0].sweepstakes_winners for each in (body, inline)]


@pytest.mark.parametrize(("sent", "expected"), [("0", False), (1, True), ("TRUE", True)], ids=repr)
def test_ruling_9_booleans_come_in_many_spellings(sent: Any, expected: bool) -> None:
    """The sample itself has numbers and the text "0"."""
    [reward] = read(REWARDS, 200, rewards_page(is_min_age_required=sent))
    assert expected is reward.is_min_age_required


def test_ruling_9_any_other_boolean_is_refused() -> None:
    """The place is told."""
    error = decode_error(read(REWARDS, 200, rewards_page(is_min_age_required="yes")))
    assert "rewards[0].is_min_age_required" == error.path


@pytest.mark.parametrize("sent", [None, ""], ids=repr)
def test_ruling_10_no_date_is_none(sent: Any) -> None:
    """Null and empty both mean that there is none."""
    [reward] = read(REWARDS, 200, rewards_page(date_end=sent))
    assert reward.date_end is None


@pytest.mark.parametrize("sent", [1514804418, "1514804418", "2018-01-01T11:00:18Z"], ids=repr)
def test_ruling_10_dates_are_aware(sent: Any) -> None:
    """Unix seconds and ISO 8601 both become UTC instants, on either endpoint."""
    [reward] = read(REWARDS, 200, rewards_page(date_end=sent))
    [purchase] = read(PURCHASES, 200, purchases_page(last_date_purchased=sent))
    assert reward.date_end == purchase.last_date_purchased == datetime(2018, 1, 1, 11, 0, 18, tzinfo=UTC)


def test_ruling_11_points_awaiting_fulfillment_may_be_missing() -> None:
    """The table requires them and the sample has none; sent, they are there."""
    missing = read(PURCHASES, 200, recorded(PURCHASES, "sample"))
    there = read(PURCHASES, 200, recorded(PURCHASES, "page"))
    assert [None, None] == [purchase.points_awaiting_fulfillment for purchase in missing]
    assert [200] == [purchase.points_awaiting_fulfillment for purchase in there]


def test_ruling_12_ids_are_texts_and_amounts_integers() -> None:
    """Whichever way they are sent."""
    [reward] = read(REWARDS, 200, rewards_page(id=64, group_id="3453", freq_cap=1))
    assert ("64", 3453, "1") == (reward.id, reward.group_id, reward.freq_cap)


def test_ruling_12_fractions_are_refused() -> None:
    """A fractional number of points is an error, never truncated."""
    assert "rewards[0].num_points" == decode_error(read(REWARDS, 200, rewards_page(num_points=1.9))).path


def test_ruling_13_reference_ids_stay_as_sent() -> None:
    """The sample's trailing space is the client's own."""
    [reward] = read(REWARDS, 200, recorded(REWARDS, "sample"))
    assert "46a6sd " == reward.reference_id


def test_ruling_14_extra_data_has_whatever_keys_came() -> None:
    """The four documented ones can be read by name."""
    sent = {"city": "New York", "state": "NY", "country": "USA", "postal code": "10010", "size": {"eu": 42}}
    [reward] = read(REWARDS, 200, rewards_page(extra_data=sent))
    extra = reward.extra_data
    assert sent == extra
    assert ("New York", "NY", "USA", "10010") == (extra.city, extra.state, extra.country, extra.postal_code)


@pytest.mark.parametrize("call", BY_ENDPOINT)
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(
            {"system": "pos", "reason": "invalid", "description": "short", "message": "long"},
            ("invalid", "long", "short", "pos"),
            id="four-fields",
        ),
        pytest.param({"error": "invalid", "message": "long"}, ("invalid", "long", None, None), id="flat"),
        pytest.param(
            {
                "error": {
                    "code": 400,
                    "message": "short",
                    "errors": [{"reason": "invalid", "message": "long"}],
                }
            },
            ("invalid", "long", "short", None),
            id="nested",
        ),
        pytest.param(
            {"error": {"code": 400, "message": "long", "reason": "invalid"}},
            ("invalid", "long", "long", None),
            id="nested-without-entries",
        ),
        pytest.param(
            {"error": {"reason": "invalid", "description": "short", "errors": [1, "x"]}},
            ("invalid", None, "short", None),
            id="nested-with-odd-entries",
        ),
        pytest.param([{"reason": "invalid", "message": "long"}], ("invalid", "long", None, None), id="list"),
        pytest.param(
            {"error": [{"error": "invalid", "message": "long"}]},
            ("invalid", "long", None, None),
            id="list-inside",
        ),
        pytest.param("long", (None, "long", None, None), id="text"),
        pytest.param({"error": 17, "message": 4}, ("17", "4", None, None), id="numbers"),
        pytest.param(
            {"error": True, "message": [1], "reason": None}, (None, None, None, None), id="no-texts"
        ),
        pytest.param([], (None, None, None, None), id="empty-list"),
        pytest.param([1, "x"], (None, None, None, None), id="list-without-objects"),
        pytest.param({}, (None, None, None, None), id="empty-object"),
        pytest.param("", (None, None, None, None), id="empty-text"),
        pytest.param(None, (None, None, None, None), id="null"),
        pytest.param(True, (None, None, None, None), id="true"),
        pytest.param(1.5, (None, None, None, None), id="number"),
    ],
)
def test_ruling_15_every_body_fills_the_same_attributes(
    call: Call[Any], body: Any, expected: tuple[str | None, ...]
) -> None:
    """A 400 is a `BadRequestError` with the same attributes, whichever shape came from whichever host."""
    error = read(call, 400, body)

    assert BadRequestError is type(error)
    assert expected == said(error)
    assert 400 == error.status
    assert str(error).startswith("400")


def test_ruling_15_the_entries_of_errors_are_kept() -> None:
    """What does not fit the attributes is in `details`, as sent."""
    entries = [{"reason": "invalid", "message": "a", "n": 1}, {"reason": "missing_data", "list": [None]}]
    nested = read(PURCHASES, 400, {"error": {"errors": [*entries, "odd"]}})
    flat = read(PURCHASES, 400, {"error": "invalid", "errors": entries})
    listed = read(PURCHASES, 400, entries)

    assert [tuple(entries)] * 3 == [error.details for error in (nested, flat, listed)]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b"<html><h1>Bad\n  Gateway</h1></html>", "<html><h1>Bad Gateway</h1></html>", id="html"),
        pytest.param(b"x" * 5000, "x" * 200, id="long"),
        pytest.param(b"", None, id="empty"),
        pytest.param(b" \n ", None, id="blank"),
        pytest.param(b" " * 4095 + b"x", "x", id="within-4096"),
        pytest.param(b" " * 4096 + b"x", None, id="beyond-4096"),
        pytest.param(b"a".ljust(4095) + b"b", "a b", id="just-4096"),
        pytest.param(b"a b".ljust(4090) + b"within beyond", "a b", id="across-4096"),
        pytest.param(b"caf\xe9", "caf\ufffd", id="latin-1"),
        pytest.param(b"\x00\xff\xfe", "\x00\ufffd\ufffd", id="binary"),
        pytest.param(gzip.compress(b"x")[:2], "\ufffd", id="compressed"),
    ],
)
@pytest.mark.parametrize("status", [500, 502, 503, 504, 520])
def test_ruling_15_a_body_that_is_no_json_is_quoted(status: int, body: bytes, message: str | None) -> None:
    """A gateway's page is a `ServerError` that may pass, with 200 characters of it at most."""
    error = read(REWARDS, status, body)

    assert ServerError is type(error)
    assert (None, message) == (error.code, error.message)
    assert error.retryable
    assert (f"{status}: {message}" if message else f"{status}") == str(error)


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "user_not_found"), (400, "page_not_found"), (404, "not_found"), (404, "user_not_found")],
)
@pytest.mark.parametrize("call", BY_ENDPOINT)
def test_ruling_16_an_unknown_user_has_one_error(call: Call[Any], status: int, code: str) -> None:
    """Three codes and two statuses mean the same."""
    error = read(call, status, {"error": code, "message": "User does not exist."})
    assert (UserNotFoundError, code, False) == (type(error), error.code, error.retryable)


@pytest.mark.parametrize("body", [b"<html>Not Found</html>", b"", b'{"error": "no_route"}'], ids=ascii)
def test_ruling_16_another_404_is_no_unknown_user(body: bytes) -> None:
    """A gateway that has no such path says nothing of the user."""
    error = read(PURCHASES, 404, body)
    assert (APIStatusError, False) == (type(error), error.retryable)


@pytest.mark.parametrize("status", [400, 404, 200])
def test_ruling_17_no_data_is_an_empty_page(status: int) -> None:
    """A client without rewards is no error."""
    body = recorded(REWARDS, "no_data")
    page = read(REWARDS.at_page(3), status, body)

    assert isinstance(page, Page), page
    assert ((), 0, 0, 3, body) == (page.items, page.total, page.pages, page.number, page.raw)


@pytest.mark.parametrize("call", [POINTS, PURCHASES], ids=["points", "purchases"])
def test_ruling_17_no_data_means_nothing_elsewhere(call: Call[Any]) -> None:
    """Only the page of the rewards endpoint has that code."""
    assert BadRequestError is type(read(call, 400, recorded(REWARDS, "no_data")))


@pytest.mark.parametrize("call", BY_ENDPOINT)
@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(
            403, {"error": "invalid_auth", "message": "Invalid access credentials."}, id="documented"
        ),
        pytest.param(401, {}, id="401"),
        pytest.param(403, b"<html>Forbidden</html>", id="html"),
        pytest.param(403, {"error": "user_not_found"}, id="403-with-another-code"),
        pytest.param(400, {"error": "invalid_auth"}, id="400-with-the-code"),
        pytest.param(200, {"error": "invalid_auth"}, id="200-with-the-code"),
        pytest.param(200, {"error": {"code": 401, "message": "no"}}, id="200-with-a-status-inside"),
    ],
)
def test_ruling_18_a_wrong_key_is_never_retried(call: Call[Any], status: int, body: Any) -> None:
    """Status and code both tell it."""
    error = read(call, status, body)
    assert (AuthenticationError, status, False) == (type(error), error.status, error.retryable)


@pytest.mark.parametrize("call", BY_ENDPOINT)
@pytest.mark.parametrize("status", [500, 503, 200])
def test_ruling_19_not_configured_is_permanent(call: Call[Any], status: int) -> None:
    """It is a server's error that asking again will not change."""
    error = read(call, status, {"error": "not_configured", "message": "a"}, retry_after="1")
    assert (ServerError, False) == (type(error), error.retryable)


@pytest.mark.parametrize("code", ["internal_error", "missing_field", "invalid_data"])
def test_ruling_19_other_server_errors_may_pass(code: str) -> None:
    """They are worth another attempt."""
    error = read(REWARDS, 500, {"error": code, "message": "a"})
    assert (ServerError, code, True) == (type(error), error.code, error.retryable)


@pytest.mark.parametrize(
    ("number", "onward"), [(0, {"next_page": "?page=1"}), (99, {"prev_page": "?page=14"})], ids=str
)
def test_ruling_20_a_page_out_of_range_is_what_the_server_said(number: int, onward: dict[str, str]) -> None:
    """One page was asked for, and that is the answer: no entries, and a link."""
    body = {"paging": {"total": 133, "pages": 14, **onward}, "rewards": []}
    page = read(REWARDS.at_page(number), 200, body)
    assert ((), number, 133) == (page.items, page.number, page.total)
    assert onward == {name: getattr(page.paging, name) for name in onward}


@pytest.mark.parametrize("sent", [{}, {"next_page": None}, {"next_page": ""}], ids=str)
def test_ruling_24_links_may_be_missing(sent: dict[str, Any]) -> None:
    """Missing, null and empty links are all `None`."""
    body = {**purchases_page(), "paging": {"total": 1, "pages": 1, **sent}}
    assert Paging(total=1, pages=1) == read(PURCHASES, 200, body).paging


@pytest.mark.parametrize(
    ("status", "cls", "retryable"),
    [
        (100, APIStatusError, False),
        (199, APIStatusError, False),
        (400, BadRequestError, False),
        (401, AuthenticationError, False),
        (402, APIStatusError, False),
        (403, AuthenticationError, False),
        (404, APIStatusError, False),
        (405, APIStatusError, False),
        (408, APIStatusError, True),
        (410, APIStatusError, False),
        (418, APIStatusError, False),
        (422, BadRequestError, False),
        (425, APIStatusError, True),
        (429, RateLimitError, True),
        (451, APIStatusError, False),
        (499, APIStatusError, False),
        (500, ServerError, True),
        (501, ServerError, True),
        (502, ServerError, True),
        (503, ServerError, True),
        (504, ServerError, True),
        (520, ServerError, True),
        (529, ServerError, True),
        (599, ServerError, True),
        (600, APIStatusError, False),
        (999, APIStatusError, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("call", BY_ENDPOINT)
def test_every_status_has_its_error(
    call: Call[Any], status: int, cls: type[APIStatusError], retryable: bool
) -> None:
    """The status wins, even over a body with good data."""
    bodies: list[dict[str, Any]] = [{}, GOOD[call.endpoint.name]]
    for body in bodies:
        error = read(call, status, body)
        assert (cls, status, retryable) == (type(error), error.status, error.retryable)


@pytest.mark.parametrize(
    ("body", "cls", "code", "retryable"),
    [
        pytest.param({"error": "internal_error"}, ServerError, "internal_error", True, id="internal"),
        pytest.param({"error": "param_error"}, APIStatusError, "param_error", False, id="other-code"),
        pytest.param({"error": {"code": 404}}, APIStatusError, None, False, id="404-inside"),
        pytest.param({"error": {"code": 503}}, ServerError, None, True, id="503-inside"),
        pytest.param({"error": {"code": 429}}, RateLimitError, None, True, id="429-inside"),
        pytest.param({"error": {"code": 422}}, BadRequestError, None, False, id="422-inside"),
        pytest.param({"error": {"code": 400}}, BadRequestError, None, False, id="400-inside"),
        pytest.param({"error": {"code": 599}}, ServerError, None, True, id="599-inside"),
        pytest.param({"error": {"code": 200}}, APIStatusError, None, False, id="200-inside"),
        pytest.param(
            {"error": {"code": 600, "reason": "internal_error"}},
            ServerError,
            "internal_error",
            True,
            id="600-inside-with-a-code",
        ),
        pytest.param({"error": {"code": 600}}, APIStatusError, None, False, id="600-inside"),
        pytest.param({"error": {"code": "503"}}, APIStatusError, None, False, id="text-inside"),
        pytest.param(
            {"error": [{"reason": "user_not_found"}]}, UserNotFoundError, "user_not_found", False, id="list"
        ),
        pytest.param(
            {"reason": "user_not_found", "system": "pos"},
            UserNotFoundError,
            "user_not_found",
            False,
            id="four",
        ),
        pytest.param({"message": "something"}, APIStatusError, None, False, id="message-alone"),
    ],
)
@pytest.mark.parametrize("call", BY_ENDPOINT)
def test_an_error_that_comes_with_200_is_an_error(
    call: Call[Any], body: dict[str, Any], cls: type[APIStatusError], code: str | None, retryable: bool
) -> None:
    """Its code, or the status inside it, tells which."""
    error = read(call, 200, body)
    assert (cls, 200, code, retryable) == (type(error), error.status, error.code, error.retryable)


@pytest.mark.parametrize(
    ("status", "cls"), [(400, BadRequestError), (404, APIStatusError), (499, APIStatusError)], ids=str
)
def test_the_status_of_a_reply_wins_over_one_inside_it(status: int, cls: type[APIStatusError]) -> None:
    """Only a reply that calls itself good may be what its body says."""
    error = status_error(read(REWARDS, status, {"error": {"code": 503}}))
    assert (cls, status, False) == (type(error), error.status, error.retryable)


@pytest.mark.parametrize("call", BY_ENDPOINT)
def test_data_beside_an_error_is_an_error(call: Call[Any]) -> None:
    """Partial rows must not pass for all rows."""
    body = {**GOOD[call.endpoint.name], "error": "internal_error"}
    assert ServerError is type(read(call, 200, body))


@pytest.mark.parametrize("call", BY_ENDPOINT)
@pytest.mark.parametrize(
    "beside",
    [{"error": None}, {"error": ""}, {"error": {}}, {"message": "ok"}, {"reason": "why"}],
    ids=str,
)
def test_data_beside_what_only_looks_like_an_error_is_data(call: Call[Any], beside: dict[str, Any]) -> None:
    """New properties are tolerated, whatever their names."""
    expected = read(call, 200, GOOD[call.endpoint.name])
    outcome = read(call, 200, {**GOOD[call.endpoint.name], **beside})
    if isinstance(expected, Page):
        assert (expected.items, expected.paging) == (outcome.items, outcome.paging)
    else:
        assert expected == outcome


@pytest.mark.parametrize(
    ("header", "expected"),
    [(None, None), ("7", 7.0), ("0", 0.0), ("86400", 86400.0), ("soon", None), ("-1", None)],
    ids=str,
)
@pytest.mark.parametrize("status", [400, 429, 503])
def test_retry_after_is_an_attribute(status: int, header: str | None, expected: float | None) -> None:
    """Garbage is `None` and does not mask the error that it came with."""
    headers = {} if header is None else {"retry_after": header}
    assert expected == status_error(read(REWARDS, status, {}, **headers)).retry_after


NOT_JSON = [
    pytest.param(b"<html>Log in</html>", id="html"),
    pytest.param(b'{"user_id": 1', id="cut"),
    pytest.param(b'{"user_id": 1} {}', id="two-values"),
    pytest.param(b"{'user_id': 1}", id="single-quotes"),
    pytest.param(b'{"user_id": 1,}', id="comma-at-the-end"),
    pytest.param(b'{"user_id": NaN}', id="nan"),
    pytest.param(b'{"user_id": Infinity}', id="infinity"),
    pytest.param(b'{"user_id": -Infinity}', id="minus-infinity"),
    pytest.param(b'{"user_id": 1e999}', id="beyond-floats"),
    pytest.param(b'{"added": 1e999}', id="beyond-floats-elsewhere"),
    pytest.param(b"9" * 5000, id="5000-digits"),
    pytest.param(b'{"user_id": ' + b"9" * 5000 + b"}", id="5000-digits-inside"),
    pytest.param(b'{"user_id": 01}', id="leading-zero"),
    pytest.param(b'{"added": "\\ud800"}', id="lone-surrogate"),
    pytest.param(b'{"added": "\\udc00\\ud800"}', id="swapped-surrogates"),
    pytest.param(b'{"added": "\xed\xa0\x80"}', id="encoded-surrogate"),
    pytest.param(b'{"added": "\xe9"}', id="latin-1"),
    pytest.param('{"user_id": 1}'.encode("utf-16"), id="utf-16"),
    pytest.param(b'{"added": "a\nb"}', id="raw-line-break"),
    pytest.param(gzip.compress(b"{}"), id="still-compressed"),
    pytest.param(b"\x00", id="nul"),
]


@pytest.mark.parametrize("body", NOT_JSON)
@pytest.mark.parametrize("call", BY_ENDPOINT)
def test_a_body_that_is_not_json_may_be_better_next_time(call: Call[Any], body: bytes) -> None:
    """It is a `DecodeError` that says what came instead, and is worth another attempt."""
    error = decode_error(read(call, 200, body, content_type="text/html; charset=utf-8"))

    assert ("$", True) == (error.path, error.retryable)
    came = f"(content type: text/html; charset=utf-8, {len(body)} bytes)"
    assert f"the body is not JSON in UTF-8 {came}" == error.reason


@pytest.mark.parametrize("call", BY_ENDPOINT)
@pytest.mark.parametrize("status", [200, 202, 204])
@pytest.mark.parametrize("body", [b"", b" \r\n"], ids=["empty", "blank"])
def test_an_empty_body_may_be_better_next_time(call: Call[Any], status: int, body: bytes) -> None:
    """The status is told, as a 204 explains itself."""
    error = decode_error(read(call, status, body))
    assert (f"the body is empty, with status {status}", True) == (error.reason, error.retryable)


def test_a_body_without_a_content_type_says_so() -> None:
    """A missing header is no reason to fail otherwise."""
    assert "content type: none, 1 bytes" in decode_error(read(POINTS, 200, b"<")).reason


@pytest.mark.parametrize("call", BY_ENDPOINT)
@pytest.mark.parametrize(
    "body",
    [None, [], [1], ["a"], [[]], "error", "", 0, 1.5, True, False],
    ids=repr,
)
def test_a_body_of_another_kind_is_refused(call: Call[Any], body: Any) -> None:
    """It is JSON, so it will not change: the whole body is the place, and it is not asked for again."""
    error = decode_error(read(call, 200, body))
    assert ("$", False) == (error.path, error.retryable)
    assert error.reason.startswith("expected an object, got ")


@pytest.mark.parametrize("call", BY_ENDPOINT)
def test_a_good_body_in_an_array_is_refused(call: Call[Any]) -> None:
    """Only `paging` may be an array of one."""
    error = decode_error(read(call, 200, [GOOD[call.endpoint.name]]))
    assert ("$", "expected an object, got an array") == (error.path, error.reason)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        pytest.param(None, "expected an array, got null", id="null"),
        pytest.param({}, "expected an array, got an object", id="object"),
        pytest.param("", "expected an array, got a text", id="text"),
        pytest.param(0, "expected an array, got a number", id="number"),
        pytest.param(False, "expected an array, got a boolean", id="boolean"),
    ],
)
@pytest.mark.parametrize("call", [REWARDS, PURCHASES], ids=["rewards", "purchases"])
def test_a_list_that_is_no_array_is_no_empty_page(call: Call[Any], sent: Any, reason: str) -> None:
    """A page must not be skipped in silence."""
    name = call.endpoint.entries
    error = decode_error(read(call, 200, {"paging": {"total": 0, "pages": 0}, name: sent}))
    assert (name, reason, False) == (error.path, error.reason, error.retryable)


@pytest.mark.parametrize("call", [REWARDS, PURCHASES], ids=["rewards", "purchases"])
def test_an_empty_list_is_an_empty_page(call: Call[Any]) -> None:
    """The server said so."""
    page = read(call, 200, {"paging": {"total": 0, "pages": 0}, call.endpoint.entries: []})
    assert ((), 0, 0, 1) == (page.items, page.total, page.pages, page.number)


@pytest.mark.parametrize("sent", [{}, {"paging": None}, {"paging": []}, {"paging": 1}], ids=str)
@pytest.mark.parametrize("call", [REWARDS, PURCHASES], ids=["rewards", "purchases"])
def test_a_page_without_paging_is_refused(call: Call[Any], sent: dict[str, Any]) -> None:
    """Both endpoints require it, and a walk can't do without."""
    assert "paging" == decode_error(read(call, 200, {call.endpoint.entries: [], **sent})).path


@pytest.mark.parametrize(
    ("call", "body", "path"),
    [
        pytest.param(REWARDS, rewards_page(date_end="soon"), "rewards[0].date_end", id="date"),
        pytest.param(REWARDS, rewards_page(date_end="0000-00-00"), "rewards[0].date_end", id="zero-date"),
        pytest.param(REWARDS, rewards_page(segment={"name": 1.5}), "rewards[0].segment.name", id="segment"),
        pytest.param(REWARDS, rewards_page(image=None), "rewards[0].image", id="image"),
        pytest.param(
            REWARDS, {**recorded(REWARDS, "sample"), "num_points": 1.9}, "rewards[0].num_points", id="inline"
        ),
        pytest.param(
            PURCHASES, purchases_page(purchase_total="4.00"), "purchases[0].purchase_total", id="total"
        ),
        pytest.param(PURCHASES, {**purchases_page(), "purchases": [None]}, "purchases[0]", id="entry"),
        pytest.param(POINTS, {**GOOD["points_awaiting_fulfillment"], "user_id": None}, "user_id", id="user"),
        pytest.param(POINTS, {"total_points_awaiting_fulfillment": 1}, "user_id", id="missing-user"),
    ],
)
def test_the_place_of_a_wrong_value_is_told(call: Call[Any], body: dict[str, Any], path: str) -> None:
    """A wrong shape will not change, so it is not asked for again."""
    error = decode_error(read(call, 200, body))
    assert (path, False) == (error.path, error.retryable)
    assert str(error).endswith(f" @ {path}")
    assert error.__traceback__ is None


def test_the_fourth_of_many_is_found() -> None:
    """The index counts from zero."""
    [reward] = rewards_page()["rewards"]
    body = {**rewards_page(), "rewards": [reward, reward, reward, {**reward, "date_end": "soon"}]}
    assert "rewards[3].date_end" == decode_error(read(REWARDS, 200, body)).path


@pytest.mark.parametrize("digits", [2**63, 2**64, 2**64 + 1, 10**30], ids=str)
def test_large_integers_are_exact(digits: int) -> None:
    """They never become floats, neither in a model nor in the raw body."""
    body = json.dumps({**purchases_page(purchase_total=digits, purchase_id=digits), "added": digits}).encode()
    page = read(PURCHASES, 200, body)
    assert (digits, str(digits), digits) == (
        page.items[0].purchase_total,
        page.items[0].purchase_id,
        page.raw["added"],
    )


@pytest.mark.parametrize("call", BY_ENDPOINT)
@pytest.mark.parametrize(
    "nested",
    [b"[" * 10**5 + b"]" * 10**5, b'{"a":' * 10**5 + b"1" + b"}" * 10**5],
    ids=["arrays", "objects"],
)
def test_bottomless_nesting_is_refused(call: Call[Any], nested: bytes) -> None:
    """It is no accident, so it is not asked for again; with an error status the status counts."""
    error = decode_error(read(call, 200, nested))

    assert error.reason.startswith("the body is nested too deeply")
    assert not error.retryable
    assert ServerError is type(read(call, 500, nested))


@pytest.mark.parametrize("call", BY_ENDPOINT)
@pytest.mark.parametrize(
    ("unit", "values"),
    [(b"{},", 2), (b"[],", 2), (b"0,", 1), (b"[" * 99 + b"]" * 99 + b",", 100)],
    ids=["objects", "arrays", "numbers", "nested"],
)
def test_a_body_of_endless_values_is_not_decoded(call: Call[Any], unit: bytes, values: int) -> None:
    """Making ten millions of them takes the event loop a second, and the memory of thirty bodies."""
    count = 250_000 // values
    several = b'{"%s":[%s0]}'
    name = (call.endpoint.entries or "user_id").encode()
    error = read(call, 200, several % (name, unit * count))
    assert ResponseTooLargeError is type(error)
    assert ("the body has more than 250,000 values; it was not decoded", False) == (
        error.reason,
        error.retryable,
    )
    assert isinstance(read(call, 200, several % (name, unit * (count - 2))), DecodeError)


def test_a_long_text_is_not_taken_for_many_values() -> None:
    """It is the values that cost."""
    text = "X" * 300_000
    page = read(REWARDS, 200, {"rewards": [], "paging": {}, "added": text})
    assert text == page.raw["added"]


@pytest.mark.parametrize("depth", [100, 400, 600], ids=str)
@pytest.mark.parametrize("call", BY_ENDPOINT)
def test_deep_nesting_ends_in_an_error_of_ours(call: Call[Any], depth: int) -> None:
    """Details that JSON can still read are kept or dropped, but never end in a `RecursionError`."""
    nested = b"[" * depth + b"]" * depth
    body = b'{"error": {"errors": [{"reason": "user_not_found", "added": %s}]}}' % nested

    for status in (200, 404):
        error = read(call, status, body)
        for twin in (error, pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
            assert UserNotFoundError is type(twin)
            assert "user_not_found" == twin.code


@pytest.mark.parametrize("call", [REWARDS, PURCHASES], ids=["rewards", "purchases"])
def test_deep_nesting_beside_the_data_is_tolerated(call: Call[Any]) -> None:
    """It is an unknown property like any other."""
    body = (
        json.dumps(GOOD[call.endpoint.name]).encode()[:-1] + b', "added": ' + b"[" * 300 + b"]" * 300 + b"}"
    )
    assert 1 == len(read(call, 200, body))


def test_the_last_of_two_equal_names_counts() -> None:
    """That is what most encoders and decoders do."""
    body = (
        b'{"user_id": 1, "total_points_awaiting_fulfillment": 1,'
        b' "total_points_awaiting_fulfillment": 2, "bonus_points_awaiting_fulfillment": 3}'
    )
    assert PointsAwaitingFulfillment(1, 2, 3) == read(POINTS, 200, body)


@pytest.mark.parametrize("status", [200, 404])
def test_a_byte_order_mark_is_tolerated(status: int) -> None:
    """It stands before good bodies and error bodies alike."""
    body = GOOD["points_awaiting_fulfillment"] if status == 200 else {"error": "not_found"}
    outcome = read(POINTS, status, b"\xef\xbb\xbf" + json.dumps(body).encode())
    assert (PointsAwaitingFulfillment if status == 200 else UserNotFoundError) is type(outcome)


def test_texts_arrive_as_sent() -> None:
    """Astral characters, escaped or not, and right-to-left marks survive."""
    title = "Ünïcödé \U0001f381 \u200f\u0000"
    for ascii_only in (True, False):
        body = json.dumps(rewards_page(title=title), ensure_ascii=ascii_only).encode()
        assert title == read(REWARDS, 200, body).items[0].title


@pytest.mark.parametrize("call", BY_ENDPOINT)
def test_unknown_properties_are_tolerated(call: Call[Any]) -> None:
    """The platform adds some every week; in pages they stay in the raw body."""
    body = {**GOOD[call.endpoint.name], "added": {"deep": [1, None]}}
    outcome = read(call, 200, body)

    assert not isinstance(outcome, CrowdTwistError)
    if isinstance(outcome, Page):
        assert body == outcome.raw


@pytest.mark.parametrize("status", [200, 201, 206, 299])
def test_any_2xx_is_good(status: int) -> None:
    """The body decides then."""
    assert PointsAwaitingFulfillment(1, 4000, 1000) == read(
        POINTS, status, GOOD["points_awaiting_fulfillment"]
    )


@pytest.mark.parametrize(
    ("asked", "id_type", "answered", "same"),
    [
        pytest.param("11138266", "id", 11138266, True, id="same"),
        pytest.param("11138266", "id", "11138266", True, id="same-as-text"),
        pytest.param("0011138266", "id", 11138266, True, id="leading-zeros"),
        pytest.param("0", "id", 0, True, id="zero"),
        pytest.param("11138266", "id", 11138267, False, id="another"),
        pytest.param("alice", "id", 11138266, True, id="no-number"),
        pytest.param("٣", "id", 11138266, True, id="other-digits"),
        pytest.param("97843", "third_party_id", 11138266, True, id="another-kind-of-id"),
        pytest.param("5551239687", "mobile_phone_number", 11138266, True, id="phone"),
    ],
)
def test_another_users_points_are_refused(asked: str, id_type: str, answered: Any, same: bool) -> None:
    """A reply that was meant for someone else must not be booked; only CrowdTwist ids can be compared."""
    body = {**GOOD["points_awaiting_fulfillment"], "user_id": answered}
    outcome = read(points_call(SETTINGS, asked, id_type), 200, body)

    if same:
        assert isinstance(outcome, PointsAwaitingFulfillment), outcome
    else:
        error = decode_error(outcome)
        assert ("user_id", False) == (error.path, error.retryable)
        assert "the reply is about another user than the one asked for" == error.reason


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308, 399])
@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error": "x"}'], ids=["empty", "html", "json"])
def test_any_3xx_is_a_redirect(status: int, body: bytes) -> None:
    """Whatever its body and with or without a location, it is an error that is not retried."""
    error = read(REWARDS, status, body)

    assert isinstance(error, UnexpectedRedirectError)
    assert (status, False) == (error.status, error.retryable)
    assert f"the server answered {status}, a redirect; the API has none" in str(error)


@pytest.mark.parametrize(
    ("location", "told"),
    [
        pytest.param("https://other.example/path?x=1", " to https://other.example;", id="host"),
        pytest.param("http://other.example:8080/", " to http://other.example:8080;", id="port"),
        pytest.param("https://user:pass@other.example/", " to https://other.example;", id="user"),
        pytest.param("https://[2001:db8::1]/", " to https://2001:db8::1;", id="ipv6"),
        pytest.param("/login", "a redirect;", id="path"),
        pytest.param("//other.example/", "a redirect;", id="no-scheme"),
        pytest.param("https://[oops", "a redirect;", id="unreadable"),
        pytest.param("https://other.example:port/", "a redirect;", id="unreadable-port"),
        pytest.param("mailto:alice@example.com", "a redirect;", id="no-host"),
        pytest.param("", "a redirect;", id="empty"),
    ],
)
def test_a_redirects_origin_is_told(location: str, told: str) -> None:
    """Scheme and host are enough; user, path and query may be secret."""
    text = str(read(REWARDS, 302, b"", location=location))
    assert told in text
    assert not any(word in text for word in ("path", "x=1", "user", "pass@", "login", "alice"))


def test_a_redirect_does_not_tell_the_key() -> None:
    """A location echoes what was asked for."""
    error = read(REWARDS, 302, b"", location=f"https://other.example/rewards?api_key={KEY}")
    assert not leaks(f"{error}{vars(error)}")


ECHOES = [
    pytest.param({"error": KEY, "message": f"{KEY} for {ALICE}"}, id="flat"),
    pytest.param({"system": KEY, "reason": ALICE, "description": ALICE, "message": KEY}, id="four-fields"),
    pytest.param({"error": {"message": KEY, "errors": [{"reason": KEY, KEY: [ALICE, KEY]}]}}, id="nested"),
    pytest.param([{"error": f"x{KEY}x", "message": f"?api_key={KEY}&user={ALICE}"}], id="list"),
    pytest.param(f"CTApiKey {KEY}, user alice%40example.com", id="text"),
    pytest.param(
        f"<a href='/{ALICE}/rewards?api_key={KEY}&amp;page=2'>CTApiKey {KEY}</a>".encode(), id="html"
    ),
]


@pytest.mark.parametrize("body", ECHOES)
@pytest.mark.parametrize("status", [200, 400, 403, 404, 429, 500])
def test_errors_keep_neither_key_nor_user(status: int, body: Any) -> None:
    """What the server echoes is masked in the text and in every attribute."""
    error = read(REWARDS, status, body)

    assert isinstance(error, CrowdTwistError)
    kept = f"{error}{error!r}{vars(error)}"
    assert not leaks(kept)
    assert "alice" not in kept


def test_a_content_type_does_not_tell_the_key() -> None:
    """It is the server's text like any other, and cut to a reasonable length."""
    error = decode_error(read(REWARDS, 200, b"<", content_type=f"text/{KEY}; {ALICE}; {'x' * 1000}"))
    assert not leaks(str(error))
    assert "alice" not in str(error)
    assert len(str(error)) < 200


def test_80_characters_of_a_content_type_are_told() -> None:
    """It is the server's text, and may be anything."""
    reason = decode_error(read(REWARDS, 200, b"<", content_type="x" * 100)).reason
    assert f"(content type: {'x' * 80}, 1 bytes)" in reason


@pytest.mark.parametrize("before", range(180, 205, 3))
def test_no_half_key_stays_where_a_page_is_cut(before: int) -> None:
    """The page is masked before its first 200 characters are taken."""
    error = read(REWARDS, 503, b"x" * before + b" " + KEY.encode() + b" y")
    assert KEY[:3] not in str(error)


@pytest.mark.parametrize("beginning", [b"", b"<html>", b"<a href="], ids=ascii)
def test_no_half_key_stays_where_reading_a_page_ends(beginning: bytes) -> None:
    """Blanks before the key are folded, so that a key that was cut could come into view."""
    for start in range(4096 - len(KEY), 4097):
        error = read(REWARDS, 503, beginning.ljust(start) + KEY.encode() + b" refused")
        assert KEY[:3] not in str(error)


@pytest.mark.parametrize("code", ["not_found", "no_data", "invalid_auth", "not_configured", "internal_error"])
def test_codes_that_decide_are_kept(code: str) -> None:
    """A user who is called like a code does not change what it means."""
    call = points_call(SETTINGS, code, "third_party_id")
    assert code == status_error(read(call, 400, {"reason": code, "message": "a"})).code


def test_other_codes_are_masked_and_cut() -> None:
    """A code is the server's text, and may be anything."""
    call = points_call(SETTINGS, "invalid_parameter", "third_party_id")
    assert "***" == status_error(read(call, 400, {"reason": "invalid_parameter"})).code
    assert 200 == len(status_error(read(call, 400, {"reason": "x" * 1000})).code or "")


@pytest.mark.parametrize(
    "escape", ["", "\\/", "\\u0026", "\\u003d"], ids=["plain", "slashes", "ampersands", "equals"]
)
def test_keys_in_links_do_not_reach_a_page(escape: str) -> None:
    """Live links carry the caller's key: paging and raw body have them without it."""
    body = json.dumps(rewards_page())
    link = f"https://api201.crowdtwist.com/v2.1/rewards?api_key={KEY}&page=2"
    character = {"\\/": "/", "\\u0026": "&", "\\u003d": "="}.get(escape, "")
    encoded = link.replace(character, escape) if character else link
    paging = f'{{"total": 11, "pages": 2, "next_page": "{encoded}"}}'
    page = read(REWARDS, 200, body.replace('{"total": 1, "pages": 1}', paging).encode())

    assert "https://api201.crowdtwist.com/v2.1/rewards?api_key=&page=2" == page.paging.next_page
    assert page.paging.next_page == page.raw["paging"]["next_page"]
    assert not leaks(repr(page.raw))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text(max_size=20) | st.just(KEY),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text(max_size=10), inner, max_size=4),
    max_leaves=5,
)
PROPERTIES = sorted(
    {
        "error",
        "message",
        "reason",
        "description",
        "system",
        "code",
        "errors",
        "paging",
        "rewards",
        "purchases",
    }
    | set(GOOD["points_awaiting_fulfillment"])
    | set(rewards_page()["rewards"][0])
)
STATUSES = st.integers(100, 999) | st.sampled_from([200, 200, 200, 400, 404, 500])


def assert_ours(call: Call[Any], status: int, outcome: Any) -> None:
    """A reply has become a result or an error of the tree, and an error status an error."""
    assert isinstance(outcome, PointsAwaitingFulfillment | Page | CrowdTwistError)
    if isinstance(outcome, CrowdTwistError):
        assert not leaks(f"{outcome}{vars(outcome)}")
        assert outcome.reason
    elif not 200 <= status < 300:
        assert isinstance(outcome, Page)
        assert ("user_rewards", 0, 0) == (call.endpoint.name, len(outcome), outcome.total)
    else:
        assert isinstance(outcome, PointsAwaitingFulfillment if call is POINTS else Page)


@settings(deadline=None, max_examples=150)
@given(
    body=JSON_VALUES | st.dictionaries(st.sampled_from(PROPERTIES), JSON_VALUES, max_size=4), status=STATUSES
)
@example(body={"error": {"errors": [{KEY: KEY}], "code": 404}}, status=200)
@example(body={"error": "no_data"}, status=400)
def test_any_json_is_a_result_or_an_error_of_ours(body: Any, status: int) -> None:
    """No body and no status ends in an exception of another kind, on any endpoint."""
    for call in CALLS.values():
        assert_ours(call, status, read(call, status, body))


@settings(deadline=None, max_examples=150)
@given(
    changes=st.dictionaries(st.sampled_from(PROPERTIES), JSON_VALUES, max_size=3),
    place=st.sampled_from(["body", "entry", "paging"]),
)
def test_any_change_to_a_good_body_is_a_result_or_an_error_of_ours(
    changes: dict[str, Any], place: str
) -> None:
    """Neither a changed body nor a changed entry or paging ends in an exception of another kind."""
    for call in CALLS.values():
        body = copy.deepcopy(GOOD[call.endpoint.name])
        [entry] = body.get(call.endpoint.entries, [body])
        {"body": body, "entry": entry, "paging": body.get("paging", body)}[place].update(changes)
        assert_ours(call, 200, read(call, 200, body))


@settings(deadline=None, max_examples=150)
@given(
    body=st.binary(max_size=100) | st.sampled_from([json.dumps(body).encode() for body in GOOD.values()]),
    cut=st.integers(0, 2000),
    status=STATUSES,
    header=any_text(max_size=40),
)
@example(body=b"\xef\xbb\xbf", cut=2000, status=200, header="")
@example(body=b"", cut=0, status=302, header="https://[")
def test_any_bytes_are_a_result_or_an_error_of_ours(body: bytes, cut: int, status: int, header: str) -> None:
    """Neither garbage nor a cut body nor odd headers end in an exception of another kind."""
    for call in CALLS.values():
        outcome = read(call, status, body[:cut], location=header, retry_after=header, content_type=header)
        assert_ours(call, status, outcome)


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_no_data_beside_another_status_is_an_error(status: int) -> None:
    """Status wins: an outage must not pass for a member without rewards."""
    error = status_error(read(REWARDS, status, {"error": "no_data", "message": "a"}))
    assert status == error.status


def test_a_huge_error_body_is_not_looked_through() -> None:
    """Masking megabytes would block the event loop; what is kept of an error is short."""
    huge = b'{"error": "invalid", "message": "' + b"api_key=x " * 500_000 + b'"}'
    started = time.perf_counter()
    error = status_error(read(REWARDS, 400, huge))
    wrapped = status_error(read(REWARDS, 200, {"error": "invalid", "message": "x" * 5_000_000}))
    coded = status_error(read(REWARDS, 200, {"error": "CTApiKey x " * 500_000}))
    assert time.perf_counter() - started < 1
    assert len(str(error)) < 300
    assert len(str(coded)) < 300
    assert len(str(wrapped)) < 3_000


@pytest.mark.parametrize(
    ("status", "size", "code", "details"),
    [
        (400, 65_536, "invalid", ({"n": 1},)),
        (400, 65_537, None, ()),
        (200, 65_536, "invalid", ({"n": 1},)),
        (200, 65_537, "invalid", ()),
    ],
    ids=str,
)
def test_64_kilobytes_of_an_error_are_read(
    status: int, size: int, code: str | None, details: tuple[Any, ...]
) -> None:
    """What is longer is quoted as a page is; in a good status it is read, but its entries are not kept."""
    body = b'{"error": "invalid", "errors": [{"n": 1}]'.ljust(size - 1) + b"}"
    error = status_error(read(REWARDS, status, body))
    assert (code, details) == (error.code, error.details)


@pytest.mark.parametrize(("values", "kept"), [(996, True), (997, False)], ids=str)
@pytest.mark.parametrize("status", [200, 400], ids=str)
def test_the_entries_of_a_thousand_values_are_kept(status: int, values: int, kept: bool) -> None:
    """Each is masked by itself: those of 64 kilobytes would block the event loop for half a second."""
    entry = {"n": [1] * values}
    error = status_error(read(REWARDS, status, {"error": "invalid", "errors": [entry]}))
    assert ((entry,) if kept else ()) == error.details
    assert "invalid" == error.code


def test_what_is_kept_of_an_error_is_short() -> None:
    """2,000 characters of each text, and 50 entries."""
    texts = dict.fromkeys(("message", "description", "system"), "x" * 3_000)
    entries = [{"number": number} for number in range(60)]
    error = status_error(read(REWARDS, 400, {"reason": "invalid", **texts, "errors": entries}))

    assert ("invalid", *["x" * 2_000] * 3) == said(error)
    assert tuple(entries[:50]) == error.details
