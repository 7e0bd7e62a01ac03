"""
The workers of a local cluster, which the command that started them ends.

A module of its own: the class is Dask's, and a new process imports it by its name.
"""

from __future__ import annotations

import logging
import signal
from functools import partial
from typing import Any

from distributed import WorkerPlugin

_RUNNING = {"running", "paused"}


class Owned(WorkerPlugin):  # type: ignore[misc] # Dask's is untyped
    """Leaves it to the command to end the worker: Ctrl-C reaches it too."""

    def setup(self, worker: Any) -> None:
        """Before the worker joins the cluster."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        logging.getLogger("distributed.worker").addFilter(partial(is_told, worker))


def is_told(worker: Any, record: logging.LogRecord) -> bool:
    """
    Whether a line of the worker's log is for users.

    The end of a worker may cut a heartbeat off, or come after the scheduler has let go of it: Dask takes
    both for failures, one with a traceback.
    """
    if record.funcName != "heartbeat":
        return True
    return worker.status.name in _RUNNING and "unaware of this worker" not in record.getMessage()
