"""What an audit keeps of a picture once its pixels are gone."""

from __future__ import annotations

from typing import NamedTuple

from headstart.data.images import Decoded


class Facts(NamedTuple):
    """Plain values that were measured while the pixels were there.

    `height`, `width`: of the whole picture, upright. `format`: "JPEG", "PNG", …
    """

    height: int
    width: int
    format: str


NOTHING = Facts(0, 0, "")
"""Of a picture that could not be decoded."""


def facts_of(decoded: Decoded) -> Facts:
    """Measure a decoded picture."""
    height, width = decoded.size
    return Facts(height, width, decoded.format)
