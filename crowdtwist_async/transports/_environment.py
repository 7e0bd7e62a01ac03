"""
What the environment says of connections: proxies, the certificates to trust, tracing.
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from crowdtwist_async._config import is_loopback
from crowdtwist_async._threads import ThreadedCall
from crowdtwist_async.errors import ConfigurationError

T = TypeVar("T")

_SUPPRESS = ("suppress_instrumentation", "suppress_http_instrumentation")
_UNCHANGED = nullcontext()


def proxy_for(origin: str) -> str | None:
    """
    The proxy that `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` name for an origin.

    This machine is never asked through a proxy: plain http is allowed to it alone.
    """
    parts = urlsplit(origin)
    host = parts.hostname or ""
    if is_loopback(host) or proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def unusable_proxy() -> ConfigurationError:
    """The error of a proxy of another kind, or with a name or a port that is none."""
    return ConfigurationError(
        "the proxy that the environment names can't be used: http:// and https:// ones can"
    )


def tls_context() -> ssl.SSLContext:
    """
    What TLS trusts: `SSL_CERT_FILE` and `SSL_CERT_DIR`, or what httpx does by default.

    Raises:
        OSError: What the environment names can't be read.
    """
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file or folder:
        return ssl.create_default_context(cafile=file or None, capath=folder or None)
    import httpx

    return httpx.create_ssl_context(trust_env=False)


class MadeOnce(Generic[T]):
    """
    What takes long to make, made by one thread when it is first wanted.

    The thread is none of the program's own, which may all wait for this. It goes on when its callers
    give up: a file may hang. After a failure it is made anew.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._making: ThreadedCall[T] | None = None

    async def get(self) -> T:
        """Make it, or give what was made."""
        making = self._making = self._making or ThreadedCall(self._make)
        try:
            return await making.result()
        except Exception:
            if self._making is making:
                self._making = None
            raise


class Trust:
    """One context for all connections; reading the certificates takes some 20 ms."""

    def __init__(self) -> None:
        self._context = MadeOnce(tls_context)

    async def of(self, origin: str) -> ssl.SSLContext | ConfigurationError | None:
        """What TLS to an origin trusts, or why there is none; `None` for plain http."""
        if not origin.startswith("https:"):
            return None
        try:
            return await self._context.get()
        except OSError:
            return ConfigurationError(
                "the certificates that SSL_CERT_FILE or SSL_CERT_DIR names can't be read"
            )


def no_wire_spans() -> AbstractContextManager[None]:
    """Keep OpenTelemetry's HTTP instrumentations silent: their spans hold the URL, and so the key."""
    otel = sys.modules.get("opentelemetry.context")
    return _UNCHANGED if otel is None else _silenced(otel)


@contextmanager
def _silenced(otel: Any) -> Iterator[None]:
    context = otel.get_current()
    for name in _SUPPRESS:
        context = otel.set_value(name, True, context)  # noqa: FBT003 - its signature
    token = otel.attach(context)
    try:
        yield
    finally:
        otel.detach(token)
