"""
The rules of the three endpoints, each a function from a call to an answer.

In this order: the method (405), the key or signature (403), the parameters (400), the user (400 or 404).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date

from crowdtwist_async.emulator.answers import Answer, refusal
from crowdtwist_async.emulator.calls import POINTS, POINTS_PARAMETERS, PURCHASES, REWARDS, Call
from crowdtwist_async.emulator.paging import MAX_PAGE_SIZE, Window, page_number, page_size
from crowdtwist_async.emulator.program import Program

PURCHASES_ID_TYPES = frozenset({"email", "id", "third_party_id", "mobile_phone_number"})
REWARDS_ID_TYPES = PURCHASES_ID_TYPES | {"facebook_user_id", "twitter_user_id", "username"}

NO_REWARDS_LINK = None
"""What the rewards endpoint sends for an absent link, which its reference calls not required."""
NO_PURCHASES_LINK = ""
"""What the purchases endpoint sends for an absent link, which its reference requires as a String."""


def answer(call: Call, program: Program, admits: Callable[[Call], bool]) -> Answer:
    """Answer one request as the API would, if it is admitted."""
    if call.endpoint is None:
        return refusal(None, 404, "", "")
    if call.method != "GET":
        allowed = ((b"allow", b"GET"),)
        return refusal(call.endpoint, 405, "not_supported", "HTTP method is not supported.", allowed)
    if not admits(call):
        return refusal(call.endpoint, 403, "invalid_auth", "Invalid access credentials.")
    return _ENDPOINTS[call.endpoint](call, program)


def points(call: Call, program: Program) -> Answer:
    """Points Awaiting Fulfillment; every attribute in the query must name the same member."""
    named = {"id": call.user or ""} if call.in_path else _attributes(call)
    if not named:
        return refusal(POINTS, 400, "missing_data", "A user id or a query parameter is required.")
    found = {program.members.find(value, id_type) for id_type, value in named.items()}
    index = found.pop()
    if found or index is None:
        return refusal(POINTS, 400, "user_not_found", "User with given attributes could not be found.")
    total, bonus = program.members.points(index)
    body = {
        "user_id": program.members.id_of(index),
        "total_points_awaiting_fulfillment": total,
        "bonus_points_awaiting_fulfillment": bonus,
    }
    return Answer(200, json.dumps(body).encode(), rows=1)


def rewards(call: Call, program: Program) -> Answer:
    """User Rewards, version 2.1."""
    id_type = call.query.get("id_type", "id")
    if id_type not in REWARDS_ID_TYPES:
        return refusal(REWARDS, 400, "param_error", "Param id_type has invalid value.")
    index = program.members.find(call.user or "", id_type)
    if index is None:
        return refusal(REWARDS, 400, "page_not_found", "User does not exist.")
    if program.catalogue.size == 0:
        return refusal(REWARDS, 400, "no_data", "There are no rewards available to this client.")
    soldout = call.query.get("include_soldout", "").lower() == "true"
    rows = program.rewards(index, include_soldout=soldout)
    window = Window(page_number(call.query.get("page")), page_size(call.query.get("page_size")), len(rows))
    page = rows[window.rows]
    paging = json.dumps(window.paging(call.link, NO_REWARDS_LINK)).encode()
    # The rewards are JSON already: encoding a page of them anew costs more than all the rest.
    return Answer(200, b'{"paging": %b, "rewards": [%b]}' % (paging, b", ".join(page)), rows=len(page))


def purchases(call: Call, program: Program) -> Answer:
    """User Purchase History, newest first."""
    id_type = call.query.get("id_type", "id")
    if id_type not in PURCHASES_ID_TYPES:
        return refusal(PURCHASES, 400, "invalid_parameter", "ID type is invalid.")
    try:
        first, last = _day(call.query.get("date_start")), _day(call.query.get("date_end"))
    except ValueError:
        return refusal(PURCHASES, 400, "invalid_parameter", "Dates must be given as YYYY-MM-DD.")
    if first is not None and last is not None and last < first:
        return refusal(PURCHASES, 400, "invalid_parameter", "date_end can't be before date_start.")
    index = program.members.find(call.user or "", id_type)
    if index is None:
        return refusal(PURCHASES, 404, "user_not_found", "User does not exist")
    history = program.history(index)
    serials = history.between(first, last)
    window = Window(page_number(call.query.get("page")), MAX_PAGE_SIZE, len(serials))
    page = [history.row(serial) for serial in serials[window.rows]]
    body = {"purchases": page, "paging": window.paging(call.link, NO_PURCHASES_LINK)}
    return Answer(200, json.dumps(body).encode(), rows=len(page))


def _attributes(call: Call) -> dict[str, str]:
    """The member's attributes in the query of a points request, by id type."""
    return {id_type: call.query[name] for name, id_type in POINTS_PARAMETERS.items() if name in call.query}


def _day(text: str | None) -> date | None:
    """Read `YYYY-MM-DD`; `date.fromisoformat` alone would also take `20260101` and weeks."""
    if text is None:
        return None
    day = date.fromisoformat(text)
    if day.isoformat() != text:
        raise ValueError("not written as YYYY-MM-DD")
    return day


_ENDPOINTS: dict[str, Callable[[Call, Program], Answer]] = {
    POINTS: points,
    REWARDS: rewards,
    PURCHASES: purchases,
}
