"""
Attributes in the API reference: their defaults, without the call of `field` around them.
"""

from __future__ import annotations

from typing import Any

import griffe


class FieldDefaults(griffe.Extension):  # type: ignore[misc]  # griffe is only where the site is built
    """
    Shows `max_attempts: int = 4` for `max_attempts: int = field(default=4, validator=...)`.

    Shows `api_key` for `api_key = api_key`: without a type, the name of another value says nothing.
    """

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Replace the value of one attribute."""
        call = attr.value
        if isinstance(call, griffe.ExprCall) and str(call.function) == "field":
            given = [each for each in call.arguments if isinstance(each, griffe.ExprKeyword)]
            attr.value = next((each.value for each in given if each.name == "default"), None)
        elif attr.annotation is None and isinstance(call, griffe.ExprName):
            attr.value = None
