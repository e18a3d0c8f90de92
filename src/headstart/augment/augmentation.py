"""What an augmentation may do, as numbers; and how draws within these numbers become matrices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.augment import color, geometry
from headstart.augment.color import ColorMatrices, Curves
from headstart.augment.draws import CROP_TRIES, SLOTS, Column, Draws, Slot, Tone, uniform, uniform_row
from headstart.augment.own import Own
from headstart.augment.trivial import trivial_draws
from headstart.augment.warp import Padding
from headstart.errors import ConfigError, UsageError

Light = Literal["logit", "linear"]


def _check(owner: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    for name, (low, high) in ranges.items():
        value = getattr(owner, name)
        if not low <= value <= high:
            raise UsageError(f"{name}={value} is out of range", f"it must lie in {low:g} … {high:g}")


@dataclass(frozen=True, slots=True)
class Framing:
    """How the view may be cut from the picture, beyond the turns and zooms of `Augmentation`.

    `max_squish`: the largest stretch of width against height, a factor. `max_translate`: the largest
    move, as a share of the view's longer side. `max_tilt`: how far each corner of the view may move on
    its own, in halves of its longer side (general perspective). `p`: how often each of these is applied.

    `crop_area`: (smallest, largest) share of the picture's area, for random-resized crops, which replace
    the resize policy: the area is uniform, its ratio of width to height, relative to the view's, is
    log-uniform in `crop_ratio`, and after ten tries that do not fit the largest crop that does is taken.
    Without `random_crop` it lies at the centre. Source: Szegedy et al., arXiv 1409.4842; the defaults of
    torchvision are (0.08, 1) and (3/4, 4/3).
    """

    max_squish: float = 1.0
    max_translate: float = 0.0
    max_tilt: float = 0.0
    p: float = 0.75
    crop_area: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        _check(
            self, {"max_squish": (1.0, 4.0), "max_translate": (0.0, 0.9), "max_tilt": (0.0, 0.5), "p": (0, 1)}
        )
        area, ratio = self.crop_area, self.crop_ratio
        if area is not None and not (len(area) == 2 and 0 < area[0] <= area[1] <= 1):
            raise UsageError(f"crop_area={area} is out of range", "give two shares such as (0.08, 1)")
        if not (len(ratio) == 2 and 0.1 <= ratio[0] <= ratio[1] <= 10):
            raise UsageError(f"crop_ratio={ratio} is out of range", "give two ratios such as (0.75, 1.333)")


@dataclass(frozen=True, slots=True)
class Color:
    """How far colours may be changed, beyond the lighting of `Augmentation`.

    `max_saturation` m: by a factor from 1 - m to 1 / (1 - m), log-uniform. `max_hue`: degrees either
    way. `min_bits`: the fewest bits that posterising leaves (8: off). `min_threshold`: the lowest value
    from which solarising inverts (256: off). `p`: how often each of these is applied.
    """

    max_saturation: float = 0.0
    max_hue: float = 0.0
    min_bits: int = 8
    min_threshold: int = 256
    p: float = 0.75

    def __post_init__(self) -> None:
        _check(
            self,
            {
                "max_saturation": (0.0, 0.99),
                "max_hue": (0.0, 180.0),
                "min_bits": (1, 8),
                "min_threshold": (0, 256),
                "p": (0.0, 1.0),
            },
        )


@dataclass(frozen=True, slots=True)
class PixelSteps:
    """What is done to the finished view, pixel by pixel.

    `max_blur`: the largest standard deviation of a Gaussian, in pixels of the view. `max_sharpness`: how
    far edges are softened or sharpened; 1 is as much as the difference to a 3 x 3 mean. `max_erased`: the
    largest share of the view that a box of the view's mean colour covers (Zhong et al., arXiv
    1708.04896, with a ratio of sides from 0.3 to 3.3). `p`: how often each of these is applied.
    """

    max_blur: float = 0.0
    max_sharpness: float = 0.0
    max_erased: float = 0.0
    p: float = 0.5

    def __post_init__(self) -> None:
        _check(
            self,
            {"max_blur": (0.0, 20.0), "max_sharpness": (0.0, 1.0), "max_erased": (0.0, 0.9), "p": (0.0, 1.0)},
        )


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far pictures may be changed in training; with the magnitude 0 (a zoom of 1) a change is off.

    `flip_horizontal`: mirrored half of the time. `dihedral`: one of the square's eight symmetries,
    each equally often. `max_rotate`: degrees either way. `max_zoom`: the largest enlargement.
    `max_warp`: the largest change of perspective. `max_lighting`: the largest change of brightness and
    contrast, in logit space or, with `light="linear"`, as in the course of 2017: added to the values in
    0 … 1, and around the view's mean. `p_affine`, `p_lighting`: how often each of these is applied.
    `random_crop`: the crop lies anywhere in the picture rather than at its centre. `padding`: what is
    seen beyond the picture's edge.

    `framing`, `color`, `pixels`: the rest of what can be changed. `trivial`: one change of TrivialAugment
    for each picture, in place of turns, lighting and colours. `before`: a change of one's own, made to
    the decoded picture before all others.
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
    light: Light = "logit"
    framing: Framing = Framing()
    color: Color = Color()
    pixels: PixelSteps = PixelSteps()
    trivial: bool = False
    before: Own | None = None

    def __post_init__(self) -> None:
        _check(
            self,
            {
                "max_rotate": (0.0, 180.0),
                "max_zoom": (1.0, 10.0),
                "max_warp": (0.0, 0.5),
                "max_lighting": (0.0, 0.9),
                "p_affine": (0.0, 1.0),
                "p_lighting": (0.0, 1.0),
            },
        )
        if self.padding not in ("reflect", "zeros", "edge"):
            raise UsageError(f"there is no padding {self.padding!r}", "choose reflect, zeros or edge")
        if self.light not in ("logit", "linear"):
            raise UsageError(f"there is no light {self.light!r}", "choose logit or linear")
        mixed = (self.max_rotate, self.max_lighting, self.pixels.max_sharpness, self.framing.max_translate)
        if self.trivial and (any(mixed) or self.color != Color()):
            raise UsageError(
                "a trivial augmentation draws turns, moves, light, colours and sharpness itself",
                "leave max_rotate, max_translate, max_lighting, max_sharpness and color as they are",
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values; of a change of one's own, its key."""
        plain: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Own):
                value = value.key
            elif isinstance(value, Framing | Color | PixelSteps):
                value = {
                    name: list(entry) if isinstance(entry, tuple) else entry
                    for name, entry in dataclasses.asdict(value).items()
                }
            plain[field.name] = value
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, before: Own | None = None) -> Augmentation:
        """Make an augmentation from `to_dict`'s values.

        A change of one's own cannot be written down: it is handed in again as `before`. Raises
        `ConfigError` for an unknown name, or when `before` is not the change that the values name.
        """
        given = dict(_known(values, cls, "an augmentation"))
        for name, kind in _PARTS.items():
            if name in given:
                given[name] = kind(**_part(given[name], name, kind))
        named = given.get("before")
        if named != (None if before is None else before.key):
            raise ConfigError(
                f"the augmentation was made with {named!r} as a change of one's own",
                "hand it in again as `before`, with the same key",
            )
        return cls(**{**given, "before": before})

    def draw(self, seed: int, epoch: int, sample_ids: ArrayLike) -> Draws:
        """Draw for B samples: a pure function of the arguments, each sample's apart from the others."""
        ids = np.atleast_1d(np.asarray(sample_ids, np.uint64))
        numbers = uniform(seed, epoch, ids[:, None], np.arange(SLOTS))
        drawn = self._from_numbers(numbers.T)
        for field in dataclasses.fields(Draws):
            value = drawn.get(field.name, field.default)
            if value is not None and np.ndim(value) == 0:
                drawn[field.name] = np.full(len(ids), value)
        return Draws(**drawn)

    def draw_one(self, seed: int, epoch: int, sample_id: int) -> Draws:
        """Draw for one sample, as `draw` does, bit for bit: the columns are plain numbers."""
        return Draws(**self._from_numbers(uniform_row(seed, epoch, sample_id)))

    def _from_numbers(self, numbers: Any) -> dict[str, Column]:
        """Return what differs from the default of each column; `numbers[slot]` is a number or (B,)."""

        def sometimes(whether: Slot, probability: float, slot: Slot, low: float, high: float) -> Any:
            if low == high == 0.0:
                return 0.0
            return (low + (high - low) * numbers[slot]) * (numbers[whether] < probability) + 0.0

        affine, reach = self.p_affine, self.max_warp
        drawn: dict[str, Column] = {
            "zoom": 1.0 + sometimes(Slot.WHETHER_ZOOM, affine, Slot.ZOOM, 0.0, self.max_zoom - 1.0),
            "warp_horizontal": sometimes(Slot.WHETHER_WARP, affine, Slot.WARP_HORIZONTAL, -reach, reach),
            "warp_vertical": sometimes(Slot.WHETHER_WARP, affine, Slot.WARP_VERTICAL, -reach, reach),
        }
        if self.flip_horizontal:
            drawn["flip"] = numbers[Slot.FLIP] < 0.5
        if self.dihedral:
            drawn["dihedral"] = _whole(8 * numbers[Slot.DIHEDRAL])
        if self.max_rotate:
            drawn["rotate"] = sometimes(
                Slot.WHETHER_ROTATE, affine, Slot.ROTATE, -self.max_rotate, self.max_rotate
            )
        if self.random_crop:
            drawn["right"] = 2.0 * numbers[Slot.SHIFT_RIGHT] - 1.0
            drawn["down"] = 2.0 * numbers[Slot.SHIFT_DOWN] - 1.0
        if self.max_lighting:
            drawn.update(self._light(sometimes))
        if self.framing != _PLAIN_FRAMING:
            drawn.update(_framing_draws(self.framing, numbers, sometimes))
        if self.color != _PLAIN_COLOR:
            drawn.update(_color_draws(self.color, numbers, sometimes))
        if self.pixels != _PLAIN_PIXELS:
            drawn.update(_pixel_draws(self.pixels, numbers, sometimes))
        if self.trivial:
            drawn.update(trivial_draws(numbers))
        return drawn

    def _light(self, sometimes: Any) -> dict[str, Column]:
        most, often = self.max_lighting, self.p_lighting
        brightness = sometimes(Slot.WHETHER_BRIGHTNESS, often, Slot.BRIGHTNESS, -most, most)
        if self.light == "linear":
            contrast = sometimes(Slot.WHETHER_CONTRAST, often, Slot.CONTRAST, -most, most)
            # The course's factor: 1 + c above, 1 / (1 + |c|) below.
            more = 1.0 + abs(contrast)
            factor = more * (contrast >= 0) + (1.0 / more) * (contrast < 0)
            return {"tone": int(Tone.AROUND_MEAN), "tone_factor": factor, "tone_added": 255.0 * brightness}
        softest = float(np.log1p(-most))
        contrast = sometimes(Slot.WHETHER_CONTRAST, often, Slot.CONTRAST, softest, -softest)
        return {"brightness": brightness, "contrast": contrast}

    def geometry(self, draws: Draws) -> geometry.Matrices:
        """Return what was drawn as one matrix for each sample, (B, 3, 3), without the crop's place."""
        single = not isinstance(draws.zoom, np.ndarray)
        changes = [] if draws.tilt is None else [geometry.perspective(draws.tilt)]
        for make, values, neutral in (
            (geometry.symmetric_warp, (draws.warp_horizontal, draws.warp_vertical), (0.0, 0.0)),
            (geometry.rotate, (draws.rotate,), (0.0,)),
            (geometry.shear, (draws.shear_right, draws.shear_down), (0.0, 0.0)),
            (geometry.squish, (draws.squish,), (0.0,)),
            (geometry.zoom, (draws.zoom,), (1.0,)),
            (geometry.shift, (draws.shift_right, draws.shift_down), (0.0, 0.0)),
            (geometry.dihedral, (draws.dihedral,), (0,)),
            (geometry.flip_horizontal, (draws.flip,), (False,)),
        ):
            # What changes nothing is left out: multiplying by the identity gives the same bits.
            if (values == neutral) if single else all(map(_is, values, neutral)):
                continue
            changes.append(make(*values))
        if not changes:
            return np.eye(3) if single else geometry.identity(len(draws.zoom))
        return reduce(np.matmul, changes)

    def color_matrices(self, draws: Draws) -> ColorMatrices | None:
        """Return the change of colours that was drawn, (B, 3, 4) or (3, 4), or None where there is none."""
        found = None
        for make, values, neutral in (
            (color.saturation, draws.saturation, 1.0),
            (color.hue, draws.hue, 0.0),
            (color.gain, draws.gain, 1.0),
        ):
            if not _is(values, neutral):
                made = make(values)
                found = made if found is None else color.compose(found, made)
        return found

    def curves(self, draws: Draws) -> Curves | None:
        """Return the curves that were drawn, (B, 256) or (256,), or None where there are none."""
        found = None
        if self.max_lighting and self.light == "logit":
            found = color.lighting(draws.brightness, draws.contrast)
        for make, values, neutral in (
            (color.posterise, draws.bits, 8),
            (color.solarise, draws.threshold, 256.0),
        ):
            if not _is(values, neutral):
                made = make(values)
                found = made if found is None else color.chained(found, made)
        return found


_PARTS: dict[str, type] = {"framing": Framing, "color": Color, "pixels": PixelSteps}
_PLAIN_FRAMING, _PLAIN_COLOR, _PLAIN_PIXELS = Framing(), Color(), PixelSteps()


def _whole(value: Column) -> Column:
    return value.astype(np.int64) if isinstance(value, np.ndarray) else int(value)


def _is(values: Column, neutral: object) -> bool:
    """Tell whether a column holds nothing but its neutral value."""
    if values is None or not isinstance(values, np.ndarray):
        return values is None or values == neutral
    return bool((values == neutral).all())


def _known(values: Mapping[str, Any], kind: type, what: str) -> Mapping[str, Any]:
    known = {field.name for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"{what} has no {', '.join(unknown)}", f"it has {', '.join(sorted(known))}")
    return values


def _part(values: Mapping[str, Any], name: str, kind: type) -> dict[str, Any]:
    """Return the values of a part of an augmentation, lists (as JSON has them) as tuples."""
    known = _known(values, kind, f"{name} of an augmentation")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in known.items()}


def _row_wise(numbers: Any, first: Slot, count: int) -> NDArray[np.float64]:
    """Return `count` neighbouring slots as the last axis: (count,) or (B, count)."""
    return np.moveaxis(np.asarray(numbers[first : first + count]), 0, -1)


def _framing_draws(framing: Framing, numbers: Any, sometimes: Any) -> dict[str, Column]:
    often = framing.p
    stretch, move, tilt = math.log(framing.max_squish), 2.0 * framing.max_translate, framing.max_tilt
    drawn: dict[str, Column] = {
        "squish": sometimes(Slot.WHETHER_SQUISH, often, Slot.SQUISH, -stretch, stretch),
        "shift_right": sometimes(Slot.WHETHER_TRANSLATE, often, Slot.TRANSLATE_RIGHT, -move, move),
        "shift_down": sometimes(Slot.WHETHER_TRANSLATE, often, Slot.TRANSLATE_DOWN, -move, move),
    }
    if tilt:
        corners = tilt * (2.0 * _row_wise(numbers, Slot.TILT, 8) - 1.0)
        applied = np.asarray(numbers[Slot.WHETHER_TILT] < often)
        drawn["tilt"] = (corners * applied[..., None]).reshape(*corners.shape[:-1], 4, 2)
    if framing.crop_area is not None:
        (low, high), (narrow, wide) = framing.crop_area, np.log(framing.crop_ratio)
        drawn["crop_area"] = low + (high - low) * _row_wise(numbers, Slot.CROP_AREA, CROP_TRIES)
        ratio = narrow + (wide - narrow) * _row_wise(numbers, Slot.CROP_RATIO, CROP_TRIES)
        drawn["crop_ratio"] = np.exp(ratio)
    return drawn


def _color_draws(chosen: Color, numbers: Any, sometimes: Any) -> dict[str, Column]:
    often = chosen.p
    greyest, turn = float(np.log1p(-chosen.max_saturation)), chosen.max_hue
    dropped = sometimes(Slot.WHETHER_POSTERISE, often, Slot.POSTERISE, 0.0, 9.0 - chosen.min_bits)
    drawn = {
        "saturation": np.exp(sometimes(Slot.WHETHER_SATURATION, often, Slot.SATURATION, greyest, -greyest)),
        "hue": sometimes(Slot.WHETHER_HUE, often, Slot.HUE, -turn, turn),
    }
    if chosen.min_bits < 8:
        drawn["bits"] = 8 - _whole(dropped)
    if chosen.min_threshold < 256:
        down = 256.0 - chosen.min_threshold
        drawn["threshold"] = 256.0 - sometimes(Slot.WHETHER_SOLARISE, often, Slot.SOLARISE, 0.0, down)
    return drawn


def _pixel_draws(chosen: PixelSteps, numbers: Any, sometimes: Any) -> dict[str, Column]:
    often, edge = chosen.p, chosen.max_sharpness
    drawn: dict[str, Column] = {
        "blur": sometimes(Slot.WHETHER_BLUR, often, Slot.BLUR, 0.0, chosen.max_blur),
        "sharpness": sometimes(Slot.WHETHER_SHARPNESS, often, Slot.SHARPNESS, -edge, edge),
    }
    if chosen.max_erased:
        least = min(0.02, chosen.max_erased)
        drawn["erase_area"] = sometimes(Slot.WHETHER_ERASE, often, Slot.ERASE_AREA, least, chosen.max_erased)
        drawn["erase_ratio"] = np.exp(math.log(0.3) * (1.0 - 2.0 * numbers[Slot.ERASE_RATIO]))
        drawn["erase_right"] = numbers[Slot.ERASE_RIGHT]
        drawn["erase_down"] = numbers[Slot.ERASE_DOWN]
    return drawn
