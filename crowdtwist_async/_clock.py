"""
The event loop's clock.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import anyio
import anyio.lowlevel


def loop_clock() -> Callable[[], float]:
    """
    Return the clock of the event loop that runs, or one that looks for it when there is none yet.

    `anyio.current_time` finds out which loop runs whenever it is asked, and takes ten times as long.
    """
    with suppress(anyio.NoEventLoopError):
        return anyio.lowlevel.current_token().backend_class.current_time
    return anyio.current_time
