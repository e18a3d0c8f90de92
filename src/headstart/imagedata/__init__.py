"""Pictures with labels, a split, a size and an augmentation, ready to train on."""

from headstart.imagedata.data import ImageData
from headstart.imagedata.options import (
    POLICIES,
    AuditedOptions,
    DataOptions,
    OnProgress,
    choose_batch_size,
    short_side_for,
)
from headstart.imagedata.pool import FeaturePool

__all__ = [
    "POLICIES",
    "AuditedOptions",
    "DataOptions",
    "FeaturePool",
    "ImageData",
    "OnProgress",
    "choose_batch_size",
    "short_side_for",
]
