"""What the constructors of `ImageData` take, what is refused, and what is chosen where nothing is said."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict, Unpack, cast, get_args

from headstart.augment import Augmentation
from headstart.augment.warp import Policy
from headstart.data import Audit, Shapes, choose_policy
from headstart.data.cache import CacheMode
from headstart.data.lost import ON_ERROR, OnError
from headstart.errors import UsageError
from headstart.ordering import Balance, Ordering
from headstart.types import Size

POLICIES = get_args(Policy)
OnProgress = Callable[[int, int], None]


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

    cache: CacheMode
    largest_size: int | str | Size | None
    limit: int | None
    quarantine: Path | None
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


def short_side_for(size: Size, crop_fraction: float) -> int:
    """Return the short side, in pixels, that pictures need so that nothing is enlarged."""
    return math.ceil(max(size) / crop_fraction)


def resize_policy(resize: str, seen: Audit, size: Size) -> tuple[Policy, str]:
    """Return the resize policy that was asked for, or the one that suits the shapes, and why."""
    if resize != "auto":
        return cast(Policy, resize), ""
    return choose_policy(Shapes(seen.height[seen.ok], seen.width[seen.ok]), size)
