"""What the commands print: CSV and JSON for programs, small tables for people."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.types import Task

if TYPE_CHECKING:
    from headstart.evaluation import Predictions
    from headstart.training import FinderResult, TrialsResult


def print_predictions(predictions: Predictions, *, top: int, as_json: bool) -> None:
    """Print one row per picture: path, status, then the `top` classes with their probabilities.

    Where the model decides them, `none_of_these` (yes or no) and the `set` of classes come last.

    Of tags those that are said, as a JSON list, then the probability of each tag there is.
    """
    rows = prediction_rows(predictions, top)
    if as_json:
        print(json.dumps(rows, ensure_ascii=True))
        return
    if predictions.task is Task.MULTI_LABEL:
        _print_tags(predictions, rows)
        return
    count = max(1, min(top, len(predictions.classes)))
    decided = _decisions(predictions)
    header = ["path", "status"]
    for rank in range(1, count + 1):
        suffix = "" if rank == 1 else f"_{rank}"
        header += [f"prediction{suffix}", f"probability{suffix}"]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*header, *decided])
    for number, row in enumerate(rows):
        cells = [writable(row["path"]), row["status"]]
        for entry in row["classes"]:
            cells += [writable(entry["class"]), f"{entry['probability']:.6f}"]
        own = [writable(column[number]) for column in decided.values()]
        writer.writerow(cells + [""] * (len(header) - len(cells)) + own)


def _decisions(predictions: Predictions) -> dict[str, list[str]]:
    """The columns that only some models have, as text."""
    columns: dict[str, list[str]] = {}
    if predictions.strangeness is not None:
        said = np.where(predictions.none_of_these, "yes", "no")
        columns["none_of_these"] = np.where(predictions.predicted_rows, said, "").tolist()
    if predictions.sets is not None:
        columns["set"] = predictions.set_labels()
    return columns


def prediction_rows(predictions: Predictions, top: int) -> list[dict[str, Any]]:
    """Return one dictionary per picture, with its most probable classes first; of tags all that are said."""
    probabilities = predictions.probabilities
    count = max(1, min(top, len(predictions.classes)))
    numbered = tuple(str(number) for number in range(len(predictions)))
    paths = numbered if predictions.paths is None else predictions.paths
    rows: list[dict[str, Any]] = []
    for number, path in enumerate(paths):
        status = "" if predictions.status is None else str(predictions.status[number])
        order = np.argsort(-probabilities[number], kind="stable")
        if predictions.task is Task.MULTI_LABEL:
            order = order[predictions.predicted[number, order] == 1]
        else:
            order = order[:count]
        classes = [
            {"class": predictions.classes[k], "probability": round(float(probabilities[number, k]), 6)}
            for k in order
        ]
        rows.append({"path": path, "status": status or "ok", "classes": [] if status else classes})
        if predictions.strangeness is not None and not status:
            rows[-1]["none_of_these"] = bool(predictions.none_of_these[number])
        if predictions.sets is not None and not status:
            inside = predictions.sets[number]
            rows[-1]["set"] = [name for name, own in zip(predictions.classes, inside, strict=True) if own]
    return rows


def _print_tags(predictions: Predictions, rows: list[dict[str, Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(
        ["path", "status", "prediction", *(writable(f"p_{name}") for name in predictions.classes)]
    )
    for row, said, values in zip(
        rows, predictions.predicted_labels(), predictions.probabilities.tolist(), strict=True
    ):
        figures = [f"{value:.6f}" for value in values] if said else [""] * len(values)
        writer.writerow([writable(row["path"]), row["status"], writable(said), *figures])


def print_finder(found: FinderResult, plot: Path, *, as_json: bool) -> None:
    """Print the finder's suggestions and where its curve is."""
    if as_json:
        content = {
            "suggestions": found.suggestions,
            "low": found.low,
            "high": found.high,
            "note": found.note,
            "rates": [float(rate) for rate in found.rates],
            "losses": [float(loss) if math.isfinite(loss) else None for loss in found.losses],
            "plot": str(plot),
        }
        print(json.dumps(content, allow_nan=False))
        return
    for name, rate in found.suggestions.items():
        print(f"{name:10} {'none' if rate is None else f'{rate:.2e}'}")
    print(f"{'range':10} {_range(found.low, found.high)}")
    if found.note:
        print(f"note       {found.note}")
    print(f"plot       {plot}")


def print_trials(found: TrialsResult, plot: Path, *, as_json: bool) -> None:
    """Print what each rate did to the loss, the one to take, and where the curve is."""
    if as_json:
        content = {
            "rate": found.rate,
            "low": found.low,
            "high": found.high,
            "why": found.why,
            "start": found.start,
            "trials": [
                {
                    "rate": trial.rate,
                    "steps": trial.steps,
                    "change": trial.change if math.isfinite(trial.change) else None,
                    "given_up": trial.given_up,
                }
                for trial in found.trials
            ],
            "plot": str(plot),
        }
        print(json.dumps(content, allow_nan=False))
        return
    print(f"{'rate':>10} {'steps':>6}  change of the loss ({found.start:.3g} at the start)")
    for trial in found.trials:
        given_up = "  given up" if trial.given_up else ""
        print(f"{trial.rate:10.1e} {trial.steps:6}  {trial.change:+.3g}{given_up}")
    print(f"{'take':10} {'none' if found.rate is None else f'{found.rate:.1e}'}: {found.why}")
    print(f"{'range':10} {_range(found.low, found.high)}")
    print(f"{'plot':10} {plot}")


def _range(low: float | None, high: float | None) -> str:
    return "none" if low is None or high is None else f"{low:.2e} {high:.2e}"


def writable(text: str) -> str:
    """Return text that stdout can encode: an undecodable file name holds lone surrogates."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, errors="backslashreplace").decode(encoding)
