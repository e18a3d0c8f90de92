"""The presets: of the course, of its three libraries, and TrivialAugment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from headstart.augment.augmentation import Augmentation, Framing
from headstart.augment.warp import Padding
from headstart.errors import UsageError

GENERATIONS = ("0.7", "1", "2")


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


def from_course(
    generation: str,
    *,
    flip_vertical: bool = False,
    max_zoom: float | None = None,
    min_scale: float = 1.0,
    mult: float = 1.0,
) -> Augmentation:
    """Return what a generation of the course's library does by default: "0.7", "1" or "2".

    "0.7" (2017) is `transforms_side_on`, or with `flip_vertical` `transforms_top_down`: turns by up to
    10 degrees, brightness and contrast by 0.05 each time, and a zoom where `max_zoom` is given. "1" is
    `get_transforms()`, "2" `aug_transforms()`; `flip_vertical` adds the square's other symmetries.
    `max_zoom`: None is the library's default. `min_scale` and `mult` are those of "2": the smallest share of
    the picture's area that a crop shows, and a factor on the reach of turns, warps and light.
    """
    if generation not in GENERATIONS:
        raise UsageError(f"the course has no generation {generation!r}", "choose 0.7, 1 or 2")
    if generation != "2" and (min_scale, mult) != (1.0, 1.0):
        raise UsageError(f"generation {generation} has no min_scale and no mult", "use generation 2")
    if generation == "0.7":
        return Augmentation(
            flip_horizontal=not flip_vertical,
            dihedral=flip_vertical,
            max_rotate=10.0,
            max_zoom=1.0 if max_zoom is None else max_zoom,
            max_lighting=0.05,
            p_lighting=1.0,
            light="linear",
            random_crop=True,
        )
    return Augmentation(
        flip_horizontal=not flip_vertical,
        dihedral=flip_vertical,
        max_rotate=10.0 * mult,
        max_zoom=1.1 if max_zoom is None else max_zoom,
        max_warp=0.2 * mult,
        max_lighting=0.2 * mult,
        random_crop=True,
        framing=Framing() if min_scale == 1.0 else Framing(crop_area=(min_scale, 1.0)),
    )


def trivial(*, flip_horizontal: bool = True, padding: Padding = "reflect") -> Augmentation:
    """Return TrivialAugment: one change for each picture, drawn among fourteen, and a mirror image.

    Source: Müller and Hutter 2021, arXiv 2103.10158. It has nothing to tune, and is strong: for long
    training rather than for a few epochs.
    """
    return Augmentation(flip_horizontal=flip_horizontal, random_crop=True, padding=padding, trivial=True)


PRESETS: dict[str, Callable[..., Augmentation]] = {
    "side-on": side_on,
    "top-down": top_down,
    "none": none,
    "trivial": trivial,
    "course-0.7": partial(from_course, "0.7"),
    "course-1": partial(from_course, "1"),
    "course-2": partial(from_course, "2"),
}


def preset(name: str, *, max_zoom: float | None = None) -> Augmentation:
    """Return the preset of that name, as on the command line; `max_zoom` where it zooms at all.

    Raises `UsageError` for a name that is not in `PRESETS`.
    """
    if name not in PRESETS:
        raise UsageError(f"there is no augmentation {name!r}", f"choose from {', '.join(PRESETS)}")
    if max_zoom is None or name in ("none", "trivial"):
        return PRESETS[name]()
    return PRESETS[name](max_zoom=max_zoom)
