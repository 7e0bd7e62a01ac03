"""
Numbers that an emulator is made with.
"""

from __future__ import annotations

from typing import SupportsFloat, SupportsIndex


def is_integer(value: object) -> bool:
    """Whether a value is an integer, be it one of numpy's; True and False are none."""
    return isinstance(value, SupportsIndex) and not isinstance(value, bool)


def is_share(value: object) -> bool:
    """Whether a value is a number from 0 to 1."""
    return isinstance(value, SupportsFloat) and 0.0 <= float(value) <= 1.0


def check_count(value: int, name: str, *, least: int = 0) -> None:
    """
    Refuse what is no count.

    Raises:
        ValueError: It is no integer, or a smaller one than the least.
    """
    if not is_integer(value) or value < least:
        raise ValueError(f"{name} must be an integer of {least} or more")
