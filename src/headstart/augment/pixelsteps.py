"""What is neither a matrix nor a curve: steps on the finished view, pixel by pixel, by OpenCV.

`batched` has the same steps for many views at a time. Each step rounds to whole grey levels.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from headstart.augment import color
from headstart.augment.draws import Column, Draws
from headstart.augment.warp import apply_color
from headstart.types import Pixels, Size

# Sharpness goes away from, or towards, this mean, as in Pillow.
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def apply_steps(view: Pixels, draws: Draws) -> Pixels:
    """Do what one sample's draws say: tone, sharpness, blur, erasing, in this order."""
    if draws.tone:
        curve = color.toned(histogram(view), draws.tone, draws.tone_factor, draws.tone_added)
        view = apply_color(view, curve=curve)
    if draws.sharpness:
        view = sharpened(view, draws.sharpness)
    if draws.blur:
        view = np.asarray(
            cv2.GaussianBlur(view, (0, 0), draws.blur, borderType=cv2.BORDER_REFLECT_101), np.uint8
        )
    if draws.erase_area:
        view = erased(view, erased_box((view.shape[0], view.shape[1]), draws))
    return view


def histogram(view: Pixels) -> NDArray[np.int64]:
    """Return how often each value occurs in each channel, (3, 256)."""
    counts = [cv2.calcHist([view], [channel], None, [256], [0, 256]).ravel() for channel in range(3)]
    return np.rint(counts).astype(np.int64)


def sharpened(view: Pixels, amount: float) -> Pixels:
    """Go away from the 3 x 3 mean by `amount` (-1: be it; 0: stay), the outermost pixels kept."""
    smooth = cv2.filter2D(view, cv2.CV_32F, SMOOTH, borderType=cv2.BORDER_REPLICATE)
    out = np.clip(np.rint(view + np.float32(amount) * (view - smooth)), 0, 255).astype(np.uint8)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        out[edge] = view[edge]
    return out


def erased_box(size: Size, draws: Draws) -> tuple[Column, Column, Column, Column]:
    """Return (top, left, bottom, right) of the box to erase, in whole pixels."""
    height, width = size
    area = draws.erase_area * height * width
    tall = np.minimum(height, np.rint(np.sqrt(area * draws.erase_ratio)))
    wide = np.minimum(width, np.rint(np.sqrt(area / draws.erase_ratio)))
    top = np.floor((height - tall + 1) * draws.erase_down)
    left = np.floor((width - wide + 1) * draws.erase_right)
    return top, left, top + tall, left + wide


def erased(view: Pixels, box: tuple[Column, Column, Column, Column]) -> Pixels:
    """Return the view with its mean colour in the box."""
    top, left, bottom, right = (int(side) for side in box)
    out = view.copy()
    out[top:bottom, left:right] = np.rint(view.mean(axis=(0, 1))).astype(np.uint8)
    return out
