"""The sides of the row `pipeline`: one process makes the batches of some epochs and prints their times.

    python benchmarks/pipeline_sides.py headstart --pictures 800 --epochs 3

Every side reads the same files of `flowers`, which are brought into the page cache first, and gives batches
of 64 as float32 tensors (64, 3, 224, 224), standardised by ImageNet's numbers; `headstart-uint8` stops at
what the loader gives, since the network standardises. Each side first makes one batch of 64 pictures with a
loader of its own that is then thrown away: imports and lazily loaded codecs are not what is measured. The
start of loader processes is, as users pay for it in each run (fastai: in each epoch).

`decode` times nothing but the decoding of bytes in memory, headstart's beside bare OpenCV's.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from folds import labelled_pictures, shared_folder

DATASET = "flowers"
SIZE = 224
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Epochs = Callable[[int], Iterable[Any]]
"""The batches of an epoch, by its number."""


def chosen_files(count: int) -> list[Path]:
    """`count` pictures of the data set (all, where it has fewer), spread evenly over its classes."""
    files = [picture.file for picture in labelled_pictures(DATASET)]
    rows = np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int)
    return [files[row] for row in rows]


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0))


# ---- headstart ---------------------------------------------------------------------------------


def headstart_uint8(files: list[Path], batch_size: int, _workers: int, *, look_first: bool = False) -> Epochs:
    """headstart's loader with an empty cache and the side-on preset, one thread for each core."""
    from headstart.augment import TrainPrepare, side_on
    from headstart.data import Loader, PixelCache, Samples, audit

    root = shared_folder() / "data" / DATASET
    names = sorted({file.parent.name for file in files})
    samples = Samples(
        root=root,
        paths=tuple(file.relative_to(root).as_posix() for file in files),
        labels=np.array([names.index(file.parent.name) for file in files], np.int64),
        classes=tuple(names),
        split=np.full(len(files), "train", "<U5"),
    )
    prepare = TrainPrepare(side_on(), (SIZE, SIZE))
    cache = PixelCache(samples, short_side=prepare.short_side)
    loader = Loader(cache, np.arange(len(files)), prepare, batch_size=batch_size, shuffle=True)

    def epoch(number: int) -> Iterator[Any]:
        if look_first and number == 0:
            audit(cache)
        for batch in loader.epoch(number):
            yield batch.inputs

    return epoch


def standardised(epochs: Epochs) -> Epochs:
    """The same batches as float32 tensors (batch, 3, height, width), as the network's own first step does."""
    import torch

    mean = 255 * torch.tensor(MEAN).view(1, 3, 1, 1)
    scale = 1 / (255 * torch.tensor(DEVIATION).view(1, 3, 1, 1))

    def epoch(number: int) -> Iterator[Any]:
        for inputs in epochs(number):
            yield torch.from_numpy(inputs).permute(0, 3, 1, 2).to(torch.float32).sub_(mean).mul_(scale)

    return epoch


def headstart(files: list[Path], batch_size: int, workers: int) -> Epochs:
    """As `headstart_uint8`, standardised."""
    return standardised(headstart_uint8(files, batch_size, workers))


def headstart_audited(files: list[Path], batch_size: int, workers: int) -> Epochs:
    """As `headstart`; the audit, which decodes every picture for the cache, counts for the first epoch."""
    return standardised(headstart_uint8(files, batch_size, workers, look_first=True))


# ---- fastai ------------------------------------------------------------------------------------


def _all_and_one(items: list[Path]) -> tuple[list[int], list[int]]:
    # fastai wants a validation part; its loader is never run.
    return list(range(len(items))), [0]


def fastai(files: list[Path], batch_size: int, workers: int) -> Epochs:
    """fastai as its users call it: `Resize(460)` of each picture, `aug_transforms(size=224)` of the batch."""
    import torch
    from fastai.vision.all import (
        CategoryBlock,
        DataBlock,
        ImageBlock,
        Normalize,
        Resize,
        aug_transforms,
        imagenet_stats,
        parent_label,
    )

    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_y=parent_label,
        splitter=_all_and_one,
        item_tfms=Resize(460),
        batch_tfms=[*aug_transforms(size=SIZE), Normalize.from_stats(*imagenet_stats)],
    )
    loaders = block.dataloaders(files, bs=batch_size, num_workers=workers, device=torch.device("cpu"))
    return lambda number: (inputs for inputs, _ in loaders.train)


# ---- torchvision -------------------------------------------------------------------------------


def torchvision(files: list[Path], batch_size: int, workers: int) -> Epochs:
    """torchvision v2 on uint8 tensors, doing what side-on does; the batch is standardised as a whole.

    Cropped to 224 first, so that the steps after it have little to do: rotation and zoom, perspective, flip,
    brightness and contrast.
    """
    import torch
    from torch.utils.data import DataLoader, Dataset
    from torchvision.io import ImageReadMode, decode_image, read_file
    from torchvision.transforms import v2

    change = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, scale=(0.5, 0.77), ratio=(1.0, 1.0), antialias=True),
            v2.RandomApply(
                [v2.RandomAffine(10, scale=(1.0, 1.1), interpolation=v2.InterpolationMode.BILINEAR)], p=0.75
            ),
            v2.RandomPerspective(0.2, p=0.75),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(brightness=0.2, contrast=0.2)], p=0.75),
        ]
    )
    names = sorted({file.parent.name for file in files})

    class Pictures(Dataset):  # type: ignore[misc]
        """Files, decoded and changed when they are asked for."""

        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, row: int) -> tuple[Any, int]:
            pixels = decode_image(read_file(str(files[row])), mode=ImageReadMode.RGB)
            return change(pixels), names.index(files[row].parent.name)

    loader = DataLoader(
        Pictures(), batch_size=batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    mean = 255 * torch.tensor(MEAN).view(1, 3, 1, 1)
    scale = 1 / (255 * torch.tensor(DEVIATION).view(1, 3, 1, 1))
    return lambda number: (inputs.to(torch.float32).sub_(mean).mul_(scale) for inputs, _ in loader)


# ---- timm --------------------------------------------------------------------------------------


def timm_plain(files: list[Path], batch_size: int, workers: int, *, same_work: bool = False) -> Epochs:
    """timm's `create_loader` with its prefetcher: random resized crop, flip, brightness and contrast.

    That is less than side-on does: no rotation and no perspective, unless `same_work` adds torchvision's.
    """
    import torch
    from timm.data import ImageDataset, create_loader
    from torchvision import transforms

    dataset = ImageDataset(str(shared_folder() / "data" / DATASET))
    wanted = set(files)
    # Its reader found all pictures of the folder; the same files as for the others are kept.
    dataset.reader.samples = [sample for sample in dataset.reader.samples if Path(sample[0]) in wanted]
    if len(dataset) != len(files):
        raise RuntimeError(f"timm has {len(dataset)} of {len(files)} pictures")
    loader = create_loader(
        dataset,
        input_size=(3, SIZE, SIZE),
        batch_size=batch_size,
        is_training=True,
        scale=(0.5, 0.77),
        ratio=(1.0, 1.0),
        color_jitter=(0.2, 0.2, 0.0),
        interpolation="bilinear",
        mean=MEAN,
        std=DEVIATION,
        num_workers=workers,
        persistent_workers=workers > 0,
        device=torch.device("cpu"),
    )
    if same_work:
        bilinear = transforms.InterpolationMode.BILINEAR
        rotation = transforms.RandomAffine(10, scale=(1.0, 1.1), interpolation=bilinear)
        steps = dataset.transform.transforms
        # Between the crop and everything else, on the small picture.
        steps[1:1] = [
            transforms.RandomApply([rotation], p=0.75),
            transforms.RandomPerspective(0.2, p=0.75, interpolation=bilinear),
        ]
    return lambda number: (inputs for inputs, _ in loader)


def timm(files: list[Path], batch_size: int, workers: int) -> Epochs:
    """As `timm_plain`, with torchvision's rotation and perspective, so that it does what side-on does."""
    return timm_plain(files, batch_size, workers, same_work=True)


SIDES: dict[str, Callable[[list[Path], int, int], Epochs]] = {
    "headstart": headstart,
    "headstart-uint8": headstart_uint8,
    "headstart-audited": headstart_audited,
    "fastai": fastai,
    "torchvision": torchvision,
    "timm": timm,
    "timm-plain": timm_plain,
}


# ---- measuring ---------------------------------------------------------------------------------


def cpu_seconds() -> float:
    """Processor seconds of this process and its children, those that still run included."""
    own = os.times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def check(inputs: Any, side: str) -> None:
    """Raise `RuntimeError` unless a batch is what all sides have agreed to give."""
    shape, kind = tuple(inputs.shape[1:]), str(inputs.dtype)
    expected: tuple[Any, ...] = ((3, SIZE, SIZE), "torch.float32")
    if side == "headstart-uint8":
        expected = ((SIZE, SIZE, 3), "uint8")
    elif not (abs(float(inputs.mean())) < 1.5 and 0.3 < float(inputs.std()) < 2.0):
        raise RuntimeError(f"{side} does not standardise: {inputs.mean()} ± {inputs.std()}")
    if (shape, kind) != expected:
        raise RuntimeError(f"{side} gives {shape} {kind}, not {expected}")


def run_epochs(epochs: Epochs, count: int) -> list[dict[str, float]]:
    """Run epochs and time each: wall seconds, processor seconds, and how many pictures came."""
    times = []
    for number in range(count):
        cpu, start, pictures = cpu_seconds(), time.perf_counter(), 0
        for inputs in epochs(number):
            pictures += len(inputs)
        seconds = time.perf_counter() - start
        times.append({"seconds": seconds, "cpu_seconds": cpu_seconds() - cpu, "pictures": pictures})
    return times


def measure_side(options: argparse.Namespace, files: list[Path]) -> dict[str, Any]:
    """Warm up, then run the epochs of one side."""
    import torch

    torch.set_num_threads(cores())
    side = SIDES[options.side]
    for inputs in side(files[: options.batch_size], options.batch_size, options.workers)(0):
        check(inputs, options.side)
    epochs = run_epochs(side(files, options.batch_size, options.workers), options.epochs)
    return {"epochs": epochs, "torch_threads": torch.get_num_threads()}


def measure_decode(files: list[Path], rounds: int) -> dict[str, Any]:
    """Decoders in turn, on one thread and on one for each core: pictures per second of wall and of processor
    time."""
    import cv2

    from headstart.data import decode

    cv2.setNumThreads(1)
    decoders: dict[str, Callable[[bytes], Any]] = {
        "headstart": decode,
        "headstart, short side 256": lambda data: decode(data, short_side=256),
        "OpenCV": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR),
        "OpenCV, RGB": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB),
    }
    contents = [file.read_bytes() for file in files]
    wall: dict[str, list[float]] = {}
    processor: dict[str, list[float]] = {}
    for threads in dict.fromkeys((1, cores())):
        # One task for each thread: what is measured is the decoder, not the handing over.
        shares = [contents[first::threads] for first in range(threads)]
        with ThreadPoolExecutor(threads) as pool:
            # The first round is not counted.
            for number in range(rounds + 1):
                for name, decoder in decoders.items():
                    cpu, start = time.process_time(), time.perf_counter()
                    done = sum(pool.map(partial(decode_all, decoder), shares))
                    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
                    if done != len(contents):
                        raise RuntimeError(f"{name} decoded {done} of {len(contents)} pictures")
                    if number:
                        called = f"{name}, {threads} thread{'s' * (threads > 1)}"
                        wall.setdefault(called, []).append(done / seconds)
                        processor.setdefault(called, []).append(done / cpu)
    return {"decode": wall, "decode by processor time": processor}


def decode_all(decoder: Callable[[bytes], Any], contents: list[bytes]) -> int:
    """Decode every picture; how many came out."""
    return sum(decoder(data) is not None for data in contents)


def main() -> None:
    """Measure one side and print one JSON line."""
    parser = argparse.ArgumentParser(description="One side of the row `pipeline`.")
    parser.add_argument("side", choices=(*SIDES, "decode"))
    parser.add_argument("--pictures", type=int, default=800)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0, help="loader processes, where the side has them")
    options = parser.parse_args()
    files = chosen_files(options.pictures)
    for file in files:
        file.read_bytes()
    if options.side == "decode":
        result = measure_decode(files, options.epochs)
    else:
        result = measure_side(options, files)
    print(json.dumps({"side": options.side, "workers": options.workers, "pictures": len(files), **result}))


if __name__ == "__main__":
    main()
