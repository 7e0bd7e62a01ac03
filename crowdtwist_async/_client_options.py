"""
The arguments of a client: their types, for what passes them on by name, and what they must be.
"""

from __future__ import annotations

import inspect
from typing import Any, TypedDict

from crowdtwist_async._budget import Budget, RateBudget
from crowdtwist_async._config import checked_seconds
from crowdtwist_async._retry import RetryPolicy
from crowdtwist_async._send import Options
from crowdtwist_async._signing import HmacKey
from crowdtwist_async.errors import ConfigurationError
from crowdtwist_async.transports import Transport
from crowdtwist_async.transports.httpx import HttpxTransport, InjectedClientTransport


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


def checked_options(timeout: float, deadline: float | None, retry: RetryPolicy) -> Options:
    """How one request is sent."""
    if not isinstance(retry, RetryPolicy):
        raise ConfigurationError(
            "retry must be a RetryPolicy; RetryPolicy(max_attempts=1) switches retries off"
        )
    return Options(
        timeout=checked_seconds(timeout, "timeout"),
        deadline=None if deadline is None else checked_seconds(deadline, "deadline"),
        retry=retry,
    )


def checked_budget(budget: Budget | None) -> Budget:
    """What is asked before each request."""
    if budget is None:
        return RateBudget()
    if isinstance(budget, type) or not hasattr(budget, "reserve") or not hasattr(budget, "penalize"):
        raise ConfigurationError("budget must be a RateBudget(...), or have its reserve and penalize")
    return budget


def chosen_transport(http_client: Any, transport: Transport | None) -> Transport:
    """What moves the bytes."""
    if http_client is not None and transport is not None:
        raise ConfigurationError("give http_client or transport, not both")
    if http_client is not None:
        works = inspect.iscoroutinefunction(getattr(http_client, "send", None))
        if isinstance(http_client, type) or not hasattr(http_client, "build_request") or not works:
            raise ConfigurationError("http_client must be an httpx.AsyncClient(...), or work like one")
        return InjectedClientTransport(http_client)
    if transport is None:
        return HttpxTransport()
    if isinstance(transport, type) or not hasattr(transport, "send") or not hasattr(transport, "aclose"):
        raise ConfigurationError(
            "transport must be an object with the send and aclose of crowdtwist_async.Transport"
        )
    return transport
