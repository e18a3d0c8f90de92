"""Colour as a 3 x 4 matrix for each sample, then a curve of 256 values.

Matrices are float64 (B, 3, 4) and act on (red, green, blue, 1) with colours in 0 … 255. Curves are
uint8: the new value for each old one, (B, 256) where the three channels share it, (B, 3, 256) where
it depends on the picture. A single number gives one matrix or one curve, without the B.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.augment.draws import Tone

ColorMatrices = NDArray[np.float64]
Curves = NDArray[np.uint8]

_VALUES = np.clip(np.arange(256) / 255.0, 1e-7, 1 - 1e-7)
_LOGITS = np.log(_VALUES / (1.0 - _VALUES))
_STEPS = np.arange(256)

# Rec. 601: what each colour adds to brightness, and the plane of colours across it (Y, I, Q).
_BRIGHTNESS_OF = np.array([0.299, 0.587, 0.114])
_YIQ = np.array([_BRIGHTNESS_OF, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_GREY = np.tile(_BRIGHTNESS_OF, (3, 1))
_QUARTER_HUE = np.linalg.inv(_YIQ) @ np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ _YIQ


def identity(count: int) -> ColorMatrices:
    """Return `count` matrices that change nothing, (B, 3, 4)."""
    return np.tile(np.eye(3, 4), (count, 1, 1))


def compose(first: ColorMatrices, second: ColorMatrices) -> ColorMatrices:
    """Return the matrices that do `first`, then `second`."""
    combined = second[..., :3] @ first
    combined[..., 3] += second[..., 3]
    return combined


def _without_offset(linear: NDArray[np.float64]) -> ColorMatrices:
    return np.concatenate([linear, np.zeros((*linear.shape[:-1], 1))], axis=-1)


def _entries(value: ArrayLike) -> Any:
    return np.asarray(value, np.float64)[..., None, None]


def gain(factor: ArrayLike) -> ColorMatrices:
    """Multiply all colours by `factor`, from 0 on; 1 changes nothing."""
    return _without_offset(_entries(factor) * np.eye(3))


def saturation(factor: ArrayLike) -> ColorMatrices:
    """Take colours away from grey by `factor`: 0 leaves grey, 1 changes nothing."""
    return _without_offset(np.eye(3) + (1.0 - _entries(factor)) * (_GREY - np.eye(3)))


def hue(degrees: ArrayLike) -> ColorMatrices:
    """Turn colours around the axis of greys by `degrees`, brightness (Rec. 601) kept."""
    angle = np.deg2rad(_entries(degrees))
    return _without_offset(
        np.eye(3) + (np.cos(angle) - 1.0) * (np.eye(3) - _GREY) + np.sin(angle) * _QUARTER_HUE
    )


def lighting(brightness: ArrayLike, contrast: ArrayLike) -> Curves:
    """Return the curves of a change of light in logit space, as in the fast.ai course.

    `brightness`, inside (-1, 1): 0 changes nothing; a middle grey becomes 0.5 * (1 + brightness).
    `contrast`: the factor on the logits is exp(contrast); 0 changes nothing. Black stays black
    and white white.
    """
    middle = 0.5 * (1.0 + np.asarray(brightness, np.float64))
    added = np.log(middle / (1.0 - middle))
    factor = np.exp(np.asarray(contrast, np.float64))
    logits = (_LOGITS + added[..., None]) * factor[..., None]
    return np.asarray(np.rint(255.0 / (1.0 + np.exp(-logits))), np.uint8)


def posterise(bits: ArrayLike) -> Curves:
    """Keep the highest `bits` (1 … 8) of each value; 8 changes nothing."""
    dropped = 2 ** (8 - np.asarray(bits, np.int64)[..., None])
    return np.asarray(_STEPS // dropped * dropped, np.uint8)


def solarise(threshold: ArrayLike) -> Curves:
    """Invert the values from `threshold` (0 … 256) on; 256 changes nothing."""
    return np.where(np.asarray(threshold)[..., None] <= _STEPS, 255 - _STEPS, _STEPS).astype(np.uint8)


def chained(first: Curves, second: Curves) -> Curves:
    """Return the curves that do `first`, then `second`."""
    return np.take_along_axis(second, first.astype(np.int64), axis=-1)


def toned(histograms: ArrayLike, tone: ArrayLike, factor: ArrayLike, added: ArrayLike) -> Curves:
    """Return curves (…, 3, 256) that depend on what the picture holds.

    `histograms` (…, 3, 256): how often each value occurs in each channel. `tone` says which: a
    channel's darkest and brightest value become 0 and 255 (autocontrast); its values become equally
    frequent (equalise, as Pillow does it); or all move away from the mean of the three channels by
    `factor`, and `added` (in 0 … 255) is added. A channel of one value stays as it is in the first two.
    """
    counts = np.asarray(histograms, np.int64)
    kind = np.asarray(tone)[..., None, None]
    chosen = [kind == Tone.AUTOCONTRAST, kind == Tone.EQUALISE, kind == Tone.AROUND_MEAN]
    curves = [
        _stretched(counts),
        _equalised(counts),
        _around_mean(counts, np.asarray(factor)[..., None, None], np.asarray(added)[..., None, None]),
    ]
    return np.asarray(np.select(chosen, curves, _STEPS), np.uint8)


def _stretched(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    held = counts > 0
    darkest = held.argmax(axis=-1)[..., None]
    brightest = 255 - held[..., ::-1].argmax(axis=-1)[..., None]
    span = brightest - darkest
    stretched = np.clip(np.rint((_STEPS - darkest) * (255.0 / np.maximum(span, 1))), 0, 255)
    return np.where(span > 0, stretched, _STEPS)


def _equalised(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    below = np.cumsum(counts, axis=-1)
    brightest = 255 - (counts[..., ::-1] > 0).argmax(axis=-1)[..., None]
    step = (below[..., -1:] - np.take_along_axis(counts, brightest, axis=-1)) // 255
    equal = np.minimum((step // 2 + below - counts) // np.maximum(step, 1), 255)
    return np.where(step > 0, equal, _STEPS)


def _around_mean(counts: NDArray[np.int64], factor: Any, added: Any) -> NDArray[np.float64]:
    mean = (counts * _STEPS).sum(axis=(-1, -2)) / counts.sum(axis=(-1, -2))
    mean = mean[..., None, None]
    moved = np.clip(np.rint((_STEPS - mean) * factor + mean + added), 0, 255)
    return np.broadcast_to(moved, counts.shape)
