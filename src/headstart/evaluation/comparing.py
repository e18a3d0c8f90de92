"""Two runs on the same pictures: which is better, or that these pictures cannot tell.

The pictures that both runs kept aside are found again by their names and, where the runs are of different
folders, by their bytes. Then the figures are compared picture by picture: what is hard for both cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ConfigError, HeadstartError, InputMissingError, UsageError
from headstart.evaluation.doubts import smallest_difference
from headstart.evaluation.metrics import Gain, Interval, interval, metric, paired
from headstart.evaluation.mirror import sign_test
from headstart.evaluation.predictions import Predictions
from headstart.storage import read_json, sha256_file
from headstart.types import Task

SURE = 0.05
"""The exact test's level: the chance of a verdict where there is no difference."""

PARTS = ("test", "valid")


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a run says of the pictures that it kept aside.

    `name` is what a person calls it; `root` the folder that the paths are relative to, "" where unknown;
    `metric` what the run was judged by.
    """

    name: str
    predictions: Predictions
    root: str = ""
    metric: str = "accuracy"


@dataclass(frozen=True)
class Comparison:
    """One figure of two runs on the same pictures.

    `before` and `after` are the first and the second run's; `gain` is positive where the second is
    better, whichever way the metric counts. `chance`: of shares of right answers, how probable such a
    difference is where there is none (exact McNemar test, two-sided); else None.
    """

    metric: str
    pictures: int
    before: Interval
    after: Interval
    gain: Gain
    chance: float | None = None

    @property
    def verdict(self) -> str:
        """ "better", "worse" (the second run) or "cannot tell with 160 pictures"."""
        said = self.gain.verdict
        unsure = self.chance is not None and self.chance >= SURE
        if said == "cannot tell" or unsure:
            return f"cannot tell with {self.pictures:,} picture{'' if self.pictures == 1 else 's'}"
        return said

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, with None for what is undefined."""
        return {
            "metric": self.metric,
            "pictures": self.pictures,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "gain": self.gain.to_dict(),
            "chance": self.chance,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Compared:
    """All figures of two runs on the pictures that they share.

    `part` is what the pictures are to both: "test", or "valid" where one of them chose by them. `notes`:
    what a person should know.
    """

    names: tuple[str, str]
    part: str
    pictures: int
    figures: tuple[Comparison, ...]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """The verdict by the first figure, which is what the runs are judged by."""
        return self.figures[0].verdict

    @property
    def smallest(self) -> float:
        """The least difference in accuracy, 0 … 1, that so many pictures can tell from chance."""
        return smallest_difference(self.pictures)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {
            "runs": list(self.names),
            "part": self.part,
            "pictures": self.pictures,
            "verdict": self.verdict,
            "metric": self.figures[0].metric,
            "smallest_difference": self.smallest,
            "figures": [each.to_dict() for each in self.figures],
            "notes": list(self.notes),
        }


def read_held_out(folder: Path) -> HeldOut:
    """Read the predictions of a run's folder, or of one that `headstart evaluate --out` wrote.

    Raises `InputMissingError` where it holds none, `ConfigError` where they cannot be read.
    """
    table, summary = folder / "predictions.csv", folder / "summary.json"
    if not table.is_file() or not summary.is_file():
        lacking = table.name if not table.is_file() else summary.name
        raise InputMissingError(
            f"{folder} is not the folder of a finished run: it has no {lacking}",
            "give the folder that train wrote, or evaluate --out",
        )
    told = read_json(summary)
    data = told.get("data") if isinstance(told, dict) else None
    if not isinstance(data, dict):
        raise ConfigError(f"{summary} is not the summary of a run", "give the folder that train wrote")
    try:
        task = Task(data.get("task") or Task.SINGLE_LABEL)
    except ValueError as error:
        raise ConfigError(f"{summary}: {error}") from error
    asked = told.get("metric") or ("f2" if task is Task.MULTI_LABEL else "accuracy")
    return HeldOut(
        str(folder), Predictions.from_csv(table, task=task), str(data.get("root") or ""), str(asked)
    )


def compare(one: HeldOut, other: HeldOut, metrics: Sequence[str] | None = None) -> Compared:
    """Compare the second run with the first on the pictures that both kept aside.

    `metrics`: what to compare, the verdict's first (default: what the first run was judged by, then
    accuracy or macro F1, and the log loss). Test pictures of both are taken where there are any in common,
    else all that neither trained on. Raises `UsageError` where the runs are about other classes, or share
    no picture, naming what each has.
    """
    first, second = one.predictions.scored(), _with_classes_of(one, other).scored()
    places, notes = _shared(replace(one, predictions=first), replace(other, predictions=second))
    part, places = _part(first, second, places)
    before, after = first.take(places[0]), second.take(places[1])
    same = _same_truth(before, after)
    if not same.all():
        notes += (f"{int((~same).sum())} pictures have another label in one of the runs: left out",)
    if not same.any():
        raise UsageError("every picture that the runs share has another label in each of them")
    before, after = _aligned(before.take(same), after.take(same))
    if part == "valid":
        notes += (
            "one of the runs may have been chosen by these pictures, as by those that validate it: keep a "
            "test part aside (--test 0.15) for a verdict that they had no part in",
        )
    standard = ("macro_f1", "log_loss") if first.task is Task.MULTI_LABEL else ("accuracy", "log_loss")
    names = tuple(dict.fromkeys(metrics or (one.metric, *standard)))
    figures = tuple(compare_predictions(before, after, name) for name in names)
    return Compared((one.name, other.name), part, len(before), figures, notes)


def compare_predictions(before: Predictions, after: Predictions, name: str) -> Comparison:
    """Compare one figure of two tables of the same rows.

    By the paired bootstrap; shares of right answers must pass McNemar's exact test (1947) as well: with
    five pictures that only one of two gets right, all one way, the bootstrap is sure and the exact test,
    rightly, is not. Raises `UsageError` unless both hold the same rows.
    """
    gain = paired(before, after, name)
    chosen, chance = metric(name), None
    if chosen.proportion and chosen.rows is not None and before.task is Task.SINGLE_LABEL:
        usable = before.scored_rows & after.scored_rows
        rows = [chosen.rows(table.take(usable))[:, 0] > 0.5 for table in (before, after)]
        only = sorted((int((rows[0] & ~rows[1]).sum()), int((rows[1] & ~rows[0]).sum())))
        chance = min(1.0, 2 * sign_test(only[1], only[0]))
    both = int((before.scored_rows & after.scored_rows).sum())
    return Comparison(name, both, interval(before, name), interval(after, name), gain, chance)


def _with_classes_of(one: HeldOut, other: HeldOut) -> Predictions:
    """Return the second run's predictions with its classes in the order of the first."""
    first, second = one.predictions, other.predictions
    if first.task is not second.task or set(first.classes) != set(second.classes):
        ours = sorted(set(first.classes) - set(second.classes))
        theirs = sorted(set(second.classes) - set(first.classes))
        only = ((one.name, ours), (other.name, theirs))
        told = [f"{name} alone has {', '.join(names[:5])}" for name, names in only if names]
        raise UsageError(
            f"the runs are about different classes: {'; '.join(told) or 'one is of tags'}",
            "compare runs that were trained on the same classes",
        )
    if first.classes == second.classes:
        return second
    places = np.array([second.classes.index(name) for name in first.classes])
    targets = second.targets
    if targets is not None:
        tags = second.task is Task.MULTI_LABEL
        renumbered = np.append(np.argsort(places), -1)
        targets = targets[:, places] if tags else renumbered[targets]
    thresholds = None if second.thresholds is None else second.thresholds[..., places]
    return replace(
        second,
        logits=second.logits[:, places],
        classes=first.classes,
        targets=targets,
        thresholds=thresholds,
        sets=None if second.sets is None else second.sets[:, places],
    )


def _shared(one: HeldOut, other: HeldOut) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the places (2, pictures) of the pictures that both have, and what to say of how they were found.

    Equal paths are the same picture where both runs are of one folder. Where they are of two, the bytes
    decide; where those cannot be read any more, equal paths stand for them.
    """
    names = [list(run.predictions.paths or ()) for run in (one, other)]
    notes: tuple[str, ...] = ()
    if one.root != other.root:
        contents = [_contents(run) for run in (one, other)]
        if None not in contents:
            names = [list(known or ()) for known in contents]
        else:
            notes = ("the pictures cannot be read any more: those of the same name were taken for the same",)
    known = {name: place for place, name in reversed(list(enumerate(names[0]))) if name}
    used: set[int] = set()
    pairs = []
    for place, name in enumerate(names[1]):
        twin = known.get(name, -1)
        if twin >= 0 and twin not in used:
            used.add(twin)
            pairs.append((twin, place))
    if not pairs:
        counts = [f"{run.name} has {len(run.predictions)}" for run in (one, other)]
        raise UsageError(
            f"the runs share no picture that both kept aside: {', '.join(counts)}",
            "train both on the same folder with the same --seed, --valid and --test, or evaluate both models "
            "on one folder of labelled pictures: headstart evaluate MODEL DIR --out OUT",
        )
    return np.array(pairs, np.int64).T, notes


def _contents(run: HeldOut) -> list[str] | None:
    """Return the SHA-256 of each picture's file, or None where one cannot be read."""
    try:
        return [sha256_file(Path(run.root) / path) for path in run.predictions.paths or ()]
    except (OSError, HeadstartError):
        return None


def _part(
    first: Predictions, second: Predictions, places: NDArray[np.int64]
) -> tuple[str, NDArray[np.int64]]:
    """Return the part that is compared, and the places of its pictures: those that tested both, if any."""
    if first.split is None or second.split is None:
        return "test", places
    tested = (first.split[places[0]] != "valid") & (second.split[places[1]] != "valid")
    return ("test", places[:, tested]) if tested.any() else ("valid", places)


def _same_truth(before: Predictions, after: Predictions) -> NDArray[np.bool_]:
    same = np.asarray(before.targets) == np.asarray(after.targets)
    return np.asarray(same if same.ndim == 1 else same.all(axis=1))


def _aligned(before: Predictions, after: Predictions) -> tuple[Predictions, Predictions]:
    """Give rows that are the same picture the same number; the first table's order stays."""
    rows = np.arange(len(before))
    return replace(before, index=rows), replace(after, index=rows)
