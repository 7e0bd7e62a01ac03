"""
`crowdtwist emulator`: the emulator on a socket.
"""

from __future__ import annotations

import sys

from crowdtwist_async.emulator import Emulator
from crowdtwist_async.errors import ConfigurationError

_LAST_PORT = 65_535


def serve_emulator(emulator: Emulator, host: str, port: int) -> int:
    """Serve until interrupted, and say what to set to reach it."""
    signed = "\nIt accepts signatures too: set CROWDTWIST_HMAC_... there as here." if emulator.signing else ""

    def announce(url: str) -> None:
        print(
            f"The emulator listens on {url}, and {url}/docs describes it. To ask it:\n"
            f"  export CROWDTWIST_API_URL={url} CROWDTWIST_POS_URL={url}"
            f" CROWDTWIST_API_KEY={emulator.api_key}\n"
            f"  crowdtwist purchases {emulator.first_id}{signed}",
            file=sys.stderr,
            flush=True,
        )

    if not host.strip():
        raise ConfigurationError("--host is empty, which would be all interfaces: leave it out, or name one")
    if not 0 <= port <= _LAST_PORT:
        raise ConfigurationError(f"--port must be from 0 to {_LAST_PORT}; 0 takes a free one")
    # uvicorn would be an eighth of every other command's start.
    from crowdtwist_async.emulator.server import serve

    try:
        serve(emulator, host, port, announce)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigurationError(f"the emulator can't listen on {host} port {port}: {reason}") from None
    return 0
