"""
What was measured: figures by contender and round, their medians, and ratios with bootstrap intervals.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import NamedTuple

_RESAMPLES = 2_000
_TAIL = 0.025


class Ratio(NamedTuple):
    """The ratio of two medians, and the interval that holds it in 95 % of the resamples of several rounds."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        interval = f" [{self.low:.2f}, {self.high:.2f}]" if self.low < self.high else ""
        return f"{self.value:.2f}{interval}"

    @classmethod
    def of(cls, these: Sequence[float], those: Sequence[float]) -> Ratio:
        """Of figures that were taken in turns: a round's are resampled together, as they share its noise."""
        chance = random.Random(0)
        rounds = range(min(len(these), len(those)))
        found = []
        for _ in range(_RESAMPLES):
            drawn = chance.choices(rounds, k=len(rounds))
            found.append(_ratio([these[turn] for turn in drawn], [those[turn] for turn in drawn]))
        found.sort()
        cut = int(_TAIL * _RESAMPLES)
        return cls(_ratio(these, those), found[cut], found[-1 - cut])


def _ratio(these: Sequence[float], those: Sequence[float]) -> float:
    return statistics.median(these) / statistics.median(those)


class Figures(NamedTuple):
    """One measure: by contender, what each round gave."""

    name: str
    unit: str
    rounds: dict[str, list[float]]
    compared: str
    """The contender that the ratios are of."""
    digits: int = 0

    def median(self, contender: str) -> float:
        """The contender's figure."""
        return statistics.median(self.rounds[contender])

    def ratio(self, contender: str) -> Ratio | None:
        """What the compared contender has of this one's figure; `None`: it did not take part."""
        if self.compared not in self.rounds or contender not in self.rounds:
            return None
        return Ratio.of(self.rounds[self.compared], self.rounds[contender])


class Target(NamedTuple):
    """A bound on a ratio."""

    name: str
    ratio: Ratio
    bound: float
    least: bool = False

    @property
    def met(self) -> bool:
        """Whether the ratio of the medians is within."""
        return self.ratio.value >= self.bound if self.least else self.ratio.value <= self.bound

    def __str__(self) -> str:
        sign = ">=" if self.least else "<="
        return (
            f"{self.name:<72} {self.ratio!s:<19} {sign} {self.bound:.2f}  {'met' if self.met else 'MISSED'}"
        )
