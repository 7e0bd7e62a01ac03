"""
What is wrong with a command line, in a sentence.
"""

from __future__ import annotations

import re
from datetime import date
from difflib import get_close_matches
from typing import Literal, get_args, get_origin

from cyclopts import (
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

_FLAG = r"--[a-z]+(-[a-z]+)*(?==|$)"


def explained(error: CycloptsError) -> str:
    """A usage error as a sentence that repeats no value: it may be a member's id, or a key."""
    command = " ".join(["crowdtwist", *(error.command_chain or ())])
    name = error.argument.name if error.argument is not None else "an argument"
    match error:
        case UnknownCommandError():
            known = [name for name in error.app or () if not name.startswith("-")]
            problem = f"there is no such command{_like((error.unused_tokens or [''])[0], known)}"
        case UnknownOptionError():
            flag = re.match(_FLAG, error.token.keyword or error.token.value)
            known = [name for argument in error.argument_collection for name in argument.names]
            problem = (
                f"there is no flag {flag[0]}{_like(flag[0], known)}" if flag else "there is no such flag"
            )
        case UnusedCliTokensError():
            problem = "there are more arguments than it takes"
        case MissingArgumentError(keyword=str(given)):
            problem = f"{given} is given without a value, or with one that begins with a hyphen"
        case MissingArgumentError():
            problem = f"{name} is missing"
        case RepeatArgumentError():
            problem = f"{error.token.keyword} is given twice"
        case _:
            problem = f"the value of {name} is not one that it takes{_allowed(error)}"
    return f"{problem}: see {command} --help"


def _like(given: str, known: list[str]) -> str:
    """What may have been meant."""
    near = get_close_matches(given, known, 1, 0.75)
    return f" (did you mean {near[0]}?)" if near else ""


def _allowed(error: CycloptsError) -> str:
    """What an argument takes, where a few words say it."""
    hint = error.argument.hint if error.argument is not None else None
    words = {date: "a day like 2026-01-31", int: "a whole number", float: "a number"}
    kinds = []
    for kind in (hint, *get_args(hint)):
        if get_origin(kind) is Literal:
            return f" ({', '.join(get_args(kind))})"
        kinds += [words[kind]] if kind in words else []
    return f" ({kinds[0]})" if kinds else ""
