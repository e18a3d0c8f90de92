"""`Learner`: data, a classifier and one training run, with the verbs of the course.

Every verb is a few lines over the rooms below. What lies below the frozen line gives a constant
output for a constant input, so it runs through an inference engine, once per picture and view;
what lies above it is trained.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from headstart.activations import Activations
from headstart.augment import Mixing, mirrors, policy_views, symmetries_of
from headstart.augment.mixing import Kind
from headstart.deploy import About, Manifest, member_of, save_bundle
from headstart.deploy.explaining import explained
from headstart.errors import ConfigError, UsageError
from headstart.evaluation import (
    METRICS,
    Interpretation,
    Interval,
    Novelty,
    Predictions,
    SetRule,
    TagInterpretation,
    average,
    cross_decided,
    interval,
    measure,
    metric,
    refuse_mirrored,
)
from headstart.evaluation.metrics import MetricLike
from headstart.imagedata import ImageData
from headstart.inference import (
    Forward,
    choose_device,
    module_forward,
    predict,
    predict_samples,
    predictions_of,
)
from headstart.models import (
    Classifier,
    TensorSource,
    create_classifier,
    fit_probe,
    weights_identity,
)
from headstart.training import (
    Callback,
    Checkpointer,
    FinderResult,
    Found,
    LabelCounts,
    Loss,
    Phase,
    Plan,
    RateWarning,
    Run,
    Schedule,
    Settings,
    TrialsResult,
    autocast_for,
    constant,
    find_checkpoint,
    fit,
    flat_cos,
    group_rates,
    guess_loss,
    load_checkpoint,
    loss_for,
    lr_find,
    make_optimizer,
    move_line,
    one_cycle,
    progress_for,
    recalibrate_batch_norm,
    resolve_precision,
    save_checkpoint,
    set_threads,
    sgdr,
    try_rates,
)
from headstart.training.advice import Conditions, RateNotes, advise
from headstart.training.compiling import compiled_if_it_pays
from headstart.training.finder import seconds_per_step
from headstart.training.phases import phase_callbacks
from headstart.types import Batch, BatchSource, Prepare, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from headstart.evaluation import Explanation
    from headstart.models import Engine, Probe

RateSpec = float | slice | Sequence[float]
OnProgress = Callable[[int, int], None]

# Each rate is tried on so many pictures, in 6 to 16 steps: 600 to 1,100 pictures in all (measured on five
# sets), since rates that do harm are given up at once.
TRIAL_PICTURES = 160


class Learner:
    """Trains a classifier on `ImageData`.

    `arch` is the name of any timm model, a `Classifier`, or any `nn.Module` as a body. A pretrained
    body starts frozen, with only the head to train; one from scratch starts unfrozen. `head` is
    `linear` (pooled features → classes) or `course` (batch norm, dropout, 512, ReLU, batch norm,
    dropout, classes).

    Rates are a number for all groups, `slice(a, b)` (geometric from a at the first group to b at the
    head), `slice(b)` (b for the head, b/10 for the rest) or one number per group.
    """

    def __init__(
        self,
        data: ImageData,
        arch: str | torch.nn.Module = "resnet34",
        *,
        weights: str | Path | None = None,
        from_scratch: bool = False,
        head: str = "linear",
        metrics: Sequence[MetricLike] = ("accuracy",),
        settings: Settings | None = None,
        device: str = "auto",
        callbacks: Sequence[Callback] | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self._figures = tuple(metric(each) for each in metrics)
        self.metrics = tuple(each.name for each in self._figures)
        self.identity: str | None = None
        if isinstance(arch, Classifier):
            self.model = arch
        else:
            self.model = create_classifier(
                arch,
                len(data.classes),
                weights=weights,
                from_scratch=from_scratch,
                image_size=data.image_size,
                head=head,
                seed=self.settings.seed,
            )
            if isinstance(arch, str) and not from_scratch:
                self.identity = weights_identity(arch, weights)
        self.data = self._as_the_body_takes(data)
        # Batches are small and pictures few: the statistics from pretraining are the better ones. 320
        # flowers, mobilenetv2_100, three epochs: 90.2 % of 400 held out against 89.5 %.
        self.model.fixed_batch_norm = self.settings.batch_norm == "eval" and not from_scratch
        self.device = choose_device(device)
        self.model.to(self.device, memory_format=self.model.memory_format)  # type: ignore[call-overload]
        self.precision = resolve_precision(self.device, self.settings.precision)
        self.run = Run(
            model=self.model,
            seed=self.settings.seed,
            device=self.device,
            micro_batch=self.settings.micro_batch,
        )
        self.callbacks: tuple[Callback, ...] = (
            (progress_for(self.metrics[0]),) if callbacks is None else tuple(callbacks)
        )
        self.loss = self._standard_loss = self._make_loss()
        self._known = Activations(self.model, self.identity, self.run)
        self._notes = RateNotes()
        self._floor = self._views = 0
        self.model.freeze_to(0 if from_scratch else -1)

    def _as_the_body_takes(self, data: ImageData) -> ImageData:
        """Return the data at the size that the body takes (whole patches), resized as its weights ask.

        Balanced as the settings say, where they say so.
        """
        if self.settings.balance is not None and self.settings.balance != data.balance:
            data = data.with_options(balance=self.settings.balance)
        if data.image_size != self.model.image_size:
            data = data.resize(self.model.image_size)
        return data.for_weights(self.model.crop_fraction, self.model.interpolation)

    def _make_loss(self) -> Loss:
        """Return the loss of the settings, for the classes as the training rows have them."""
        chosen, balance = self.settings.loss, self.data.balance
        if balance == "sampler" and chosen in ("class_balanced", "logit_adjusted"):
            raise UsageError(
                f"the sampler balances the classes already, and the loss {chosen} would once more",
                "choose the loss or balance='sampler', not both",
            )
        labels = self.data.samples.labels[self.data.rows("train")]
        return loss_for(
            self.data.task,
            chosen,
            label_smoothing=self.settings.label_smoothing,
            counts=LabelCounts.of(labels, len(self.data.classes)),
            balanced=balance == "loss",
        )

    # ---- the frozen line -------------------------------------------------------------------

    def freeze_to(self, group: int) -> None:
        """Freeze all groups before `group` (negative numbers count from the head).

        Raises `UsageError` when activations are cached above that line.
        """
        before = self.model.frozen_line
        self.model.freeze_to(group)
        if self.model.frozen_line < self._floor:
            self.model.freeze_at(before)
            raise UsageError(
                "the frozen line cannot move below the cached activations",
                "move it on the learner that precompute() was called on",
            )

    def freeze(self) -> None:
        """Freeze everything but the head."""
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Train every group."""
        self.freeze_to(0)

    def precompute(self, *, views: int = 0) -> Learner:
        """Return a learner that trains on activations below the line, computed once.

        It shares the model, the run and the data, and works at any line. Augmentation has no effect
        meanwhile, since each picture is looked at once; with `views`, so many augmented draws of each are
        computed instead, and epoch e trains on number e modulo `views`. Raises `UsageError` when nothing
        is frozen, or when batch norm below the line still collects statistics.
        """
        if views < 0:
            raise UsageError(f"{views} views", "give 1 or more, or 0 for the plain pictures")
        if self.model.frozen_line == 0:
            raise UsageError("nothing is frozen, so nothing can be precomputed", "call freeze() first")
        if self.model.frozen_batch_norm == "train":
            raise UsageError(
                "batch norm below the line is set to train, so its output changes",
                "set learn.model.frozen_batch_norm = 'eval'",
            )
        other = copy.copy(self)
        other._floor, other._views = self.model.frozen_line, views
        return other

    # ---- sources ---------------------------------------------------------------------------

    def set_data(self, data: ImageData) -> None:
        """Go on with other data: another size or augmentation, or other pictures of the same classes."""
        if data.classes != self.data.classes:
            raise UsageError(
                f"the model knows {len(self.data.classes)} classes and the data has {len(data.classes)}, "
                "or they have other names",
                "make a new Learner for other classes",
            )
        self.model.set_image_size(data.image_size)
        self.data = self._as_the_body_takes(data)
        if self.loss is self._standard_loss:
            self.loss = self._standard_loss = self._make_loss()

    def engine(self) -> Engine:
        """Return what runs the part below the frozen line: pixels in, activations out."""
        return self._known.engine(self.data)

    def activations(
        self,
        split: str,
        prepare: Prepare | None = None,
        on_progress: OnProgress | None = None,
        *,
        epoch: int | None = None,
    ) -> TensorSource | None:
        """Return what arrives at the frozen line for each picture of a split; see `Activations.of`."""
        return self._known.of(self.data, split, prepare, on_progress, epoch=epoch)

    def adopt(self, engine: Engine, sources: Mapping[str, TensorSource]) -> None:
        """Take over an engine for the frozen line, and what it gave for the plain view of each split."""
        self._known.adopt(self.data, engine, sources)

    def _mixing(self, kind: str, alpha: float | None) -> Mixing | None:
        if kind == "none":
            return None
        return Mixing(cast(Kind, kind), len(self.data.classes), alpha, self.settings.seed)

    @property
    def _augments(self) -> bool:
        return self._floor == 0

    # ---- training --------------------------------------------------------------------------

    def _prepare_run(self, rates: Sequence[float]) -> None:
        """Set the run's precision and give its optimiser what trains now."""
        # Autocast pays where convolutions run; a head alone stays in float32.
        alone = self.model.frozen_line == self.model.head_stage
        self.run.precision = "float32" if alone else self.precision
        groups = self.model.parameter_groups()
        if self.run.optimizer is None:
            self.run.optimizer = make_optimizer(
                groups, rates, name=self.settings.optimizer, weight_decay=self.settings.weight_decay
            )
        else:
            move_line(self.run.optimizer, groups, rates, weight_decay=self.settings.weight_decay)

    def _rates(self, rates: RateSpec) -> list[float]:
        return group_rates(rates, len(self.model.group_starts), self.settings.rate_ratio)

    def lr_find(
        self,
        rates: RateSpec = 1.0,
        *,
        start: float = 1e-7,
        end: float = 10.0,
        iterations: int = 100,
    ) -> FinderResult:
        """Raise the rate from `start` to `end` over `iterations` batches and record the loss.

        `rates` gives the proportions between the groups; the rates recorded are those of the head.
        Weights, buffers, optimiser and random state are left bit for bit as they were. Source: Smith,
        arXiv 1506.01186; the suggestions are those of fastai 2.
        """
        peaks = self._rates(rates)
        with self._looking_for_rates(peaks) as (source, forward):
            found = lr_find(
                self.run,
                source,
                forward=forward,
                loss=self.loss,
                rates=peaks,
                start=start,
                end=end,
                iterations=iterations,
            )
        self._notes.conditions, self._notes.found = self._conditions(), found.valley
        return found

    def try_rates(self, rates: RateSpec = 1.0, *, steps: int | None = None) -> TrialsResult:
        """Train a few steps at each of some rates, each from where things stand; all is put back.

        What `lr_find` cannot see, this does: whether many steps at a rate undo what the network knows.
        For a whole network that goes on from a trained head. `rates` gives the proportions between the
        groups; `steps` at each rate are by default those that 160 pictures take. See
        `headstart.training.try_rates`.
        """
        peaks = self._rates(rates)
        with self._looking_for_rates(peaks) as (source, forward):
            count = steps or max(6, min(16, round(TRIAL_PICTURES / self.data.batch_size)))
            found = try_rates(self.run, source, forward=forward, loss=self.loss, rates=peaks, steps=count)
        self._notes.conditions, self._notes.found = self._conditions(), found.rate
        return found

    @contextlib.contextmanager
    def _looking_for_rates(self, peaks: Sequence[float]) -> Iterator[tuple[BatchSource, torch.nn.Module]]:
        """Give the training batches and what takes them, with an optimiser of its own for the run."""
        mixing = self._mixing(self.settings.mixing if self._augments else "none", self.settings.mixing_alpha)
        source, forward = self._known.training(
            self.data, augment=self._augments, mixing=mixing, views=self._views
        )
        before, precision = self.run.optimizer, self.run.precision
        self.run.optimizer = None
        try:
            self._prepare_run(peaks)
            yield source, forward
        finally:
            self.run.optimizer, self.run.precision = before, precision

    def _conditions(self) -> Conditions:
        return Conditions(
            self.data.batch_size,
            self.model.frozen_line,
            self.data.image_size,
            self.model.arch,
            self.settings.optimizer,
        )

    def seconds_per_step(self, steps: int = 3) -> float:
        """Measure a few training steps as things stand; all is put back bit for bit."""
        peaks = self._rates(1.0)
        with self._looking_for_rates(peaks) as (source, forward):
            each = seconds_per_step(
                self.run, source, forward=forward, loss=self.loss, rates=peaks, steps=steps
            )
        return self.run.ranks.of_first(each)

    def run_phase(
        self, phase: Phase, callbacks: Sequence[Callback] = (), *, resume: Found | None = None
    ) -> None:
        """Train one phase of a plan: move the line, set the size, run its epochs.

        `resume`: a checkpoint within the phase, to go on from. Raises `UsageError` when the phase has no
        learning rate: find one with `lr_find`.
        """
        if phase.learning_rate is None:
            raise UsageError(f"the phase {phase.name!r} has no learning rate", "find one with lr_find()")
        # Sizes that grow cut a phase into stretches; a checkpoint knows its own.
        known = {} if resume is None else resume.extra
        height, width = known.get("first_size", self.data.image_size)
        stretches = phase.stretches((height, width))
        first = known.get("stretch", 0)
        for number in range(first, len(stretches)):
            facts = {
                "phase": Plan((phase,), self.settings).to_yaml(),
                "stretch": number,
                "first_size": [height, width],
            }
            self._run_stretch(stretches[number], callbacks, facts, resume if number == first else None)
            if self.run.stop_reason:
                break

    def _run_stretch(
        self, phase: Phase, callbacks: Sequence[Callback], facts: dict[str, object], resume: Found | None
    ) -> None:
        """Train a phase of one picture size; `facts` go into its checkpoints."""
        assert phase.learning_rate is not None
        self.freeze_to(phase.frozen_to)
        if phase.image_size is not None and phase.image_size != self.data.image_size:
            self.set_data(self.data.resize(phase.image_size))
        if phase.batch_size is not None:
            self.data = self.data.with_options(batch_size=phase.batch_size)
        augment = phase.augment and self._augments and not phase.precompute
        mixing = self._mixing(self.settings.mixing, self.settings.mixing_alpha)
        if phase.mixing is not None:
            mixing = self._mixing(phase.mixing, phase.mixing_alpha)
        if phase.precompute or not self._augments:
            mixing = None
        rates = self._rates(phase.learning_rate)
        self._prepare_run(rates)
        plain = None
        if self.settings.batch_norm == "recalibrate":
            plain = self._known.training(self.data, augment=False, shared=False)
        guess = guess_loss(len(self.data.classes), tags=self.data.task is Task.MULTI_LABEL)
        own = phase_callbacks(phase, self.settings, guess=guess, plain=plain)
        every = (*self.callbacks, *callbacks, *own)
        for callback in every:
            if isinstance(callback, Checkpointer):
                callback.facts |= self._facts() | facts
        if resume is not None:
            load_checkpoint(resume, self.run, callbacks=every)
        views = phase.views if phase.precompute else self._views
        source, forward = self._known.training(
            self.data, augment=augment or views > 0, mixing=mixing, views=views
        )
        size = "x".join(map(str, self.data.image_size))
        forward = compiled_if_it_pays(
            self.run,
            source,
            forward,
            self.loss,
            asked=self.settings.compile,
            steps=phase.epochs * len(source),
            key=f"{phase.name}: {phase.epochs} epochs from stage {self.model.frozen_line} at {size}",
            whole=self.model.frozen_line != self.model.head_stage,
        )
        fit(
            self.run,
            source,
            epochs=phase.epochs,
            schedule=phase.schedule,
            rates=rates,
            loss=self.loss,
            forward=forward,
            validate=self.validate,
            callbacks=every,
            gradient_clip=self.settings.gradient_clip,
            name=phase.name,
            step=phase.step,
            resume=resume is not None,
        )

    def _facts(self) -> dict[str, object]:
        return {
            "frozen_line": self.model.frozen_line,
            "classes": list(self.data.classes),
            "image_size": list(self.data.image_size),
            "batch_size": self.data.batch_size,
        }

    def _fit(self, epochs: int, rates: RateSpec, schedule: Schedule, name: str) -> None:
        self._advise(rates, name)
        starts = self.model.group_starts
        at = max(group for group, start in enumerate(starts) if start <= self.model.frozen_line)
        self.run_phase(Phase(name, epochs, schedule, learning_rate=tuple(self._rates(rates)), frozen_to=at))

    def _advise(self, rates: RateSpec, name: str) -> None:
        """Warn before rates are used for what they were not found for; see `headstart.training.advice`."""
        notes = self._notes
        one = float(rates) if isinstance(rates, int | float) else None
        groups = sum(1 for group in self.model.parameter_groups() if group)
        for line in advise(notes, one, self._conditions(), groups=groups, verb=name):
            warnings.warn(line, RateWarning, stacklevel=4)
        if self.model.frozen_line == self.model.head_stage:
            notes.head_rate = self._rates(rates)[-1]

    def fit(self, epochs: int, rates: RateSpec) -> None:
        """Train with constant rates."""
        self._fit(epochs, rates, constant(), "fit")

    def fit_one_cycle(
        self,
        epochs: int,
        rates: RateSpec = 1e-3,
        *,
        div: float = 25.0,
        div_final: float = 1e5,
        pct_start: float = 0.25,
    ) -> None:
        """Train with one cycle: rates up, then down to nothing, momentum the other way.

        The rate starts at the peak / `div`, reaches it after `pct_start` of the way and ends at the
        peak / `div_final`. Source: Smith, arXiv 1803.09820; the numbers are those of fastai 2.
        """
        schedule = one_cycle(div=div, div_final=div_final, pct_start=pct_start)
        self._fit(epochs, rates, schedule, "fit_one_cycle")

    def fit_sgdr(self, cycles: int, rates: RateSpec, *, cycle_len: int = 1, cycle_mult: int = 1) -> None:
        """Train `cycles` cosine cycles with restarts, each `cycle_mult` times as long as the last.

        The total is Σ cycle_len · cycle_mult^k epochs. Source: Loshchilov and Hutter, arXiv 1608.03983.
        """
        schedule = sgdr(cycles, cycle_len, cycle_mult)
        self._fit(schedule.epochs or cycles, rates, schedule, "fit_sgdr")

    def fit_flat_cos(self, epochs: int, rates: RateSpec) -> None:
        """Train with flat rates for three quarters of the time and a cosine down to nothing."""
        self._fit(epochs, rates, flat_cos(), "fit_flat_cos")

    def fine_tune(self, epochs: int, rate: float = 2e-3, *, freeze_epochs: int = 1) -> None:
        """Train the head, then everything: one cycle each, the second at half the rate.

        As fastai 2 does: the first with 99 % warm-up, the second from rate/200 at the first group to
        rate/2 at the head.
        """
        self.freeze()
        self.fit_one_cycle(freeze_epochs, slice(rate), pct_start=0.99)
        self.unfreeze()
        half = rate / 2
        self.fit_one_cycle(epochs, slice(half / 100, half), pct_start=0.3, div=5.0)

    def recalibrate_batch_norm(self) -> int:
        """Recompute the batch-norm statistics above the frozen line from the plain training pictures.

        Returns how many batch norms lie there. For the whole body, `unfreeze()` first. See
        `training.recalibrate_batch_norm`.
        """
        source, part = self._known.training(self.data, augment=False, shared=False)
        return recalibrate_batch_norm(part, source)

    def fit_probe(
        self, on_progress: OnProgress | None = None, *, flips: bool = False, views: int = 0
    ) -> Probe:
        """Set the linear head to the optimum of a logistic regression on the frozen features.

        The best head there is for frozen features without augmentation, in a closed run of seconds;
        fine-tuning from it keeps what the body knows (Kumar et al. 2022, arXiv 2202.10054). `flips` adds
        the mirrored pictures to the plain ones, `views` so many augmented draws of each; all views of a
        picture are held out together when the penalty is chosen.
        """
        self.freeze()
        features, targets, groups = self._known.bank(self.data, on_progress, flips=flips, views=views)
        classes, seed = len(self.data.classes), self.settings.seed
        probe = fit_probe(features, targets, classes, seed=seed, groups=groups)
        self.model.init_head_from(probe.weight, probe.bias)
        return probe

    # ---- looking at it ---------------------------------------------------------------------

    def predictions(
        self, split: str = "valid", prepare: Prepare | None = None, *, limit: int | None = None
    ) -> Predictions:
        """Return the `Predictions` of a split, in float32; `limit` takes at most that many rows."""
        source, module = self._known.plain(self.data, split, prepare, limit)
        forward = module_forward(module, self.device, fits=self.run.adjustments.fits)
        return self._predicted(forward, source, split, limit)

    def _predicted(
        self, forward: Forward, source: BatchSource, split: str, limit: int | None = None
    ) -> Predictions:
        # Activations are there of all rows, whatever the limit.
        among = self.data.rows(split, None if isinstance(source, TensorSource) else limit)
        return predict_samples(
            forward,
            self.data.samples,
            source,
            among=among,
            lost=lambda: self.data.lost_codes,
            ranks=self.run.ranks,
        )

    def validate(self, split: str = "valid") -> dict[str, float]:
        """Return the loss and the metrics of a split, over all its rows at once."""
        source, module = self._known.plain(self.data, split)
        alone = self.model.frozen_line == self.model.head_stage
        precision = "float32" if alone else self.precision
        forward = module_forward(
            module,
            self.device,
            lambda: autocast_for(self.device, precision),
            fits=self.run.adjustments.fits,
        )
        predictions = self._predicted(forward, source, split)
        values = measure(self._decided(predictions), ("log_loss", *self._figures))
        return {"valid_loss": values["log_loss"], **values}

    def tta(self, split: str = "valid", *, policy: str | None = None) -> Predictions:
        """Return predictions averaged over several views of each picture.

        `policy`: the views by name, see `augment.POLICIES` (None: those that the augmentation allows, the
        plain one alone where it never mirrors). Raises `UsageError` for an unknown policy, and where a
        policy mirrors pictures that are never mirrored in training, or that show other classes mirrored.
        """
        if policy is None:
            return average([self.predictions(split, view) for view in self.data.views])
        plain, symmetries = self.data.evaluation, symmetries_of(self.data.augmentation)
        chosen = policy_views(policy, plain, symmetries)
        seen = [self.predictions(split, view) for view in chosen.views]
        if mirrors(policy, symmetries) and seen[0].task is Task.SINGLE_LABEL:
            refuse_mirrored(seen[0], self.predictions(split, dataclasses.replace(plain, flip=True)))
        return average(seen, chosen.weights)

    def interpret(self, split: str = "valid") -> Interpretation | TagInterpretation:
        """Return tables and pictures of what the model gets right and wrong.

        Tags are decided by thresholds that the other half of the rows gives, fitted to the first metric.
        """
        predictions = self.predictions(split)
        columns, picture, explain = self.data.columns, self.data.picture, self.explain
        if predictions.task is Task.MULTI_LABEL:
            decided = self._decided(predictions)
            return TagInterpretation(decided, picture, columns=columns, explain=explain)
        return Interpretation(predictions, picture, columns=columns, explain=explain)

    def explain(
        self,
        rows: Sequence[int] | None = None,
        *,
        label: str | Sequence[str] | None = None,
        method: str = "auto",
    ) -> list[Explanation]:
        """Return where in some pictures the model finds what it says, as heat maps; see `Predictor.explain`.

        `rows`: row numbers of the data's samples, such as `Example.index` (None: the nine highest validation
        losses). `label`: the class or tag to explain, or one for each row (None: the most probable of each).
        """
        chosen = [each.index for each in self.interpret().top_losses()] if rows is None else list(rows)
        if not chosen:
            return []
        views = [self.data.evaluation(self.data.picture(row)) for row in chosen]
        index, most = np.array(chosen, np.int64), self.data.batch_size
        forward = module_forward(self.model, self.device, fits=self.run.adjustments.fits)
        spans = [slice(first, first + most) for first in range(0, len(views), most)]
        logits = [forward(Batch(np.stack(views[span]), index[span], index[span])) for span in spans]
        predictions = predictions_of(self.data.samples, index, np.concatenate(logits))
        return explained([self.model], views, predictions, label=label, method=method, batch_size=most)

    def show_results(self, count: int = 9, *, split: str = "valid", seed: int = 0) -> Figure:
        """Return a figure of some pictures of a split with prediction and truth; what is wrong in red."""
        return self.interpret(split).show_results(count, seed=seed)

    def embeddings(self, split: str = "valid") -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return what arrives at the head for each picture of a split: (rows, features), and row numbers."""
        below = module_forward(self.model.lower(self.model.head_stage), self.device)
        return predict(below, self.data.source(split))

    def plot_embeddings(self, split: str = "valid", *, method: str = "auto") -> Figure:
        """Return a map of a split's pictures as the network sees them, with thumbnails; see `project`.

        What is near each other on it, the network can hardly tell apart. Colours are those of the truth.
        """
        from headstart.evaluation import plot_embeddings, project

        features, rows = self.embeddings(split)
        places = project(features, method=method, seed=self.settings.seed)
        names = self.data.samples.label_names()
        return plot_embeddings(
            places,
            [names[row] or "(no label)" for row in rows.tolist()],
            picture=lambda place: self.data.picture(int(rows[place])),
            title=f"{split}: {len(rows)} pictures",
        )

    def _decided(self, predictions: Predictions) -> Predictions:
        first = self.metrics[0] if self.metrics else ""
        return cross_decided(predictions, first if first in METRICS else "f2")

    def score(self, split: str = "valid") -> Mapping[str, Interval]:
        """Return each metric of a split with its 95 % interval."""
        predictions = self._decided(self.predictions(split))
        return {each.name: interval(predictions, each) for each in (*self._figures, metric("log_loss"))}

    def summary(self) -> str:
        """Return a table of the stages, their groups, parameters, and the frozen line."""
        return self.model.summary()

    # ---- keeping it ------------------------------------------------------------------------

    def state(self) -> dict[str, torch.Tensor]:
        """Return a copy of the weights and buffers, for `set_state`."""
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def set_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put weights and buffers back to a copy from `state`; the optimiser starts anew."""
        self.model.load_state_dict(dict(state))
        self.run.optimizer = None

    def save(self, path: str | Path) -> Path:
        """Write a checkpoint (weights, optimiser, history, random states) into a folder.

        Returns the checkpoint's own folder. Raises `StorageError` when the disk is full.
        """
        return save_checkpoint(Path(path), self.run, extra=self._facts())

    def load(self, path: str | Path) -> None:
        """Read the newest good checkpoint that `save` wrote into a folder.

        Raises `ConfigError` when none is whole, or when it is of another model or other classes.
        """
        found = find_checkpoint(Path(path))
        self._check_classes(found)
        if self.run.optimizer is None:
            self._prepare_run(self._rates(1.0))
        load_checkpoint(found, self.run)
        self.model.freeze_at(int(found.extra["frozen_line"]))

    def resume(self, path: str | Path, callbacks: Sequence[Callback] = ()) -> tuple[str, ...]:
        """Go on with the training that a `Checkpointer` wrote into a folder, to the end of its phase.

        On a CPU the outcome has the bits that training without a break would have had: the number of
        threads that compute is set to what it was, that of threads that read pictures has no effect.
        `callbacks` are those that `run_phase` got, beside the learner's own; checkpoints go on where
        they are, unless a `Checkpointer` is among them. Returns what a person should know: which checkpoint
        was passed over, and what is not as it was. Raises `InputMissingError` where there is nothing to
        resume, `ConfigError` where no checkpoint is whole, or of this model, these classes and settings.
        """
        found = find_checkpoint(Path(path))
        self._check_classes(found)
        if "phase" not in found.extra:
            raise ConfigError(f"{found.path} was not written while a phase was trained", "use load() for it")
        plan = Plan.from_yaml(found.extra["phase"])
        if plan.settings != self.settings:
            raise ConfigError(
                f"the settings are {self.settings}, and were {plan.settings}",
                "make the Learner with the settings that the training began with",
            )
        height, width = found.extra["image_size"]
        if self.data.image_size != (height, width):
            self.set_data(self.data.resize((height, width)))
        self.data = self.data.with_options(batch_size=found.extra["batch_size"])
        notes = set_threads(found)
        every = tuple(callbacks)
        if not any(isinstance(callback, Checkpointer) for callback in (*self.callbacks, *every)):
            folder = found.path.parent
            every = (*every, Checkpointer(folder))
        for callback in (*self.callbacks, *every):
            if isinstance(callback, Checkpointer):
                callback.take_over(found)
        self.run_phase(plan.phases[0], every, resume=found)
        return (*found.notes, *notes)

    def _check_classes(self, found: Found) -> None:
        if tuple(found.extra.get("classes", ())) != self.data.classes:
            raise ConfigError(f"the checkpoint {found.path} is of other classes", "load it with its own data")

    def export(
        self,
        path: str | Path,
        *,
        temperature: float = 1.0,
        thresholds: ArrayLike | None = None,
        tta: bool = False,
        scaling: ArrayLike | None = None,
        sets: SetRule | None = None,
        novelty: Novelty | None = None,
        metrics: Mapping[str, Mapping[str, float | None]] | None = None,
        about: About | None = None,
        members: Sequence[Mapping[str, torch.Tensor]] = (),
        replace: bool = False,
    ) -> Path:
        """Write a bundle: the folder that `headstart.load` reads, and that holds no code.

        `temperature` divides the logits, and `scaling` (2, classes) then multiplies and shifts each;
        `thresholds` (tags,) decide about tags; `sets` and `novelty` say which classes a picture may be of,
        and whether of any (see `evaluation.fit_sets` and `fit_novelty`); with `tta` predictions
        are averaged over the views that the augmentation allows, unless asked otherwise; `metrics` (such as
        "valid accuracy") and `about` are what the model card says; without `about`, it tells how many
        pictures there were. `members`: states of this network (see `state`) that make an
        ensemble, whose probabilities are averaged; without any, the network as it is. The bundle is read
        back and compared before it takes its place. Raises `OutputError` when `path` exists and is not to be
        replaced, `UsageError` for a body or head of one's own.
        """
        folder = Path(path)
        augmentation = self.data.augmentation
        member = member_of(
            self.model,
            self.data.evaluation,
            short_side=self.data.cache.short_side,
            background=self.data.background,
        )
        models = [_with_state(self.model, state) for state in members] or [self.model]
        manifest = Manifest(
            members=(member,) * len(models),
            classes=self.data.classes,
            task=self.data.task,
            temperature=temperature,
            thresholds=None if thresholds is None else tuple(map(float, np.asarray(thresholds))),
            views="dihedral"
            if augmentation.dihedral
            else "flips"
            if augmentation.flip_horizontal
            else "plain",
            tta=tta,
            metrics=metrics or {},
            data=self.data.samples.fingerprint(),
            scaling=None if scaling is None else _pair(np.asarray(scaling, np.float64)),
            sets=sets,
            about=about or _about(self.data),
        )
        save_bundle(folder, models, manifest, novelty=novelty, replace_old=replace)
        return folder


def _about(data: ImageData) -> About:
    """What is known of data without a recipe: how many pictures there are, by part and class."""
    known = data.counts
    return About(
        pictures={part: len(data.rows(part)) for part in known},
        counts={part: tuple(counts[name] for name in data.classes) for part, counts in known.items()},
    )


def _pair(rows: NDArray[np.float64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(rows[0].tolist()), tuple(rows[1].tolist())


def _with_state(model: Classifier, state: Mapping[str, torch.Tensor]) -> Classifier:
    """Return a copy of a network with other weights."""
    other = copy.deepcopy(model)
    other.load_state_dict(dict(state))
    return other
