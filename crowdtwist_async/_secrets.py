"""
Keeping the API key, and what a server echoes of it, out of everything that is kept or printed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from http.client import responses
from typing import Any, NoReturn
from urllib.parse import quote, quote_plus

MASK = "***"

_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})
_ATS = ("&#64;", "&#x40;", "&commat;", "\\u0040")
_LEAST_PHONE_DIGITS = 7
_MOST_LEVELS = 20
"""Nesting beyond which an error's details are not kept: they must still be copied and pickled."""
_LONGEST_NUMBER = 10**100
"""No id and no key is as long, and Python writes no number of thousands of digits."""

_LIKE_ASCII = str.maketrans("\u0130\u0131\u017f\u212a", "iisk")
"""The other characters that a pattern takes for letters of ASCII, as capitals or small ones of these."""

# A link may come with its `=`, `&` and `/` escaped by the server's JSON encoder.
_KEY_IN_LINK = r"""(api_key(?:=|\\u003[dD]|%3[dD]))(?:[^&"'\\\s<>]++|\\(?!u0026|u0022|["nrt]).)*"""
_KEY_IN_HEADER = r"(CTApiKey[ +]|CTApiKey%20)[^\s'\",]+"
# A public key ends with the first colon; bounded, as a server could send thousands of beginnings.
_SIGNATURE_IN_HEADER = (
    r"(CTApiV2Auth(?:[ +]|%20))(?:[^\s:%]|%(?!3[aA])){1,256}+(?::|%3[aA])[A-Za-z0-9+/=%\\]+"
)


class Secret:
    """A text that no repr, attribute walk or pickle shows: it lives in a closure."""

    __slots__ = ("reveal",)

    reveal: Callable[[], Any]

    def __init__(self, text: object) -> None:
        self.reveal = lambda: text

    @classmethod
    def of(cls, value: object) -> Secret:
        """Wrap a value, if it is not wrapped yet."""
        return value if isinstance(value, cls) else cls(value)

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret can't be pickled or copied")


def blank_keys_in_links(body: bytes) -> bytes:
    """Empty the value of every `api_key=` by the rules of links, whatever the key is."""
    return re.sub(_KEY_IN_LINK.encode(), rb"\1", body)


class Redactor:
    """
    Replaces the key, plain or percent-encoded, and other given texts, in what a server said.

    Args:
        key: The API key.
        others: User ids.
        further: More keys: those that requests are signed with, and what they made.
    """

    def __init__(self, key: Secret, others: Iterable[str] = (), further: tuple[Secret, ...] = ()) -> None:
        self._key = key
        self._others = tuple(others)
        self._further = further
        self._sought: Secret | None = None

    def knowing(self, secret: Secret) -> Redactor:
        """The same for one key more."""
        return Redactor(self._key, self._others, (*self._further, secret))

    def __call__(self, text: str) -> str:
        """Mask one text."""
        text = re.sub(_KEY_IN_HEADER, rf"\1{MASK}", re.sub(_KEY_IN_LINK, r"\1", text))
        if self._sought is None:
            # Once, as an error's details may be thousands of texts; never, where nothing fails.
            keys = self._key_forms()
            self._sought = Secret((keys, [_Echo(form) for user in self._others for form in _echoes(user)]))
        forms, echoes = self._sought.reveal()
        if self._further:
            text = re.sub(_SIGNATURE_IN_HEADER, rf"\1{MASK}", text)
        for form in forms:
            text = text.replace(form, MASK)
        for echo in echoes:
            text = echo.masked(text)
        return text

    def _key_forms(self) -> tuple[str, ...]:
        return tuple(form for secret in (self._key, *self._further) for form in _forms(secret.reveal()))

    def deep(self, value: Any, levels: int = _MOST_LEVELS) -> Any:
        """Mask every text in parsed JSON, names included; what lies deeper than anyone looks is dropped."""
        if isinstance(value, str):
            return self(value)
        if type(value) is int and abs(value) < _LONGEST_NUMBER:
            text = self(str(value))
            return value if text == str(value) else text
        if not isinstance(value, list | dict):
            return value
        if levels == 0:
            return None
        if isinstance(value, list):
            return [self.deep(entry, levels - 1) for entry in value]
        return {self(name): self.deep(entry, levels - 1) for name, entry in value.items()}

    def links(self, body: bytes) -> bytes:
        """Empty the value of every `api_key=` in a body that is not parsed yet."""
        if b"api_key" not in body:
            return body
        # A key may hold characters that end a link's value; its own forms are known.
        for form in _forms(self._key.reveal()):
            body = body.replace(b"api_key=" + form.encode(), b"api_key=")
        return blank_keys_in_links(body)


def _forms(text: str) -> list[str]:
    """The ways in which a server may echo a text, the longest first."""
    encoded = {quote(text, safe=""), quote_plus(text), quote(text), text.translate(_HTML), text}
    forms = encoded | {form.replace("/", "\\/") for form in encoded}
    lowered = {re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), form) for form in forms}
    return sorted(forms | lowered, key=len, reverse=True)


def _echoes(user_id: str) -> list[str]:
    """The ways in which a server may echo a user id; a phone number without its punctuation too."""
    digits = re.sub(r"[^0-9]", "", user_id)
    is_phone = len(digits) >= _LEAST_PHONE_DIGITS and not re.search(r"[^0-9 ()+.-]", user_id)
    forms = {*_forms(user_id), quote(quote(user_id, safe=""), safe=""), user_id.replace("+", " ")}
    forms |= {user_id.replace("@", at) for at in _ATS}
    return sorted(forms | ({digits} if is_phone else set()), key=len, reverse=True)


class _Echo:
    """
    One of the ways in which a server may echo a user id, in letters of any case.

    The pattern of a long one takes milliseconds to make: only where it may be in a text, there is one.
    """

    def __init__(self, form: str) -> None:
        self._form = form
        self._folded = form.translate(_LIKE_ASCII).lower()
        self._pattern: re.Pattern[str] | None = None

    def masked(self, text: str) -> str:
        """The text without it."""
        if text.isascii() and self._folded not in text.lower():
            return text
        if self._pattern is None:
            self._pattern = re.compile(_whole(self._form), re.IGNORECASE)
        return self._pattern.sub(MASK, text)


def _whole(form: str) -> str:
    """A pattern for a user id; a plain word only as a whole, as a short one would shred the text."""
    return rf"(?<![0-9A-Za-z]){re.escape(form)}(?![0-9A-Za-z])" if form.isalnum() else re.escape(form)


def _without_reason(status: re.Match[str]) -> str:
    """The status without what a server of its own mind says behind it."""
    return status[0] if status[3] == responses.get(int(status[2])) else f'{status[1]}"'


class LogRedaction(logging.Filter):
    """
    Masks keys, headers and what follows the client's hosts in the HTTP libraries' records while it is open.

    A path names a user. Filters are not inherited by child loggers, so each of `_WIRE_LOGGERS` gets its own.
    """

    _CORE_PARTS = ("connection", "http11", "http2", "proxy", "socks")
    _WIRE_LOGGERS = (
        "httpx",
        *(f"httpcore.{part}" for part in _CORE_PARTS),
        "httpx2",
        *(f"httpcore2.{part}" for part in _CORE_PARTS),
        "aiohttp.client",
        "hpack.hpack",
        "hpack.table",
    )
    _BYTES = r"""(?:b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*")"""
    _PAIR = re.compile(rf"\(({_BYTES}), {_BYTES}\)")
    """A header of a reply in httpcore's records: a server may put a user into any, such as `Location`."""
    _REASON = re.compile(rf"(return_value=\({_BYTES}, [0-9]+, ){_BYTES}")
    """What follows the status there."""
    _STATUS = re.compile(r'("HTTP/[0-9.]+ ([0-9]{3})) (.*)"', re.DOTALL)
    """The status in httpx's own, and what follows it."""
    _ANY_BYTES = re.compile(_BYTES)
    """In the records of HTTP/2's headers, which have them packed as well."""

    def __init__(self, redact: Redactor, origins: Iterable[str] = ()) -> None:
        super().__init__()
        self._redact = redact
        self._urls = [
            re.compile(rf"({re.escape(origin)}(?![\w.:-]))[^\s\"'<>]+", re.IGNORECASE) for origin in origins
        ]

    def install(self) -> None:
        """Start masking."""
        for name in self._WIRE_LOGGERS:
            logging.getLogger(name).addFilter(self)

    def remove(self) -> None:
        """Stop masking."""
        for name in self._WIRE_LOGGERS:
            logging.getLogger(name).removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record, with its text masked."""
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - the arguments don't fit the text: handlers know what to do about it
            return True
        masked = self._redact(text)
        for url in self._urls:
            masked = url.sub(rf"\1/{MASK}", masked)
        if record.name.startswith("hpack"):
            masked = self._ANY_BYTES.sub(f"b'{MASK}'", masked)
        elif record.name.startswith("httpcore"):
            masked = self._PAIR.sub(rf"(\1, b'{MASK}')", masked)
            masked = self._REASON.sub(rf"\1b'{MASK}'", masked)
            if ".failed exception=" in masked:
                # What was sent instead of HTTP is quoted.
                masked = self._ANY_BYTES.sub(f"b'{MASK}'", masked)
        elif record.name.startswith("httpx"):
            masked = self._STATUS.sub(_without_reason, masked)
        if masked != text:
            record.msg, record.args = masked, ()
        return True
