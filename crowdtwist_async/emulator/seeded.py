"""
Numbers that look random and follow from a seed: nothing about a member is stored.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1


def mix(seed: int, salt: int, first: int, second: int = 0) -> int:
    """
    Hash four integers to 64 bits, the way splitmix64 does.

    Args:
        seed: The emulator's seed.
        salt: One number for each purpose, so that no two figures of a member are alike.
        first: Which member, or which reward.
        second: Which of the member's rows.
    """
    hashed = (
        seed * 0x9E3779B97F4A7C15
        + salt * 0xC2B2AE3D27D4EB4F
        + first * 0xD6E8FEB86659FD93
        + second * 0xA0761D6478BD642F
    ) & _MASK
    hashed = ((hashed ^ (hashed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    hashed = ((hashed ^ (hashed >> 27)) * 0x94D049BB133111EB) & _MASK
    return hashed ^ (hashed >> 31)
