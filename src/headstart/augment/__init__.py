"""Draws become matrices, and matrices one resampling. Knows no model and no files."""

from headstart.augment.augmentation import Augmentation, Color, Framing, PixelSteps
from headstart.augment.draws import Draws, Slot, uniform
from headstart.augment.look import show
from headstart.augment.mixing import ALPHAS, MixedSource, Mixing
from headstart.augment.own import Own
from headstart.augment.policies import POLICIES, PolicyViews, ViewPolicy, mirrors, policy_views, symmetries_of
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
from headstart.augment.words import describe, explain

__all__ = [
    "ALPHAS",
    "GENERATIONS",
    "POLICIES",
    "PRESETS",
    "Augmentation",
    "Color",
    "Draws",
    "EvalPrepare",
    "Framing",
    "MixedSource",
    "Mixing",
    "Own",
    "PixelSteps",
    "PolicyViews",
    "Slot",
    "TrainPrepare",
    "ViewPolicy",
    "apply_color",
    "describe",
    "explain",
    "from_course",
    "mirrors",
    "none",
    "policy_views",
    "preset",
    "resize_for_evaluation",
    "show",
    "side_on",
    "symmetries_of",
    "top_down",
    "trivial",
    "uniform",
    "view_matrix",
    "views",
    "warp",
]
