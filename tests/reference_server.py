"""
Serve the three endpoints over real sockets: a reading of the vendor's pages apart from the client's.

Where they leave a choice: bad credentials are 403 `invalid_auth`, the only such reply on any page; absent
links are `""` for purchases (required, a string) and `null` for rewards (not required); `no_data` means that
no user has rewards, "this client" being the brand; an endpoint knows the users in its own mapping.
"""

import json
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlencode

Body = dict[str, Any]
Reply = tuple[int, Body]
PAGE_SIZE = 10
PURCHASE_ID_TYPES = ("email", "id", "third_party_id", "mobile_phone_number")
REWARD_ID_TYPES = (*PURCHASE_ID_TYPES, "facebook_user_id", "twitter_user_id", "username")
POINTS_ID_TYPES = ("email_address", "mobile_phone_number", "third_party_id")
POINTS_FIELDS = ("user_id", "total_points_awaiting_fulfillment", "bonus_points_awaiting_fulfillment")
TITLES = {400: "Bad request", 403: "Forbidden", 404: "Not found", 405: "Method not allowed"}
INVALID_AUTH = (403, "invalid_auth", "Invalid access credentials.")
NOT_SUPPORTED = (405, "not_supported", "The method or path is not supported.")
PURCHASE = """{"last_date_purchased": "%sT11:00:18Z", "purchase_id": "order_%d",
    "purchase_id_type": "order_id", "purchase_total": 400, "total_points_awarded": 450,
    "total_points_earned": 500, "points_awaiting_fulfillment": 200}"""
REWARD = """{"id": "541043", "group_id": 3453, "title": "10% Off Coupon", "description": "Receive a coupon.",
    "current_quantity": 750, "num_points": 100, "date_start": 1490688000, "date_end": 1493193600,
    "date_end_redeemable": 1493280000, "is_enabled": 1, "category_id": 16, "no_end_date": 0,
    "total_quantity": 900, "max_select_quantity": 3, "max_per_user": 5, "is_shipping_required": 1,
    "is_phone_number_required": 0, "is_min_age_required": 1, "min_age": 13, "is_digital_download": 0,
    "sweepstakes_winners": 102, "reference_id": "46a6sd", "total_coupons": 1000, "remaining_coupons": 101,
    "freq_cap": "1", "freq_period_id": "2", "freq_period_name": "Calendar Day", "min_tier_id": 45,
    "image": "http://www.example.com/image", "reward_terms": "http://cdn.crowdtwist.com/reward_terms.pdf",
    "extra_data": {"city": "New York", "state": "New York", "country": "USA", "postal code": "10010"},
    "segment": {"name": "New York Members", "subscription_id": 2, "eligibility_type": "inclusion"},
    "partner_info": {"id": 56577, "name": "Acme Car Rentals"}}"""
REWARD_NULLS = ("date_end", "min_age", "extra_data", "freq_cap", "reward_terms", "segment", "partner_info")


@dataclass(frozen=True)
class RecordedRequest:
    """
    One request: undecoded path without the query, header names in lower case, no API key in the repr.
    """

    method: str
    path: str
    query: dict[str, str] = field(repr=False)
    headers: dict[str, str] = field(repr=False)


def _points_error(status: int, reason: str, message: str) -> Reply:
    description = reason.replace("_", " ").capitalize()
    return status, {"system": "pos", "reason": reason, "description": description, "message": message}


def _rewards_error(status: int, reason: str, message: str) -> Reply:
    return status, {"error": reason, "message": message}


def _purchases_error(status: int, reason: str, message: str) -> Reply:
    errors = [{"reason": reason, "message": message}]
    return status, {"error": {"code": status, "message": TITLES[status], "errors": errors}}


def _integer(text: str, default: int) -> int:
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else default


def _date_range(query: Mapping[str, str]) -> tuple[str, str] | None:
    # Inclusive, as YYYY-MM-DD, which sorts as text; None if a date is malformed or the range reversed.
    today = datetime.now(UTC).date() if "date_start" in query else date.max
    days = query.get("date_start", str(date.min)), query.get("date_end", str(today))
    with suppress(ValueError):
        # fromisoformat also reads 20220101 and 2022-W01-1, which the page does not allow.
        if all(str(date.fromisoformat(day)) == day for day in days):
            return days if days[0] <= days[1] or "date_end" not in query else None
    return None


@dataclass(kw_only=True, eq=False, repr=False)
class ReferenceServer:
    """
    Answer on 127.0.0.1 from fixed records, from entering the context until leaving it.

    Args:
        key: the one API key, accepted by all three endpoints.
        purchases, rewards: the bodies of each CrowdTwist id, in the order in which they are paged.
        points: the user_id, total and bonus points of each CrowdTwist id.
        aliases: the CrowdTwist id of each (id_type, id); the id type of an email address is `email`.
    """

    key: str
    purchases: Mapping[str, Sequence[Body]]
    rewards: Mapping[str, Sequence[Body]]
    points: Mapping[str, tuple[int, int, int]]
    aliases: Mapping[tuple[str, str], str] = field(default_factory=dict)
    url: str = field(init=False)
    """The origin, set on entering, without a slash at the end."""
    requests: list[RecordedRequest] = field(init=False, default_factory=list)
    """Every request in order of arrival, refused ones included."""

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), type("_Bound", (_Handler,), {"reply": self._reply}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _reply(self, request: RecordedRequest) -> Reply:
        self.requests.append(request)
        has_key = request.headers.get("x-ct-authorization") == f"CTApiKey {self.key}"
        match [unquote(part) for part in request.path.split("/")]:
            case ["", "fulfillment", "users", *rest] if len(rest) <= 1:
                user_id, error, answer = "".join(rest), _points_error, self._points_reply
            case ["", "users", user_id, "purchases"]:
                error, answer = _purchases_error, self._purchases_reply
            case ["", "v2.1", "users", user_id, "rewards"]:
                error, answer = _rewards_error, self._rewards_reply
                has_key = request.query.get("api_key") == self.key
            case _:
                return _points_error(*NOT_SUPPORTED)
        if request.method != "GET":
            return error(*NOT_SUPPORTED)
        return answer(request, user_id) if has_key else error(*INVALID_AUTH)

    def _points_reply(self, request: RecordedRequest, user_id: str) -> Reply:
        query = [(name, request.query[name]) for name in POINTS_ID_TYPES if name in request.query]
        if not user_id and not query:
            return _points_error(400, "missing_data", "A user_id or one query parameter is required.")
        named = {self.aliases.get((name.removesuffix("_address"), value), "") for name, value in query}
        found = {user_id} if user_id else named
        # Attributes of two different users together describe nobody.
        if len(found) > 1 or (record := self.points.get(found.pop())) is None:
            return _points_error(400, "user_not_found", "User with given attributes could not be found.")
        return 200, dict(zip(POINTS_FIELDS, record, strict=True))

    def _purchases_reply(self, request: RecordedRequest, user_id: str) -> Reply:
        if request.query.get("id_type", "id") not in PURCHASE_ID_TYPES:
            return _purchases_error(400, "invalid_parameter", "ID type is invalid.")
        if (days := _date_range(request.query)) is None:
            return _purchases_error(400, "invalid_parameter", "Date range is invalid.")
        if (history := self.purchases.get(self._crowdtwist_id(request, user_id))) is None:
            return _purchases_error(404, "user_not_found", "User does not exist")
        within = [item for item in history if days[0] <= item["last_date_purchased"][:10] <= days[1]]
        return 200, self._page(request, "purchases", within, PAGE_SIZE)

    def _rewards_reply(self, request: RecordedRequest, user_id: str) -> Reply:
        if request.query.get("id_type", "id") not in REWARD_ID_TYPES:
            return _rewards_error(400, "param_error", "Param id_type has invalid value.")
        if (offered := self.rewards.get(self._crowdtwist_id(request, user_id))) is None:
            return _rewards_error(400, "page_not_found", "User does not exist.")
        if not any(self.rewards.values()):
            return _rewards_error(400, "no_data", "There are no rewards available to this client.")
        soldout = request.query.get("include_soldout") == "true"
        shown = [item for item in offered if soldout or item["current_quantity"] != 0]
        size = _integer(request.query.get("page_size", ""), PAGE_SIZE)
        return 200, self._page(request, "rewards", shown, min(size, PAGE_SIZE) if size > 0 else PAGE_SIZE)

    def _crowdtwist_id(self, request: RecordedRequest, user_id: str) -> str:
        id_type = request.query.get("id_type", "id")
        return user_id if id_type == "id" else self.aliases.get((id_type, user_id), "")

    def _page(self, request: RecordedRequest, name: str, items: Sequence[Body], size: int) -> Body:
        absent = "" if name == "purchases" else None
        page = _integer(request.query.get("page", ""), 1)
        pages = -(-len(items) // size)
        paging: Body = {"total": len(items), "pages": pages, "next_page": absent, "prev_page": absent}
        # Below the first page the next one is 1; past the last page the previous one is the last.
        for link, target in ("next_page", max(page + 1, 1)), ("prev_page", min(page - 1, pages)):
            if 1 <= target <= pages or target == 1 > page:
                paging[link] = f"{self.url}{request.path}?{urlencode({**request.query, 'page': target})}"
        return {"paging": paging, name: items[(page - 1) * size : page * size] if page >= 1 else []}


class _Server(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        self._workers: list[tuple[Thread, socket.socket]] = []
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        # The base class forgets daemon threads, but closing must end the ones on idle connections.
        thread = Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        thread.start()
        self._workers.append((thread, request))

    def server_close(self) -> None:
        super().server_close()
        for thread, connection in self._workers:
            with suppress(OSError):  # the client left first
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
    reply: Callable[[RecordedRequest], Reply]

    def handle(self) -> None:
        with suppress(ConnectionError):  # clients may hang up at any moment
            super().handle()

    def do_GET(self) -> None:
        # self.path is not raw: the base class folds leading slashes.
        path, _, query = self.requestline.split()[1].partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        parameters = dict(parse_qsl(query, keep_blank_values=True))
        self.rfile.read(int(headers.get("content-length", 0)))
        status, body = self.reply(RecordedRequest(self.command, path, parameters, headers))
        encoded = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, *args: Any, **kwargs: Any) -> None: ...  # URLs hold the API key


def make_purchases(n: int) -> list[dict[str, Any]]:
    """
    Return `n` purchases, one a day from 2018-01-01, starting again after 2000 days; all in the past.
    """
    return [json.loads(PURCHASE % (date(2018, 1, 1) + timedelta(i % 2000), i)) for i in range(n)]


def make_rewards(n: int) -> list[dict[str, Any]]:
    """
    Return `n` rewards in stock, ids "1" to "n"; every second one has nulls and "0" as in the page's sample.
    """
    sparse = dict.fromkeys(REWARD_NULLS) | {"is_min_age_required": "0", "no_end_date": 1}
    return [json.loads(REWARD) | {"id": str(i)} | (sparse if i % 2 == 0 else {}) for i in range(1, n + 1)]
