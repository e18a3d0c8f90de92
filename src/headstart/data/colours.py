"""How a file's colours become channels: what transparency is laid on, and what becomes of grey."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from headstart.errors import UsageError

Background: TypeAlias = tuple[int, int, int]
"""Red, green and blue, 0 … 255."""

WHITE: Background = (255, 255, 255)

_NAMED: dict[str, Background] = {"white": WHITE, "black": (0, 0, 0)}
_HEXADECIMAL = re.compile(r"#[0-9a-f]{6}")
_HINT = "give white, black, #rrggbb, or three numbers from 0 to 255"


@dataclass(frozen=True, slots=True)
class Colours:
    """How a file's colours become channels.

    `background`: red, green and blue, 0 … 255, which transparency is laid on. `channels`: 3 for RGB,
    grey pictures getting three equal ones; 1 for grey, which of colours is the luma of ITU-R BT.601.
    """

    background: Background = WHITE
    channels: int = 3

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise UsageError(f"pictures of {self.channels} channels cannot be had", "choose 3, or 1 for grey")
        if len(self.background) != 3 or not all(0 <= part <= 255 for part in self.background):
            raise UsageError(f"{self.background} is no background", _HINT)


def parse_background(value: str | tuple[int, int, int] | list[int]) -> Background:
    """Read a background: `"white"`, `"black"`, `"#ff8000"` or `(255, 128, 0)`.

    Raises `UsageError` for anything else.
    """
    if isinstance(value, str):
        text = value.strip().lower()
        if text in _NAMED:
            return _NAMED[text]
        if _HEXADECIMAL.fullmatch(text):
            return (int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16))
    elif len(value) == 3 and all(type(part) is int and 0 <= part <= 255 for part in value):
        return (value[0], value[1], value[2])
    raise UsageError(f"{value!r} is no background", _HINT)


def spelled_background(background: Background) -> str:
    """Return a background as `parse_background` reads it: `white`, `black` or `#rrggbb`."""
    for name, known in _NAMED.items():
        if known == background:
            return name
    return "#{:02x}{:02x}{:02x}".format(*background)
