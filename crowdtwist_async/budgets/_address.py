"""
Where a Redis is, checked before anything is sent there.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from crowdtwist_async._arguments import is_encodable
from crowdtwist_async._config import is_loopback
from crowdtwist_async._secrets import MASK, Secret

_SHAPE = "the URL of Redis must look like rediss://:password@host:6379/0 or unix:///path/to.sock"
_OPTIONS = frozenset({"db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_DATABASE = r"(/[0-9]{0,5})?"
_NUMBER = "[0-9]{1,5}"
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
    problem = _options_problem(parts)
    if problem is not None:
        return problem
    host = parts.hostname or ""
    if not is_encodable(text) or re.search(_BLANKS, text) or port == 0 or not _is_place(parts, host):
        return _SHAPE
    if parts.scheme == "redis" and not is_loopback(host):
        return "the URL of Redis must be rediss: plain redis is for this machine only (loopback)"
    masked = f"{MASK}@" if "@" in parts.netloc else ""
    bare = f"[{host}]" if ":" in host else host
    place = f"{bare}:{port or 6379}" if bare else ""
    return Address(url, f"{parts.scheme}://{masked}{place}{parts.path}", encrypted=parts.scheme == "rediss")


def _options_problem(parts: SplitResult) -> str | None:
    """What is wrong with the options: redis would raise with the whole URL in its frames."""
    options = parse_qsl(parts.query, keep_blank_values=True)
    if parts.fragment or {name for name, _ in options} - _OPTIONS:
        known = ", ".join(sorted(_OPTIONS))
        return f"the URL of Redis takes no options but {known}; a password is percent-encoded"
    for name, value in options:
        if name == "db" and not re.fullmatch(_NUMBER, value):
            return "the db of the URL of Redis must be the number of a database, such as 0"
        if name != "db" and (parts.scheme != "rediss" or not value.isprintable() or not value):
            return f"the {name} of the URL of Redis must be the name of a file, and the URL rediss"
    return None


def _is_place(parts: SplitResult, host: str) -> bool:
    """Whether it names a host with a database at most, or a socket."""
    if parts.scheme == "unix":
        return not host and unquote(parts.path).isprintable() and bool(parts.path)
    is_host = re.fullmatch(_HOST, host) and re.fullmatch(_DATABASE, parts.path)
    return parts.scheme in ("redis", "rediss") and bool(is_host)
