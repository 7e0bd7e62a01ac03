"""
Replies that no server should send: real ones with something wrong, and everything else that a wire can carry.
"""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

from conftest import KEY

from crowdtwist_async import Reply

REPLIES = Path(__file__).parents[1] / "replies"
RECORDED = {path.name: path.read_bytes() for path in sorted(REPLIES.glob("*/*.json"))}
_BODIES = list(RECORDED.values())
_OF_ENDPOINT = {
    endpoint: [path.read_bytes() for path in sorted((REPLIES / endpoint).glob("*.json"))]
    for endpoint in ("points_awaiting_fulfillment", "user_rewards", "user_purchases")
}
_DEEP = 100_000
_RARE = 2_000
"""One body in so many is a large one."""

_STATUSES = (
    *(200,) * 80, 100, 101, 199, 201, 202, 204, 206, 226, 299, 300, 301, 302, 303, 304, 307, 308, 399, 400, 401,
    403, 404, 405, 407, 408, 410, 413, 418, 422, 425, 426, 429, 431, 451, 499, 500, 501, 502, 503, 504, 507,
    511, 520, 522, 529, 599, 600, 999,
)  # fmt: skip
_CONTENT_TYPES = (
    "application/json", "application/json; charset=utf-16", "text/html", "text/html; charset=latin-1", "",
    "application/problem+json", "image/png", "x" * 5_000, f"text/{KEY}", "text/\u0664",
)  # fmt: skip
_RETRY_AFTER = (
    "0", "1", "120", "86400", "-1", "+1", "nan", "inf", "1e3", "1.5", ".5", "9" * 30, "\u0661\u0662", "", " ",
    "Wed, 21 Oct 2015 07:28:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2359", "Mon, 01 Jan 0000 00:00:00 GMT",
    "Wed, 21 Oct 2015 99:99:99 GMT", "Sun, 06-Nov-94 08:49:37 GMT", "0x10", "1, 2", KEY, "1" * 100_000,
    "Sat, 01 Jan 100000 00:00:00 GMT", "01 Jan 2020 00:00:00 +9999", "1 Jan 1 1:1:1 +2400",
)  # fmt: skip
_LOCATIONS = (
    "https://evil.example.com/a?b#c", "//evil.example.com", "/here", "", "http://[::1", "http://h:99999/",
    "http://a:b@c.example.com:1/", f"https://evil.example.com/?api_key={KEY}", f"https://{quote(KEY, safe='')}/",
    f"https://{KEY}.example.com/", "file:///etc/passwd", "http://\u0661.example.com:\u0661/", "\0", "https://" + "a" * 9_999,
)  # fmt: skip

RAW = (
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "9" * 5_000, "-" + "9" * 5_000, "1" + "0" * 400,
    "18446744073709551616", "9223372036854775808", "-9223372036854775809", "0.1", "-0.0", "1.0", "2e0", "01",
    "+1", "0x1", "1_000", "true", "false", "null", '"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', '"\\uFEFF"', "''",
    "undefined", '"\\x41"', '"a\nb"', "[]", "{}", "[[]]", "[null]", '[{"a":1}]', '{"":""}', "[1,]", '{"a":1,}',
)  # fmt: skip
"""JSON, or almost, as it stands in a body."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 2**31, 2**63, 2**64, -(2**63) - 1, 10**300, 0.5, 1e308, -0.0, "", " ", "0", "1",
    "true", "TRUE", "no", "null", "NaN", "1e999", "\u0663", "9" * 401, "9" * 400, "-", "\0", "\ufeff", "\u202e",
    "\U0001f4a9", "0000-00-00", "2018-02-30", "9999-12-31T23:59:59.999999-23:59", "0001-01-01T00:00:00+23:59",
    "2018-W01-1", "20180101T000000", "253402300800", "-62135596801", "1e9", "2018-01-01T24:00:00", "tomorrow",
    "2018-01-01T00:00:00+99:99", "T", [], {}, [[]], [None], [{}], {"": None}, {"a": {"b": [1, "c"]}}, KEY,
    f"https://h/?page=2&api_key={KEY}", quote(KEY, safe=""), KEY.replace("/", "\\/"), f"CTApiKey {KEY}",
    "?page=0", "?page=-1", "?page=99999999999999999999", "&page=2&page=3", "http://api_key=", "string",
    "user_not_found", "no_data", "invalid_auth", "internal_error", "not_configured", "page_not_found",
)  # fmt: skip
"""What a property may hold."""

_NAMES = (
    "error", "errors", "reason", "message", "code", "description", "system", "paging", "rewards", "purchases",
    "user_id", "id", "title", "total", "pages", "next_page", "total_points_awaiting_fulfillment", "", "__class__",
    "sweepstake_winners", "extra_data", "segment", KEY,
)  # fmt: skip


def make_reply(dice: Random, endpoint: str) -> Reply:
    """Any reply, most often one that is akin to those of an endpoint."""
    headers = {}
    if dice.random() < 0.7:
        headers["content-type"] = dice.choice(_CONTENT_TYPES)
    if dice.random() < 0.1:
        headers["retry-after"] = dice.choice(_RETRY_AFTER)
    if dice.random() < 0.1:
        headers["location"] = dice.choice(_LOCATIONS)
    begin = dice.choice(_OF_ENDPOINT[endpoint] if dice.random() < 0.8 else _BODIES)
    make = dice.choices(_MAKERS, _WEIGHTS)[0]
    return Reply(dice.choice(_STATUSES), headers, make(dice, begin))


def _mutated(dice: Random, begin: bytes) -> bytes:
    """A recorded reply with some bytes changed."""
    body = bytearray(begin)
    for _ in range(dice.randint(1, 8)):
        at = dice.randrange(len(body) + 1)
        until = min(len(body), at + dice.randint(1, 20))
        match dice.randrange(6):
            case 0 if at < len(body):
                body[at] ^= 1 << dice.randrange(8)
            case 1:
                body[at:at] = dice.randbytes(dice.randint(1, 4))
            case 2:
                del body[at:until]
            case 3:
                body[at:at] = body[at:until]
            case 4:
                body[at:until] = dice.choice(RAW).encode()
            case 5:
                del body[at + 1 :]
    return bytes(body)


def _structured(dice: Random, begin: bytes) -> bytes:
    """A recorded reply with other values, names and shapes."""
    tree = json.loads(begin)
    raw: list[str] = []
    for _ in range(dice.randint(1, 5)):
        tree = _changed(tree, dice, raw)
    text = json.dumps(tree, ensure_ascii=dice.random() < 0.5)
    for number, piece in enumerate(raw):
        text = text.replace(f'"@{number}@"', piece)
    return _doubled(text, dice).encode("utf-8", "surrogatepass")


def _changed(tree: Any, dice: Random, raw: list[str]) -> Any:
    """Change one place of a tree."""
    if dice.random() < 0.9:
        if isinstance(tree, dict) and tree:
            return _changed_object(tree, dice, raw)
        if isinstance(tree, list) and tree:
            return _changed_array(tree, dice, raw)
    match dice.randrange(4):
        case 0:
            return [tree]
        case 1:
            return {dice.choice(_NAMES): tree}
    return _value(dice, raw)


def _changed_object(tree: dict[str, Any], dice: Random, raw: list[str]) -> Any:
    name = dice.choice(list(tree))
    match dice.randrange(8):
        case 0:
            del tree[name]
        case 1:
            tree[dice.choice(_NAMES)] = _value(dice, raw)
        case 2:
            tree[dice.choice(_NAMES)] = tree.pop(name)
        case _:
            tree[name] = _changed(tree[name], dice, raw)
    return tree


def _changed_array(tree: list[Any], dice: Random, raw: list[str]) -> Any:
    match dice.randrange(5):
        case 0:
            return tree * 2
        case 1:
            return {str(number): entry for number, entry in enumerate(tree)}
    at = dice.randrange(len(tree))
    tree[at] = _changed(tree[at], dice, raw)
    return tree


def _value(dice: Random, raw: list[str]) -> Any:
    if dice.random() < 0.3:
        raw.append(dice.choice(RAW))
        return f"@{len(raw) - 1}@"
    return copy.deepcopy(dice.choice(VALUES))


def _doubled(text: str, dice: Random) -> str:
    """Now and then, with a property that comes twice."""
    if dice.random() < 0.1 and text.startswith("{") and text != "{}":
        return f'{{"{dice.choice(_NAMES)}":{dice.choice(RAW)},{text[1:]}'
    return text


def _envelope(dice: Random, _: bytes) -> bytes:
    """An error in any of the shapes, or between them."""
    error: dict[str, Any] = {
        name: dice.choice(VALUES) for name in dice.sample(_NAMES[:7], dice.randint(0, 5))
    }
    if dice.random() < 0.5:
        error["errors"] = [
            dice.choice((error.copy(), dice.choice(VALUES))) for _ in range(dice.randint(0, 60))
        ]
    shape = dice.choice(
        (error, {"error": error}, [error], {"error": [error]}, {"errors": [error], "error": "x"})
    )
    return json.dumps(shape).encode()


def _encoded(dice: Random, body: bytes) -> bytes:
    """A recorded reply in an encoding that JSON has not, or half of one that it has."""
    match dice.randrange(7):
        case 0:
            return body.decode().encode(dice.choice(("utf-16", "utf-16-le", "utf-32", "utf-7")))
        case 1:
            return b"\xef\xbb\xbf" * dice.randint(1, 2) + body
        case 2:
            return body.replace(b"e", b"\xe9")
        case 3:
            return gzip.compress(body, 1)
        case 4:
            return body.replace(b'"', b'"\xed\xa0\x80', dice.randint(1, 3))
        case 5:
            return b"\xff\xfe" + body
    return body + body


def _text(dice: Random, _: bytes) -> bytes:
    """No JSON at all."""
    match dice.randrange(6):
        case 0:
            return dice.randbytes(dice.randint(0, 200))
        case 1:
            return dice.choice(RAW).encode()
        case 2:
            return json.dumps(dice.choice(VALUES)).encode()
        case 3:
            return b" \t\r\n" * dice.randint(0, 5)
        case 4:
            return f"<html>{dice.choice(VALUES)}{KEY}&amp;api_key={KEY}\n{quote(KEY)}</html>".encode()
    return f"{dice.choice(VALUES)} {'x' * dice.randint(0, 6_000)}{KEY} api_key={KEY}".encode(
        "utf-8", "replace"
    )


def _large(dice: Random, _: bytes) -> bytes:
    """Depth, width and length."""
    endings = {
        "[": "]",
        '{"a":': "}",
        '{"error":': "}",
        '{"paging":': "}",
        '{"errors":[': "]}",
        '[{"": ': "}]",
    }
    begin = dice.choice(list(endings))
    depth = dice.choice((100, 400, 900, 1_100, _DEEP))
    nested = begin * depth + "1" + endings[begin] * depth
    match dice.randrange(8):
        case 0:
            return nested.encode()
        case 1:
            return (begin * depth).encode()
        case 2:
            return f'{{"rewards":[],"purchases":[],"paging":{{}},"x":{nested}}}'.encode()
        case 3:
            return b'{"error":{"errors":[{"a":[' + b'"a",' * 16_000 + b'"a"]}]}}'
        case 4:
            return b'{"error":{"errors":[' + b'{"message":"a"},' * 4_000 + b"{}]}}"
        case 5:
            return (
                b'{"error":"'
                + dice.choice((b"a", b"api_key=", b"CTApiKey x ", b"%2F", KEY.encode())) * 6_500
                + b'"}'
            )
        case 6:
            return b'{"purchases":[' + b"{}," * 20_000 + b"{}]}"
    return b"[" + b"0," * 30_000 + b"0]"


_MAKERS: tuple[Callable[[Random, bytes], bytes], ...] = (
    _mutated,
    _structured,
    _envelope,
    _encoded,
    _text,
    _large,
)
_WEIGHTS = (30, 45, 10, 7, 8, 100 / _RARE)
