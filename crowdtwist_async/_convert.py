"""
Decoded JSON to models: one cattrs converter with strict hooks.

cattrs coerces by default (`bool("0")` is true, `str(None)` is "None", `int(1.9)` is 1), so every
leaf type has a hook here that either knows the value or refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any, TypeVar, cast

from attrs import AttrsInstance, fields
from cattrs import (
    AttributeValidationNote,
    ClassValidationError,
    Converter,
)
from cattrs.gen import make_dict_structure_fn

from crowdtwist_async._slots import make_slot_filler
from crowdtwist_async.errors import DecodeError
from crowdtwist_async.models import (
    ExtraData,
    Paging,
    Partner,
    PointsAwaitingFulfillment,
    Purchase,
    Reward,
    Segment,
)

T = TypeVar("T")

_BOOLEANS = {"0": False, "1": True, "false": False, "true": True}
_INTEGER = r"-?[0-9]{1,400}"
_SECONDS = r"-?[0-9]{1,18}(\.[0-9]{1,9})?"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST_EXACT_FLOAT = 2**53
_LARGEST_COUNT = 2**63 - 1


class _RefusedError(ValueError):
    """The value is not what the reference promises; the text never holds the value."""


def _kind(value: Any) -> str:
    """What JSON calls this value's type."""
    names = {dict: "an object", list: "an array", str: "a text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _to_bool(value: Any, _: Any = bool) -> bool:
    if (type(value) is int and 0 <= value <= 1) or type(value) is bool:
        return value == 1
    known = _BOOLEANS.get(value.lower()) if isinstance(value, str) else None
    if known is None:
        raise _RefusedError(f"expected 0 or 1, got {_kind(value)} that is neither")
    return known


def _to_int(value: Any, _: Any = int) -> int:
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer() and abs(value) <= _LARGEST_EXACT_FLOAT:
        return int(value)
    if isinstance(value, str) and re.fullmatch(_INTEGER, value):
        return int(value)
    if type(value) is float:
        raise _RefusedError("expected an integer, got a number with a fraction or beyond exactness")
    raise _RefusedError(f"expected an integer, got {_kind(value)}")


def _to_str(value: Any, _: Any = str) -> str:
    if type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    raise _RefusedError(f"expected a text, got {_kind(value)}")


def _to_datetime(value: Any, _: Any = datetime) -> datetime | None:
    """Unix seconds or ISO 8601, as numbers or texts; a text without a zone is UTC."""
    if value is None:
        return None
    try:
        if type(value) in (int, float):
            return _EPOCH + timedelta(seconds=value)
        if isinstance(value, str):
            text = value.strip()
            if not text:
                return None
            if re.fullmatch(_SECONDS, text):
                return _EPOCH + timedelta(seconds=float(text) if "." in text else int(text))
            moment = datetime.fromisoformat(text)
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _RefusedError("expected a date, got one that can't be read") from None
    raise _RefusedError(f"expected unix seconds or an ISO 8601 date, got {_kind(value)}")


def _to_extra_data(value: Any, _: Any = ExtraData) -> ExtraData:
    return ExtraData(_require_object(value))


def _require_object(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise _RefusedError(f"expected an object, got {_kind(value)}")
    return value


def _count(value: Any) -> int | None:
    """A count that is missing, negative, beyond 64 bits or not a number is unknown."""
    try:
        count = _to_int(value)
    except _RefusedError:
        return None
    return count if 0 <= count <= _LARGEST_COUNT else None


def _link(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _to_paging(value: Any, _: Any = Paging) -> Paging:
    """The reference's table says Array, its sample is an object: both are read."""
    if type(value) is list and len(value) == 1:
        value = value[0]
    sent = _require_object(value)
    return Paging(
        total=_count(sent.get("total")),
        pages=_count(sent.get("pages")),
        next_page=_link(sent.get("next_page")),
        prev_page=_link(sent.get("prev_page")),
    )


def _reward_spelling(sent: dict[str, Any]) -> dict[str, Any]:
    """The table says `sweepstakes_winners`, the sample `sweepstake_winners`."""
    if sent.get("sweepstakes_winners") is None and "sweepstake_winners" in sent:
        return {**sent, "sweepstakes_winners": sent["sweepstake_winners"]}
    return sent


_LEAVES: tuple[tuple[Any, Callable[..., Any]], ...] = (
    (bool, _to_bool),
    (int, _to_int),
    (str, _to_str),
    (datetime, _to_datetime),
    (datetime | None, _to_datetime),
    (ExtraData, _to_extra_data),
    (Paging, _to_paging),
)
_MODELS = (Segment, Partner, PointsAwaitingFulfillment, Purchase, Reward)


def make_converter(*, detailed: bool = False) -> Converter:
    """
    Build the converter.

    Args:
        detailed: Whether a failure tells its path. That takes three times as long, so the client converts
            without it and again with it only after a failure.
    """
    converter = Converter(detailed_validation=detailed)
    for leaf, hook in _LEAVES:
        converter.register_structure_hook(leaf, hook)
    # Made at a model's first use: generating all of them would double the package's import.
    builder = make_dict_structure_fn if detailed else make_slot_filler
    make_hook = partial(_object_hook, converter, builder)
    converter.register_structure_hook_factory(_MODELS.__contains__, make_hook)
    return converter


def _object_hook(
    converter: Converter, builder: Callable[..., Callable[[Any, Any], T]], model: type[T]
) -> Callable[[Any, Any], T]:
    build = builder(model, converter)
    if builder is make_slot_filler and model is not Reward:
        return build

    def structure(value: Any, target: Any = model) -> T:
        sent = _require_object(value)
        return build(_reward_spelling(sent) if model is Reward else sent, target)

    return structure


_FAST = cache(make_converter)
_DETAILED = cache(partial(make_converter, detailed=True))


def structure(value: Any, target: type[T], path: str = "") -> T:
    """
    Convert decoded JSON to `target`.

    `path` is where the value stands in the body, for the error.

    Raises:
        DecodeError: The value is not what the reference promises.
    """
    with suppress(Exception):  # whatever is wrong with it, the second pass says where
        return _FAST().structure(value, target)
    return cast("T", _structured_slowly(value, target, path))


def checked_object(value: Any) -> dict[str, Any]:
    """
    A whole body that must be an object.

    Raises:
        DecodeError: It is something else.
    """
    if type(value) is not dict:
        raise DecodeError(f"expected an object, got {_kind(value)}")
    return value


def structure_list(value: Any, model: type[T], path: str) -> tuple[T, ...]:
    """
    Convert a decoded JSON array to models.

    Raises:
        DecodeError: It is not an array, or one of its entries is not what the reference promises.
    """
    if type(value) is not list:
        error = DecodeError(f"expected an array, got {_kind(value)}")
        error.path = path
        raise error
    hook = _FAST().get_structure_hook(model)
    with suppress(Exception):  # as in `structure`
        return tuple([hook(entry, model) for entry in value])
    # One by one to the first that is wrong: looking at all of a large body would block the event loop.
    return tuple([structure(entry, model, f"{path}[{index}]") for index, entry in enumerate(value)])


def _structured_slowly(value: Any, target: Any, path: str) -> Any:
    """Convert by the hooks alone, or say where the first failure is."""
    try:
        return _DETAILED().structure(value, target)
    except Exception as error:  # noqa: BLE001 - raised further, its frames and text may hold what was sent
        place, reason = _first_failure(error)
    decode_error = DecodeError(reason)
    decode_error.path = (path + place).removeprefix(".") or "$"
    raise decode_error


def _first_failure(error: BaseException) -> tuple[str, str]:
    """The path to the first leaf of a tree of validation errors, and what is wrong there."""
    if isinstance(error, ClassValidationError):
        inner = error.exceptions[0]
        place, reason = _first_failure(inner)
        return _step(inner) + place, reason
    if isinstance(error, KeyError):
        return f".{error.args[0]}", "a required field is missing"
    return "", str(error) if isinstance(error, _RefusedError) else "the value can't be read"


def _step(error: BaseException) -> str:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            # A missing key names itself.
            return "" if isinstance(error, KeyError) else f".{note.name}"
    return ""


def known_names(model: type[AttrsInstance]) -> frozenset[str]:
    """The properties that a model reads."""
    names = {attribute.name for attribute in fields(model)}
    return frozenset(names | ({"sweepstake_winners"} if model is Reward else set()))
