"""
Collecting a reply's body: decompressed, and never more of it than the limit.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import anyio.lowlevel

from crowdtwist_async.errors import (
    ConnectionFailedError,
    CrowdTwistError,
    DecodeError,
    ResponseTooLargeError,
)
from crowdtwist_async.transports import Reply

MAX_BODY_BYTES = 32 * 1024 * 1024
"""The decoded bytes of a body at most; a page of 10 rewards has about 8,000."""

_GZIP_WBITS = 16 + zlib.MAX_WBITS
_STEP_BYTES = 2**16
_STEPS_AT_ONCE = 50
"""Chunks, or steps of inflating, after which others run: what has arrived comes without a pause."""
_MOST_MEMBERS = 1_000
"""A body of endless empty gzip members would block the event loop for 0.5 s a megabyte."""


class BodyReader:
    """Takes the chunks of one body as they come; only gzip was asked for, so only gzip is read."""

    def __init__(self, content_encoding: str | None, limit: int = MAX_BODY_BYTES) -> None:
        encoding = (content_encoding or "identity").strip().lower()
        self._known = encoding in ("identity", "gzip", "x-gzip", "")
        self._inflater = zlib.decompressobj(_GZIP_WBITS) if encoding.endswith("gzip") else None
        self._members = 1
        self._steps = 0
        self._limit = limit
        self._size = 0
        self._chunks: list[bytes] = []

    async def feed(self, chunk: bytes) -> CrowdTwistError | None:
        """Take one chunk, and let others run now and then; return why no more should be read, if so."""
        if not self._known:
            return DecodeError("the body has a Content-Encoding that was not asked for")
        if self._inflater is None:
            return await self._keep(chunk)
        try:
            return await self._inflate(chunk)
        except zlib.error:
            return not_compressed()

    def end(self) -> bytes | CrowdTwistError:
        """The whole body, or that it is cut."""
        if self._inflater is not None and self._size and not self._inflater.eof:
            return ConnectionFailedError("the gzip body was cut off")
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)

    async def _inflate(self, chunk: bytes) -> CrowdTwistError | None:
        while chunk and self._inflater is not None:
            # One byte more than allowed, to tell "full" from "too large".
            most = min(self._limit - self._size + 1, _STEP_BYTES)
            error = await self._keep(self._inflater.decompress(chunk, most))
            if error is not None:
                return error
            if self._inflater.eof:
                # Trailing bytes are another member, or the stream is over.
                chunk = self._inflater.unused_data
                self._members += bool(chunk)
                if self._members > _MOST_MEMBERS:
                    return DecodeError(f"the gzip body has more than {_MOST_MEMBERS:,} members")
                self._inflater = zlib.decompressobj(_GZIP_WBITS) if chunk else self._inflater
            else:
                chunk = self._inflater.unconsumed_tail
        return None

    async def _keep(self, decoded: bytes) -> CrowdTwistError | None:
        self._steps += 1
        if self._steps % _STEPS_AT_ONCE == 0:
            await anyio.lowlevel.checkpoint()
        self._size += len(decoded)
        if self._size > self._limit:
            self._chunks.clear()
            return too_large(self._limit)
        self._chunks.append(decoded)
        return None


def too_large(limit: int) -> ResponseTooLargeError:
    """The error for a body beyond the limit."""
    return ResponseTooLargeError(f"the decoded body passed {limit:,} bytes; reading stopped there")


def not_compressed() -> DecodeError:
    """The error for a body that can't be inflated; the next one may be."""
    error = DecodeError("the body is not the gzip that its header promises")
    error.retryable = True
    return error


def with_status(status: int, headers: Mapping[str, str], problem: CrowdTwistError) -> Reply | CrowdTwistError:
    """An unreadable body matters where it holds data; an error's status says enough without it."""
    if status >= 400 and not isinstance(problem, ResponseTooLargeError):
        return Reply(status, headers, b"")
    return problem
