"""
How failures of connections are worded, and which of them may pass.
"""

from __future__ import annotations

import errno
import socket
import ssl

import pytest
from httpcore import RemoteProtocolError

from crowdtwist_async.transports._faults import connection_error

CLOSED = "the connection was closed before the reply was complete"


def tls_error(reason: str) -> ssl.SSLError:
    """An error as OpenSSL gives it."""
    error = ssl.SSLError(1, f"[SSL: {reason}] text (_ssl.c:1)")
    error.reason = reason
    return error


def caused(by: BaseException) -> Exception:
    """An error of an HTTP library around another."""
    outer = RuntimeError("a text of the library's, which may hold the URL")
    outer.__cause__ = ExceptionGroup("all attempts failed", [by]) if isinstance(by, OSError) else by
    return outer


@pytest.mark.parametrize(
    ("error", "said", "retryable"),
    [
        (tls_error("WRONG_VERSION_NUMBER"), "TLS failed: wrong version number", False),
        (tls_error("TLSV1_ALERT_PROTOCOL_VERSION"), "TLS failed: tlsv1 alert protocol version", False),
        (tls_error("SSLV3_ALERT_HANDSHAKE_FAILURE"), "TLS failed: sslv3 alert handshake failure", False),
        (tls_error("UNEXPECTED_EOF_WHILE_READING"), "the TLS connection broke", True),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "the connection failed: connection refused", True),
        (
            ConnectionResetError(errno.ECONNRESET, "x"),
            "the connection failed: connection reset by peer",
            True,
        ),
        (OSError(errno.ENETUNREACH, "x"), "the connection failed: network is unreachable", True),
        (
            socket.gaierror(-2, "x"),
            "the host's name could not be resolved: check the client id, the environment and the network",
            True,
        ),
        (RemoteProtocolError("Server disconnected without sending a response."), CLOSED, True),
        (RemoteProtocolError("peer unexpectedly closed connection"), CLOSED, True),
        (RemoteProtocolError("peer closed connection (incomplete chunked read)"), CLOSED, True),
        (
            RemoteProtocolError("peer closed connection without ... body (received 7 bytes, expected 90)"),
            "the connection was closed within the body: 7 of 90 bytes came",
            True,
        ),
        (
            RemoteProtocolError("illegal status line: bytearray(b'SSH-2.0 http://x/?api_key=y')"),
            "what the server sent is no valid HTTP: is it the right host and port?",
            True,
        ),
        (EOFError(), CLOSED, True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_failures_are_told_by_their_cause(error: Exception, said: str, retryable: bool) -> None:
    """The cause is found under what the libraries wrap around it, and their own text is not repeated."""
    for wrapped in (error, caused(error)):
        failure = connection_error(wrapped)
        assert (said, retryable) == (failure.reason, failure.retryable)


def test_causes_that_go_in_circles_end() -> None:
    """Two errors that name each other as their cause are read once each."""
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert connection_error(first).retryable
