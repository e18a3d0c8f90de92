"""Pictures and words about `ImageData`: what a person should know and see before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from headstart.augment import TrainPrepare, explain
from headstart.data import Duplicates, spelled_background
from headstart.data.colours import WHITE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from headstart.imagedata.data import ImageData


def report_lines(data: ImageData) -> list[str]:
    """Return what a person should know about the data: one line each."""
    lines = [data.summary(), *data.samples.notes]
    if data.audit is not None and len(data.audit.bad_rows):
        codes = ", ".join(f"{count} {code}" for code, count in data.audit.counts().items())
        lines.append(f"{len(data.audit.bad_rows)} pictures cannot be used and are left out: {codes}")
        lines += [f"  {data.audit.messages[row]}" for row in data.audit.bad_rows[:5].tolist()]
    if data.duplicates is not None:
        lines += _copies(data, data.duplicates)
    if data.background != WHITE:
        lines.append(f"background: transparency is laid on {spelled_background(data.background)}")
    if data.lost is not None:
        lines += data.lost.lines()
    if data.policy_reason:
        lines.append(f"resize: {data.policy_reason}")
    return lines


def _copies(data: ImageData, duplicates: Duplicates) -> list[str]:
    """Return what there is to say about pictures that are in the data more than once."""
    lines = []
    if duplicates.exact_copies:
        lines.append(f"{duplicates.exact_copies} pictures are byte for byte the same as another one")
    if duplicates.near_copies:
        lines.append(f"{duplicates.near_copies} pictures are nearly the same as another one")
    for (earlier, later), leak in duplicates.leaks(data.samples.split).items():
        lines.append(f"  {later} shares pictures with {earlier}: {leak.words}")
    conflicts = duplicates.conflicts(data.samples.labels)
    if conflicts:
        lines.append(f"{len(conflicts)} pictures are there under different labels:")
        lines += ["  " + " and ".join(map(data.samples.name, rows[:3])) for rows in conflicts[:5]]
    return lines


def explain_sample(data: ImageData, row: int, *, epoch: int = 0, augment: bool = True) -> str:
    """Return the way of one sample, a line for each step: file, decoding, matrix, warp, pixel steps."""
    file = data.samples.read(row)
    decoded = data.cache.decode(row, file)
    height, width = decoded.pixels.shape[:2]
    lines = [
        f"sample   {row}: {data.samples.name(row)}, {data.samples.split[row] or 'no split'}",
        f"label    {data.samples.label_names()[row]}",
        f"file     {decoded.format}, {len(file):,} bytes",
        f"decoded  {decoded.size[0]} x {decoded.size[1]}, upright"
        + (f", reduced to {height} x {width}" if (height, width) != decoded.size else ""),
    ]
    if augment:
        prepare = TrainPrepare(
            data.augmentation,
            data.image_size,
            data.seed,
            policy=data.policy,
            crop_fraction=data.crop_fraction,
        )
        lines += explain(prepare, (height, width), int(data.samples.ids[row]), epoch)
    else:
        size = f"{data.image_size[0]} x {data.image_size[1]}"
        lines.append(f"resize   {data.policy} to {size}, {data.crop_fraction:g} of it, {data.interpolation}")
    return "\n".join(lines)


def show_batch(data: ImageData, count: int = 9, *, augment: bool = True, epoch: int = 0) -> Figure:
    """Return a figure of training pictures as the network sees them, with their classes."""
    from headstart.evaluation import show_pictures

    source = data.with_options(batch_size=count).source("train", augment=augment, shuffle=True)
    batch = next(batch for batch in source.epoch(epoch) if len(batch))
    names = data.samples.label_names()
    titles = [names[row] for row in batch.index.tolist()]
    return show_pictures(list(np.asarray(batch.inputs)), titles)


def show_augmented(data: ImageData, count: int = 5, draws: int = 7) -> Figure:
    """Return a figure with a row for each of `count` training pictures: plain, then as training sees it.

    The pictures are spread evenly over the training part; each of the `draws` is another epoch's.
    """
    from headstart.evaluation import show_pictures

    data = data.with_options(batch_size=count)
    augmented = data.source("train", augment=True, limit=count)
    seen = [next(iter(data.source("train", limit=count).epoch(0)))]
    seen += [next(iter(augmented.epoch(epoch))) for epoch in range(draws)]
    names = data.samples.label_names()
    rows = seen[0].index.tolist()
    titles = [name for row in rows for name in (names[row], *[""] * draws)]
    pictures = [np.asarray(batch.inputs)[number] for number in range(len(rows)) for batch in seen]
    return show_pictures(pictures, titles, columns=draws + 1)
