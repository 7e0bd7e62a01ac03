"""
The event loop's clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
import sniffio


def loop_clock() -> Callable[[], float]:
    """
    Return the clock of the event loop that runs, or one that looks for it when there is none yet.

    `anyio.current_time` finds out which loop runs whenever it is asked, and takes thirty times as long.
    """
    try:
        if sniffio.current_async_library() == "asyncio":
            return asyncio.get_running_loop().time
    except sniffio.AsyncLibraryNotFoundError:
        pass
    return anyio.current_time
