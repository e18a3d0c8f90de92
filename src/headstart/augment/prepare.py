"""A decoded picture becomes the network's input: the same way each time, or a new way each epoch."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headstart.augment.augmentation import Augmentation
from headstart.augment.draws import Column, Draws
from headstart.augment.pixelsteps import apply_steps
from headstart.augment.view import crop_window, view_matrix
from headstart.augment.warp import Interpolation, Policy, apply_color, resize_for_evaluation, warp
from headstart.types import Pixels, Size


def _short_side(size: Size, policy: Policy, crop_fraction: float) -> int:
    return math.ceil(max(size) / crop_fraction) if policy == "crop" else max(size)


def key_of(kind: str, settings: object) -> str:
    """Return the settings of one kind of view as text, equal only for equal settings."""
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
        return key_of("evaluation", dataclasses.asdict(self))

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
    anywhere in the picture. Random-resized crops go by their own shares instead.
    """

    augmentation: Augmentation
    size: Size
    seed: int = 0
    policy: Policy = "crop"
    crop_fraction: float = 0.875

    @property
    def short_side(self) -> int:
        """The short side, in pixels, that a decoded picture needs so that nothing is enlarged.

        Zooms enlarge; of random-resized crops, those below the middle of their areas do.
        """
        area = self.augmentation.framing.crop_area
        if area is not None:
            return math.ceil(max(self.size) / math.sqrt((area[0] + area[1]) / 2))
        return _short_side(self.size, self.policy, self.crop_fraction)

    @property
    def key(self) -> str:
        """Text that is equal only for settings that give the same pixels."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return key_of("training", {**fields, "augmentation": self.augmentation.to_dict()})

    def __call__(self, image: Pixels, sample_id: int, epoch: int) -> Pixels:
        """Return the picture, changed, as uint8 (height, width, 3)."""
        before = self.augmentation.before
        if before is not None:
            image = before(image, self.seed, epoch, sample_id)
        draws = self.augmentation.draw_one(self.seed, epoch, sample_id)
        matrix = self.matrices(draws, (image.shape[0], image.shape[1]))
        view = warp(image, matrix, self.size, padding=self.augmentation.padding)
        view = apply_color(view, self.augmentation.color_matrices(draws), self.augmentation.curves(draws))
        return apply_steps(view, draws)

    def matrices(self, draws: Draws, picture: tuple[Column, Column]) -> NDArray[np.float64]:
        """Return the matrix from output pixels to input pixels that was drawn, for one sample or for B.

        `picture`: (height, width) of the decoded picture, or of each of the B.
        """
        turned, window = draws.dihedral % 2 == 1, None
        if draws.crop_area is not None:
            window = crop_window(picture, self.size, draws.crop_area, draws.crop_ratio, turned=turned)
        return view_matrix(
            picture,
            self.size,
            self.augmentation.geometry(draws),
            policy=self.policy,
            crop_fraction=self.crop_fraction,
            place=(draws.right, draws.down),
            turned=turned,
            zoom=draws.zoom,
            window=window,
        )


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
