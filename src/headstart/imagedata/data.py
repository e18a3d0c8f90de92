"""`ImageData`: pictures with labels, a split, a size and an augmentation, ready to train on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack, get_args

import numpy as np
from numpy.typing import NDArray

from headstart.augment import Augmentation, EvalPrepare, TrainPrepare, side_on
from headstart.augment import views as views_of
from headstart.augment.warp import Interpolation, Policy
from headstart.data import (
    Audit,
    Background,
    Colours,
    Duplicates,
    Loader,
    Lost,
    PixelCache,
    Rules,
    Samples,
    Table,
    find_duplicates,
    from_frame,
    from_function,
    from_lists,
    from_regex,
    from_shards,
    limit_samples,
    parse_background,
    read_table,
    scan_folder,
    split_apart,
    with_corrections,
    without_quarantined,
)
from headstart.data import audit as audit_pictures
from headstart.data.cache import CacheMode
from headstart.data.lost import OnError
from headstart.errors import DataError, UsageError
from headstart.imagedata import looking
from headstart.imagedata.columns import columns_of
from headstart.imagedata.options import (
    AuditedOptions,
    DataOptions,
    OnProgress,
    check_options,
    choose_batch_size,
    resize_policy,
    short_side_for,
)
from headstart.imagedata.pool import FeaturePool
from headstart.imagedata.sharing import ComputeOptions, compute_shared
from headstart.models import FeatureCache, TensorSource, materialise
from headstart.ordering import Balance, Ordering
from headstart.processes import current
from headstart.resident import ResidentSource, fits, upload
from headstart.types import BatchSource, Pixels, Prepare, Size, Task, World, parse_size

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure

    from headstart.augment.batched import ResidentPixels
    from headstart.data.listed import Label, LabelFunction
    from headstart.models import Engine, Features

INTERPOLATIONS = get_args(Interpolation)
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class ImageData:
    """Pictures, labels and split, with how they are cut to size and augmented.

    Made by `from_folder`, `from_csv` and its like, or `from_samples`. It is frozen: `resize` and
    `with_options` return another one over the same pictures, and share what is already decoded where the
    pixels suffice.

    `image_size` is (height, width); `policy` says what becomes of other shapes (`crop`, `squish` or
    `pad`); `crop_fraction` and `interpolation` are those that the pretrained weights ask for, and
    are set by the `Learner`. `pool` shares features with other data over the same pictures. `lost` counts
    the pictures that went or changed since they were looked at, where such a picture is to be skipped;
    None where it stops the work.
    """

    samples: Samples
    cache: PixelCache
    image_size: Size
    augmentation: Augmentation
    batch_size: int
    audit: Audit | None = None
    duplicates: Duplicates | None = None
    policy: Policy = "crop"
    policy_reason: str = ""
    crop_fraction: float = 0.875
    interpolation: Interpolation = "bicubic"
    seed: int = 0
    threads: int | None = None
    balance: Balance = "none"
    pool: FeaturePool | None = field(default=None, repr=False)
    lost: Lost | None = None
    _resident: dict[tuple[object, ...], tuple[ResidentPixels, NDArray[np.int64]]] = field(
        default_factory=dict, repr=False
    )

    @classmethod
    def from_folder(
        cls, path: str | Path, *, drop_empty_classes: bool = False, **options: Unpack[DataOptions]
    ) -> ImageData:
        """Read class folders, or train/valid/test folders, and look once at every picture.

        Unreadable pictures are left out before the split (`data.audit` names them), and those that the list
        `quarantine` names are not even looked at. `corrections` are tables of new labels and of pictures to
        leave out, applied in their order (`data.with_corrections`). Class folders are split by class, `valid`
        and `test` being fractions; pictures that are the same, or nearly, stay on one side. `largest_size`:
        the largest that `resize()` will ask for, so that pictures are decoded once. `resize`: what becomes of
        other shapes than `image_size`: `crop`, `squish`, `pad`, or `auto` to choose by a look at all shapes.
        `balance="sampler"` repeats the pictures of rare classes in each training epoch until no class is
        rarer than the largest, or the epoch is four times as long; `"loss"` lets each of them count for more
        in the loss. `cache` says where decoded pixels are kept (`PixelCache`'s `mode`). A picture that goes
        or changes after that look stops the work with its name; with `on_error="skip"` it is left out from
        then on and counted (`data.lost`), as long as all that is left out stays within `max_bad`.
        `background` is what transparency is laid on: `white`, `black`, `#rrggbb` or three numbers from 0 to
        255; the model keeps it, and predicts alike. Grey pictures get three equal channels: pretrained bodies
        take no fewer, so `decode`'s one channel is not offered here.
        Raises `InputMissingError` when nothing is there, `DataError` when what is there
        cannot be trained on, `UsageError` for options out of range.
        """
        return cls.from_samples(scan_folder(Path(path), drop_empty_classes=drop_empty_classes), **options)

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str],
        table: Table | None = None,
        *,
        root: str | Path | None = None,
        **options: Unpack[DataOptions],
    ) -> ImageData:
        """Read the pictures that a CSV or Parquet file (or its URL) lists; see `data.read_table`.

        `ImageData.from_csv("labels.csv", Table(image="id", label="breed", folder="train", suffix=".jpg"))`.
        """
        return cls.from_samples(read_table(path, table, root=root), **options)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        table: Table | None = None,
        *,
        root: str | os.PathLike[str] = ".",
        **options: Unpack[DataOptions],
    ) -> ImageData:
        """Read the pictures that a DataFrame lists; see `data.from_frame`."""
        return cls.from_samples(from_frame(frame, table, root=root), **options)

    @classmethod
    def from_lists(
        cls,
        paths: Sequence[str | os.PathLike[str]],
        labels: Sequence[Label | Sequence[str]],
        *,
        root: str | os.PathLike[str] = ".",
        split: Sequence[str] | None = None,
        group: Sequence[object] | None = None,
        rules: Rules | None = None,
        **options: Unpack[DataOptions],
    ) -> ImageData:
        """Read pictures from lists of paths and labels (names, or lists of tags); see `data.from_lists`."""
        samples = from_lists(paths, labels, root=root, split=split, group=group, rules=rules)
        return cls.from_samples(samples, **options)

    @classmethod
    def from_function(
        cls,
        path: str | os.PathLike[str],
        label: LabelFunction,
        *,
        rules: Rules | None = None,
        **options: Unpack[DataOptions],
    ) -> ImageData:
        """Read a folder whose pictures' labels are what `label(path)` returns; see `data.from_function`."""
        return cls.from_samples(from_function(path, label, rules=rules), **options)

    @classmethod
    def from_regex(
        cls,
        path: str | os.PathLike[str],
        pattern: str,
        *,
        rules: Rules | None = None,
        **options: Unpack[DataOptions],
    ) -> ImageData:
        """Read a folder whose pictures' labels stand in their names; see `data.from_regex`."""
        return cls.from_samples(from_regex(path, pattern, rules=rules), **options)

    @classmethod
    def from_shards(
        cls,
        places: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        label: str | None = None,
        label_delimiter: str | None = None,
        rules: Rules | None = None,
        **options: Unpack[DataOptions],
    ) -> ImageData:
        """Read tar shards, here or behind a URL; see `data.from_shards`."""
        samples = from_shards(places, label=label, label_delimiter=label_delimiter, rules=rules)
        return cls.from_samples(samples, **options)

    @classmethod
    def from_samples(
        cls,
        samples: Samples,
        *,
        background: str | Background = "white",
        cache: CacheMode = "auto",
        largest_size: int | str | Size | None = None,
        limit: int | None = None,
        quarantine: Path | None = None,
        corrections: Sequence[Path] = (),
        on_progress: OnProgress | None = None,
        **options: Unpack[AuditedOptions],
    ) -> ImageData:
        """Make `ImageData` from a table of samples; see `from_folder`.

        `limit` takes that many of them for a quick trial: see `data.limit_samples`.
        """
        # What is wrong with an option is said before any picture is looked at.
        check_options(**options)
        colours = Colours(parse_background(background))
        if quarantine is not None:
            samples = without_quarantined(samples, quarantine)
        for table in corrections:
            samples = with_corrections(samples, table)
        if limit is not None:
            samples = limit_samples(samples, limit, seed=options.get("seed", 0))
        size, augmentation = options.get("image_size", 224), options.get("augment") or side_on()
        sizes = (parse_size(each) for each in (size, largest_size or size))
        short_side = max(short_side_for(each, 0.875, augmentation) for each in sizes)
        pixels = PixelCache(samples, short_side=short_side, mode=cache, colours=colours)
        seen = audit_pictures(pixels, threads=options.get("threads"), on_progress=on_progress)
        return cls.from_audit(pixels, seen, **options)

    @classmethod
    def from_audit(
        cls,
        cache: PixelCache,
        seen: Audit,
        *,
        image_size: int | str | Size = 224,
        augment: Augmentation | None = None,
        valid: float = 0.2,
        test: float = 0.0,
        batch_size: int | str = "auto",
        seed: int = 0,
        threads: int | None = None,
        balance: Balance = "none",
        max_bad: int | None = None,
        resize: str = "auto",
        on_error: OnError = "stop",
    ) -> ImageData:
        """Make `ImageData` from pictures that were looked at already; see `from_folder`.

        `cache` holds the samples that `seen` is about, and the pixels that the audit decoded.
        """
        check_options(valid=valid, test=test, balance=balance, resize=resize, on_error=on_error)
        if cache.colours.channels != 3:
            raise UsageError(
                "pictures of one channel cannot be trained on", "decode them to three: Colours()"
            )
        size, samples = parse_size(image_size), cache.samples
        seen.check_usable(max_bad=max_bad)
        usable = np.flatnonzero(seen.ok)
        pixels = cache.take(usable)
        duplicates = find_duplicates(seen)
        copies = duplicates.near[usable]
        split = split_apart(samples.take(usable), copies, valid=valid, test=test, seed=seed)
        if on_error == "skip":
            pixels.lost = Lost(split.split, seen.allowed_bad(max_bad) - len(seen.bad_rows))
        policy, reason = resize_policy(resize, seen, size)
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
            duplicates=duplicates.take(usable),
            policy=policy,
            policy_reason=reason,
            seed=seed,
            threads=threads,
            balance=balance,
            lost=pixels.lost,
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the logits."""
        return self.samples.classes

    @property
    def background(self) -> Background:
        """What transparency is laid on: red, green and blue, 0 … 255."""
        return self.cache.colours.background

    @property
    def task(self) -> Task:
        """Single-label or multi-label."""
        return self.samples.task

    def rows(self, split: str, limit: int | None = None) -> NDArray[np.int64]:
        """Return the row numbers of `train`, `valid` or `test` in `samples`; or `limit` of them, spread."""
        if split not in SPLITS:
            raise UsageError(f"there is no split {split!r}", "use train, valid or test")
        rows = self.samples.rows(split)
        if limit is not None and limit < len(rows):
            rows = rows[np.linspace(0, len(rows) - 1, limit).round().astype(np.int64)]
        return rows

    @property
    def lost_codes(self) -> dict[int, str]:
        """Why each row that was lost since the pictures were looked at was, by row number."""
        return {} if self.lost is None else self.lost.codes()

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
    def training_view(self) -> TrainPrepare:
        """How a picture is cut to size and augmented, anew in each epoch."""
        return TrainPrepare(
            self.augmentation,
            self.image_size,
            self.seed,
            policy=self.policy,
            crop_fraction=self.crop_fraction,
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
        resident: torch.device | str | None = None,
        world: World = World(),
    ) -> BatchSource:
        """Return the batches of a split: uint8 pictures of `image_size`, class numbers, row numbers.

        `augment` draws anew for each epoch; `shuffle` gives them in the order of training, rare classes
        repeated where `balance` says so; `prepare` replaces the evaluation view by another; `limit`
        takes that many rows, spread evenly over the split. `resident`: a device in whose memory the decoded
        pictures are kept, and where they are augmented; a CUDA device only where they fit. `world`: give
        this process its share of each batch.
        """
        rows = self.rows(split, limit)
        chosen: Prepare = prepare or self.evaluation
        if augment:
            chosen = training = self.training_view
            if resident is not None and (kept := self._resident_pixels(rows, resident)) is not None:
                return self._resident_source(*kept, training, shuffle=shuffle, world=world)
        return self._loader(rows, chosen, self.training_order if shuffle else Ordering(), world)

    def _loader(
        self, rows: NDArray[np.int64], prepare: Prepare, ordering: Ordering, world: World = World()
    ) -> Loader:
        return Loader(
            self.cache,
            rows,
            prepare,
            batch_size=self.batch_size,
            ordering=ordering,
            seed=self.seed,
            threads=self.threads,
            world=world,
        )

    def _resident_pixels(
        self, rows: NDArray[np.int64], device: torch.device | str
    ) -> tuple[ResidentPixels, NDArray[np.int64]] | None:
        """Return the pixels of these rows in a device's memory, sent there once, or None where they stay.

        With them the rows that they are of: those that are not lost.
        """
        import torch

        if self.augmentation.before is not None:
            return None  # it takes one picture at a time
        place = torch.device(device)
        key = (self.cache, place, rows.tobytes())
        if key not in self._resident:
            self._resident.clear()  # those of another size have had their time
            if place.type == "cuda" and not fits(self.cache, rows, place):
                return None
            self._resident[key] = upload(self.cache, rows, place, threads=self.threads)
        return self._resident[key]

    def _resident_source(
        self,
        pixels: ResidentPixels,
        rows: NDArray[np.int64],
        prepare: TrainPrepare,
        *,
        shuffle: bool,
        world: World,
    ) -> ResidentSource:
        kind = np.float32 if self.task is Task.MULTI_LABEL else np.int64
        return ResidentSource(
            pixels,
            self.samples.labels[rows].astype(kind),
            rows,
            self.samples.ids[rows],
            prepare,
            batch_size=self.batch_size,
            ordering=self.training_order if shuffle else Ordering(),
            seed=self.seed,
            world=world,
        )

    def activations(
        self,
        split: str,
        engine: Engine,
        identity: str,
        *,
        prepare: Prepare | None = None,
        epoch: int | None = None,
        half: bool = False,
        mapped: bool = False,
        on_progress: OnProgress | None = None,
        on_part: Callable[[Features], None] | None = None,
    ) -> TensorSource:
        """Return what `engine` gives for each picture of a split: computed once, then kept on disk.

        `identity` names the weights and the line that the engine was made from; with it, the contents
        of the pictures, how they are decoded and the view make up the key, so nothing stale is ever
        found. `epoch`: the augmented views of that epoch instead of the plain ones. `half`: as float16;
        `mapped`: in a file instead of in memory, where the pictures were audited (see
        `FeatureCache.compute`). While they are computed, `on_part` gets (features, targets, row numbers) of
        the pictures that are done, a random part of all. Several processes share the work, and each gets
        the whole.
        """
        view, rows, hashes = prepare or self.evaluation, self.rows(split), self.content_keys(split)
        seen = view.key
        if epoch is not None:
            view = self.training_view
            # What is drawn depends on the ids of the samples, too.
            drawn_by = hashlib.sha256(np.ascontiguousarray(self.samples.ids[rows]).tobytes()).hexdigest()
            seen = f"{view.key} epoch {epoch} of {drawn_by}"
        store = FeatureCache()
        made_by = f"{identity} {engine.name}{' half' if half else ''} {self.cache.settings}"
        key = store.key(hashes, seen, made_by) if hashes else None
        name = f"{seen} {made_by}"
        pool = self.pool if hashes and epoch is None and not half and not mapped else None
        known = None if pool is None else self._pooled(pool, name, rows, hashes, view, engine, on_progress)
        if known is None and key:
            known = store.load(key)
        ranks = current()
        if not ranks.table(known is not None).all():
            # Each picture once, whatever training repeats.
            mixed = Ordering(shuffle=on_part is not None)

            def loaded(world: World) -> Loader:
                return self._loader(rows, view, mixed, world)

            options = ComputeOptions(key, epoch or 0, half, mapped)
            known = compute_shared(ranks, store, loaded, engine, options, on_progress, on_part)
        assert known is not None
        if len(known[2]) < len(rows):
            rows = known[2]  # some are lost
        elif pool is not None:
            pool.add(name, hashes, known[0])
        # Labels are not part of the key: pictures may have moved to other classes since.
        targets = self.samples.labels[rows].astype(known[1].dtype)
        return TensorSource(known[0], targets, rows, batch_size=self.batch_size, seed=self.seed)

    def _pooled(
        self,
        pool: FeaturePool,
        name: str,
        rows: NDArray[np.int64],
        hashes: tuple[str, ...],
        view: Prepare,
        engine: Engine,
        on_progress: OnProgress | None,
    ) -> Features | None:
        """Return the features of rows that the pool has in part, the others computed; None if it has none."""
        missing = pool.missing(name, hashes)
        if missing.all():
            return None
        if missing.any():
            new = materialise(self._loader(rows[missing], view, Ordering()), engine, on_progress)
            if len(new[2]) < missing.sum():
                return None  # some are lost
            pool.add(name, [hashes[row] for row in np.flatnonzero(missing)], new[0])
        kind = np.float32 if self.task is Task.MULTI_LABEL else np.int64
        return pool.take(name, hashes), self.samples.labels[rows].astype(kind), rows

    def resize(self, image_size: int | str | Size) -> ImageData:
        """Return the same data at another size; decodes again only where more pixels are needed."""
        size = parse_size(image_size)
        return self.with_options(image_size=size, cache=self._cache_for(size, self.crop_fraction))

    def with_options(self, **changes: object) -> ImageData:
        """Return the same pictures and split with other fields, as `dataclasses.replace` does.

        Pictures are decoded anew where another augmentation needs more pixels and no `cache` is given.
        """
        changed = replace(self, **changes)  # type: ignore[arg-type]
        if "augmentation" not in changes or "cache" in changes:
            return changed
        return replace(changed, cache=changed._cache_for(changed.image_size, changed.crop_fraction))

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
        needed = short_side_for(size, crop_fraction, self.augmentation)
        return self.cache if needed <= self.cache.short_side else self.cache.resized(needed)

    def content_keys(self, split: str) -> tuple[str, ...]:
        """Return a hash of the bytes of each picture of a split, or nothing where none was audited."""
        if self.audit is None:
            return ()
        hashes = self.audit.sha256[self.audit.ok]
        return tuple(str(hashes[row]) for row in self.rows(split))

    @property
    def columns(self) -> dict[str, NDArray[np.object_]]:
        """What is known of each row beside its label, by name: the table's columns, size, format, light."""
        return columns_of(self.samples, self.audit)

    def picture(self, row: int) -> Pixels:
        """Return the decoded, upright picture of a row, reduced for the cache: (height, width, 3)."""
        return self.cache.pixels(row)

    def explain(self, row: int, *, epoch: int = 0, augment: bool = True) -> str:
        """Return the way of one sample, a line for each step: file, decoding, matrix, warp, pixel steps."""
        return looking.explain_sample(self, row, epoch=epoch, augment=augment)

    def summary(self) -> str:
        """Return one line about the data."""
        return self.samples.describe()

    def report_lines(self) -> list[str]:
        """Return what a person should know about the data: one line each."""
        return looking.report_lines(self)

    def show_batch(self, count: int = 9, *, augment: bool = True, epoch: int = 0) -> Figure:
        """Return a figure of training pictures as the network sees them, with their classes."""
        return looking.show_batch(self, count, augment=augment, epoch=epoch)

    def show_augmented(self, count: int = 5, draws: int = 7) -> Figure:
        """Return a figure with a row for each of `count` training pictures: plain, then as training sees it.

        The pictures are spread evenly over the training part; each of the `draws` is another epoch's.
        """
        return looking.show_augmented(self, count, draws)
