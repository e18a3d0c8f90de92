"""After the steps: average views, calibrate, and write the model, the tables and the report."""

from __future__ import annotations

import datetime
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart import environment
from headstart.augment import describe
from headstart.data import spelled_background
from headstart.data.samples import shown
from headstart.evaluation import (
    Interval,
    Predictions,
    calibrate,
    cross_decided,
    every_tag,
    fit_thresholds,
    interval,
    metric,
)
from headstart.processes import current
from headstart.recipe.deciding import Decided, decide, scaled_by_class
from headstart.recipe.folder import plain
from headstart.recipe.result import Result, StepResult
from headstart.recipe.telling import about_run
from headstart.recipe.verdict import gain_in_log_loss, pays
from headstart.types import Task

if TYPE_CHECKING:
    from headstart.evaluation import Calibration
    from headstart.imagedata import ImageData
    from headstart.recipe.steps import EightSteps


def finish(steps: EightSteps) -> Result:
    """Take the best model through averaging and calibration, and write the run folder."""
    learner = steps.learner
    has_test = len(learner.data.rows("test")) > 0
    valid = steps.best.valid
    test = steps.ask(lambda best: best.predictions("test")) if has_test else None
    averaged = None if steps.stop_reason else _average_views(steps, valid)
    if averaged is not None:
        valid = averaged
        test = steps.ask(lambda best: best.tta("test")) if has_test else None
    calibration = _calibrate(steps, valid)
    valid = valid.with_temperature(calibration.temperature)
    test = None if test is None else test.with_temperature(calibration.temperature)
    valid, fair, scaling = scaled_by_class(valid)
    test = None if test is None else test.with_scaling(scaling.scaling)
    # The figures are of tags that were decided by thresholds of the other half; the model gets those of all.
    fair = cross_decided(fair, steps.metric)
    if valid.task is Task.MULTI_LABEL:
        thresholds = _choose_thresholds(steps, valid, fair)
        valid = valid.with_thresholds(thresholds)
        test = None if test is None else test.with_thresholds(thresholds)
    decided = decide(steps, valid, scaling)
    scored_test = test if test is not None and bool(test.scored_rows.any()) else None

    final = {
        "valid": _figures(fair, steps.metric),
        "test": None if scored_test is None else _figures(scored_test, steps.metric),
    }
    policy = "flips" if averaged is not None else None
    summary = _summary(steps, final, calibration, policy, valid) | decided.to_dict()
    # Not before: the first figure would wait for what this imports.
    from headstart.recipe.afterwards import frozen_features, look_back

    frozen = frozen_features(steps)
    added: dict[str, Any] = {}
    if current().first:
        with steps.narrator.progress("writing the model"):
            table = _write(
                steps, valid, test, summary, decided, temperature=calibration.temperature, final=final
            )
        added = look_back(steps, fair, table, decided.seen, frozen) | {
            "seconds": round(steps.clock.elapsed, 3)
        }
    summary |= json.loads(current().said(json.dumps(plain(added)))[0])
    if current().first:
        _report(steps, summary)
    for line in steps.data.lost.lines() if steps.data.lost is not None else []:
        steps.narrator.say(line)
    return Result(
        steps.folder.shared,
        tuple(steps.steps),
        None if steps.first is None else steps.first.valid,
        valid,
        scored_test,
        summary,
        stop_signal=(learner.run.stop_signal or signal.SIGINT) if steps.stop_reason else None,
    )


def _write(
    steps: EightSteps,
    valid: Predictions,
    test: Predictions | None,
    summary: dict[str, Any],
    decided: Decided,
    *,
    temperature: float,
    final: Mapping[str, Mapping[str, Interval] | None],
) -> Predictions:
    """Write the bundle, the tables and the pictures; return what predictions.csv holds."""
    steps.learner.export(
        steps.folder / "model",
        temperature=temperature,
        thresholds=valid.thresholds,
        scaling=valid.scaling,
        sets=decided.sets,
        novelty=None if decided.novelty is None else decided.novelty.novelty,
        tta=bool(summary["tta"] and summary["tta"]["kept"]),
        members=steps.best.members,
        about=about_run(summary, describe(steps.learner.data.augmentation)),
        metrics={
            f"{split} {name}": value.to_dict()
            for split, figures in final.items()
            if figures
            for name, value in figures.items()
        },
        replace=True,
    )
    table = steps.folder.save_predictions("predictions.csv", (valid, test))
    if steps.first is not None:
        parts = (steps.first.valid, steps.first.test)
        steps.folder.save_predictions("probe_predictions.csv", parts)
    steps.plan.to_yaml(steps.folder / "plan.yaml")
    if steps.data.audit is not None:
        steps.data.audit.write_quarantine(steps.folder / "quarantine.csv", steps.data.lost)
    _save_pictures(steps, table)
    return table


def _report(steps: EightSteps, summary: dict[str, Any]) -> None:
    steps.folder.save_json("summary.json", summary)
    # Not before: what makes the report takes 30 ms to import, which the first figure would wait for.
    from headstart.evaluation import write_report

    write_report(steps.folder.path)


def _figures(predictions: Predictions, asked: str) -> dict[str, Interval]:
    """The figures with their intervals; of tags the one that was asked for comes first."""
    if predictions.task is Task.MULTI_LABEL:
        known = ("f2", "average_precision", "macro_f1", "micro_f1", "accuracy", "log_loss")
        names = list(dict.fromkeys((asked, *known)))
    else:
        names = [
            "accuracy",
            "balanced_accuracy",
            "macro_f1",
            "log_loss",
            "brier",
            "expected_calibration_error",
        ]
        names += ["top_5"] if len(predictions.classes) > 10 else []
    return {name: interval(predictions, name) for name in names}


def _average_views(steps: EightSteps, valid: Predictions) -> Predictions | None:
    """Return the validation predictions averaged over views, or None where that does not pay."""
    views = steps.learner.data.views
    if len(views) < 2:
        return None
    reason = f"The same picture seen {len(views)} ways, and the probabilities averaged."
    steps.narrator.step(9, "Test-time augmentation", reason)
    started = time.monotonic()
    averaged = steps.ask(lambda best: best.tta("valid"))
    gain = gain_in_log_loss(valid, averaged)
    kept = pays(gain, clearly=True)
    metrics = steps.measure(averaged)
    steps.record(
        StepResult(
            number=9,
            name="Test-time augmentation",
            reason=reason,
            kept=kept,
            outcome=steps.outcome(metrics, gain, kept, "one view"),
            seconds=time.monotonic() - started,
            metrics=metrics,
            gain=gain,
            gain_accuracy=steps.gain_in_metric(valid, averaged),
        )
    )
    return averaged if kept else None


def _calibrate(steps: EightSteps, valid: Predictions) -> Calibration:
    reason = "So that of the pictures called 90 % sure, nine in ten are right."
    steps.narrator.step(10, "Calibration", reason)
    started = time.monotonic()
    calibration = calibrate(valid)
    helps = calibration.temperature != 1.0
    outcome = (
        f"temperature {calibration.temperature:.2f}; cross-fitted log loss "
        f"{calibration.log_loss_before:.3f} → {calibration.log_loss_after:.3f}"
        if helps
        else "no temperature lowers the cross-fitted log loss, so the probabilities stay as they are"
    )
    steps.record(
        StepResult(10, "Calibration", reason, True if helps else None, outcome, time.monotonic() - started)
    )
    return calibration


def _choose_thresholds(steps: EightSteps, valid: Predictions, fair: Predictions) -> NDArray[np.float64]:
    """Return the thresholds of all validation rows, and tell what they give rows that did not choose them."""
    reason = "From which probability on a tag is said: so that the score that was asked for is best."
    steps.narrator.step(11, "Thresholds", reason)
    started = time.monotonic()
    thresholds = fit_thresholds(valid, steps.metric)
    chosen = ", ".join(
        f"{shown(name)} {value:.2f}" for name, value in list(zip(valid.classes, thresholds, strict=True))[:8]
    )
    more = f" and {len(thresholds) - 8} more" if len(thresholds) > 8 else ""
    name, score = steps.metric.replace("_", " "), metric(steps.metric)
    outcome = (
        f"{chosen}{more}; {name} at 0.5 {score(valid):.1%}, cross-fitted {score(fair):.1%}, "
        f"every tag always {score(every_tag(valid)):.1%}"
    )
    steps.record(StepResult(11, "Thresholds", reason, True, outcome, time.monotonic() - started))
    return thresholds


def _save_pictures(steps: EightSteps, table: Predictions) -> None:
    """Save thumbnails of the pictures that the report shows, named by their row of `table`."""
    from headstart.evaluation import rows_to_picture

    for row in rows_to_picture(table):
        picture = steps.learner.data.cache.found(int(table.rows[row]))
        if picture is not None:
            steps.folder.save_picture(f"pictures/{row}.jpg", picture)


def _leaked(data: ImageData) -> int:
    """How many pictures of the other parts train has, too, byte for byte or nearly."""
    if data.duplicates is None:
        return 0
    leaks = data.duplicates.leaks(data.samples.split)
    return sum(len(leak.rows) for (earlier, _), leak in leaks.items() if earlier == "train")


def summary_of_folds(
    data: ImageData,
    folds: Sequence[StepResult],
    summaries: Sequence[Mapping[str, Any]],
    out_of_fold: Predictions,
    test: Predictions | None,
    thresholds: NDArray[np.float64] | None,
    seconds: float,
) -> dict[str, Any]:
    """Return the summary of a fold ensemble: what its runs share, and the figures of what each never saw."""
    last = summaries[-1]
    name = str(last["metric"])
    honest = {each: value.to_dict() for each, value in _figures(out_of_fold, name).items()}
    tested = None if test is None else {n: value.to_dict() for n, value in _figures(test, name).items()}
    log_loss, error = (metric(each)(out_of_fold) for each in ("log_loss", "expected_calibration_error"))
    note = "Each picture was predicted by a network that had no part in it: neither trained nor chosen by it."
    if tested is not None:
        note = "The test part was never used to choose anything; the other figures are of " + note.lower()
    return {
        **last,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "settings": {**last["settings"], "folds": len(summaries)},
        "data": {
            **last["data"],
            "line": data.summary(),
            "counts": data.counts,
            "pictures": {split: len(data.rows(split)) for split in data.counts},
        },
        "steps": [fold.to_dict() for fold in folds],
        "folds": {"count": len(summaries), "out_of_fold": test is None},
        "finders": [],
        "final": {"valid": honest if tested else None, "test": tested or honest, "note": note},
        "tta": None,
        "calibration": {
            "temperature": 1.0,
            "log_loss_before": log_loss,
            "log_loss_after": log_loss,
            "ece_before": error,
            "ece_after": error,
        },
        "thresholds": None
        if thresholds is None
        else dict(zip(out_of_fold.classes, thresholds.tolist(), strict=True)),
        "every_tag": metric(name)(every_tag(out_of_fold)) if thresholds is not None else None,
        "seconds": round(seconds, 3),
        "stop_reason": "",
    }


def _note(steps: EightSteps, tested: bool) -> str:
    kept = sum(step.kept is not None for step in steps.steps)
    if tested:
        return "The test part was never used to choose anything."
    return (
        f"The model was chosen among {kept} by these validation figures, so they are a little optimistic. "
        "Keep a test part aside (--test 0.15) for an honest one."
    )


def _summary(
    steps: EightSteps,
    final: dict[str, dict[str, Interval] | None],
    calibration: Calibration,
    policy: str | None,
    valid: Predictions,
) -> dict[str, Any]:
    data, model, audit = steps.learner.data, steps.learner.model, steps.data.audit
    bad = (
        [] if audit is None else [(audit.samples.place(row), str(audit.codes[row])) for row in audit.bad_rows]
    )
    lost = data.lost_codes
    spans = zip(model.group_starts, (*model.group_starts[1:], len(model.stages)), strict=True)
    tta = next((step for step in steps.steps if step.number == 9), None)
    return {
        "schema": 1,
        "metric": steps.metric,
        "headstart": environment.versions().get("headstart", ""),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "settings": {
            "arch": steps.body.arch,
            "weights": "none" if steps.body.from_scratch else str(steps.body.weights or "hub"),
            "image_size": list(data.image_size),
            "background": spelled_background(data.background),
            "batch_size": data.batch_size,
            "balance": data.balance,
            "augmentation": data.augmentation.to_dict(),
            "optimizer": steps.plan.settings.optimizer,
            "weight_decay": steps.plan.settings.weight_decay,
            "precision": steps.learner.precision,
            "device": str(steps.learner.device),
            "seed": data.seed,
            "budget": steps.clock.budget,
        },
        "data": {
            "root": str(data.samples.root),
            "line": data.summary(),
            "classes": list(data.classes),
            "task": str(data.task),
            "counts": data.counts,
            "pictures": {split: len(data.rows(split)) for split in data.counts},
            "quarantined": [{"path": path, "code": code} for path, code in bad[:200]],
            "quarantined_count": len(bad),
            "lost": [{"path": data.samples.place(row), "code": code} for row, code in lost.items()][:200],
            "lost_count": len(lost),
            "duplicates": 0 if audit is None else audit.duplicates,
            "leaked": _leaked(data),
            "notes": list(data.samples.notes),
            "corrections": [table._asdict() for table in data.samples.corrected],
        },
        "model": {
            "arch": steps.body.arch,
            "weights": f"{model.info.weights.kind} {model.info.weights.location}".strip(),
            "licence": model.info.weights.licence,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "image_size": list(data.image_size),
            "groups": [
                {"name": name, "parameters": sum(p.numel() for p in model.stage_parameters(*span).values())}
                for name, span in zip(model.group_names, spans, strict=True)
            ],
            "head": type(model.head).__name__,
        },
        "steps": [step.to_dict() for step in steps.steps],
        "finders": steps.finders,
        "final": {
            split: None if figures is None else {name: value.to_dict() for name, value in figures.items()}
            for split, figures in final.items()
        }
        | {"note": _note(steps, final["test"] is not None)},
        "tta": None if tta is None else {"policy": "flips", "kept": policy is not None, **tta.to_dict()},
        "calibration": calibration.to_dict(),
        "thresholds": None
        if valid.thresholds is None
        else dict(zip(valid.classes, valid.thresholds.tolist(), strict=True)),
        "every_tag": metric(steps.metric)(every_tag(valid)) if valid.task is Task.MULTI_LABEL else None,
        "seconds": round(steps.clock.elapsed, 3),
        "stop_reason": steps.stop_reason,
        "versions": environment.versions(),
        "machine": environment.machine(),
    }
