"""Test-time augmentation by name: which views of a picture are averaged, and what each counts.

Every policy is fixed: the same picture is seen the same ways each time, in a batch or alone, while training
and from a bundle. What the course's three libraries drew at random (turns, zooms, light) is drawn once for
all pictures; of those views every other one is mirrored, where mirroring leaves the label as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

import numpy as np

from headstart.augment import geometry
from headstart.augment.augmentation import Augmentation
from headstart.augment.prepare import EvalPrepare, TrainPrepare, key_of, views
from headstart.augment.presets import from_course
from headstart.augment.view import view_matrix
from headstart.augment.warp import warp
from headstart.errors import UsageError
from headstart.types import Pixels, Prepare, Size

Symmetries = Literal["plain", "flips", "dihedral"]
"""What leaves a picture's label as it is: nothing, its mirror image, or all eight turns and mirror images."""

# fastai 1 zooms to the four corners by it.
CORNER_ZOOM = 1.35
# The views of different scale show so much of the plain view's sides; 1.14 is the whole short side of a
# picture at the usual crop of 0.875.
SCALES = (1 / 0.875, 0.8)
DRAWN_VIEWS = 4


@dataclass(frozen=True)
class ZoomedPrepare:
    """One fixed view: the plain one enlarged, at a place in the picture, or mirrored.

    `zoom`: above 0, over the largest view that fits the picture times `crop_fraction`. `place`: where it
    lies within what is free, -1 … 1 to the right and down.
    """

    plain: EvalPrepare
    zoom: float
    place: tuple[float, float] = (0.0, 0.0)
    crop_fraction: float = 1.0
    flip: bool = False

    @property
    def size(self) -> Size:
        """(height, width)."""
        return self.plain.size

    @property
    def short_side(self) -> int:
        """The short side, in pixels, that a decoded picture needs: that of the plain view."""
        return self.plain.short_side

    @property
    def key(self) -> str:
        """Text that is equal only for settings that give the same pixels."""
        return key_of("zoomed", asdict(self))

    def __call__(self, image: Pixels, sample_id: int = 0, epoch: int = 0) -> Pixels:
        """Return the picture as uint8 (height, width, 3); sample and epoch make no difference."""
        matrix = view_matrix(
            (image.shape[0], image.shape[1]),
            self.size,
            geometry.zoom(self.zoom) @ geometry.flip_horizontal(self.flip),
            policy=self.plain.policy,
            crop_fraction=self.crop_fraction,
            place=self.place,
            zoom=self.zoom,
        )
        return warp(image, matrix, self.size)


@dataclass(frozen=True)
class DrawnPrepare:
    """One draw of an augmentation, the same for every picture; `flip`: mirrored afterwards."""

    training: TrainPrepare
    number: int
    flip: bool = False

    @property
    def size(self) -> Size:
        """(height, width)."""
        return self.training.size

    @property
    def short_side(self) -> int:
        """The short side, in pixels, that a decoded picture needs."""
        return self.training.short_side

    @property
    def key(self) -> str:
        """Text that is equal only for settings that give the same pixels."""
        return key_of("drawn", [self.training.key, self.number, self.flip])

    def __call__(self, image: Pixels, sample_id: int = 0, epoch: int = 0) -> Pixels:
        """Return the picture as uint8 (height, width, 3); sample and epoch make no difference."""
        view = self.training(image, 0, self.number)
        return np.ascontiguousarray(view[:, ::-1]) if self.flip else view


@dataclass(frozen=True)
class ViewPolicy:
    """A way to average views: what it is in words, how its views are made, and what the plain one counts.

    `others(plain, symmetries)` gives the views beside the plain one. `plain_share`: the plain view's weight,
    0 … 1, the others sharing the rest; None where all count alike. `mirrors`: whether it is nothing
    without mirror images.
    """

    words: str
    others: Callable[[EvalPrepare, Symmetries], Sequence[Prepare]]
    plain_share: float | None = None
    mirrors: bool = False


@dataclass(frozen=True)
class PolicyViews:
    """The views that are averaged, the plain one first, and what each counts: weights that add up to 1."""

    views: tuple[Prepare, ...]
    weights: tuple[float, ...]


def _symmetric(plain: EvalPrepare, symmetries: Symmetries) -> Sequence[Prepare]:
    return views(_allowing(symmetries), plain)[1:]


def _corners(plain: EvalPrepare, symmetries: Symmetries) -> Sequence[Prepare]:
    mirrored = (False,) if symmetries == "plain" else (False, True)
    return [
        ZoomedPrepare(plain, CORNER_ZOOM, (right, down), flip=flip)
        for flip in mirrored
        for down in (-1.0, 1.0)
        for right in (-1.0, 1.0)
    ]


def _drawn(generation: str) -> Callable[[EvalPrepare, Symmetries], Sequence[Prepare]]:
    def draw(plain: EvalPrepare, symmetries: Symmetries) -> Sequence[Prepare]:
        drawn = from_course(generation, flip_vertical=symmetries == "dihedral")
        training = TrainPrepare(
            replace(drawn, flip_horizontal=False),
            plain.size,
            policy=plain.policy,
            crop_fraction=plain.crop_fraction,
        )
        mirrored = symmetries == "flips"
        return [DrawnPrepare(training, n, flip=mirrored and n % 2 == 1) for n in range(DRAWN_VIEWS)]

    return draw


def _scales(plain: EvalPrepare, symmetries: Symmetries) -> Sequence[Prepare]:
    del symmetries
    fraction = plain.crop_fraction if plain.policy == "crop" else 1.0
    seen = [min(1.0, fraction * scale) if plain.policy == "crop" else scale for scale in SCALES]
    return [ZoomedPrepare(plain, 1 / share) for share in seen if share <= 1.0 and share != fraction]


POLICIES: dict[str, ViewPolicy] = {
    "flip": ViewPolicy(
        "the mirror image, or all eight where pictures may be turned", _symmetric, mirrors=True
    ),
    "multi-scale": ViewPolicy("the whole short side, and four fifths of the plain view", _scales),
    "course-2017": ViewPolicy("four draws of turns, places and light, all counting alike", _drawn("0.7")),
    "course-2018": ViewPolicy("the four corners, plain and mirrored; plain view 0.4", _corners, 0.4),
    "course-2020": ViewPolicy("four draws of the full augmentation; plain view 0.25", _drawn("2"), 0.25),
}
"""The policies by name. The course's are those of fastai 0.7, 1 and 2 (`TTA`, `tta`), made repeatable."""


def symmetries_of(augmentation: Augmentation) -> Symmetries:
    """Return what an augmentation says leaves a picture's label as it is."""
    if augmentation.dihedral:
        return "dihedral"
    return "flips" if augmentation.flip_horizontal else "plain"


def policy_views(name: str, plain: EvalPrepare, symmetries: Symmetries) -> PolicyViews:
    """Return the views of a policy for pictures that are otherwise seen as `plain` sees them.

    Mirrored and turned views are there only as far as `symmetries` allows. Raises `UsageError` for an
    unknown policy, and for `flip` where mirroring changes what a picture shows.

    >>> policy_views("flip", EvalPrepare((224, 224)), "flips").weights
    (0.5, 0.5)
    """
    if name not in POLICIES:
        raise UsageError(f"there is no view policy {name!r}", f"choose from {', '.join(POLICIES)}")
    if symmetries not in get_args(Symmetries):
        raise UsageError(f"there are no symmetries {symmetries!r}", "they are plain, flips and dihedral")
    policy = POLICIES[name]
    if policy.mirrors and symmetries == "plain":
        raise UsageError(
            "these pictures are never mirrored in training, so a mirror image may show another class",
            "choose multi-scale or one of the course's policies, which then leave mirror images out",
        )
    others = tuple(policy.others(plain, symmetries))
    share = 1 / (1 + len(others)) if policy.plain_share is None else policy.plain_share
    weights = (share, *((1 - share) / len(others) for _ in others)) if others else (1.0,)
    return PolicyViews((plain, *others), weights)


def mirrors(name: str, symmetries: Symmetries) -> bool:
    """Tell whether a policy looks at mirror images of such pictures."""
    return symmetries != "plain" and name != "multi-scale"


def _allowing(symmetries: Symmetries) -> Augmentation:
    return Augmentation(flip_horizontal=symmetries == "flips", dihedral=symmetries == "dihedral")
