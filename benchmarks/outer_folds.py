"""Claim: on pictures never used to choose anything, the eight steps lose nothing that matters.

Their result is not worse than the probe by more than one point (lower 95 % bound) and not worse than fastai's
`fine_tune(3)` from the same weights.

    python benchmarks/outer_folds.py fastai    --into DIR --fastai-python PATH/TO/python
    python benchmarks/outer_folds.py headstart --into DIR
    python benchmarks/outer_folds.py report    --into DIR

Each fit is one row, `DIR/<side>/<dataset>_seed<s>_fold<f>.json`, which holds the prediction of every test
picture; rows that exist are skipped, so a killed run goes on where it was. Both sides get the same trees of
`folds.py`: a 2-fold cross-validation, repeated with three seeds for `flowers` and `ants_bees`. `report` pairs
the sides picture by picture and writes `results/outer_folds.json` and `results/outer_folds.md`. Intervals are
percentile bootstraps that draw pictures, each with all its seeds: the seeds of one picture are not
independent. No times are compared here: fits may run beside other work; that is what `recipe_vs_fastai` is
for.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folds import count_pictures, outer_tree, shared_folder
from harness import RESULTS, json_lines, machine, run_process, spread, versions, write_json, write_row

if TYPE_CHECKING:
    import numpy as np

CLAIM = (
    "pooled outer folds, paired by picture: the eight steps are not worse than the probe by more than one "
    "point and not worse than fastai's fine_tune(3) from the same weights; superiority is claimed only where "
    "the interval excludes zero"
)
ARCHITECTURE = "mobilenetv2_100"
FOLDS = 2
# Pictures from above have no upright: both sides may flip them vertically.
TOP_DOWN = frozenset({"aerial"})
# One seed of every set comes first, so that an unfinished run already says something about each.
FITS: tuple[tuple[str, int], ...] = (
    ("aerial", 0),
    ("flowers", 0),
    ("ants_bees", 0),
    ("catsdogs", 0),
    ("flowers", 1),
    ("ants_bees", 1),
    ("flowers", 2),
    ("ants_bees", 2),
)

# What is read from a run folder of headstart.
RECIPE_PREDICTIONS = "predictions.csv"
PROBE_PREDICTIONS = "probe_predictions.csv"
SUMMARY = "summary.json"


@dataclass(frozen=True)
class Fit:
    """One outer fold of one data set."""

    dataset: str
    seed: int
    fold: int

    @property
    def name(self) -> str:
        """File name without ending, the same on both sides."""
        return f"{self.dataset}_seed{self.seed}_fold{self.fold}"


def fits(datasets: list[str] | None = None, seeds: list[int] | None = None) -> list[Fit]:
    """All fits in the order in which they run, or those of some data sets and seeds."""
    return [
        Fit(dataset, seed, fold)
        for dataset, seed in FITS
        for fold in range(FOLDS)
        if (not datasets or dataset in datasets) and (not seeds or seed in seeds)
    ]


def read_test_predictions(file: Path, tree: Path) -> dict[str, dict[str, Any]]:
    """The test rows of a predictions file, keyed by `<class>/<name>` in the tree's test part.

    Paths may be relative to the tree or to its test part, absolute, or those that the links point to. Raises
    `ValueError` where a row is no test picture of the tree or a test picture has no row: a comparison over
    fewer pictures than were held out would flatter.
    """
    keys: dict[str, str] = {}
    expected: set[str] = set()
    for picture in sorted((tree / "test").glob("*/*")):
        key = picture.relative_to(tree / "test").as_posix()
        expected.add(key)
        for spelling in (key, f"test/{key}", str(picture), str(picture.absolute()), str(picture.resolve())):
            keys[spelling] = key
    rows: dict[str, dict[str, Any]] = {}
    with file.open(newline="") as stream:
        for row in csv.DictReader(stream):
            if row["split"] != "test":
                continue
            if row["path"] not in keys:
                raise ValueError(f"{file}: {row['path']} is no test picture of {tree}")
            key = keys[row["path"]]
            label = key.partition("/")[0]
            if row["label"] != label:
                raise ValueError(f"{file}: {row['path']} is labelled {row['label']}, its folder says {label}")
            rows[key] = {
                "label": label,
                "prediction": row["prediction"],
                "probability_of_label": round(float(row[f"p_{label}"]), 6),
            }
    if missing := expected - rows.keys():
        raise ValueError(f"{file}: {len(missing)} test pictures have no row, such as {min(missing)}")
    return rows


def accuracy_of(rows: dict[str, dict[str, Any]]) -> float:
    """Share of rows whose prediction is their label."""
    return sum(1 for row in rows.values() if row["prediction"] == row["label"]) / len(rows)


def fit_fastai(fit: Fit, tree: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run the baseline as a whole process; return its row."""
    predictions = options.into / "work" / f"fastai_{fit.name}.csv"
    script = Path(__file__).with_name("fastai_baseline.py")
    command = [
        options.fastai_python,
        str(script),
        str(tree),
        "--out",
        str(predictions),
        "--seed",
        str(fit.seed),
    ]
    if options.threads:
        command += ["--threads", str(options.threads)]
    if fit.dataset in TOP_DOWN:
        command += ["--flip-vertically"]
    log = options.into / "logs" / f"fastai_{fit.name}.log"
    finished = run_process(command, log=log)
    if finished.returncode != 0:
        raise RuntimeError(f"the baseline failed; see {log}")
    events = json_lines(line for _, line in finished.lines)
    rows = read_test_predictions(predictions, tree)
    predictions.unlink()
    return {
        "seconds": round(finished.seconds, 1),
        "end": events[-1],
        "epochs": [event for event in events if "epoch" in event],
        "test_accuracy": {"fastai": accuracy_of(rows)},
        "predictions": {"fastai": rows},
    }


def fit_headstart(fit: Fit, tree: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run `headstart train` as a whole process; return its row, with the probe's predictions beside its
    own."""
    run = options.into / "runs" / fit.name
    # An unfinished run of a killed driver: headstart rightly refuses to write over it.
    shutil.rmtree(run, ignore_errors=True)
    run.parent.mkdir(parents=True, exist_ok=True)
    command = [
        options.headstart,
        "train",
        str(tree),
        "--arch",
        ARCHITECTURE,
        "--weights",
        str(options.weights),
    ]
    command += ["--out", str(run), "--seed", str(fit.seed)]
    if options.threads:
        command += ["--threads", str(options.threads)]
    if fit.dataset in TOP_DOWN:
        command += ["--augment", "top-down"]
    log = options.into / "logs" / f"headstart_{fit.name}.log"
    finished = run_process(command, log=log)
    if finished.returncode != 0:
        raise RuntimeError(f"headstart train failed; see {log}")
    recipe = read_test_predictions(run / RECIPE_PREDICTIONS, tree)
    probe = read_test_predictions(run / PROBE_PREDICTIONS, tree)
    summary = json.loads((run / SUMMARY).read_text())
    if not options.keep_runs:
        shutil.rmtree(run)
    return {
        "seconds": round(finished.seconds, 1),
        "steps": summary.get("steps"),
        "versions": versions(),
        "test_accuracy": {"recipe": accuracy_of(recipe), "probe": accuracy_of(probe)},
        "predictions": {"recipe": recipe, "probe": probe},
    }


def run_side(options: argparse.Namespace) -> None:
    """Run all missing rows of one side; a row that fails is named and the next one is tried."""
    failed: list[str] = []
    fit_side = fit_fastai if options.side == "fastai" else fit_headstart
    for fit in fits(options.datasets, options.seeds):
        file = options.into / options.side / f"{fit.name}.json"
        if file.exists():
            continue
        # A folder for each side: both may run at once, and a tree is rebuilt before its fit.
        trees = options.into / "trees" / options.side
        tree = outer_tree(fit.dataset, fit.seed, fit.fold, folds=FOLDS, into=trees, copy=options.copy)
        try:
            row = fit_side(fit, tree, options)
        except (RuntimeError, ValueError, OSError, KeyError) as error:
            print(f"failed {options.side} {fit.name}: {error}", flush=True)
            failed.append(fit.name)
            continue
        facts = {"side": options.side, **asdict(fit), "folds": FOLDS, "pictures": count_pictures(tree)}
        write_json(file, {**facts, "machine": machine(), **row})
        accuracies = ", ".join(f"{name} {value:.4f}" for name, value in row["test_accuracy"].items())
        print(f"done {options.side} {fit.name}: {accuracies}, {row['seconds']:.0f} s", flush=True)
    if failed:
        raise SystemExit(f"{len(failed)} rows failed: {', '.join(failed)}")


def clustered_interval(
    values: np.ndarray, *, draws: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean and percentile-bootstrap interval of `values[pictures]`, each a mean over the seeds of one
    picture."""
    import numpy as np

    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    # In blocks: 10 000 × 1100 row numbers at once would be 88 MB.
    for start in range(0, draws, 1000):
        rows = generator.integers(0, len(values), size=(min(1000, draws - start), len(values)))
        means[start : start + len(rows)] = values[rows].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(values.mean()), float(low), float(high)


def pooled(into: Path, dataset: str) -> dict[str, Any] | None:
    """Pool the folds and seeds that both sides have finished; None when there is none."""
    import numpy as np

    scores: dict[str, dict[str, list[float]]] = {}
    losses: dict[str, list[float]] = {}
    used: list[str] = []
    wanted = fits([dataset])
    accuracies: dict[str, list[float]] = {}
    for fit in wanted:
        files = {side: into / side / f"{fit.name}.json" for side in ("fastai", "headstart")}
        if not all(file.exists() for file in files.values()):
            continue
        rows = {side: json.loads(file.read_text()) for side, file in files.items()}
        predictions = {**rows["fastai"]["predictions"], **rows["headstart"]["predictions"]}
        if len({frozenset(table) for table in predictions.values()}) != 1:
            raise ValueError(f"{fit.name}: the sides did not predict the same pictures")
        used.append(fit.name)
        for method, table in predictions.items():
            accuracies.setdefault(method, []).append(accuracy_of(table))
            for key, row in table.items():
                picture = scores.setdefault(key, {})
                picture.setdefault(method, []).append(float(row["prediction"] == row["label"]))
                losses.setdefault(method, []).append(-math.log(max(row["probability_of_label"], 1e-6)))
    if not used:
        return None
    methods = ("recipe", "probe", "fastai")
    table = {m: np.array([np.mean(scores[key][m]) for key in sorted(scores)]) for m in methods}
    estimates = {method: clustered_interval(values) for method, values in table.items()}
    for other in ("probe", "fastai"):
        estimates[f"recipe - {other}"] = clustered_interval(table["recipe"] - table[other])
    return {
        "pictures": len(scores),
        "n": sum(len(scores[key]["recipe"]) for key in scores),
        "fits": len(used),
        "complete": len(used) == len(wanted),
        "accuracy": {
            name: dict(zip(("mean", "low", "high"), (round(v, 5) for v in estimate), strict=True))
            for name, estimate in estimates.items()
        },
        "spread_over_fits": {method: spread(accuracies[method], digits=5) for method in methods},
        "mean_log_loss": {method: round(float(np.mean(losses[method])), 5) for method in methods},
        "verdict": {
            "recipe not worse than the probe by more than a point": estimates["recipe - probe"][1] >= -0.01,
            "recipe not worse than fastai by more than a point": estimates["recipe - fastai"][1] >= -0.01,
            "recipe better than the probe": estimates["recipe - probe"][1] > 0,
            "recipe better than fastai": estimates["recipe - fastai"][1] > 0,
            "recipe worse than fastai": estimates["recipe - fastai"][2] < 0,
        },
    }


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """The results as a table: accuracies in per cent, differences in points, 95 % intervals in brackets."""

    def cell(estimate: dict[str, float], *, signed: bool = False) -> str:
        style = "+.1f" if signed else ".1f"
        mean, low, high = (format(100 * estimate[key], style) for key in ("mean", "low", "high"))
        return f"{mean} [{low}, {high}]"

    lines = [
        "| set | pictures | predictions | eight steps | probe | fastai | steps − probe | steps − fastai |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for dataset, row in results.items():
        accuracy = row["accuracy"]
        cells = [dataset + ("" if row["complete"] else " (unfinished)"), str(row["pictures"]), str(row["n"])]
        cells += [cell(accuracy[method]) for method in ("recipe", "probe", "fastai")]
        cells += [cell(accuracy[f"recipe - {other}"], signed=True) for other in ("probe", "fastai")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def report(options: argparse.Namespace) -> None:
    """Pool all rows that exist, print the table and write the JSON row."""
    datasets = list(dict.fromkeys(dataset for dataset, _ in FITS))
    found = {dataset: pooled(options.into, dataset) for dataset in datasets}
    results = {dataset: row for dataset, row in found.items() if row is not None}
    if not results:
        raise SystemExit(f"no fold that both sides have finished in {options.into}")
    baselines = [json.loads(file.read_text()) for file in sorted((options.into / "fastai").glob("*.json"))]
    write_row(
        CLAIM,
        {"sets": results, "baseline_versions": baselines[0]["end"]["versions"]},
        n=sum(row["n"] for row in results.values()),
        name="outer_folds",
        spreads={
            f"{dataset}, {method}, accuracy of a fit": values
            for dataset, row in results.items()
            for method, values in row.pop("spread_over_fits").items()
        },
        folder=options.results,
    )
    (options.results / "outer_folds.md").write_text(markdown(results))
    print(markdown(results))


def main() -> None:
    """Run one side, or report."""
    parser = argparse.ArgumentParser(
        description="Outer folds: headstart, its probe and fastai, paired by picture."
    )
    parser.add_argument("side", choices=("fastai", "headstart", "report"))
    parser.add_argument("--into", type=Path, required=True, help="folder of the rows, one file per fit")
    parser.add_argument(
        "--fastai-python", default=sys.executable, help="Python of an environment with fastai"
    )
    parser.add_argument("--headstart", default=str(Path(sys.executable).with_name("headstart")))
    parser.add_argument(
        "--weights", type=Path, default=shared_folder() / "weights" / f"{ARCHITECTURE}.safetensors"
    )
    parser.add_argument("--threads", type=int, help="of each fit; default: all cores")
    parser.add_argument("--datasets", nargs="*", choices=sorted({dataset for dataset, _ in FITS}))
    parser.add_argument("--seeds", nargs="*", type=int)
    parser.add_argument("--copy", action="store_true", help="copy the pictures instead of linking to them")
    parser.add_argument("--keep-runs", action="store_true", help="keep headstart's run folders")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the report")
    options = parser.parse_args()
    options.into = options.into.absolute()
    if options.side == "report":
        report(options)
    else:
        run_side(options)


if __name__ == "__main__":
    main()
