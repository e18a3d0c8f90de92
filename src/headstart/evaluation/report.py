"""The report: one HTML file that tells a run to people, made from its folder alone.

It holds everything it shows: no script, no request to any network, and a content security policy
that would forbid both. All text from outside (class names, paths, settings) is escaped.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ConfigError, InputMissingError
from headstart.evaluation import report_charts, wording
from headstart.evaluation.calibration import reliability
from headstart.evaluation.interpret import Confusion, Example, Interpretation
from headstart.evaluation.metrics import Gain, confusion_matrix, paired, per_class
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.report_pictures import Pictures
from headstart.storage import read_json, write_atomic
from headstart.types import Task

SCHEMA = 1
TOP_LOSSES = 24
TELLING_LOSS = 0.1
FEWEST_LOSSES = 6
CONFUSED_PAIRS = 8
PICTURES_PER_PAIR = 4
_TABLE_CLASSES = 20  # a confusion matrix of more classes is drawn as a map

_KEPT: dict[object, str] = {True: "kept", False: "undone"}
METRIC_NAMES = {
    "accuracy": ("Accuracy", "pictures called rightly"),
    "error_rate": ("Error rate", "pictures called wrongly"),
    "top_5": ("Top 5", "truth among the five most probable"),
    "balanced_accuracy": ("Balanced accuracy", "mean recall: every class counts the same"),
    "macro_precision": ("Precision", "mean over the classes"),
    "macro_recall": ("Recall", "mean over the classes"),
    "macro_f1": ("F1", "mean over the classes"),
    "f2": ("F2", "recall counts twice"),
    "log_loss": ("Log loss", "lower is better; punishes being sure and wrong"),
    "brier": ("Brier score", "lower is better; squared error of the probabilities"),
    "expected_calibration_error": ("Calibration error", "lower is better; how far sure and right differ"),
    "roc_auc": ("ROC AUC", "0.5 is chance, 1 is perfect ranking"),
    "average_precision": ("Average precision", "area under precision over recall"),
    "cohen_kappa": ("Cohen's kappa", "agreement beyond chance"),
    "matthews": ("Matthews correlation", "0 is chance, 1 is perfect"),
}
_SHARES = {
    "accuracy",
    "error_rate",
    "top_5",
    "balanced_accuracy",
    "macro_precision",
    "macro_recall",
    "expected_calibration_error",
}


@dataclass(frozen=True)
class RunFolder:
    """What a run left behind, as far as it is there."""

    path: Path
    summary: dict[str, Any]
    history: list[dict[str, Any]]
    predictions: Predictions | None
    probe: Predictions | None
    plan: str

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The steps of the run, in order."""
        return list(self.summary.get("steps") or [])

    def part(self, split: str) -> Predictions | None:
        """Return the scored predictions of one part, or None where there are none."""
        if self.predictions is None:
            return None
        part = self.predictions.part(split).scored()
        return part if len(part) else None


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run's folder, from what is in the folder, and return its path.

    Sections whose files are missing are left out. Raises `InputMissingError` without
    `summary.json`, `ConfigError` for files that are not what a run writes, `OutputError` or
    `StorageError` when the report cannot be written.
    """
    run = read_run(Path(run_folder))
    page = render(run)
    target = run.path / "report.html"
    # A lone surrogate is spelled out by the wording; one that is left must not break the page.
    write_atomic(target, page.encode("utf-8", errors="backslashreplace"))
    return target


def read_run(folder: Path) -> RunFolder:
    """Read a run's folder; raises as `write_report` does."""
    if not (folder / "summary.json").is_file():
        raise InputMissingError(f"{folder} holds no summary.json", "give the folder that a run wrote")
    summary = read_json(folder / "summary.json")
    if not isinstance(summary, dict) or summary.get("schema") != SCHEMA:
        raise ConfigError(
            f"{folder / 'summary.json'} is not a summary of schema {SCHEMA}",
            "this version of headstart cannot read that run",
        )
    task = Task((summary.get("data") or {}).get("task") or Task.SINGLE_LABEL)
    plan = folder / "plan.yaml"
    return RunFolder(
        path=folder,
        summary=summary,
        history=_read_history(folder / "history.jsonl"),
        predictions=_read_predictions(folder / "predictions.csv", task),
        probe=_read_predictions(folder / "probe_predictions.csv", task),
        plan=plan.read_text("utf-8", errors="replace") if plan.is_file() else "",
    )


def render(run: RunFolder) -> str:
    """Return the report as HTML: a pure function of the run."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": wording.percent,
        "number": wording.number,
        "count": wording.count,
        "duration": wording.duration,
        "visible": wording.visible,
    }
    source = resources.files("headstart.evaluation").joinpath("report.html.jinja").read_text("utf-8")
    return environment.from_string(source).render(**_context(run))


def rows_to_picture(predictions: Predictions) -> NDArray[np.int64]:
    """Return the row numbers of `predictions` whose thumbnails the report shows: int64, ascending.

    They are the top losses and the most confused pairs of the validation part, or of the test
    part where there is no other.
    """
    looked_at = _looked_at(predictions)
    if looked_at is None:
        return np.zeros(0, dtype=np.int64)
    in_order = Predictions(
        logits=looked_at.logits,
        classes=looked_at.classes,
        targets=looked_at.targets,
        temperature=looked_at.temperature,
        index=np.flatnonzero(_looked_at_rows(predictions)),
    )
    interpretation = Interpretation(in_order)
    shown = _worst(interpretation)
    for pair in _pairs(interpretation):
        shown += interpretation.mistaken(pair, PICTURES_PER_PAIR)
    return np.unique(np.array([example.index for example in shown], dtype=np.int64))


def _read_history(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, line {number} is not a row of a history")
        rows.append(row)
    return rows


def _read_predictions(path: Path, task: Task) -> Predictions | None:
    return Predictions.from_csv(path, task=task) if path.is_file() else None


def _looked_at_rows(predictions: Predictions) -> NDArray[np.bool_]:
    """The rows that diagnoses are about: validation, so that test pictures steer nobody."""
    scored = predictions.scored_rows & np.isfinite(np.nan_to_num(predictions.loss, nan=np.inf))
    if predictions.split is None:
        return np.asarray(scored)
    valid = scored & (predictions.split == "valid")
    return np.asarray(valid if valid.any() else scored)


def _looked_at(predictions: Predictions) -> Predictions | None:
    rows = _looked_at_rows(predictions)
    if predictions.task is not Task.SINGLE_LABEL or not rows.any():
        return None
    return predictions.take(rows)


def _worst(interpretation: Interpretation) -> list[Example]:
    """The top losses that say something: of what is right and sure, no more than fill a row."""
    examples = interpretation.top_losses(TOP_LOSSES)
    telling = sum(example.loss > TELLING_LOSS for example in examples)
    return examples[: max(telling, FEWEST_LOSSES)]


def _pairs(interpretation: Interpretation) -> list[Confusion]:
    """The pairs that were mistaken more than once; where there are none, those that were at all."""
    repeated = interpretation.most_confused(min_count=2)
    return (repeated or interpretation.most_confused(min_count=1))[:CONFUSED_PAIRS]


def _context(run: RunFolder) -> dict[str, Any]:
    """Everything that the template shows, each section None or empty where it has nothing to say."""
    summary = run.summary
    predictions = run.predictions
    looked_at = _looked_at(predictions) if predictions is not None else None
    interpretation = Interpretation(looked_at) if looked_at is not None else None
    pictures = Pictures(run.path)
    return {
        "run_name": wording.visible(run.path.resolve().name),
        "command": shlex.join(str(word) for word in summary.get("command") or []),
        "title": _title(summary),
        "summary": summary,
        "facts": _facts(run),
        "headline": _headline(run),
        "steps": _steps(run),
        "step_charts": report_charts.against_time(run.steps),
        "data": _data(summary),
        "augmentation": pictures.file("augmentation.jpg"),
        "finders": [report_charts.finder(each) for each in summary.get("finders") or []],
        "curves": report_charts.training_curves(run.history, run.steps),
        "metrics": _metric_rows(summary),
        "classes": _class_rows(run),
        "looked_at": len(looked_at) if looked_at is not None else 0,
        "looked_at_part": _part_of(looked_at),
        "confusion": _confusion(interpretation),
        "confused": _confused(interpretation, pictures),
        "losses": _top_losses(interpretation, pictures),
        "calibration": _calibration(run, looked_at),
        "tta": summary.get("tta"),
        "settings": _settings(summary),
        "plan": run.plan,
        "wording": wording,
    }


def _title(summary: Mapping[str, Any]) -> str:
    root = str((summary.get("data") or {}).get("root") or "")
    return wording.visible(root.replace("\\", "/").rstrip("/").rpartition("/")[2] or "A run")


def _facts(run: RunFolder) -> list[str]:
    data, model = run.summary.get("data") or {}, run.summary.get("model") or {}
    pictures = sum(sum(part.values()) for part in (data.get("counts") or {}).values())
    size = model.get("image_size") or []
    facts = []
    if data.get("classes"):
        facts.append(wording.plural(len(data["classes"]), "class", "classes"))
    if pictures:
        facts.append(wording.plural(pictures, "picture"))
    if model.get("arch"):
        at = f" at {size[0]} × {size[1]}" if len(size) == 2 else ""
        facts.append(f"{model['arch']}{at}")
    if run.summary.get("seconds") is not None:
        facts.append(f"trained in {wording.duration(run.summary['seconds'])}")
    if run.summary.get("created"):
        facts.append(str(run.summary["created"])[:16].replace("T", " "))
    return facts


def _headline(run: RunFolder) -> dict[str, Any] | None:
    """The one figure, what it was measured on, and how far it can be believed."""
    final = run.summary.get("final") or {}
    split = "test" if final.get("test") else "valid"
    measured = final.get(split) or {}
    name = "accuracy" if "accuracy" in measured else next(iter(measured), None)
    if name is None:
        return None
    figure = measured[name]
    part = run.part(split)
    chosen_among = sum(step.get("kept") is not None for step in run.steps)
    return {
        "name": _metric_name(name),
        "value": _metric_text(name, figure.get("value")),
        "range": _metric_range(name, figure),
        "split": {"valid": "validation", "test": "test"}[split],
        "count": len(part) if part is not None else _count_of(run.summary, split),
        "words": wording.wrong_in_words(figure["value"]) if _known(name, figure, "accuracy") else "",
        "honest": split == "test",
        "chosen_among": chosen_among,
        "note": final.get("note") or "",
        "against_probe": _against_probe(run, split),
        "probe": _probe_accuracy(run, split),
    }


def _known(name: str, figure: Mapping[str, Any], wanted: str) -> bool:
    return name == wanted and figure.get("value") is not None


def _count_of(summary: Mapping[str, Any], split: str) -> int:
    return sum(((summary.get("data") or {}).get("counts") or {}).get(split, {}).values())


def _against_probe(run: RunFolder, split: str) -> Gain | None:
    after, before = run.part(split), _probe_part(run, split)
    if after is None or before is None or after.paths != before.paths:
        return None
    return paired(before, after, "accuracy")


def _probe_part(run: RunFolder, split: str) -> Predictions | None:
    """The probe's rows of a part, if they are the very rows of the model."""
    after = run.part(split)
    if run.probe is None or after is None or run.probe.task is not Task.SINGLE_LABEL:
        return None
    part = run.probe.part(split).scored()
    return part if part.paths == after.paths and part.classes == after.classes else None


def _probe_accuracy(run: RunFolder, split: str) -> float | None:
    part = _probe_part(run, split)
    return None if part is None else float(np.mean(part.predicted == part.targets))


def _steps(run: RunFolder) -> list[dict[str, Any]]:
    limits = report_charts.gain_limits(run.steps)
    rows = []
    for step in run.steps:
        gain, accuracy = step.get("gain"), (step.get("metrics") or {}).get("accuracy")
        points = step.get("gain_accuracy")
        rows.append(
            {
                "number": step.get("number"),
                "name": step.get("name", ""),
                "reason": step.get("reason") or "",
                "outcome": step.get("outcome") or "",
                "state": _KEPT.get(step.get("kept"), ""),
                "accuracy": wording.percent(accuracy["value"]) if accuracy else "",
                "accuracy_range": wording.percent_range(accuracy["low"], accuracy["high"])
                if accuracy
                else "",
                "gain": wording.signed(gain["value"]) if gain else "",
                "gain_range": wording.signed_range(gain["low"], gain["high"]) if gain else "",
                "bar": report_charts.gain_bar(gain, limits) if gain else "",
                "points": _points(points) if points else "",
                "seconds": wording.duration(step.get("seconds")),
                "epochs": step.get("epochs") or 0,
                "verdict": step.get("verdict"),
            }
        )
    return rows


def _points(gain: Mapping[str, Any]) -> str:
    value, low, high = (_times_100(gain.get(name)) for name in ("value", "low", "high"))
    return f"{wording.signed(value, 1)} points, {wording.signed_range(low, high, 1)}"


def _times_100(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _data(summary: Mapping[str, Any]) -> dict[str, Any]:
    data = summary.get("data") or {}
    counts = data.get("counts") or {}
    splits = [split for split in ("train", "valid", "test") if counts.get(split)]
    most = max((value for split in splits for value in counts[split].values()), default=1)
    rows = [
        {
            "name": name,
            "counts": [counts[split].get(name, 0) for split in splits],
            "widths": [100 * counts[split].get(name, 0) / max(most, 1) for split in splits],
        }
        for name in data.get("classes") or []
    ]
    return {
        "line": data.get("line") or "",
        "splits": splits,
        "rows": rows,
        "totals": [sum(counts[split].values()) for split in splits],
        "quarantined": data.get("quarantined") or [],
        "quarantined_count": data.get("quarantined_count") or 0,
        "duplicates": data.get("duplicates") or 0,
        "notes": data.get("notes") or [],
    }


def _metric_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    final = summary.get("final") or {}
    parts = [(split, final[split]) for split in ("valid", "test") if final.get(split)]
    names = list(dict.fromkeys(name for _, part in parts for name in part))
    return [
        {
            "name": _metric_name(name),
            "meaning": METRIC_NAMES.get(name, ("", ""))[1],
            "figures": [
                {
                    "split": split,
                    "value": _metric_text(name, part.get(name, {}).get("value")),
                    "range": _metric_range(name, part.get(name, {})),
                }
                for split, part in parts
            ],
        }
        for name in names
    ]


def _metric_name(name: str) -> str:
    return METRIC_NAMES.get(name, (name.replace("_", " ").capitalize(), ""))[0]


def _metric_text(name: str, value: float | None) -> str:
    return wording.percent(value) if name in _SHARES else wording.number(value)


def _metric_range(name: str, figure: Mapping[str, Any]) -> str:
    write = wording.percent_range if name in _SHARES else wording.number_range
    return write(figure.get("low"), figure.get("high"))


def _part_of(predictions: Predictions | None) -> str:
    parts = set() if predictions is None or predictions.split is None else set(predictions.split.tolist())
    return {"valid": "validation", "test": "test"}.get(parts.pop(), "") if len(parts) == 1 else ""


def _class_rows(run: RunFolder) -> list[dict[str, Any]]:
    if run.predictions is None:
        return []
    part = run.predictions.take(_looked_at_rows(run.predictions))
    if len(part) == 0:
        return []
    mistakes = _usual_mistakes(part)
    every = per_class(part)
    limits = report_charts.share_limits([each.recall for each in every])
    rows = [
        {
            "name": each.name,
            "count": each.count,
            "recall": wording.percent(each.recall.value) if each.count else wording.NO_FIGURE,
            "recall_range": wording.percent_range(each.recall.low, each.recall.high) if each.count else "",
            "bar": report_charts.share_bar(each.recall, limits) if each.count else "",
            "precision": wording.percent(each.precision.value),
            "f1": wording.number(each.f1),
            "mistake": mistakes.get(each.name, ""),
            "from": f"{100 * limits[0]:.0f}",
            "order": each.recall.value if each.count else math.inf,
        }
        for each in every
    ]
    return sorted(rows, key=lambda row: row["order"])


def _usual_mistakes(part: Predictions) -> dict[str, str]:
    if part.task is not Task.SINGLE_LABEL:
        return {}
    pairs = Interpretation(part).most_confused(min_count=1)
    return {pair.truth: pair.prediction for pair in reversed(pairs)}


def _confusion(interpretation: Interpretation | None) -> dict[str, Any] | None:
    if interpretation is None:
        return None
    matrix = confusion_matrix(interpretation.predictions)
    classes = [wording.visible(name) for name in interpretation.predictions.classes]
    if len(classes) > _TABLE_CLASSES:
        return {"map": report_charts.confusion_map(matrix, classes), "rows": [], "classes": classes}
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    rows = [
        {
            "name": classes[row],
            "cells": [
                {
                    "count": int(matrix[row, column]),
                    "right": row == column,
                    **_shade(float(shares[row, column]), right=row == column),
                }
                for column in range(len(classes))
            ],
        }
        for row in range(len(classes))
    ]
    return {"map": "", "rows": rows, "classes": classes}


def _shade(share: float, *, right: bool) -> dict[str, Any]:
    """How dark a cell is, 0 … 1, and which text is legible on it.

    Mistakes are rare: the root makes a share of 4 % as dark as one of 20 %. The bounds are where
    black and white have the same contrast (above 4.5) in the dark and in the light style.
    """
    shade = share if right else share**0.5
    middle = 0.47 if right else 0.58
    return {"shade": shade, "tone": "high" if shade > 0.88 else "mid" if shade > middle else "low"}


def _confused(interpretation: Interpretation | None, pictures: Pictures) -> list[dict[str, Any]]:
    if interpretation is None:
        return []
    return [
        {
            "truth": pair.truth,
            "prediction": pair.prediction,
            "count": pair.count,
            "pictures": [
                _card(example, pictures) for example in interpretation.mistaken(pair, PICTURES_PER_PAIR)
            ],
        }
        for pair in _pairs(interpretation)
    ]


def _top_losses(interpretation: Interpretation | None, pictures: Pictures) -> list[dict[str, Any]]:
    if interpretation is None:
        return []
    return [_card(example, pictures) for example in _worst(interpretation)]


def _card(example: Example, pictures: Pictures) -> dict[str, Any]:
    return {
        "image": pictures.thumbnail(example.index),
        "path": example.path,
        "truth": example.truth,
        "prediction": example.prediction,
        "right": example.truth == example.prediction,
        "loss": wording.number(example.loss, 2),
        "probability": wording.probability(example.probability),
        "truth_probability": wording.probability(example.truth_probability),
    }


def _calibration(run: RunFolder, looked_at: Predictions | None) -> dict[str, Any] | None:
    figures = run.summary.get("calibration")
    bins = reliability(looked_at) if looked_at is not None else []
    if not figures and not bins:
        return None
    return {"figures": figures, "chart": report_charts.reliability(bins) if bins else ""}


def _settings(summary: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    model = {name: value for name, value in (summary.get("model") or {}).items() if name != "groups"}
    groups = {
        f"group {number}: {group.get('name', '')}": f"{wording.count(group.get('parameters'))} parameters"
        for number, group in enumerate((summary.get("model") or {}).get("groups") or [])
    }
    tables = (
        ("Settings", summary.get("settings") or {}),
        ("Model", {**model, **groups}),
        ("Versions", {"headstart": summary.get("headstart"), **(summary.get("versions") or {})}),
        ("Machine", summary.get("machine") or {}),
    )
    return [(title, [(str(key), _plain(value)) for key, value in table.items()]) for title, table in tables]


def _plain(value: object) -> str:
    if isinstance(value, str):
        return wording.visible(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return wording.NO_FIGURE
    if isinstance(value, int):
        return wording.count(value) if abs(value) >= 10_000 else str(value)
    return wording.visible(json.dumps(value, ensure_ascii=False))
