"""
What can go wrong on the way to an answer, and which request it happens to.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypedDict, Unpack, cast, get_args

from crowdtwist_async._secrets import MASK
from crowdtwist_async.emulator.answers import HTML_TYPE, JSON_TYPE, Answer, Headers, refusal
from crowdtwist_async.emulator.calls import POINTS, PURCHASES, REWARDS, Call
from crowdtwist_async.emulator.counts import is_share

Kind = Literal["status", "delay", "stall", "reset", "truncate", "drift", "rewrite"]

GATEWAY_PAGE = b"<html><head><title>Sign in</title></head><body>Please sign in.</body></html>"

_UNFIT: dict[Kind, tuple[str | None, ...]] = {"drift": (POINTS, None), "rewrite": (None,)}
"""The endpoints that have no rows to shift, or no JSON to rewrite."""

_WITHOUT_BODY = (204, 304)
_TYPES: tuple[tuple[str, Any, str], ...] = (
    ("body", bytes | None, "bytes"),
    ("added", int, "an int"),
    ("reason", str | None, "a str"),
    ("user", str | None, "a str or an int"),
)
_HEADER = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\r\n\0]*"

_REASONS = {403: "invalid_auth", 405: "not_supported", 429: "rate_limit_exceeded"}


class Limits(TypedDict, total=False):
    """Which requests a fault is meant for; by default any."""

    endpoint: str | None
    """The name of the client's coroutine, such as `user_purchases`."""
    user: str | int | None
    """The id as the caller gave it."""


class _Chosen(TypedDict, total=False):
    endpoint: str | None
    user: str | None


def _chosen(limits: Limits) -> _Chosen:
    """The limits, with the id as a request has it."""
    user = limits.get("user")
    return cast("_Chosen", {**limits, "user": str(user) if type(user) is int else user})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _encoded(headers: Any) -> Headers:
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be texts by their names, not {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str) or not value.isascii():
            raise TypeError("headers must be texts by their names, of ASCII alone")
        if not re.fullmatch(_HEADER, f"{name}: {value}"):
            raise ValueError("a header's name, or its value, has a character that none can have")
    return tuple((name.lower().encode(), value.encode()) for name, value in headers.items())


def _are_encoded(headers: Any) -> bool:
    return isinstance(headers, tuple) and all(
        isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, bytes) for part in pair)
        for pair in headers
    )


@dataclass(frozen=True, slots=True, repr=False)
class Fault:
    """
    One thing that goes wrong, once.

    Make it with the class methods. Each also takes the `Limits`: `endpoint=` and `user=`.
    """

    kind: Kind
    endpoint: str | None = None
    user: str | None = field(default=None, repr=False)
    code: int = 200
    reason: str | None = None
    body: bytes | None = field(default=None, repr=False)
    headers: Headers = field(default=(), repr=False)
    seconds: float = 0.0
    fraction: float = 0.5
    added: int = 0
    change: Callable[[Any], Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}")
        if self.endpoint not in (None, POINTS, REWARDS, PURCHASES):
            raise ValueError(f"endpoint must be {POINTS}, {REWARDS} or {PURCHASES}")
        if not is_share(self.fraction):
            raise ValueError("fraction must be from 0 to 1")
        if not _is_number(self.seconds) or not 0.0 <= self.seconds < math.inf:
            raise ValueError("seconds must be a number that is not negative or endless")
        if type(self.code) is not int or not 100 <= self.code <= 999:
            raise ValueError("code must be an int from 100 to 999")
        self._check_types()

    def _check_types(self) -> None:
        for name, kinds, told in _TYPES:
            if not isinstance(value := getattr(self, name), kinds) or isinstance(value, bool):
                raise TypeError(f"{name} must be {told}, not {type(value).__name__}")
        if callable(self.change) != (self.kind == "rewrite"):
            raise TypeError("change must be a function of a rewrite, from the decoded body to another")
        if not _are_encoded(self.headers):
            raise TypeError("headers must be pairs of bytes here: make the fault with Fault.status")
        if self.body and self.code in _WITHOUT_BODY:
            raise ValueError(f"a {self.code} has no body: leave body out")

    def __repr__(self) -> str:
        shown = [part for part in fields(self) if part.repr and getattr(self, part.name) != part.default]
        parts = [f"{part.name}={getattr(self, part.name)!r}" for part in shown]
        if self.user is not None:
            parts.append(f"user={MASK}")
        return f"Fault({', '.join(parts)})"

    @classmethod
    def status(
        cls,
        code: int,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        retry_after: float | str | None = None,
        reason: str | None = None,
        **limits: Unpack[Limits],
    ) -> Fault:
        """
        Answer with any reply, instead of the right one.

        Args:
            code: The HTTP status; on a socket 200 to 599.
            body: The body as sent; by default the endpoint's own error body.
            headers: More headers. Without `content-type`, it is told from the body.
            retry_after: The value of `Retry-After`, sent as it is.
            reason: The reason in the error body, such as `not_configured`.
            limits: Which requests it is meant for.
        """
        named = dict(_encoded({} if headers is None else headers))
        if retry_after is not None:
            if not isinstance(retry_after, str) and not _is_number(retry_after):
                raise TypeError(f"retry_after must be a number or a str, not {type(retry_after).__name__}")
            named.update(_encoded({"retry-after": str(retry_after)}))
        sent = tuple(named.items())
        return cls("status", code=code, body=body, headers=sent, reason=reason, **_chosen(limits))

    @classmethod
    def not_json(cls, body: bytes = GATEWAY_PAGE, **limits: Unpack[Limits]) -> Fault:
        """Answer 200 with an HTML page, as a captive portal does."""
        if not isinstance(body, bytes):
            raise TypeError(f"body must be bytes, not {type(body).__name__}")
        return cls("status", body=body, headers=HTML_TYPE, **_chosen(limits))

    @classmethod
    def delay(cls, seconds: float, **limits: Unpack[Limits]) -> Fault:
        """Wait, then answer normally."""
        return cls("delay", seconds=seconds, **_chosen(limits))

    @classmethod
    def stall(cls, seconds: float, fraction: float = 0.5, **limits: Unpack[Limits]) -> Fault:
        """Send this fraction of the body, wait, then send the rest."""
        return cls("stall", seconds=seconds, fraction=fraction, **_chosen(limits))

    @classmethod
    def reset(cls, **limits: Unpack[Limits]) -> Fault:
        """Reset the connection before the first byte of a reply."""
        return cls("reset", **_chosen(limits))

    @classmethod
    def truncate(cls, fraction: float = 0.5, **limits: Unpack[Limits]) -> Fault:
        """Announce the whole body, send this fraction of it, and cut the connection."""
        return cls("truncate", fraction=fraction, **_chosen(limits))

    @classmethod
    def drift(cls, added: int, **limits: Unpack[Limits]) -> Fault:
        """
        From this request on, the member has this many more rows at the front of the list.

        The rows are of the endpoint that was asked, purchases or rewards; a points request lets
        the fault wait. A negative number removes rows.
        """
        return cls("drift", added=added, **_chosen(limits))

    @classmethod
    def rewrite(cls, change: Callable[[Any], Any], **limits: Unpack[Limits]) -> Fault:
        """
        Answer with what `change` returns for the decoded body of the right reply.

        Where it raises, or returns nothing, the answer is a 400 that says so.
        """
        return cls("rewrite", change=change, **_chosen(limits))

    def fits(self, call: Call) -> bool:
        """Whether this fault is meant for a request."""
        if call.endpoint in _UNFIT.get(self.kind, ()):
            return False
        return self.endpoint in (None, call.endpoint) and self.user in (None, call.user)

    def reply(self, call: Call) -> Answer:
        """The reply of a `status` fault."""
        if self.code in _WITHOUT_BODY:
            return Answer(self.code, b"", self.headers)
        if self.body is None:
            reason = self.reason or _REASONS.get(self.code) or _general_reason(self.code)
            return refusal(call.endpoint, self.code, reason, "Emulated fault.", self.headers)
        if any(name == b"content-type" for name, _ in self.headers):
            return Answer(self.code, self.body, self.headers)
        guessed = JSON_TYPE if self.body.lstrip()[:1] in (b"{", b"[") else HTML_TYPE
        return Answer(self.code, self.body, guessed + self.headers)

    def rewritten(self, answer: Answer, call: Call | None = None) -> Answer:
        """The reply of a `rewrite` fault; an error reply is rewritten as well."""
        if self.change is None:
            return answer
        try:
            changed = self.change(json.loads(answer.body))
            if changed is None:
                raise TypeError("it returned None, and not the body")
            return replace(answer, body=json.dumps(changed).encode())
        except Exception as error:  # noqa: BLE001 - a mistake in a test must not pass for a broken connection
            told = f"the function of Fault.rewrite failed: {error!r}"
            return refusal(call.endpoint if call else None, 400, "invalid", told)

    def cut(self, body: bytes) -> int:
        """How many bytes are sent before the pause or the cut: never all of them."""
        return max(0, min(int(len(body) * self.fraction), len(body) - 1))


RANDOM_FAULTS = (
    Fault.status(500),
    Fault.status(503),
    Fault.status(429),
    Fault.reset(),
    Fault.truncate(),
    Fault.not_json(),
)
"""What `fault_rate` draws from, each as likely as the others."""


class FaultQueue:
    """
    The faults that are still to happen.

    A request takes the first one that fits it, so a fault for another user waits and holds up
    nothing. Only when none is left for it, `rate` decides.
    """

    def __init__(self, rate: float, seed: int) -> None:
        if not is_share(rate):
            raise ValueError("fault_rate must be from 0 to 1")
        self._rate = rate
        self._random = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._script: list[Fault | None] = []

    @property
    def pending(self) -> tuple[Fault | None, ...]:
        """What no request has taken yet, in order."""
        return tuple(self._script)

    def extend(self, faults: Iterable[Fault | None]) -> None:
        """Queue more; `None` lets one request pass."""
        if isinstance(faults, Fault):
            raise TypeError("faults must be a list, such as [Fault.status(503)]")
        for fault in faults:
            if fault is not None and not isinstance(fault, Fault):
                raise TypeError(f"script takes faults such as Fault.status(503), and None, not {fault!r}")
            self._script.append(fault)

    def take(self, call: Call) -> Fault | None:
        """Remove and return what happens to this request; `None` is nothing."""
        for place, fault in enumerate(self._script):
            if fault is None or fault.fits(call):
                del self._script[place]
                return fault
        if self._rate and self._random.random() < self._rate:
            return self._random.choice(RANDOM_FAULTS)
        return None


def _general_reason(code: int) -> str:
    return "internal_error" if code >= 500 else "invalid"
