"""
What a reply means: the call's result, or one error of the tree, whichever body the server chose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

from crowdtwist_async._protocol import REWARDS, Call, empty_page, has_entries
from crowdtwist_async._retry import read_retry_after
from crowdtwist_async._secrets import Redactor
from crowdtwist_async.errors import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    CrowdTwistError,
    DecodeError,
    RateLimitError,
    ResponseTooLargeError,
    ServerError,
    UnexpectedRedirectError,
    UserNotFoundError,
)
from crowdtwist_async.transports import Reply

T = TypeVar("T")

_USER_NOT_FOUND = frozenset({"user_not_found", "page_not_found", "not_found"})
_NO_DATA = "no_data"
_INVALID_AUTH = "invalid_auth"
_INTERNAL_ERROR = "internal_error"
_NOT_CONFIGURED = "not_configured"
# Codes that decide something are kept as they are; the key could be a part of any other text.
_DECIDING_CODES = _USER_NOT_FOUND | {_NO_DATA, _INVALID_AUTH, _INTERNAL_ERROR, _NOT_CONFIGURED}
_NO_DATA_STATUSES = frozenset({200, 400, 404})
_RETRYABLE_STATUSES = frozenset({408, 425, 429})
_LARGEST_ERROR = 65_536
"""Bytes of an error's body that are looked at: masking more would block the event loop."""
_LONGEST_TEXT = 2_000
"""Characters of an error's message that are kept."""
_MOST_DETAILS = 50
_MOST_ERROR_VALUES = 1_000
"""Values in an error's body beyond which its details are not kept: each is masked by itself."""
_SNIPPET_LENGTH = 200
_SNIPPET_SOURCE = 4096
_CHECK_KEY = "check the API key, the client id and the environment: sandboxes have keys of their own"
_CHECK_WAY = "no code of the API's: a proxy, a gateway or a firewall may have refused it, or the key is wrong"
_BOM = b"\xef\xbb\xbf"
_MOST_VALUES = 250_000
"""Values in a body; a page of 10 rewards has some 500. Making ten million blocks the loop for a second."""
_BEFORE_VALUES = b",[{"
_COUNTED_AT_ONCE = 2**18


def read_reply(call: Call[T], reply: Reply, redact: Redactor) -> T | CrowdTwistError:
    """
    Turn a reply into what the call returns, or into the error that the call raises.

    `no_data` on the rewards endpoint is an empty page: the client offers no rewards.
    """
    if reply.status >= 400 and len(reply.body) > _LARGEST_ERROR:
        reply = reply._replace(body=reply.body[:_LARGEST_ERROR])
    if 300 <= reply.status < 400:
        return _redirect_error(reply, redact)
    if _has_more_values(reply.body, _MOST_VALUES):
        return ResponseTooLargeError(f"the body has more than {_MOST_VALUES:,} values; it was not decoded")
    body = _parsed(redact.links(reply.body))
    unreadable = isinstance(body, DecodeError)
    if not 200 <= reply.status < 300 or (not unreadable and _is_error_envelope(body, call)):
        said = _Said() if unreadable else _Said.of(body)
        if call.endpoint is REWARDS and said.code == _NO_DATA and reply.status in _NO_DATA_STATUSES:
            return cast("T", empty_page(call, body))
        return _status_error(reply, said, redact, _snippet(reply.body, redact) if unreadable else None)
    if isinstance(body, DecodeError):
        return _not_json(body, reply, redact)
    try:
        return call.decode(body, call)
    except DecodeError as error:
        return error.with_traceback(None)


def _has_more_values(body: bytes, limit: int) -> bool:
    """Whether decoding would make more than so many: each value but one comes behind one of three bytes."""
    values = 0
    if len(body) > limit:
        for at in range(0, len(body), _COUNTED_AT_ONCE):
            part = body[at : at + _COUNTED_AT_ONCE]
            values += len(part) - len(part.translate(None, _BEFORE_VALUES))
            if values > limit:
                return True
    return False


def _parsed(body: bytes) -> Any:
    """The decoded JSON, or the error as a value; strict UTF-8 and strict JSON, a BOM is tolerated."""
    # The first reply brings it: a tenth of what this package would add to the import of httpx.
    import msgspec

    try:
        return msgspec.json.decode(body.removeprefix(_BOM))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        nested = isinstance(error, RecursionError)
        decode_error = DecodeError(
            "the body is nested too deeply" if nested else "the body is not JSON in UTF-8"
        )
        decode_error.retryable = not nested
        return decode_error


def _not_json(error: DecodeError, reply: Reply, redact: Redactor) -> DecodeError:
    """Say what came instead of JSON."""
    if not reply.body.strip():
        reason = f"the body is empty, with status {reply.status}"
    else:
        content_type = redact(reply.headers.get("content-type", "none"))[:80]
        reason = f"{error.reason} (content type: {content_type}, {len(reply.body)} bytes)"
    worded = DecodeError(reason)
    worded.retryable = error.retryable
    return worded


def _is_error_envelope(body: Any, call: Call[Any]) -> bool:
    """
    Whether a body that came with status 200 is one of the error bodies.

    An `error` that is not empty always is: partial rows beside one must not pass for all rows.
    """
    if not isinstance(body, dict):
        return False
    if body.get("error"):
        return True
    if call.endpoint.entries:
        is_result = has_entries(body, call.endpoint)
    else:
        is_result = "total_points_awaiting_fulfillment" in body
    return not is_result and ("reason" in body or ("message" in body and "paging" not in body))


class _Said(NamedTuple):
    """What an error body says, in the same fields for every shape."""

    code: str | None = None
    message: str | None = None
    description: str | None = None
    system: str | None = None
    details: tuple[dict[str, Any], ...] = ()
    status: int | None = None

    @classmethod
    def of(cls, body: Any) -> _Said:
        """Read the nested, the two flat, a list's and a text's shape; anything else says nothing."""
        if isinstance(body, list):
            entries = _objects(body)
            return _Said(details=entries) if not entries else _flat(entries[0], entries)
        if not isinstance(body, dict):
            return cls(message=_text(body))
        nested = body.get("error")
        if isinstance(nested, dict):
            return _nested(nested)
        if isinstance(nested, list):
            return cls.of(nested)
        return _flat(body, _objects(body.get("errors")))


def _nested(error: dict[str, Any]) -> _Said:
    """`{"error": {"code", "message", "errors": [{"reason", "message"}]}}`."""
    entries = _objects(error.get("errors"))
    first = entries[0] if entries else {}
    status = error.get("code")
    return _Said(
        code=_text(first.get("reason")) or _text(error.get("reason")),
        message=_text(first.get("message")) or _text(error.get("message")),
        description=_text(error.get("message")) or _text(error.get("description")),
        details=entries,
        status=status if type(status) is int and 400 <= status < 600 else None,
    )


def _flat(body: dict[str, Any], entries: tuple[dict[str, Any], ...]) -> _Said:
    """`{system, reason, description, message}` and `{error, message}`."""
    return _Said(
        code=_text(body.get("reason")) or _text(body.get("error")),
        message=_text(body.get("message")),
        description=_text(body.get("description")),
        system=_text(body.get("system")),
        details=entries,
    )


def _objects(value: Any) -> tuple[dict[str, Any], ...]:
    return tuple(entry for entry in value if isinstance(entry, dict)) if isinstance(value, list) else ()


def _text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value) or None


def _status_error(reply: Reply, said: _Said, redact: Redactor, snippet: str | None) -> APIStatusError:
    # An error that comes with status 200 may name its real status inside.
    status = reply.status if reply.status >= 400 else said.status or reply.status
    code = (
        said.code
        if said.code in _DECIDING_CODES or said.code is None
        else redact(said.code[:_LARGEST_ERROR])[:_SNIPPET_LENGTH]
    )
    message = _masked(said.message, redact) or snippet
    error = _error_class(status, said.code)(
        ": ".join(filter(None, (f"{reply.status} {code or ''}".rstrip(), message)))
    )
    error.status = reply.status
    error.code = code
    error.message = message
    error.description = _masked(said.description, redact)
    error.system = _masked(said.system, redact)
    if len(reply.body) <= _LARGEST_ERROR and not _has_more_values(reply.body, _MOST_ERROR_VALUES):
        error.details = tuple(redact.deep(entry) for entry in said.details[:_MOST_DETAILS])
    error.retry_after = read_retry_after(reply.headers.get("retry-after"))
    is_server_error = isinstance(error, ServerError) and said.code != _NOT_CONFIGURED
    error.retryable = status in _RETRYABLE_STATUSES or is_server_error
    return error


def explain_refused_key(error: AuthenticationError) -> AuthenticationError:
    """Say what to check when the server refuses the key; a 403 of a gateway may have another reason."""
    is_of_key = error.code == _INVALID_AUTH or error.status == 401
    error.args = (f"{error.reason} ({_CHECK_KEY if is_of_key else _CHECK_WAY})",)
    return error


def _masked(text: str | None, redact: Redactor) -> str | None:
    """A text of the server's; masked before it is cut, so that no half key stays."""
    return redact(text[:_LARGEST_ERROR])[:_LONGEST_TEXT] if text else None


def _error_class(status: int, code: str | None) -> type[APIStatusError]:
    """Status first; the codes tell apart what shares one."""
    if 500 <= status < 600:
        return ServerError
    if status == 429:
        return RateLimitError
    if status in (401, 403) or code == _INVALID_AUTH:
        return AuthenticationError
    if code in _USER_NOT_FOUND:
        return UserNotFoundError
    if status in (400, 422):
        return BadRequestError
    if status < 400 and code in (_INTERNAL_ERROR, _NOT_CONFIGURED):
        return ServerError
    return APIStatusError


def _snippet(body: bytes, redact: Redactor) -> str | None:
    """The beginning of a body that is no JSON; masked before it is cut, so that no half key stays."""
    text = redact(body[:_SNIPPET_SOURCE].decode(errors="replace"))
    words = text.split()
    if len(body) > _SNIPPET_SOURCE and words != [text]:
        words = words[:-1]  # the cut may be within the key, and folding could bring it into view
    return " ".join(words)[:_SNIPPET_LENGTH] or None


def _redirect_error(reply: Reply, redact: Redactor) -> UnexpectedRedirectError:
    origin = _origin(reply.headers)
    to = f" to {redact(origin)}" if origin else ""
    error = UnexpectedRedirectError(
        f"the server answered {reply.status}, a redirect{to}; the API has none, and the key must not"
        " follow one: check the host's settings"
    )
    error.status = reply.status
    return error


def _origin(headers: Mapping[str, str]) -> str | None:
    """Where a redirect leads, without user, path and query."""
    try:
        parts = urlsplit(headers.get("location", ""))
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return None
    return f"{parts.scheme}://{parts.hostname}{port}" if parts.scheme and parts.hostname else None
