"""What lies below the frozen line gives the same output for the same input: it is computed once and kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from headstart.augment import MixedSource, Mixing
from headstart.errors import StorageError, UsageError
from headstart.imagedata import ImageData, OnProgress
from headstart.models import (
    ActivationSource,
    Classifier,
    FeatureCache,
    TensorSource,
    ViewSource,
    frozen_engine,
    keeps_half,
)
from headstart.models.engine import CHECKED
from headstart.types import BatchSource, Prepare, World

if TYPE_CHECKING:
    from headstart.models import Engine
    from headstart.training import Run

Key = tuple[object, ...]

# Activations of a split that take more than this are kept in a file, and where the cache folder has no
# room for that, computed again in each epoch.
ACTIVATION_BYTES = 2 * 2**30

log = logging.getLogger(__name__)


class Activations:
    """Engines for what lies below a model's frozen line, and what they gave, by weights, line and view.

    Every rank of the `run` has all that is kept, and batches give each its share. Which engines were found
    the fastest is written into the run, and obeyed where it goes on.
    `identity` names the weights that the body has now, where a file or the hub gave them. Everything
    takes the data that is meant, since a learner's data change; the key of what is kept says which it was.
    """

    def __init__(self, model: Classifier, identity: str | None, run: Run) -> None:
        self.model, self.identity, self._run, self._ranks = model, identity, run, run.ranks
        self.engines: dict[Key, Engine] = {}
        self.sources: dict[Key, TensorSource] = {}
        self._pretrained = self._body_key() if identity else ""

    def _body_key(self) -> str:
        """Return a hash of the body's weights and statistics.

        Nothing less tells whether they changed: the version counters of tensors stay as they are under
        fused optimisers, batch norm that collects statistics, and writes to `.data`; a sum takes as long
        (resnet34: 50 ms against 58 ms).
        """
        digest = hashlib.sha256()
        for name, tensor in self.model.backbone.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _key(self, data: ImageData) -> Key:
        return (self._body_key(), self.model.frozen_line, data.image_size)

    @property
    def constant(self) -> bool:
        """Whether what lies below the line is constant, and so can run as inference."""
        return self.model.frozen_line > 0 and self.model.frozen_batch_norm == "eval"

    def engine(self, data: ImageData) -> Engine:
        """Return what runs the part below the frozen line: pixels in, activations out."""
        key = self._key(data)
        if key not in self.engines:
            self.engines[key] = self._made(data, key)
        # Also what was known before: what a checkpoint restores may be older.
        self._run.adjustments.engines[_spelled(key)] = self.engines[key].name
        return self.engines[key]

    def _made(self, data: ImageData, key: Key) -> Engine:
        # What is compiled is compiled for a batch.
        limit = CHECKED if self.model.pixel_mean.device.type == "cpu" else data.batch_size
        some = next(data.source("train", limit=limit).epoch(0))
        make = partial(
            frozen_engine,
            self.model,
            size=data.image_size,
            identity=self.identity if key[0] == self._pretrained else None,
            threads=data.threads,
            pictures=np.asarray(some.inputs),
            ahead=len(data.samples),
        )
        taken = self._run.adjustments.engines.get(_spelled(key))
        if taken is not None:
            try:
                return make(prefer=taken)
            except UsageError as error:
                log.warning("the frozen part ran by %s before, which is not to be had here: %s", taken, error)
        return make()

    def of(
        self,
        data: ImageData,
        split: str,
        prepare: Prepare | None = None,
        on_progress: OnProgress | None = None,
        *,
        epoch: int | None = None,
    ) -> TensorSource | None:
        """Return what arrives at the frozen line for each picture of a split, computed once.

        `epoch`: for the augmented views of that epoch. Feature maps are kept as float16 (see
        `models.keeps_half`), and in a file beyond `ACTIVATION_BYTES`. None where neither memory nor the
        cache folder has room.
        """
        view = prepare or data.evaluation
        seen = view.key if epoch is None else f"{data.training_view.key} epoch {epoch}"
        key = (*self._key(data), split, seen, *_pictures_key(data))
        if key not in self.sources:
            half = keeps_half(self.model.activation_shape(None, data.image_size))
            each = self.model.activation_bytes(data.image_size) // (2 if half else 1)
            needed = each * len(data.rows(split))
            mapped = needed > ACTIVATION_BYTES
            whole = data.content_keys(split) and data.lost is None
            if mapped and self._ranks.of_first(not whole or needed > FeatureCache().budget_bytes):
                return None
            identity = self.identity if key[0] == self._pretrained else f"{self.model.arch}@{key[0]}"
            line = self.model.frozen_line
            if line != self.model.head_stage:
                identity = f"{identity} line {line}"
            try:
                self.sources[key] = data.activations(
                    split,
                    self.engine(data),
                    str(identity),
                    prepare=view,
                    epoch=epoch,
                    half=half,
                    mapped=mapped,
                    on_progress=on_progress,
                )
            except StorageError as error:
                if not mapped:
                    raise
                log.warning("activations are computed again in each epoch: %s", error)
                return None
        return self.sources[key]

    def bank(
        self, data: ImageData, on_progress: OnProgress | None, *, flips: bool = False, views: int = 0
    ) -> tuple[NDArray[np.floating[Any]], NDArray[Any], NDArray[np.int64] | None]:
        """Return (features, targets, groups) of the training pictures: plain, mirrored and `views` draws.

        Groups are the row numbers, None where each picture is there once. Raises `UsageError` where there
        is no room for them.
        """
        plain = data.evaluation
        banks = [self.of(data, "train", on_progress=on_progress)]
        if flips:
            banks.append(self.of(data, "train", replace(plain, flip=not plain.flip), on_progress))
        banks += [self.of(data, "train", on_progress=on_progress, epoch=epoch) for epoch in range(views)]
        known = [bank for bank in banks if bank is not None]
        if len(known) < len(banks):
            raise UsageError("the activations of the training pictures do not fit in memory")
        return (
            np.concatenate([bank.features for bank in known]),
            np.concatenate([bank.targets for bank in known]),
            np.concatenate([bank.index for bank in known]) if len(known) > 1 else None,
        )

    def adopt(self, data: ImageData, engine: Engine, sources: Mapping[str, TensorSource]) -> None:
        """Take over an engine for the frozen line, and what it gave for the plain view of each split."""
        key = self._key(data)
        self.engines[key] = engine
        self._run.adjustments.engines[_spelled(key)] = engine.name
        for split, source in sources.items():
            view = (split, data.evaluation.key, *_pictures_key(data))
            self.sources[(*key, *view)] = source

    def plain(
        self, data: ImageData, split: str, prepare: Prepare | None = None, limit: int | None = None
    ) -> tuple[BatchSource, torch.nn.Module]:
        """Return the plain batches of a split, and the module that takes them."""
        world = self._ranks.world
        if not self.constant:
            return data.source(split, prepare=prepare, limit=limit, world=world), self.model
        known = self.of(data, split, prepare)
        if known is None:
            source = data.source(split, prepare=prepare, limit=limit, world=world)
            return ActivationSource(source, self.engine(data)), self.model.upper()
        return known.shared(world), self.model.upper()

    def training(
        self,
        data: ImageData,
        *,
        augment: bool,
        mixing: Mixing | None = None,
        views: int = 0,
        shared: bool = True,
    ) -> tuple[BatchSource, torch.nn.Module]:
        """Return the shuffled training batches, mixed if need be, and the module that takes them.

        Of several processes each gets its share of them, unless all are to have all: `shared`.
        """
        world = self._ranks.world if shared else World()
        if views and self.constant and self.of(data, "train", epoch=0) is not None:
            return ViewSource(lambda epoch: self._view(data, epoch), views), self.model.upper()
        known = self.of(data, "train") if self.constant and not augment and mixing is None else None
        if known is not None:
            every = known.shuffled(data.batch_size, data.training_order)
            return every.shared(world), self.model.upper()
        # What lies below a line takes pictures from the host.
        device = self.model.pixel_mean.device
        resident = device if device.type == "cuda" and not self.constant else None
        source = data.source("train", augment=augment, shuffle=True, resident=resident, world=world)
        if mixing is not None:
            source = MixedSource(source, mixing)
        if not self.constant:
            return source, self.model
        return ActivationSource(source, self.engine(data)), self.model.upper()

    def _view(self, data: ImageData, epoch: int) -> BatchSource:
        """Return the shuffled activations of the augmented views of an epoch."""
        known = self.of(data, "train", epoch=epoch)
        if known is not None:
            return known.shuffled(data.batch_size, data.training_order).shared(self._ranks.world)
        # The folder has become too small for one more view: this one is computed as it is used.
        source = data.source("train", augment=True, shuffle=True, world=self._ranks.world)
        return ActivationSource(source, self.engine(data))


def _spelled(key: Key) -> str:
    body, line, size = key
    return f"{str(body)[:16]} below {line} at {size}"


def _pictures_key(data: ImageData) -> tuple[str, str]:
    return (data.samples.fingerprint(), data.cache.settings)
