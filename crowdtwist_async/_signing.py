"""
HMAC signing, which some programs have on the api host instead of a key in the URL.

Plain functions of the key pair, the URI and the time. The vendor's page leaves two things open, the unit of
the timestamp and what exactly is Base64-encoded, so `HmacKey` can switch both.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64encode
from typing import Literal, NamedTuple, NoReturn

from attrs import frozen

from crowdtwist_async._retry import read_date
from crowdtwist_async._secrets import MASK, Secret
from crowdtwist_async.errors import AuthenticationError, ConfigurationError

SCHEME = "CTApiV2Auth"
WINDOW = 900
"""Seconds that a timestamp may be off the server's clock."""

_PUBLIC_KEY = r"[\x21-\x39\x3b-\x7e]{1,256}"
_PRIVATE_KEY = r"[\x21-\x7e]{1,4096}"


@frozen(init=False, repr=False, eq=False)
class HmacKey:
    """
    The key pair that signs the requests to the api host: `CrowdTwistClient(..., signing=HmacKey(...))`.

    The two switches are provisional: the vendor's page can be read in several ways, and nobody outside has
    tried them all on a live program. The defaults follow its examples and the one public implementation.

    Args:
        public_key: The public key, which each signed request names.
        private_key: The private key, which no request holds.
        timestamp: The unit of `X-CT-Timestamp`: `ms`, milliseconds since 1970, or `s`, seconds.
        digest: What of the HMAC-SHA256 is Base64-encoded: `hex`, its lower-case hexadecimal text, or
            `raw`, its 32 bytes.

    Raises:
        ConfigurationError: One of them can't work; neither key is in the text.
    """

    public_key: Secret
    private_key: Secret
    timestamp: Literal["ms", "s"]
    digest: Literal["hex", "raw"]

    def __init__(
        self,
        public_key: str,
        private_key: str,
        *,
        timestamp: Literal["ms", "s"] = "ms",
        digest: Literal["hex", "raw"] = "hex",
    ) -> None:
        public, private = Secret.of(public_key), Secret.of(private_key)
        del public_key, private_key  # so that no traceback through this frame shows them
        problem = (
            _key_problem(public, "public_key", _PUBLIC_KEY)
            or _key_problem(private, "private_key", _PRIVATE_KEY)
            or _choice_problem(timestamp, "timestamp", ("ms", "s"))
            or _choice_problem(digest, "digest", ("hex", "raw"))
        )
        if problem is not None:
            raise ConfigurationError(problem)
        init = self.__attrs_init__  # pyright: ignore[reportAttributeAccessIssue] # attrs makes it
        init(public, private, timestamp, digest)

    def __repr__(self) -> str:
        if not hasattr(self, "digest"):
            # Crash reporters print the half-made pair that was refused.
            return "<HmacKey refused>"
        return f"HmacKey({MASK}, timestamp={self.timestamp!r}, digest={self.digest!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key pair can't be pickled or copied: make it in each process")


class Signed(NamedTuple):
    """What one attempt is signed with."""

    timestamp: str
    """The value of `X-CT-Timestamp`."""
    authorization: Secret
    """The value of `X-CT-Authorization`."""
    signature: Secret
    """Its last part, for masking."""


def sign(key: HmacKey, uri: str, now: float) -> Signed:
    """
    Sign one GET.

    Args:
        key: The pair.
        uri: Path and query, byte for byte as sent.
        now: Seconds since 1970.
    """
    timestamp = timestamp_of(key, now)
    signature = signature_of(key, string_to_sign(uri, timestamp))
    return Signed(timestamp, Secret(authorization(key, signature)), Secret(signature))


def timestamp_of(key: HmacKey, now: float) -> str:
    """The time in the pair's unit."""
    return str(int(now * 1000 if key.timestamp == "ms" else now))


def string_to_sign(uri: str, timestamp: str) -> str:
    """Verb, MD5 of the body, content type, timestamp and URI; a GET has neither body nor content type."""
    return f"GET\n\n\n{timestamp}\n{uri}"


def signature_of(key: HmacKey, text: str) -> str:
    """The HMAC-SHA256 of a text, in the pair's format."""
    digest = hmac.digest(key.private_key.reveal().encode(), text.encode(), "sha256")
    return b64encode(digest.hex().encode() if key.digest == "hex" else digest).decode()


def authorization(key: HmacKey, signature: str) -> str:
    """The value of `X-CT-Authorization`."""
    return f"{SCHEME} {key.public_key.reveal()}:{signature}"


def explain_refusal(error: AuthenticationError, date: str | None, now: float) -> AuthenticationError:
    """
    Say what to check when the server refuses a signed request.

    Args:
        error: What its reply means.
        date: The reply's `Date` header.
        now: This machine's clock, in seconds since 1970.
    """
    moment = read_date(date)
    off = 0.0 if moment is None else now - moment.timestamp()
    clock = "that this machine's clock is right to 15 minutes"
    if abs(off) > WINDOW:
        way = "ahead of" if off > 0 else "behind"
        clock = f"this machine's clock, which is {abs(off) / 60:,.0f} minutes {way} the server's"
    checks = (
        f"{clock}, that the HMAC key pair is this program's and signing is switched on for it, HmacKey's"
        " timestamp and digest (CROWDTWIST_HMAC_TIMESTAMP and _DIGEST), and that no gateway changes the path"
    )
    error.args = (f"{error.reason} (the request was signed: check {checks})",)
    return error


def _key_problem(secret: Secret, name: str, pattern: str) -> str | None:
    """What is wrong with a key. Returned, not raised, so that no traceback holds this frame."""
    key: object = secret.reveal()
    if not isinstance(key, str):
        return f"HmacKey's {name} must be a str, not {type(key).__name__}"
    if not key:
        return f"HmacKey's {name} is empty: give the pair that CrowdTwist issued"
    if not re.fullmatch(pattern, key):
        colon = " a colon," if name == "public_key" else ""
        return (
            f"HmacKey's {name} is too long, or holds a space, a line break,{colon} or another character that"
            " no key has: is there a newline at its end?"
        )
    return None


def _choice_problem(value: object, name: str, choices: tuple[str, str]) -> str | None:
    if isinstance(value, str) and value in choices:
        return None
    return f"HmacKey's {name} must be {choices[0]!r} or {choices[1]!r}"
