"""
Every error that the client raises.

    CrowdTwistError
    ├── ConfigurationError (ValueError)      the settings; before any request
    ├── InvalidArgumentError (ValueError)    the call's arguments; before any request
    ├── ClientClosedError                    not entered, closed, forked, or another event loop
    ├── TransportError
    │   ├── ConnectionFailedError            DNS, refused, reset, cut off, TLS
    │   ├── RequestTimeoutError              one attempt's timeout
    │   ├── ResponseTooLargeError
    │   └── UnexpectedRedirectError          any 3xx: never followed
    ├── DeadlineExceededError                the call's deadline; carries the last real error
    ├── APIStatusError                       the server said no
    │   ├── BadRequestError                  400, 422
    │   ├── AuthenticationError              401, 403
    │   ├── UserNotFoundError
    │   ├── RateLimitError                   429
    │   └── ServerError                      5xx
    ├── DecodeError                          a reply that is not what the reference promises
    ├── PaginationError
    │   ├── PaginationLoopError
    │   └── PaginationDriftError
    └── ExportError
        ├── OutputLockedError                another export writes there now
        ├── OutputMismatchError              what is there is not what this export would go on with
        └── StorageError                     the output can't be written

All of them pickle. None holds the API key, or a user id that the call was given.
"""

from __future__ import annotations

from typing import Any


class CrowdTwistError(Exception):
    """
    The base of every error here.

    Errors that come out of a call also say where and how hard it was tried; before any
    request these stay `None`.
    """

    retryable: bool = False
    """Whether the same request may succeed when sent again, later; the client has done so while it could."""

    endpoint: str | None = None
    """The coroutine that was called, such as `user_purchases`."""
    host: str | None = None
    """The host that was asked."""
    attempts: int | None = None
    """Requests that were sent for this call; of a `PaginationError`, pages that the walk read."""
    elapsed: float | None = None
    """Seconds from the call to this error."""
    cursor: str | None = None
    """In a walk: where to go on, for `iter_...(cursor=...)`."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message)

    @property
    def reason(self) -> str:
        """The sentence alone, without where and how often."""
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        if self.endpoint is None:
            return self.reason
        parts = [f"{self.endpoint} at {self.host}"]
        if self.attempts is not None:
            parts.append(f"{self.attempts} attempt{'' if self.attempts == 1 else 's'}")
        if self.elapsed is not None:
            parts.append(f"{self.elapsed:.2f} s")
        return f"{self.reason} ({', '.join(parts)})"


class ConfigurationError(CrowdTwistError, ValueError):
    """The client's settings can't work; raised before any request."""


class InvalidArgumentError(CrowdTwistError, ValueError):
    """An argument of the call can't work; raised before any request."""


class ClientClosedError(CrowdTwistError):
    """The client is used before entering, after closing, in a forked child or in another loop."""


class TransportError(CrowdTwistError):
    """No usable reply arrived."""


class ConnectionFailedError(TransportError):
    """DNS, a refused, reset or cut connection, or TLS; certificate failures are not retryable."""

    retryable = True
    stale: bool = False
    """A kept-alive connection had been closed by the server before this request was answered."""


class RequestTimeoutError(TransportError):
    """One attempt took longer than `timeout` seconds."""

    retryable = True
    phase: str | None = None
    """What was going on: `connect`, `response` (waiting for its head) or `body`."""


class ResponseTooLargeError(TransportError):
    """The decoded body passed the limit; reading stopped there."""


class UnexpectedRedirectError(TransportError):
    """The server answered with a redirect. The API has none, and the key must not follow one."""

    status: int | None = None
    """The HTTP status, 300 to 399."""


class DeadlineExceededError(CrowdTwistError):
    """The call's `deadline` passed: waiting for a slot or a permit, or in an attempt."""

    retryable = True
    retry_after: float | None = None
    """Seconds to the end of a pause that the server asked for, if the call would have waited for that."""
    last_error: CrowdTwistError | None = None
    """What the last finished attempt failed with, if one had finished."""


class APIStatusError(CrowdTwistError):
    """
    The server answered with an error, whatever its body looks like.

    The attributes are the same for the three documented bodies, for HTML, and for none.
    """

    status: int = 0
    """The HTTP status, 200 included: some errors come with it."""
    code: str | None = None
    """The identifier of the error's category, such as `user_not_found`."""
    message: str | None = None
    """The server's detailed message."""
    description: str | None = None
    """The server's short description, where the endpoint sends one."""
    system: str | None = None
    """The domain where the error occurred, such as `pos`, where the endpoint sends one."""
    details: tuple[dict[str, Any], ...] = ()
    """The entries of a nested body's `errors`, as sent."""
    retry_after: float | None = None
    """Seconds that the server asked to wait, where it said so readably."""


class BadRequestError(APIStatusError):
    """400 or 422: the request itself is refused."""


class AuthenticationError(APIStatusError):
    """401 or 403: the key is wrong for this host, or not allowed. Never retried."""


class UserNotFoundError(APIStatusError):
    """The API knows no such user; sent as 400 or 404, depending on the endpoint."""


class RateLimitError(APIStatusError):
    """429: the program's requests a minute are used up."""

    retryable = True


class ServerError(APIStatusError):
    """5xx, or an internal error with another status. All but `not_configured` are retried."""


class DecodeError(CrowdTwistError):
    """A reply that is not JSON, or whose JSON is not what the reference promises."""

    path: str = "$"
    """The place in the body, such as `rewards[3].date_end`; `$` is the whole body."""

    def __str__(self) -> str:
        return super().__str__().replace(self.reason, f"{self.reason} @ {self.path}", 1)


class PaginationError(CrowdTwistError):
    """The pages can't be walked without losing or repeating rows."""


class PaginationLoopError(PaginationError):
    """A link repeats or skips pages, a page repeats, or the walk does not end."""


class PaginationDriftError(PaginationError):
    """`total` or `pages` changed during a walk with `on_drift="raise"`."""


class ExportError(CrowdTwistError):
    """An export can't go on."""


class OutputLockedError(ExportError):
    """Another export writes to the same output now."""


class OutputMismatchError(ExportError):
    """The output or its ledger is damaged, foreign, or was begun with other arguments or ids."""


class StorageError(ExportError):
    """The output can't be written any more: the disk is full, or its folder is gone or not writable."""


class PaginationDriftWarning(UserWarning):
    """`total` or `pages` changed during a walk: rows may be missing or doubled."""
