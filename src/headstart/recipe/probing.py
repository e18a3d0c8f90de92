"""The first look: a logistic regression on what the pretrained network already sees.

It needs neither torch nor a training step, and it is told as it grows: a first figure from the first
hundred pictures or so, and at the end what twice the pictures were worth.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.evaluation import Predictions, every_tag, interval, metric, scores
from headstart.inference import predictions_of
from headstart.models import (
    EagerEngine,
    OnnxEngine,
    TensorSource,
    cached_engine,
    fit_probe,
    knn_logits,
    weights_identity,
)
from headstart.recipe.result import StepResult
from headstart.types import Task

if TYPE_CHECKING:
    from headstart.imagedata import ImageData
    from headstart.models import Engine, Features, Probe
    from headstart.recipe.steps import EightSteps

# The probe is fitted to a half of the training pictures, an eighth, …, as they arrive, while a part has
# so many, and so many of each class. On 800 pictures in two classes the fits to 400 and 100 take 0.2 s.
FEWEST = 60
FEWEST_OF_A_CLASS = 10
APART = 4
# The nearest neighbours are left out where comparing all pictures would take longer than seconds.
MOST_COMPARED = 2e11


def part_sizes(count: int, class_count: int, batch_size: int = 1) -> list[int]:
    """Return the numbers of pictures, smallest first, at which the probe is fitted before it has all.

    They are whole batches where there are as many, since nothing is seen of a batch before its end.
    """
    sizes: list[int] = []
    size, fewest = count // 2, max(FEWEST, FEWEST_OF_A_CLASS * class_count)
    while size >= fewest:
        whole = size // batch_size * batch_size
        sizes.insert(0, whole if whole >= fewest else size)
        size //= APART
    return sizes


@dataclass(frozen=True, eq=False)
class FirstLook:
    """What the first look found, and what later steps go on from.

    `valid`, `test`: the probe's predictions; `skill`: how far it is on validation pictures from guessing
    (0) to perfect (1), in accuracy or, of tags, in average precision; `sources`: the activations of each
    split, as `engine` gave them; `identity` names the weights.
    """

    engine: Engine
    identity: str
    sources: dict[str, TensorSource]
    probe: Probe
    valid: Predictions
    test: Predictions | None
    skill: float


def look_first(steps: EightSteps) -> FirstLook:
    """Fit the probe to features of the frozen body, before torch is needed where possible."""
    steps.narrator.step(
        0,
        "Probe",
        "A logistic regression on what the pretrained network already sees: the score to beat.",
    )
    started = time.monotonic()
    identity = weights_identity(steps.body.arch, steps.body.weights)
    engine = engine_of(steps, identity)
    sources: dict[str, TensorSource] = {}

    def look(split: str, on_part: _Growing | None = None) -> TensorSource:
        with steps.narrator.progress(f"looking at {split} pictures") as on_progress:
            sources[split] = steps.data.activations(
                split, engine, identity, on_progress=on_progress, on_part=on_part
            )
        return sources[split]

    growing = _Growing(steps, look("valid"), started)
    train = look("train", growing)
    probe, valid = growing.fit(train.features, train.targets, train.index)
    metrics = steps.measure(valid)
    steps.record(
        StepResult(
            number=0,
            name="Probe",
            reason="A logistic regression on the frozen features: every later step must beat it.",
            kept=True,
            outcome=f"{steps.figures(metrics)}{_for_nothing(steps, valid)}; penalty {probe.penalty:.3g} by "
            f"cross-validation{_neighbours(steps, train, sources['valid'])}{growing.worth_of_twice(valid)}",
            seconds=time.monotonic() - started,
            metrics=metrics,
        )
    )
    test = None
    if len(steps.data.rows("test")):
        # Only now: nobody waits for these, and nothing is chosen by them.
        source = look("test")
        test = _predicted(steps.data, "test", source, probe)
    return FirstLook(engine, identity, sources, probe, valid, test, _skill(valid))


def _predicted(data: ImageData, split: str, source: TensorSource, probe: Probe) -> Predictions:
    logits = probe.logits(source.features)
    return predictions_of(data.samples, source.index, logits, among=data.rows(split), lost=data.lost_codes)


def _for_nothing(steps: EightSteps, valid: Predictions) -> str:
    """Say what every tag always would score: recall costs nothing so, and an F2 counts it twice."""
    if valid.task is not Task.MULTI_LABEL:
        return ""
    return f" (every tag always: {metric(steps.metric)(every_tag(valid)):.1%})"


def _neighbours(steps: EightSteps, train: TensorSource, valid: TensorSource) -> str:
    """Say how well the nearest neighbours do, which need no fit: near the probe, classes lie well apart."""
    if len(train.features) * len(valid.features) * train.features[0].size > MOST_COMPARED:
        return ""
    logits = knn_logits(train.features, train.targets, len(steps.data.classes), valid.features)
    predicted = predictions_of(steps.data.samples, valid.index, logits)
    name = steps.metric.replace("_", " ")
    return f"; its nearest neighbours alone: {name} {steps.measure(predicted)[steps.metric].value:.1%}"


def _skill(predictions: Predictions) -> float:
    if predictions.task is Task.MULTI_LABEL:
        # Guessing has as average precision the share of the rows that have the tag.
        chances = scores.one_hot(predictions).mean(axis=0)
        ways = (scores.average_precisions(predictions) - chances) / np.maximum(1 - chances, 1e-12)
        return float(max(0.0, np.nanmean(ways))) if np.isfinite(ways).any() else 0.0
    chance = 1 / max(2, len(predictions.classes))
    return max(0.0, (interval(predictions, "accuracy").value - chance) / (1 - chance))


def engine_of(steps: EightSteps, identity: str) -> Engine:
    """Return what runs the frozen body, and set the data to the sizes that its weights ask for."""
    engine = cached_engine(identity, steps.data.image_size, threads=steps.data.threads)
    if isinstance(engine, OnnxEngine) and engine.facts is not None:
        steps.data = steps.data.for_weights(engine.facts.crop_fraction, engine.facts.interpolation)
        return engine
    steps.narrator.say("  preparing the frozen body (once for these weights and this size) …")
    steps.data = steps.learner.data
    made = steps.learner.engine()
    if isinstance(made, EagerEngine) and made.reason:
        steps.narrator.say(f"  the frozen body runs in eager PyTorch: {made.reason}")
    return made


class _Growing:
    """Fits the probe to the training pictures that have arrived, and says how well it does."""

    def __init__(self, steps: EightSteps, valid: TensorSource, started: float) -> None:
        self._steps, self._valid, self._started = steps, valid, started
        self._sizes = part_sizes(
            len(steps.data.rows("train")), len(steps.data.classes), steps.data.batch_size
        )
        self._half: tuple[int, Predictions] | None = None

    def __call__(self, arrived: Features) -> None:
        """Look at what has arrived; fit where another part is complete."""
        if not self._sizes or len(arrived[2]) < self._sizes[0]:
            return
        size = self._sizes.pop(0)
        features, targets, rows = arrived
        _, valid = self.fit(features[:size], targets[:size], rows[:size])
        figures = self._steps.figures(self._steps.measure(valid))
        self._steps.narrator.say(f"  · from {size:,} pictures: {figures}")
        if not self._sizes:
            self._half = (size, valid)

    def fit(
        self, features: NDArray[np.floating[Any]], targets: NDArray[Any], rows: NDArray[np.int64]
    ) -> tuple[Probe, Predictions]:
        """Fit a probe, write down how well it does, and return it with its validation predictions."""
        steps, samples = self._steps, self._steps.data.samples
        probe = fit_probe(features, targets, len(samples.classes), seed=steps.data.seed)
        valid = _predicted(steps.data, "valid", self._valid, probe)
        train = predictions_of(samples, rows, probe.logits(features))
        metrics = steps.measure(valid)
        steps.folder.history(
            step=0,
            name="probe",
            epoch=0,
            pictures=len(rows),
            part=len(rows) < len(steps.data.rows("train")),
            train_loss=steps.measure(train)["log_loss"].value,
            valid_loss=metrics["log_loss"].value,
            **{steps.metric: metrics[steps.metric].value},
            low=metrics[steps.metric].low,
            high=metrics[steps.metric].high,
            time=time.monotonic() - self._started,
        )
        return probe, valid

    def worth_of_twice(self, valid: Predictions) -> str:
        """Say what the second half of the pictures was worth, with its interval."""
        if self._half is None:
            return ""
        size, before = self._half
        gain = self._steps.gain_in_metric(before, valid)
        points = f"{100 * gain.value:+.1f} points ({100 * gain.low:+.1f} … {100 * gain.high:+.1f})"
        verdict = "more pictures will help" if gain.low > 0 else "one cannot tell that more would help"
        return f"; against {size:,} pictures {points}: {verdict}"
