"""
The rules for a call's arguments, checked before any request.

Every refusal is an `InvalidArgumentError` that says what to give instead; none repeats a user id.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Any, Literal

from crowdtwist_async._secrets import Secret
from crowdtwist_async.errors import InvalidArgumentError
from crowdtwist_async.models import IdType

MAX_PAGE_SIZE = 10
"""Entries per page at most, on both paginated endpoints."""

OnDrift = Literal["warn", "raise", "ignore"]
_ON_DRIFT: tuple[OnDrift, ...] = ("warn", "raise", "ignore")

_LARGEST_PAGE = 2**63 - 1
_LONGEST_USER_ID = 2_048
_CONTROL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"


def checked_user_id(user_id: object) -> str:
    """A user id that can stand in a path: text, or the number of a CrowdTwist id or phone."""
    secret = Secret.of(user_id)
    del user_id  # so that no traceback through this frame shows it
    problem = _user_id_problem(secret)
    if problem is not None:
        raise InvalidArgumentError(problem)
    revealed = secret.reveal()
    # An enumeration of texts would write its name.
    return str.__str__(revealed) if isinstance(revealed, str) else str(revealed)


def _user_id_problem(secret: Secret) -> str | None:
    """What is wrong with a user id. Returned, not raised, so that no traceback holds this frame."""
    user_id: object = secret.reveal()
    if type(user_id) is int:
        return None if abs(user_id) <= _LARGEST_PAGE else "user_id is beyond 64 bits"
    if not isinstance(user_id, str):
        return f"user_id must be a str or an int, not {type(user_id).__name__}"
    if not user_id or user_id.isspace():
        return "user_id is empty or blank: give the id of one member"
    if user_id in (".", ".."):
        return "user_id is '.' or '..', which would change the path"
    if len(user_id) > _LONGEST_USER_ID:
        return f"user_id is longer than any id: {_LONGEST_USER_ID} characters at most"
    if re.search(_CONTROL, user_id):
        return "user_id holds a control character or a line break: strip it first"
    return None if is_encodable(user_id) else "user_id holds a lone surrogate, which UTF-8 can't encode"


def is_encodable(text: str) -> bool:
    """Whether UTF-8 can encode it: what comes from a file name or the environment may hold other bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def checked_id_type(id_type: object, allowed: frozenset[IdType], endpoint: str) -> IdType:
    """An id type that the endpoint takes."""
    for known in allowed:
        if known == id_type:
            return known
    choices = ", ".join(sorted(allowed))
    raise InvalidArgumentError(f"{endpoint} takes no such id_type; it takes {choices}")


def checked_integer(value: Any, name: str, least: int | None = None) -> int:
    """An integer of at most 64 bits; `True` and numeric text are refused."""
    if type(value) is not int:
        raise InvalidArgumentError(f"{name} must be an int, not {type(value).__name__}")
    if abs(value) > _LARGEST_PAGE:
        raise InvalidArgumentError(f"{name} is beyond 64 bits")
    if least is not None and value < least:
        raise InvalidArgumentError(f"{name} must be {least} or more")
    return value


def checked_page_size(page_size: int | None) -> int | None:
    """A page size, capped at what the API sends at most."""
    if page_size is None:
        return None
    return min(checked_integer(page_size, "page_size", least=1), MAX_PAGE_SIZE)


def checked_flag(value: Any, name: str) -> bool | None:
    """`True`, `False` or `None`, and nothing that merely looks like it."""
    if value is not None and not isinstance(value, bool):
        raise InvalidArgumentError(f"{name} must be True, False or None, not {type(value).__name__}")
    return value


def checked_date(value: object, name: str) -> date | None:
    """A date, given as one or as `YYYY-MM-DD`; a `datetime` is refused, as its zone is a guess."""
    if value is None:
        return None
    if isinstance(value, datetime):
        raise InvalidArgumentError(f"{name} must be a date, not a datetime: the API takes whole days in UTC")
    if isinstance(value, date):
        return value
    if isinstance(value, str) and re.fullmatch(_DATE, value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            raise InvalidArgumentError(f"{name} is no day of the calendar") from None
    raise InvalidArgumentError(f"{name} must be a date or a text like 2026-01-31")


def checked_dates(
    date_start: date | str | None, date_end: date | str | None
) -> tuple[date | None, date | None]:
    """A range of days, both ends included."""
    start, end = checked_date(date_start, "date_start"), checked_date(date_end, "date_end")
    if start is not None and end is not None and end < start:
        raise InvalidArgumentError("date_end is before date_start: swap them")
    return start, end


def checked_on_drift(on_drift: object) -> OnDrift:
    """What a walk does when the counts change under it."""
    for known in _ON_DRIFT:
        if known == on_drift:
            return known
    raise InvalidArgumentError("on_drift must be 'warn', 'raise' or 'ignore'")


def not_of(value: object) -> str:
    """Which type was given, where that is what is wrong."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return "" if is_number else f", not {type(value).__name__}"
