"""What the eight steps leave behind: a result per step, and the run as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart.evaluation import Gain, Interval, Predictions


@dataclass(frozen=True)
class Verdict:
    """Whether a phase over-fitted, under-fitted or neither, and what to do about it."""

    kind: str
    text: str


@dataclass(frozen=True)
class StepResult:
    """One step: why it was taken, what it gained and cost, and whether it was kept.

    `kept` is None for steps that cannot be undone because they change no prediction. `gain` is the
    fall of the validation log loss against the best model before the step, `gain_accuracy` the rise
    of the accuracy (of the metric that was asked for), both with 95 % intervals from the same paired
    bootstrap.
    """

    number: int
    name: str
    reason: str
    kept: bool | None
    outcome: str
    seconds: float
    epochs: int = 0
    metrics: dict[str, Interval] = field(default_factory=dict)
    gain: Gain | None = None
    gain_accuracy: Gain | None = None
    verdict: Verdict | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the step as JSON can hold it."""
        return {
            "number": self.number,
            "name": self.name,
            "reason": self.reason,
            "kept": self.kept,
            "outcome": self.outcome,
            "seconds": round(self.seconds, 3),
            "epochs": self.epochs,
            "metrics": {name: value.to_dict() for name, value in self.metrics.items()},
            "gain": None if self.gain is None else {"metric": "log_loss", **self.gain.to_dict()},
            "gain_accuracy": None if self.gain_accuracy is None else self.gain_accuracy.to_dict(),
            "verdict": None
            if self.verdict is None
            else {"kind": self.verdict.kind, "text": self.verdict.text},
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> StepResult:
        """Return the step that `to_dict` gave."""
        gains = {name: plain[name] for name in ("gain", "gain_accuracy")}
        given = {
            **plain,
            "metrics": {name: Interval(**_figures(value)) for name, value in plain["metrics"].items()},
            "verdict": None if plain["verdict"] is None else Verdict(**plain["verdict"]),
            **{name: None if gain is None else Gain(**_figures(gain)) for name, gain in gains.items()},
        }
        return cls(**given)


def _figures(plain: Mapping[str, Any]) -> dict[str, float]:
    """Return the fields of an interval or a gain; None stands for what is undefined."""
    return {name: math.nan if value is None else value for name, value in plain.items() if name != "metric"}


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, its steps and its predictions.

    `valid` and `test` are the predictions of the model that was saved; `test` is None where there
    was no labelled test part. `stop_signal` is the number of the signal that ended the run early, if
    one did.
    """

    folder: Path
    steps: tuple[StepResult, ...]
    probe: Predictions | None
    valid: Predictions
    test: Predictions | None
    summary: dict[str, Any]
    stop_signal: int | None = None

    @property
    def model(self) -> Path:
        """The bundle: give it to `headstart.load` or to `headstart predict`."""
        return self.folder / "model"

    @property
    def report(self) -> Path:
        """The report, one HTML file."""
        return self.folder / "report.html"

    def headline(self) -> str:
        """Return the figure that matters in one sentence, with its interval and what it is of."""
        part, table = ("test", self.test) if self.test is not None else ("validation", self.valid)
        if (self.summary.get("folds") or {}).get("out_of_fold"):
            part = "out-of-fold"
        figures = self.summary["final"]["valid" if self.test is None else "test"]
        name = next(iter(figures))
        value = figures[name]
        return (
            f"{name.replace('_', ' ')} {value['value']:.1%} ({value['low']:.1%} … {value['high']:.1%}) "
            f"on {len(table.scored()):,} {part} pictures"
        )
