"""A fold ensemble: as many runs as folds, each tested on the fold that it never saw, together in one bundle.

The pictures are spread over k folds. Run i keeps fold i aside as its test part, and trains, chooses and
calibrates on the rest as any run does. So every picture is predicted once by a model that it had no part
in, and the figures of these predictions are honest; the ensemble of all k has seen every picture. What the
frozen body sees is computed once for all of them.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.data import folds as spread_over_folds
from headstart.data import merge_groups, split_samples
from headstart.errors import ConfigError, HeadstartError, UsageError
from headstart.evaluation import Interval, Predictions, average, concatenate, interval
from headstart.imagedata import FeaturePool, ImageData
from headstart.models import weights_identity
from headstart.recipe.body import Body
from headstart.recipe.clock import Clock
from headstart.recipe.finish import summary_of_folds
from headstart.recipe.folder import RunFolder
from headstart.recipe.journal import Journal
from headstart.recipe.narrator import Narrator
from headstart.recipe.probing import engine_of
from headstart.recipe.result import Result, StepResult
from headstart.recipe.steps import EightSteps
from headstart.storage import read_json
from headstart.training import Plan
from headstart.types import Task

if TYPE_CHECKING:
    from headstart.deploy import Bundle

MOST_FOLDS = 20
# A source may validate on a third of its pictures; a model that is to know k - 1 folds cannot spare so many.
MOST_VALID = 0.2
MARK = "folds.json"
"""The file by which a folder is known as that of a fold ensemble, from its first moment on."""


@dataclass(frozen=True)
class FoldOptions:
    """What each fold's run is told beside data and plan; see `EightSteps`."""

    count: int
    rate_ratio: float | None = None
    metric: str | None = None
    device: str = "auto"

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
    `UsageError` for a plan that makes an ensemble in each fold, `DataError` where there are fewer
    pictures than folds.
    """
    if plan.settings.snapshots == "ensemble":
        raise UsageError("an ensemble of ensembles", "with folds leave snapshots at none, or take a soup")
    _begin(folder, plan, body, options)
    division = _Division.of(data, options.count)
    data = _look_once(data, plan, body, folder, narrator, options)
    results: list[_Fold] = []
    for number in range(options.count):
        path = folder / "folds" / str(number + 1)
        own = division.data(data, number)
        if _is_finished(path, own, plan, body):
            narrator.say(f"  fold {number + 1} of {options.count} is done already")
        else:
            narrator.say(f"\n  fold {number + 1} of {options.count}: {own.summary()}")
            left = clock.left() / (options.count - number)
            budget = None if clock.budget is None else max(1.0, left)
            result = _train_fold(path, own, plan, body, narrator, options, budget)
            if result.stop_signal is not None:
                narrator.say(f"  stopped in fold {number + 1}: the same command again goes on from there")
                return result
        results.append(_Fold.read(path, own, division.held_out(number)))
    return _together(data, plan, folder, narrator, results, clock)


def _train_fold(
    path: Path,
    data: ImageData,
    plan: Plan,
    body: Body,
    narrator: Narrator,
    options: FoldOptions,
    budget: float | None,
) -> Result:
    """Run the recipe for one fold, from where an earlier process was in it if it is the very same run."""
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
    )
    return steps.run(journal)


def _begun(path: Path, data: ImageData, plan: Plan, body: Body) -> Journal | None:
    """Return the journal of a fold that was begun with these pictures, this plan and this body, if it was."""
    with contextlib.suppress(HeadstartError):
        journal = Journal.read(path)
        same = journal.plan == plan and journal.body.arch == body.arch and not journal.changes(data)
        if same and not journal.complete:
            journal.find()
            return journal
    return None


def goes_on(path: Path) -> bool:
    """Say whether a folder holds a fold ensemble that was begun and not finished."""
    return (path / MARK).is_file() and not (path / "summary.json").is_file()


def _begin(folder: RunFolder, plan: Plan, body: Body, options: FoldOptions) -> None:
    terms = {"folds": options.count, "arch": body.arch, "plan": plan.to_yaml()}
    if folder.goes_on:
        before = read_json(folder / MARK)
        if before != terms:
            raise ConfigError(
                f"{folder.path} was begun with another number of folds, another body or another plan",
                "go on with those, or start again with --force",
            )
        return
    folder.begin()
    folder.save_json(MARK, terms)


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


@dataclass(frozen=True, eq=False)
class _Fold:
    """What a fold's run left: its summary, and how it predicts what it never saw."""

    path: Path
    summary: dict[str, Any]
    held_out: Predictions
    test: Predictions | None
    probe: Predictions | None

    @classmethod
    def read(cls, path: Path, data: ImageData, held_out: NDArray[np.int64]) -> _Fold:
        rows = data.rows("test")
        own = np.isin(rows, held_out)
        table = _read(path / "predictions.csv", data, rows)
        probe = path / "probe_predictions.csv"
        return cls(
            path,
            read_json(path / "summary.json"),
            table.take(own),
            None if own.all() else table.take(~own),
            _read(probe, data, rows).take(own) if probe.is_file() else None,
        )


def _read(path: Path, data: ImageData, rows: NDArray[np.int64]) -> Predictions:
    """Read the test part of a table of predictions, its rows joined with those of the data again."""
    table = Predictions.from_csv(path, task=data.task).part("test")
    if len(table) != len(rows) or table.classes != data.classes:
        raise ConfigError(f"{path} is not of this fold's pictures", "start again with --force")
    thresholds = None
    if table.thresholds is not None:
        thresholds = np.broadcast_to(table.thresholds, table.logits.shape).copy()
    return replace(table, index=rows, targets=data.samples.labels[rows], thresholds=thresholds)


def _together(
    data: ImageData,
    plan: Plan,
    folder: RunFolder,
    narrator: Narrator,
    results: list[_Fold],
    clock: Clock,
) -> Result:
    from headstart.deploy import load_bundle

    metric = str(results[0].summary["metric"])
    steps = tuple(_step(number, fold, metric) for number, fold in enumerate(results, start=1))
    tests = [fold.test for fold in results if fold.test is not None]
    # Where nothing else was kept aside, these are the rows of a test part: none was used to choose by.
    part = "valid" if tests else "test"
    out_of_fold = _joined([fold.held_out for fold in results], part)
    probes = [fold.probe for fold in results if fold.probe is not None]
    probe = _joined(probes, part) if len(probes) == len(results) else None
    bundles = [load_bundle(fold.path / "model") for fold in results]
    thresholds = _thresholds(out_of_fold, metric)
    test = None if not tests else average(tests).with_thresholds(thresholds)
    with narrator.progress("writing the model and the report"):
        summary = summary_of_folds(
            data, steps, [fold.summary for fold in results], out_of_fold, test, thresholds, clock.elapsed
        )
        _save_model(folder, data, bundles, thresholds, summary)
        table = folder.save_predictions("predictions.csv", (out_of_fold, test))
        if probe is not None:
            folder.save_predictions("probe_predictions.csv", (probe,))
        plan.to_yaml(folder / "plan.yaml")
        if data.audit is not None:
            data.audit.write_quarantine(folder / "quarantine.csv")
        _finish(folder, data, table, summary)
    return Result(folder.path, steps, probe, out_of_fold, out_of_fold if test is None else test, summary)


def _finish(folder: RunFolder, data: ImageData, table: Predictions, summary: dict[str, Any]) -> None:
    from headstart.evaluation import rows_to_picture, write_report

    for row in rows_to_picture(table):
        folder.save_picture(f"pictures/{row}.jpg", data.picture(int(table.rows[row])))
    folder.save_json("summary.json", summary)
    write_report(folder.path)


def _joined(parts: list[Predictions], split: str) -> Predictions:
    """Return the rows of all folds in the order of the data."""
    table = concatenate([part.with_thresholds(None) for part in parts])
    if parts[0].thresholds is not None:
        table = table.with_thresholds(np.concatenate([part.thresholds for part in parts]))
    table = table.take(np.argsort(table.rows, kind="stable"))
    return replace(table, split=np.full(len(table), split))


def _thresholds(out_of_fold: Predictions, metric: str) -> NDArray[np.float64] | None:
    from headstart.evaluation import fit_thresholds

    if out_of_fold.task is not Task.MULTI_LABEL:
        return None
    return fit_thresholds(out_of_fold.with_thresholds(None), metric)


def _save_model(
    folder: RunFolder,
    data: ImageData,
    bundles: list[Bundle],
    thresholds: NDArray[np.float64] | None,
    summary: dict[str, Any],
) -> None:
    """Write the networks of all folds as one bundle; each one's temperature goes into its head."""
    from headstart.deploy import Manifest, save_bundle

    averaged = sum(bundle.manifest.tta for bundle in bundles)
    figures = summary["final"]
    manifest = Manifest(
        members=tuple(bundle.manifest.members[0] for bundle in bundles),
        classes=data.classes,
        task=data.task,
        thresholds=None if thresholds is None else tuple(thresholds.tolist()),
        views=bundles[0].manifest.views,
        tta=2 * averaged > len(bundles),
        metrics={
            f"{split} {name}": value
            for split in ("valid", "test")
            if figures[split]
            for name, value in figures[split].items()
        },
        data=data.samples.fingerprint(),
    )
    # What enters the first network's head tells strangers for all; sets would need the average's own rows.
    networks, novelty = [_cooled(bundle) for bundle in bundles], bundles[0].novelty
    save_bundle(folder / "model", networks, manifest, novelty=novelty, replace_old=True)


def _cooled(bundle: Bundle) -> Any:
    """Return the network of a bundle with its temperature and its scaling worked into the last layer."""
    import torch
    from torch import nn

    (model,) = bundle.models
    last = [layer for layer in model.head.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.div_(bundle.manifest.temperature)
        if bundle.manifest.scaling is not None:
            factors, offsets = (last.weight.new_tensor(row) for row in bundle.manifest.scaling)
            last.weight.mul_(factors[:, None])
            last.bias.mul_(factors).add_(offsets)
    return model


def _step(number: int, fold: _Fold, metric: str) -> StepResult:
    metrics: dict[str, Interval] = {
        name: interval(fold.held_out, name) for name in dict.fromkeys((metric, "log_loss"))
    }
    shown = metrics[metric]
    return StepResult(
        number=number,
        name=f"fold {number}",
        reason="Trained on the other folds, and asked about this one, which it never saw.",
        kept=None,
        outcome=f"{metric.replace('_', ' ')} {shown.value:.1%} ({shown.low:.1%} … {shown.high:.1%}), "
        f"log loss {metrics['log_loss'].value:.3f} on {len(fold.held_out):,} pictures",
        seconds=float(fold.summary.get("seconds") or 0.0),
        epochs=sum(int(step.get("epochs") or 0) for step in fold.summary.get("steps", ())),
        metrics=metrics,
    )
