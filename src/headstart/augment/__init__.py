"""Draws become matrices, and matrices one resampling. Knows no model and no files."""

from headstart.augment.augmentation import Augmentation, Color, Framing, PixelSteps
from headstart.augment.draws import Draws, Slot, uniform
from headstart.augment.own import Own
from headstart.augment.prepare import EvalPrepare, TrainPrepare, views
from headstart.augment.presets import (
    GENERATIONS,
    PRESETS,
    from_course,
    none,
    preset,
    side_on,
    top_down,
    trivial,
)
from headstart.augment.view import view_matrix
from headstart.augment.warp import apply_color, resize_for_evaluation, warp

__all__ = [
    "GENERATIONS",
    "PRESETS",
    "Augmentation",
    "Color",
    "Draws",
    "EvalPrepare",
    "Framing",
    "Own",
    "PixelSteps",
    "Slot",
    "TrainPrepare",
    "apply_color",
    "from_course",
    "none",
    "preset",
    "resize_for_evaluation",
    "side_on",
    "top_down",
    "trivial",
    "uniform",
    "view_matrix",
    "views",
    "warp",
]
