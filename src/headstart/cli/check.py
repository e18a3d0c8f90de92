"""What `headstart check` does with its flags: looks at a collection, and says what it found."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from headstart.errors import OutputError, UsageError
from headstart.types import Size, parse_size

if TYPE_CHECKING:
    from headstart.augment import Augmentation
    from headstart.cli.sources import Source
    from headstart.data import Findings, PixelCache
    from headstart.evaluation import MirrorFindings
    from headstart.evaluation.report.check import Gallery, Shot, Window
    from headstart.imagedata import ImageData
    from headstart.recipe import Body, Narrator

THUMBNAIL_SIDE = 240
MOST_SHOTS = 12
MOST_SETS = 8
MOST_IN_SET = 4

TITLES = {
    "LABEL_CONFLICT": "One picture, several labels",
    "LEAK": "In two parts at once",
    "NEAR_DUPLICATE": "Nearly the same",
    "DUPLICATE": "Byte for byte the same",
    "BLANK": "Blank",
    "TINY": "Tiny",
    "EXTREME_ASPECT": "Very long",
    "ROTATED": "Turned by their EXIF",
    "ODD_MODE": "Stored in odd ways",
}


@dataclass(frozen=True)
class CheckOptions:
    """The flags of `headstart check`, as they were given."""

    image_size: str = "224"
    resize: str = "auto"
    out: Path | None = None
    quarantine: Path | None = None
    show_augment: Path | None = None
    strict: bool = False
    as_json: bool = False
    force: bool = False
    seed: int = 0
    threads: int | None = None
    background: str = "white"


def run_check(
    source: Source,
    options: CheckOptions,
    narrator: Narrator,
    *,
    augmentation: Augmentation,
    flips: Body | None = None,
    device: str = "auto",
) -> int:
    """Look at every picture of a source once, print what was found, and write the files asked for.

    Returns 0, or 65 where `strict` is set and there is a fault. Never writes into the pictures' folder
    unless a file is asked for there. `flips`: the body to check with whether pictures may be mirrored.
    """
    from headstart.data import Colours, PixelCache, audit, findings, parse_background, write_quarantine
    from headstart.imagedata import POLICIES, ImageData, short_side_for

    size, colours = parse_size(options.image_size), Colours(parse_background(options.background))
    if options.resize not in (*POLICIES, "auto"):
        raise UsageError(f"there is no resize policy {options.resize!r}", "choose crop, squish, pad or auto")
    _refuse_existing((options.out, options.quarantine, options.show_augment), force=options.force)
    samples = replace(source, drop_empty_classes=True).read(seed=options.seed)
    cache = PixelCache(samples, short_side=short_side_for(size, 0.875, augmentation), colours=colours)
    with narrator.progress("looking at every picture") as on_progress:
        seen = audit(cache, threads=options.threads, on_progress=on_progress)
    found = findings(seen, size=size, policy=cast(Any, options.resize))
    mirrored: list[MirrorFindings] = []
    if flips is not None or options.show_augment is not None:
        data = ImageData.from_audit(
            cache,
            seen,
            image_size=size,
            augment=augmentation,
            seed=options.seed,
            threads=options.threads,
            max_bad=len(samples),
            resize=options.resize,
        )
        if options.show_augment is not None:
            _write_augmented(data, options.show_augment)
        if flips is not None:
            from headstart.recipe import probe_flips

            mirrored = probe_flips(data, flips, narrator, device=device)
    if options.quarantine is not None:
        write_quarantine(options.quarantine, found.quarantine())
    if options.out is not None:
        from headstart.evaluation.report.check import write_check_page

        write_check_page(options.out, found.to_dict(most_rows=1), tuple(galleries(found, cache)))
    if options.as_json:
        content = found.to_dict() | {"flips": [each.to_dict() for each in mirrored]}
        print(json.dumps(content, allow_nan=False))
    else:
        _print(found, mirrored, options)
    faulty = bool(found.faults) or any(each.warned for each in mirrored)
    return 65 if options.strict and faulty else 0


def _refuse_existing(paths: Iterable[Path | None], *, force: bool) -> None:
    for path in paths:
        if path is not None and path.exists() and not force:
            raise OutputError(f"{path} exists already", "choose another file, or replace it with --force")


def _write_augmented(data: ImageData, path: Path) -> None:
    import io

    from headstart.storage import write_atomic

    kind = path.suffix.lower().lstrip(".").replace("jpg", "jpeg")
    if kind not in ("jpeg", "png", "pdf", "svg"):
        raise UsageError(f"{path.name} is no name of a picture", "end it in .jpg or .png")
    stream = io.BytesIO()
    data.show_augmented().savefig(stream, format=kind, dpi=80, bbox_inches="tight")
    write_atomic(path, stream.getvalue())


def _print(found: Findings, mirrored: list[MirrorFindings], options: CheckOptions) -> None:
    from headstart.cli.tables import writable

    samples, shapes = found.audit.samples, found.shapes
    lines = [samples.describe(), *samples.notes, ""]
    for each in found.all:
        example = f" ({samples.name(each.rows[0])}{', …' if len(each.rows) > 1 else ''})" if each.rows else ""
        mark = "fault" if each.fault else ""
        lines.append(f"{mark:6} {each.code:16} {each.count:>7,}  {each.words}{example}")
    if not found.all:
        lines.append("nothing was found: every picture can be used, and none is there twice")
    if len(shapes.height):
        short = np.quantile(shapes.short_side, (0, 0.5, 1)).astype(int)
        cut = np.quantile(found.shapes.cut_away(found.size, policy=found.policy), (0.5, 0.95))
        lines += [
            "",
            f"short side {short[0]} to {short[2]}, middle {short[1]}; "
            f"nine in ten have the pixels for --image-size {shapes.suggested_size()}",
            f"resize     {found.reason}",
        ]
        if cut[1] > 0:
            lines.append(
                f"cut away   {cut[0]:.0%} of the middle picture, more than {cut[1]:.0%} of one in twenty, "
                "with the border that the weights leave out"
            )
    for finding in mirrored:
        lines += finding.lines or [f"{finding.view} pictures keep their labels, as far as one can tell"]
    written = {"page": options.out, "list": options.quarantine, "sheet": options.show_augment}
    lines += [f"{name:10} {path}" for name, path in written.items() if path is not None]
    for line in lines:
        print(writable(line))


def galleries(found: Findings, cache: PixelCache) -> Iterator[Gallery]:
    """Yield the pictures to show of each finding, and of how the collection is cut to size."""
    from headstart.evaluation.report.check import Gallery

    names = found.audit.samples.label_names()
    by_code = {each.code: each for each in found.all}
    for code, title in TITLES.items():
        if code not in by_code:
            continue
        finding = by_code[code]
        sets = tuple(
            tuple(_shot(found, cache, row, names[row]) for row in rows[:MOST_IN_SET])
            for rows in _sets(found, code)
        )
        words = f"{finding.count:,} {'picture is' if finding.count == 1 else 'pictures are'} {finding.words}."
        yield Gallery(code, title, words, sets)
    good = np.flatnonzero(found.audit.ok)
    if len(good):
        lost = found.shapes.cut_away(found.size, policy=found.policy, crop_fraction=found.crop_fraction)
        ranked = good[np.argsort(-lost, kind="stable")]
        places = np.unique(np.linspace(0, len(ranked) - 1, min(8, len(ranked))).round().astype(int))
        shots = tuple(
            _shot(found, cache, row, names[row], window=_window(found, row))
            for row in ranked[places].tolist()
        )
        reason = found.reason[:1].upper() + found.reason[1:]
        words = f"From those that lose most to those that lose least. {reason}."
        yield Gallery("SEEN", "What the network sees", words, tuple((shot,) for shot in shots))


def _sets(found: Findings, code: str) -> list[list[int]]:
    """The rows to show for a finding: sets of copies where it is about copies, else rows one by one."""
    from headstart.data.grouping import sets_of

    duplicates, split = found.duplicates, found.audit.samples.split
    if code == "LABEL_CONFLICT":
        return found.conflicts[:MOST_SETS]
    if code == "DUPLICATE":
        return sets_of(duplicates.exact)[:MOST_SETS]
    if code == "NEAR_DUPLICATE":
        return duplicates.near_sets[:MOST_SETS]
    if code == "LEAK":
        return [rows for rows in sets_of(duplicates.near) if len(set(split[rows].tolist())) > 1][:MOST_SETS]
    rows = next(each.rows for each in found.all if each.code == code)
    return [[row] for row in rows[:MOST_SHOTS]]


def _shot(found: Findings, cache: PixelCache, row: int, label: str, *, window: Window | None = None) -> Shot:
    from headstart.data import shown, thumbnail
    from headstart.evaluation.report.check import Shot

    samples, facts = found.audit.samples, found.audit.facts[row]
    words = [shown(label) or "no label", f"{facts.width} × {facts.height}"]
    if samples.split[row]:
        words.append(str(samples.split[row]))
    jpeg = thumbnail(cache.pixels(row), THUMBNAIL_SIDE) if found.audit.ok[row] else b""
    return Shot(samples.name(row), ", ".join(words), jpeg, window)


def _window(found: Findings, row: int) -> Window | None:
    """What evaluation sees of a picture: left, top, right, bottom, as shares of it."""
    if found.policy != "crop":
        return None
    height, width = int(found.audit.facts[row].height), int(found.audit.facts[row].width)
    across, down = _crop(height, width, found.size)
    across, down = across * found.crop_fraction, down * found.crop_fraction
    return ((1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2)


def _crop(height: int, width: int, size: Size) -> tuple[float, float]:
    """The shares (across, down) of the largest window of the shape of `size`."""
    ratio = (width / height) / (size[1] / size[0])
    return (min(1.0, 1 / ratio), min(1.0, ratio))
