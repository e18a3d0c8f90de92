"""Plans: what to train and when, as data. A plan prints, is saved as YAML, edited and run again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

from headstart.errors import ConfigError, HeadstartError, InputMissingError
from headstart.storage import write_atomic
from headstart.training import values
from headstart.training.schedules import Schedule
from headstart.training.values import unknown_name
from headstart.types import Size

Rate: TypeAlias = float | slice | tuple[float, ...]
"""A learning rate as the course writes it: one number, `slice(low, high)`, `slice(high)`, or one a group."""

SCHEMA = 1
MAX_PLAN_BYTES = 256 * 2**10
MAX_EPOCHS = 100_000
OPTIMIZERS = ("adamw", "sgd")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
COMPILE = ("auto", "on", "off")
MIXINGS = ("none", "mixup", "cutmix")


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one frozen line, one schedule and one picture size.

    `epochs`: whole passes over the data; what an `sgdr` schedule fixes must agree.
    `learning_rate`: the peak rate, or None for what the learning-rate finder gives when the phase
    begins. `frozen_to`: the groups below this one are frozen (-1: all but the last, 0: none).
    `image_size`: (height, width), or None for that of the data; `batch_size` likewise.
    `precompute`: train on activations of the frozen part, computed once, without augmentation.
    `stop_early`: end when a whole cycle brought no better validation loss. `mixing`: `none`, `mixup` or
    `cutmix`, with `mixing_alpha`, or None for those of the settings. `step`: the number in
    the eight-step recipe, 0 elsewhere. `reason`: one line for the person who waits.

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
    batch_size: int | None = None
    stop_early: bool = False
    mixing: str | None = None
    mixing_alpha: float | None = None
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
                "set augment: false, or precompute: false",
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
    `fixed_batch_norm`: a pretrained body's batch norm keeps its statistics, also where it trains.
    `mixing`: whether neighbours are mixed (`none`, `mixup`, `cutmix`), except in phases on precomputed
    activations; `mixing_alpha`: None for the method's own default.
    """

    seed: int = 0
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    gradient_clip: float | None = None
    rate_ratio: float = 10.0
    precision: str = "auto"
    fixed_batch_norm: bool = True
    mixing: str = "none"
    mixing_alpha: float | None = None
    micro_batch: int | None = None
    compile: str = "auto"

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise unknown_name("optimizer", self.optimizer, OPTIMIZERS)
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if self.compile not in COMPILE:
            raise unknown_name("compile", self.compile, COMPILE)
        _check_mixing(self.mixing, self.mixing_alpha)
        limits = {
            "seed": (0, 2**63 - 1),
            "weight_decay": (0, 10),
            "label_smoothing": (0, 0.99),
            "rate_ratio": (1, 1000),
            "gradient_clip": (1e-9, 1e9),
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

    def scaled(self, factor: float) -> Plan:
        """Return the plan with about `factor` times the epochs; each phase keeps at least one."""
        if not (math.isfinite(factor) and factor > 0):
            raise ConfigError(f"a plan cannot be scaled by {factor}", "give a number above 0")
        return replace(self, phases=tuple(phase.scaled(factor) for phase in self.phases))

    def to_yaml(self, path: Path | None = None) -> str:
        """Return the plan as YAML, and write it to `path` where one is given."""
        import yaml

        content = {
            "headstart_plan": SCHEMA,
            "settings": _without_defaults(self.settings),
            "phases": [_phase_to_plain(phase) for phase in self.phases],
        }
        text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
        if path is not None:
            write_atomic(path, text.encode("utf-8"))
        return text

    @classmethod
    def from_yaml(cls, source: str | Path) -> Plan:
        """Read a plan from YAML text, or from the file at a `Path`.

        Nothing in the text can run. Raises `ConfigError` for text that is no plan (unknown names
        come with the nearest known one) or larger than `MAX_PLAN_BYTES`, `InputMissingError` when
        the file cannot be read.
        """
        where = str(source) if isinstance(source, Path) else "the plan"
        content = _parse_yaml(_read(source), where)
        try:
            return _plan_from_plain(content)
        except HeadstartError as error:
            raise ConfigError(f"{where}: {error.message}", error.hint) from error

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
    source = "activations" if phase.precompute else "augmented" if phase.augment else "plain"
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
    if schedule.epochs is None:
        return schedule.name
    cycles, length, mult = (int(schedule.parameter(n)) for n in ("cycles", "cycle_len", "cycle_mult"))
    return f"sgdr {cycles}×{length}" + (f" mult {mult}" if mult > 1 else "")


def _without_defaults(value: Settings) -> dict[str, Any]:
    return {item.name: getattr(value, item.name) for item in fields(value)}


def _phase_to_plain(phase: Phase) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for item in fields(phase):
        value = getattr(phase, item.name)
        if value is None:
            continue
        if isinstance(value, Schedule):
            value = {"name": value.name, **value.parameters}
        elif isinstance(value, slice):
            value = {"low": value.start, "high": value.stop} if value.start else {"high": value.stop}
        elif isinstance(value, tuple):
            value = list(value)
        plain[item.name] = value
    return plain


def _read(source: str | Path) -> str:
    if isinstance(source, str):
        data = source.encode("utf-8", errors="surrogateescape")
    else:
        try:
            with open(source, "rb") as stream:
                data = stream.read(MAX_PLAN_BYTES + 1)
        except OSError as error:
            raise InputMissingError(f"the plan {source} cannot be read: {error.strerror}") from error
    if len(data) > MAX_PLAN_BYTES:
        raise ConfigError(f"a plan has at most {MAX_PLAN_BYTES // 1024} kB of YAML; this has more")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"a plan is UTF-8 text; byte {error.start} is not") from error


def _parse_yaml(text: str, where: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        first = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{where} is not plain YAML: {first}", "`headstart train --dry-run` shows what a plan says"
        ) from error


def _plan_from_plain(content: Any) -> Plan:
    table = values.mapping(content, "a plan", ("headstart_plan", "settings", "phases"))
    if table.get("headstart_plan") != SCHEMA:
        raise ConfigError(f"headstart_plan must be {SCHEMA}", "is it a plan, and of this version?")
    phases = table.get("phases")
    if not isinstance(phases, list) or not 1 <= len(phases) <= 1000:
        raise ConfigError("phases must be a list of 1 … 1000 phases")
    return Plan(
        phases=tuple(_phase_from_plain(entry, f"phase {n}") for n, entry in enumerate(phases, start=1)),
        settings=_settings_from_plain(table.get("settings") or {}),
    )


def _settings_from_plain(content: Any) -> Settings:
    table = values.mapping(content, "settings", [item.name for item in fields(Settings)])
    given: dict[str, Any] = {}
    for name, value in table.items():
        if name in ("optimizer", "precision", "mixing", "compile"):
            given[name] = values.text(value, f"settings: {name}")
        elif name == "fixed_batch_norm":
            given[name] = values.flag(value, f"settings: {name}")
        elif name in ("gradient_clip", "mixing_alpha", "micro_batch") and value is None:
            given[name] = None
        elif name == "micro_batch":
            given[name] = values.whole(value, "settings: micro_batch")
        elif name == "seed":
            given[name] = values.whole(value, "settings: seed")
        else:
            given[name] = float(values.number(value, f"settings: {name}"))
    return Settings(**given)


def _phase_from_plain(content: Any, where: str) -> Phase:
    table = values.mapping(content, where, [item.name for item in fields(Phase)])
    given: dict[str, Any] = {"name": where}
    for name, value in table.items():
        place = f"{where}: {name}"
        if value is None:
            continue
        if name in ("name", "reason", "mixing"):
            given[name] = values.text(value, place)
        elif name in ("epochs", "frozen_to", "batch_size", "step"):
            given[name] = values.whole(value, place)
        elif name in ("augment", "precompute", "stop_early"):
            given[name] = values.flag(value, place)
        elif name == "schedule":
            given[name] = _schedule_from_plain(value, place)
        elif name == "learning_rate":
            given[name] = _rate_from_plain(value, place)
        elif name == "mixing_alpha":
            given[name] = float(values.number(value, place))
        else:
            given[name] = values.size(value, place)
    if "epochs" not in given:
        fixed = given["schedule"].epochs if "schedule" in given else None
        if fixed is None:
            raise ConfigError(f"{where}: epochs is missing", "say how many passes over the data to make")
        given["epochs"] = fixed
    return Phase(**given)


def _schedule_from_plain(content: Any, where: str) -> Schedule:
    if isinstance(content, str):
        return Schedule(content)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{where}: expected a name, or a name with parameters")
    name = values.text(content.get("name"), f"{where}: name")
    given = {key: value for key, value in content.items() if key != "name"}
    return Schedule(name, {key: values.number(value, f"{where}: {key}") for key, value in given.items()})


def _rate_from_plain(content: Any, where: str) -> Rate:
    if isinstance(content, dict):
        table = values.mapping(content, where, ("low", "high"))
        low = None if table.get("low") is None else float(values.number(table["low"], where))
        return slice(low, float(values.number(table.get("high"), f"{where}: high")))
    if isinstance(content, list):
        return tuple(float(values.number(value, where)) for value in content[:1000])
    return float(values.number(content, where))
