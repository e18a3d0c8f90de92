"""From networks, views and what was said of them to explanations: where each network finds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headstart.errors import UsageError
from headstart.evaluation import Explanation, Predictions
from headstart.faults import in_parts
from headstart.types import Batch, Pixels, Task

if TYPE_CHECKING:
    from headstart.models import Classifier


def explained(
    models: Sequence[Classifier],
    views: Sequence[Pixels | None],
    predictions: Predictions,
    *,
    label: str | Sequence[str] | None = None,
    method: str = "auto",
    batch_size: int = 32,
) -> list[Explanation]:
    """Return an `Explanation` of each row of `predictions`.

    `views`: the pictures as the networks take them, uint8 (height, width, 3), one for each row, None where
    there is none. `label`: the class or tag to explain, or one for each row (None: the most probable one of
    each). Of several `models` the maps are averaged. Raises `UsageError` for a label or a method that is not
    there.
    """
    from headstart.models import method_for

    check_labels(label, predictions.classes)
    chosen = method_for(models[0]) if method == "auto" else method
    rows = [row for row, view in enumerate(views) if view is not None and predictions.predicted_rows[row]]
    numbers = _classes(predictions, rows, label)
    found = [_nothing(predictions, row) for row in range(len(predictions))]
    for first in range(0, len(rows), batch_size):
        some = rows[first : first + batch_size]
        pixels = np.stack([view for row in some if (view := views[row]) is not None])
        classes = numbers[first : first + batch_size]
        maps = np.stack([_heat(model, pixels, classes, chosen) for model in models])
        heat = np.asarray(maps.mean(axis=0), np.float32)
        for place, row in enumerate(some):
            number = int(classes[place])
            found[row] = Explanation(
                path=found[row].path,
                index=found[row].index,
                label=predictions.classes[number],
                probability=float(predictions.probabilities[row, number]),
                prediction=found[row].prediction,
                truth=found[row].truth,
                method=chosen,
                view=pixels[place],
                heat=heat[place],
            )
    return found


def check_labels(label: str | Sequence[str] | None, classes: Sequence[str]) -> None:
    """Raise `UsageError` where a label to explain is none of the classes."""
    for name in [label] if isinstance(label, str) else label or ():
        if name not in classes:
            raise UsageError(f"there is no class {name!r}", f"classes are {', '.join(classes[:12])}")


def _classes(
    predictions: Predictions, rows: Sequence[int], label: str | Sequence[str] | None
) -> NDArray[np.int64]:
    if isinstance(label, str):
        return np.full(len(rows), predictions.classes.index(label), np.int64)
    if label is not None:
        return np.array([predictions.classes.index(label[row]) for row in rows], np.int64)
    return np.asarray(np.nan_to_num(predictions.probabilities[rows], nan=-1.0).argmax(axis=1), np.int64)


def _nothing(predictions: Predictions, row: int) -> Explanation:
    """What there is to say of a row without its heat."""
    one = predictions.take([row])
    tags = predictions.task is Task.MULTI_LABEL
    said, truth = (_spelled(one, tags=tags, said=said) for said in (True, False))
    return Explanation(
        path="" if one.paths is None else one.paths[0],
        index=int(one.rows[0]),
        prediction=said,
        truth=truth,
        status=str(one.statuses[0]),
    )


def _spelled(one: Predictions, *, tags: bool, said: bool) -> str:
    """The prediction or the truth of a row in words; empty where unknown."""
    if not tags:
        return (one.predicted_labels() if said else one.labels())[0]
    values = one.predicted if said else one.targets
    if values is None or not one.predicted_rows[0]:
        return ""
    return ", ".join(one.classes[number] for number in np.flatnonzero(values[0])) or "no tag"


def _heat(
    model: Classifier, pixels: NDArray[np.uint8], classes: NDArray[np.int64], method: str
) -> NDArray[np.float32]:
    """Return the heat of a batch, in smaller parts where memory runs out."""
    from headstart.models import heat_maps

    def of_parts(parts: list[Batch]) -> NDArray[np.float32]:
        found = [heat_maps(model, np.asarray(p.inputs), np.asarray(p.targets), method=method) for p in parts]
        return np.concatenate(found)

    whole = Batch(pixels, classes, np.arange(len(pixels)))
    return in_parts(of_parts, whole, model.pixel_mean.device, fits={}, key="heat")
