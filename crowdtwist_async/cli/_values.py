"""
What flags take that is more than a word or a number.
"""

from __future__ import annotations

import re
from typing import Annotated

from cyclopts import Parameter

from crowdtwist_async.errors import ConfigurationError

Flag = Annotated[bool, Parameter(negative="")]


def seconds(text: str, flag: str) -> float:
    """A time like 90s, 15m, 20h or 2d."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd])", text.strip())
    if match is None:
        raise ConfigurationError(f"{flag} takes a time like 90s, 15m, 20h or 2d")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[match[2]]
