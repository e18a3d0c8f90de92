"""Claim: what a model decides beyond the likeliest class holds on pictures that it was not fitted to.

    python benchmarks/decisions.py [--datasets …] [--seeds …]

On frozen features of mobilenetv2_100 at 224, each set with the probe of the other four folds: all pictures of
a set are predicted once a seed, out of fold. On these pooled predictions:

- calibration: the log loss and the expected calibration error as they are, with one temperature and with a
  scaling by class, each half of the pictures by what the other half gives; and the error of all sets at once.
  Of few pictures it is too high: fifteen bins of 28 pictures each differ from the truth by chance alone;
- sets: how often those for 90 % hold the right class, cross-fitted, and how many classes they hold;
- none of these: the limit is fitted to the held-out pictures of half of the folds; what it turns away of the
  other half, and of the other sets.

Measures no times, so it may run beside other work. Features are kept in `--into`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from augmentation import samples_of
from folds import shared_folder
from harness import RESULTS, spread, write_row
from numpy.typing import NDArray
from tta import ARCHITECTURE, DATASETS, FOLDS, SEEDS, Bank

from headstart.evaluation import (
    SET_METHODS,
    Predictions,
    calibrate,
    cross_fitted,
    cross_fitted_sets,
    fit_novelty,
    metric,
    scale_classes,
)
from headstart.evaluation.scores import CALIBRATION_BINS, confidence_bins
from headstart.models import fit_probe

CLAIM = (
    "on out-of-fold predictions the scaling that is kept never raises the cross-fitted log loss; pooled over "
    "the sets, the expected calibration error is under 4 %; a model of flowers turns away at least 80 % of "
    "the pictures of aerial and of catsdogs where it turns away 5 % of its own"
)


def out_of_fold(bank: Bank, seed: int) -> tuple[Predictions, NDArray[np.int64]]:
    """Return the predictions of all pictures by probes that did not see them, and each one's fold."""
    data = bank.data
    features, labels = bank.of(data.evaluation), data.samples.labels
    logits, fold_of = np.zeros((len(labels), len(data.classes)), np.float32), np.zeros(len(labels), np.int64)
    for fold in range(FOLDS):
        samples = samples_of(bank.dataset, seed, fold)
        part = dict(zip(samples.paths, samples.split.tolist(), strict=True))
        held = np.array([part[path] == "valid" for path in data.samples.paths])
        probe = fit_probe(features[~held], labels[~held], len(data.classes), seed=seed)
        logits[held], fold_of[held] = probe.logits(features[held]), fold
    return Predictions(logits, data.classes, targets=labels), fold_of


def pooled_error(tables: list[Predictions]) -> float:
    """Return the expected calibration error of all rows of several sets together, as calibrated."""
    sure = np.concatenate([table.confidence for table in tables])
    right = np.concatenate([table.predicted == table.targets for table in tables])
    bins = confidence_bins(sure, CALIBRATION_BINS)
    gaps = [(right[bins == each] - sure[bins == each]).sum() for each in range(CALIBRATION_BINS)]
    return float(np.abs(gaps).sum() / len(sure))


def judged(
    banks: dict[str, Bank], dataset: str, seed: int, calibrated: dict[int, list[Predictions]]
) -> dict[str, Any]:
    """Return all figures of one set and seed; its calibrated predictions are added to those of the seed."""
    table, fold_of = out_of_fold(banks[dataset], seed)
    error = metric("expected_calibration_error")
    one = calibrate(table, seed=seed)
    own = table if one.temperature == 1.0 else cross_fitted(table, seed=seed)
    calibrated.setdefault(seed, []).append(own)
    scaled = scale_classes(table.with_temperature(one.temperature), seed=seed)
    features = banks[dataset].of(banks[dataset].data.evaluation)
    known, asked = fold_of < 3, fold_of == FOLDS - 1
    found = fit_novelty(features[known], features[fold_of == 3], blocks=2, seed=seed)
    turned_away: dict[str, float] = {}
    if found is not None:
        turned_away[dataset] = float((found.novelty.strangeness(features[asked]) > 1).mean())
        for name, other in banks.items():
            if name != dataset:
                strange = found.novelty.strangeness(other.of(other.data.evaluation))
                turned_away[name] = float((strange > 1).mean())
    return {
        "pictures": len(table),
        "log_loss": metric("log_loss")(table),
        "ece": error(table),
        "temperature": one.to_dict(),
        "by_class": scaled.to_dict() | {"scaling": None},
        "sets": {name: cross_fitted_sets(table, method=name, seed=seed).to_dict() for name in SET_METHODS},
        "none_of_these": turned_away,
    }


def main() -> None:
    """Measure and write the row."""
    parser = argparse.ArgumentParser(description="What a model decides, on pictures it was not fitted to.")
    parser.add_argument("--into", type=Path, default=Path(tempfile.gettempdir()) / "headstart-decisions")
    parser.add_argument(
        "--weights", type=Path, default=shared_folder() / "weights" / f"{ARCHITECTURE}.safetensors"
    )
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    banks = {name: Bank(name, options.weights, options.into.absolute()) for name in options.datasets}
    calibrated: dict[int, list[Predictions]] = {}
    results = {
        name: {f"seed {seed}": judged(banks, name, seed, calibrated) for seed in options.seeds}
        for name in options.datasets
    }
    pooled = {f"seed {seed}": pooled_error(tables) for seed, tables in calibrated.items()}
    spreads = {
        f"{name}, expected calibration error": spread(
            row["temperature"]["ece_after"] for row in rows.values()
        )
        for name, rows in results.items()
    }
    count = sum(row["pictures"] for rows in results.values() for row in rows.values())
    spreads["pooled, expected calibration error"] = spread(pooled.values(), digits=4)
    results_and_pooled = {**results, "pooled": {"expected_calibration_error": pooled}}
    write_row(CLAIM, results_and_pooled, n=count, name="decisions", spreads=spreads, folder=options.results)


if __name__ == "__main__":
    main()
