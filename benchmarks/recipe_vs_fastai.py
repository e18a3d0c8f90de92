"""Claim: headstart first reaches fastai's final accuracy in at most a twentieth of the wall time.

On sets of more than 600 pictures, once the body has been exported. Compared with the time that fastai needs
to first reach it, from the same pictures, weights and image size; the first run of a body, a smaller set and
both final accuracies stand beside it.

    python benchmarks/recipe_vs_fastai.py --fastai-python PATH/TO/python [--repeats 3]

In one run, on `catsdogs` and `ants_bees` (their own train and valid folders) and `flowers` (a fixed
stratified 80/20 split):

* fastai: `fine_tune(3)`; the target is the accuracy on valid after its last epoch. Its time is that of the
  first epoch that reaches the target, from the start of its process; its total stands beside it.
* headstart, *first run of a body*: an empty cache folder, so the body is exported for inference and checked
  as well. It goes on to its end.
* headstart, *later run*: a cache folder in which a run on other pictures (eighty of `ants_bees`, or of
  `flowers` before `ants_bees`) has left the exported body, but nothing of these pictures. It is begun
  `--crossings` times from that folder and ended when it has reached the target.

Both sides are timed by their own clocks from process start; imports count. All pictures are read once
beforehand, so that neither side pays for a cold disk. `--allocators` runs everything once with the C
allocator's defaults and once told to keep freed memory, on both sides: eager CPU training in large batches
frees and maps big blocks at every step, which is slow where page faults are, as on a virtual machine (fastai,
one frozen epoch of `catsdogs`, two shared cores, n = 1 each: 115 s, of them 106 s of system time over two
threads, with the defaults; 63 s, of them 7 s of system time, tuned and with a single thread). With equal
threads the losses are the same to the last digit. A claim of a ratio is to hold in both.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from folds import count_pictures, fixed_tree, shared_folder, small_tree
from harness import RESULTS, json_lines, run_process, spread, write_row

CLAIM = (
    "wall time from process start to fastai's final fine_tune(3) accuracy is at most a twentieth of the time "
    "in which fastai first reaches it (same pictures, weights and size; sets of more than 600 pictures, the "
    "body exported before)"
)
ARCHITECTURE = "mobilenetv2_100"
# Each with the set whose pictures a run has seen before the later run.
WARM_UP = {"catsdogs": "ants_bees", "flowers": "ants_bees", "ants_bees": "flowers"}
DATASETS = tuple(WARM_UP)

# The one place that knows how headstart writes a run down: for each value, the keys that are tried in turn,
# in the line itself and then in the line's `metrics`.
HISTORY = "history.jsonl"
PREDICTIONS = "predictions.csv"
HISTORY_KEYS: dict[str, tuple[str, ...]] = {
    "seconds": ("seconds", "wall_seconds", "elapsed"),
    "accuracy": ("accuracy", "valid_accuracy"),
    "step": ("step",),
    "name": ("name", "phase"),
}
CACHE_VARIABLE = "HEADSTART_CACHE"

ALLOCATORS: dict[str, dict[str, str]] = {
    "default": {},
    # glibc: never map a block on its own, never give memory back, grow by 256 MiB.
    "tuned": {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "8000000000",
        "MALLOC_TOP_PAD_": "268435456",
    },
}


def history_value(line: dict[str, Any], name: str) -> Any:
    """The value of one history line under any of its known keys; None where it has none."""
    metrics = line.get("metrics")
    for source in (line, metrics if isinstance(metrics, dict) else {}):
        for key in HISTORY_KEYS[name]:
            if source.get(key) is not None:
                return source[key]
    return None


def first_at(lines: list[dict[str, Any]], target: float, pictures: int) -> dict[str, Any] | None:
    """The first line whose accuracy reaches the target: its seconds, accuracy, step and name.

    Both accuracies count whole pictures, one of them in 32 bits: they are equal when they differ by less than
    half a picture.
    """
    for line in lines:
        accuracy = history_value(line, "accuracy")
        if accuracy is not None and float(accuracy) >= target - 0.5 / pictures:
            return {name: history_value(line, name) for name in HISTORY_KEYS}
    return None


def read_everything(tree: Path) -> None:
    """Bring all pictures of a tree into the page cache."""
    for file in tree.glob("*/*/*"):
        file.read_bytes()


def valid_accuracy(predictions: Path) -> float:
    """Accuracy over the valid rows of a predictions file."""
    with predictions.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "valid"]
    return sum(1 for row in rows if row["prediction"] == row["label"]) / len(rows)


def run_fastai(
    tree: Path, seed: int, environment: dict[str, str], options: argparse.Namespace
) -> dict[str, Any]:
    """One whole process of the baseline: target, time of its first crossing, total."""
    script = Path(__file__).with_name("fastai_baseline.py")
    command = [
        options.fastai_python,
        str(script),
        str(tree),
        "--seed",
        str(seed),
        "--workers",
        str(options.workers),
    ]
    command += ["--epochs", str(options.epochs)]
    log = options.work / "logs" / f"fastai_{tree.name}_{seed}.log"
    finished = run_process(command, environment=environment, log=log)
    if finished.returncode != 0:
        raise SystemExit(f"the baseline failed; see {log}")
    events = json_lines(line for _, line in finished.lines)
    epochs = [event for event in events if "epoch" in event]
    pictures = sum(count_pictures(tree)["valid"].values())
    target = float(epochs[-1]["accuracy"])
    reached = first_at(epochs, target, pictures)
    assert reached is not None
    return {
        "final_accuracy": target,
        "seconds_to_target": float(reached["seconds"]),
        "seconds_total": float(epochs[-1]["seconds"]),
        "process_seconds": round(finished.seconds, 2),
        "epochs": epochs,
        "batch_size": events[-1]["batch_size"],
        "threads": events[-1]["threads"],
    }


def train_command(tree: Path, run: Path, seed: int, options: argparse.Namespace) -> list[str]:
    """The command that trains headstart on a tree into `run`."""
    command = [
        options.headstart,
        "train",
        str(tree),
        "--arch",
        ARCHITECTURE,
        "--weights",
        str(options.weights),
    ]
    return [*command, "--out", str(run), "--seed", str(seed), "--json"]


def train_headstart(
    tree: Path, run: Path, cache: Path, seed: int, environment: dict[str, str], options: argparse.Namespace
) -> float:
    """One whole process of `headstart train` into `run`; its wall seconds, seen from outside."""
    shutil.rmtree(run, ignore_errors=True)
    command = train_command(tree, run, seed, options)
    log = options.work / "logs" / f"headstart_{run.name}.log"
    finished = run_process(command, environment={**environment, CACHE_VARIABLE: str(cache)}, log=log)
    if finished.returncode != 0:
        raise SystemExit(f"headstart train failed; see {log}")
    return finished.seconds


def seconds_to_target(
    tree: Path,
    cache: Path,
    target: float,
    seed: int,
    environment: dict[str, str],
    options: argparse.Namespace,
) -> float | None:
    """Begin a run from a cache folder, end it when it has reached the target; when that was, by its clock."""
    run, own = options.work / "run_crossing", options.work / "cache_crossing"
    for folder in (run, own):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(cache, own)
    pictures = sum(count_pictures(tree)["valid"].values())
    process = subprocess.Popen(
        train_command(tree, run, seed, options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment, CACHE_VARIABLE: str(own)},
    )
    reached = None
    try:
        while reached is None and process.poll() is None:
            time.sleep(0.05)
            # A line is appended whole.
            lines = (run / HISTORY).read_text().splitlines() if (run / HISTORY).is_file() else []
            reached = first_at(json_lines(lines), target, pictures)
    finally:
        process.kill()
        process.wait()
    return None if reached is None else float(reached["seconds"])


def first_run(
    tree: Path, target: float, seed: int, environment: dict[str, str], options: argparse.Namespace
) -> dict[str, Any]:
    """A run with an empty cache folder, to its end: when it reached the target, and where it ended.

    `reached_after_probe` leaves out the lines of step 0, the logistic regression on frozen features.
    """
    cache, run = options.work / "cache_first", options.work / f"run_first_{tree.name}"
    shutil.rmtree(cache, ignore_errors=True)
    seconds = train_headstart(tree, run, cache, seed, environment, options)
    lines = json_lines((run / HISTORY).read_text().splitlines())
    pictures = sum(count_pictures(tree)["valid"].values())
    reached = first_at(lines, target, pictures)
    return {
        "reached": reached,
        "reached_after_probe": first_at(
            [line for line in lines if history_value(line, "step") not in (0, "0", "probe")], target, pictures
        ),
        "seconds_to_target": [] if reached is None else [float(reached["seconds"])],
        "final_accuracy": valid_accuracy(run / PREDICTIONS),
        "process_seconds": round(seconds, 2),
    }


def later_runs(
    dataset: str,
    tree: Path,
    target: float,
    seed: int,
    environment: dict[str, str],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Several runs with the body exported before, each ended when it has reached the target."""
    cache = options.work / "cache_later"
    shutil.rmtree(cache, ignore_errors=True)
    small = small_tree(WARM_UP[dataset], into=options.work / "trees")
    train_headstart(small, options.work / f"run_warm_up_{tree.name}", cache, seed, environment, options)
    found = [
        seconds_to_target(tree, cache, target, seed, environment, options) for _ in range(options.crossings)
    ]
    return {
        "seconds_to_target": [seconds for seconds in found if seconds is not None],
        "never": sum(seconds is None for seconds in found),
    }


def measure(dataset: str, repeat: int, allocator: str, options: argparse.Namespace) -> dict[str, Any]:
    """fastai, then headstart's first and later run, on one data set; the repeat is the seed of all."""
    tree = fixed_tree(dataset, into=options.work / "trees")
    read_everything(tree)
    environment = ALLOCATORS[allocator]
    row: dict[str, Any] = {
        "dataset": dataset,
        "seed": repeat,
        "allocator": allocator,
        "pictures": count_pictures(tree),
    }
    row["fastai"] = run_fastai(tree, repeat, environment, options)
    if options.only == "fastai":
        return row
    target = row["fastai"]["final_accuracy"]
    row["later"] = later_runs(dataset, tree, target, repeat, environment, options)
    row["first"] = first_run(tree, target, repeat, environment, options)
    return row


def spreads(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Spread of every timed series over the repeats; a run that never reached the target has no time, but
    counts."""
    series: dict[str, list[float]] = {}
    for row in rows:
        prefix = f"{row['dataset']}, {row['allocator']} allocator"
        series.setdefault(f"{prefix}, fastai first, s", []).append(row["fastai"]["seconds_to_target"])
        series.setdefault(f"{prefix}, fastai total, s", []).append(row["fastai"]["seconds_total"])
        series.setdefault(f"{prefix}, fastai final accuracy", []).append(row["fastai"]["final_accuracy"])
        for kind in ("first", "later"):
            ours = row.get(kind)
            if ours is None:
                continue
            if "final_accuracy" in ours:
                series.setdefault(f"{prefix}, headstart final accuracy", []).append(ours["final_accuracy"])
            for seconds in ours["seconds_to_target"]:
                share = seconds / row["fastai"]["seconds_to_target"]
                series.setdefault(f"{prefix}, headstart {kind} run, s", []).append(seconds)
                series.setdefault(f"{prefix}, headstart {kind} run, share", []).append(share)
    return {name: spread(values, digits=4) for name, values in series.items()}


def main() -> None:
    """Measure all and write the row."""
    parser = argparse.ArgumentParser(description="Wall time to fastai's final accuracy.")
    parser.add_argument(
        "--fastai-python", default=sys.executable, help="Python of an environment with fastai"
    )
    parser.add_argument("--headstart", default=str(Path(sys.executable).with_name("headstart")))
    parser.add_argument(
        "--weights", type=Path, default=shared_folder() / "weights" / f"{ARCHITECTURE}.safetensors"
    )
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--crossings", type=int, default=5, help="later runs for each of fastai's")
    parser.add_argument("--allocators", nargs="+", choices=sorted(ALLOCATORS), default=sorted(ALLOCATORS))
    parser.add_argument(
        "--workers", type=int, default=0, help="fastai's loader processes (README: which is faster)"
    )
    parser.add_argument(
        "--epochs", type=int, default=3, help="of fine_tune; other than 3 only to try the mechanics"
    )
    parser.add_argument("--only", choices=("fastai",), help="leave headstart out, to try the mechanics")
    parser.add_argument(
        "--work", type=Path, help="folder for trees, caches, runs and logs; default: a temporary one"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.work = (options.work or Path(tempfile.mkdtemp(prefix="recipe_vs_fastai_"))).absolute()
    rows: list[dict[str, Any]] = []
    for repeat in range(options.repeats):
        for allocator in options.allocators:
            for dataset in options.datasets:
                rows.append(measure(dataset, repeat, allocator, options))
                # A row takes tens of minutes: what is measured is shown, should a later part fail.
                print(
                    json.dumps({key: value for key, value in rows[-1].items() if key != "pictures"}),
                    flush=True,
                )
    write_row(
        CLAIM,
        rows,
        n=options.repeats,
        name="recipe_vs_fastai",
        spreads=spreads(rows),
        baseline_python=options.fastai_python,
        folder=options.results,
    )


if __name__ == "__main__":
    main()
