"""A run's folder, as the report reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.errors import ConfigError, InputMissingError
from headstart.evaluation.predictions import Predictions
from headstart.storage import read_json
from headstart.types import Task

SCHEMA = 1


@dataclass(frozen=True)
class RunFolder:
    """What a run left behind, as far as it is there."""

    path: Path
    summary: dict[str, Any]
    history: list[dict[str, Any]]
    predictions: Predictions | None
    probe: Predictions | None
    plan: str
    embedding: dict[str, Any] | None = None

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The steps of the run, in order."""
        return list(self.summary.get("steps") or [])

    def part(self, split: str) -> Predictions | None:
        """Return the scored predictions of one part, or None where there are none."""
        if self.predictions is None:
            return None
        part = self.predictions.part(split).scored()
        return part if len(part) else None


def read_run(folder: Path) -> RunFolder:
    """Read a run's folder; raises as `write_report` does."""
    if not (folder / "summary.json").is_file():
        raise InputMissingError(f"{folder} holds no summary.json", "give the folder that a run wrote")
    summary = read_json(folder / "summary.json")
    if not isinstance(summary, dict) or summary.get("schema") != SCHEMA:
        raise ConfigError(
            f"{folder / 'summary.json'} is not a summary of schema {SCHEMA}",
            "this version of headstart cannot read that run",
        )
    task = Task((summary.get("data") or {}).get("task") or Task.SINGLE_LABEL)
    plan = folder / "plan.yaml"
    return RunFolder(
        path=folder,
        summary=summary,
        history=_read_history(folder / "history.jsonl"),
        predictions=_read_predictions(folder / "predictions.csv", task),
        probe=_read_predictions(folder / "probe_predictions.csv", task),
        plan=plan.read_text("utf-8", errors="replace") if plan.is_file() else "",
        embedding=_read_embedding(folder / "embedding.json"),
    )


def _read_history(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, line {number} is not a row of a history")
        rows.append(row)
    return rows


def _read_embedding(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    found = read_json(path)
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is not a map of pictures")
    return found


def _read_predictions(path: Path, task: Task) -> Predictions | None:
    return Predictions.from_csv(path, task=task) if path.is_file() else None
