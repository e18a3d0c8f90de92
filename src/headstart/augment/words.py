"""What an augmentation may do, and what was drawn from it, in words."""

from __future__ import annotations

import math

from headstart.augment.augmentation import Augmentation
from headstart.augment.draws import Draws, Tone
from headstart.augment.prepare import TrainPrepare
from headstart.augment.view import describe_matrix
from headstart.augment.warp import shrinking, smoothing
from headstart.types import Size

_TONES = {
    Tone.AUTOCONTRAST: "contrast stretched to the full range",
    Tone.EQUALISE: "values made equally frequent",
}


def describe(augmentation: Augmentation) -> str:
    """Return what an augmentation may do, in one line."""
    framing, colors, pixels = augmentation.framing, augmentation.color, augmentation.pixels
    own = augmentation.before.key if augmentation.before else ""
    smallest = framing.crop_area[0] if framing.crop_area else 1.0
    said = (
        (own, f"{own} first"),
        (augmentation.dihedral, "turns and mirrors"),
        (augmentation.flip_horizontal and not augmentation.dihedral, "mirrors left and right"),
        (augmentation.max_rotate, f"rotates up to {augmentation.max_rotate:g}°"),
        (augmentation.max_zoom > 1, f"zooms up to {augmentation.max_zoom:g}x"),
        (augmentation.max_warp, f"warps up to {augmentation.max_warp:g}"),
        (augmentation.max_lighting, f"lights up to {augmentation.max_lighting:g}"),
        (framing.crop_area, f"shows {smallest:.0%} of a picture or more"),
        (framing.max_squish > 1, f"stretches up to {framing.max_squish:g}x"),
        (framing.max_translate, f"moves up to {framing.max_translate:.0%}"),
        (framing.max_tilt, f"tilts up to {framing.max_tilt:g}"),
        (colors.max_saturation, f"saturates up to {colors.max_saturation:g}"),
        (colors.max_hue, f"turns hues up to {colors.max_hue:g}°"),
        (colors.min_bits < 8, f"posterises down to {colors.min_bits} bits"),
        (colors.min_threshold < 256, f"solarises from {colors.min_threshold} on"),
        (pixels.max_sharpness, f"sharpens up to {pixels.max_sharpness:g}"),
        (pixels.max_blur, f"blurs up to {pixels.max_blur:g} pixels"),
        (pixels.max_erased, f"erases up to {pixels.max_erased:.0%}"),
        (augmentation.trivial, "one change of TrivialAugment each"),
    )
    words = [text for applies, text in said if applies]
    return ", ".join(words) or "none: each epoch sees the same pictures"


def drawn(draws: Draws) -> list[str]:
    """Return what was drawn for one sample, a change each; nothing where nothing changes."""
    degrees = 90 * (draws.dihedral % 4)
    said = (
        (draws.tilt is not None, "corners moved"),
        (
            draws.warp_horizontal or draws.warp_vertical,
            f"seen from the side by {draws.warp_horizontal:+.3f}, from above by {draws.warp_vertical:+.3f}",
        ),
        (draws.rotate, f"turned by {draws.rotate:+.1f}°"),
        (
            draws.shear_right or draws.shear_down,
            f"slanted by {draws.shear_right:+.3f}, {draws.shear_down:+.3f}",
        ),
        (draws.squish, f"width stretched by {math.exp(draws.squish):.3f}"),
        (draws.zoom != 1, f"enlarged by {draws.zoom:.3f}"),
        (
            draws.shift_right or draws.shift_down,
            f"moved by {draws.shift_right / 2:+.1%}, {draws.shift_down / 2:+.1%}",
        ),
        (draws.dihedral, f"turned by {degrees}°" + (", mirrored" if draws.dihedral >= 4 else "")),
        (draws.flip, "mirrored left and right"),
        (
            draws.right or draws.down,
            f"crop at {draws.right:+.2f}, {draws.down:+.2f} of what is free (0: the middle)",
        ),
        (draws.brightness, f"a middle grey becomes {0.5 * (1 + draws.brightness):.3f}"),
        (draws.contrast, f"contrast x {math.exp(draws.contrast):.3f}"),
        (draws.saturation != 1, f"saturation x {draws.saturation:.3f}"),
        (draws.hue, f"hue turned by {draws.hue:+.1f}°"),
        (draws.gain != 1, f"values x {draws.gain:.3f}"),
        (draws.bits != 8, f"posterised to {draws.bits} bits"),
        (draws.threshold != 256, f"inverted from {draws.threshold:.0f} on"),
        (
            draws.tone,
            _TONES.get(
                draws.tone, f"around the mean x {draws.tone_factor:.3f}, {draws.tone_added:+.1f} grey levels"
            ),
        ),
        (draws.sharpness, f"sharpness {draws.sharpness:+.3f}"),
        (draws.blur, f"blurred by {draws.blur:.2f} pixels"),
        (draws.erase_area, f"{draws.erase_area:.1%} erased"),
    )
    return [text for applies, text in said if applies]


def explain(prepare: TrainPrepare, picture: Size, sample_id: int, epoch: int) -> list[str]:
    """Return what `prepare` does to a decoded picture of (height, width), a line for each step."""
    augmentation = prepare.augmentation
    draws = augmentation.draw_one(prepare.seed, epoch, sample_id)
    matrix = prepare.matrices(draws, picture)
    factor = float(shrinking(matrix, prepare.size))
    sigma = float(smoothing(factor))
    size = f"{prepare.size[0]} x {prepare.size[1]}"
    colors = augmentation.color_matrices(draws)
    lines = [
        f"may      {describe(augmentation)}",
        f"drawn    {'; '.join(drawn(draws)) or 'nothing'} (seed {prepare.seed}, epoch {epoch})",
        "matrix   from output to input pixels:",
        *(f"         {row}" for row in describe_matrix(matrix)),
        f"warp     once, to {size}: {factor:.2f} input pixels for one"
        + (f", smoothed by {sigma:.2f} pixels first" if sigma else "")
        + f", {augmentation.padding} beyond the edge",
    ]
    if before := augmentation.before:
        lines.insert(0, f"own      {before.key}, on the decoded picture (sizes below are those before it)")
    if colors is not None:
        lines += ["colours  matrix:", *(f"         {row}" for row in describe_matrix(colors))]
    if augmentation.curves(draws) is not None:
        lines.append("curve    one look-up of 256 values")
    steps = ("tone", "sharpness", "blur", "erase_area")
    done = [name.partition("_")[0] for name in steps if getattr(draws, name)]
    if done:
        lines.append(f"steps    {', '.join(done)}")
    return lines
