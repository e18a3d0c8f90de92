"""Draws become matrices, and matrices one resampling. Knows no model and no files."""

from headstart.augment.draws import uniform
from headstart.augment.prepare import EvalPrepare, TrainPrepare, view_matrix, views
from headstart.augment.presets import PRESETS, Augmentation, none, side_on, top_down
from headstart.augment.warp import apply_color, resize_for_evaluation, warp

__all__ = [
    "PRESETS",
    "Augmentation",
    "EvalPrepare",
    "TrainPrepare",
    "apply_color",
    "none",
    "resize_for_evaluation",
    "side_on",
    "top_down",
    "uniform",
    "view_matrix",
    "views",
    "warp",
]
