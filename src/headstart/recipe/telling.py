"""What a run tells the model card: a function of its summary, without paths and names of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headstart.deploy import About, TrainingStep
from headstart.deploy.about import DECIDED, MOST_STEPS
from headstart.deploy.reading import ENDS, MAX_NAME

# Of the settings, what another person could do the same with; `weights` and the command may name folders.
SETTINGS = ("batch_size", "balance", "optimizer", "weight_decay", "precision", "device", "seed", "folds")


def about_run(summary: Mapping[str, Any], augmentation: str) -> About:
    """Return what the model card of a run says, beyond what predictions need.

    `summary`: that of the run's folder; `augmentation`: what it may do, in words. Of folds, the pictures that
    trained and judged in turn are one part.
    """
    data, folds = summary["data"], summary.get("folds")
    pictures: dict[str, tuple[int, ...]] = {part: (count,) for part, count in data["pictures"].items()}
    counts = _counts(data)
    if folds:
        pictures, counts = _in_turn(pictures), _in_turn(counts)
    settings = {name: summary["settings"].get(name) for name in SETTINGS}
    known = {name: str(value) for name, value in settings.items() if value not in (None, "")}
    return About(
        pictures={part: sum(count) for part, count in pictures.items() if sum(count)},
        counts=counts,
        out_of_fold=bool(folds and folds["out_of_fold"]),
        note=_note(summary)[:MAX_NAME],
        decided=_decided(summary),
        # Those that change nothing by themselves, such as looking for a rate, are for the report.
        steps=tuple(_step(step) for step in summary["steps"] if step["kept"] is not None or step["epochs"])[
            :MOST_STEPS
        ],
        settings={name: text[:MAX_NAME] for name, text in {**known, "augmentation": augmentation}.items()},
        versions=summary["versions"],
    )


def _note(summary: Mapping[str, Any]) -> str:
    """What the figures are worth; the summary's own words but for advice to whoever trained it."""
    if summary["final"]["test"] is not None:
        return str(summary["final"]["note"])
    choices = sum(step["kept"] is not None for step in summary["steps"])
    return f"It was chosen among {choices} by these validation figures, so they are a little optimistic."


def _counts(data: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {part: tuple(each[name] for name in data["classes"]) for part, each in data["counts"].items()}


def _in_turn(counts: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Add up what trains and what judges, as in folds each picture does both."""
    both = [counts[part] for part in ("train", "valid") if part in counts]
    rest = {part: each for part, each in counts.items() if part not in ("train", "valid")}
    return {"folds": tuple(map(sum, zip(*both, strict=True))), **rest}


def _decided(summary: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """The cross-fitted figures of decisions; of folds only what is of all of them together."""
    calibration, scaling, sets, novelty = (
        summary.get(name) or {} for name in ("calibration", "scaling", "sets", "none_of_these")
    )
    if scaling.get("kept"):
        calibration = calibration | {name: scaling[name] for name in ("log_loss_after", "ece_after")}
    values = {name: {"value": calibration.get(name)} for name in DECIDED if name in calibration}
    if summary.get("folds"):
        values = {"ece_after": values["ece_after"]} if "ece_after" in values else {}
        sets = novelty = {}
    if sets:
        values |= {"coverage": sets["coverage"], "set_size": {"value": sets["mean_size"]}}
    if novelty:
        values["turned_away"] = novelty["turned_away"]
    return {name: value for name, value in values.items() if value.get("value") is not None}


def _step(step: Mapping[str, Any]) -> TrainingStep:
    gain = step["gain"] or {}
    known = {end: gain.get(end) for end in ENDS} if gain.get("value") is not None else {}
    return TrainingStep(str(step["name"])[:MAX_NAME], step["kept"], step["epochs"], known)
