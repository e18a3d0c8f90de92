"""A decoded picture becomes the network's input: the same way each time, or a new way each epoch."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.augment.presets import Augmentation
from headstart.augment.warp import Interpolation, Policy, apply_color, resize_for_evaluation, warp
from headstart.errors import UsageError
from headstart.types import Pixels, Size


def _short_side(size: Size, policy: Policy, crop_fraction: float) -> int:
    return math.ceil(max(size) / crop_fraction) if policy == "crop" else max(size)


def _key(kind: str, settings: object) -> str:
    return json.dumps([kind, 1, settings], sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class EvalPrepare:
    """Resizes a picture, always the same way: the plain view, or a mirrored or turned one.

    `size`: (height, width). `policy`, `crop_fraction`, `interpolation`: as for
    `resize_for_evaluation`. `turns`: quarter turns counter-clockwise (0 … 3), `flip`: mirrored left and
    right after the turn.
    """

    size: Size
    policy: Policy = "crop"
    crop_fraction: float = 0.875
    interpolation: Interpolation = "bicubic"
    flip: bool = False
    turns: int = 0

    @property
    def short_side(self) -> int:
        """The short side, in pixels, that a decoded picture needs so that nothing is enlarged."""
        return _short_side(self.size, self.policy, self.crop_fraction)

    @property
    def key(self) -> str:
        """Text that is equal only for settings that give the same pixels."""
        return _key("evaluation", dataclasses.asdict(self))

    def __call__(self, image: Pixels, sample_id: int = 0, epoch: int = 0) -> Pixels:
        """Return the picture as uint8 (height, width, 3); sample and epoch make no difference."""
        upright = self.size if self.turns % 2 == 0 else (self.size[1], self.size[0])
        view = resize_for_evaluation(
            image,
            upright,
            policy=self.policy,
            crop_fraction=self.crop_fraction,
            interpolation=self.interpolation,
        )
        view = np.rot90(view, self.turns)
        return np.ascontiguousarray(view[:, ::-1] if self.flip else view)


@dataclass(frozen=True)
class TrainPrepare:
    """Changes a picture as an augmentation allows: a pure function of (seed, epoch, sample id).

    All geometry, the crop and the resize are one matrix and one resampling. `crop_fraction`: the view,
    before any zoom, covers this part of the largest one that fits the picture; with the evaluation's
    own fraction, things appear as large in training as in evaluation, and a random crop may lie
    anywhere in the picture.
    """

    augmentation: Augmentation
    size: Size
    seed: int = 0
    policy: Policy = "crop"
    crop_fraction: float = 0.875

    @property
    def short_side(self) -> int:
        """The short side, in pixels, that a decoded picture needs so that nothing is enlarged."""
        return _short_side(self.size, self.policy, self.crop_fraction)

    @property
    def key(self) -> str:
        """Text that is equal only for settings that give the same pixels."""
        return _key("training", dataclasses.asdict(self))

    def __call__(self, image: Pixels, sample_id: int, epoch: int) -> Pixels:
        """Return the picture, changed, as uint8 (height, width, 3)."""
        draws = self.augmentation.draw(self.seed, epoch, [sample_id])
        change = self.augmentation.geometry(draws)[0]
        turned = bool(draws.dihedral[0] % 2)
        matrix = view_matrix(
            (image.shape[0], image.shape[1]),
            self.size,
            change,
            policy=self.policy,
            crop_fraction=self.crop_fraction,
            place=(float(draws.right[0]), float(draws.down[0])),
            turned=turned,
            zoom=float(draws.zoom[0]),
        )
        view = warp(image, matrix, self.size, padding=self.augmentation.padding)
        curves = self.augmentation.curves(draws)
        return apply_color(view, curve=None if curves is None else curves[0])


def view_matrix(
    picture: Size,
    size: Size,
    change: NDArray[np.float64],
    *,
    policy: Policy = "crop",
    crop_fraction: float = 1.0,
    place: tuple[float, float] = (0.0, 0.0),
    turned: bool = False,
    zoom: float = 1.0,
) -> NDArray[np.float64]:
    """Return the matrix from output pixels to input pixels: the view's place, and the change in it.

    `picture`, `size`: (height, width) of the input and the output. `change`: 3 x 3 in the view's own
    coordinates (see `geometry`). `place`: where the crop lies within what is free, -1 … 1 to the right
    and down; `zoom` (part of `change`) and `turned` (by an odd number of quarters) say how much is free.
    """
    height, width = size
    unit = max(size) / 2
    to_view = np.array(
        [[1 / unit, 0, -(width - 1) / 2 / unit], [0, 1 / unit, -(height - 1) / 2 / unit], [0, 0, 1]]
    )
    rows, columns = (width, height) if turned else (height, width)
    down, across = picture[0] / rows, picture[1] / columns  # input pixels for one output pixel
    if policy == "crop":
        down = across = min(down, across) * crop_fraction
    elif policy == "pad":
        down = across = max(down, across)
    elif policy != "squish":
        raise UsageError(f"there is no resize policy {policy!r}", "the policies are crop, squish and pad")
    free_right = max(0.0, picture[1] - columns * across / zoom) / 2
    free_down = max(0.0, picture[0] - rows * down / zoom) / 2
    middle_x = (picture[1] - 1) / 2 + place[0] * free_right
    middle_y = (picture[0] - 1) / 2 + place[1] * free_down
    to_picture = np.array([[unit * across, 0, middle_x], [0, unit * down, middle_y], [0, 0, 1]])
    return np.asarray(to_picture @ change @ to_view)


def views(augmentation: Augmentation, plain: EvalPrepare) -> list[EvalPrepare]:
    """Return the views that are averaged in test-time augmentation, the plain one first.

    With the mirror image where the augmentation mirrors; all eight symmetries where it has them; the
    plain view alone where it has neither.
    """
    if augmentation.dihedral:
        return [
            dataclasses.replace(plain, turns=turns, flip=flip) for flip in (False, True) for turns in range(4)
        ]
    if augmentation.flip_horizontal:
        return [plain, dataclasses.replace(plain, flip=not plain.flip)]
    return [plain]
