"""The eight steps: each is run, measured against the best model so far, and kept or undone.

The probe comes first and needs neither torch nor a training step: a logistic regression on the
frozen features. Every later step must earn its time against it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.augment import describe
from headstart.errors import UsageError
from headstart.evaluation import Gain, Interval, Predictions, interval, paired
from headstart.imagedata import ImageData
from headstart.inference import predictions_of
from headstart.models import OnnxEngine, TensorSource, cached_engine, fit_probe, weights_identity
from headstart.recipe.clock import Clock, spoken
from headstart.recipe.finish import finish
from headstart.recipe.folder import RunFolder
from headstart.recipe.narrator import Narrator
from headstart.recipe.result import Result, StepResult, Verdict
from headstart.recipe.verdict import diagnose, gain_in_log_loss, pays
from headstart.training import Phase, Plan
from headstart.types import Size

if TYPE_CHECKING:
    import torch

    from headstart.learner import Learner
    from headstart.models import Engine
    from headstart.training import FinderResult

DEFAULT_RATE = 1e-3
LOWEST_RATE = 5e-4
HIGHEST_RATE = 1e-2
BELOW_RISE = 5.0


@dataclass
class Best:
    """The best model so far: how it predicts the validation rows, and how to get it back."""

    valid: Predictions
    state: dict[str, torch.Tensor]
    size: Size
    name: str


@dataclass(frozen=True)
class Body:
    """What to start from: a timm name and where its weights are."""

    arch: str = "resnet34"
    weights: str | Path | None = None
    from_scratch: bool = False


class EightSteps:
    """One run of the recipe over `data`, following `plan`, written to `folder`.

    `rate_ratio` is how many times lower each earlier group's rate is than the next (3 to 10), or None
    to decide by how well the frozen features do. `metric` is shown beside the log loss.
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
        metric: str = "accuracy",
        device: str = "auto",
    ) -> None:
        if rate_ratio is not None and not 1 <= rate_ratio <= 100:
            raise UsageError(f"a rate ratio of {rate_ratio}", "give a number from 3 to 10, or auto")
        self.data, self.plan, self.body = data, plan, body
        self.folder, self.narrator, self.clock = folder, narrator, clock
        self.rate_ratio, self.metric, self.device = rate_ratio, metric, device
        self.steps: list[StepResult] = []
        self.finders: list[dict[str, object]] = []
        self.probe: Predictions | None = None
        self.probe_skill = 0.0
        self.probe_test: Predictions | None = None
        self.stop_reason = ""
        self._learner: Learner | None = None
        self._found: dict[tuple[int, Size], float] = {}

    # ---- the way through -------------------------------------------------------------------

    def run(self) -> Result:
        """Take every step of the plan, then average, calibrate and write everything."""
        self.folder.begin()
        adopted = None if self.body.from_scratch else self._first_probe()
        self._start_learner(adopted)
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

    def _first_probe(self) -> tuple[Engine, dict[str, TensorSource]]:
        """Fit the probe on features of the frozen body, before torch is needed where possible."""
        self.narrator.step(
            0,
            "Probe",
            "A logistic regression on what the pretrained network already sees: the score to beat.",
        )
        started = time.monotonic()
        identity = weights_identity(self.body.arch, self.body.weights)
        engine: Engine | None = cached_engine(identity, self.data.image_size, threads=self.data.threads)
        if isinstance(engine, OnnxEngine) and engine.facts is not None:
            self.data = self.data.for_weights(engine.facts.crop_fraction, engine.facts.interpolation)
        else:
            self.narrator.say("  preparing the frozen body (once for these weights and this size) …")
            self.data, engine = self.learner.data, self.learner.engine()
        sources = {}
        for split in ("train", "valid"):
            with self.narrator.progress(f"looking at {split} pictures") as on_progress:
                sources[split] = self.data.activations(split, engine, identity, on_progress=on_progress)
        train = sources["train"]
        fitted = fit_probe(train.features, train.targets, len(self.data.classes), seed=self.data.seed)
        self.probe_head = (fitted.weight, fitted.bias)
        predictions = {
            split: predictions_of(self.data.samples, source.index, fitted.logits(source.features))
            for split, source in sources.items()
        }
        self.probe = predictions["valid"]
        self.probe_skill = self._skill(self.probe)
        metrics = self.measure(self.probe)
        self.record(
            StepResult(
                number=0,
                name="Probe",
                reason="A logistic regression on the frozen features: every later step must beat it.",
                kept=True,
                outcome=f"{self.figures(metrics)}; penalty {fitted.penalty:.3g} by cross-validation",
                seconds=time.monotonic() - started,
                metrics=metrics,
            )
        )
        train_loss = self.measure(predictions["train"])["log_loss"].value
        self.folder.history(
            step=0,
            name="probe",
            epoch=0,
            train_loss=train_loss,
            valid_loss=metrics["log_loss"].value,
            **{self.metric: metrics[self.metric].value},
            time=time.monotonic() - started,
        )
        if len(self.data.rows("test")):
            # Only now: nobody waits for these, and nothing is chosen by them.
            with self.narrator.progress("looking at test pictures") as on_progress:
                sources["test"] = self.data.activations("test", engine, identity, on_progress=on_progress)
            logits = fitted.logits(sources["test"].features)
            self.probe_test = predictions_of(self.data.samples, sources["test"].index, logits)
        return engine, sources

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

    def _start_learner(self, adopted: tuple[Engine, dict[str, TensorSource]] | None) -> None:
        self.data = self.learner.data
        if self.learner.model.info.note:
            self.narrator.say(f"  {self.learner.model.info.note}")
        if adopted is not None:
            self.learner.adopt(*adopted)
            self.learner.model.init_head_from(*self.probe_head)
        valid = self.learner.predictions("valid")
        name = "probe" if adopted is not None else "untrained network"
        self.best = Best(valid, self.learner.state(), self.data.image_size, name)

    def _describe_augmentation(self) -> None:
        reason = "Small changes that leave the label true make few pictures go further."
        self.narrator.step(1, "Data with augmentation", reason)
        started = time.monotonic()
        self.folder.save_figure("augmentation.jpg", self.data.show_batch(12))
        result = StepResult(
            number=1,
            name="Data with augmentation",
            reason=reason,
            kept=None,
            outcome=f"{describe(self.data.augmentation)}; see augmentation.jpg",
            seconds=time.monotonic() - started,
        )
        self.record(result)

    # ---- one phase -------------------------------------------------------------------------

    def _phase(self, phase: Phase) -> None:
        self._restore_best()
        whole = phase.frozen_to == 0
        if whole and not self.body.from_scratch:
            self._unfreeze()
        self.learner.freeze_to(phase.frozen_to)
        if phase.image_size is not None and phase.image_size != self.learner.data.image_size:
            self.learner.set_data(self.learner.data.resize(phase.image_size))
        ratio = self._choose_ratio() if whole and not self.body.from_scratch else 1.0
        fitting = self._within_budget(phase)
        if fitting is None:
            return
        fitting = self._with_rates(fitting, ratio)
        self.narrator.step(phase.step, phase.name[:1].upper() + phase.name[1:], phase.reason)
        started = time.monotonic()
        losses = self._train(fitting)
        after = self.learner.predictions("valid")
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

    def _choose_ratio(self) -> float:
        started = time.monotonic()
        if self.rate_ratio is not None:
            ratio, why = self.rate_ratio, "as asked for"
        elif self.probe_skill >= 0.8:
            ratio = 10.0
            why = f"frozen features alone go {self.probe_skill:.0%} of the way from guessing to perfect"
        else:
            ratio = 3.0
            why = (
                f"frozen features alone go only {self.probe_skill:.0%} of the way: the body must change more"
            )
        reason = "Early layers see edges and colours, which any pictures share: they need the least change."
        self.narrator.step(6, "Lower rates for earlier groups", reason)
        outcome = f"each group at 1/{ratio:g} of the rate of the next ({why})"
        self.record(StepResult(6, "Lower rates", reason, None, outcome, time.monotonic() - started))
        return ratio

    def _with_rates(self, phase: Phase, ratio: float) -> Phase:
        """Return the phase with a rate for each group, found where the plan leaves it open.

        The finder runs once for each line and size: a rate stays good while these stay.
        """
        if phase.learning_rate is not None:
            return phase
        place = (self.learner.model.frozen_line, self.learner.data.image_size)
        if place not in self._found:
            self._found[place] = self._find_rate(phase, ratio)
        rate, groups = self._found[place], len(self.learner.model.group_starts)
        rates = tuple(rate * ratio ** (number + 1 - groups) for number in range(groups))
        return replace(phase, learning_rate=rates)

    def _find_rate(self, phase: Phase, ratio: float) -> float:
        whole = phase.frozen_to == 0
        reason = "The highest rate at which the loss still clearly improves."
        title = "Learning-rate finder" + (", again" if self.finders else "")
        step = 7 if whole and not self.body.from_scratch else 2
        self.narrator.step(step, title, reason)
        started = time.monotonic()
        groups = len(self.learner.model.group_starts)
        learner = self.learner.precompute() if phase.precompute else self.learner
        # With the whole network each step costs; an epoch of them, or thirty, must do.
        iterations = max(30, min(100, self._steps_per_epoch)) if whole else 100
        found = learner.lr_find(
            [ratio ** (number + 1 - groups) for number in range(groups)],
            iterations=iterations,
            start=1e-6 if whole else 1e-7,
        )
        rate, why = self._choose_rate(found)
        self.finders.append(
            {
                "step": step,
                "title": f"{title}: {phase.name}",
                "rates": found.rates.tolist(),
                "losses": found.losses.tolist(),
                "smoothed": found.smoothed.tolist(),
                "suggestions": dict(found.suggestions),
                "chosen": rate,
                "note": why,
            }
        )
        outcome = f"{rate:.1e} for the head: {why}"
        self.record(StepResult(step, title, reason, None, outcome, time.monotonic() - started))
        return rate

    @property
    def _steps_per_epoch(self) -> int:
        return math.ceil(len(self.data.rows("train")) / self.data.batch_size)

    def _choose_rate(self, found: FinderResult) -> tuple[float, str]:
        """Return the rate for the head, and why.

        From the probe's optimum the loss can often only rise; then the rate stays well below that.
        """
        if found.valley is not None and LOWEST_RATE <= found.valley <= HIGHEST_RATE:
            return found.valley, "the valley of the curve"
        if found.rises is not None:
            rate = min(HIGHEST_RATE, max(LOWEST_RATE, found.rises / BELOW_RISE))
            return rate, f"the loss rises from {found.rises:.1e} on, so {rate / found.rises:.2g} of that"
        return DEFAULT_RATE, f"the default, since {found.note or 'the curve has no valley'}"

    def _within_budget(self, phase: Phase) -> Phase | None:
        """Cut the phase to what fits in the budget; says so, also when nothing of it fits."""
        if self.clock.budget is None:
            return phase
        learner = self.learner.precompute() if phase.precompute else self.learner
        epoch = learner.seconds_per_step() * self._steps_per_epoch
        seen = sum(len(self.data.rows(split)) for split in ("valid", "test"))
        # What follows the phase costs about a third of a training step for each picture and view.
        views = 1 + len(self.data.views)
        reserve = 5 + epoch * seen * views / (3 * len(self.data.rows("train")))
        left = self.clock.left(reserve)
        shorter = phase
        while shorter.epochs * epoch > left and shorter.epochs > 1:
            shorter = shorter.scaled(max(1, shorter.epochs - 1) / shorter.epochs)
        if shorter.epochs * epoch > left:
            self.narrator.say(f"  no time is left for {phase.name} ({spoken(epoch)} an epoch): skipped")
            return None
        if shorter.epochs < phase.epochs:
            self.narrator.say(
                f"  {phase.epochs} epochs would take {spoken(phase.epochs * epoch)}: "
                f"cut to {shorter.epochs} to keep the budget"
            )
        return shorter

    def _train(self, phase: Phase) -> list[float]:
        """Train a phase, go back to its best epoch, and return the validation loss after each."""
        from headstart.training import HistoryWriter, KeepBest

        run, keep = self.learner.run, KeepBest()
        before = len(run.history)
        self.learner.run_phase(phase, (keep, HistoryWriter(self.folder / "history.jsonl")))
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
        accuracy = paired(self.best.valid, after, self.metric)
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

    def _skill(self, predictions: Predictions) -> float:
        """Return how far the accuracy is from guessing (0) to perfect (1)."""
        chance = 1 / max(2, len(self.data.classes))
        accuracy = interval(predictions, "accuracy").value
        return max(0.0, (accuracy - chance) / (1 - chance))

    def measure(self, predictions: Predictions) -> dict[str, Interval]:
        """Return the metric and the log loss, with their intervals."""
        names = dict.fromkeys((self.metric, "log_loss"))
        return {name: interval(predictions, name) for name in names}

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
