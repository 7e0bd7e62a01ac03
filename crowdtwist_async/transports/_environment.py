"""
What the environment says of connections: proxies, the certificates to trust, tracing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from crowdtwist_async._config import is_loopback

_SUPPRESS = ("suppress_instrumentation", "suppress_http_instrumentation")


def proxy_for(origin: str) -> str | None:
    """
    The proxy that `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` name for an origin.

    This machine is never asked through a proxy: plain http is allowed to it alone.
    """
    parts = urlsplit(origin)
    host = parts.hostname or ""
    if is_loopback(host) or proxy_bypass(host):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


@contextmanager
def no_wire_spans() -> Iterator[None]:
    """Keep OpenTelemetry's HTTP instrumentations silent: their spans hold the URL, and so the key."""
    otel = sys.modules.get("opentelemetry.context")
    if otel is None:
        yield
        return
    context = otel.get_current()
    for name in _SUPPRESS:
        context = otel.set_value(name, True, context)  # noqa: FBT003 - its signature
    token = otel.attach(context)
    try:
        yield
    finally:
        otel.detach(token)
