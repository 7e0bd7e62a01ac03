"""
The arguments of a client as a type, for what takes them by name and passes them on.
"""

from __future__ import annotations

from typing import Any, TypedDict

from crowdtwist_async._budget import Budget
from crowdtwist_async._retry import RetryPolicy
from crowdtwist_async._signing import HmacKey
from crowdtwist_async.transports import Transport


class ClientOptions(TypedDict, total=False):
    """What `CrowdTwistClient` takes; it says what each means."""

    api_key: str
    client_id: int | str | None
    environment: str
    api_url: str | None
    pos_url: str | None
    timeout: float
    deadline: float | None
    max_in_flight: int
    retry: RetryPolicy
    budget: Budget | None
    http_client: Any
    transport: Transport | None
    signing: HmacKey | None
