"""Names that are not known: the error that gives the nearest one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from headstart.errors import ConfigError


def unknown_name(what: str, name: object, known: Iterable[str]) -> ConfigError:
    """Return the error for `name`, which is no `what`; its hint has the nearest known name."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names)}" if names else "remove it"
    return ConfigError(f"{str(name)[:60]!r} is not a {what}", hint)
