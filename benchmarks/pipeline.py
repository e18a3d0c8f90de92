"""Claim: pictures reach the network at the speed of the decoder, and from the second epoch on faster.

First epoch (decoding included) at least 2.5 times as fast as fastai's and 1.5 times as the best other loader;
cached epochs at least 8 times as fast as fastai's; decoding alone at least 90 % of bare OpenCV.

    python benchmarks/pipeline.py --fastai-python PATH/TO/python [--repeats 5]
    python benchmarks/pipeline.py --fastai-python PATH/TO/python --repeats 1 --pictures 100      # a quick try

The originals of `flowers` at 224, augmented as by the side-on preset. Each measurement is a process of
`pipeline_sides.py` that may use all cores, from files in the page cache; the sides take turns within each
repeat. fastai, torchvision and timm run without loader processes and with two, and the faster counts, for
each phase. Everything is measured with the C allocator's defaults and once more told to keep freed memory
(why: README); a claim is to hold in both. A rate is pictures per second of wall time and core; beside it
stands the rate per second of processor time, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from harness import RESULTS, json_lines, machine, run_process, spread, write_row
from recipe_vs_fastai import ALLOCATORS

CLAIM = (
    "flowers at 224, side-on, pictures per second and core: first epoch >= 2.5 x fastai and >= 1.5 x the "
    "best other loader that does the same work; cached epochs >= 8 x fastai; decoding alone >= 0.9 x bare "
    "OpenCV"
)
# (side, loader processes). headstart's threads are its own default.
MEASURED: tuple[tuple[str, int], ...] = (
    ("headstart", 0),
    ("fastai", 0),
    ("torchvision", 0),
    ("timm", 0),
    ("headstart-uint8", 0),
    ("fastai", 2),
    ("torchvision", 2),
    ("timm", 2),
    ("headstart-audited", 0),
    ("timm-plain", 0),
    ("timm-plain", 2),
    ("decode", 0),
)
OURS = frozenset({"headstart", "headstart-uint8", "headstart-audited", "decode"})
# What is cached is quick, and so can be measured more than once.
EPOCHS_OF_OURS, EPOCHS_OF_OTHERS, DECODING_ROUNDS = 4, 2, 3
PHASES = ("first epoch", "later epochs")

Rates = dict[str, dict[str, list[float]]]
"""Pictures per second and core by `side, processes` and phase, one value for each repeat."""


def run_side(side: str, workers: int, allocator: str, options: argparse.Namespace) -> dict[str, Any]:
    """One process of one side; what it printed."""
    python = sys.executable if side in OURS else options.fastai_python
    epochs = EPOCHS_OF_OURS if side in OURS else EPOCHS_OF_OTHERS
    if side == "decode":
        epochs = DECODING_ROUNDS
    script = Path(__file__).with_name("pipeline_sides.py")
    command = [python, "-W", "ignore", str(script), side, "--workers", str(workers), "--epochs", str(epochs)]
    command += ["--pictures", str(options.pictures)]
    log = options.logs / f"pipeline_{side}_{workers}.log" if options.logs else None
    finished = run_process(command, environment=ALLOCATORS[allocator], log=log)
    if finished.returncode != 0:
        raise SystemExit(f"{side} failed with {finished.returncode}; --logs DIR keeps what it said")
    return json_lines(line for _, line in finished.lines)[-1]


def name_of(side: str, workers: int) -> str:
    """How a measured side is called in the row."""
    if side in OURS:
        return side
    return f"{side}, {workers} processes" if workers else f"{side}, no processes"


def add_rates(rates: Rates, name: str, epochs: list[dict[str, float]], seconds: str, cores: int) -> None:
    """Add the rates of one process: of its first epoch, and the median of the later ones."""
    each = [epoch["pictures"] / epoch[seconds] / cores for epoch in epochs]
    for phase, rate in zip(PHASES, (each[0], statistics.median(each[1:])), strict=True):
        rates.setdefault(name, {}).setdefault(phase, []).append(rate)


def fastest(rates: Rates, side: str, phase: str) -> list[float]:
    """The rates of a side's faster variant, by the median over the repeats."""
    variants = [found[phase] for name, found in rates.items() if name.partition(",")[0] == side]
    return max(variants, key=statistics.median)


def ratios(rates: Rates) -> dict[str, dict[str, float]]:
    """headstart's rate over each other's, repeat by repeat, and their spread."""
    found = {}
    others = [side for side in dict(MEASURED) if side not in OURS]
    for ours in ("headstart", "headstart-uint8", "headstart-audited"):
        for phase in PHASES:
            if (ours, phase) == ("headstart-audited", PHASES[1]):
                continue  # the same as `headstart`
            for other in others:
                pairs = zip(rates[ours][phase], fastest(rates, other, phase), strict=True)
                found[f"{ours} / {other}, {phase}"] = spread(mine / theirs for mine, theirs in pairs)
    return found


def decoding_ratios(decoding: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """headstart's rate of decoding over OpenCV's (the faster of BGR and RGB), repeat by repeat."""
    found = {}
    for threads in dict.fromkeys(name.rpartition(", ")[2] for name in decoding):
        bare = max((decoding[f"OpenCV{kind}, {threads}"] for kind in ("", ", RGB")), key=statistics.median)
        pairs = zip(decoding[f"headstart, {threads}"], bare, strict=True)
        found[threads] = spread(mine / theirs for mine, theirs in pairs)
    return found


def verdicts(found: dict[str, dict[str, float]], decoding: dict[str, list[float]]) -> dict[str, bool]:
    """Which parts of the claim hold, by the medians."""

    def median(name: str) -> float:
        return found[name]["median"]

    first, later = PHASES
    best_other = min(median(f"headstart / {other}, {first}") for other in ("torchvision", "timm"))
    return {
        "first epoch >= 2.5 x fastai": median(f"headstart / fastai, {first}") >= 2.5,
        "first epoch >= 1.5 x the best other that does the same work": best_other >= 1.5,
        "first epoch >= 1.5 x timm without rotation and perspective": median(
            f"headstart / timm-plain, {first}"
        )
        >= 1.5,
        "audit and first epoch >= 2.5 x fastai": median(f"headstart-audited / fastai, {first}") >= 2.5,
        "cached epochs >= 8 x fastai": median(f"headstart / fastai, {later}") >= 8.0,
        "decoding >= 0.9 x OpenCV": decoding_ratios(decoding)["1 thread"]["median"] >= 0.9,
    }


def measure(allocator: str, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """All repeats with one allocator; results, and the spread of each series."""
    cores = machine()["cores"]
    wall: Rates = {}
    processor: Rates = {}
    decoding: dict[str, list[float]] = {}
    decoding_by_processor: dict[str, list[float]] = {}
    for repeat in range(options.repeats):
        for side, workers in MEASURED:
            said = run_side(side, workers, allocator, options)
            if side == "decode":
                for decoder, values in said["decode"].items():
                    decoding.setdefault(decoder, []).append(statistics.median(values))
                for decoder, values in said["decode by processor time"].items():
                    decoding_by_processor.setdefault(decoder, []).append(statistics.median(values))
                continue
            add_rates(wall, name_of(side, workers), said["epochs"], "seconds", cores)
            add_rates(processor, name_of(side, workers), said["epochs"], "cpu_seconds", 1)
            print(f"{allocator} allocator, repeat {repeat}, {name_of(side, workers)}: done", file=sys.stderr)
    by_wall = ratios(wall)
    results = {
        "ratios": by_wall,
        "ratios by processor time": ratios(processor),
        "decoding over OpenCV": decoding_ratios(decoding),
        "decoding over OpenCV by processor time": decoding_ratios(decoding_by_processor),
        "holds": verdicts(by_wall, decoding),
    }
    spreads = {
        f"{allocator} allocator, {name}, {phase}, pictures per {unit}": spread(values, digits=1)
        for unit, rates in (("second and core", wall), ("processor second", processor))
        for name, phases in rates.items()
        for phase, values in phases.items()
    }
    for decoder, values in decoding.items():
        spreads[f"{allocator} allocator, decoding alone, {decoder}, pictures per second"] = spread(
            values, digits=1
        )
    return results, spreads


def main() -> None:
    """Measure all sides in turn and write the row."""
    parser = argparse.ArgumentParser(description="Pictures per second and core, three other loaders beside.")
    parser.add_argument(
        "--fastai-python", default=sys.executable, help="Python of an environment with fastai"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=800, help="at least 64; fewer only to try it")
    parser.add_argument("--allocators", nargs="+", choices=sorted(ALLOCATORS), default=sorted(ALLOCATORS))
    parser.add_argument("--logs", type=Path, help="folder for what the sides write to stderr")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.pictures < 64:
        parser.error("--pictures must be at least 64: some sides drop an incomplete batch")
    results: dict[str, Any] = {"pictures": options.pictures}
    spreads: dict[str, Any] = {}
    for allocator in options.allocators:
        results[f"{allocator} allocator"], found = measure(allocator, options)
        spreads.update(found)
    write_row(
        CLAIM,
        results,
        n=options.repeats,
        name="pipeline",
        spreads=spreads,
        baseline_python=options.fastai_python,
        folder=options.results,
    )


if __name__ == "__main__":
    main()
