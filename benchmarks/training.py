"""Claim: what the training loop adds to the network costs less than 5 %.

The whole network is trained, float32, AdamW. On a synthetic batch headstart's `fit` reaches at least 95 % of
the pictures per second of a bare PyTorch loop that knows nothing but its tensors. Beside it, one epoch over
real pictures against fastai and against timm, the same body, batch and size.

    python benchmarks/training.py [--repeats 5]          # in an environment that has fastai and headstart
    python benchmarks/training.py --repeats 1 --steps 3 --pictures 64 --arch resnet18       # a quick try

All sides run in one process and take turns within each repeat; a ratio is taken repeat by repeat.

* `bare`: one standardised float32 batch in channels-last memory; forward, cross-entropy, backward, fused
  AdamW.
* `headstart, synthetic`: the same batch as uint8 through `fit`, with all that a run has: pictures are
  standardised, steps guarded and seeded, rates scheduled, good weights kept to go back to.
* `headstart, first epoch` and `later epochs`: the originals of `flowers`, side-on augmentation; the first
  epoch decodes, the later ones do not.
* `fastai`: `Resize(1.5 × size)` and `aug_transforms(size)`, `Learner.fit(1)`, as its users call it.
* `timm`: its training script is no part of the package. This is its `train_one_epoch` as plain steps:
  `create_loader` with the script's defaults for augmentation, `create_optimizer_v2(adamw)`, channels-last
  (`--channels-last`), and the loss read at every step, as the script does for its meter.

fastai and timm read with no loader processes, which was the faster way on two cores (row `pipeline`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from folds import shared_folder
from harness import RESULTS, spread, write_row
from pipeline_sides import DATASET, DEVIATION, MEAN, chosen_files, cores

from headstart.augment import TrainPrepare, side_on
from headstart.data import Loader, PixelCache, Samples
from headstart.models import create_classifier
from headstart.training import Rollback, Run, constant, fit, loss_for, make_optimizer
from headstart.types import Batch, BatchSource, Task

CLAIM = (
    "unfrozen training, float32, on a synthetic batch: headstart's fit reaches at least 95 % of the pictures "
    "per second of a bare PyTorch loop; one epoch over pictures of flowers stands beside fastai and timm"
)
RATE = 1e-4

Rates = dict[str, list[float]]
"""Pictures per second by side, one value for each repeat."""


class Synthetic:
    """One batch of noise, again and again; a `BatchSource`."""

    def __init__(self, steps: int, batch_size: int, size: int, classes: int) -> None:
        rng = np.random.default_rng(0)
        inputs = rng.integers(0, 256, (batch_size, size, size, 3), np.uint8)
        targets = rng.integers(0, classes, batch_size)
        self.batch, self.steps = Batch(inputs, targets, np.arange(batch_size)), steps

    def __len__(self) -> int:
        return self.steps

    @property
    def sample_count(self) -> int:
        """The number of pictures in an epoch."""
        return self.steps * len(self.batch)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batch once for each step."""
        for _ in range(start, self.steps):
            yield self.batch


class Sides:
    """The sides for one body; each method trains once and returns pictures per second."""

    def __init__(self, arch: str, files: list[Path], options: argparse.Namespace) -> None:
        self.arch, self.files = arch, files
        self.size, self.batch_size = options.size, options.batch_size
        self.classes = sorted({file.parent.name for file in files})
        self.synthetic = Synthetic(options.steps, options.batch_size, options.size, len(self.classes))
        self.labels = np.array([self.classes.index(file.parent.name) for file in files], np.int64)

    def network(self) -> torch.nn.Module:
        """timm's network with random weights, as the other sides train it."""
        import timm

        torch.manual_seed(0)
        return timm.create_model(self.arch, num_classes=len(self.classes))

    # ---- a synthetic batch -----------------------------------------------------------------

    def bare(self) -> float:
        """A loop that knows nothing but its tensors."""
        network = self.network().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(network.parameters(), RATE, fused=True)
        pixels = torch.from_numpy(self.synthetic.batch.inputs).permute(0, 3, 1, 2).float() / 255
        mean, deviation = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(DEVIATION).view(3, 1, 1)
        inputs = ((pixels - mean) / deviation).contiguous(memory_format=torch.channels_last)
        targets = torch.as_tensor(self.synthetic.batch.targets)

        def steps(count: int) -> None:
            for _ in range(count):
                loss = torch.nn.functional.cross_entropy(network(inputs), targets)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()

        steps(1)
        started = time.perf_counter()
        steps(len(self.synthetic))
        return self.synthetic.sample_count / (time.perf_counter() - started)

    def headstart_synthetic(self) -> float:
        """The same batch through `fit`."""
        return self._fit(self.synthetic, epochs=2)[1]

    # ---- pictures --------------------------------------------------------------------------

    def headstart(self) -> tuple[float, float]:
        """The first epoch, which decodes, and the second, which does not."""
        root = shared_folder() / "data" / DATASET
        samples = Samples(
            root=root,
            paths=tuple(file.relative_to(root).as_posix() for file in self.files),
            labels=self.labels,
            classes=tuple(self.classes),
            split=np.full(len(self.files), "train", "<U5"),
        )
        prepare = TrainPrepare(side_on(), (self.size, self.size))
        cache = PixelCache(samples, short_side=prepare.short_side)
        rows = np.arange(len(self.files))
        first, second = self._fit(
            Loader(cache, rows, prepare, batch_size=self.batch_size, shuffle=True), epochs=2
        )
        return first, second

    def _fit(self, source: BatchSource, *, epochs: int) -> list[float]:
        network = create_classifier(
            self.arch, len(self.classes), from_scratch=True, image_size=self.size, seed=0
        )
        network.to(memory_format=network.memory_format)  # type: ignore[call-overload]
        groups = network.parameter_groups()
        rates = [RATE] * len(groups)
        run = Run(network, make_optimizer(groups, rates), precision="float32")
        # The first step of a process and of an optimiser takes longer than the others.
        warm_up = Synthetic(1, self.batch_size, self.size, len(self.classes))
        options: dict[str, Any] = {
            "rates": rates,
            "schedule": constant(),
            "loss": loss_for(Task.SINGLE_LABEL),
            "callbacks": [Rollback()],
        }
        fit(run, warm_up, epochs=1, **options)
        found = []
        for _ in range(epochs):
            started = time.perf_counter()
            fit(run, source, epochs=1, **options)
            found.append(source.sample_count / (time.perf_counter() - started))
        return found

    def fastai(self) -> float:
        """One epoch of fastai's own learner."""
        from fastai.vision.all import (
            CategoryBlock,
            CrossEntropyLossFlat,
            DataBlock,
            ImageBlock,
            Learner,
            Normalize,
            Resize,
            aug_transforms,
            imagenet_stats,
            parent_label,
        )

        block = DataBlock(
            blocks=(ImageBlock, CategoryBlock),
            get_y=parent_label,
            # fastai wants a validation part: one picture.
            splitter=lambda items: (list(range(len(items))), [0]),
            item_tfms=Resize(round(1.5 * self.size)),
            batch_tfms=[*aug_transforms(size=self.size), Normalize.from_stats(*imagenet_stats)],
        )
        loaders = block.dataloaders(
            self.files, bs=self.batch_size, num_workers=0, device=torch.device("cpu"), drop_last=False
        )
        learner = Learner(loaders, self.network(), loss_func=CrossEntropyLossFlat(), lr=RATE)
        with learner.no_bar(), learner.no_logging():
            started = time.perf_counter()
            learner.fit(1)
            return len(self.files) / (time.perf_counter() - started)

    def timm(self) -> float:
        """One epoch as timm's training script runs it."""
        from timm.data import ImageDataset, create_loader
        from timm.optim import create_optimizer_v2

        dataset = ImageDataset(str(shared_folder() / "data" / DATASET))
        wanted = set(self.files)
        dataset.reader.samples = [sample for sample in dataset.reader.samples if Path(sample[0]) in wanted]
        loader = create_loader(
            dataset,
            input_size=(3, self.size, self.size),
            batch_size=self.batch_size,
            is_training=True,
            mean=MEAN,
            std=DEVIATION,
            num_workers=0,
            persistent_workers=False,
            device=torch.device("cpu"),
        )
        network = self.network().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        optimizer = create_optimizer_v2(network, opt="adamw", lr=RATE)
        loss_of = torch.nn.CrossEntropyLoss()
        total = pictures = 0.0
        started = time.perf_counter()
        for inputs, targets in loader:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            loss = loss_of(network(inputs), targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item() * len(inputs)
            pictures += len(inputs)
        # The loader drops the last, incomplete batch: what it gave is what counts.
        return pictures / (time.perf_counter() - started)


def measure(arch: str, files: list[Path], options: argparse.Namespace) -> Rates:
    """Let the sides take turns, `repeats` times."""
    sides = Sides(arch, files, options)
    single: dict[str, Callable[[], float]] = {
        "bare": sides.bare,
        "headstart, synthetic": sides.headstart_synthetic,
        "fastai": sides.fastai,
        "timm": sides.timm,
    }
    rates: Rates = {}
    for _ in range(options.repeats):
        for name, side in single.items():
            rates.setdefault(name, []).append(side())
        first, later = sides.headstart()
        rates.setdefault("headstart, first epoch", []).append(first)
        rates.setdefault("headstart, later epochs", []).append(later)
    return rates


def ratios(rates: Rates) -> dict[str, dict[str, float]]:
    """headstart's rate over the others', repeat by repeat."""
    pairs = [("headstart, synthetic", "bare")]
    pairs += [
        (f"headstart, {epoch}", other)
        for epoch in ("first epoch", "later epochs")
        for other in ("fastai", "timm")
    ]
    return {
        f"{ours} / {theirs}": spread(
            mine / other for mine, other in zip(rates[ours], rates[theirs], strict=True)
        )
        for ours, theirs in pairs
    }


def main() -> None:
    """Measure each body and write the row."""
    parser = argparse.ArgumentParser(description="Pictures per second of unfrozen training.")
    parser.add_argument("--arch", nargs="+", default=["mobilenetv2_100", "resnet18"])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12, help="of an epoch on the synthetic batch")
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(cores())
    files = chosen_files(options.pictures)
    results: dict[str, Any] = {
        "size": options.size,
        "batch_size": options.batch_size,
        "pictures": len(files),
        "threads": torch.get_num_threads(),
    }
    spreads: dict[str, dict[str, float]] = {}
    for arch in options.arch:
        rates = measure(arch, files, options)
        found = ratios(rates)
        spreads |= {f"{arch}: {name}": spread(values, digits=1) for name, values in rates.items()}
        results[arch] = {
            "ratios": found,
            "claim holds": found["headstart, synthetic / bare"]["median"] >= 0.95,
        }
    write_row(CLAIM, results, n=options.repeats, name="training", spreads=spreads, folder=options.results)


if __name__ == "__main__":
    main()
