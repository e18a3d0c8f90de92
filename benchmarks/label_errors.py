"""Are planted label errors found, and by which ranking? And is it worth to label what is chosen?

Supports the row `label_errors`: of 5 % of the labels of `flowers`, flipped to another class by chance, at
least 80 % are within the first 10 % of the ranking, mean of five plantings. Beside it, as baseline, the
ranking by the plain out-of-fold loss of one draw of the folds; further rankings of the paper; and the loss of
a probe that was fitted to the very labels that it judges. The second part starts from 60 labels, drawn by
chance, and adds 60: those that `choose_next` takes, the most uncertain ones, or others by chance; reported
is the accuracy of a probe on a fifth of the pictures that nobody may choose from, and nothing is claimed.

Frozen features of mobilenetv2_100 at 224. Measures accuracy only, so it may run beside other work.

    python benchmarks/label_errors.py
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from folds import shared_folder
from harness import RESULTS, spread, write_row
from numpy.typing import NDArray

from headstart.data import Samples
from headstart.evaluation import Predictions, choose_next, label_doubts, uncertainty
from headstart.imagedata import ImageData
from headstart.models import fit_probe
from headstart.recipe import Body
from headstart.recipe.outoffold import frozen_body, out_of_fold

PLANTINGS, SHARE, LOOKED_AT = 5, 0.05, 0.1
STARTS, LABELLED, ADDED = 10, 60, 60

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


def features_of(dataset: str) -> tuple[Features, Samples]:
    """Features of every labelled picture, and the samples in their order."""
    shared = shared_folder()
    data = ImageData.from_folder(shared / "data" / dataset)
    data, engine, identity = frozen_body(data, Body("mobilenetv2_100", shared / "weights"))
    parts = [data.activations(split, engine, identity) for split in ("train", "valid")]
    rows = np.concatenate([part.index for part in parts])
    order = np.argsort(rows)
    features = np.concatenate([np.asarray(part.features, np.float32) for part in parts])
    return features[order], data.samples.take(rows[order])


def planted(labels: Labels, classes: int, seed: int) -> tuple[Labels, NDArray[np.intp]]:
    """Labels of which a share was flipped to another class, each as likely, and the rows that were."""
    random = np.random.default_rng(seed)
    rows = random.choice(len(labels), round(SHARE * len(labels)), replace=False)
    flipped = labels.copy()
    flipped[rows] = (labels[rows] + random.integers(1, classes, len(rows))) % classes
    return flipped, rows


def rankings(
    features: Features, samples: Samples, thrice: Predictions, seed: int
) -> dict[str, NDArray[np.int64]]:
    """The rows by doubt, most doubtful first, for each way to rank; `thrice`: by three draws of the folds."""
    once = out_of_fold(features, samples, repeats=1, seed=seed)
    probe = fit_probe(features, samples.labels, len(samples.classes), seed=seed)
    fitted = Predictions(probe.logits(features), samples.classes, targets=samples.labels)
    return {
        "normalised margin, one draw": label_doubts(once, ranking="normalised_margin").order,
        "normalised margin": label_doubts(thrice, ranking="normalised_margin").order,
        "adjusted margin": label_doubts(thrice, ranking="adjusted_margin").order,
        "self-confidence": label_doubts(thrice, ranking="self_confidence").order,
        "out-of-fold loss (baseline)": np.argsort(-once.loss, kind="stable"),
        "loss of a probe fitted to the same labels": np.argsort(-fitted.loss, kind="stable"),
    }


def errors_found(dataset: str) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """The share of the planted errors within the first tenth, by ranking; and what the joint counts."""
    features, samples = features_of(dataset)
    found: dict[str, list[float]] = {}
    joint: dict[str, list[float]] = {"planted": [], "flagged": [], "of them planted": [], "expected": []}
    for seed in range(PLANTINGS):
        labels, rows = planted(samples.labels, len(samples.classes), seed)
        wrong = replace(samples, labels=labels)
        first = round(LOOKED_AT * len(labels))
        told = out_of_fold(features, wrong, seed=seed)
        for name, order in rankings(features, wrong, told, seed).items():
            found.setdefault(name, []).append(len(np.intersect1d(order[:first], rows)) / len(rows))
        doubts = label_doubts(told)
        joint["planted"].append(len(rows))
        joint["flagged"].append(int(doubts.is_error.sum()))
        joint["of them planted"].append(int(doubts.is_error[rows].sum()))
        joint["expected"].append(round(doubts.expected, 1))
    return found, joint


def learnt(dataset: str) -> dict[str, list[float]]:
    """The accuracy after some more labels, chosen in each way, for each start."""
    features, samples = features_of(dataset)
    labels, count = samples.labels, len(samples.classes)
    scores: dict[str, list[float]] = {}
    for seed in range(STARTS):
        mixed = np.random.default_rng(seed).permutation(len(labels))
        held, start, pool = np.split(mixed, [len(mixed) // 5, len(mixed) // 5 + LABELLED])
        probe = fit_probe(features[start], labels[start], count, seed=seed)
        unsure = uncertainty(Predictions(probe.logits(features[pool]), samples.classes))
        chosen = choose_next(features[pool], unsure, ADDED, labelled=features[start])
        ways = {
            "chosen": chosen,
            "most uncertain": np.argsort(-unsure, kind="stable")[:ADDED],
            "by chance (baseline)": np.arange(ADDED),
        }
        for name, added in ways.items():
            known = np.concatenate([start, pool[added]])
            fitted = fit_probe(features[known], labels[known], count, seed=seed)
            right = fitted.logits(features[held]).argmax(1) == labels[held]
            scores.setdefault(name, []).append(float(right.mean()))
    return scores


def main() -> None:
    """Measure and write the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", default=["flowers"])
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results, spreads = {}, {}
    for name in arguments.datasets:
        found, joint = errors_found(name)
        scores = learnt(name)
        results[name] = {
            "found_in_first_tenth": {way: round(float(np.mean(each)), 4) for way, each in found.items()},
            "each_planting": {way: [round(share, 4) for share in each] for way, each in found.items()},
            "confident_joint": joint,
            "accuracy_after_labelling": {way: round(float(np.mean(each)), 4) for way, each in scores.items()},
        }
        spreads |= {f"{name}, {way}": spread(each, digits=4) for way, each in (found | scores).items()}
    claim = (
        "of 5 % of the labels of flowers, flipped by chance, at least 80 % are within the first 10 % of the "
        "ranking, mean of five plantings"
    )
    write_row(claim, results, n=PLANTINGS, name="label_errors", spreads=spreads, folder=arguments.results)


if __name__ == "__main__":
    main()
