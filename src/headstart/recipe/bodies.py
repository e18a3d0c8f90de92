"""Several bodies on the same pictures: a probe and the nearest neighbours on what each sees."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import ConfigError, InputMissingError, StorageError
from headstart.evaluation import Interval, Predictions, interval
from headstart.imagedata import ImageData
from headstart.inference import predictions_of
from headstart.models import fit_probe, knn_logits, weights_identity
from headstart.recipe.narrator import Narrator
from headstart.recipe.steps import default_metric


@dataclass(frozen=True)
class BodyScore:
    """How well a probe does on the frozen features of a body, and its nearest neighbours.

    `probe` and `neighbours` in `metric` on the validation pictures; `log_loss` is the probe's.
    `problem`: why there is no figure, in which case the others are None.
    """

    arch: str
    metric: str
    probe: Interval | None = None
    neighbours: Interval | None = None
    log_loss: Interval | None = None
    image_size: tuple[int, int] | None = None
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        figures = {"probe": self.probe, "neighbours": self.neighbours, "log_loss": self.log_loss}
        return {
            "arch": self.arch,
            "metric": self.metric,
            **{name: None if value is None else value.to_dict() for name, value in figures.items()},
            "image_size": self.image_size,
            "problem": self.problem,
        }


def probe_bodies(
    data: ImageData,
    archs: Sequence[str],
    narrator: Narrator,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
) -> list[BodyScore]:
    """Probe each body on `data`, in the order given; a body without weights at hand is told, not fatal.

    Features are kept on disk as all others are, so that a training run finds them again. Raises
    `UsageError` for an unknown name.
    """
    scores = []
    for number, arch in enumerate(archs, start=1):
        narrator.say(f"[{number}/{len(archs)}] {arch}")
        started = time.monotonic()
        try:
            score = _probe(data, arch, narrator, weights, device)
        except (ConfigError, InputMissingError, StorageError) as error:
            score = BodyScore(arch, default_metric(data.task), problem=error.message)
            narrator.say(f"  left out: {error.message}")
        else:
            value = float("nan") if score.probe is None else score.probe.value
            narrator.say(f"  {score.metric} {value:.1%} in {time.monotonic() - started:.0f} s")
        scores.append(score)
    return scores


def _probe(
    data: ImageData, arch: str, narrator: Narrator, weights: str | Path | None, device: str
) -> BodyScore:
    from headstart.learner import Learner

    identity = weights_identity(arch, weights)
    learner = Learner(data, arch, weights=weights, device=device, callbacks=())
    seen = {}
    for split in ("train", "valid"):
        with narrator.progress(f"looking at {split} pictures") as on_progress:
            seen[split] = learner.data.activations(split, learner.engine(), identity, on_progress=on_progress)
    train, valid = seen["train"], seen["valid"]
    count, metric = len(data.classes), default_metric(data.task)
    probe = fit_probe(train.features, train.targets, count, seed=data.seed)
    near = knn_logits(train.features, train.targets, count, valid.features)

    def predicted(logits: Any) -> Predictions:
        return predictions_of(data.samples, valid.index, logits)

    by_probe = predicted(probe.logits(valid.features))
    return BodyScore(
        arch=arch,
        metric=metric,
        probe=interval(by_probe, metric),
        neighbours=interval(predicted(near), metric),
        log_loss=interval(by_probe, "log_loss"),
        image_size=learner.data.image_size,
    )
