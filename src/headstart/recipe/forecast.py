"""What a plan would cost on this machine: time, memory and pictures per second, from a few measured steps."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headstart.environment import peak_memory_bytes
from headstart.imagedata import ImageData
from headstart.recipe.body import Body
from headstart.recipe.budget import LEAST_RESERVE, Cost, at_phase, cost_of, divide, last_look, told
from headstart.recipe.clock import spoken
from headstart.recipe.stepcost import StepCost, in_gigabytes, measure_step
from headstart.training import Plan
from headstart.types import Size

# A step of a head alone, on cached activations.
HEAD_STEP_SECONDS = 0.005


@dataclass(frozen=True)
class Forecast:
    """What a plan would cost on this machine, from a few measured steps.

    `seconds` by part; `speeds`, the pictures per second of the phases that see pictures; `memory`, the
    peak in bytes of the process, or of the device where there is one. `division`: how a budget of time
    would be divided, where there is one.
    """

    plan: Plan
    data: str
    seconds: Mapping[str, float]
    speeds: Mapping[str, float] = field(default_factory=dict)
    memory: int | None = None
    division: str = ""

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
            "division": self.division,
        }

    def __str__(self) -> str:
        lines = [self.data, "", str(self.plan), "", "Forecast for this machine, from a few measured steps:"]
        for name, value in self.seconds.items():
            speed = f"{self.speeds[name]:,.0f} pictures/s" if name in self.speeds else ""
            lines.append(f"  {name:32} {spoken(value):>12}  {speed:>16}".rstrip())
        lines.append(f"  {'all':32} {spoken(self.total):>12}")
        if self.memory is not None:
            lines.append(f"  {'memory, at the most':32} {in_gigabytes(self.memory):>12}")
        if self.division:
            lines += ["", self.division]
        return "\n".join(lines)


def forecast(
    data: ImageData, plan: Plan, body: Body, *, device: str = "auto", budget: float | None = None
) -> Forecast:
    """Measure a few steps of each phase, all undone, and forecast the whole plan.

    `budget`: seconds, to see how they would be divided over the phases. Trains nothing and writes nothing
    but the cached graph of the frozen body.
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
    costs: list[Cost] = []
    known: set[tuple[int, Size]] = set()
    for number, phase in enumerate(plan.stretched(data.image_size), start=1):
        name = f"{number}. {phase.name}"
        at_phase(learner, phase)
        # What a phase sees that sees activations only is not computed for a forecast.
        step = StepCost(HEAD_STEP_SECONDS, 0.0, None) if phase.precompute else measure_step(learner)
        costs.append(cost_of(learner, phase, step, known=known))
        seconds[name] = costs[-1].whole
        if not phase.precompute:
            speeds[name] = step.pictures_per_second
            memory = max(memory, step.memory or 0)
    division = ""
    if budget is not None:
        left = budget - LEAST_RESERVE - last_look(data, costs, budget) - seconds.get("probe", 0.0)
        division = told(costs, divide(costs, left), left)
    return Forecast(plan, data.summary(), seconds, speeds, memory or peak_memory_bytes(), division)


def _seconds_per_picture(engine: Any, data: ImageData) -> float:
    batch = next(iter(data.source("train").epoch(0)))
    engine(batch.inputs)
    started = time.monotonic()
    engine(batch.inputs)
    return (time.monotonic() - started) / len(batch)
