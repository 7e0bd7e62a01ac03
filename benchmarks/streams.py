"""
The floor: a GET written straight to asyncio's streams, and read with no care for anything that can go wrong.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec

from benchmarks.shapes import msgspec_page

_LENGTH = b"content-length: "
_REQUEST = "GET {}&page={} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\n\r\n"


@asynccontextmanager
async def asyncio_streams(
    url: str, authority: str | None, target: str
) -> AsyncIterator[Callable[[int], Awaitable[Any]]]:
    """A function that gets one page, decoded to a msgspec struct."""
    parts = urlsplit(url)
    tls = ssl.create_default_context(cafile=authority) if authority else None
    decoder = msgspec.json.Decoder(msgspec_page(), strict=False)
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def page(number: int) -> Any:
        reader, writer = (
            idle.pop() if idle else await asyncio.open_connection(parts.hostname, parts.port, ssl=tls)
        )
        writer.write(_REQUEST.format(target, number, parts.netloc).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        begin = head.index(_LENGTH) + len(_LENGTH)
        body = await reader.readexactly(int(head[begin : head.index(b"\r", begin)]))
        idle.append((reader, writer))
        return decoder.decode(body)

    yield page
    for _, writer in idle:
        writer.close()
    for _, writer in idle:
        await writer.wait_closed()
