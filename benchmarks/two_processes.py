"""Claim: two processes train the very network that one does, and the speed-up is what it is.

The whole network, AdamW, batch norm in evaluation mode (`--batch-norm train`: it takes the statistics of both
ranks), augmented pictures, one effective batch: once in one process and once in two that `torchrun` starts,
each with one thread to compute and one to read.

    python benchmarks/two_processes.py [--repeats 3]
    python benchmarks/two_processes.py --repeats 1 --pictures 64 --arch test_convnext --from-scratch  # a try

Agreement: the largest difference of a probability on the validation pictures, and of a figure of the history
(training loss, validation loss, accuracy). It is measured in float64, where only a fault would show. In
float32 the order of sums does: beside two processes stands one process with another number of threads, which
differs from itself by as much. Speed: the float32 seconds of the last epoch, in which nothing is decoded for
the first time; on two cores, one process with two threads has as much to compute with as two with one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from folds import shared_folder
from harness import RESULTS, run_process, spread, write_row

CLAIM = (
    "two processes give the predictions and the history of one at the same effective batch, to 1e-5 in "
    "float64; the seconds of an epoch stand beside it"
)
AGREES = 1e-5
EXACT, CONTROL = "float64", "float32, one process with two threads to one with one"
FIGURES = ("train_loss", "valid_loss", "accuracy")
SIDES = {"one process": (1, 1), "one process, two threads": (1, 2), "two processes": (2, 1)}


def train(options: argparse.Namespace) -> None:
    """Train as one of the processes that there are; rank 0 writes what came out."""
    import torch

    from headstart.imagedata import ImageData
    from headstart.learner import Learner
    from headstart.processes import joined
    from headstart.training import Settings

    torch.set_num_threads(options.threads)
    with joined() as ranks:
        data = ImageData.from_folder(
            shared_folder() / "data" / "flowers",
            image_size=options.size,
            batch_size=options.batch_size,
            limit=options.pictures,
            threads=1,
        )
        learn = Learner(
            data,
            options.arch,
            weights=None if options.from_scratch else shared_folder() / "weights",
            from_scratch=options.from_scratch,
            settings=Settings(
                precision="float32", optimizer=options.optimizer, batch_norm=options.batch_norm
            ),
            device="cpu",
            callbacks=(),
        )
        if options.double:
            learn.model.double()
        learn.unfreeze()
        learn.fit_one_cycle(options.epochs, slice(1e-4, 1e-3))
        found = learn.predictions("valid").probabilities
        if ranks.first:
            rows = [{name: row[name] for name in (*FIGURES, "time")} for row in learn.run.history]
            text = json.dumps({"history": rows, "probabilities": found.tolist()})
            options.worker.write_text(text)


def measured(side: str, arguments: list[str]) -> dict[str, Any]:
    """Run a side from nothing and return what it wrote."""
    processes, threads = SIDES[side]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [__file__, *arguments, "--worker", str(out), "--threads", str(threads)]
        many = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        ended = run_process(
            [sys.executable, *(many if processes > 1 else []), *command],
            environment={"OMP_NUM_THREADS": str(threads)},
            log=Path(folder) / "log",
        )
        if ended.returncode:
            raise SystemExit((Path(folder) / "log").read_text())
        result: dict[str, Any] = json.loads(out.read_text())
    return result


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """The largest difference of a probability, and of a figure of the history."""
    figures = [
        abs(a[name] - b[name])
        for a, b in zip(ours["history"], theirs["history"], strict=True)
        for name in FIGURES
    ]
    apart = np.abs(np.array(ours["probabilities"]) - np.array(theirs["probabilities"]))
    return {"probability": float(apart.max()), "history": max(figures)}


def main() -> None:
    """Measure all sides, in turn within each repeat, and write the row."""
    parser = argparse.ArgumentParser(description=CLAIM)
    parser.add_argument("--arch", default="mobilenetv2_100")
    parser.add_argument("--from-scratch", action="store_true")
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--batch-norm", choices=("eval", "train"), default="eval")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--double", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        train(options)
        return
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    apart: dict[str, list[dict[str, float]]] = {EXACT: [], "float32": [], CONTROL: []}
    for _ in range(options.repeats):
        exact = {
            side: measured(side, [*sys.argv[1:], "--double"]) for side in ("one process", "two processes")
        }
        apart[EXACT].append(difference(exact["two processes"], exact["one process"]))
        found = {side: measured(side, sys.argv[1:]) for side in SIDES}
        apart["float32"].append(difference(found["two processes"], found["one process"]))
        apart[CONTROL].append(difference(found["one process, two threads"], found["one process"]))
        for side, outcome in found.items():
            seconds[side].append(outcome["history"][-1]["time"])
    worst = {
        kind: {name: max(each[name] for each in known) for name in known[0]} for kind, known in apart.items()
    }
    speed_ups = {
        f"two processes / {side}": spread(
            [a / b for a, b in zip(seconds[side], seconds["two processes"], strict=True)]
        )
        for side in ("one process", "one process, two threads")
    }
    results = {
        "arch": options.arch,
        "optimizer": options.optimizer,
        "batch_norm": options.batch_norm,
        "size": options.size,
        "batch_size": options.batch_size,
        "pictures": options.pictures,
        "cores": os.cpu_count(),
        "largest difference": worst,
        "speed-up": speed_ups,
        "claim holds": max(worst[EXACT].values()) <= AGREES,
    }
    spreads = {f"seconds of an epoch, {side}": spread(values) for side, values in seconds.items()}
    write_row(
        CLAIM, results, n=options.repeats, name="two_processes", spreads=spreads, folder=options.results
    )


if __name__ == "__main__":
    main()
