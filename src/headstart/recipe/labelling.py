"""Which pictures to label next: of those without labels, the data's own or a folder's."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.data import PixelCache, Samples, find_duplicates
from headstart.data import audit as audit_pictures
from headstart.data.corrections import written
from headstart.data.scan import list_pictures
from headstart.errors import DataError
from headstart.evaluation import Predictions, choose_next, uncertainty
from headstart.models import fit_probe
from headstart.storage import write_atomic
from headstart.types import Task

if TYPE_CHECKING:
    from headstart.imagedata import ImageData
    from headstart.models import Engine
    from headstart.recipe.narrator import Narrator
    from headstart.recipe.suggesting import Judged

COLUMNS = ("rank", "path", "guess", "confidence", "uncertainty")


@dataclass(frozen=True, eq=False)
class ToLabel:
    """Pictures to label next, most useful first: rows of `data`, with what is guessed of each.

    `among`: how many pictures without a label there were. `predictions` and `unsure` are in the order of
    `rows`.
    """

    data: ImageData
    rows: NDArray[np.int64]
    predictions: Predictions
    unsure: NDArray[np.float64]
    among: int

    def write(self, path: Path) -> None:
        """Write the list as CSV: rank, path, guess, its probability, and the uncertainty."""
        text = io.StringIO(newline="")
        table = csv.writer(text, lineterminator="\r\n")
        table.writerow(COLUMNS)
        for number, row in enumerate(self.rows.tolist()):
            place = written(self.data.samples.place(row))
            figures = (f"{self.predictions.confidence[number]:.3f}", f"{self.unsure[number]:.3f}")
            table.writerow([number + 1, place, self.guess(number), *figures])
        write_atomic(path, text.getvalue().encode("utf-8-sig", errors="backslashreplace"))

    def guess(self, number: int) -> str:
        """Return what the probe says of the picture at a place of the list; of tags the likelier ones."""
        chances = self.predictions.probabilities[number]
        if self.data.task is Task.SINGLE_LABEL:
            return written(self.data.classes[int(chances.argmax())])
        return "|".join(written(self.data.classes[tag]) for tag in np.flatnonzero(chances >= 0.5).tolist())


def unlabelled_rows(data: ImageData) -> NDArray[np.int64]:
    """Return the rows of the data that have no label; of tags there are none such."""
    if data.task is Task.MULTI_LABEL:
        return np.zeros(0, np.int64)
    return np.flatnonzero(data.samples.labels < 0).astype(np.int64)


def read_unlabelled(data: ImageData, folder: Path, narrator: Narrator) -> ImageData:
    """Return the usable pictures of a folder and below, without labels, as test part of data like `data`.

    Raises `InputMissingError` where there are none, `DataError` NO_USABLE_IMAGES where none can be used.
    """
    root, paths, skipped = list_pictures(folder)
    tags = data.task is Task.MULTI_LABEL
    labels: NDArray[Any] = (
        np.zeros((len(paths), len(data.classes)), np.uint8) if tags else np.full(len(paths), -1, np.int64)
    )
    samples = Samples(
        root=root,
        paths=tuple(paths),
        labels=labels,
        classes=data.classes,
        split=np.full(len(paths), "test", "<U5"),
        task=data.task,
        skipped=dict(sorted(skipped.items())),
    )
    cache = PixelCache(samples, short_side=data.cache.short_side, colours=data.cache.colours)
    with narrator.progress("looking at pictures without labels") as on_progress:
        seen = audit_pictures(cache, threads=data.threads, on_progress=on_progress)
    usable = np.flatnonzero(seen.ok)
    if not len(usable):
        counts = ", ".join(f"{count} {code}" for code, count in seen.counts().items())
        raise DataError(f"no picture in {root} can be used: {counts}", code="NO_USABLE_IMAGES")
    return replace(
        data,
        samples=samples.take(usable),
        cache=cache.take(usable),
        audit=seen,
        duplicates=find_duplicates(seen).take(usable),
        pool=None,
        lost=None,
        _resident={},
    )


def choose_to_label(
    judged: Judged,
    pool: ImageData,
    rows: NDArray[np.int64],
    engine: Engine,
    identity: str,
    *,
    count: int,
    narrator: Narrator,
) -> ToLabel:
    """Choose `count` of the `rows` of `pool` to label next: see `evaluation.choose_next`.

    All `rows` are of the test part of `pool`. A probe on all labelled pictures says how unsure each is.
    """
    with narrator.progress("looking at pictures without labels") as on_progress:
        known = pool.activations("test", engine, identity, on_progress=on_progress)
    wanted = np.isin(known.index, rows)
    features, index = known.features[wanted], known.index[wanted]
    samples = judged.data.samples
    probe = fit_probe(
        judged.features,
        samples.labels[judged.rows],
        len(samples.classes),
        seed=judged.data.seed,
        groups=judged.groups,
    )
    told = Predictions(probe.logits(features), samples.classes, samples.task)
    unsure = uncertainty(told)
    chosen = choose_next(features, unsure, count, labelled=judged.features)
    return ToLabel(pool, index[chosen], told.take(chosen), unsure[chosen], len(index))
