"""
What the three endpoints return, as frozen attrs classes with the field names of the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any, Generic, Literal, TypeVar, overload

from attrs import AttrsInstance, field, fields, frozen, has

T_co = TypeVar("T_co", covariant=True)


class IdType(StrEnum):
    """
    What a user id is matched against. Each endpoint takes some of them.

    Points Awaiting Fulfillment and User Purchase History take `id`, `email`, `third_party_id`
    and `mobile_phone_number`; User Rewards takes all.
    """

    ID = "id"
    """The number that CrowdTwist gave the member; the default everywhere."""
    EMAIL = "email"
    THIRD_PARTY_ID = "third_party_id"
    """The id that the program's own systems gave the member."""
    MOBILE_PHONE_NUMBER = "mobile_phone_number"
    USERNAME = "username"
    FACEBOOK_USER_ID = "facebook_user_id"
    TWITTER_USER_ID = "twitter_user_id"


CommonIdTypeText = Literal["id", "email", "third_party_id", "mobile_phone_number"]
"""The texts of those that every endpoint takes."""
IdTypeText = Literal[CommonIdTypeText, "username", "facebook_user_id", "twitter_user_id"]
"""The texts of all."""


@frozen(weakref_slot=False)
class PointsAwaitingFulfillment:
    """The points of one member's purchases that are not fulfilled yet."""

    user_id: int
    """The CrowdTwist id of the member."""
    total_points_awaiting_fulfillment: int
    """Purchase points that have not been fulfilled, in points."""
    bonus_points_awaiting_fulfillment: int
    """Bonus points from purchases that have not been fulfilled, in points."""


@frozen(weakref_slot=False)
class Segment:
    """The segment that decides who may see a reward."""

    name: str
    """The segment's name."""
    subscription_id: int
    """The segment's id."""
    eligibility_type: str
    """`inclusion`: only for the segment's members; `exclusion`: for everyone but them."""


@frozen(weakref_slot=False)
class Partner:
    """The partner that a reward comes from."""

    id: int
    """The partner's id."""
    name: str
    """The partner's name."""


class ExtraData(Mapping[str, Any]):
    """
    The client's own properties of a reward: a mapping with whatever keys were sent.

    The four that the reference names can be read by name, and are `None` when absent.
    """

    __slots__ = ("_entries",)

    def __init__(self, entries: Mapping[str, Any]) -> None:
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Any:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"ExtraData({self._entries!r})"

    @property
    def city(self) -> Any:
        """City information."""
        return self.get("city")

    @property
    def state(self) -> Any:
        """State information."""
        return self.get("state")

    @property
    def country(self) -> Any:
        """Country information."""
        return self.get("country")

    @property
    def postal_code(self) -> Any:
        """The postal code; the reference spells the key `postal code`, with a space."""
        return self.get("postal_code", self.get("postal code"))


@frozen(kw_only=True, weakref_slot=False)
class Reward:
    """A reward that is available to a member."""

    id: str
    """CrowdTwist's id of the reward."""
    group_id: int
    """Shared by the sizes and colours of one reward."""
    title: str
    """The reward's title."""
    description: str
    """The reward's description."""
    current_quantity: int
    """How many are available now; 0 is sold out."""
    num_points: int
    """The points that redeeming one takes."""
    date_start: datetime | None = None
    """When the reward becomes available, UTC; null when the server sends none."""
    date_end: datetime | None = None
    """When the reward stops being available, UTC; null: no end."""
    date_end_redeemable: datetime | None = None
    """When the reward stops being redeemable, UTC; null: no end."""
    is_enabled: bool
    """Whether the reward is enabled."""
    category_id: int
    """The id of the reward's category."""
    no_end_date: bool
    """Whether the reward has no end date."""
    total_quantity: int
    """How many there are in all."""
    max_select_quantity: int | None = None
    """How many a member can select at once; null: no such limit."""
    max_per_user: int
    """How many a member can redeem."""
    is_shipping_required: bool
    """Whether it must be shipped."""
    is_phone_number_required: bool
    """Whether the member must give a phone number."""
    is_min_age_required: bool
    """Whether the member must have a least age."""
    min_age: int | None = None
    """The least age in years; null: none."""
    is_digital_download: bool
    """Whether it is downloaded."""
    sweepstakes_winners: int | None = None
    """How many may win, if it is a sweepstake; also read from the sample's `sweepstake_winners`."""
    extra_data: ExtraData | None = field(default=None, hash=False)
    """The client's own properties, 20 at most; null: none."""
    reference_id: str | None = None
    """The program's own identifier, exactly as sent, spaces included; null: none."""
    total_coupons: int
    """How many coupons were uploaded, if it is a code reward."""
    remaining_coupons: int
    """How many coupons are left, if it is a code reward."""
    freq_cap: str | None = None
    """How many redemptions one period allows; null: no cap."""
    freq_period_id: str | None = None
    """The id of the period: 1 is 24 hours, 2 a calendar day, up to 11, 180 days; null: no cap."""
    freq_period_name: str | None = None
    """The period's name, such as `Calendar Day`; null: no cap."""
    image: str
    """The URL of the reward's image."""
    reward_terms: str | None = None
    """The URL of a sweepstake's terms; null: none."""
    min_tier_id: int | None = None
    """The least tier that a member needs; null: any."""
    segment: Segment | None = None
    """The segment that decides who may see it; null: everyone."""
    partner_info: Partner | None = None
    """The partner that it comes from; null: none."""


@frozen(kw_only=True, weakref_slot=False)
class Purchase:
    """One purchase of a member; it may consist of several receipts."""

    last_date_purchased: datetime | None = None
    """The date of the most recent receipt, UTC; null when the server sends none."""
    purchase_id: str
    """The order id, or the third party's receipt id."""
    purchase_id_type: str
    """`order_id` or `receipt_id`."""
    purchase_total: int
    """The total of all receipts, as sent."""
    total_points_awarded: int
    """The points awarded; less than earned where a cap is in place."""
    total_points_earned: int
    """The points earned."""
    points_awaiting_fulfillment: int | None = None
    """The points that await fulfillment; null: not sent, as in the reference's own sample."""


@frozen
class Paging:
    """What a page says of the whole list. Nothing in it is trusted alone."""

    total: int | None = None
    """The number of entries; null: missing or not a number."""
    pages: int | None = None
    """The number of pages; null: missing or not a number."""
    next_page: str | None = None
    """The link to the next page, with any key blanked; null: none."""
    prev_page: str | None = None
    """The link to the previous page, with any key blanked; null: none."""

    def __repr__(self) -> str:
        """Links hold the member's id, which stays out of logs."""
        links = f"next_page={_shown(self.next_page)}, prev_page={_shown(self.prev_page)}"
        return f"Paging(total={self.total!r}, pages={self.pages!r}, {links})"


def _shown(link: str | None) -> str:
    return "None" if link is None else "..."


@frozen
class Page(Generic[T_co]):
    """One page of rewards or purchases, as the server sent it; `len()`, iteration and `[]` are of `items`."""

    items: tuple[T_co, ...]
    """The entries in the server's order, 10 at most."""
    paging: Paging
    """The server's paging object."""
    number: int
    """The page's number as asked for; 1 when none was asked for."""
    raw: Any = field(repr=False, hash=False)
    """The decoded body with the properties that the models don't know."""

    @property
    def total(self) -> int | None:
        """The number of entries on all pages, as the server says; `None` if it does not."""
        return self.paging.total

    @property
    def pages(self) -> int | None:
        """The number of pages, as the server says; `None` if it does not."""
        return self.paging.pages

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[T_co]:
        return iter(self.items)

    @overload
    def __getitem__(self, place: int) -> T_co: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[T_co, ...]: ...

    def __getitem__(self, place: int | slice) -> T_co | tuple[T_co, ...]:
        return self.items[place]


def as_dict(model: AttrsInstance) -> dict[str, Any]:
    """
    Return a model as a dict, and what is nested in it as dicts too; instants stay `datetime`s.

    Args:
        model: A reward, a purchase, points, or a page.
    """
    return {name: _as_dict(getattr(model, name)) for name in names_of(type(model))}


@cache
def names_of(model: type[AttrsInstance]) -> tuple[str, ...]:
    """The names of a model's fields."""
    return tuple(attribute.name for attribute in fields(model))


def _as_dict(value: Any) -> Any:
    if isinstance(value, ExtraData):
        return dict(value)
    if isinstance(value, tuple):
        return [_as_dict(entry) for entry in value]
    return as_dict(value) if has(type(value)) else value
