"""What a report shows beside the figures: slices that fare worse, heat maps of the top losses, a map.

None of it may cost a finished run: what fails, or has no time left, is left out and said in a line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.errors import HeadstartError
from headstart.evaluation import Explanation, Predictions, Slice, project, slices_of
from headstart.evaluation.report.selection import looked_at_rows
from headstart.types import Task

if TYPE_CHECKING:
    from headstart.data import Samples
    from headstart.deploy import Predictor
    from headstart.recipe.folder import RunFolder

Explain = Callable[[Sequence[int], Sequence[str]], Iterable[Explanation]]
"""From row numbers of the `Samples` and a label for each to explanations of those pictures."""

# Explained at a time: the clock is looked at in between.
AT_A_TIME = 8
# t-SNE of so many rows of 2,560 features takes 2.2 s on one core (1.1 s of 300, 4.5 s of 1,000). The two
# principal directions of all rows would take 0.1 s, and show no neighbourhoods.
MOST_ON_A_MAP = 600
_FEWEST_FOR_TSNE = 20


@contextlib.contextmanager
def left_out_if_it_fails(what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Say in one line that `what` is left out where the block fails, and why."""
    try:
        yield
    except Exception as error:  # of any body, any library: the run is finished, and must not be lost
        reason = error.message if isinstance(error, HeadstartError) else f"{type(error).__name__}: {error}"
        say(f"  ! {what} are left out: {' '.join(reason.split())[:200]}")


# ---- slices --------------------------------------------------------------------------------


def slices_in(predictions: Predictions, columns: Mapping[str, ArrayLike]) -> list[Slice]:
    """Return the slices of `columns`, one cell for each row of the `Samples`; see `slices_of`.

    Columns in which no value can be tested are left out: constant ones, and those that call nearly every
    row by a name of its own.
    """
    cells = {name: np.asarray(values, object)[predictions.rows] for name, values in columns.items()}
    differing = {name: values for name, values in cells.items() if len(set(map(str, values))) > 1}
    found = slices_of(predictions, differing)
    telling = {each.column for each in found if not np.isnan(each.p_value)}
    return [each for each in found if each.column in telling]


def as_summary(slices: Iterable[Slice]) -> list[dict[str, Any]]:
    """Return what a summary keeps of slices."""
    return [asdict(each) for each in slices]


def told_slices(slices: Sequence[Slice]) -> str:
    """Say in a few words which slices fare worse; empty where none does."""
    worse = [each for each in slices if each.worse]
    if not worse:
        return ""
    named = ", ".join(
        f"{each.column} {each.value} ({each.accuracy.value:.1%} against {each.rest_accuracy:.1%})"
        for each in worse[:3]
    )
    more = f" and {len(worse) - 3} more" if len(worse) > 3 else ""
    return f"worse than the rest: {named}{more}"


# ---- heat ----------------------------------------------------------------------------------


def save_heat(
    folder: RunFolder, table: Predictions, explain: Explain, *, in_time: Callable[[], bool] = lambda: True
) -> int:
    """Write `pictures/<row>_heat.jpg` for the top losses of `table`, worst first; returns how many.

    Explained is the class that was said, of tags the one that was judged worst; a picture in which nothing
    speaks for it has no heat, and gets no file. No more are begun once `in_time` says no.
    """
    from headstart.evaluation import rows_to_explain

    rows = rows_to_explain(table)
    labels = labels_to_explain(table, rows)
    written = 0
    for first in range(0, len(rows), AT_A_TIME):
        if not in_time():
            break
        span = slice(first, first + AT_A_TIME)
        for row, each in zip(
            rows[span].tolist(), explain(table.rows[rows[span]].tolist(), labels[span]), strict=True
        ):
            if each.heat is not None and each.heat.any():
                folder.save_picture(f"pictures/{row}_heat.jpg", each.overlay())
                written += 1
    return written


def heat_by(predictor: Predictor, samples: Samples) -> Explain:
    """Return what explains rows of `samples` by a bundle; of several networks by the mean of their maps."""
    return lambda rows, labels: predictor.explain(samples.take(list(rows)), label=labels)


def save_heat_of_bundle(
    folder: RunFolder,
    table: Predictions,
    samples: Samples,
    *,
    device: str = "auto",
    in_time: Callable[[], bool] = lambda: True,
) -> int:
    """Write heat maps as `save_heat` does, by the bundle in `folder`."""
    from headstart.deploy import load_predictor

    with load_predictor(folder / "model", device=device) as predictor:
        return save_heat(folder, table, heat_by(predictor, samples), in_time=in_time)


def labels_to_explain(table: Predictions, rows: NDArray[np.int64]) -> list[str]:
    """Return for each of `rows` the class that was said, of tags the one that was judged worst."""
    some = table.take(rows)
    if some.task is not Task.MULTI_LABEL:
        return list(some.predicted_labels())
    targets = np.asarray(some.targets)
    left_for_the_truth = np.where(targets == 1, some.probabilities, 1 - some.probabilities)
    return [table.classes[tag] for tag in left_for_the_truth.argmin(axis=1).tolist()]


def mean_heat(parts: Sequence[Sequence[Explanation]]) -> list[Explanation]:
    """Return explanations of the same pictures by several networks as one each: the mean of their heat."""
    return [
        replace(
            same[0],
            heat=np.mean([each.heat for each in same], axis=0, dtype=np.float32),
            probability=float(np.mean([each.probability for each in same])),
        )
        for same in zip(*parts, strict=True)
    ]


# ---- a map ---------------------------------------------------------------------------------


def save_map(
    folder: RunFolder, table: Predictions, features: NDArray[Any], rows: NDArray[np.int64], *, seed: int
) -> None:
    """Write `embedding.json`: a place on a plane for rows of `table`, by their features.

    `features` (some, features) and `rows`, which rows of the `Samples` they are of. On the map are rows that
    diagnoses are about, at most 600 spread over them, by t-SNE; fewer than 20 by their principal directions.
    Without any nothing is written.
    """
    about = np.flatnonzero(looked_at_rows(table))
    place = {int(row): number for number, row in enumerate(rows)}
    about = np.array([row for row in about.tolist() if int(table.rows[row]) in place], np.int64)
    if len(about) < 2:
        return
    if len(about) > MOST_ON_A_MAP:
        about = about[np.linspace(0, len(about) - 1, MOST_ON_A_MAP).round().astype(np.int64)]
    method = "tsne" if len(about) >= _FEWEST_FOR_TSNE else "pca"
    chosen = features[[place[int(row)] for row in table.rows[about]]]
    places = project(chosen, method=method, seed=seed)
    folder.save_json(
        "embedding.json",
        {
            "projection": method,
            "rows": about.tolist(),
            "x": [round(float(x), 4) for x in places[:, 0]],
            "y": [round(float(y), 4) for y in places[:, 1]],
        },
    )
