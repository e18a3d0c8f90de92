"""Claim: a million pictures are a table within seconds and little memory, and a batch soon after.

    python benchmarks/scale.py [--rows 1000000] [--files 200000] [--n 3]

Each measurement is a process of its own, so that its peak of memory is its own. *Table*: a text file of
paths and labels becomes `Samples` and a `Loader`; then the first batch of an epoch, and the last one, which
is entered without those before it. Only the pictures of these two batches exist; they are found out
beforehand, since the order is a function of the seed. *Scan*: a tree of empty files is listed and looked at
(list and stat), in 100 class folders. *Parts*: what the whole is made of, each timed alone. Memory is the
peak of the resident set, with the interpreter and all imports, and above what the imports alone take.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import RESULTS, spread, write_row

CLAIM = (
    "a list of a million pictures becomes a table, a shuffled order and its first batch in less than 5 s of "
    "processor time and 500 MB of memory; any batch of an epoch is entered in less than 1 s"
)
CLASSES = 100
BATCH_SIZE = 64
SIDE = 224


def peak_mb() -> float:
    """The largest resident set of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        # `ru_maxrss` of a new process may be that of the one that started it: Linux carries it over.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) * 1024 / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


class Clock:
    """Collects seconds of wall and processor time, and the peak of memory, step by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.processor_seconds: dict[str, float] = {}
        self.peak_mb: dict[str, float] = {}

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        """Do some work, and note what it took."""
        wall, processor = time.perf_counter(), time.process_time()
        result = work()
        self.seconds[name] = round(time.perf_counter() - wall, 4)
        self.processor_seconds[name] = round(time.process_time() - processor, 4)
        self.peak_mb[name] = peak_mb()
        return result

    def report(self) -> None:
        """Print what was noted as one line of JSON."""
        print(json.dumps(vars(self)))


def path_of(row: int) -> str:
    """The path of a made-up picture: as long as those of real collections."""
    return f"class_{row % CLASSES:03d}/picture_{row:08d}.jpg"


def read_table(listing: Path) -> Any:
    """Make `Samples` of a file of lines `path,label`."""
    import numpy as np

    from headstart.data import Samples

    paths, labels = [], []
    with open(listing, encoding="utf-8") as lines:
        for line in lines:
            path, _, label = line.rstrip("\n").partition(",")
            paths.append(path)
            labels.append(int(label))
    classes = tuple(f"class_{number:03d}" for number in range(CLASSES))
    split = np.full(len(paths), "train")
    return Samples(listing.parent, tuple(paths), np.array(labels, np.int64), classes, split)


def loader_of(samples: Any) -> Any:
    """A shuffling loader over all rows."""
    from headstart.augment import TrainPrepare, side_on
    from headstart.data import Loader, PixelCache

    prepare = TrainPrepare(side_on(), (SIDE, SIDE))
    cache = PixelCache(samples, short_side=256, mode="memory")
    return Loader(cache, range(len(samples)), prepare, batch_size=BATCH_SIZE, shuffle=True, threads=2)


def measure_table(folder: Path) -> None:
    """Child: from the listing to a first and a last batch."""
    clock = Clock()

    def imports() -> None:
        import headstart.augment
        import headstart.data  # noqa: F401

    clock.step("imports", imports)
    samples = clock.step("read the list into a table", lambda: read_table(folder / "pictures.csv"))
    loader = clock.step("make the loader", lambda: loader_of(samples))
    clock.step("first batch", lambda: next(loader.epoch(0)))
    clock.step("last batch of the next epoch", lambda: next(loader.epoch(1, start=len(loader) - 1)))
    clock.report()


def measure_scan(folder: Path) -> None:
    """Child: list a tree of files."""
    clock = Clock()
    from headstart.data import scan_folder

    clock.step("imports", lambda: None)
    samples = clock.step("scan", lambda: scan_folder(folder))
    clock.step("ids", lambda: samples.ids)
    clock.report()


def measure_parts(folder: Path) -> None:
    """Child: what a table and an epoch are made of."""
    import numpy as np

    from headstart.data.samples import row_numbers
    from headstart.ordering import Ordering

    samples = read_table(folder / "pictures.csv")
    rows, labels = np.arange(len(samples)), samples.labels
    clock = Clock()
    clock.step("Samples.ids (a hash for each path)", lambda: samples.ids)
    clock.step("Samples.take (all rows)", lambda: samples.take(rows))
    clock.step("Samples.fingerprint", samples.fingerprint)
    clock.step("Samples.rows", lambda: samples.rows("train"))
    clock.step("row_numbers", lambda: row_numbers(rows, len(rows)))
    for name, ordering in {
        "order of an epoch": Ordering(shuffle=True),
        "balanced order": Ordering(shuffle=True, balance="sampler"),
        "weighted order": Ordering(weights=np.linspace(1, 2, len(rows))),
    }.items():
        clock.step(name, lambda chosen=ordering: chosen.epoch(labels, seed=0, epoch=1))
    clock.report()


def write_listing(folder: Path, rows: int) -> None:
    """Write the list of pictures, and those pictures that the two batches hold."""
    from PIL import Image

    with open(folder / "pictures.csv", "w", encoding="utf-8") as listing:
        listing.writelines(f"{path_of(row)},{row % CLASSES}\n" for row in range(rows))
    loader = loader_of(read_table(folder / "pictures.csv"))
    labels = loader.cache.samples.labels
    for epoch, part in ((0, slice(3 * BATCH_SIZE)), (1, slice(-BATCH_SIZE - 1, None))):
        order = loader.ordering.epoch(labels, seed=0, epoch=epoch).positions
        for row in order[part].tolist():
            file = folder / path_of(row)
            file.parent.mkdir(exist_ok=True)
            picture = Image.effect_noise((375, 500), 60).convert("RGB")
            picture.save(file, quality=85)


def write_tree(folder: Path, files: int) -> None:
    """Write a tree of empty files."""
    for number in range(CLASSES):
        (folder / f"class_{number:03d}").mkdir(parents=True)
    for row in range(files):
        (folder / path_of(row)).touch()


def measured(part: str, folder: Path) -> dict[str, Any]:
    """Run one part in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"{part} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def summed(rounds: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Spreads over the rounds, step by step."""
    return {
        kind: {step: spread(each[kind][step] for each in rounds) for step in rounds[0][kind]}
        for kind in ("seconds", "processor_seconds", "peak_mb")
    }


def main() -> None:
    """Measure and write the row."""
    parser = argparse.ArgumentParser(description="A million rows: time and memory.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=200_000, help="empty files in the tree that is scanned")
    parser.add_argument("--n", type=int, default=3, help="processes for each part")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--part", choices=("table", "scan", "parts"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    children = {"table": measure_table, "scan": measure_scan, "parts": measure_parts}
    if options.part:
        children[options.part](options.folder)
        return
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        folder = Path(name)
        (folder / "list").mkdir()
        write_listing(folder / "list", options.rows)
        write_tree(folder / "tree", options.files)
        places = {"table": folder / "list", "scan": folder / "tree", "parts": folder / "list"}
        found = {
            part: summed([measured(part, place) for _ in range(options.n)]) for part, place in places.items()
        }
    table = found["table"]
    whole = sum(step["median"] for step in table["processor_seconds"].values())
    peak = table["peak_mb"]["last batch of the next epoch"]["median"]
    entered = table["seconds"]["last batch of the next epoch"]["median"]
    results = {
        "rows": options.rows,
        "files": options.files,
        "processor seconds to the first batch": round(
            whole - table["processor_seconds"]["last batch of the next epoch"]["median"], 2
        ),
        "seconds to enter the last batch": entered,
        "peak MB": peak,
        "peak MB above the imports": round(peak - table["peak_mb"]["imports"]["median"], 1),
        "files scanned per second": round(options.files / found["scan"]["seconds"]["scan"]["median"]),
        "parts": found["parts"],
        "scan": found["scan"],
    }
    write_row(CLAIM, results, n=options.n, name="scale", spreads=table["seconds"], folder=options.results)


if __name__ == "__main__":
    main()
