"""What a plan would cost on this machine: time, memory and pictures per second, from a few measured steps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headstart.environment import peak_memory_bytes
from headstart.imagedata import ImageData
from headstart.recipe.body import Body
from headstart.recipe.clock import spoken
from headstart.training import Phase, Plan

if TYPE_CHECKING:
    from headstart.learner import Learner

# A step of a head alone, on cached activations.
HEAD_STEP_SECONDS = 0.005


@dataclass(frozen=True)
class StepCost:
    """What a training step was measured to take: `memory` is the peak of the process or device, in bytes."""

    seconds: float
    pictures_per_second: float
    memory: int | None

    def __str__(self) -> str:
        memory = "" if self.memory is None else f", {in_gigabytes(self.memory)} at the most"
        return f"{self.pictures_per_second:,.0f} pictures per second{memory}"


def measure_step(learner: Learner) -> StepCost:
    """Measure a few training steps as things stand; all is put back bit for bit."""
    import torch

    on_device = learner.device.type == "cuda"
    if on_device:
        torch.cuda.reset_peak_memory_stats(learner.device)
    seconds = learner.seconds_per_step()
    memory = torch.cuda.max_memory_allocated(learner.device) if on_device else peak_memory_bytes()
    pictures = len(learner.data.rows("train")) / learner.data.steps_per_epoch
    return StepCost(seconds, pictures / max(seconds, 1e-9), memory)


def in_gigabytes(count: int) -> str:
    """Return a number of bytes for people.

    >>> in_gigabytes(1_640_000_000), in_gigabytes(80_000_000)
    ('1.6 GB', '0.1 GB')
    """
    return f"{count / 1e9:.1f} GB"


@dataclass(frozen=True)
class Forecast:
    """What a plan would cost on this machine, from a few measured steps.

    `seconds` by part; `speeds`, the pictures per second of the phases that see pictures; `memory`, the
    peak in bytes of the process, or of the device where there is one.
    """

    plan: Plan
    data: str
    seconds: Mapping[str, float]
    speeds: Mapping[str, float] = field(default_factory=dict)
    memory: int | None = None

    @property
    def total(self) -> float:
        """Seconds of all parts together."""
        return sum(self.seconds.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the forecast as JSON can hold it."""
        return {
            "data": self.data,
            "plan": self.plan.to_yaml(),
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "total": round(self.total, 2),
            "pictures_per_second": {name: round(value, 1) for name, value in self.speeds.items()},
            "memory_bytes": self.memory,
        }

    def __str__(self) -> str:
        lines = [self.data, "", str(self.plan), "", "Forecast for this machine, from a few measured steps:"]
        for name, value in self.seconds.items():
            speed = f"{self.speeds[name]:,.0f} pictures/s" if name in self.speeds else ""
            lines.append(f"  {name:32} {spoken(value):>12}  {speed:>16}".rstrip())
        lines.append(f"  {'all':32} {spoken(self.total):>12}")
        if self.memory is not None:
            lines.append(f"  {'memory, at the most':32} {in_gigabytes(self.memory):>12}")
        return "\n".join(lines)


def forecast(data: ImageData, plan: Plan, body: Body, *, device: str = "auto") -> Forecast:
    """Measure a few steps of each phase, all undone, and forecast the whole plan.

    Trains nothing and writes nothing but the cached graph of the frozen body.
    """
    from headstart.learner import Learner

    learner = Learner(
        data,
        body.arch,
        weights=body.weights,
        from_scratch=body.from_scratch,
        settings=plan.settings,
        device=device,
        callbacks=(),
    )
    counts = {split: len(data.rows(split)) for split in ("train", "valid", "test")}
    seconds: dict[str, float] = {}
    speeds: dict[str, float] = {}
    memory = 0
    if not body.from_scratch:
        each = _seconds_per_picture(learner.engine(), data)
        seconds["probe"] = each * sum(counts.values())
        speeds["probe"] = 1 / max(each, 1e-9)
    for number, phase in enumerate(plan.stretched(data.image_size), start=1):
        name = f"{number}. {phase.name}"
        cost = _measure_phase(learner, phase)
        each = HEAD_STEP_SECONDS if cost is None else cost.seconds
        finder = 100 * each if phase.learning_rate is None and phase.frozen_to else 30 * each
        seconds[name] = finder + each * learner.data.steps_per_epoch * phase.epochs
        if cost is not None:
            speeds[name] = cost.pictures_per_second
            memory = max(memory, cost.memory or 0)
    return Forecast(plan, data.summary(), seconds, speeds, memory or peak_memory_bytes())


def _measure_phase(learner: Learner, phase: Phase) -> StepCost | None:
    """Return the cost of a step of a phase at its size, None where it sees activations only."""
    learner.freeze_to(phase.frozen_to)
    if phase.image_size is not None and phase.image_size != learner.data.image_size:
        learner.set_data(learner.data.resize(phase.image_size))
    return None if phase.precompute else measure_step(learner)


def _seconds_per_picture(engine: Any, data: ImageData) -> float:
    batch = next(iter(data.source("train").epoch(0)))
    engine(batch.inputs)
    started = time.monotonic()
    engine(batch.inputs)
    return (time.monotonic() - started) / len(batch)
