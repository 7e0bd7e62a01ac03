"""
What moves bytes: a `Transport` turns one `Request` into a `Reply`, or into the error of that attempt.

Failures are returned, not raised: a raised exception's traceback would hold the frames,
and so the URL with the key, for any crash reporter to print.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from crowdtwist_async._secrets import Secret
from crowdtwist_async._signing import Signed
from crowdtwist_async.errors import CrowdTwistError, RequestTimeoutError, TransportError

USER_AGENT = "crowdtwist-async"


class Request:
    """
    One GET, made for one attempt.

    Its repr shows neither the path, which holds the user id, nor the key; `url` and `headers`
    put the key in at the moment they are read.

    Args:
        endpoint: The name of the endpoint, such as `user_rewards`.
        origin: Scheme, host and port, such as `https://api201.crowdtwist.com`.
        path: The percent-encoded path, with its leading slash.
        query: The encoded query without the key, and without a question mark; may be empty.
        secret_query: `api_key=...`, on the api host without signing.
        secret_header: The value of `X-CT-Authorization`, on the pos host.
        timeout: Seconds for this attempt. The caller cancels `send` when they are over.
        phase: `connect`, `response` or `body`: the transport keeps it up to date, for the error
            of a timeout.
        signed: What path and query are signed with, on the api host with signing. They must be sent as
            they are.
    """

    def __init__(
        self,
        endpoint: str,
        origin: str,
        path: str,
        query: str,
        *,
        secret_query: Secret | None = None,
        secret_header: Secret | None = None,
        timeout: float = 10.0,
        phase: str = "connect",
        signed: Signed | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.origin = origin
        self.path = path
        self.query = query
        self.secret_query = secret_query
        self.secret_header = secret_header
        self.timeout = timeout
        self.phase = phase
        self.signed = signed

    def __repr__(self) -> str:
        return f"Request(endpoint={self.endpoint!r}, origin={self.origin!r}, timeout={self.timeout})"

    @property
    def target(self) -> str:
        """Path and query with the key."""
        secret = self.secret_query.reveal() if self.secret_query else ""
        query = f"{self.query}&{secret}" if self.query and secret else self.query or secret
        return f"{self.path}?{query}" if query else self.path

    @property
    def url(self) -> str:
        """The whole URL with the key."""
        return self.origin + self.target

    @property
    def headers(self) -> dict[str, str]:
        """All headers but `Host`, with the key."""
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": USER_AGENT}
        if self.secret_header:
            headers["X-CT-Authorization"] = self.secret_header.reveal()
        elif self.signed is not None:
            headers["X-CT-Authorization"] = self.signed.authorization.reveal()
            headers["X-CT-Timestamp"] = self.signed.timestamp
        return headers

    @property
    def host(self) -> str:
        """The value of the `Host` header."""
        return urlsplit(self.origin).netloc


def timeout_error(request: Request) -> RequestTimeoutError:
    """The error of a request whose time is over, with the phase that it was in."""
    error = RequestTimeoutError(f"no complete reply within {request.timeout:g} s (phase: {request.phase})")
    error.phase = request.phase
    return error


class Reply(NamedTuple):
    """What came back: any status, with the body decompressed. Its repr shows the status alone."""

    status: int
    headers: Mapping[str, str]
    """By name, in any case."""
    body: bytes

    def __repr__(self) -> str:
        return f"Reply(status={self.status})"


def checked_reply(ended: object) -> Reply | CrowdTwistError:
    """What a transport returned, if it can be read; names of headers in lower case."""
    if isinstance(ended, CrowdTwistError):
        return ended
    if not isinstance(ended, Reply):
        return TransportError(f"the transport returned {type(ended).__name__}, not a Reply")
    parts: tuple[Any, ...] = ended  # as a transport of a user's own may make it
    status, headers, body = parts
    if not isinstance(status, int) or not isinstance(headers, Mapping) or not isinstance(body, bytes):
        kinds = ", ".join(type(value).__name__ for value in ended)
        return TransportError(f"the transport returned a Reply of {kinds}, not of int, mapping, bytes")
    try:
        names, _ = "".join(headers), "".join(headers.values())
    except TypeError:
        return TransportError("the transport returned a Reply with a header that is no str")
    if names == names.lower():
        return ended
    return Reply(status, {name.lower(): text for name, text in headers.items()}, body)


class Transport(Protocol):
    """
    Sends one request.

    `send` returns the reply or the error of this attempt; it raises only when it is cancelled.
    It must give back every connection when cancelled, follow no redirect, keep no cookie, and
    bound the decoded body.
    """

    async def send(self, request: Request, /) -> Reply | CrowdTwistError:
        """Send one request and read the whole reply."""
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...
