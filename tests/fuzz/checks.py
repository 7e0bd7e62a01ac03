"""
What must hold for every reply and every argument, however odd.
"""

from __future__ import annotations

import math
import pickle
from random import Random
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import arguments
import msgspec
from conftest import KEY, leaks

from crowdtwist_async import CrowdTwistClient, CrowdTwistError, Page, RateBudget, Reply, RetryPolicy
from crowdtwist_async._config import Base, Settings, is_loopback, make_settings
from crowdtwist_async._protocol import Call, points_call, purchases_call, rewards_call
from crowdtwist_async._replies import read_reply
from crowdtwist_async._retry import delay_before_retry, read_retry_after
from crowdtwist_async._secrets import Redactor, Secret
from crowdtwist_async._walk import Seen, next_backward, next_forward
from crowdtwist_async.emulator.calls import route
from crowdtwist_async.errors import ConfigurationError, InvalidArgumentError, PaginationLoopError
from crowdtwist_async.export.formats.jsonl import encode
from crowdtwist_async.export.rows import Row, flatten, make_row
from crowdtwist_async.models import PointsAwaitingFulfillment

SETTINGS = make_settings(api_key=Secret(KEY), client_id=201)
CALLS: tuple[Call[Any], ...] = (
    points_call(SETTINGS, "1", "id"),
    rewards_call(SETTINGS, "alice@example.com", id_type="email"),
    purchases_call(SETTINGS, "332170040", id_type="id"),
    purchases_call(SETTINGS, "+1 (416) 555-0123", id_type="mobile_phone_number", page=7),
)
REDACTORS = [Redactor(SETTINGS.key, (call.user_id,)) for call in CALLS]
_POLICY = RetryPolicy()


def check_reply(number: int, reply: Reply) -> str:
    """Read a reply to one of the calls, and say what it came to."""
    call = CALLS[number]
    outcome = read_reply(call, reply, REDACTORS[number])
    if isinstance(outcome, CrowdTwistError):
        _check_error(outcome)
        return type(outcome).__name__
    if isinstance(outcome, Page):
        _check_page(call, outcome)
    else:
        assert isinstance(outcome, PointsAwaitingFulfillment), type(outcome)
        _check_rows(call, [_row(call, outcome, {})])
    return type(outcome).__name__


def _check_error(error: CrowdTwistError) -> None:
    said = f"{error}\n{error!r}\n{error.args}\n{vars(error)}"
    assert not leaks(said), "the key is in the error"
    assert str(error), "an error without a sentence"
    said.encode()
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert error.__cause__ is None
    assert not leaks(repr(error.__context__))
    delay = delay_before_retry(error, 1, _POLICY)
    assert delay is None or 0 <= delay <= _POLICY.max_retry_after


def _check_page(call: Call[Any], page: Page[Any]) -> None:
    assert page.raw is not None
    for step in (next_forward, next_backward):
        try:
            following = step(Seen.of(page, call.page_size))
        except PaginationLoopError:
            continue
        assert following is None or type(following) is int
    rows = page.raw.get(call.endpoint.entries) if page.items else []
    sent = rows if isinstance(rows, list) else [page.raw]
    _check_rows(call, [_row(call, item, entry) for item, entry in zip(page.items, sent, strict=False)])


def _row(call: Call[Any], item: Any, sent: dict[str, Any]) -> Row | None:
    try:
        return make_row(call.user_id, call.id_type, item, sent)
    except CrowdTwistError as error:
        error.__traceback__ = None  # the server's data are no secret to who asked for them
        return None


def _check_rows(call: Call[Any], rows: list[Row | None]) -> None:
    """Each row is a line of UTF-8, and a row of a table."""
    written = [row for row in rows if row is not None]
    lines = encode(written).decode().splitlines()
    assert len(written) == len(lines)
    for row, line in zip(written, lines, strict=True):
        assert msgspec.json.decode(line)["requested_id"] == call.user_id
        assert all(cell is None or isinstance(cell, str | int | bool) or cell.tzinfo for cell in flatten(row))


def check_arguments(dice: Random) -> str:
    """Make settings and a call of anything, and say what came of it."""
    match dice.randrange(8):
        case 0:
            return _checked(dice, _check_settings)
        case 1:
            return _checked(dice, _check_options)
    return _checked(dice, _check_call)


def _checked(dice: Random, check: Any) -> str:
    try:
        check(dice)
    except (ConfigurationError, InvalidArgumentError) as error:
        _check_error(error)
        return type(error).__name__
    return "accepted"


def _check_settings(dice: Random) -> None:
    key = arguments.key(dice)
    plain = not isinstance(key, str) or len(key) < 6
    try:
        client = CrowdTwistClient(
            api_key=key,
            client_id=dice.choice((None, 201, "201", arguments.text(dice), arguments.integer(dice))),
            environment=dice.choice(("", "sb-", arguments.text(dice), None)),  # type: ignore[arg-type]
            api_url=arguments.url(dice) if dice.random() < 0.7 else None,
            pos_url=arguments.url(dice) if dice.random() < 0.3 else None,
            transport=_Nowhere(),
        )
    except ConfigurationError as error:
        assert plain or key not in f"{error}{error!r}{vars(error)}"
        raise
    settings = client._session.settings
    assert plain or key not in f"{client!r}{settings!r}"
    for base in (settings.api, settings.pos):
        _check_base(base)
    _check_request(settings, purchases_call(settings, "7", id_type="id"), "7")
    _check_request(settings, rewards_call(settings, "7", id_type="id"), "7")


def _check_base(base: Base) -> None:
    parts = urlsplit(base.origin + base.path)
    assert base.origin.isascii()
    assert parts.hostname
    assert parts.username is None
    assert not parts.query
    assert not parts.fragment
    assert parts.scheme == "https" or is_loopback(parts.hostname)
    assert ".." not in base.path.split("/")
    assert base.host == parts.netloc


def _check_options(dice: Random) -> None:
    numbers = (*arguments._NO_TEXT, math.inf, 1e-9, 10.0, 10**400, "1")
    match dice.randrange(4):
        case 0:
            RateBudget(dice.choice(numbers), dice.choice(numbers))
        case 1:
            policy = RetryPolicy(*dice.choices((*numbers, 4, 0.2), k=dice.randint(1, 4)))
            assert policy.max_attempts >= 1
        case 2:
            seconds = read_retry_after(
                dice.choice((None, arguments.text(dice), arguments.text(dice) + " GMT"))
            )
            assert seconds is None or 0 <= seconds < math.inf
        case 3:
            client = CrowdTwistClient(api_key=KEY, transport=_Nowhere())
            chosen = dice.choice((client.iter_user_rewards, client.iter_user_purchases))
            pager = chosen(
                "7",
                start_page=arguments.integer(dice),
                reverse=arguments.flag(dice),
                max_items=arguments.integer(dice),
                cursor=dice.choice((None, arguments.text(dice), "1:3:2:abcdef", f"1:{'9' * 19}:1:abcdef")),
                on_drift=dice.choice(("warn", "raise", "ignore", None, 7)),  # type: ignore[arg-type]
            )
            assert pager.cursor.startswith("1:")


def _check_call(dice: Random) -> None:
    user = arguments.user_id(dice)
    kind = arguments.id_type(dice)
    try:
        match dice.randrange(3):
            case 0:
                call: Call[Any] = points_call(SETTINGS, user, kind)
            case 1:
                call = rewards_call(
                    SETTINGS,
                    user,
                    id_type=kind,
                    page=arguments.integer(dice) if dice.random() < 0.5 else None,
                    page_size=arguments.integer(dice) if dice.random() < 0.5 else None,
                    include_soldout=arguments.flag(dice) if dice.random() < 0.5 else None,
                )
            case _:
                call = purchases_call(
                    SETTINGS,
                    user,
                    id_type=kind,
                    page=arguments.integer(dice) if dice.random() < 0.5 else None,
                    date_start=arguments.day(dice) if dice.random() < 0.5 else None,
                    date_end=arguments.day(dice) if dice.random() < 0.5 else None,
                )
    except InvalidArgumentError as error:
        assert not isinstance(user, str) or len(user) < 12 or user not in str(error), "the error has the id"
        raise
    _check_request(SETTINGS, call, str(user))


def _check_request(settings: Settings, call: Call[Any], user: str) -> None:
    """The request goes where it should, for this user, with the key in its one place."""
    request = call.request(settings, 10.0)
    base = settings.api if call.endpoint.host == "api" else settings.pos
    assert request.origin == base.origin
    assert request.target.isascii()
    assert request.target.isprintable()
    assert " " not in request.target
    assert request.path.startswith(base.path)
    assert not {"?", "#", "\\", ";"} & set(request.path)
    parts = urlsplit(request.url)
    assert (parts.scheme, parts.netloc, parts.path) == (*base.origin.split("://"), request.path)
    query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    names = [name for name, _ in query]
    assert len(set(names)) == len(names)
    endpoint, in_path = route(request.path.removeprefix(base.path))
    assert endpoint == call.endpoint.name
    found = (
        in_path if in_path is not None else next(value for name, value in query if name in _USER_PARAMETERS)
    )
    assert found == user
    assert all(unquote(step) not in (".", "..") for step in request.path.split("/"))
    key = settings.key.reveal()
    if call.endpoint.host == "api":
        assert dict(query)["api_key"] == key
        assert "X-CT-Authorization" not in request.headers
    else:
        assert "api_key" not in names
        assert request.headers["X-CT-Authorization"] == f"CTApiKey {key}"
    assert all(value.isascii() and value.isprintable() for value in request.headers.values())
    assert len(user) < 12 or user == str(call.page) or user not in repr(call)


_USER_PARAMETERS = {"email_address", "mobile_phone_number", "third_party_id"}


class _Nowhere:
    """A transport that is never asked."""

    async def send(self, request: Any, /) -> Any:
        raise AssertionError("nothing is sent")

    async def aclose(self) -> None:
        """Do nothing."""
