"""
When to send again, and after how long: pure functions of what happened.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import random
from typing import Any

from attrs import field, frozen

from crowdtwist_async.errors import (
    APIStatusError,
    ConfigurationError,
    CrowdTwistError,
    DecodeError,
    RateLimitError,
)

_SECONDS = r"[0-9]{1,12}(\.[0-9]{1,9})?"
RATE_LIMIT_LEAST = 1.0
"""Seconds that a 429 without a readable `Retry-After` pauses everything for."""
_BEYOND_DOUBT = 31
"""Doublings after which any `max_delay` is reached."""


def _not_negative(_: Any, attribute: Any, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigurationError(f"RetryPolicy's {attribute.name} must be a number of seconds, 0 or more")


def _at_least_one(_: Any, __: Any, value: Any) -> None:
    if type(value) is not int or value < 1:
        raise ConfigurationError("RetryPolicy's max_attempts must be an int, 1 (no retries) or more")


@frozen
class RetryPolicy:
    """
    How often and how patiently a failed request is sent again.

    The pause before attempt n+1 is random between 0 and `initial * 2 ** (n - 1)` seconds, capped at
    `max_delay` (full jitter); a `Retry-After` that the server sends replaces it.
    """

    max_attempts: int = field(default=4, validator=_at_least_one)
    """Attempts in all, the first included; 1 switches retries off."""
    initial: float = field(default=0.2, validator=_not_negative)
    """The longest first pause, in seconds."""
    max_delay: float = field(default=20.0, validator=_not_negative)
    """The longest pause that the client chooses itself, in seconds."""
    max_retry_after: float = field(default=120.0, validator=_not_negative)
    """The longest `Retry-After` that is waited for, in seconds; beyond it the error is raised at once."""


def delay_before_retry(
    error: CrowdTwistError,
    attempts: int,
    policy: RetryPolicy,
    jitter: Callable[[], float] = random,
    *,
    unreadable: int = 1,
) -> float | None:
    """
    Decide on the pause before the next attempt.

    Args:
        error: What the last attempt ended with.
        attempts: How many were made, 1 or more.
        policy: How often and how patiently.
        jitter: Gives a number from 0 to 1.
        unreadable: How many attempts ended in a `DecodeError`, if this one did.

    Returns:
        Seconds, or `None`: raise the error.
    """
    if not error.retryable or attempts >= policy.max_attempts:
        return None
    if isinstance(error, DecodeError) and unreadable > 1:
        return None
    asked = error.retry_after if isinstance(error, APIStatusError) else None
    if asked is not None:
        return asked if asked <= policy.max_retry_after else None
    longest: float = min(policy.max_delay, policy.initial * 2 ** min(attempts - 1, _BEYOND_DOUBT))
    if isinstance(error, RateLimitError):
        return RATE_LIMIT_LEAST + jitter() * longest
    return jitter() * longest


def explain_no_retry(error: CrowdTwistError, at_most: float, limit: str) -> None:
    """Say so, where the server asks for a pause that is as long as a limit, or longer."""
    asked = error.retry_after if isinstance(error, APIStatusError) else None
    if asked is not None and asked >= at_most:
        why = f"Retry-After asks for {math.ceil(asked)} s, more than {limit}"
        error.args = (f"{error.reason} (not tried again: {why})",)


def read_retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """
    Read a `Retry-After` header, seconds or an HTTP date.

    Returns:
        Seconds from now, or `None` for anything unreadable, and for a date that has passed: of two clocks
        one is wrong then.
    """
    text = (header or "").strip()
    if re.fullmatch(_SECONDS, text):
        return float(text)
    moment = read_date(text)
    seconds = None if moment is None else (moment - (now or datetime.now(UTC))).total_seconds()
    return seconds if seconds is not None and seconds >= 0 else None


def read_date(header: str | None) -> datetime | None:
    """Read an HTTP date; `None` for anything unreadable."""
    text = (header or "").strip()
    if not text.isascii():
        return None
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
