"""What the template shows, section by section, in words and figures that are ready to print."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from headstart.evaluation.calibration import reliability
from headstart.evaluation.interpret import Interpretation
from headstart.evaluation.interpret_tags import TagInterpretation
from headstart.evaluation.metrics import per_class
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.report import confusion, decisions, figures, selection, wording
from headstart.evaluation.report.cards import Cards, back_id, gallery_id
from headstart.evaluation.report.embedding import embedding_map
from headstart.evaluation.report.folder import RunFolder
from headstart.evaluation.report.gallery import TABLE_CLASSES
from headstart.evaluation.report.headline import headline, is_tags, metric_of
from headstart.evaluation.report.pictures import Pictures
from headstart.evaluation.report.tags import mistakes, tag_rows, together
from headstart.types import Task

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
    either = interpretation or view
    names = () if looked_at is None else looked_at.classes
    chosen = selection.shown(either) if either is not None else selection.Shown([], [], [], [], [])
    pictures = Pictures(run.path)
    augmentation = pictures.file("augmentation.jpg")
    cards = Cards(pictures, tags=view is not None)
    # What comes first has its pictures for sure, whatever the rest of them weighs.
    losses = [cards.card(example, heat=True) for example in chosen.losses]
    doubts = decisions.doubts(summary, pictures)
    pictures.keep(chosen.rows)
    unsure = [cards.group(group) for group in chosen.unsure]
    galleries = [cards.gallery(each, names) for each in (*chosen.pairs, *chosen.classes)]
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
        "augmentation": augmentation,
        "finders": [figures.finder(each) for each in summary.get("finders") or []],
        "curves": _curves(run),
        "metrics": _metric_rows(summary),
        "classes": _class_rows(run, chosen) if view is None else [],
        "tags": [] if view is None else tag_rows(view.predictions, metric_of(run), _thresholds(run), chosen),
        "together": None if view is None else together(view),
        "mistakes": [] if view is None else mistakes(view, chosen.classes, cards),
        "looked_at": len(looked_at) if looked_at is not None else 0,
        "looked_at_part": _part_of(looked_at),
        "confusion": confusion.confusion(interpretation, [*chosen.pairs, *chosen.classes]),
        "confused": confusion.pairs(interpretation, chosen.pairs, cards),
        "galleries": galleries,
        "losses": losses,
        "heat": any(card["heat"] for card in losses),
        "unsure": unsure,
        "slices": decisions.slices(summary),
        "doubts": doubts,
        "embedding": embedding_map(run.embedding, predictions, cards.anchored),
        "decisions": decisions.decisions(summary),
        "thumbnails": pictures.kept,
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


def _class_rows(run: RunFolder, chosen: selection.Shown) -> list[dict[str, Any]]:
    if run.predictions is None:
        return []
    part = run.predictions.take(selection.looked_at_rows(run.predictions))
    if len(part) == 0:
        return []
    usual = _usual_mistakes(part)
    opened = {each.place for each in (*chosen.pairs, *chosen.classes)}
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
            "mistake": usual.get(each.name, ""),
            **_links(part.classes, each.name, usual.get(each.name), opened),
            "from": f"{100 * limits[0]:.0f}",
            "order": each.recall.value if each.count else math.inf,
        }
        for each in every
    ]
    return sorted(rows, key=lambda row: row["order"])


def _links(
    classes: Sequence[str], name: str, mistake: str | None, opened: Collection[tuple[int, int]]
) -> dict[str, str]:
    """What the row of a class leads to: the pictures of it, and those of its usual mistake."""
    place = classes.index(name)
    wrong = None if mistake is None else (place, classes.index(mistake))
    return {
        # Of many classes there is no cell that the gallery could lead back to.
        "back": back_id((place, place)) if len(classes) > TABLE_CLASSES else "",
        "gallery": gallery_id((place, place)) if (place, place) in opened else "",
        "mistaken": gallery_id(wrong) if wrong in opened and wrong is not None else "",
    }


def _usual_mistakes(part: Predictions) -> dict[str, str]:
    if part.task is not Task.SINGLE_LABEL:
        return {}
    pairs = Interpretation(part).most_confused(min_count=1)
    return {pair.truth: pair.prediction for pair in reversed(pairs)}


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
