"""What the runs of all folds left, put together: one bundle, one table, one report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.augment import describe
from headstart.errors import ConfigError
from headstart.evaluation import Interval, Predictions, average, concatenate, interval
from headstart.imagedata import ImageData
from headstart.recipe.body import Body
from headstart.recipe.clock import Clock
from headstart.recipe.finish import summary_of_folds
from headstart.recipe.folder import RunFolder, plain
from headstart.recipe.narrator import Narrator
from headstart.recipe.outoffold import frozen_body
from headstart.recipe.result import Result, StepResult
from headstart.recipe.telling import about_run
from headstart.storage import read_json
from headstart.training import Plan
from headstart.types import Task

if TYPE_CHECKING:
    from headstart.deploy import Bundle


@dataclass(frozen=True, eq=False)
class FoldRun:
    """What a fold's run left: its summary, and how it predicts what it never saw."""

    path: Path
    summary: dict[str, Any]
    held_out: Predictions
    test: Predictions | None
    probe: Predictions | None

    @classmethod
    def read(cls, path: Path, data: ImageData, held_out: NDArray[np.int64]) -> FoldRun:
        """Read what the run in `path` left; `data` are its own, `held_out` the rows of its fold."""
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


def put_together(
    data: ImageData,
    plan: Plan,
    body: Body,
    folder: RunFolder,
    narrator: Narrator,
    results: list[FoldRun],
    clock: Clock,
    *,
    device: str = "auto",
) -> Result:
    """Write the model, the table and the report of an ensemble from what its folds left."""
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
    with narrator.progress("writing the model"):
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
        _save_pictures(folder, data, table)
    summary |= _look_back(data, body, folder, narrator, table, out_of_fold, clock, device)
    _report(folder, summary)
    return Result(folder.path, steps, probe, out_of_fold, out_of_fold if test is None else test, summary)


def _save_pictures(folder: RunFolder, data: ImageData, table: Predictions) -> None:
    from headstart.evaluation import rows_to_picture

    for row in rows_to_picture(table):
        folder.save_picture(f"pictures/{row}.jpg", data.picture(int(table.rows[row])))


def _report(folder: RunFolder, summary: dict[str, Any]) -> None:
    from headstart.evaluation import write_report

    folder.save_json("summary.json", summary)
    write_report(folder.path)


def _look_back(
    data: ImageData,
    body: Body,
    folder: RunFolder,
    narrator: Narrator,
    table: Predictions,
    out_of_fold: Predictions,
    clock: Clock,
    device: str,
) -> dict[str, Any]:
    """Write what the report shows beside the figures, and return what the summary keeps; see `afterwards`.

    Labels are doubted by the networks that never saw the picture; on the map lies what the frozen body sees,
    since each network was trained on most of the pictures.
    """
    from headstart.recipe.diagnosing import (
        as_summary,
        left_out_if_it_fails,
        save_heat_of_bundle,
        save_map,
        slices_in,
    )
    from headstart.recipe.doubting import write_doubts

    added: dict[str, Any] = {}
    with left_out_if_it_fails("slices", narrator.say):
        added["slices"] = as_summary(slices_in(out_of_fold, data.columns))
    with left_out_if_it_fails("label doubts", narrator.say):
        added["doubts"] = write_doubts(folder, data, out_of_fold)
    with left_out_if_it_fails("heat maps", narrator.say), narrator.progress("looking for where it looks"):
        save_heat_of_bundle(folder, table, data.samples, device=device, in_time=lambda: clock.left() > 0)
    if not body.from_scratch and clock.left() > 0:
        with left_out_if_it_fails("places on a map", narrator.say):
            data, engine, identity = frozen_body(data, body, device=device)
            splits = [split for split in ("train", "valid") if len(data.rows(split))]
            parts = [data.activations(split, engine, identity) for split in splits]
            features = np.concatenate([np.asarray(part.features, np.float32) for part in parts])
            rows = np.concatenate([part.index for part in parts])
            save_map(folder, table, features.reshape(len(rows), -1), rows, seed=data.seed)
    return dict(plain(added)) | {"seconds": round(clock.elapsed, 3)}


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
        about=about_run(summary, describe(data.augmentation)),
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


def _step(number: int, fold: FoldRun, metric: str) -> StepResult:
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
