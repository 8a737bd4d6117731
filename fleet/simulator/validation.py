"""Strict checks of native request bodies: an unknown key is an error, not noise (contract §2.0)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fleet.simulator.errors import ApiError


def invalid(code: str, message: str, param: str | None = None) -> ApiError:
    return ApiError(400, "invalid_request", message, code, param)


def is_text(value) -> bool:
    return isinstance(value, str)


def is_flag(value) -> bool:
    return isinstance(value, bool)


def is_number(value) -> bool:
    """Any number; Python's parser also lets NaN and Infinity in, which JSON does not have."""
    return is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def is_integer(value) -> bool:
    """A whole number, also one that JSON spells 5.0."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


def is_object(value) -> bool:
    return isinstance(value, dict)


def object_or_empty(value) -> dict:
    """For bodies that are read leniently: what is no object counts as absent."""
    return value if isinstance(value, dict) else {}


def is_list(value) -> bool:
    return isinstance(value, list)


@dataclass(frozen=True)
class Rule:
    """What one key may hold."""

    has_type: Callable[[Any], bool]
    required: bool = False
    low: float | None = None
    high: float | None = None
    choices: tuple = ()
    nullable: bool = False

    def check(self, name: str, value) -> None:
        if value is None and self.nullable:
            return
        if not self.has_type(value):
            wanted = self.has_type.__name__.removeprefix("is_")
            raise invalid("invalid_type", f"Invalid type for '{name}': expected {wanted}.", name)
        if self.low is not None and value < self.low:
            raise invalid("invalid_value", f"'{name}' must be at least {self.low}.", name)
        if self.high is not None and value > self.high:
            raise invalid("invalid_value", f"'{name}' must be at most {self.high}.", name)
        if self.choices and value not in self.choices:
            options = " | ".join(f"'{choice}'" for choice in self.choices)
            raise invalid("invalid_value", f"Invalid value for '{name}'. Expected {options}", name)


def check(body, rules: dict[str, Rule]) -> dict:
    """The body, if it keeps the rules; raises ApiError 400 for the first one that it breaks."""
    if not isinstance(body, dict):
        raise invalid("invalid_type", "The body must be a JSON object.")
    if unknown := [name for name in body if name not in rules]:
        names = ", ".join(f"'{name}'" for name in unknown)
        raise invalid("unrecognized_keys", f"Unrecognized key(s) in object: {names}")
    for name, rule in rules.items():
        if name in body:
            rule.check(name, body[name])
        elif rule.required:
            raise invalid("missing_required_parameter", f"Missing required parameter '{name}'.", name)
    return body


def check_union(value, param: str, kinds: dict[str, dict[str, Rule]]) -> None:
    """An object whose `type` picks its rules; anything else is an invalid_union (contract §2.0)."""
    if not is_object(value) or not is_text(value.get("type")) or value["type"] not in kinds:
        options = " | ".join(f"'{kind}'" for kind in kinds)
        raise invalid("invalid_union", f"Invalid discriminator value. Expected {options}", param)
    check(value, kinds[value["type"]])
