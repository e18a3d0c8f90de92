"""Small copies of pictures, for pages and reports."""

from __future__ import annotations

import numpy as np

from headstart.types import Pixels

QUALITY = 82


def thumbnail(pixels: Pixels, side: int) -> bytes:
    """Return a picture, uint8 (height, width, 3), as JPEG, its longer side at most `side` pixels."""
    import cv2

    scale = side / max(pixels.shape[:2])
    if scale < 1:
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    options = (cv2.IMWRITE_JPEG_QUALITY, QUALITY)
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes())
