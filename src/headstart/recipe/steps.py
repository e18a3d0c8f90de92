"""The eight steps: each is run, measured against the best model so far, and kept or undone.

The probe comes first and needs neither torch nor a training step: a logistic regression on the
frozen features. Every later step must earn its time against it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headstart.augment import describe
from headstart.errors import UsageError
from headstart.evaluation import (
    Gain,
    Interval,
    Predictions,
    constant_answer,
    cross_decided,
    interval,
    measure,
    missing_classes,
    paired,
    too_few_rows,
)
from headstart.imagedata import ImageData
from headstart.recipe.body import Body
from headstart.recipe.clock import Clock
from headstart.recipe.finish import finish
from headstart.recipe.flips import check_flips
from headstart.recipe.folder import RunFolder
from headstart.recipe.narrator import Narrator
from headstart.recipe.probing import FirstLook, look_first
from headstart.recipe.rates import choose_ratio, with_rates, within_budget
from headstart.recipe.result import Result, StepResult, Verdict
from headstart.recipe.verdict import diagnose, gain_in_log_loss, pays
from headstart.training import Phase, Plan
from headstart.types import Size, Task

if TYPE_CHECKING:
    import torch

    from headstart.learner import Learner


@dataclass
class Best:
    """The best model so far: how it predicts the validation rows, and how to get it back."""

    valid: Predictions
    state: dict[str, torch.Tensor]
    size: Size
    name: str


class EightSteps:
    """One run of the recipe over `data`, following `plan`, written to `folder`.

    `rate_ratio` is how many times lower each earlier group's rate is than the next (3 to 10), or None
    to decide by how well the frozen features do. `metric` is shown beside the log loss: the accuracy
    unless asked otherwise, for tags the F2. Raises `UsageError` for one that has no meaning for tags.
    """

    def __init__(
        self,
        data: ImageData,
        plan: Plan,
        body: Body,
        folder: RunFolder,
        narrator: Narrator,
        *,
        clock: Clock,
        rate_ratio: float | None = None,
        metric: str | None = None,
        device: str = "auto",
    ) -> None:
        if rate_ratio is not None and not 1 <= rate_ratio <= 100:
            raise UsageError(f"a rate ratio of {rate_ratio}", "give a number from 3 to 10, or auto")
        self.data, self.plan, self.body = data, plan, body
        self.folder, self.narrator, self.clock = folder, narrator, clock
        self.rate_ratio, self.device = rate_ratio, device
        self.metric = metric or default_metric(data.task)
        _check_metric(self.metric, data)
        self.steps: list[StepResult] = []
        self.finders: list[dict[str, object]] = []
        self.first: FirstLook | None = None
        self.stop_reason = ""
        self._learner: Learner | None = None
        self.found_rates: dict[tuple[int, Size], float] = {}

    # ---- the way through -------------------------------------------------------------------

    def run(self) -> Result:
        """Take every step of the plan, then average, calibrate and write everything."""
        self.folder.begin()
        self.first = None if self.body.from_scratch else look_first(self)
        self._start_learner(self.first)
        self._doubt(*self._doubts_about_the_data())
        self._describe_augmentation()
        try:
            for phase in self.plan:
                if self.stop_reason:
                    break
                self._phase(phase)
        except KeyboardInterrupt:
            # Between the epochs of two phases: what was kept so far is whole.
            self.stop_reason = "interrupted"
            self.narrator.say("  stopping: the best model so far is saved and reported")
        self._restore_best()
        return finish(self)

    @property
    def learner(self) -> Learner:
        """The learner, made (and torch imported) when it is first needed."""
        if self._learner is None:
            from headstart.learner import Learner

            self._learner = Learner(
                self.data,
                self.body.arch,
                weights=self.body.weights,
                from_scratch=self.body.from_scratch,
                metrics=(self.metric,),
                settings=self.plan.settings,
                device=self.device,
                callbacks=self.narrator.callbacks(self.metric),
            )
        return self._learner

    def _start_learner(self, first: FirstLook | None) -> None:
        self.data = self.learner.data
        if self.learner.model.info.note:
            self.narrator.say(f"  {self.learner.model.info.note}")
        if first is not None:
            self.learner.adopt(first.engine, first.sources)
            self.learner.model.init_head_from(first.probe.weight, first.probe.bias)
        valid = self.learner.predictions("valid")
        name = "probe" if first is not None else "untrained network"
        self.best = Best(valid, self.learner.state(), self.data.image_size, name)

    def _describe_augmentation(self) -> None:
        reason = "Small changes that leave the label true make few pictures go further."
        self.narrator.step(1, "Data with augmentation", reason)
        started = time.monotonic()
        self.folder.save_figure("augmentation.jpg", self.data.show_batch(12))
        warnings = self._flip_warnings()
        for line in warnings:
            self.narrator.say(f"  ! {line}")
        result = StepResult(
            number=1,
            name="Data with augmentation",
            reason=reason,
            kept=None,
            outcome="; ".join([f"{describe(self.data.augmentation)}; see augmentation.jpg", *warnings]),
            seconds=time.monotonic() - started,
        )
        self.record(result)

    def _flip_warnings(self) -> list[str]:
        """Say where the pictures' labels do not survive being mirrored or turned, by what the probe saw.

        The features of the changed pictures are kept: averaging over views asks for the same ones.
        """
        flips = self.data.augmentation.flip_horizontal or self.data.augmentation.dihedral
        if self.first is None or not flips or self.data.task is not Task.SINGLE_LABEL:
            return []
        with self.narrator.progress("looking at mirrored pictures") as on_progress:
            found = check_flips(
                self.data, self.first.engine, self.first.identity, self.first.probe, on_progress=on_progress
            )
        return [line.strip() for finding in found for line in finding.lines]

    # ---- one phase -------------------------------------------------------------------------

    def _phase(self, phase: Phase) -> None:
        self._restore_best()
        whole = phase.frozen_to == 0
        if whole and not self.body.from_scratch:
            self._unfreeze()
        self.learner.freeze_to(phase.frozen_to)
        if phase.image_size is not None and phase.image_size != self.learner.data.image_size:
            self.learner.set_data(self.learner.data.resize(phase.image_size))
        ratio = choose_ratio(self) if whole and not self.body.from_scratch else 1.0
        fitting = within_budget(self, phase)
        if fitting is None:
            return
        fitting = with_rates(self, fitting, ratio)
        self.narrator.step(phase.step, phase.name[:1].upper() + phase.name[1:], phase.reason)
        started = time.monotonic()
        losses = self._train(fitting)
        after = self.learner.predictions("valid")
        self._doubt(constant_answer(after))
        verdict = self._verdict(after, losses)
        self._judge(fitting, after, time.monotonic() - started, len(losses), verdict)

    def _unfreeze(self) -> None:
        started = time.monotonic()
        reason = "The head has settled, so gradients into the body now carry sense."
        self.narrator.step(5, "Unfreeze", reason)
        self.learner.unfreeze()
        count = sum(p.numel() for group in self.learner.model.parameter_groups() for p in group)
        self.record(
            StepResult(5, "Unfreeze", reason, None, f"{count:,} parameters train", time.monotonic() - started)
        )

    def _doubts_about_the_data(self) -> list[str]:
        labels = self.data.samples.labels[self.data.rows("train")]
        count = len(self.data.classes)
        tags = self.data.task is Task.MULTI_LABEL
        counts = labels.sum(0) if tags else np.bincount(labels[labels >= 0], minlength=count)
        few = "" if tags else too_few_rows(len(self.data.rows("valid")))
        return [missing_classes(counts.tolist(), self.data.classes), few]

    def _doubt(self, *lines: str) -> None:
        """Say what makes the figures doubtful."""
        for line in filter(None, lines):
            self.narrator.say(f"  ! {line}")

    def _train(self, phase: Phase) -> list[float]:
        """Train a phase, go back to its best epoch, and return the validation loss after each.

        A phase that cannot be trained to its end, whatever the rate, is judged by what it has reached.
        """
        from headstart.training import DivergedError, HistoryWriter, KeepBest, NonFiniteError

        run, keep = self.learner.run, KeepBest()
        before = len(run.history)
        try:
            self.learner.run_phase(phase, (keep, HistoryWriter(self.folder / "history.jsonl")))
        except (NonFiniteError, DivergedError) as error:
            self._doubt(f"{error.message}: {error.hint}")
        keep.restore(run)
        if run.stop_reason == "interrupted":
            self.stop_reason = "interrupted"
            self.narrator.say("  stopping: what was trained so far is judged, saved and reported")
        elif run.stop_reason:
            self.narrator.say(f"  {run.stop_reason}")
        return [loss for loss in run.history[before:]["valid_loss"] if loss is not None]

    # ---- judging ---------------------------------------------------------------------------

    def _judge(
        self, phase: Phase, after: Predictions, seconds: float, epochs: int, verdict: Verdict | None
    ) -> None:
        gain = gain_in_log_loss(self.best.valid, after)
        accuracy = self.gain_in_metric(self.best.valid, after)
        kept = pays(gain)
        metrics = self.measure(after)
        outcome = self.outcome(metrics, gain, kept, f"the {self.best.name}")
        if kept:
            size = self.learner.data.image_size
            self.best = Best(after, self.learner.state(), size, phase.name)
        self.record(
            StepResult(
                number=phase.step,
                name=phase.name,
                reason=phase.reason,
                kept=kept,
                outcome=outcome,
                seconds=seconds,
                epochs=epochs,
                metrics=metrics,
                gain=gain,
                gain_accuracy=accuracy,
                verdict=verdict,
            )
        )

    def _verdict(self, after: Predictions, losses: Sequence[float]) -> Verdict | None:
        """Compare the losses on training and validation pictures, both without augmentation."""
        if not losses:
            return None
        train = self.learner.predictions("train", limit=max(len(after), 200))
        return diagnose(self.measure(train)["log_loss"].value, losses)

    def _restore_best(self) -> None:
        if self.learner.data.image_size != self.best.size:
            self.learner.set_data(self.learner.data.resize(self.best.size))
        self.learner.set_state(self.best.state)

    def measure(self, predictions: Predictions) -> dict[str, Interval]:
        """Return the metric and the log loss, with their intervals.

        Tags are decided by thresholds that the other half of the rows gives.
        """
        names = dict.fromkeys((self.metric, "log_loss"))
        decided = cross_decided(predictions, self.metric)
        return {name: interval(decided, name) for name in names}

    def gain_in_metric(self, before: Predictions, after: Predictions) -> Gain:
        """Return what was gained in the metric, each decided by thresholds of its own."""
        tables = [cross_decided(table, self.metric) for table in (before, after)]
        return paired(tables[0], tables[1], self.metric)

    def figures(self, metrics: dict[str, Interval]) -> str:
        """Return the metric and the log loss in words."""
        shown = metrics[self.metric]
        name = self.metric.replace("_", " ")
        return (
            f"{name} {shown.value:.1%} ({shown.low:.1%} … {shown.high:.1%}), "
            f"log loss {metrics['log_loss'].value:.3f}"
        )

    def outcome(self, metrics: dict[str, Interval], gain: Gain, kept: bool, rival: str) -> str:
        """Return what a step gave in one sentence."""
        change = f"calibrated log loss {-gain.value:+.4f} ({-gain.high:+.4f} … {-gain.low:+.4f})"
        tail = "kept" if kept else f"not clearly better than {rival}, so undone"
        return f"{self.figures(metrics)}; {change}: {tail}"

    def record(self, result: StepResult) -> None:
        """Keep the result of a step, and tell it."""
        self.steps.append(result)
        self.narrator.outcome(result)


def default_metric(task: Task) -> str:
    """Return what is shown beside the log loss where nobody asks for something else."""
    return "f2" if task is Task.MULTI_LABEL else "accuracy"


def _check_metric(name: str, data: ImageData) -> None:
    """Raise `UsageError` for a metric that the task has no use for, before any picture is looked at."""
    count = len(data.classes)
    targets = np.zeros((1, count) if data.task is Task.MULTI_LABEL else 1)
    measure(Predictions(np.zeros((1, count), np.float32), data.classes, data.task, targets=targets), [name])
