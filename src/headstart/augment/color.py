"""Colour as a 3 x 4 matrix for each sample, then a curve of 256 values: what lighting does.

Matrices are float64 (B, 3, 4) and act on (red, green, blue, 1) with colours in 0 … 255. Curves are
uint8 (B, 256): the new value for each old one, the same for the three channels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

ColorMatrices = NDArray[np.float64]
Curves = NDArray[np.uint8]

_VALUES = np.clip(np.arange(256) / 255.0, 1e-7, 1 - 1e-7)
_LOGITS = np.log(_VALUES / (1.0 - _VALUES))


def identity(count: int) -> ColorMatrices:
    """Return `count` matrices that change nothing, (B, 3, 4)."""
    return np.tile(np.eye(3, 4), (count, 1, 1))


def lighting(brightness: ArrayLike, contrast: ArrayLike) -> Curves:
    """Return the curves of a change of light in logit space, as in the fast.ai course.

    `brightness` (B,), inside (-1, 1): 0 changes nothing; a middle grey becomes 0.5 * (1 + brightness).
    `contrast` (B,): the factor on the logits is exp(contrast); 0 changes nothing. Black stays black
    and white white.
    """
    middle = 0.5 * (1.0 + np.asarray(brightness, np.float64))
    added = np.log(middle / (1.0 - middle))
    factor = np.exp(np.asarray(contrast, np.float64))
    logits = (_LOGITS + added[:, None]) * factor[:, None]
    return np.asarray(np.rint(255.0 / (1.0 + np.exp(-logits))), np.uint8)
