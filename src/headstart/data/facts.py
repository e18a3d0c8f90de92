"""What an audit keeps of a picture once its pixels are gone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from headstart.data.fingerprints import fingerprint
from headstart.data.images import Decoded
from headstart.types import Pixels

_ROWS_APART = 4


class Facts(NamedTuple):
    """Plain values that were measured while the pixels were there.

    `height`, `width`: of the whole picture, upright. `format`: "JPEG", "PNG", … `mode`: how the file
    holds its pixels, in Pillow's words. `orientation`: the EXIF orientation that was applied, 1 for
    none. `brightness`: the mean of all channels, 0 … 255. `contrast`: the standard deviation of the
    channel that varies most, 0 … 128; 0 for a picture of one colour. `fingerprint`: see `fingerprints`.
    """

    height: int
    width: int
    format: str
    mode: str = ""
    orientation: int = 1
    brightness: float = 0.0
    contrast: float = 0.0
    fingerprint: bytes = b""


NOTHING = Facts(0, 0, "")
"""Of a picture that could not be decoded."""


def facts_of(decoded: Decoded) -> Facts:
    """Measure a decoded picture: 0.3 ms at 256 x 341 pixels, on one core."""
    height, width = decoded.size
    brightness, contrast = _light(decoded.pixels)
    return Facts(
        height=height,
        width=width,
        format=decoded.format,
        mode=decoded.mode,
        orientation=decoded.orientation,
        brightness=brightness,
        contrast=contrast,
        fingerprint=fingerprint(decoded.pixels),
    )


def _light(pixels: Pixels) -> tuple[float, float]:
    """The brightness and the contrast, from every fourth row: all rows would take four times as long."""
    import cv2

    mean, deviation = cv2.meanStdDev(np.ascontiguousarray(pixels[::_ROWS_APART]))
    return float(np.mean(mean)), float(np.max(deviation))
