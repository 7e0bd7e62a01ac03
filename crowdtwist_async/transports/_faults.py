"""
What went wrong on the wire, in the client's own words: library texts may hold the URL.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator

from crowdtwist_async.errors import ConnectionFailedError

# What h11 says of a reply that ends too early; all else that it refuses is malformed.
_CUT = r"Server disconnected|peer (unexpectedly )?closed connection|.*ConnectionTerminated"
_NO_HTTP = "what the server sent is no valid HTTP: is it the right host and port?"
_CUT_BODY = r"received ([0-9]+) bytes, expected ([0-9]+)"
# Failures that the same server will repeat; anything else in a handshake may be a cut connection.
_TLS_REFUSALS = ("VERSION", "PROTOCOL", "CIPHER", "HANDSHAKE_FAILURE", "WRONG_VERSION_NUMBER")


def connection_error(error: BaseException) -> ConnectionFailedError:
    """
    Word the failure of a connection.

    Certificate and TLS-version failures are not retryable: they will not change.
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _permanent(f"the server's certificate can't be trusted: {cause.verify_message}")
        if isinstance(cause, ssl.SSLError) and any(word in (cause.reason or "") for word in _TLS_REFUSALS):
            return _permanent(f"TLS failed: {(cause.reason or '').lower().replace('_', ' ')}")
    for cause in causes:
        if isinstance(cause, socket.gaierror):
            return ConnectionFailedError(
                "the host's name could not be resolved: check the client id, the environment and the network"
            )
        if isinstance(cause, ssl.SSLError):
            return ConnectionFailedError("the TLS connection broke")
        if isinstance(cause, OSError) and cause.errno in errno.errorcode:
            return ConnectionFailedError(f"the connection failed: {os.strerror(cause.errno or 0).lower()}")
    return ConnectionFailedError(_unfinished(causes))


def _unfinished(causes: list[BaseException]) -> str:
    """What is told of a reply that is cut off, or is none."""
    for cause in causes:
        if type(cause).__name__ == "RemoteProtocolError":
            text = str(cause)
            if counted := re.search(_CUT_BODY, text):
                return f"the connection was closed within the body: {counted[1]} of {counted[2]} bytes came"
            if not re.match(_CUT, text):
                return _NO_HTTP
        if any(kind.__name__ == "BadHttpMessage" for kind in type(cause).__mro__):
            return _NO_HTTP
    return "the connection was closed before the reply was complete"


def proxy_refusal(*, retryable: bool) -> ConnectionFailedError:
    """Word the refusal of a proxy to connect, without its credentials."""
    refusal = ConnectionFailedError("the proxy refused: check HTTPS_PROXY and its credentials")
    refusal.retryable = retryable
    return refusal


def _permanent(text: str) -> ConnectionFailedError:
    failure = ConnectionFailedError(text)
    failure.retryable = False
    return failure


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what caused it, and what caused that; groups by their members."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        current = waiting.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            waiting.extend(current.exceptions)
        waiting += [current.__cause__, current.__context__]
