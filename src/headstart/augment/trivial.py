"""TrivialAugment: one change for each picture, drawn among fourteen, at a strength drawn with it.

Source: Müller and Hutter 2021, arXiv 2103.10158, table 1, the wide space. What is drawn fills the same
columns as any other draw, so that matrices, curves and pixel steps are shared with the rest. Moves are
at most 1/7 of the view (32 of 224 pixels).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from headstart.augment.draws import Column, Slot, Tone

OPERATIONS = (
    "identity",
    "autocontrast",
    "equalise",
    "rotate",
    "solarise",
    "saturation",
    "posterise",
    "contrast",
    "brightness",
    "sharpness",
    "shear right",
    "shear down",
    "translate right",
    "translate down",
)
_STRENGTHS = 31
_FARTHEST_MOVE = 2 / 7


def _whole(value: Any) -> Any:
    return np.floor(value) if isinstance(value, np.ndarray) else int(value)


def trivial_draws(numbers: Any) -> dict[str, Column]:
    """Return the columns of one change drawn for each sample; `numbers[slot]` is a number or (B,)."""
    operation = _whole(len(OPERATIONS) * numbers[Slot.TRIVIAL_OPERATION])
    strength = _whole(_STRENGTHS * numbers[Slot.TRIVIAL_STRENGTH]) / (_STRENGTHS - 1)
    signed = strength * (1.0 - 2.0 * (numbers[Slot.TRIVIAL_SIGN] < 0.5))

    def where(name: str, value: Any) -> Any:
        return value * (operation == OPERATIONS.index(name)) + 0.0

    tones = ("autocontrast", Tone.AUTOCONTRAST), ("equalise", Tone.EQUALISE), ("contrast", Tone.AROUND_MEAN)
    tone = sum(kind.value * (operation == OPERATIONS.index(name)) for name, kind in tones)
    dropped = where("posterise", np.rint(6.0 * strength))
    return {
        "rotate": where("rotate", 135.0 * signed),
        "threshold": 256.0 - where("solarise", 256.0 * strength),
        "saturation": 1.0 + where("saturation", 0.99 * signed),
        "bits": 8 - (dropped.astype(np.int64) if isinstance(dropped, np.ndarray) else int(dropped)),
        "tone": tone,
        "tone_factor": 1.0 + where("contrast", 0.99 * signed),
        "gain": 1.0 + where("brightness", 0.99 * signed),
        "sharpness": where("sharpness", 0.99 * signed),
        "shear_right": where("shear right", 0.99 * signed),
        "shear_down": where("shear down", 0.99 * signed),
        "shift_right": where("translate right", _FARTHEST_MOVE * signed),
        "shift_down": where("translate down", _FARTHEST_MOVE * signed),
    }
