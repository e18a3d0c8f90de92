"""From predictions to what a client reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from headstart.deploy.manifest import Manifest
from headstart.deploy.service.problems import FAILED, words_for
from headstart.evaluation import Predictions
from headstart.types import Task


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What was said of one picture; `status`: empty, or the reason code for which nothing was."""

    status: str
    probabilities: NDArray[np.float64]
    tags: NDArray[np.uint8] | None = None
    none_of_these: bool | None = None
    inside: NDArray[np.bool_] | None = None


def said_of(predictions: Predictions) -> list[Said]:
    """Return what was said of each row; of a row whose figures are not finite, that the model failed."""
    tags = predictions.predicted if predictions.task is Task.MULTI_LABEL else None
    strange = None if predictions.strangeness is None else predictions.none_of_these
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(predictions.probabilities).all(axis=1))
    return [
        Said(
            status=str(status) if status or finite[row] else FAILED,
            probabilities=predictions.probabilities[row],
            tags=None if tags is None else tags[row],
            none_of_these=None if strange is None else bool(strange[row]),
            inside=None if predictions.sets is None else predictions.sets[row],
        )
        for row, status in enumerate(predictions.statuses.tolist())
    ]


class ClassAnswer(BaseModel):
    """A class or tag and its probability; of tags, whether the model says it."""

    class_: str = Field(alias="class")
    probability: float = Field(ge=0, le=1)
    said: bool | None = None


class PictureAnswer(BaseModel):
    """What the model says of one picture; `status` is `ok`, or why nothing could be said."""

    name: str
    status: str
    classes: list[ClassAnswer]
    none_of_these: bool | None = None
    set: list[str] | None = None
    message: str | None = None
    hint: str | None = None


class ModelName(BaseModel):
    """Which model answered: its name here, and what tells its weights from all others."""

    name: str
    id: str


class PredictAnswer(BaseModel):
    """The answer to `POST /predict`: one entry for each picture, in the order sent."""

    model: ModelName
    pictures: list[PictureAnswer]


class ProblemAnswer(BaseModel):
    """What went wrong, and what to do about it."""

    code: str
    message: str
    hint: str


def picture_answer(name: str, said: Said, classes: Sequence[str], top: int) -> dict[str, Any]:
    """Return the entry of one picture, its `top` most probable classes first."""
    entry: dict[str, Any] = {"name": name, "status": said.status or "ok", "classes": []}
    if said.status:
        entry["message"], entry["hint"] = words_for(said.status)
        return entry
    order = np.argsort(-said.probabilities, kind="stable")[:top]
    for number in order.tolist():
        entry["classes"].append(
            {"class": classes[number], "probability": round(float(said.probabilities[number]), 6)}
        )
        if said.tags is not None:
            entry["classes"][-1]["said"] = bool(said.tags[number])
    if said.none_of_these is not None:
        entry["none_of_these"] = said.none_of_these
    if said.inside is not None:
        entry["set"] = [classes[number] for number in np.flatnonzero(said.inside).tolist()]
    return entry


def facts_of(manifest: Manifest) -> dict[str, Any]:
    """Return what a person or a program wants to know of a model before asking it anything."""
    members = manifest.members
    height, width = members[0].preprocessing.size
    licences = {member.weights.licence for member in members if member.weights.licence}
    return {
        "task": str(manifest.task),
        "classes": list(manifest.classes),
        "networks": [member.arch for member in members],
        "image_size": [height, width],
        "metrics": {name: dict(interval) for name, interval in manifest.metrics.items()},
        "says_none_of_these": manifest.novelty is not None,
        "set_level": None if manifest.sets is None else manifest.sets.level,
        "views": manifest.tta_policy if manifest.tta else "none",
        "licences": sorted(licences),
        "headstart": manifest.headstart,
    }
