"""A change of one's own: any callable that takes a picture and gives one, before all other changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from headstart.augment.draws import Slot, uniform
from headstart.errors import DataError, HeadstartError, UsageError
from headstart.types import Pixels

Style = Literal["array", "seeded", "albumentations", "torchvision"]
STYLES = ("array", "seeded", "albumentations", "torchvision")


@dataclass(frozen=True, slots=True)
class Own:
    """A change of one's own, and how it is called.

    `change`: with the style `array` it is called as `change(image)`; `seeded`: as `change(image,
    generator)` with a NumPy generator that depends on seed, epoch and sample alone, so that runs can be
    repeated and resumed bit for bit, which no other style promises; `albumentations`: as
    `change(image=image)["image"]`; `torchvision`: on a uint8 tensor (3, height, width). Pictures are
    uint8 (height, width, 3), RGB, of any size, before and after; each is a copy that may be written to.
    `key`: text that changes whenever the change does, since caches go by it. Loader threads call it side
    by side.
    """

    change: Callable[..., Any]
    key: str
    style: Style = "array"

    def __post_init__(self) -> None:
        if not self.key:
            raise UsageError("a change of one's own needs a key", "name it and its version: key='blur 2'")
        if self.style not in STYLES:
            raise UsageError(f"there is no style {self.style!r}", f"choose from {', '.join(STYLES)}")

    def __call__(self, image: Pixels, seed: int, epoch: int, sample_id: int) -> Pixels:
        """Return the changed picture; raises `DataError` with the code OWN_CHANGE when that fails."""
        try:
            changed = self._called(np.array(image), seed, epoch, sample_id)
        except HeadstartError:
            raise
        except Exception as error:  # whatever code of one's own may raise
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"the change {self.key!r} failed: {type(error).__name__}: {reason}",
                f"it was given {image.shape[0]} x {image.shape[1]} uint8 pixels; try it on this picture",
                code="OWN_CHANGE",
            ) from error
        if not (
            isinstance(changed, np.ndarray)
            and changed.dtype == np.uint8
            and changed.ndim == 3
            and changed.shape[2] == 3
            and changed.size
        ):
            what = f"{changed.dtype} {changed.shape}" if isinstance(changed, np.ndarray) else type(changed)
            raise DataError(
                f"the change {self.key!r} gave {what}, not uint8 (height, width, 3)",
                "normalising and turning into tensors is left to the model",
                code="OWN_CHANGE",
            )
        return np.ascontiguousarray(changed)

    def _called(self, image: Pixels, seed: int, epoch: int, sample_id: int) -> Any:
        if self.style == "seeded":
            word = int(uniform(seed, epoch, [sample_id], Slot.OWN)[0] * 2**53)
            return self.change(image, np.random.Generator(np.random.PCG64(word)))
        if self.style == "albumentations":
            return self.change(image=image)["image"]
        if self.style == "torchvision":
            import torch

            changed = self.change(torch.from_numpy(image).permute(2, 0, 1))
            return changed.permute(1, 2, 0).numpy()
        return self.change(image)
