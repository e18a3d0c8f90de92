"""The few shapes that every room shares: sizes, tasks, batches and the two seams."""

from __future__ import annotations

import enum
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headstart.errors import UsageError

if TYPE_CHECKING:
    import torch

Pixels: TypeAlias = NDArray[np.uint8]
"""A picture: uint8, height × width × 3, RGB."""

Size: TypeAlias = tuple[int, int]
"""(height, width) in pixels."""

Array: TypeAlias = "NDArray[Any] | torch.Tensor"


class Task(enum.StrEnum):
    """What a label is: one class of several, or any number of tags."""

    SINGLE_LABEL = "single-label"
    MULTI_LABEL = "multi-label"


@dataclass(frozen=True, slots=True)
class World:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1


@dataclass(frozen=True, slots=True)
class Batch:
    """Some samples, ready for a network.

    `inputs`: uint8 pictures (batch, height, width, 3), or activations (batch, …) as float32.
    `targets`: int64 class numbers (batch,), or float32 (batch, classes) for tags and soft labels.
    `index`: int64 row numbers in the `Samples` that the batch came from.
    `weight`: float32 (batch,), or None where every sample counts the same.

    A batch may be empty, where all its pictures were left out: it is passed over, and counts as a batch.
    """

    inputs: Array
    targets: Array
    index: NDArray[np.int64]
    weight: Array | None = None

    def __len__(self) -> int:
        return len(self.index)


class Prepare(Protocol):
    """Turns a decoded picture into the network's input; the seam between `data` and `augment`."""

    @property
    def size(self) -> Size:
        """The (height, width) of what comes out."""

    @property
    def key(self) -> str:
        """Text that is equal for two instances only if they do the same; part of cache keys."""

    def __call__(self, image: Pixels, sample_id: int, epoch: int) -> Pixels:
        """Return the picture as (height, width, 3) uint8: a pure function of the arguments."""


class BatchSource(Protocol):
    """Gives the batches of any epoch from any step; the seam between `data` and `training`."""

    def __len__(self) -> int:
        """The number of batches in an epoch."""

    @property
    def sample_count(self) -> int:
        """The number of samples in an epoch, over all batches of this process; of lost ones too."""

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` in order, from batch number `start` on."""


def parse_size(value: int | str | tuple[int, int] | list[int]) -> Size:
    """Read an image size: `224`, `"224"`, `"224x320"` or `(224, 320)`, as (height, width).

    Raises `UsageError` unless both numbers are whole and in 8 … 4096.
    """
    try:
        parts = value.lower().split("x") if isinstance(value, str) else value
        numbers = [parts] if isinstance(parts, int) else [_whole(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) == 1:
        numbers = numbers * 2
    if len(numbers) != 2 or not all(8 <= number <= 4096 for number in numbers):
        raise UsageError(
            f"image size {value!r} is not a size",
            "give one number (224) or height x width (224x320), each from 8 to 4096",
        )
    return (numbers[0], numbers[1])


def _whole(part: str | int) -> int:
    # `int` alone would cut 224.7 down to 224.
    return int(part) if isinstance(part, str) else operator.index(part)
