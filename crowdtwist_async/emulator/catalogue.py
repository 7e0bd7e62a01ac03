"""
The rewards of the program: one catalogue, of which a member sees what its segments allow.
"""

from __future__ import annotations

import json
from typing import Any

from crowdtwist_async.emulator.seeded import mix

SEGMENTS = ("New York Members", "5x login", "Gold tier", "Lapsed")

_SALT_STOCK, _SALT_RULES, _SALT_EXTRAS, _SALT_SEGMENT = 21, 22, 23, 24
_FIRST_REWARD = 541_000
_FIRST_SEGMENT = 121
_FIRST_START = 1_402_057_860
_FIRST_END = 2_000_000_000
_DAY = 86_400
_UNLIMITED = 9_999_999
_TITLES = ("10% Off Coupon", "Travel Mug", "Café Voucher", "Concert Tickets", "T-Shirt", "Prize Draw")
_FREQUENCIES = ((None, None), ("2", "Calendar Day"), ("5", "Lifetime"), ("6", "Calendar month"))
_PARTNERS = (None, {"id": 56577, "name": "Acme Car Rentals"}, {"id": 4869684, "name": "Example Airways"})
_EXTRA_DATA = (
    None,
    {"city": "New York", "state": "New York", "country": "USA", "postal_code": "10010"},
    {"colour": "blue"},
)


class Catalogue:
    """
    A fixed list of rewards, written as JSON once.

    About one in five is for members of a segment only, one in ten for everyone else only, and
    one in ten is sold out. What each mixture of segments sees is worked out here, so that a page
    only has to be joined.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self._seed = seed
        rewards = [reward(seed, number) for number in range(size)]
        encoded = [_encode(entry) for entry in rewards]
        self._visible = {
            (mask, soldout): tuple(
                text
                for text, entry in zip(encoded, rewards, strict=True)
                if _allows(entry["segment"], mask) and (soldout or entry["current_quantity"] > 0)
            )
            for mask in range(1 << len(SEGMENTS))
            for soldout in (False, True)
        }

    def visible(self, mask: int, *, include_soldout: bool) -> tuple[bytes, ...]:
        """The rewards, as JSON, for a member of these segments."""
        return self._visible[mask, include_soldout]

    def newcomer(self, number: int) -> bytes:
        """A reward that the list doesn't have: for everyone, and in stock."""
        entry = reward(self._seed, self.size + number)
        return _encode(entry | {"segment": None, "current_quantity": entry["total_quantity"]})


def reward(seed: int, number: int) -> dict[str, Any]:
    """One reward with every field of the reference, written as the vendor's sample writes it."""
    title = _TITLES[number % len(_TITLES)]
    return {
        "id": str(_FIRST_REWARD + number),
        "group_id": 8_000 + number // 2,
        "title": f"{title} #{number + 1}",
        "description": f"{title}, sent once it is redeemed.",
        "category_id": 2_600 + number % 7,
        "image": f"https://cdn.example.com/img/v2/{number + 1}.jpg",
        "is_enabled": 1,
        **_stock(mix(seed, _SALT_STOCK, number)),
        **_rules(mix(seed, _SALT_RULES, number)),
        **_extras(mix(seed, _SALT_EXTRAS, number), number),
        "segment": _segment(mix(seed, _SALT_SEGMENT, number)),
    }


def _stock(figure: int) -> dict[str, Any]:
    """Prices, quantities and dates; in the vendor's JSON an open end is null and `no_end_date` 1."""
    sold_out = figure % 10 == 0
    ends = figure >> 8 & 3 == 0
    end = _FIRST_END + (figure >> 10) % 1_000 * _DAY if ends else None
    coupons = (figure >> 20) % 1_000 if figure >> 16 & 1 else 0
    return {
        "num_points": 20 * (1 + (figure >> 40) % 250),
        "current_quantity": 0 if sold_out else 1 + (figure >> 24) % 900,
        "total_quantity": 1_000 if figure >> 17 & 1 else _UNLIMITED,
        "total_coupons": coupons,
        "remaining_coupons": coupons // 2,
        "date_start": _FIRST_START + (figure >> 50) % 3_000 * _DAY,
        "date_end": end,
        "date_end_redeemable": end,
        "no_end_date": 0 if ends else 1,
    }


def _rules(figure: int) -> dict[str, Any]:
    """Who may redeem it, and how often: flags are 1 and 0, but `is_min_age_required` is a text."""
    adult = figure >> 5 & 7 == 0
    period, period_name = _FREQUENCIES[figure >> 8 & 3]
    return {
        "is_shipping_required": figure & 1,
        "is_phone_number_required": figure >> 1 & 1,
        "is_digital_download": figure >> 2 & 1,
        "is_min_age_required": "1" if adult else "0",
        "min_age": 18 if adult else None,
        "max_select_quantity": 3 if figure >> 3 & 1 else None,
        "max_per_user": 1 + figure % 5,
        "min_tier_id": 45 if figure >> 10 & 7 == 0 else None,
        "freq_cap": "1" if period else None,
        "freq_period_id": period,
        "freq_period_name": period_name,
    }


def _extras(figure: int, number: int) -> dict[str, Any]:
    """The optional rest. `sweepstake_winners` is the sample's spelling, the table has one more s."""
    draw = number % len(_TITLES) == len(_TITLES) - 1
    return {
        "sweepstake_winners": 100 if draw else None,
        "reward_terms": f"https://cdn.example.com/file/{number + 1}/reward_terms.pdf" if draw else None,
        "reference_id": f"ref-{number + 1} " if figure & 1 else None,
        "extra_data": _EXTRA_DATA[(figure >> 8) % len(_EXTRA_DATA)],
        "partner_info": _PARTNERS[(figure >> 16) % len(_PARTNERS)],
    }


def _segment(figure: int) -> dict[str, Any] | None:
    """Whom a reward is for: seven in ten are for everyone."""
    share, chosen = figure % 10, (figure >> 8) % len(SEGMENTS)
    if share > 2:
        return None
    return {
        "name": SEGMENTS[chosen],
        "subscription_id": _FIRST_SEGMENT + chosen,
        "eligibility_type": "exclusion" if share == 2 else "inclusion",
    }


def _allows(segment: dict[str, Any] | None, mask: int) -> bool:
    """Whether members of the segments in `mask` may see a reward of this segment."""
    if segment is None:
        return True
    belongs = bool(mask >> (segment["subscription_id"] - _FIRST_SEGMENT) & 1)
    return belongs is (segment["eligibility_type"] == "inclusion")


def _encode(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry).encode()
