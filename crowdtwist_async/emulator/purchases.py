"""
A member's purchases, numbered from the oldest, so that a new one moves no other.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from calendar import timegm
from dataclasses import dataclass
from datetime import date
from typing import Any

from crowdtwist_async.emulator.seeded import mix

DAY = 86_400
LATEST = timegm((2026, 10, 1, 0, 0, 0))
"""Unix seconds: every seeded purchase is older, and those that a drift adds are newer."""

_MINUTE = 60
_MOST_IDS = 1_000_000
_SALT_STEP, _SALT_TIME, _SALT_ROW = 11, 12, 13
_EPOCH = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True)
class History:
    """The purchases of one member. A purchase is a serial number from 0, the oldest, to `count - 1`."""

    seed: int
    index: int
    seeded: int
    """How many there were at first."""
    count: int
    """How many there are now."""

    def time_of(self, serial: int) -> int:
        """Unix seconds of a purchase: later for a higher serial, always."""
        if serial >= self.seeded:
            return LATEST + (serial - self.seeded) * _MINUTE
        step = (2 + mix(self.seed, _SALT_STEP, self.index) % 11) * DAY
        return LATEST - (self.seeded - serial) * step + mix(self.seed, _SALT_TIME, self.index, serial) % step

    def between(self, first: date | None, last: date | None) -> range:
        """The serials, newest first, of the purchases from the UTC day `first` to `last`, both included."""
        serials = range(self.count)
        low, high = 0, self.count
        if first is not None:
            low = bisect_left(serials, _midnight(first), key=self.time_of)
        if last is not None:
            high = bisect_left(serials, _midnight(last) + DAY, key=self.time_of)
        return serials[low:high][::-1]

    def row(self, serial: int) -> dict[str, Any]:
        """One purchase as the API writes it."""
        figure = mix(self.seed, _SALT_ROW, self.index, serial)
        kind = "order" if figure & 1 else "receipt"
        earned = 5 * (1 + (figure >> 8) % 400)
        # One purchase in eight met the point cap.
        awarded = earned * 4 // 5 if figure >> 1 & 7 == 0 else earned
        row = {
            "last_date_purchased": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.time_of(serial))),
            "purchase_id": f"{kind}_{self.index * _MOST_IDS + serial + 1}",
            "purchase_id_type": f"{kind}_id",
            "purchase_total": earned,
            "total_points_awarded": awarded,
            "total_points_earned": earned,
        }
        # The reference requires it, and leaves it out of its sample.
        if figure >> 4 & 7:
            row["points_awaiting_fulfillment"] = awarded if figure >> 32 & 3 == 0 else 0
        return row


def _midnight(day: date) -> int:
    """Unix seconds of a UTC day's beginning."""
    return (day.toordinal() - _EPOCH) * DAY
