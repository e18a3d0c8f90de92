"""Random numbers that are a pure function of what they are for, and what they are for."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_WORD = 2**64 - 1

CROP_TRIES = 10

Column: TypeAlias = Any
"""One draw: a number for a single sample, or an array (B, …) for B of them."""


class Slot(enum.IntEnum):
    """Which draw of a sample is for what; a number, once given, is never given to another."""

    FLIP = 0
    DIHEDRAL = 1
    WHETHER_ROTATE = 2
    ROTATE = 3
    WHETHER_ZOOM = 4
    ZOOM = 5
    WHETHER_WARP = 6
    WARP_HORIZONTAL = 7
    WARP_VERTICAL = 8
    SHIFT_RIGHT = 9
    SHIFT_DOWN = 10
    WHETHER_BRIGHTNESS = 11
    BRIGHTNESS = 12
    WHETHER_CONTRAST = 13
    CONTRAST = 14
    WHETHER_SQUISH = 15
    SQUISH = 16
    WHETHER_TRANSLATE = 17
    TRANSLATE_RIGHT = 18
    TRANSLATE_DOWN = 19
    WHETHER_TILT = 20
    TILT = 21  # … 28: two for each of the four corners
    WHETHER_SATURATION = 29
    SATURATION = 30
    WHETHER_HUE = 31
    HUE = 32
    WHETHER_POSTERISE = 33
    POSTERISE = 34
    WHETHER_SOLARISE = 35
    SOLARISE = 36
    WHETHER_BLUR = 37
    BLUR = 38
    WHETHER_SHARPNESS = 39
    SHARPNESS = 40
    WHETHER_ERASE = 41
    ERASE_AREA = 42
    ERASE_RATIO = 43
    ERASE_RIGHT = 44
    ERASE_DOWN = 45
    TRIVIAL_OPERATION = 46
    TRIVIAL_STRENGTH = 47
    TRIVIAL_SIGN = 48
    MIX = 49
    MIX_RIGHT = 50
    MIX_DOWN = 51
    OWN = 52
    CROP_AREA = 53  # … 62: one for each try
    CROP_RATIO = 63  # … 72


SLOTS = Slot.CROP_RATIO + CROP_TRIES
_SLOT_WORDS = np.arange(SLOTS, dtype=np.uint64)


class Tone(enum.IntEnum):
    """A curve that depends on the picture itself."""

    NONE = 0
    AUTOCONTRAST = 1
    EQUALISE = 2
    AROUND_MEAN = 3


@dataclass(frozen=True, slots=True)
class Draws:
    """What was drawn: for B samples every column is (B, …), for one sample it is a plain number.

    `right`, `down`: where a crop lies in what there is to choose from, -1 … 1. `squish`: the logarithm
    of the width's stretch against the height's. `shift_*`, `shear_*`: see `geometry`. `tilt` (…, 4, 2):
    how far each corner moves. `crop_area`, `crop_ratio` (…, tries): shares of the picture's area, and
    width / height. `saturation`, `gain`: factors. `hue`: degrees. `bits`: those that are kept.
    `threshold`: from where on values are inverted. `tone`, `tone_factor`, `tone_added`: see `color`.
    `blur`: a standard deviation in pixels of the view. `sharpness`: 0 leaves it. `erase_area`: a share
    of the view, `erase_ratio`: height / width, `erase_right`, `erase_down`: its place in what is free, 0 … 1.
    The defaults change nothing.
    """

    flip: Column = False
    dihedral: Column = 0
    rotate: Column = 0.0
    zoom: Column = 1.0
    warp_horizontal: Column = 0.0
    warp_vertical: Column = 0.0
    right: Column = 0.0
    down: Column = 0.0
    brightness: Column = 0.0
    contrast: Column = 0.0
    squish: Column = 0.0
    shift_right: Column = 0.0
    shift_down: Column = 0.0
    shear_right: Column = 0.0
    shear_down: Column = 0.0
    tilt: Column = None
    crop_area: Column = None
    crop_ratio: Column = None
    saturation: Column = 1.0
    hue: Column = 0.0
    gain: Column = 1.0
    bits: Column = 8
    threshold: Column = 256.0
    tone: Column = 0
    tone_factor: Column = 1.0
    tone_added: Column = 0.0
    blur: Column = 0.0
    sharpness: Column = 0.0
    erase_area: Column = 0.0
    erase_ratio: Column = 1.0
    erase_right: Column = 0.0
    erase_down: Column = 0.0


def _words(value: ArrayLike) -> NDArray[np.uint64]:
    numbers = np.asarray(value)
    # Negative numbers wrap around; Python integers beyond 64 bits are cut.
    if numbers.dtype == object:
        return np.array([int(number) & _WORD for number in numbers.flat], np.uint64).reshape(numbers.shape)
    return numbers.astype(np.uint64)


def _mixed(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One step of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection that scatters all bits."""
    word = word + _GOLDEN
    word = (word ^ (word >> np.uint64(30))) * _FIRST
    word = (word ^ (word >> np.uint64(27))) * _SECOND
    return word ^ (word >> np.uint64(31))


def _mixed_number(word: int) -> int:
    """The same step for one Python number."""
    word = (word + 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


def uniform(seed: int, epoch: int, sample_ids: ArrayLike, slot: ArrayLike) -> NDArray[np.float64]:
    """Return numbers in [0, 1), uniform and independent for different arguments.

    `sample_ids` (uint64) and `slot` (which of a sample's draws) may be arrays; they broadcast against
    each other, and so `uniform(0, 1, ids[:, None], [0, 1, 2])` has the shape (samples, 3).
    """
    with np.errstate(over="ignore"):  # wrapping around is what the hash does
        word = np.zeros((), np.uint64)
        for part in (seed, epoch, sample_ids, slot):
            word = _mixed(word ^ _words(part))
    return np.asarray((word >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def uniform_row(seed: int, epoch: int, sample_id: int) -> list[float]:
    """Return a single sample's numbers for every slot: those of `uniform`, in a third of the time."""
    word = 0
    for part in (seed, epoch, sample_id):
        word = _mixed_number(word ^ (int(part) & _WORD))
    mixed = _mixed(np.uint64(word) ^ _SLOT_WORDS)
    row: list[float] = ((mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53).tolist()
    return row
