"""
Who gets in: the key where its host looks for it, or a signature.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hmac import compare_digest

from crowdtwist_async._signing import SCHEME, WINDOW, HmacKey, authorization, signature_of, string_to_sign
from crowdtwist_async.emulator.calls import REWARDS, Call


def admits(call: Call, api_key: str, signing: HmacKey | None, wall_clock: Callable[[], float]) -> bool:
    """
    Whether a call has the key, or a valid signature where they are accepted.

    A signature decides where there is one: a key beside it is not looked at.
    """
    if call.endpoint != REWARDS:
        return call.authorization == f"CTApiKey {api_key}"
    if signing is not None and (call.authorization or "").startswith(f"{SCHEME} "):
        return _is_signed(call, signing, wall_clock())
    return call.query.get("api_key") == api_key


def _is_signed(call: Call, key: HmacKey, now: float) -> bool:
    timestamp, given = call.timestamp or "", call.authorization or ""
    if not re.fullmatch(r"[0-9]{1,16}", timestamp):
        return False
    moment = int(timestamp) / (1000 if key.timestamp == "ms" else 1)
    expected = authorization(key, signature_of(key, string_to_sign(call.uri, timestamp)))
    return abs(now - moment) <= WINDOW and compare_digest(expected.encode(), given.encode())
