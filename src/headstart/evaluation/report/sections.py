"""What the template shows, section by section, in words and figures that are ready to print."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headstart.evaluation.calibration import reliability
from headstart.evaluation.interpret import Example, Interpretation
from headstart.evaluation.interpret_tags import TagInterpretation
from headstart.evaluation.metrics import confusion_matrix, per_class
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.report import figures, selection, wording
from headstart.evaluation.report.folder import RunFolder
from headstart.evaluation.report.headline import headline, is_tags, metric_of
from headstart.evaluation.report.pictures import Pictures
from headstart.evaluation.report.tags import examples, tag_rows, together
from headstart.types import Task

_TABLE_CLASSES = 20  # a confusion matrix of more classes is drawn as a map

_KEPT: dict[object, str] = {True: "kept", False: "undone"}


def sections(run: RunFolder) -> dict[str, Any]:
    """Everything that the template shows, each section None or empty where it has nothing to say."""
    summary = run.summary
    predictions = run.predictions
    looked_at = None if predictions is None else selection.looked_at(predictions)
    interpretation = view = None
    if looked_at is not None and looked_at.task is Task.MULTI_LABEL:
        view = TagInterpretation(looked_at)
    elif looked_at is not None:
        interpretation = Interpretation(looked_at)
    pictures = Pictures(run.path)
    return {
        "run_name": wording.visible(run.path.resolve().name),
        "command": _command(summary.get("command") or []),
        "title": _title(summary),
        "version": summary.get("headstart") or "",
        "stop_reason": summary.get("stop_reason") or "",
        "facts": _facts(run),
        "headline": headline(run),
        "steps": _steps(run),
        "folds": int((summary.get("folds") or {}).get("count") or 0),
        "step_charts": figures.against_time(run.steps, metric_of(run)),
        "metric": wording.metric_name(metric_of(run)),
        "data": _data(summary),
        "augmentation": pictures.file("augmentation.jpg"),
        "finders": [figures.finder(each) for each in summary.get("finders") or []],
        "curves": _curves(run),
        "metrics": _metric_rows(summary),
        "classes": _class_rows(run) if view is None else [],
        "tags": [] if view is None else tag_rows(view.predictions, metric_of(run), _thresholds(run)),
        "together": None if view is None else together(view),
        "mistakes": [] if view is None else _mistakes(view, pictures),
        "looked_at": len(looked_at) if looked_at is not None else 0,
        "looked_at_part": _part_of(looked_at),
        "confusion": _confusion(interpretation),
        "confused": _confused(interpretation, pictures),
        "losses": _top_losses(interpretation or view, pictures),
        "calibration": _calibration(run, looked_at),
        "settings": _settings(summary),
        "plan": run.plan,
        "wording": wording,
    }


def _curves(run: RunFolder) -> list[figures.Figure]:
    metric = metric_of(run)
    growth = figures.more_pictures(run.history, metric)
    return [*figures.training_curves(run.history, run.steps, metric), *([growth] if growth else [])]


def _title(summary: Mapping[str, Any]) -> str:
    root = str((summary.get("data") or {}).get("root") or "")
    return wording.visible(root.replace("\\", "/").rstrip("/").rpartition("/")[2] or "A run")


def _thresholds(run: RunFolder) -> dict[str, float]:
    return dict(run.summary.get("thresholds") or {})


def _facts(run: RunFolder) -> list[str]:
    data, model = run.summary.get("data") or {}, run.summary.get("model") or {}
    pictures = sum(sum(part.values()) for part in (data.get("counts") or {}).values())
    if is_tags(run):  # a picture has any number of them
        pictures = sum((data.get("pictures") or {}).values())
    size = model.get("image_size") or []
    facts = []
    if data.get("classes"):
        words = ("tag", "tags") if is_tags(run) else ("class", "classes")
        facts.append(wording.plural(len(data["classes"]), *words))
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


def _steps(run: RunFolder) -> list[dict[str, Any]]:
    limits = figures.gain_limits(run.steps)
    rows = []
    for step in run.steps:
        gain, accuracy = step.get("gain"), (step.get("metrics") or {}).get(metric_of(run))
        points = step.get("gain_accuracy")
        rows.append(
            {
                "number": step.get("number"),
                "name": step.get("name", ""),
                "reason": step.get("reason") or "",
                # The outcome of a step with a gain repeats figures that stand beside it.
                "outcome": _judged(gain, step.get("kept")) if gain else step.get("outcome") or "",
                "state": _KEPT.get(step.get("kept"), ""),
                "accuracy": wording.metric_text(metric_of(run), accuracy["value"]) if accuracy else "",
                "accuracy_range": wording.metric_range(metric_of(run), accuracy) if accuracy else "",
                "gain": wording.signed(gain["value"]) if gain else "",
                "gain_range": wording.signed_range(gain["low"], gain["high"]) if gain else "",
                "bar": figures.gain_bar(gain, limits) if gain else "",
                "points": _points(points) if points else "",
                "seconds": wording.duration(step.get("seconds")),
                "epochs": step.get("epochs") or 0,
                "verdict": step.get("verdict"),
            }
        )
    return rows


def _judged(gain: Mapping[str, Any], kept: bool | None) -> str:
    low, high, probability = gain.get("low"), gain.get("high"), gain.get("probability")
    if low is not None and low > 0:
        return "clearly better"
    if high is not None and high < 0:
        return "clearly worse"
    if probability is None:
        return "probably better" if kept else "not clearly better"
    share = wording.percent(probability, 0)
    return f"{'probably' if kept else 'not clearly'} better: in {share} of the resamples"


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
        "totals": [(data.get("pictures") or {}).get(split, sum(counts[split].values())) for split in splits],
        "word": "Tag" if data.get("task") == str(Task.MULTI_LABEL) else "Class",
        "quarantined": data.get("quarantined") or [],
        "quarantined_count": data.get("quarantined_count") or 0,
        "lost": data.get("lost") or [],
        "lost_count": data.get("lost_count") or 0,
        "duplicates": data.get("duplicates") or 0,
        "leaked": data.get("leaked") or 0,
        "notes": data.get("notes") or [],
    }


def _metric_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    final = summary.get("final") or {}
    parts = [(split, final[split]) for split in ("valid", "test") if final.get(split)]
    names = list(dict.fromkeys(name for _, part in parts for name in part))
    return [
        {
            "name": wording.metric_name(name),
            "meaning": wording.metric_meaning(name),
            "figures": [
                {
                    "split": split,
                    "value": wording.metric_text(name, part.get(name, {}).get("value")),
                    "range": wording.metric_range(name, part.get(name, {})),
                }
                for split, part in parts
            ],
        }
        for name in names
    ]


def _part_of(predictions: Predictions | None) -> str:
    parts = set() if predictions is None or predictions.split is None else set(predictions.split.tolist())
    return {"valid": "validation", "test": "test"}.get(parts.pop(), "") if len(parts) == 1 else ""


def _class_rows(run: RunFolder) -> list[dict[str, Any]]:
    if run.predictions is None:
        return []
    part = run.predictions.take(selection.looked_at_rows(run.predictions))
    if len(part) == 0:
        return []
    mistakes = _usual_mistakes(part)
    every = per_class(part)
    limits = figures.share_limits([each.recall for each in every])
    rows = [
        {
            "name": each.name,
            "count": each.count,
            "recall": wording.percent(each.recall.value) if each.count else wording.NO_FIGURE,
            "recall_range": wording.percent_range(each.recall.low, each.recall.high) if each.count else "",
            "bar": figures.share_bar(each.recall, limits) if each.count else "",
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
        return {"map": figures.confusion_map(matrix, classes), "rows": [], "classes": classes}
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
                _card(example, pictures)
                for example in interpretation.mistaken(pair, selection.PICTURES_PER_PAIR)
            ],
        }
        for pair in selection.pairs(interpretation)
    ]


def _mistakes(view: TagInterpretation, pictures: Pictures) -> list[dict[str, Any]]:
    return [
        {"tag": tag, "way": way, "count": count, "pictures": [_card(each, pictures) for each in some]}
        for tag, way, count, some in examples(view)
    ]


def _top_losses(
    interpretation: Interpretation | TagInterpretation | None, pictures: Pictures
) -> list[dict[str, Any]]:
    if interpretation is None:
        return []
    return [_card(example, pictures) for example in selection.worst(interpretation)]


def _card(example: Example, pictures: Pictures) -> dict[str, Any]:
    return {
        "image": pictures.thumbnail(example.index),
        "path": example.path,
        "truth": example.truth,
        "prediction": example.prediction,
        "right": example.truth == example.prediction,
        "loss": wording.number(example.loss, 2),
        "probability": "" if example.tag else wording.probability(example.probability),
        "truth_probability": f"{wording.visible(example.tag)} {wording.probability(example.probability)}"
        if example.tag
        else wording.probability(example.truth_probability),
    }


def _calibration(run: RunFolder, looked_at: Predictions | None) -> dict[str, Any] | None:
    found = run.summary.get("calibration")
    bins = reliability(looked_at) if looked_at is not None else []
    if not found and not bins:
        return None
    return {"figures": found, "chart": figures.reliability(bins) if bins else ""}


def _settings(summary: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    model = dict(summary.get("model") or {})
    groups = {
        f"group {number}: {group.get('name', '')}": f"{wording.count(group.get('parameters'))} parameters"
        for number, group in enumerate(model.pop("groups", None) or [])
    }
    tables = (
        ("Settings", _flat(summary.get("settings") or {})),
        ("Model", _flat({**model, **groups})),
        ("Versions", {"headstart": summary.get("headstart"), **(summary.get("versions") or {})}),
        ("Machine", _flat(summary.get("machine") or {})),
    )
    return [
        (title, [(key.replace("_", " "), wording.plain(value)) for key, value in table.items()])
        for title, table in tables
    ]


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """Tables within the table become rows of their own."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= {f"{key}: {inner}": each for inner, each in value.items()}
        else:
            flat[key] = value
    return flat


def _command(words: Sequence[object]) -> str:
    """The command as one types it, wherever the program lay when it ran."""
    texts = [str(word) for word in words]
    if texts and re.split(r"[/\\]", texts[0])[-1] in ("__main__.py", "headstart", "headstart.exe"):
        texts[0] = "headstart"
    return shlex.join(texts)
