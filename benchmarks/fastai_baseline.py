"""The baseline: fastai's `fine_tune(3)`, as its users call it.

It stands beside headstart in the rows `outer_folds` and `recipe_vs_fastai`. It runs in an environment that
has fastai, and imports nothing of headstart.

    python benchmarks/fastai_baseline.py TREE --out predictions.csv --seed 0

TREE has `train/<class>/…`, `valid/<class>/…` and, where pictures are to be predicted, `test/<class>/…`. After
every epoch it prints one JSON line: `epoch, phase, train_loss, valid_loss, accuracy, seconds`, the last in
wall seconds since the process started (imports count). The last line has `"phase": "end"` and what was used.

What is as in fastai's own guides: `Resize(460)` then `aug_transforms(size=224)`, `vision_learner`, its
default head, optimiser and precision, `fine_tune(3)` (one epoch of the frozen body, then three of the whole
network). What differs, and why: the pretrained weights come from a file, through timm's own
`pretrained_cfg_overlay`, so that both sides start from the same bytes; a small training set gets a smaller
batch, because fastai drops the last, incomplete batch and 64 would leave two steps per epoch of 168 pictures;
`--flip-vertically` for pictures taken from above.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from harness import seconds_since_process_start, versions

ARCHITECTURE = "mobilenetv2_100"
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})


def batch_size_for(pictures: int, *, largest: int = 64, steps: int = 8, smallest: int = 8) -> int:
    """The largest halving of fastai's default 64 that leaves at least `steps` whole batches per epoch."""
    size = largest
    while size > smallest and pictures // size < steps:
        size //= 2
    return size


def check_body(body: Any, weights: Path) -> int:
    """Compare every tensor of the file with the body that will be trained; return how many were compared.

    Raises `RuntimeError` where a tensor is missing or differs: a baseline from other weights would be no
    baseline.
    """
    import torch
    from safetensors.torch import load_file

    expected = load_file(str(weights))
    actual = body.state_dict()
    for name, tensor in expected.items():
        if name not in actual or not torch.equal(actual[name], tensor):
            raise RuntimeError(f"the tensor {name} of {weights} is not in the body that fastai trains")
    missing = [name for name in actual if name not in expected and not name.endswith("num_batches_tracked")]
    if missing:
        raise RuntimeError(f"the body has tensors that {weights} does not give: {missing[:5]}")
    return len(expected)


def emit(**values: Any) -> None:
    """Print one JSON line at once."""
    print(json.dumps(values), flush=True)


def write_predictions(
    file: Path, tree: Path, files: list[Path], probabilities: Any, classes: list[str]
) -> float:
    """Write one row per test picture, in the columns of headstart's `predictions.csv`; return the
    accuracy."""
    file.parent.mkdir(parents=True, exist_ok=True)
    correct = 0
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ["path", "split", "label", "prediction", "probability", *(f"p_{name}" for name in classes)]
        )
        for path, row in zip(files, probabilities.tolist(), strict=True):
            best = max(range(len(row)), key=row.__getitem__)
            label = path.parent.name
            correct += label == classes[best]
            # repr round-trips: the paired comparison must not depend on how the numbers were printed.
            values = [repr(value) for value in row]
            writer.writerow([path.relative_to(tree), "test", label, classes[best], values[best], *values])
    return correct / len(files)


def train(options: argparse.Namespace) -> None:
    """Train one tree and write the predictions of its test part."""
    import torch
    from fastai.vision.all import (
        Callback,
        ImageDataLoaders,
        Normalize,
        Resize,
        accuracy,
        aug_transforms,
        set_seed,
        vision_learner,
    )

    if options.threads:
        torch.set_num_threads(options.threads)
    set_seed(options.seed, reproducible=True)
    tree: Path = options.tree.absolute()
    train_files = [file for file in (tree / "train").rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES]
    batch_size = options.batch_size or batch_size_for(len(train_files))
    loaders = ImageDataLoaders.from_folder(
        tree,
        train="train",
        valid="valid",
        seed=options.seed,
        item_tfms=Resize(460),
        batch_tfms=aug_transforms(size=224, flip_vert=options.flip_vertically),
        bs=batch_size,
        num_workers=options.workers,
        device=torch.device("cpu"),
    )
    if len(loaders.train_ds) != len(train_files):
        raise RuntimeError(
            f"{len(train_files)} training pictures lie in the tree, fastai has {len(loaders.train_ds)}"
        )
    # `file` is timm's own way to say where pretrained weights lie; hub and address are cleared, so that
    # nothing else can be loaded in their place.
    overlay = {"file": str(options.weights.absolute()), "hf_hub_id": None, "url": ""}
    learner = vision_learner(loaders, ARCHITECTURE, metrics=accuracy, pretrained_cfg_overlay=overlay)
    tensors = check_body(learner.model[0].model, options.weights)
    normalize = [step for step in loaders.after_batch.fs if isinstance(step, Normalize)]
    means = [round(value, 3) for value in normalize[0].mean.flatten().tolist()]
    deviations = [round(value, 3) for value in normalize[0].std.flatten().tolist()]
    if (means, deviations) != ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]):
        raise RuntimeError(f"normalised with {means} and {deviations}, not with ImageNet's numbers")

    class Report(Callback):  # type: ignore[misc]
        """One JSON line per epoch, after fastai's own recorder (order 50) has written the epoch down."""

        order = 60

        def __init__(self) -> None:
            self.done = 0

        def after_epoch(self) -> None:
            train_loss, valid_loss, epoch_accuracy = (
                float(value) for value in self.learn.recorder.values[-1]
            )
            frozen = self.learn.opt.frozen_idx > 0
            emit(
                epoch=self.done,
                phase="frozen" if frozen else "unfrozen",
                train_loss=train_loss,
                valid_loss=valid_loss,
                accuracy=epoch_accuracy,
                seconds=round(seconds_since_process_start(), 2),
            )
            self.done += 1

    emit(
        phase="start",
        pictures=len(train_files),
        batch_size=batch_size,
        seconds=round(seconds_since_process_start(), 2),
    )
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(options.epochs, cbs=Report())
        trained = seconds_since_process_start()
        test_accuracy = None
        test_files = sorted(
            file for file in (tree / "test").rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES
        )
        if options.out is not None and test_files:
            test_loader = loaders.test_dl(test_files, with_labels=True)
            probabilities, targets = learner.get_preds(dl=test_loader)
            classes = [str(name) for name in loaders.vocab]
            if [classes[int(target)] for target in targets] != [file.parent.name for file in test_files]:
                raise RuntimeError("fastai returned the test pictures in another order than they were given")
            test_accuracy = write_predictions(options.out, tree, test_files, probabilities, classes)
    emit(
        phase="end",
        seconds=round(trained, 2),
        seconds_with_test=round(seconds_since_process_start(), 2),
        test_accuracy=test_accuracy,
        test_pictures=len(test_files),
        batch_size=batch_size,
        workers=options.workers,
        threads=torch.get_num_threads(),
        seed=options.seed,
        weight_tensors_checked=tensors,
        versions=versions(),
    )


def main() -> None:
    """Read the options and train."""
    from folds import shared_folder

    weights = shared_folder() / "weights" / f"{ARCHITECTURE}.safetensors"
    parser = argparse.ArgumentParser(description="fastai's fine_tune on one tree of pictures.")
    parser.add_argument("tree", type=Path)
    parser.add_argument("--out", type=Path, help="CSV of the predictions of the test part")
    parser.add_argument("--weights", type=Path, default=weights)
    parser.add_argument(
        "--epochs", type=int, default=3, help="of the whole network, after one of the frozen body"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--batch-size", type=int, help="default: 64, halved until an epoch has 8 whole batches"
    )
    parser.add_argument("--threads", type=int, help="of torch; default: what fastai leaves it at")
    parser.add_argument("--workers", type=int, default=0, help="loader processes")
    parser.add_argument("--flip-vertically", action="store_true", help="for pictures taken from above")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
