"""
A second reading of the vendor's page on signing, apart from the client's: over the bytes of a request's head.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from typing import Literal

from conftest import PRIVATE_KEY, PUBLIC_KEY

from crowdtwist_async import HmacKey

PAIR = HmacKey(PUBLIC_KEY, PRIVATE_KEY)
FORMATS: list[tuple[Literal["ms", "s"], Literal["hex", "raw"]]] = [
    ("ms", "hex"),
    ("ms", "raw"),
    ("s", "hex"),
    ("s", "raw"),
]
FORMAT_IDS = ["-".join(formats) for formats in FORMATS]


def headers_of(head: bytes) -> dict[str, str]:
    """By lower-case name."""
    lines = head.decode("latin-1").split("\r\n")[1:-2]
    return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}


def is_signed(head: bytes, timestamp: str = "ms", digest: str = "hex") -> bool:
    """Whether a head, as it came from the wire, is signed with the tests' pair, now, and names no key."""
    headers = headers_of(head)
    verb, target, _ = head.split(b"\r\n", 1)[0].split(b" ")
    sent = headers.get("x-ct-timestamp", "0")
    text = b"\n".join([verb, b"", b"", sent.encode(), target])
    code = hmac.new(PRIVATE_KEY.encode(), text, hashlib.sha256)
    signature = base64.b64encode(code.hexdigest().encode() if digest == "hex" else code.digest()).decode()
    off = time.time() - int(sent) / (1000 if timestamp == "ms" else 1)
    return (
        f"CTApiV2Auth {PUBLIC_KEY}:{signature}" == headers.get("x-ct-authorization")
        and abs(off) < 60
        and b"api_key" not in head
    )
