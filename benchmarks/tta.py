"""Claim: what each view policy gains on a frozen probe, with intervals, and how many views it takes.

    python benchmarks/tta.py fit    --into DIR [--datasets …] [--seeds …] [--policies …]
    python benchmarks/tta.py report --into DIR
    python benchmarks/tta.py fit    --into DIR --datasets ants_bees --seeds 0 --policies flip   # to try it

Four sets, mobilenetv2_100 at 224. Every picture is judged once a seed by a probe that was fitted to the plain
views of the other four folds of a stratified split, drawn anew for each seed: it chose nothing by it. The
policies are those of `headstart.augment.POLICIES`, their views weighted as they say; the reference is the
plain view. Gains are paired picture by picture, with percentile bootstraps that draw pictures, each with
all its seeds.

The features of each view of a set are one file, `DIR/views/<dataset>_<number>.npy`, and each fit is one,
`DIR/<dataset>_seed<s>.json`; those that exist are skipped, so a killed run goes on where it was. Features of
a view do not depend on the seed. The cost is the number of views that go through the network: measured times
stand in what `headstart evaluate --tta` prints.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from augmentation import samples_of
from folds import shared_folder
from harness import RESULTS, machine, spread, versions, write_json, write_row
from numpy.typing import NDArray
from recipes import Table, augmentation_of, compared, scored

from headstart import ImageData, Learner
from headstart.augment import POLICIES, policy_views, symmetries_of
from headstart.evaluation import Predictions, average
from headstart.models import ActivationSource, fit_probe
from headstart.types import Prepare

CLAIM = (
    "test-time augmentation of a frozen probe, by policy: gain in accuracy and log loss over the plain view "
    "on pictures that chose nothing; a gain is claimed only where its interval excludes zero"
)
ARCHITECTURE = "mobilenetv2_100"
DATASETS = ("flowers", "aerial", "ants_bees", "catsdogs")
SEEDS = (0, 1, 2)
FOLDS = 5
SIZE = 224
REFERENCE = "plain"


class Bank:
    """The features of every picture of a set, by view; each view is looked at once and kept in a file."""

    def __init__(self, dataset: str, weights: Path, folder: Path) -> None:
        self.dataset, self._folder = dataset, folder
        data = ImageData.from_samples(
            samples_of(dataset, 0, 0), image_size=SIZE, augment=augmentation_of(dataset)
        )
        self._learner = Learner(data, ARCHITECTURE, weights=weights, callbacks=())
        self.data = self._learner.data
        self._known: dict[str, NDArray[np.float32]] = {}

    def of(self, view: Prepare) -> NDArray[np.float32]:
        """Return float32 (pictures, features) in the order of the table."""
        name = f"{self.dataset}_{hashlib.sha256(view.key.encode()).hexdigest()[:16]}.npy"
        if name not in self._known:
            file = self._folder / name
            if not file.exists():
                self._folder.mkdir(parents=True, exist_ok=True)
                partial = file.with_suffix(".part.npy")
                np.save(partial, self._look(view))
                partial.replace(file)
            self._known[name] = np.load(file)
        return self._known[name]

    def _look(self, view: Prepare) -> NDArray[np.float32]:
        values = np.zeros((len(self.data.samples), self._learner.model.feature_count), np.float32)
        looked_at = np.zeros(len(values), bool)
        for split in ("train", "valid"):
            source = self.data.source(split, prepare=view)
            for batch in ActivationSource(source, self._learner.engine()).epoch(0):
                values[batch.index] = np.asarray(batch.inputs)
                looked_at[batch.index] = True
        if not looked_at.all():
            # Features of nothing would train the probe and be judged.
            raise SystemExit(
                f"{(~looked_at).sum()} pictures of {self.dataset} cannot be read: mend them first"
            )
        return values


def fit_row(bank: Bank, seed: int, policies: Sequence[str]) -> dict[str, Any]:
    """Judge every picture by the probe of the other folds, by each policy."""
    data = bank.data
    labels, classes = data.samples.labels, data.classes
    symmetries = symmetries_of(data.augmentation)
    chosen = {name: policy_views(name, data.evaluation, symmetries) for name in policies}
    arms: dict[str, Table] = {}
    for fold in range(FOLDS):
        split = samples_of(bank.dataset, seed, fold).split
        # The table may lack pictures that cannot be read: parts are told by path.
        part = dict(zip(samples_of(bank.dataset, seed, fold).paths, split.tolist(), strict=True))
        held_out = np.array([part[path] == "valid" for path in data.samples.paths])
        train, held = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        probe = fit_probe(bank.of(data.evaluation)[train], labels[train], len(classes), seed=seed)

        def seen(view: Prepare, held: NDArray[np.int64] = held, probe: Any = probe) -> Predictions:
            return Predictions(probe.logits(bank.of(view)[held]), classes, targets=labels[held])

        plain = seen(data.evaluation)
        arms.setdefault(REFERENCE, {}).update(scored(data, held, plain.logits))
        for name, views in chosen.items():
            averaged = average([seen(view) for view in views.views], views.weights)
            arms.setdefault(name, {}).update(scored(data, held, averaged.logits))
    counts = {name: len(views.views) for name, views in chosen.items()}
    return {"arms": arms, "views": {REFERENCE: 1, **counts}, "symmetries": symmetries}


def run_fits(options: argparse.Namespace) -> None:
    """Run all fits that do not exist yet."""
    for dataset in options.datasets:
        bank: Bank | None = None
        for seed in options.seeds:
            file = options.into / f"{dataset}_seed{seed}.json"
            if file.exists():
                continue
            start = time.perf_counter()
            bank = bank or Bank(dataset, options.weights, options.into / "views")
            row = fit_row(bank, seed, options.policies)
            seconds = round(time.perf_counter() - start, 1)
            facts = {"dataset": dataset, "seed": seed, "seconds": seconds, "image_size": SIZE}
            write_json(file, {**facts, **row, "machine": machine(), "versions": versions()})
            print(f"done {file.stem}: {seconds:.0f} s", flush=True)
            for name, table in row["arms"].items():
                losses, right = zip(*table.values(), strict=True)
                print(f"  {name:14} {np.mean(right):.4f} {np.mean(losses):.4f}", flush=True)


def report(options: argparse.Namespace) -> None:
    """Pool all fits that exist; write the row and the table."""
    results: dict[str, Any] = {}
    pooled: dict[str, dict[str, list[list[float]]]] = {}
    count, views = 0, {}
    for dataset in options.datasets:
        found: dict[str, dict[str, list[list[float]]]] = {}
        for file in sorted(options.into.glob(f"{dataset}_seed*.json")):
            row = json.loads(file.read_text())
            count += 1
            views[dataset] = row["views"]
            for name, table in row["arms"].items():
                pictures = found.setdefault(name, {})
                for path, score in table.items():
                    pictures.setdefault(f"{dataset}/{path}", []).append(score)
        if REFERENCE in found:
            results[dataset] = compared(found, REFERENCE)
            for name, pictures in found.items():
                pooled.setdefault(name, {}).update(pictures)
    if not results:
        raise SystemExit(f"no fit in {options.into}")
    results["pooled"] = compared(pooled, REFERENCE)
    spreads = {
        f"{dataset}, gain in accuracy of a policy": spread(
            row["gain in accuracy"]["mean"] for name, row in arms.items() if name != REFERENCE
        )
        for dataset, arms in results.items()
        if len(arms) > 1
    }
    text = markdown(results, views)
    row = {**results, "views": views, "claimed": claimed(results)}
    write_row(CLAIM, row, n=count, name="tta", spreads=spreads, folder=options.results)
    (options.results / "tta.md").write_text(text)
    print(text)


def claimed(results: dict[str, Any]) -> dict[str, list[str]]:
    """Say of each set which policies are better or worse than the plain view, each figure by its interval.

    Of fifty intervals (five policies, two figures, four sets and all of them) two or three exclude zero by
    chance alone: what only one set shows is to be read so.
    """
    told: dict[str, list[str]] = {}
    for dataset, arms in results.items():
        for name, row in arms.items():
            for figure in ("gain in accuracy", "gain in log loss"):
                gain = row[figure]
                if gain["low"] > 0 or gain["high"] < 0:
                    word = "better" if gain["low"] > 0 else "worse"
                    told.setdefault(dataset, []).append(f"{name}: {word}, {figure}")
    return told


def markdown(results: dict[str, Any], views: dict[str, dict[str, int]]) -> str:
    """All policies as tables: accuracy and log loss, what is gained on the plain view, and at what cost."""
    lines: list[str] = []
    for dataset, arms in results.items():
        lines += [
            f"**{dataset}**",
            "",
            "| policy | views | pictures | accuracy | gain, points | log loss | gain |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, row in arms.items():
            points, loss = row["gain in accuracy"], row["gain in log loss"]
            lines.append(
                f"| {name} | {views.get(dataset, {}).get(name, '')} | {row['pictures']} "
                f"| {100 * row['accuracy']:.1f} | {100 * points['mean']:+.2f} "
                f"[{100 * points['low']:+.2f}, {100 * points['high']:+.2f}] | {row['log_loss']:.3f} "
                f"| {loss['mean']:+.3f} [{loss['low']:+.3f}, {loss['high']:+.3f}] |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run the fits, or report."""
    parser = argparse.ArgumentParser(description="What each view policy gains.")
    parser.add_argument("action", choices=("fit", "report"))
    parser.add_argument("--into", type=Path, required=True, help="folder of the fits")
    parser.add_argument(
        "--weights", type=Path, default=shared_folder() / "weights" / f"{ARCHITECTURE}.safetensors"
    )
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--policies", nargs="+", choices=list(POLICIES), default=list(POLICIES))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.into = options.into.absolute()
    if options.action == "report":
        report(options)
    else:
        run_fits(options)


if __name__ == "__main__":
    main()
