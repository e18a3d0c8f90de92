"""Reading strictly: values of parsed JSON of the right kind and in range, or an error that names them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from headstart.errors import ConfigError

MAX_NAME = 1000
"""No name or text of a manifest is longer."""

ENDS = ("value", "low", "high")


def wrong(name: str, fault: str) -> ConfigError:
    """Return the error for a field that is not as it must be."""
    return ConfigError(f"the bundle's manifest is not valid: {name} {fault}", "make the bundle again")


def fields(
    value: object, name: str, shape: type, *, later: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Return the items of an object that must have exactly the fields of the dataclass `shape`.

    `later`: what stands for fields that older bundles of the same schema lack.
    """
    if not isinstance(value, dict):
        raise wrong(name, "is not an object")
    value = {**(later or {}), **value}
    wanted = set(shape.__dataclass_fields__)  # type: ignore[attr-defined]
    if missing := sorted(wanted - set(value)):
        raise wrong(name, f"lacks {', '.join(missing[:5])}")
    if unknown := sorted(set(value) - wanted):
        raise wrong(name, f"has unknown fields: {', '.join(key[:40] for key in unknown[:5])}")
    return value


def several(value: object, name: str, shortest: int, longest: int) -> Sequence[Any]:
    """Return a list of `shortest` to `longest` items."""
    if not isinstance(value, list) or not shortest <= len(value) <= longest:
        raise wrong(name, f"is not a list of {shortest} to {longest}")
    return value


def text(value: object, name: str, shortest: int = 0) -> str:
    """Return a text of `shortest` to `MAX_NAME` characters."""
    if not isinstance(value, str) or not shortest <= len(value) <= MAX_NAME:
        raise wrong(name, f"is not a text of {shortest} to {MAX_NAME} characters")
    return value


def matching(value: object, name: str, pattern: re.Pattern[str]) -> str:
    """Return a text that fits the pattern as a whole."""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise wrong(name, f"{str(value)[:60]!r} is not of the form {pattern.pattern}")
    return value


def choice(value: object, name: str, choices: Sequence[str]) -> str:
    """Return one of the texts that are allowed."""
    if not isinstance(value, str) or value not in choices:
        raise wrong(name, f"{str(value)[:40]!r} is none of {', '.join(choices)}")
    return value


def boolean(value: object, name: str) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise wrong(name, "is neither true nor false")
    return value


def whole(value: object, name: str, low: int, high: int) -> int:
    """Return a whole number from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise wrong(name, f"{str(value)[:40]} is not a whole number from {low} to {high}")
    return value


def number(value: object, name: str, low: float, high: float) -> float:
    """Return a finite number from `low` to `high`."""
    if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):  # type: ignore[operator,arg-type]
        raise wrong(name, f"{str(value)[:40]} is not a number from {low} to {high}")
    return float(value)  # type: ignore[arg-type]


def numbers(value: object, name: str, count: int, low: float, high: float) -> tuple[float, ...]:
    """Return so many finite numbers from `low` to `high`."""
    return tuple(number(item, name, low, high) for item in several(value, name, count, count))


def figures(value: object, name: str) -> dict[str, dict[str, float | None]]:
    """Return a table of up to 1,000 names, each with a value and the ends of its interval, which may lack."""
    if not isinstance(value, dict) or len(value) > 1000:
        raise wrong(name, "are not a table of up to 1000")
    found: dict[str, dict[str, float | None]] = {}
    for key, interval in value.items():
        if not isinstance(interval, dict) or not set(interval) <= set(ENDS) or "value" not in interval:
            raise wrong(f"{name}[{key[:40]!r}]", "is not a value with the ends of its interval")
        found[text(key, name, 1)] = {
            end: None if given is None else number(given, name, -1e30, 1e30)
            for end, given in interval.items()
        }
    return found
