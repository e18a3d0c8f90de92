"""The eight steps: each is run, measured against the best model so far, and kept or undone.

The probe comes first and needs neither torch nor a training step: a logistic regression on the
frozen features. Every later step must earn its time against it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from headstart.augment import describe
from headstart.errors import UsageError
from headstart.evaluation import (
    Gain,
    Interval,
    Predictions,
    average,
    constant_answer,
    cross_decided,
    interval,
    measure,
    missing_classes,
    paired,
    too_few_rows,
)
from headstart.imagedata import ImageData
from headstart.processes import current
from headstart.recipe.body import Body
from headstart.recipe.budget import Cost, at_phase, within_budget
from headstart.recipe.clock import Clock
from headstart.recipe.finish import finish
from headstart.recipe.flips import check_flips
from headstart.recipe.folder import RunFolder
from headstart.recipe.interpolation import Mixture, mix_with_best
from headstart.recipe.journal import Journal, Origin, Saving
from headstart.recipe.narrator import Narrator
from headstart.recipe.probing import FirstLook, look_first
from headstart.recipe.rates import choose_ratio, with_rates
from headstart.recipe.result import Result, StepResult, Verdict
from headstart.recipe.soup import combine_snapshots
from headstart.recipe.verdict import diagnose, gain_in_log_loss, pays
from headstart.training import Phase, Plan
from headstart.training.interrupts import AT_ONCE, Terminated, stopped_by
from headstart.types import Size, Task

if TYPE_CHECKING:
    import torch

    from headstart.learner import Learner
    from headstart.training import Callback, Checkpointer, Found, Snapshots


@dataclass
class Best:
    """The best model so far: how it predicts the validation rows, and how to get it back.

    An ensemble has `members`; `state` is then the one to go on training from.
    """

    valid: Predictions
    state: dict[str, torch.Tensor]
    size: Size
    name: str
    members: tuple[Mapping[str, torch.Tensor], ...] = ()


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
        callbacks: Sequence[Callback] = (),
        origin: Origin | None = None,
        saving: Saving | None = None,
    ) -> None:
        if rate_ratio is not None and not 1 <= rate_ratio <= 100:
            raise UsageError(f"a rate ratio of {rate_ratio}", "give a number from 3 to 10, or auto")
        self.data, self.plan, self.body = data, plan.stretched(data.image_size), body
        self.folder, self.narrator, self.clock = folder, narrator, clock
        self.rate_ratio, self.device, self.callbacks = rate_ratio, device, callbacks
        self.metric = metric or default_metric(data.task)
        _check_metric(self.metric, data)
        self.steps: list[StepResult] = []
        self.finders: list[dict[str, object]] = []
        self.first: FirstLook | None = None
        self.stop_reason = ""
        self.reserve = 0.0
        self.costs: dict[int, Cost] = {}
        self._learner: Learner | None = None
        self._snapshots: Snapshots | None = None
        self.found_rates: dict[tuple[int, Size], float] = {}
        self.origin, self.saving = origin or Origin(), saving or Saving()
        self.phases_done = self.epochs_before = 0
        self.under_way: Phase | None = None
        self.journal: Journal
        self.writer: Checkpointer
        self._found: Found | None = None
        folder.warn = lambda text: narrator.say(f"  ! {text}")

    # ---- the way through -------------------------------------------------------------------

    def run(self, journal: Journal | None = None, *, changed: bool = False) -> Result:
        """Take every step of the plan, then average, calibrate and write everything.

        With `journal`, go on from where an earlier process was, with data that may have `changed`.
        """
        with self.folder.locked():
            self._begin(journal, changed)
            try:
                for phase in self.plan.phases[self.phases_done :]:
                    self._phase(phase)
                    if self.stop_reason:
                        break
                    self._phase_done()
            except KeyboardInterrupt as error:
                at_once = self.learner.run.stop_reason == AT_ONCE
                # Where several processes are, each may be somewhere else now.
                if isinstance(error, Terminated) or at_once or not current().alone:
                    raise
                # Between the epochs of two phases: what was kept so far is whole.
                self.stop_reason = "interrupted"
                self.narrator.say("  stopping: the best model so far is saved and reported")
            self._restore_best()
            result = finish(self)
            self.folder.settle()
            if not self.stop_reason:
                self.journal.end()
            current().wait()
            return result

    def _begin(self, journal: Journal | None, changed: bool) -> None:
        """Look first and write down what the run is, or take up what an earlier process left."""
        if journal is None:
            self.folder.begin()
            self.journal = Journal.begin(self)
        else:
            self.journal = journal
            journal.sweep()
            self._found = journal.find()
        if self._found is not None:
            self._go_on(self._found, changed)
            return
        self.folder.write_history()
        self.first = None if self.body.from_scratch else look_first(self)
        self._start_learner(self.first)
        self._doubt(*self._doubts_about_the_data())
        self._describe_augmentation()
        self.writer = self.journal.checkpointer(self)
        self.writer.save(self.learner.run)

    def _go_on(self, found: Found, changed: bool) -> None:
        from headstart.recipe.state import take_state

        take_state(self, found, changed=changed)
        self.writer = self.journal.checkpointer(self)
        self.writer.take_over(found)
        phase = self.under_way.name if self.under_way is not None else "the next phase"
        self.narrator.say(f"  goes on with {phase} after step {found.state['step']}")
        for note in dict.fromkeys((*found.notes, *self.journal.version_notes())):
            self.narrator.say(f"  ! {note}")

    def _phase_done(self) -> None:
        """Write down what the phase gave; the next one starts from the best model so far."""
        self.phases_done += 1
        self.under_way = None
        self._restore_best()
        self.writer.watch(())
        self.writer.save(self.learner.run)

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
                callbacks=(*self.narrator.callbacks(self.metric), *self.callbacks),
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
        if current().first:
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
        if self.under_way is None:
            self.under_way = self._prepared(phase)
            self.epochs_before = len(self.learner.run.history)
        fitting = self.under_way
        if fitting is None:
            return
        self.narrator.step(phase.step, phase.name[:1].upper() + phase.name[1:], phase.reason)
        started = time.monotonic()
        losses = self._train(fitting)
        trained = self.learner.predictions("valid")
        self._doubt(constant_answer(trained))
        verdict = self._verdict(trained, losses)
        seconds, before = time.monotonic() - started, self.best.state
        self._judge(fitting, mix_with_best(self, fitting, trained), seconds, len(losses), verdict)
        if self._snapshots is not None and not self.stop_reason:
            how = self.plan.settings.snapshots
            combine_snapshots(self, fitting, before, self._snapshots.load(), how)

    def _prepared(self, phase: Phase) -> Phase | None:
        """Return the phase with its rates, and as many epochs as there is time for: None without time."""
        at_phase(self.learner, phase)
        fitting = within_budget(self, phase)
        if fitting is None:
            return None
        ratio = 1.0
        if phase.frozen_to == 0 and not self.body.from_scratch:
            self._unfreeze()
            ratio = choose_ratio(self)
        return with_rates(self, fitting, ratio)

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
        from headstart.recipe.epochs import EpochRows
        from headstart.training import Deadline, DivergedError, KeepBest, NonFiniteError, Snapshots

        run, keep = self.learner.run, KeepBest()
        found, self._found = self._found, None
        callbacks: list[Callback] = [keep, EpochRows(self.folder), self.writer]
        self._snapshots = None
        if self.plan.settings.snapshots != "none" and phase.frozen_to == 0:
            self._snapshots = Snapshots(self.folder.shared / "snapshots")
            callbacks.append(self._snapshots)
        if self.clock.budget is not None:
            # The forecast cut the phase to the budget; the deadline keeps it where the forecast was wrong.
            callbacks.append(Deadline(lambda: self.clock.left(self.reserve)))
        within = found if found and found.extra["under_way"] else None
        try:
            self.learner.run_phase(phase, callbacks, resume=within)
        except (NonFiniteError, DivergedError) as error:
            self._doubt(f"{error.message}: {error.hint}")
        if run.stop_signal == signal.SIGTERM:
            raise stopped_by(signal.SIGTERM, self.folder.shared)
        keep.restore(run)
        if run.stop_reason == "interrupted":
            self.stop_reason = "interrupted"
            self.narrator.say("  stopping: what was trained so far is judged, saved and reported")
        elif run.stop_reason:
            self.narrator.say(f"  {run.stop_reason}")
        return [loss for loss in run.history[self.epochs_before :]["valid_loss"] if loss is not None]

    # ---- judging ---------------------------------------------------------------------------

    def _judge(
        self, phase: Phase, mixture: Mixture, seconds: float, epochs: int, verdict: Verdict | None
    ) -> None:
        gain = gain_in_log_loss(self.best.valid, mixture.judged)
        accuracy = self.gain_in_metric(self.best.valid, mixture.judged)
        # The head is at its optimum before it trains: see ADR 12.
        head_alone = phase.frozen_to != 0 and not self.body.from_scratch
        kept = pays(gain, clearly=head_alone)
        metrics = self.measure(mixture.valid)
        outcome = self.outcome(metrics, gain, kept, f"the {self.best.name}")
        if kept:
            size = self.learner.data.image_size
            self.best = Best(mixture.valid, self.learner.state(), size, phase.name)
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

    def ask(self, question: Callable[[Learner], Predictions]) -> Predictions:
        """Return what the best model answers: of an ensemble the mean over its members."""
        if not self.best.members:
            return question(self.learner)
        answers = []
        for state in self.best.members:
            self.learner.set_state(state)
            answers.append(question(self.learner))
        self.learner.set_state(self.best.state)
        return average(answers)

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
        tail = f"not clearly better than {rival}, so undone"
        if kept:
            share = f"better than {rival} in {gain.probability:.0%} of the resamples, so "
            tail = f"{'' if gain.low > 0 else share}kept"
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
