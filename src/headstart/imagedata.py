"""`ImageData`: pictures with labels, a split, a size and an augmentation, ready to train on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from headstart.augment import Augmentation, EvalPrepare, TrainPrepare, side_on
from headstart.augment import views as views_of
from headstart.augment.warp import Interpolation, Policy
from headstart.data import Audit, Loader, PixelCache, Samples, scan_folder, split_samples
from headstart.data import audit as audit_pictures
from headstart.data.cache import CacheMode
from headstart.errors import DataError, UsageError
from headstart.models import FeatureCache, TensorSource, materialise
from headstart.ordering import Balance, Ordering
from headstart.types import BatchSource, Pixels, Prepare, Size, Task, parse_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from headstart.models import Engine

INTERPOLATIONS = get_args(Interpolation)
SPLITS = ("train", "valid", "test")
OnProgress = Callable[[int, int], None]


def choose_batch_size(train_count: int) -> int:
    """Return a power of two from 8 to 64 that gives an epoch at least about twenty steps."""
    return int(2 ** min(6, max(3, math.floor(math.log2(max(1, train_count) / 20 + 1)))))


@dataclass(frozen=True, eq=False)
class ImageData:
    """Pictures, labels and split, with how they are cut to size and augmented.

    Made by `from_folder` or `from_samples`. It is frozen: `resize` and `with_options` return another
    one over the same pictures, and share what is already decoded where the pixels suffice.

    `image_size` is (height, width); `policy` says what becomes of other shapes (`crop`, `squish` or
    `pad`); `crop_fraction` and `interpolation` are those that the pretrained weights ask for, and
    are set by the `Learner`.
    """

    samples: Samples
    cache: PixelCache
    image_size: Size
    augmentation: Augmentation
    batch_size: int
    audit: Audit | None = None
    policy: Policy = "crop"
    crop_fraction: float = 0.875
    interpolation: Interpolation = "bicubic"
    seed: int = 0
    threads: int | None = None
    balance: Balance = "none"

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        image_size: int | str | Size = 224,
        largest_size: int | str | Size | None = None,
        augment: Augmentation | None = None,
        valid: float = 0.2,
        test: float = 0.0,
        batch_size: int | str = "auto",
        seed: int = 0,
        threads: int | None = None,
        balance: Balance = "none",
        cache: CacheMode = "auto",
        max_bad: int | None = None,
        drop_empty_classes: bool = False,
        on_progress: OnProgress | None = None,
    ) -> ImageData:
        """Read class folders, or train/valid/test folders, and look once at every picture.

        Unreadable pictures are left out before the split (`data.audit` names them). Class folders
        are split by class, `valid` and `test` being fractions; byte-identical pictures stay on one
        side. `largest_size`: the largest that `resize` will ask for, so that pictures are decoded once.
        `balance="sampler"` repeats the pictures of rare classes in each training epoch until no class
        is rarer than the largest; `cache` says where decoded pixels are kept (`PixelCache`'s `mode`).
        Raises `InputMissingError` when nothing is there, `DataError` when what is there
        cannot be trained on, `UsageError` for options out of range.
        """
        return cls.from_samples(
            scan_folder(Path(path), drop_empty_classes=drop_empty_classes),
            image_size=image_size,
            largest_size=largest_size,
            augment=augment,
            valid=valid,
            test=test,
            batch_size=batch_size,
            seed=seed,
            threads=threads,
            balance=balance,
            cache=cache,
            max_bad=max_bad,
            on_progress=on_progress,
        )

    @classmethod
    def from_samples(
        cls,
        samples: Samples,
        *,
        image_size: int | str | Size = 224,
        largest_size: int | str | Size | None = None,
        augment: Augmentation | None = None,
        valid: float = 0.2,
        test: float = 0.0,
        batch_size: int | str = "auto",
        seed: int = 0,
        threads: int | None = None,
        balance: Balance = "none",
        cache: CacheMode = "auto",
        max_bad: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> ImageData:
        """Make `ImageData` from a table of samples; see `from_folder`."""
        if not (0 < valid < 1 and 0 <= test < 1 and valid + test < 1):
            raise UsageError(
                f"valid={valid} and test={test} leave nothing to train on or to validate with",
                "give fractions such as valid=0.2 and test=0.15",
            )
        size = parse_size(image_size)
        Ordering(balance=balance)  # an unknown one is refused before any picture is looked at
        largest = size if largest_size is None else parse_size(largest_size)
        short_side = max(_short_side(each, 0.875) for each in (size, largest))
        pixels = PixelCache(samples, short_side=short_side, mode=cache)
        seen = audit_pictures(pixels, threads=threads, on_progress=on_progress)
        seen.check_usable(max_bad=max_bad)
        usable = np.flatnonzero(seen.ok)
        pixels = pixels.take(usable)
        split = split_samples(
            samples.take(usable),
            valid=valid,
            test=test,
            seed=seed,
            groups=seen.duplicate_groups()[usable],
        )
        train_count = len(split.rows("train"))
        if len(split.rows("valid")) == 0:
            raise DataError(
                f"no picture is left to validate with: {len(split)} usable pictures in {samples.root}",
                "add pictures (two or more in each class), or raise --valid",
                code="TOO_FEW",
            )
        if isinstance(batch_size, str):
            if batch_size != "auto":
                raise UsageError(f"batch size {batch_size!r} is neither a number nor 'auto'")
            batch_size = choose_batch_size(train_count)
        if batch_size < 1:
            raise UsageError(f"batch size {batch_size} is below 1", "give a number such as 32, or 'auto'")
        return cls(
            samples=split,
            cache=pixels,
            image_size=size,
            augmentation=side_on() if augment is None else augment,
            batch_size=min(batch_size, max(1, train_count)),
            audit=seen,
            seed=seed,
            threads=threads,
            balance=balance,
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the logits."""
        return self.samples.classes

    @property
    def task(self) -> Task:
        """Single-label or multi-label."""
        return self.samples.task

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the row numbers of `train`, `valid` or `test` in `samples`."""
        if split not in SPLITS:
            raise UsageError(f"there is no split {split!r}", "use train, valid or test")
        return self.samples.rows(split)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Pictures per split and class; splits without pictures are left out."""
        found: dict[str, dict[str, int]] = {}
        for split in SPLITS:
            rows = self.rows(split)
            if len(rows) == 0:
                continue
            found[split] = self.samples.counts(split)
            labels = self.samples.labels[rows]
            unlabelled = int((labels < 0).sum()) if labels.ndim == 1 else 0
            if unlabelled:
                found[split]["(no label)"] = unlabelled
        return found

    @property
    def evaluation(self) -> EvalPrepare:
        """How a picture is cut to size when it is not augmented."""
        return EvalPrepare(
            self.image_size,
            policy=self.policy,
            crop_fraction=self.crop_fraction,
            interpolation=self.interpolation,
        )

    @property
    def training_order(self) -> Ordering:
        """How an epoch of training orders the training pictures, and which it repeats."""
        return Ordering(shuffle=True, balance=self.balance)

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches in an epoch of training."""
        return len(self.source("train", shuffle=True))

    @property
    def views(self) -> list[Prepare]:
        """The views of test-time augmentation: the plain one, and those that the flips allow."""
        return list(views_of(self.augmentation, self.evaluation))

    def source(
        self,
        split: str,
        *,
        augment: bool = False,
        shuffle: bool = False,
        prepare: Prepare | None = None,
        limit: int | None = None,
    ) -> BatchSource:
        """Return the batches of a split: uint8 pictures of `image_size`, class numbers, row numbers.

        `augment` draws anew for each epoch; `shuffle` gives them in the order of training, rare classes
        repeated where `balance` says so; `prepare` replaces the evaluation view by another; `limit`
        takes that many rows, spread evenly over the split.
        """
        rows = self.rows(split)
        if limit is not None and limit < len(rows):
            rows = rows[np.linspace(0, len(rows) - 1, limit).round().astype(np.int64)]
        chosen: Prepare = prepare or self.evaluation
        if augment:
            chosen = TrainPrepare(
                self.augmentation,
                self.image_size,
                self.seed,
                policy=self.policy,
                crop_fraction=self.crop_fraction,
            )
        return Loader(
            self.cache,
            rows,
            chosen,
            batch_size=self.batch_size,
            ordering=self.training_order if shuffle else Ordering(),
            seed=self.seed,
            threads=self.threads,
        )

    def activations(
        self,
        split: str,
        engine: Engine,
        identity: str,
        *,
        prepare: Prepare | None = None,
        on_progress: OnProgress | None = None,
    ) -> TensorSource:
        """Return what `engine` gives for each picture of a split: computed once, then kept on disk.

        `identity` names the weights and the line that the engine was made from; with it, the contents
        of the pictures and the view make up the key, so nothing stale is ever found.
        """
        view = prepare or self.evaluation
        rows, hashes = self.rows(split), self.content_keys(split)
        store = FeatureCache()
        key = store.key(hashes, view.key, f"{identity} {engine.name}")
        known = store.load(key) if hashes else None
        if known is None:
            known = materialise(self.source(split, prepare=view), engine, on_progress)
            if hashes:
                store.store(key, known)
        # Labels are not part of the key: pictures may have moved to other classes since.
        targets = self.samples.labels[rows].astype(known[1].dtype)
        return TensorSource(known[0], targets, rows, batch_size=self.batch_size, seed=self.seed)

    def resize(self, image_size: int | str | Size) -> ImageData:
        """Return the same data at another size; decodes again only where more pixels are needed."""
        size = parse_size(image_size)
        return self.with_options(image_size=size, cache=self._cache_for(size, self.crop_fraction))

    def with_options(self, **changes: object) -> ImageData:
        """Return the same pictures and split with other fields, as `dataclasses.replace` does."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def for_weights(self, crop_fraction: float, interpolation: str) -> ImageData:
        """Return the same data, cut to size as the pretrained weights ask for.

        A filter that is not known here (`random`, say) leaves the one that is set.
        """
        if interpolation not in INTERPOLATIONS:
            interpolation = self.interpolation
        if (crop_fraction, interpolation) == (self.crop_fraction, self.interpolation):
            return self
        cache = self._cache_for(self.image_size, crop_fraction)
        return self.with_options(crop_fraction=crop_fraction, interpolation=interpolation, cache=cache)

    def _cache_for(self, size: Size, crop_fraction: float) -> PixelCache:
        needed = _short_side(size, crop_fraction)
        return self.cache if needed <= self.cache.short_side else self.cache.resized(needed)

    def content_keys(self, split: str) -> tuple[str, ...]:
        """Return a hash of the bytes of each picture of a split, or nothing where none was audited."""
        if self.audit is None:
            return ()
        hashes = self.audit.sha256[self.audit.ok]
        return tuple(str(hashes[row]) for row in self.rows(split))

    def picture(self, row: int) -> Pixels:
        """Return the decoded, upright picture of a row, reduced for the cache: (height, width, 3)."""
        return self.cache.pixels(row)

    def summary(self) -> str:
        """Return one line about the data."""
        return self.samples.describe()

    def report_lines(self) -> list[str]:
        """Return what a person should know about the data: one line each."""
        lines = [self.summary(), *self.samples.notes]
        if self.audit is not None and len(self.audit.bad_rows):
            codes = ", ".join(f"{count} {code}" for code, count in self.audit.counts().items())
            lines.append(f"{len(self.audit.bad_rows)} pictures cannot be used and are left out: {codes}")
            lines += [f"  {self.audit.messages[row]}" for row in self.audit.bad_rows[:5].tolist()]
        if self.audit is not None and self.audit.duplicates:
            lines.append(f"{self.audit.duplicates} pictures are byte for byte the same as another one")
        return lines

    def show_batch(self, count: int = 9, *, augment: bool = True, epoch: int = 0) -> Figure:
        """Return a figure of training pictures as the network sees them, with their classes."""
        from headstart.evaluation import show_pictures

        source = self.with_options(batch_size=count).source("train", augment=augment, shuffle=True)
        batch = next(iter(source.epoch(epoch)))
        names = self.samples.label_names()
        titles = [names[row] for row in batch.index.tolist()]
        return show_pictures(list(np.asarray(batch.inputs)), titles)


def _short_side(size: Size, crop_fraction: float) -> int:
    return math.ceil(max(size) / crop_fraction)
