"""From options to data: what several commands do before their own work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.cli.sources import Source
from headstart.errors import UsageError
from headstart.processes import current

if TYPE_CHECKING:
    from headstart.augment import Augmentation
    from headstart.imagedata import ImageData
    from headstart.recipe import Narrator
    from headstart.types import Size


def augmentation_named(name: str, max_zoom: float) -> Augmentation:
    """Return the preset that `--augment` names, with its zoom; raises `UsageError` for another name."""
    from headstart.augment import PRESETS, preset

    if name not in PRESETS:
        raise UsageError(f"--augment {name!r} is unknown", f"choose from {', '.join(PRESETS)}")
    return preset(name, max_zoom=max_zoom)


def batch_size_of(text: str) -> int | str:
    """Return the number of `--batch-size`, or `auto`; raises `UsageError` for anything else."""
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--batch-size {text!r} is neither a number nor auto") from None


def limit_threads(threads: int | None) -> None:
    """Hold torch to the same number of threads; it reads this when it is first imported."""
    if threads is not None:
        if threads < 1:
            raise UsageError(f"--threads {threads} is below 1")
        os.environ["OMP_NUM_THREADS"] = str(threads)


def narrator_for(quiet: bool) -> Narrator:
    """Return who tells a person what happens: on the terminal, or with `--quiet` nobody."""
    from headstart.recipe import Narrator, TerminalNarrator

    return Narrator() if quiet or not current().first else TerminalNarrator()


def read_data(
    source: Source,
    narrator: Narrator,
    *,
    image_size: str,
    augment: str,
    max_zoom: float,
    batch_size: str,
    valid: float,
    test: float,
    seed: int,
    threads: int | None,
    largest_size: Size | None = None,
    balance: str = "none",
    cache: str = "auto",
    max_bad: int | None = None,
    resize: str = "auto",
    quarantine: Path | None = None,
    corrections: Sequence[Path] = (),
    background: str = "white",
    on_error: str = "stop",
) -> ImageData:
    """Read the pictures, look at each of them, and say what a person should know."""
    from headstart.imagedata import ImageData

    samples = source.read(seed=seed)
    with current().first_before_others(), narrator.progress("looking at every picture") as on_progress:
        data = ImageData.from_samples(
            samples,
            image_size=image_size,
            augment=augmentation_named(augment, max_zoom),
            batch_size=batch_size_of(batch_size),
            valid=valid,
            test=test,
            seed=seed,
            threads=threads,
            largest_size=largest_size,
            balance=balance,  # type: ignore[arg-type]  # an unknown one is refused with the choices
            cache=cache,  # type: ignore[arg-type]
            max_bad=max_bad,
            resize=resize,
            quarantine=quarantine,
            corrections=corrections,
            background=background,
            on_error=on_error,  # type: ignore[arg-type]
            on_progress=on_progress,
        )
    for line in data.report_lines():
        narrator.say(line)
    return data
