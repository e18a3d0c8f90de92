"""The one figure of the report: what it is, how far it can be believed, and what it is better than."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from headstart.evaluation.metrics import METRICS, Gain, paired
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.report import wording
from headstart.evaluation.report.folder import RunFolder
from headstart.evaluation.thresholds import cross_decided
from headstart.types import Task


def metric_of(run: RunFolder) -> str:
    """The metric that the run was about, beside the log loss."""
    return str(run.summary.get("metric") or ("f2" if is_tags(run) else "accuracy"))


def out_of_fold(run: RunFolder) -> bool:
    """Whether its figures are of a fold ensemble, of what each of its networks never saw."""
    return bool((run.summary.get("folds") or {}).get("out_of_fold"))


def is_tags(run: RunFolder) -> bool:
    """Whether the pictures have tags rather than a class each."""
    return (run.summary.get("data") or {}).get("task") == str(Task.MULTI_LABEL)


def headline(run: RunFolder) -> dict[str, Any] | None:
    """The one figure, what it was measured on, and how far it can be believed."""
    final = run.summary.get("final") or {}
    split = "test" if final.get("test") else "valid"
    measured = final.get(split) or {}
    wanted = metric_of(run) if is_tags(run) else "accuracy"
    name = wanted if wanted in measured else next(iter(measured), None)
    if name is None:
        return None
    figure = measured[name]
    part = run.part(split)
    chosen_among = sum(step.get("kept") is not None for step in run.steps)
    return {
        "name": wording.metric_name(name),
        "value": wording.metric_text(name, figure.get("value")),
        "range": wording.metric_range(name, figure),
        "split": "out-of-fold" if out_of_fold(run) else {"valid": "validation", "test": "test"}[split],
        "count": len(part) if part is not None else _count_of(run.summary, split),
        "words": wording.wrong_in_words(figure["value"])
        if _known(name, figure, "accuracy") and not is_tags(run)
        else "",
        "every_tag": _every_tag(run, name),
        "honest": split == "test",
        "chosen_among": chosen_among,
        "note": final.get("note") or "",
        "against_probe": _against_probe(run, split),
        "probe": _probe_figure(run, split),
    }


def _every_tag(run: RunFolder, name: str) -> str:
    """What every tag always would score by the headline's metric."""
    value = run.summary.get("every_tag")
    return wording.metric_text(name, value) if value is not None and name == metric_of(run) else ""


def _known(name: str, figure: Mapping[str, Any], wanted: str) -> bool:
    return name == wanted and figure.get("value") is not None


def _count_of(summary: Mapping[str, Any], split: str) -> int:
    return sum(((summary.get("data") or {}).get("counts") or {}).get(split, {}).values())


def _against_probe(run: RunFolder, split: str) -> Gain | None:
    after, before = run.part(split), _probe_part(run, split)
    if after is None or before is None or after.paths != before.paths:
        return None
    if after.task is not Task.MULTI_LABEL:
        return paired(before, after, "accuracy")
    return paired(_as_judged(before, run, split), _as_judged(after, run, split), metric_of(run))


def _as_judged(part: Predictions, run: RunFolder, split: str) -> Predictions:
    """Validation rows decided by thresholds of the other half; test rows by those of the model."""
    return cross_decided(part, metric_of(run)) if split == "valid" else part


def _probe_part(run: RunFolder, split: str) -> Predictions | None:
    """The probe's rows of a part, if they are the very rows of the model."""
    after = run.part(split)
    if run.probe is None or after is None:
        return None
    if run.probe.task is Task.MULTI_LABEL and split != "valid":
        return None  # the probe alone has no thresholds that were fitted before the test rows
    part = run.probe.part(split).scored()
    return part if part.paths == after.paths and part.classes == after.classes else None


def _probe_figure(run: RunFolder, split: str) -> str:
    """What the probe had, in words."""
    part = _probe_part(run, split)
    if part is None:
        return ""
    if part.task is Task.MULTI_LABEL:
        name = metric_of(run)
        return wording.metric_text(name, METRICS[name](_as_judged(part, run, split)))
    return wording.percent(float(np.mean(part.predicted == part.targets)))
