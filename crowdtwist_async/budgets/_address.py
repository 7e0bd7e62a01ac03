"""
Where a Redis is, checked before anything is sent there.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlsplit

from crowdtwist_async._config import is_loopback
from crowdtwist_async._secrets import MASK, Secret

_SHAPE = "the URL of Redis must look like rediss://:password@host:6379/0 or unix:///path/to.sock"
_OPTIONS = frozenset({"db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_DATABASE = r"(/[0-9]{0,5})?"
_BLANKS = r"[\x00-\x20\x7f]"
_HOST = r"[A-Za-z0-9._:-]+"


class Address(NamedTuple):
    """A URL that can be used. Its repr shows no password."""

    url: Secret
    shown: str
    """The URL without its user, password and options."""
    encrypted: bool


def read_address(url: Secret) -> Address | str:
    """Check a URL; return what is wrong with it, as a raised error's frames would show the password."""
    text: Any = url.reveal()
    if not isinstance(text, str):
        return f"the URL of Redis must be a str, not {type(text).__name__}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return _SHAPE
    unknown = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)} - _OPTIONS
    if unknown or parts.fragment:
        known = ", ".join(sorted(_OPTIONS))
        return f"the URL of Redis takes no options but {known}; a password is percent-encoded"
    host = parts.hostname or ""
    if re.search(_BLANKS, text) or port == 0 or not _is_place(parts, host):
        return _SHAPE
    if parts.scheme == "redis" and not is_loopback(host):
        return "the URL of Redis must be rediss: plain redis is for this machine only (loopback)"
    masked = f"{MASK}@" if "@" in parts.netloc else ""
    bare = f"[{host}]" if ":" in host else host
    place = f"{bare}:{port or 6379}" if bare else ""
    return Address(url, f"{parts.scheme}://{masked}{place}{parts.path}", encrypted=parts.scheme == "rediss")


def _is_place(parts: SplitResult, host: str) -> bool:
    """Whether it names a host with a database at most, or a socket."""
    if parts.scheme == "unix":
        return not host and bool(parts.path)
    is_host = re.fullmatch(_HOST, host) and re.fullmatch(_DATABASE, parts.path)
    return parts.scheme in ("redis", "rediss") and bool(is_host)
