"""
Ids, keys, dates, parameters and URLs that no caller should give.
"""

from __future__ import annotations

import string
from datetime import UTC, date, datetime
from random import Random
from typing import Any

from conftest import KEY

_ID_TYPES: tuple[Any, ...] = (
    "id", "email", "third_party_id", "mobile_phone_number", "facebook_id", "twitter_id", "instagram_id", "ID",
    "", None, 1, [], {}, b"id", "id\n", "id&page=2",
)  # fmt: skip
_HOSTILE = (
    "/", "//", "..", ".", "%2F", "%2e%2e", "%", "%%", "%zz", "+", "?", "#", ";", "&", "=", "@", ":", "\\", " ", "\t",
    "\r\n", "\0", "\x7f", "\x85", "\u2028", "\u202e", "\ud800", "\U0001f4a9", "\u0661", "a\u0301", "\xad", "|", '"',
    "'", "<", "{", "$", "[", "~", "api_key=x", "http://evil.example.com", "//evil.example.com/", "K" * 3_000, "\ufeff",
)  # fmt: skip
_NO_TEXT: tuple[Any, ...] = (
    None, True, False, 0, -1, 7, 2**63 - 1, 2**63, 10**5_000, 1.5, float("nan"), b"7", [], {}, (), object(), str,
    date(2020, 1, 1), datetime(2020, 1, 1, tzinfo=UTC),
)  # fmt: skip
_DATES: tuple[Any, ...] = (
    *_NO_TEXT, date(1, 1, 1), date(9999, 12, 31), "2020-01-01", "2020-02-30", "0000-00-00", "2020-1-1", "20200101",
    "2020-01-01T00:00:00", "\u0662\u0660\u0662\u0660-01-01", "2020-01-01\n", "9999-12-31", "2020-W01-1", "",
)  # fmt: skip
_INTEGERS: tuple[Any, ...] = (*_NO_TEXT, "1", 10, 11, 10**9, -(2**63), -(2**63) + 1)
_URLS = (
    "https://h.example.com", "https://h.example.com:443/a/", "http://localhost:80", "http://127.0.0.1:1/x",
    "http://[::1]:8080", "https://[fe80::1%25eth0]", "http://h.example.com", "https://a@h.example.com",
    "https://a:b@h.example.com", "https://h.example.com?x", "https://h.example.com#x", "//h.example.com", "h.example.com",
    "ftp://h.example.com", "https://", "https:///x", "https://h.example.com:0", "https://h.example.com:99999",
    "https://h.example.com:\u0661", "https://h.example.com/../x", "https://h.example.com/%2e%2e/x", "https://h\\evil/",
    "https://h.example.com\\@evil.example.com", "https://127.1", "http://127.0.0.1.evil.example.com", "https://x..y",
    "http://localhost.evil.example.com", "http://0x7f.1", "HTTPS://H.EXAMPLE.COM/A", "https://h.example.com/a b",
    "https://h\t.example.com", "https://h.example.com\n", "https://\u0127.example.com", "https://xn--.example.com",
    "javascript:alert(1)", "https://h.example.com:443@evil.example.com", "https://[::1", "http://[::ffff:127.0.0.1]",
    "https://" + "a" * 300, "https://h.example.com/" + "a" * 5_000, "https://h.example.com:", "http://LOCALHOST:",
)  # fmt: skip


def text(dice: Random) -> str:
    """A text from pieces that mean something in URLs, headers or on terminals."""
    match dice.randrange(5):
        case 0:
            return str(dice.randrange(10 ** dice.randint(1, 20)))
        case 1:
            return "".join(dice.choices(string.printable, k=dice.randint(0, 12)))
        case 2:
            return "".join(chr(dice.randrange(0x11_0000)) for _ in range(dice.randint(0, 8)))
    return "".join(dice.choices((*_HOSTILE, "a", "7", "alice"), k=dice.randint(0, 6)))


def user_id(dice: Random) -> Any:
    """An id, mostly a text."""
    return dice.choice(_NO_TEXT) if dice.random() < 0.1 else text(dice)


def id_type(dice: Random) -> Any:
    """An id type, mostly one that exists."""
    return dice.choice(_ID_TYPES[:4] if dice.random() < 0.7 else _ID_TYPES)


def day(dice: Random) -> Any:
    """A day, or something like it."""
    return dice.choice(_DATES) if dice.random() < 0.8 else text(dice)


def integer(dice: Random) -> Any:
    """A page or a page size, or something like it."""
    return dice.choice(_INTEGERS) if dice.random() < 0.7 else dice.randrange(-10, 100)


def flag(dice: Random) -> Any:
    """Mostly a boolean."""
    return dice.choice((None, True, False, *_NO_TEXT, "true"))


def url(dice: Random) -> Any:
    """A base URL with something wrong, or none."""
    if dice.random() < 0.1:
        return dice.choice(_NO_TEXT)
    known = dice.choice(_URLS)
    at = dice.randrange(len(known) + 1)
    return known if dice.random() < 0.5 else known[:at] + text(dice) + known[at:]


def key(dice: Random) -> Any:
    """An API key: this program's one with something wrong, or none at all."""
    match dice.randrange(4):
        case 0:
            return dice.choice(_NO_TEXT)
        case 1:
            return KEY + dice.choice(_HOSTILE)
        case 2:
            return dice.choice(("\r\nX-Evil: 1", "\n", "\0", " ", "\u0661")) + KEY
    return "".join(chr(dice.randint(0x21, 0x7E)) for _ in range(dice.randint(1, 64)))
