"""
The `crowdtwist` command: single calls, exports, the emulator on a socket.

Exit codes: 0 complete, 1 failed, 2 usage or settings, 3 complete with failed members,
4 authentication, 75 stopped but resumable, 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress

from crowdtwist_async.cli._output import drop
from crowdtwist_async.errors import (
    AuthenticationError,
    ConfigurationError,
    CrowdTwistError,
    InvalidArgumentError,
)

COMPLETE, FAILED, USAGE, COMPLETE_WITH_FAILURES, AUTHENTICATION = 0, 1, 2, 3, 4
STOPPED, INTERRUPTED = 75, 130

_ARGUMENT = (
    r"^(per_minute|concurrency|date_start|date_end|max_items|pages_per_member)(?= )"
    r"|(?<=^date_end is before )date_start|(?<=^a shard of purchases needs )date_end"
)
"""The arguments that a sentence of ours names; elsewhere it may repeat what was typed."""
_NO_KEY = "api_key is missing: give it, or set"
_NO_LOG = logging.NullHandler()
"""Without a handler, each retry would be a line on standard error, `--quiet` or not."""


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command.

    Returns:
        The exit code.
    """
    logging.getLogger("crowdtwist_async").addHandler(_NO_LOG)
    if not os.environ.get("COLUMNS", "").strip("0"):
        os.environ.pop("COLUMNS", None)  # rich would crop all that is told to no column
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read standard output has gone.
        drop()
        return FAILED
    except CrowdTwistError as error:
        say(_in_words_of_the_command(error))
        return exit_code(error)
    except OSError as error:
        say(f"{error.filename or 'the system'}: {error.strerror or error}")
        return FAILED


def _run(arguments: Sequence[str]) -> int:
    try:
        from crowdtwist_async.cli._app import run

        return run(arguments)
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("cyclopts", "rich", "uvicorn"):
            raise
        say("the command needs more packages: pip install 'crowdtwist-async[cli]'")
        return USAGE


def _in_words_of_the_command(error: CrowdTwistError) -> str:
    """What is wrong, with the flags that stand for arguments."""
    said = str(error)
    if isinstance(error, ConfigurationError | InvalidArgumentError):
        said = re.sub(_ARGUMENT, lambda match: f"--{match[0].replace('_', '-')}", said)
        said = said.replace("math.inf", "inf").replace(_NO_KEY, "there is no key: give --emulator, or set")
    return said


def exit_code(error: CrowdTwistError) -> int:
    """The exit code for an error that ends the command."""
    if isinstance(error, AuthenticationError):
        return AUTHENTICATION
    return USAGE if isinstance(error, ConfigurationError | InvalidArgumentError) else FAILED


def say(sentence: str) -> None:
    """Say a sentence on standard error, if anybody has it open."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"crowdtwist: {sentence}", file=sys.stderr, flush=True)
