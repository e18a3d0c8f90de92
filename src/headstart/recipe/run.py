"""One call from pictures to a run folder, and a forecast of what the call would cost."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.imagedata import ImageData
from headstart.recipe.body import Body
from headstart.recipe.clock import Clock, parse_duration, spoken
from headstart.recipe.folder import RunFolder, next_free
from headstart.recipe.narrator import Narrator, TerminalNarrator
from headstart.recipe.plans import eight_steps
from headstart.recipe.result import Result
from headstart.recipe.steps import EightSteps
from headstart.training import Plan, Settings
from headstart.types import Size


def train(
    data: ImageData | str | Path,
    plan: Plan | None = None,
    *,
    arch: str = "resnet34",
    weights: str | Path | None = None,
    from_scratch: bool = False,
    out: str | Path | None = None,
    seed: int = 0,
    time: str | float | None = None,
    metric: str | None = None,
    device: str = "auto",
    force: bool = False,
    narrator: Narrator | None = None,
) -> Result:
    """Train a classifier on a folder of pictures by the eight steps, and return the `Result`.

    `data` is a folder (class folders, or train/valid/test) or an `ImageData`, whose options decide on
    size, split and augmentation. `plan` replaces the eight steps. `time` is a budget, such as `10m`.
    `metric` is shown beside the log loss, and the thresholds of tags are fitted to it (default: the
    accuracy, for tags `f2`).
    The run is written to `out` (default: runs/<name>). Everything is told on stderr unless another
    `narrator` is given. Raises children of `HeadstartError`.
    """
    told = TerminalNarrator() if narrator is None else narrator
    source = data.samples.root if isinstance(data, ImageData) else Path(data)
    folder = prepare_folder(None if out is None else Path(out), source, force=force)
    chosen = plan or make_plan(None, from_scratch=from_scratch, seed=seed)
    if not isinstance(data, ImageData):
        with told.progress("looking at every picture") as on_progress:
            data = ImageData.from_folder(
                data, largest_size=largest_size(chosen), seed=seed, on_progress=on_progress
            )
    for line in data.report_lines():
        told.say(line)
    budget = parse_duration(time) if isinstance(time, str) else time
    return run_steps(
        data,
        chosen,
        Body(arch, weights, from_scratch),
        folder,
        told,
        budget=budget,
        metric=metric,
        device=device,
    )


def make_plan(
    path: Path | None,
    *,
    cycles: int = 3,
    epochs: float = 1.0,
    sizes: tuple[Size, ...] = (),
    from_scratch: bool = False,
    seed: int = 0,
) -> Plan:
    """Return the plan in a YAML file, or the eight steps where there is none."""
    if path is not None:
        return Plan.from_yaml(path)
    return eight_steps(
        cycles=cycles, epochs=epochs, sizes=sizes, from_scratch=from_scratch, settings=Settings(seed=seed)
    )


def largest_size(plan: Plan) -> Size | None:
    """Return the largest size that a phase of the plan asks for, or None where none asks for one."""
    return max((phase.image_size for phase in plan if phase.image_size), key=max, default=None)


def prepare_folder(out: Path | None, source: Path, *, force: bool = False) -> RunFolder:
    """Make the run folder: `out`, or runs/<name of the source> with a number where that is taken."""
    if out is not None:
        return RunFolder(out, replace=force)
    name = source.resolve().name or "pictures"
    return RunFolder(next_free(Path("runs") / name))


def run_steps(
    data: ImageData,
    plan: Plan,
    body: Body,
    folder: RunFolder,
    narrator: Narrator,
    *,
    budget: float | None = None,
    rate_ratio: float | None = None,
    metric: str | None = None,
    device: str = "auto",
) -> Result:
    """Run a plan over data that is ready, into a folder that is ready; see `train`."""
    steps = EightSteps(
        data,
        plan,
        body,
        folder,
        narrator,
        clock=Clock(budget),
        rate_ratio=rate_ratio,
        metric=metric,
        device=device,
    )
    return steps.run()


@dataclass(frozen=True)
class Forecast:
    """What a plan would cost on this machine, from a few measured steps."""

    plan: Plan
    data: str
    seconds: Mapping[str, float]

    @property
    def total(self) -> float:
        """Seconds of all parts together."""
        return sum(self.seconds.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the forecast as JSON can hold it."""
        rounded = {name: round(value, 2) for name, value in self.seconds.items()}
        return {
            "data": self.data,
            "plan": self.plan.to_yaml(),
            "seconds": rounded,
            "total": round(self.total, 2),
        }

    def __str__(self) -> str:
        lines = [self.data, "", str(self.plan), "", "Forecast for this machine, from a few measured steps:"]
        lines += [f"  {name:32} {spoken(value):>12}" for name, value in self.seconds.items()]
        return "\n".join([*lines, f"  {'all':32} {spoken(self.total):>12}"])


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
    if not body.from_scratch:
        seconds["probe"] = _seconds_per_picture(learner.engine(), data) * sum(counts.values())
    for number, phase in enumerate(plan, start=1):
        learner.freeze_to(phase.frozen_to)
        each = 0.005 if phase.precompute else learner.seconds_per_step()
        # Trials take 600 to 1,100 pictures.
        finder = 1000 / data.batch_size * each if phase.learning_rate is None else 0.0
        seconds[f"{number}. {phase.name}"] = finder + each * data.steps_per_epoch * phase.epochs
    return Forecast(plan, data.summary(), seconds)


def _seconds_per_picture(engine: Any, data: ImageData) -> float:
    batch = next(iter(data.source("train").epoch(0)))
    engine(batch.inputs)
    started = time.monotonic()
    engine(batch.inputs)
    return (time.monotonic() - started) / len(batch)
