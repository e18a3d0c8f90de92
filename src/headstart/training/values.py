"""Values that a person wrote: each reader gives the value, or a ConfigError that says where."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Collection, Iterable
from typing import Any

from headstart.errors import ConfigError
from headstart.types import Size, parse_size

_LARGEST = 2**63


def unknown_name(what: str, name: object, known: Iterable[str]) -> ConfigError:
    """Return the error for `name`, which is no `what`; its hint has the nearest known name."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5) if isinstance(name, str) else []
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names)}" if names else "remove it"
    return ConfigError(f"{_short(name)} is not a {what}", hint)


def mapping(content: Any, where: str, known: Collection[str]) -> dict[str, Any]:
    """Return a mapping whose names are all known."""
    if not isinstance(content, dict):
        raise ConfigError(f"{where} must hold names and values, not {type(content).__name__}")
    for key in content:
        if key not in known:
            raise unknown_name(f"name in {where}", key, known)
    return content


def number(value: Any, where: str) -> int | float:
    """Return a number; YAML 1.1 takes `1e-3` (no point) for text, people do not."""
    if isinstance(value, str) and len(value) < 40:
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        raise ConfigError(f"{where}: expected a number, got {_short(value)}")
    return value


def whole(value: Any, where: str) -> int:
    """Return a whole number."""
    if isinstance(value, bool) or not isinstance(value, int) or not abs(value) < _LARGEST:
        raise ConfigError(f"{where}: expected a whole number, got {_short(value)}")
    return value


def flag(value: Any, where: str) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{where}: expected true or false, got {_short(value)}")
    return value


def text(value: Any, where: str) -> str:
    """Return text of at most 2000 characters."""
    if not isinstance(value, str) or len(value) > 2000:
        raise ConfigError(f"{where}: expected text of at most 2000 characters")
    return value


def size(value: Any, where: str) -> Size:
    """Return (height, width) from 224, "224x320" or [224, 320]."""
    plain = isinstance(value, int | str) and not isinstance(value, bool)
    listed = isinstance(value, list) and all(type(side) is int for side in value)
    if not plain and not listed:
        raise ConfigError(f"{where}: expected a size such as 224 or [224, 320]")
    return parse_size(value)


def _short(value: object) -> str:
    """Return a value for a message, whatever its size."""
    if isinstance(value, str):
        return repr(value[:60])
    if isinstance(value, int) and abs(value) >= _LARGEST:
        return "a number out of range"
    # A list may hold itself many times over, and would take for ever to write.
    return f"a {type(value).__name__}" if isinstance(value, list | dict | set | tuple) else repr(value)[:60]
