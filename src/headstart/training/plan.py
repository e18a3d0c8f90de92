"""Plans: what to train and when, as data. A plan prints, is saved as YAML, edited and run again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from headstart.errors import ConfigError
from headstart.ordering import BALANCES, Balance
from headstart.storage import write_atomic
from headstart.training.schedules import Schedule
from headstart.training.values import unknown_name
from headstart.types import Size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rate: TypeAlias = float | slice | tuple[float, ...]
"""A learning rate as the course writes it: one number, `slice(low, high)`, `slice(high)`, or one a group."""

MAX_EPOCHS = 100_000
OPTIMIZERS = ("adamw", "sgd")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
COMPILE = ("auto", "on", "off")
MIXINGS = ("none", "mixup", "cutmix")
LOSSES = ("auto", "cross_entropy", "binary_cross_entropy", "focal", "class_balanced", "logit_adjusted")
SNAPSHOTS = ("none", "soup", "ensemble")
BATCH_NORMS = ("eval", "train", "recalibrate")
CHOICES = {
    "optimizer": OPTIMIZERS,
    "precision": PRECISIONS,
    "compile": COMPILE,
    "batch_norm": BATCH_NORMS,
    "loss": LOSSES,
    "snapshots": SNAPSHOTS,
}
MAX_DECAY = 10.0
MAX_MOMENTUM = 0.9999
SIZE_STEP = 32
"""Sizes of a schedule are whole multiples of this: the networks halve a picture five times."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one frozen line, one schedule and one picture size.

    `epochs`: whole passes over the data; what an `sgdr` schedule fixes must agree.
    `learning_rate`: the peak rate, or None for what the learning-rate finder gives when the phase
    begins. `frozen_to`: the groups below this one are frozen (-1: all but the last, 0: none).
    `image_size`: (height, width), or None for that of the data; `batch_size` likewise.
    `precompute`: train on activations of the frozen part, computed once, without augmentation, or with
    `views` augmented draws of each picture, an epoch for each in turn.
    `stop_early`: end when a whole cycle brought no better validation loss. `reduce_on_plateau`: after
    so many epochs without a better validation loss the rates fall to a tenth. `mixing`: `none`, `mixup` or
    `cutmix`, with `mixing_alpha`, or None for those of the settings. `step`: the number in
    the eight-step recipe, 0 elsewhere. `reason`: one line for the person who waits.

    What `schedule` is to the learning rate, the other schedules are to theirs: each gives the factor of
    `weight_decay` (None: that of the settings), of `momentum` (None: the optimiser's own) and of the
    picture size. The size changes between epochs only, in steps of 32 pixels, from the schedule's start
    in the first epoch to its end in the last. `one_cycle` brings a momentum of its own, where none is
    given.

    Raises `ConfigError` for what cannot be.
    """

    name: str
    epochs: int
    schedule: Schedule = field(default_factory=Schedule)
    learning_rate: Rate | None = None
    frozen_to: int = -1
    image_size: Size | None = None
    augment: bool = True
    precompute: bool = False
    views: int = 0
    batch_size: int | None = None
    stop_early: bool = False
    mixing: str | None = None
    mixing_alpha: float | None = None
    weight_decay: float | None = None
    weight_decay_schedule: Schedule | None = None
    momentum: float | None = None
    momentum_schedule: Schedule | None = None
    image_size_schedule: Schedule | None = None
    reduce_on_plateau: int | None = None
    step: int = 0
    reason: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.epochs <= MAX_EPOCHS:
            raise ConfigError(f"phase {self.name!r}: epochs is {self.epochs}", f"give 1 … {MAX_EPOCHS}")
        fixed = self.schedule.epochs
        if fixed is not None and fixed != self.epochs:
            raise ConfigError(
                f"phase {self.name!r}: its cycles take {fixed} epochs, but epochs is {self.epochs}",
                "leave epochs out, or change cycles, cycle_len or cycle_mult",
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"phase {self.name!r}: batch_size is {self.batch_size}", "give 1 or more")
        if self.precompute and self.augment:
            raise ConfigError(
                f"phase {self.name!r}: precomputed activations cannot be augmented",
                "set augment: false, or precompute: false; or augment before, with views: 4",
            )
        if self.views < 0 or (self.views and not self.precompute):
            raise ConfigError(
                f"phase {self.name!r}: views is {self.views}", "give 1 or more, with precompute: true"
            )
        check_rate(self.learning_rate, f"phase {self.name!r}")
        if self.mixing is not None:
            _check_mixing(self.mixing, self.mixing_alpha)
        elif self.mixing_alpha is not None:
            raise ConfigError(f"phase {self.name!r}: mixing_alpha without mixing", "say which: mixing: mixup")
        if self.precompute and self.mixing not in (None, "none"):
            raise ConfigError(
                f"phase {self.name!r}: precomputed activations cannot be mixed",
                "set mixing: none, or precompute: false",
            )
        self._check_scheduled()

    def _check_scheduled(self) -> None:
        where = f"phase {self.name!r}"
        if self.weight_decay is not None and not 0 <= self.weight_decay <= MAX_DECAY:
            raise ConfigError(f"{where}: weight_decay is {self.weight_decay}", f"give 0 … {MAX_DECAY}")
        if self.momentum_schedule is not None and self.momentum is None:
            raise ConfigError(f"{where}: momentum_schedule without momentum", "give the peak: momentum: 0.95")
        if self.momentum is not None:
            highest = self.momentum * (self.momentum_schedule or Schedule()).ceiling
            if not (self.momentum >= 0 and highest <= MAX_MOMENTUM):
                raise ConfigError(
                    f"{where}: the momentum goes up to {highest:g}",
                    f"keep momentum and its schedule's factor within 0 … {MAX_MOMENTUM}",
                )
        if self.image_size_schedule is not None and self.image_size_schedule.ceiling > 1:
            raise ConfigError(
                f"{where}: image_size_schedule exceeds 1",
                "give the largest size as image_size, and factors up to 1",
            )
        if self.reduce_on_plateau is not None and self.reduce_on_plateau < 1:
            raise ConfigError(
                f"{where}: reduce_on_plateau is {self.reduce_on_plateau}", "give epochs, from 1"
            )

    def stretches(self, size: Size) -> tuple[Phase, ...]:
        """Return the phase as phases of one picture size each, `size` being that of the data.

        One, itself, unless it has an `image_size_schedule`. Each takes its stretch of every schedule, so
        that together they train as the whole would.
        """
        if self.image_size_schedule is None:
            return (self,)
        largest = self.image_size or size
        factors = [
            self.image_size_schedule.at(epoch / max(1, self.epochs - 1)) for epoch in range(self.epochs)
        ]
        if self.epochs == 1:
            factors = [self.image_size_schedule.at(1.0)]
        sizes = [scaled_size(largest, factor) for factor in factors]
        starts = [epoch for epoch in range(self.epochs) if epoch == 0 or sizes[epoch] != sizes[epoch - 1]]
        ends = [*starts[1:], self.epochs]
        return tuple(self._stretch(start, end, sizes[start]) for start, end in zip(starts, ends, strict=True))

    def _stretch(self, start: int, end: int, size: Size) -> Phase:
        def of(schedule: Schedule | None) -> Schedule | None:
            return None if schedule is None else schedule.between(start / self.epochs, end / self.epochs)

        whole = start == 0 and end == self.epochs
        return replace(
            self,
            name=f"{self.name} at {size[0]}x{size[1]}",
            epochs=end - start,
            schedule=self.schedule if whole else of(self.schedule) or self.schedule,
            weight_decay_schedule=of(self.weight_decay_schedule),
            momentum_schedule=of(self.momentum_schedule),
            image_size=size,
            image_size_schedule=None,
        )

    def scaled(self, factor: float) -> Phase:
        """Return the phase with about `factor` times the epochs, at least one."""
        schedule = self.schedule.scaled(factor)
        epochs = schedule.epochs or max(1, round(self.epochs * factor))
        return replace(self, schedule=schedule, epochs=epochs)


@dataclass(frozen=True)
class Settings:
    """What holds for all phases.

    `weight_decay` is decoupled and spares parameters with one dimension. `gradient_clip`: the
    largest norm of all gradients together, None for no limit. `rate_ratio`: how many times lower
    the rate of the earlier groups is for `slice(high)`. `precision`: `auto`, `float32`, `bfloat16`, or
    on CUDA `float16`. `micro_batch`: how many samples are worked on at once at most, their gradients
    added up to those of the batch; None for whole batches. `compile`: `on`, `off`, or `auto` for where a
    phase is long enough to pay for it.
    `batch_norm`: what that of a pretrained body does where it trains: `eval` keeps the statistics of
    pretraining, `train` collects its own, `recalibrate` also computes them anew before each validation.
    `mixing`: whether neighbours are mixed (`none`, `mixup`, `cutmix`), except in phases on precomputed
    activations; `mixing_alpha`: None for the method's own default. `loss`: `auto` for that of the task, or
    one of `LOSSES` (see `training.loss_for`). `balance`: `none`, `sampler` or `loss`, None for that of the
    data. `ema`: the decay of the moving average of the weights that is validated and kept (0.99, say),
    None for none. `snapshots`: what becomes of the weights at the ends of the whole network's cycles:
    `none`, `soup` (weights averaged) or `ensemble` (probabilities averaged), kept where it pays.
    """

    seed: int = 0
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    gradient_clip: float | None = None
    rate_ratio: float = 10.0
    precision: str = "auto"
    batch_norm: str = "eval"
    mixing: str = "none"
    mixing_alpha: float | None = None
    loss: str = "auto"
    balance: Balance | None = None
    ema: float | None = None
    snapshots: str = "none"
    micro_batch: int | None = None
    compile: str = "auto"

    def __post_init__(self) -> None:
        for what, known in CHOICES.items():
            if getattr(self, what) not in known:
                raise unknown_name(what, getattr(self, what), known)
        if self.balance is not None and self.balance not in BALANCES:
            raise unknown_name("balance", self.balance, BALANCES)
        _check_mixing(self.mixing, self.mixing_alpha)
        limits = {
            "seed": (0, 2**63 - 1),
            "weight_decay": (0, 10),
            "label_smoothing": (0, 0.99),
            "rate_ratio": (1, 1000),
            "gradient_clip": (1e-9, 1e9),
            "ema": (0, 0.999999),
            "micro_batch": (1, 2**20),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{name} is {value}", f"give a number from {low:g} to {high:g}")


@dataclass(frozen=True)
class Plan:
    """Phases in order, and the settings that they share."""

    phases: tuple[Phase, ...]
    settings: Settings = field(default_factory=Settings)

    def __iter__(self) -> Iterator[Phase]:
        return iter(self.phases)

    def __len__(self) -> int:
        return len(self.phases)

    def total_epochs(self) -> int:
        """Return the epochs of all phases together."""
        return sum(phase.epochs for phase in self.phases)

    def stretched(self, size: Size) -> Plan:
        """Return the plan with a phase for each picture size; `size` is that of the data."""
        return replace(self, phases=tuple(part for phase in self.phases for part in phase.stretches(size)))

    def scaled(self, factor: float) -> Plan:
        """Return the plan with about `factor` times the epochs; each phase keeps at least one."""
        if not (math.isfinite(factor) and factor > 0):
            raise ConfigError(f"a plan cannot be scaled by {factor}", "give a number above 0")
        return replace(self, phases=tuple(phase.scaled(factor) for phase in self.phases))

    def to_plain(self) -> dict[str, Any]:
        """Return the plan as YAML and JSON can hold it."""
        from headstart.training.plan_yaml import plan_to_plain

        return plan_to_plain(self)

    def to_yaml(self, path: Path | None = None) -> str:
        """Return the plan as YAML, and write it to `path` where one is given."""
        from headstart.training.plan_yaml import plan_to_text

        text = plan_to_text(self)
        if path is not None:
            write_atomic(path, text.encode("utf-8"))
        return text

    @classmethod
    def from_yaml(cls, source: str | Path) -> Plan:
        """Read a plan from YAML text, from the file at a `Path`, or from the run whose folder that is.

        Nothing in the text can run. Raises `ConfigError` for text that is no plan (unknown names
        come with the nearest known one) or larger than `plan_yaml.MAX_PLAN_BYTES`, `InputMissingError`
        when the file cannot be read.
        """
        from headstart.training.plan_yaml import read_plan

        return read_plan(source)

    def plot(self, **options: Any) -> Figure:
        """Return a Matplotlib figure of the plan over its epochs: rates, momentum, sizes; see `plot_plan`."""
        from headstart.training.plan_plot import plot_plan

        return plot_plan(self, **options)

    def __str__(self) -> str:
        """Return a table with one line a phase."""
        head = ("step", "phase", "epochs", "schedule", "learning rate", "frozen", "size", "data")
        rows = [head, *(_table_row(phase) for phase in self.phases)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        lines.insert(1, "  ".join("─" * width for width in widths))
        return "\n".join([*lines, f"{self.total_epochs()} epochs in {len(self.phases)} phases"])


def scaled_size(size: Size, factor: float) -> Size:
    """Return a size times a factor of 0 … 1, in whole `SIZE_STEP`s, and at most `size` itself.

    >>> scaled_size((224, 320), 0.5), scaled_size((224, 320), 1.0)
    ((128, 160), (224, 320))
    """
    height, width = (
        side if factor >= 1 else min(side, max(1, round(side * factor / SIZE_STEP)) * SIZE_STEP)
        for side in size
    )
    return (height, width)


def _check_mixing(mixing: str, alpha: float | None) -> None:
    if mixing not in MIXINGS:
        raise unknown_name("mixing", mixing, MIXINGS)
    if alpha is not None and not 0 < alpha <= 100:
        raise ConfigError(f"mixing_alpha is {alpha}", "give a number above 0, up to 100")


def check_rate(rate: Rate | None, where: str) -> None:
    """Raise `ConfigError` unless every number of a learning rate is finite and above 0."""
    if rate is None:
        return
    if isinstance(rate, slice):
        numbers = [number for number in (rate.start, rate.stop) if number is not None]
        well_formed = rate.step is None and rate.stop is not None
    else:
        numbers = list(rate) if isinstance(rate, tuple | list) else [rate]
        well_formed = bool(numbers)
    if not well_formed or not all(_is_rate(number) for number in numbers):
        raise ConfigError(
            f"{where}: {describe_rate(rate)} is not a learning rate",
            "give a number above 0, slice(low, high), slice(high), or one number for each group",
        )


def _is_rate(number: object) -> bool:
    return (
        isinstance(number, int | float)
        and not isinstance(number, bool)
        and math.isfinite(number)
        and number > 0
    )


def describe_rate(rate: Rate | None) -> str:
    """Return a learning rate as a person would write it."""
    if rate is None:
        return "found"
    if isinstance(rate, slice):
        parts = [rate.stop] if rate.start is None else [rate.start, rate.stop]
        return f"slice({', '.join(_short(part) for part in parts)})"
    if isinstance(rate, tuple | list):
        return f"({', '.join(_short(part) for part in rate)})"
    return _short(rate)


def _short(number: object) -> str:
    return f"{number:.3g}" if isinstance(number, int | float) else str(number)


def _table_row(phase: Phase) -> tuple[str, ...]:
    size = f"{phase.image_size[0]}x{phase.image_size[1]}" if phase.image_size else "as data"
    if phase.image_size_schedule is not None:
        size = f"{phase.image_size_schedule.name} to {size}"
    source = "activations" if phase.precompute else "augmented" if phase.augment else "plain"
    if phase.views:
        source += f", {phase.views} views"
    if phase.mixing not in (None, "none"):
        source += f", {phase.mixing}"
    return (
        str(phase.step or ""),
        phase.name,
        str(phase.epochs) + ("*" if phase.stop_early else ""),
        _schedule_words(phase.schedule),
        describe_rate(phase.learning_rate),
        "nothing" if phase.frozen_to == 0 else f"below {phase.frozen_to}",
        size,
        source,
    )


def _schedule_words(schedule: Schedule) -> str:
    if schedule.parts:
        return ", then ".join(part.name for _, part in schedule.parts)
    if schedule.epochs is None:
        return schedule.name
    cycles, length, mult = (int(schedule.parameter(n)) for n in ("cycles", "cycle_len", "cycle_mult"))
    return f"sgdr {cycles}×{length}" + (f" mult {mult}" if mult > 1 else "")
