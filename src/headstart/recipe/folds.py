"""A fold ensemble: as many runs as folds, each tested on the fold that it never saw, together in one bundle.

The pictures are spread over k folds. Run i keeps fold i aside as its test part, and trains, chooses and
calibrates on the rest as any run does. So every picture is predicted once by a model that it had no part
in, and the figures of these predictions are honest; the ensemble of all k has seen every picture. What the
frozen body sees is computed once for all of them.
"""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headstart.data import folds as spread_over_folds
from headstart.data import merge_groups, split_samples
from headstart.errors import ConfigError, HeadstartError, StoppedError, UsageError
from headstart.imagedata import FeaturePool, ImageData
from headstart.models import weights_identity
from headstart.processes import current
from headstart.recipe.body import Body
from headstart.recipe.clock import Clock
from headstart.recipe.ensemble import FoldRun, put_together
from headstart.recipe.folder import RunFolder
from headstart.recipe.journal import Journal, Origin, Saving
from headstart.recipe.narrator import Narrator
from headstart.recipe.probing import engine_of
from headstart.recipe.result import Result
from headstart.recipe.steps import EightSteps
from headstart.storage import read_json
from headstart.training import Plan
from headstart.training.interrupts import stopped_by

MOST_FOLDS = 20
# A source may validate on a third of its pictures; a model that is to know k - 1 folds cannot spare so many.
MOST_VALID = 0.2
MARK = "folds.json"
"""The file by which a folder is known as that of a fold ensemble, from its first moment on."""


@dataclass(frozen=True)
class FoldOptions:
    """What each fold's run is told beside data and plan; see `EightSteps`.

    `origin` is how the data of the ensemble is found again.
    """

    count: int
    rate_ratio: float | None = None
    metric: str | None = None
    device: str = "auto"
    origin: Origin = field(default_factory=Origin)
    saving: Saving = field(default_factory=Saving)

    def __post_init__(self) -> None:
        if not 2 <= self.count <= MOST_FOLDS:
            raise UsageError(f"{self.count} folds", f"give a number from 2 to {MOST_FOLDS}, such as 5")


def train_folds(
    data: ImageData,
    plan: Plan,
    body: Body,
    folder: RunFolder,
    narrator: Narrator,
    options: FoldOptions,
    *,
    clock: Clock,
) -> Result:
    """Train a model for each fold and put them together; goes on where an earlier call was stopped.

    Folds that are finished in `folder` are not trained again. Each takes its equal share of what is left
    of the budget of `clock`. An interrupted fold ends the call with that fold's `Result`. Raises
    `UsageError` for a plan that makes an ensemble in each fold, and of several processes; `DataError` where
    there are fewer pictures than folds.
    """
    refuse_several()
    if plan.settings.snapshots == "ensemble":
        raise UsageError("an ensemble of ensembles", "with folds leave snapshots at none, or take a soup")
    with folder.locked():
        journal = _begin(data, plan, body, folder, narrator, options, clock)
        division = _Division.of(data, options.count)
        data = _look_once(data, plan, body, folder, narrator, options)
        results: list[FoldRun] = []
        for number in range(options.count):
            path = folder / "folds" / str(number + 1)
            own = division.data(data, number)
            if _is_finished(path, own, plan, body):
                narrator.say(f"  fold {number + 1} of {options.count} is done already")
            else:
                narrator.say(f"\n  fold {number + 1} of {options.count}: {own.summary()}")
                left = clock.left() / (options.count - number)
                budget = None if clock.budget is None else max(1.0, left)
                result = _train_fold(path, own, plan, body, narrator, options, budget, folder.path)
                if result.stop_signal is not None:
                    narrator.say(f"  stopped in fold {number + 1} of {options.count}")
                    return replace(result, folder=folder.path)
            results.append(FoldRun.read(path, own, division.held_out(number)))
        made = put_together(data, plan, body, folder, narrator, results, clock, device=options.device)
        journal.end()
    return made


def go_on_with_folds(journal: Journal, data: ImageData, narrator: Narrator) -> Result:
    """Go on with an ensemble that ended before its time, with data that is ready.

    What its folds have taken counts towards its budget. Raises what `train_folds` does.
    """
    assert journal.folds is not None
    told = journal.said
    options = FoldOptions(
        journal.folds, told["rate_ratio"], told["metric"], told["device"], journal.origin, journal.saving
    )
    plan = Plan.from_yaml(read_json(journal.path / MARK)["plan"])
    spent = sum(_spent(journal.path / "folds" / str(number + 1)) for number in range(journal.folds))
    clock = Clock(told["budget"], spent)
    folder = RunFolder(journal.path, goes_on=True)
    return train_folds(data, plan, journal.body, folder, narrator, options, clock=clock)


def _spent(path: Path) -> float:
    """Return the seconds that a fold has taken so far, as far as it is known."""
    with contextlib.suppress(HeadstartError, OSError):
        if (path / "summary.json").is_file():
            return float(read_json(path / "summary.json").get("seconds") or 0.0)
        found = Journal.read(path).find()
        return 0.0 if found is None else float(found.extra["elapsed"])
    return 0.0


def refuse_several() -> None:
    """Raise `UsageError` where several processes were started: the folds are trained in one."""
    if not current().alone:
        raise UsageError(
            "the folds of an ensemble are trained in one process", "leave torchrun or --folds out"
        )


def _train_fold(
    path: Path,
    data: ImageData,
    plan: Plan,
    body: Body,
    narrator: Narrator,
    options: FoldOptions,
    budget: float | None,
    ensemble: Path,
) -> Result:
    """Run the recipe for one fold, from where an earlier process was in it if it is the very same run.

    Where SIGTERM ends it, it is the `ensemble` that is gone on with.
    """
    journal = _begun(path, data, plan, body)
    steps = EightSteps(
        data,
        plan,
        body,
        RunFolder(path, replace=journal is None, goes_on=journal is not None),
        narrator,
        clock=Clock(budget),
        rate_ratio=options.rate_ratio,
        metric=options.metric,
        device=options.device,
        saving=options.saving,
    )
    try:
        return steps.run(journal)
    except StoppedError as error:
        if error.exit_code != 128 + signal.SIGTERM:
            raise
        raise stopped_by(signal.SIGTERM, ensemble) from error


def _begun(path: Path, data: ImageData, plan: Plan, body: Body) -> Journal | None:
    """Return the journal of a fold that was begun with these pictures, this plan and this body, if it was."""
    with contextlib.suppress(HeadstartError):
        journal = Journal.read(path)
        same = (
            journal.plan == plan.stretched(data.image_size)
            and journal.body.arch == body.arch
            and not journal.changes(data)
        )
        if same and not journal.complete:
            journal.find()
            return journal
    return None


def goes_on(path: Path) -> bool:
    """Say whether a folder holds a fold ensemble that was begun and not finished."""
    return (path / MARK).is_file() and not (path / "summary.json").is_file()


def _begin(
    data: ImageData,
    plan: Plan,
    body: Body,
    folder: RunFolder,
    narrator: Narrator,
    options: FoldOptions,
    clock: Clock,
) -> Journal:
    """Write down what the ensemble is begun with, or check that it was begun with this."""
    terms = {"folds": options.count, "arch": body.arch, "plan": plan.to_yaml()}
    if folder.goes_on:
        before = read_json(folder / MARK)
        if before != terms:
            raise ConfigError(
                f"{folder.path} was begun with another number of folds, another body or another plan",
                "go on with those, or start again with --force",
            )
    else:
        folder.begin()
        folder.save_json(MARK, terms)
    steps = EightSteps(
        data,
        plan,
        body,
        folder,
        narrator,
        clock=clock,
        rate_ratio=options.rate_ratio,
        metric=options.metric,
        device=options.device,
        origin=options.origin,
        saving=options.saving,
    )
    return Journal.begin(steps, folds=options.count)


def _look_once(
    data: ImageData, plan: Plan, body: Body, folder: RunFolder, narrator: Narrator, options: FoldOptions
) -> ImageData:
    """Send every picture through the frozen body once, for all folds; return data that know the outcome."""
    if body.from_scratch:
        return data
    samples = data.samples
    every = np.where(samples.split == "", "", "train")
    whole = data.with_options(samples=samples.with_split(every), pool=FeaturePool())
    looking = EightSteps(whole, plan, body, folder, narrator, clock=Clock(), device=options.device)
    identity = weights_identity(body.arch, body.weights)
    engine = engine_of(looking, identity)
    with narrator.progress("looking at every picture") as on_progress:
        looking.data.activations("train", engine, identity, on_progress=on_progress)
    return looking.data.with_options(samples=samples)


@dataclass(frozen=True, eq=False)
class _Division:
    """Which fold each row is in (-1: none), and what every fold's own split needs."""

    fold: NDArray[np.int64]
    groups: NDArray[np.int64] | None
    valid: float

    @classmethod
    def of(cls, data: ImageData, count: int) -> _Division:
        samples = data.samples
        near = None if data.duplicates is None else data.duplicates.near
        groups = merge_groups(samples.group, near)
        rows = np.flatnonzero(np.isin(samples.split, ("train", "valid")))
        column = groups if len(groups) else None
        own = None if column is None else column[rows]
        fold = np.full(len(samples), -1, np.int64)
        fold[rows] = spread_over_folds(samples.take(rows), count, seed=data.seed, groups=own)
        return cls(fold, column, min(MOST_VALID, len(data.rows("valid")) / max(1, len(rows))))

    def held_out(self, number: int) -> NDArray[np.int64]:
        return np.flatnonzero(self.fold == number)

    def data(self, data: ImageData, number: int) -> ImageData:
        """Return the data of one fold: it is the test part, and the validation part is cut from the rest."""
        split = np.where(self.fold == number, "test", np.where(self.fold >= 0, "", data.samples.split))
        samples = split_samples(
            data.samples.with_split(split), valid=self.valid, seed=data.seed, groups=self.groups
        )
        return data.with_options(samples=samples)


def _is_finished(path: Path, data: ImageData, plan: Plan, body: Body) -> bool:
    """Say whether a fold's run is whole, and of these very pictures, this plan and this body."""
    from headstart.deploy import read_manifest

    with contextlib.suppress(HeadstartError, OSError):
        if read_json(path / "summary.json").get("stop_reason") != "":
            return False
        manifest = read_manifest(path / "model")
        same = manifest.data == data.samples.fingerprint() and manifest.members[0].arch == body.arch
        return same and (path / "plan.yaml").read_text("utf-8") == plan.to_yaml()
    return False
