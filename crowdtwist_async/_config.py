"""
The client's settings, normalised and refused in one place, before any request.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from crowdtwist_async._arguments import not_of
from crowdtwist_async._secrets import Secret
from crowdtwist_async._signing import HmacKey
from crowdtwist_async.errors import ConfigurationError

KEY = r"[\x21-\x7e]{1,4096}"
_ONE_LINE = "it must hold one line, the key alone, without a byte order mark (BOM)"
_ENVIRONMENT = r"[a-z0-9]{0,20}-?"
_LONGEST = 1e9
"""Seconds: 30 years."""
_DIGITS = r"[0-9]{1,20}"
_LARGEST_CLIENT_ID = 10**20 - 1
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST = rf"{_LABEL}(\.{_LABEL})*|\[[0-9a-f:.]+\]"
_BASE_PATH = r"(/[A-Za-z0-9._~-]+)*"


class Base(NamedTuple):
    """Where one of the two hosts is."""

    origin: str
    """Scheme, host and port."""
    path: str = ""
    """What comes before every path of the API, if it stands behind a gateway."""

    @property
    def host(self) -> str:
        """Host and port, for errors and logs."""
        return self.origin.partition("://")[2]


class Settings(NamedTuple):
    """What every request of a client needs to know. Its repr shows no key."""

    api: Base
    pos: Base
    key: Secret
    key_query: Secret
    key_header: Secret
    signing: HmacKey | None = None
    """Signs the requests to the api host, which then have no key in their URL."""
    wall_clock: Callable[[], float] = time.time
    """Seconds since 1970, for the timestamps of signatures."""

    @property
    def key_pair(self) -> tuple[Secret, ...]:
        """What signs, for masking; empty without signing."""
        return () if self.signing is None else (self.signing.public_key, self.signing.private_key)


def make_settings(
    *,
    api_key: Secret,
    client_id: object = None,
    environment: object = "",
    api_url: object = None,
    pos_url: object = None,
    signing: Secret = Secret(None),  # noqa: B008 - frozen
) -> Settings:
    """
    Normalise the settings.

    What is to sign is wrapped as well: it may be a pair of plain keys, by mistake.

    Raises:
        ConfigurationError: One of them can't work; the key's value is never in the text.
    """
    problem = _key_problem(api_key)
    if problem is not None:
        raise ConfigurationError(problem)
    if not isinstance(signing.reveal(), HmacKey | None):
        raise ConfigurationError("signing must be an HmacKey: HmacKey(public_key, private_key)")
    program = _checked_environment(environment), _checked_client_id(client_id)
    return Settings(
        api=_base("api", program, api_url, "api_url"),
        pos=_base("pos", program, pos_url, "pos_url"),
        key=api_key,
        key_query=Secret(f"api_key={quote(api_key.reveal(), safe='')}"),
        key_header=Secret(f"CTApiKey {api_key.reveal()}"),
        signing=signing.reveal(),
    )


def _key_problem(secret: Secret) -> str | None:
    """What is wrong with a key. Returned, not raised, so that no traceback holds this frame."""
    key: object = secret.reveal()
    if key is None:
        return "api_key is missing: give it, or set CROWDTWIST_API_KEY or CROWDTWIST_API_KEY_FILE"
    if not isinstance(key, str):
        return f"api_key must be a str, not {type(key).__name__}"
    if not key:
        return "api_key is empty: give it, or set CROWDTWIST_API_KEY or CROWDTWIST_API_KEY_FILE"
    if not re.fullmatch(KEY, key):
        return (
            "api_key holds a space, a line break or another character that no key has;"
            " is there a newline at its end?"
        )
    return None


def _checked_client_id(client_id: object) -> str:
    if client_id is None or client_id == "":
        return ""
    if type(client_id) is int and 0 <= client_id <= _LARGEST_CLIENT_ID:
        return str(client_id)  # a larger one may have more digits than Python writes
    text = client_id if type(client_id) is str else ""
    if not re.fullmatch(_DIGITS, text):
        raise ConfigurationError("client_id must be the digits that CrowdTwist issued, such as 201")
    return text


def _checked_environment(environment: object) -> str:
    if not isinstance(environment, str) or not re.fullmatch(_ENVIRONMENT, environment):
        raise ConfigurationError(
            "environment must be a host prefix: '' (US), 'sb-' (sandbox), 'sb2-', 'de-' or 'us2-'"
        )
    return environment


def _base(name: str, program: tuple[str, str], url: object, argument: str) -> Base:
    if url is None:
        environment, client_id = program
        return Base(f"https://{environment}{name}{client_id}.crowdtwist.com")
    if not isinstance(url, str):
        raise ConfigurationError(f"{argument} must be a str, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError(f"{argument} is no URL") from None
    # urlsplit drops tabs and line breaks without a word.
    if re.search(r"[\x00-\x20\x7f]", url):
        raise ConfigurationError(f"{argument} must look like https://host, without white space")
    if "@" in url or "?" in url or "#" in url or "\\" in url:
        raise ConfigurationError(f"{argument} must have no user, query or fragment: only https://host/path")
    host, path = parts.netloc.lower(), parts.path.rstrip("/")
    bare = host.removesuffix(f":{port}") if port is not None else host
    if (
        port == 0
        or not re.fullmatch(_HOST, bare)
        or not re.fullmatch(_BASE_PATH, path)
        or {".", ".."} & set(path.split("/"))
    ):
        raise ConfigurationError(f"{argument} must look like https://host or https://host:port/path")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(bare)):
        raise ConfigurationError(f"{argument} must be https; plain http is for this machine only (loopback)")
    default = {"https": 443, "http": 80}[parts.scheme]
    return Base(f"{parts.scheme}://{bare}" + (f":{port}" if port not in (None, default) else ""), path)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def checked_seconds(value: Any, name: str) -> float:
    """A positive number of seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LONGEST:
        unless = ", or None: no deadline" if name == "deadline" else ""
        raise ConfigurationError(f"{name} must be a positive number of seconds{unless}{not_of(value)}")
    return float(value)


def checked_positive(value: Any, name: str) -> int:
    """An integer of 1 or more."""
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"{name} must be an int of 1 or more")
    return value


def settings_from_env(*, with_key: bool = True, with_signing: bool = True) -> dict[str, Any]:
    """
    The client's arguments as `CROWDTWIST_...` variables give them; an empty variable counts as unset.

    Keys are wrapped at once: neither the environment nor a plain key is a local of any frame that an
    error could show.

    Raises:
        ConfigurationError: A key is given twice, its file can't be read or holds no key, half a key pair
            is there, or the rate is no number.
    """
    arguments: dict[str, Any] = {
        "client_id": _stripped("CLIENT_ID"),
        "environment": _stripped("ENVIRONMENT") or "",
        "api_url": _stripped("API_URL"),
        "pos_url": _stripped("POS_URL"),
    }
    key = _key_from_env("API_KEY") if with_key else None
    if key is not None:
        arguments["api_key"] = key
    signing = signing_from_env() if with_signing else None
    if signing is not None:
        arguments["signing"] = signing
    rate = rate_from_env()
    if rate is not None:
        arguments["per_minute"] = rate
    return arguments


def named_by_variable(problem: str, arguments: AbstractSet[str]) -> str:
    """What is wrong, with the variables that gave these arguments in their place."""
    argument, space, rest = problem.partition(" ")
    return f"CROWDTWIST_{argument.upper()}{space}{rest}" if argument in arguments else problem


def _variable(name: str) -> str | None:
    return os.environ.get(f"CROWDTWIST_{name}") or None


def _stripped(name: str) -> str | None:
    return (_variable(name) or "").strip() or None


def signing_from_env() -> HmacKey | None:
    """
    The key pair that `CROWDTWIST_HMAC_...` variables give.

    Raises:
        ConfigurationError: Half a pair is there, a file can't be read, or a switch is unknown.
    """
    public, private = Secret(_variable("HMAC_PUBLIC_KEY")), _key_from_env("HMAC_PRIVATE_KEY")
    if public.reveal() is None and private is None:
        return None
    if public.reveal() is None or private is None:
        raise ConfigurationError(
            "signing takes two keys: set CROWDTWIST_HMAC_PUBLIC_KEY, and CROWDTWIST_HMAC_PRIVATE_KEY or"
            " CROWDTWIST_HMAC_PRIVATE_KEY_FILE, or none of them"
        )
    pair: dict[str, Any] = {"public_key": public, "private_key": private}
    for switch in ("timestamp", "digest"):
        value = _variable(f"HMAC_{switch.upper()}")
        if value is not None:
            pair[switch] = value
    try:
        return HmacKey(**pair)
    except ConfigurationError as error:
        problem = error.reason
    raise ConfigurationError(re.sub(r"^HmacKey's (\w+)", _its_variable, problem))


def _its_variable(argument: re.Match[str]) -> str:
    return f"CROWDTWIST_HMAC_{argument[1].upper()}"


def _key_from_env(name: str) -> Secret | None:
    """A key out of a variable, or out of the file that another one names."""
    file = _variable(f"{name}_FILE")
    if file is None:
        return Secret(_variable(name)) if _variable(name) else None
    if _variable(name):
        raise ConfigurationError(f"set CROWDTWIST_{name} or CROWDTWIST_{name}_FILE, not both")
    try:
        key = Secret(Path(file).read_text(encoding="utf-8").strip())
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or f"it is no UTF-8 text: {_ONE_LINE}"
    else:
        if re.fullmatch(KEY, key.reveal()):
            return key
        holds = "holds something else" if key.reveal() else "is empty"
        raise ConfigurationError(f"the file of CROWDTWIST_{name}_FILE {holds}: {_ONE_LINE}")
    raise ConfigurationError(f"CROWDTWIST_{name}_FILE can't be read: {problem}")


def rate_from_env() -> float | None:
    """
    The request rate that `CROWDTWIST_PER_MINUTE` gives.

    Raises:
        ConfigurationError: It is no number.
    """
    text = _variable("PER_MINUTE")
    try:
        return None if text is None else float(text)
    except ValueError:
        raise ConfigurationError("CROWDTWIST_PER_MINUTE must be a number of requests, or inf") from None
