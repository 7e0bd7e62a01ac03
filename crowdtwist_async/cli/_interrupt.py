"""
What signals ask of an export: first to finish what is under way, then to stop at once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from threading import Thread, Timer

import anyio
from anyio.abc import TaskStatus

from crowdtwist_async.cli import INTERRUPTED, say
from crowdtwist_async.cli._progress import ProgressDisplay

_CLOSING_SECONDS = 2.0
"""For closing files and connections, and for the summary, after the second signal."""
_TELLING_SECONDS = 0.5
"""For the last sentence: a terminal may be held, and a pipe full."""


class Interruption:
    """
    What the signals asked for, until the process ends.

    A thread may hang in a pipe that nobody reads, or in a store that does not answer, and Python waits for
    its threads. So the second signal ends the process within seconds, whatever it does, and a third one now;
    the files are safe against that at any moment.

    Args:
        display: Shows that it stops in order.
        sentence: What to say of a stop at once.
    """

    def __init__(self, display: ProgressDisplay, sentence: Callable[[], str]) -> None:
        self.stop = anyio.Event()
        self.at_once = anyio.CancelScope()
        self._display = display
        self._sentence = sentence
        self._is_told = False

    async def heed(self, task_status: TaskStatus[None]) -> None:
        """Wait for signals."""
        # As shells start commands in the background: Ctrl-C is not for them.
        numbers = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) is not signal.SIG_IGN]
        with anyio.open_signal_receiver(*numbers) as signals:
            task_status.started()
            await anext(signals)
            if self._display.has_begun:
                self._stop_in_order()
            else:
                self.at_once.cancel()
            await anext(signals)
            self._end_soon()
            await anext(signals)
            self.end_process()

    def tell(self) -> None:
        """Say that it was interrupted, if nobody has."""
        if not self._is_told:
            self._is_told = True
            say(self._sentence())

    def end_process(self) -> None:
        """End it now: `sys.exit` would wait for threads."""
        telling = Thread(target=self.tell, daemon=True)
        telling.start()
        telling.join(_TELLING_SECONDS)
        os._exit(INTERRUPTED)

    def _stop_in_order(self) -> None:
        self.stop.set()
        self._display.is_stopping = True
        self._display.say("Stopping when the members under way are done. A second signal stops at once.")

    def _end_soon(self) -> None:
        timer = Timer(_CLOSING_SECONDS, self.end_process)
        timer.daemon = True
        timer.start()
        self.at_once.cancel()
