"""What an augmentation may do, as numbers, and the presets of the course."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.augment import color, geometry
from headstart.augment.draws import uniform
from headstart.augment.warp import Padding
from headstart.errors import ConfigError, UsageError


class Slot(enum.IntEnum):
    """Which draw of a sample is for what; a number, once given, is never given to another."""

    FLIP = 0
    DIHEDRAL = 1
    WHETHER_ROTATE = 2
    ROTATE = 3
    WHETHER_ZOOM = 4
    ZOOM = 5
    WHETHER_WARP = 6
    WARP_HORIZONTAL = 7
    WARP_VERTICAL = 8
    SHIFT_RIGHT = 9
    SHIFT_DOWN = 10
    WHETHER_BRIGHTNESS = 11
    BRIGHTNESS = 12
    WHETHER_CONTRAST = 13
    CONTRAST = 14


@dataclass(frozen=True, slots=True)
class Draws:
    """What was drawn for B samples; every column is (B,).

    `right`, `down`: where a crop lies in what there is to choose from, -1 … 1.
    """

    flip: NDArray[np.bool_]
    dihedral: NDArray[np.int64]
    rotate: NDArray[np.float64]
    zoom: NDArray[np.float64]
    warp_horizontal: NDArray[np.float64]
    warp_vertical: NDArray[np.float64]
    right: NDArray[np.float64]
    down: NDArray[np.float64]
    brightness: NDArray[np.float64]
    contrast: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far pictures may be changed in training; with the magnitude 0 (a zoom of 1) a change is off.

    `flip_horizontal`: mirrored half of the time. `dihedral`: one of the square's eight symmetries,
    each equally often. `max_rotate`: degrees either way. `max_zoom`: the largest enlargement.
    `max_warp`: the largest change of perspective. `max_lighting`: the largest change of brightness and
    contrast, in logit space. `p_affine`, `p_lighting`: how often each of these is applied.
    `random_crop`: the crop lies anywhere in the picture rather than at its centre. `padding`: what is
    seen beyond the picture's edge.
    """

    flip_horizontal: bool = False
    dihedral: bool = False
    max_rotate: float = 0.0
    max_zoom: float = 1.0
    max_warp: float = 0.0
    max_lighting: float = 0.0
    p_affine: float = 0.75
    p_lighting: float = 0.75
    random_crop: bool = False
    padding: Padding = "reflect"

    def __post_init__(self) -> None:
        ranges = {
            "max_rotate": (0.0, 180.0),
            "max_zoom": (1.0, 10.0),
            "max_warp": (0.0, 0.5),
            "max_lighting": (0.0, 0.9),
            "p_affine": (0.0, 1.0),
            "p_lighting": (0.0, 1.0),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"{name}={value} is out of range", f"it must lie in {low:g} … {high:g}")
        if self.padding not in ("reflect", "zeros", "edge"):
            raise UsageError(f"there is no padding {self.padding!r}", "choose reflect, zeros or edge")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Augmentation:
        """Make an augmentation from `to_dict`'s values; raises `ConfigError` for an unknown name."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                f"an augmentation has no {', '.join(unknown)}", f"it has {', '.join(sorted(known))}"
            )
        return cls(**values)

    def draw(self, seed: int, epoch: int, sample_ids: ArrayLike) -> Draws:
        """Draw for B samples: a pure function of the arguments, each sample's apart from the others."""
        ids = np.atleast_1d(np.asarray(sample_ids, np.uint64))
        drawn = uniform(seed, epoch, ids[:, None], np.arange(len(Slot)))

        def sometimes(whether: Slot, probability: float, slot: Slot, low: float, high: float) -> Any:
            value = low + (high - low) * drawn[:, slot]
            return np.where(drawn[:, whether] < probability, value, 0.0)

        affine, light, reach = self.p_affine, self.p_lighting, self.max_warp
        softest = np.log1p(-self.max_lighting)
        centred = 2.0 * drawn[:, [Slot.SHIFT_RIGHT, Slot.SHIFT_DOWN]] - 1.0 if self.random_crop else 0.0
        right, down = np.broadcast_to(centred, (len(ids), 2)).T
        return Draws(
            flip=(drawn[:, Slot.FLIP] < 0.5) & self.flip_horizontal,
            dihedral=np.floor(8 * drawn[:, Slot.DIHEDRAL]).astype(np.int64) * self.dihedral,
            rotate=sometimes(Slot.WHETHER_ROTATE, affine, Slot.ROTATE, -self.max_rotate, self.max_rotate),
            zoom=1.0 + sometimes(Slot.WHETHER_ZOOM, affine, Slot.ZOOM, 0.0, self.max_zoom - 1.0),
            warp_horizontal=sometimes(Slot.WHETHER_WARP, affine, Slot.WARP_HORIZONTAL, -reach, reach),
            warp_vertical=sometimes(Slot.WHETHER_WARP, affine, Slot.WARP_VERTICAL, -reach, reach),
            right=right,
            down=down,
            brightness=sometimes(
                Slot.WHETHER_BRIGHTNESS, light, Slot.BRIGHTNESS, -self.max_lighting, self.max_lighting
            ),
            contrast=sometimes(Slot.WHETHER_CONTRAST, light, Slot.CONTRAST, softest, -softest),
        )

    def geometry(self, draws: Draws) -> geometry.Matrices:
        """Return what was drawn as one matrix for each sample, (B, 3, 3), without the crop's place."""
        return (
            geometry.symmetric_warp(draws.warp_horizontal, draws.warp_vertical)
            @ geometry.rotate(draws.rotate)
            @ geometry.zoom(draws.zoom)
            @ geometry.dihedral(draws.dihedral)
            @ geometry.flip_horizontal(draws.flip)
        )

    def curves(self, draws: Draws) -> color.Curves | None:
        """Return the curves of the light that was drawn, (B, 256), or None where there is no lighting."""
        return color.lighting(draws.brightness, draws.contrast) if self.max_lighting else None


def side_on(
    *,
    max_zoom: float = 1.1,
    max_rotate: float = 10.0,
    max_lighting: float = 0.2,
    max_warp: float = 0.2,
    p_affine: float = 0.75,
    p_lighting: float = 0.75,
    padding: Padding = "reflect",
) -> Augmentation:
    """Return the preset for pictures taken from the side: mirrored left and right, never upside down.

    The defaults are those of fastai 1.x `get_transforms`.
    """
    return Augmentation(
        flip_horizontal=True,
        max_rotate=max_rotate,
        max_zoom=max_zoom,
        max_warp=max_warp,
        max_lighting=max_lighting,
        p_affine=p_affine,
        p_lighting=p_lighting,
        random_crop=True,
        padding=padding,
    )


def top_down(
    *,
    max_zoom: float = 1.1,
    max_rotate: float = 10.0,
    max_lighting: float = 0.2,
    max_warp: float = 0.0,
    p_affine: float = 0.75,
    p_lighting: float = 0.75,
    padding: Padding = "reflect",
) -> Augmentation:
    """Return the preset for pictures without an up and down, taken from above or by a microscope."""
    return Augmentation(
        dihedral=True,
        max_rotate=max_rotate,
        max_zoom=max_zoom,
        max_warp=max_warp,
        max_lighting=max_lighting,
        p_affine=p_affine,
        p_lighting=p_lighting,
        random_crop=True,
        padding=padding,
    )


def none() -> Augmentation:
    """Return the augmentation that changes nothing."""
    return Augmentation()


PRESETS = {"side-on": side_on, "top-down": top_down, "none": none}
