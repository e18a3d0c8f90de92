"""What the constructors of `ImageData` take, what is refused, and what is chosen where nothing is said."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict, Unpack, cast, get_args

from headstart.augment import Augmentation, TrainPrepare
from headstart.augment.warp import Policy
from headstart.data import Audit, Background, Shapes, choose_policy
from headstart.data.cache import CacheMode
from headstart.data.lost import ON_ERROR, OnError
from headstart.errors import UsageError
from headstart.ordering import Balance, Ordering
from headstart.types import Size

POLICIES = get_args(Policy)
OnProgress = Callable[[int, int], None]

# The smallest windows are enlarged all the same: to keep their pixels costs too much. Crops of 8 to 100 %
# of the area at 224 pixels want 305 by the middle of the areas and 792 by the smallest. Measured over 12
# JPEG of 12 million pixels, at 256 | 305 | 448 | 792: 9.0 ms to decode each time; 0.5 | 0.5 | 1.9 | 7.8 MB
# a picture; 0.6 | 0.6 | 1.7 | 7.6 ms to warp. Of 2 million pixels, 4.4 | 4.5 | 5.3 | 8.4 ms to decode.
# At a short side of 362, which these give for 256 and 305 alike, 22 % of windows are enlarged, by 1.3.
_MOST_FOR_CROPS = 2


class AuditedOptions(TypedDict, total=False):
    """What `ImageData.from_audit` takes beside the pictures."""

    image_size: int | str | Size
    augment: Augmentation | None
    valid: float
    test: float
    batch_size: int | str
    seed: int
    threads: int | None
    balance: Balance
    max_bad: int | None
    resize: str
    on_error: OnError


class DataOptions(AuditedOptions, total=False):
    """What `ImageData.from_samples` takes beside the samples; every other constructor hands it on."""

    background: str | Background
    cache: CacheMode
    largest_size: int | str | Size | None
    limit: int | None
    quarantine: Path | None
    corrections: Sequence[Path]
    on_progress: OnProgress | None


def check_options(**options: Unpack[AuditedOptions]) -> None:
    """Raise `UsageError` for options out of range."""
    valid, test = options.get("valid", 0.2), options.get("test", 0.0)
    if not (0 < valid < 1 and 0 <= test < 1 and valid + test < 1):
        raise UsageError(
            f"valid={valid} and test={test} leave nothing to train on or to validate with",
            "give fractions such as valid=0.2 and test=0.15",
        )
    resize = options.get("resize", "auto")
    if resize not in (*POLICIES, "auto"):
        raise UsageError(f"there is no resize policy {resize!r}", "choose crop, squish, pad or auto")
    on_error = options.get("on_error", "stop")
    if on_error not in ON_ERROR:
        raise UsageError(f"on_error={on_error!r} is unknown", f"the choices are {', '.join(ON_ERROR)}")
    Ordering(balance=options.get("balance", "none"))


def choose_batch_size(train_count: int) -> int:
    """Return a power of two from 8 to 64 that gives an epoch at least about twenty steps."""
    return int(2 ** min(6, max(3, math.floor(math.log2(max(1, train_count) / 20 + 1)))))


def short_side_for(size: Size, crop_fraction: float, augmentation: Augmentation) -> int:
    """Return the short side, in pixels, that decoded pictures keep for this size and augmentation.

    What evaluation needs so that nothing is enlarged; for random-resized crops, what a window in the
    middle of their areas needs, but no more than twice the longer side of `size`.
    """
    plain = math.ceil(max(size) / crop_fraction)
    wanted = TrainPrepare(augmentation, size, crop_fraction=crop_fraction).short_side
    return max(plain, min(wanted, _MOST_FOR_CROPS * max(size)))


def resize_policy(resize: str, seen: Audit, size: Size) -> tuple[Policy, str]:
    """Return the resize policy that was asked for, or the one that suits the shapes, and why."""
    if resize != "auto":
        return cast(Policy, resize), ""
    return choose_policy(Shapes(seen.height[seen.ok], seen.width[seen.ok]), size)
