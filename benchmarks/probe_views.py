"""Do more views of the training pictures make a better probe, and how do nearest neighbours compare?

Supports the row `probe_views`: why the probe is fitted to the plain pictures alone. On frozen features of
mobilenetv2_100 at 224, over five outer folds and three seeds of all labelled pictures: a logistic regression
on the plain views; on plain and mirrored ones; on plain and two augmented ones; each also asked about the
mean of plain and mirrored pictures; and the nearest neighbours. Differences to the first are paired by
picture.

    python benchmarks/probe_views.py --datasets flowers ants_bees

Measures accuracy only, so it may run beside other work. Features are kept in headstart's cache folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from folds import shared_folder
from harness import RESULTS, write_row
from numpy.typing import NDArray

from headstart import augment
from headstart.imagedata import ImageData
from headstart.learner import Learner
from headstart.models import fit_probe, knn_logits

FOLDS, SEEDS, RESAMPLES = 5, (0, 1, 2), 2000
VIEWS = 2

Table = dict[str, NDArray[np.float32]]


def features_of(dataset: str) -> tuple[Table, NDArray[np.int64]]:
    """Features of every labelled picture, by view, and the class numbers."""
    shared = shared_folder()
    kind = augment.top_down if dataset == "aerial" else augment.side_on
    data = ImageData.from_folder(shared / "data" / dataset, augment=kind(max_zoom=1.1))
    learner = Learner(data, "mobilenetv2_100", weights=shared / "weights", callbacks=())
    plain = learner.data.evaluation

    def seen(**options: object) -> NDArray[np.float32]:
        known = [learner.activations(split, **options) for split in ("train", "valid")]  # type: ignore[arg-type]
        return np.concatenate([np.asarray(part.features) for part in known if part is not None])

    table = {"plain": seen(), "mirrored": seen(prepare=replace(plain, flip=True))}
    table |= {f"augmented {epoch}": seen(epoch=epoch) for epoch in range(VIEWS)}
    rows = np.concatenate([data.rows(split) for split in ("train", "valid")])
    return table, data.samples.labels[rows]


def outer_folds(labels: NDArray[np.int64], seed: int) -> Iterator[NDArray[np.bool_]]:
    """Masks of the pictures held out, each class spread evenly."""
    random, fold, dealt = np.random.default_rng(seed), np.empty(len(labels), int), 0
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        fold[rows] = (dealt + np.arange(len(rows))) % FOLDS
        dealt += len(rows)
    return (fold == number for number in range(FOLDS))


def chances(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Softmax in double precision."""
    grown = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return grown / grown.sum(1, keepdims=True)


def arms(table: Table, labels: NDArray[np.int64], held: NDArray[np.bool_], seed: int) -> Table:
    """The probabilities of each arm for the pictures held out."""
    count, known = int(labels.max()) + 1, ~held
    names = {
        "plain": ["plain"],
        "with mirrored": ["plain", "mirrored"],
        "with augmented": ["plain", *(f"augmented {epoch}" for epoch in range(VIEWS))],
    }
    found: Table = {}
    for name, views in names.items():
        probe = fit_probe(
            np.concatenate([table[view][known] for view in views]),
            np.tile(labels[known], len(views)),
            count,
            seed=seed,
            groups=np.tile(np.flatnonzero(known), len(views)),
        )
        found[name] = chances(probe.logits(table["plain"][held]))
        mirrored = chances(probe.logits(table["mirrored"][held]))
        found[f"{name}, two views asked"] = (found[name] + mirrored) / 2
    near = knn_logits(table["plain"][known], labels[known], count, table["plain"][held])
    found["nearest neighbours"] = chances(near)
    return found


def compare(dataset: str) -> dict[str, dict[str, float | list[float]]]:
    """Accuracy and log loss of each arm, and their paired differences to the first, with 95 % intervals."""
    table, labels = features_of(dataset)
    sums: dict[str, NDArray[np.float64]] = {}
    for seed in SEEDS:
        for held in outer_folds(labels, seed):
            for name, probabilities in arms(table, labels, held, seed).items():
                own = np.arange(len(probabilities)), labels[held]
                right = probabilities.argmax(1) == labels[held]
                loss = -np.log(np.maximum(probabilities[own], 1e-12))
                sums.setdefault(name, np.zeros((len(labels), 2)))[held] += np.stack([right, loss], 1) / len(
                    SEEDS
                )
    drawn = np.random.default_rng(0).integers(0, len(labels), (RESAMPLES, len(labels)))
    told: dict[str, dict[str, float | list[float]]] = {}
    for name, values in sums.items():
        change = values - sums["plain"]
        bounds = np.quantile(change[drawn].mean(1), [0.025, 0.975], axis=0)
        told[name] = {"accuracy": round(float(values[:, 0].mean()), 4)}
        told[name]["log_loss"] = round(float(values[:, 1].mean()), 4)
        for column, figure in enumerate(("accuracy", "log_loss")):
            told[name][f"{figure}_change"] = round(float(change[:, column].mean()), 4)
            told[name][f"{figure}_interval"] = [round(float(bound), 4) for bound in bounds[:, column]]
    return told | {"pictures": {"n": len(labels)}}


def main() -> None:
    """Measure the data sets that are asked for and write the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", default=["flowers", "ants_bees", "aerial", "catsdogs"])
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results = {name: compare(name) for name in arguments.datasets}
    claim = (
        "mirrored or augmented views in the probe's bank do not make it clearly more accurate on pictures "
        "held out; nearest neighbours do not reach the probe"
    )
    n = len(SEEDS) * FOLDS * len(results)
    write_row(claim, results, n=n, name="probe_views", folder=arguments.results)


if __name__ == "__main__":
    main()
