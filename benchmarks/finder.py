"""Claim: the rate that trials choose never wrecks, and no rate three times away is clearly better.

For each set and line: `try_rates`, then a short one-cycle at the rate chosen and at a ninth, a third and
three times of it, each from the same weights again, judged by the loss on held-out pictures, paired picture
by picture. `whole` starts from a head at its optimum (the probe's), which is where the recipe unfreezes;
`head` from an untrained head on the frozen features.

    python benchmarks/finder.py fit    --into DIR
    python benchmarks/finder.py report --into DIR

Each training is one row, `DIR/<set>_<line>_<rate>.json`; rows that exist are skipped, so that a
killed run goes on where it was. No times are compared: rows may be made beside other work.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from folds import shared_folder
from harness import RESULTS, machine, versions, write_json, write_row

if TYPE_CHECKING:
    from headstart.imagedata import ImageData
    from headstart.learner import Learner

CLAIM = (
    "from the weights that the rates were tried from, a one-cycle at the rate chosen does not end clearly "
    "worse than no training at all, and neither a third nor three times of that rate ends clearly better"
)
ARCHITECTURE = "mobilenetv2_100"
SETS = ("helmets", "flowers", "catsdogs", "ants_bees", "aerial")
EPOCHS = {"whole": 1, "head": 3}
FACTORS = (1 / 9, 1 / 3, 1.0, 3.0)
# How many times lower the rate of each earlier group is: what the recipe's rule gives for these sets.
RATIOS = {"helmets": 10.0, "flowers": 10.0, "catsdogs": 10.0, "ants_bees": 10.0, "aerial": 3.0}


@dataclass
class Bench:
    """One set at one line: a learner that goes back to where it started."""

    name: str
    line: str
    size: int
    learner: Learner = field(init=False)

    def __post_init__(self) -> None:
        from headstart.learner import Learner
        from headstart.training import Settings

        data = pictures(self.name, self.size)
        weights = shared_folder() / "weights" / f"{ARCHITECTURE}.safetensors"
        settings = Settings(rate_ratio=RATIOS[self.name])
        self.learner = Learner(data, ARCHITECTURE, weights=weights, callbacks=(), settings=settings)
        if self.line == "whole":
            self.learner.fit_probe()
            self.learner.unfreeze()
        self.start = self.learner.state()

    def rates(self, rate: float) -> list[float]:
        """A rate for each group."""
        ratio, groups = RATIOS[self.name], len(self.learner.model.group_starts)
        return [rate * ratio ** (number + 1 - groups) for number in range(groups)]

    def losses(self) -> list[float]:
        """The loss of each held-out picture."""
        import numpy as np

        found = self.learner.predictions("valid")
        p = np.clip(found.probabilities, 1e-7, 1 - 1e-7)
        assert found.targets is not None
        if found.targets.ndim == 2:
            truth = found.targets.astype(bool)
            values = -np.log(np.where(truth, p, 1 - p)).mean(axis=1)
        else:
            values = -np.log(p[np.arange(len(p)), found.targets.astype(int)])
        return [round(float(value), 5) for value in values]

    def train(self, rate: float) -> list[float]:
        """Train one cycle from the start, and return the losses afterwards."""
        from headstart.errors import HeadstartError
        from headstart.training import Phase, one_cycle

        learner, whole = self.learner, self.line == "whole"
        learner.set_state(self.start)
        learner.run.step = learner.run.epoch = 0
        phase = Phase(
            "bench",
            EPOCHS[self.line],
            one_cycle(),
            learning_rate=tuple(self.rates(rate)),
            frozen_to=0 if whole else -1,
            augment=whole,
            precompute=not whole,
        )
        try:
            learner.run_phase(phase)
        except HeadstartError:
            return [math.inf] * len(learner.data.rows("valid"))
        return self.losses()

    def find(self) -> dict[str, Any]:
        """Try rates from the start; return what was chosen and what it took."""
        self.learner.set_state(self.start)
        self.learner.run.step = self.learner.run.epoch = 0
        looking = self.learner if self.line == "whole" else self.learner.precompute()
        found = looking.try_rates(self.rates(1.0))
        return {
            "rate": found.rate or found.trials[0].rate,
            "why": found.why,
            "pictures": found.pictures,
            "trials": [[trial.rate, trial.steps, trial.change, trial.cost] for trial in found.trials],
        }


def pictures(name: str, size: int) -> ImageData:
    """The pictures of a set, 35 % of them held out."""
    from headstart.augment import side_on, top_down
    from headstart.data import Table
    from headstart.imagedata import ImageData

    folder = shared_folder() / "data" / name
    augmentation = top_down() if name == "aerial" else side_on()
    if name == "helmets":
        table = Table(image="image", label="tags", folder="images", suffix=".jpg")
        return ImageData.from_csv(
            folder / "labels.csv", table, image_size=size, augment=augmentation, valid=0.35
        )
    return ImageData.from_folder(folder, image_size=size, augment=augmentation, valid=0.35)


def rows_of(options: argparse.Namespace, name: str, line: str) -> list[tuple[Path, float]]:
    """The files of a set and line with their factors of the rate that was chosen; empty before it was."""
    file = options.into / f"{name}_{line}_found.json"
    if not file.exists():
        return []
    rate = json.loads(file.read_text())["found"]["rate"]
    return [(options.into / f"{name}_{line}_{rate * factor:.2e}.json", factor) for factor in FACTORS]


def fit(options: argparse.Namespace) -> None:
    """Make the rows that are missing."""
    for name in options.sets:
        for line in options.lines:
            if (rows := rows_of(options, name, line)) and all(file.exists() for file, _ in rows):
                continue
            bench = Bench(name, line, options.image_size)
            file = options.into / f"{name}_{line}_found.json"
            if not file.exists():
                facts = {"machine": machine(), "versions": versions(), "image_size": options.image_size}
                write_json(file, {**facts, "start": bench.losses(), "found": bench.find()})
            rate = json.loads(file.read_text())["found"]["rate"]
            for row, factor in rows_of(options, name, line):
                if not row.exists():
                    write_json(row, {"losses": bench.train(rate * factor)})
                print(f"done {row.stem}", flush=True)


def paired(after: list[float], before: list[float]) -> dict[str, float]:
    """The mean difference of the losses of the same pictures, with its 95 % interval."""
    import numpy as np

    difference = np.array(after) - np.array(before)
    mean, reach = float(difference.mean()), 1.96 * float(difference.std(ddof=1)) / math.sqrt(len(difference))
    return {
        key: round(value, 4)
        for key, value in zip(("mean", "low", "high"), (mean, mean - reach, mean + reach), strict=True)
    }


def judged(options: argparse.Namespace, name: str, line: str) -> dict[str, Any] | None:
    """One set and line as a row of the report; None where something is missing."""
    rows = rows_of(options, name, line)
    if not rows or not all(file.exists() for file, _ in rows):
        return None
    begun = json.loads((options.into / f"{name}_{line}_found.json").read_text())
    start, found = begun["start"], begun["found"]
    losses = {factor: json.loads(file.read_text())["losses"] for file, factor in rows}
    against_none = {f"{factor:.2g}": paired(values, start) for factor, values in losses.items()}
    near = {f"{factor:.2g}": paired(losses[factor], losses[1.0]) for factor in (1 / 3, 3.0)}
    return {
        **found,
        "pictures_judged": len(start),
        "loss_before": round(sum(start) / len(start), 4),
        "change_at_factor": against_none,
        "other_factor_against_chosen": near,
        "never_clearly_worse_than_none": against_none["1"]["low"] <= 0,
        "no_neighbour_clearly_better": all(each["high"] >= 0 for each in near.values()),
    }


def report(options: argparse.Namespace) -> None:
    """Judge all rows that exist, and write the JSON row."""
    keys = [(name, line) for line in options.lines for name in options.sets]
    found = {f"{name}, {line}": judged(options, name, line) for name, line in keys}
    results = {key: row for key, row in found.items() if row is not None}
    if not results:
        raise SystemExit(f"nothing is finished in {options.into}")
    write_row(CLAIM, results, n=len(results), name="finder", folder=options.results)


def main() -> None:
    """Make rows, or report."""
    parser = argparse.ArgumentParser(description="Rates chosen by trials, against their neighbours.")
    parser.add_argument("what", choices=("fit", "report"))
    parser.add_argument("--into", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--sets", nargs="*", choices=SETS, default=SETS)
    parser.add_argument("--lines", nargs="*", choices=sorted(EPOCHS), default=["head", "whole"])
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the report")
    options = parser.parse_args()
    fit(options) if options.what == "fit" else report(options)


if __name__ == "__main__":
    main()
