"""How a predictor runs a network: by ONNX Runtime on a CPU where that is faster, else by PyTorch."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import UsageError
from headstart.inference import module_forward
from headstart.types import Batch, Size

if TYPE_CHECKING:
    import torch

    from headstart.models import Classifier
    from headstart.models.engine import Engine

ENGINES = ("auto", "onnxruntime", "eager")
MADE_FROM = 128
"""A graph that nobody has made yet is made after so many pictures: it costs 1-2 s, once for each model."""

AGREEMENT = 1e-4
"""By how much probabilities may differ from those of PyTorch on the first batch."""
# Of the first batch, so many are looked at twice.
_CHECKED = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What runs pictures of one size, `onnxruntime` or `eager`, and why it is not the former."""

    name: str
    reason: str = ""
    engine: Engine | None = None


class Network:
    """One network of a bundle on its device, with whatever runs it fastest. Safe to use from many threads.

    `identity` names its weights: a graph that was made of them is kept in the cache and found again.
    `engine`: `auto`, `eager` or `onnxruntime` (which raises `UsageError` where it cannot run the network).
    The graph ends where the head begins, which PyTorch runs: so features are there for nothing.
    `probabilities` is what the bundle makes of logits: in them both must agree.
    """

    def __init__(
        self,
        model: Classifier,
        device: torch.device,
        *,
        identity: str,
        probabilities: Callable[[NDArray[np.float32]], NDArray[Any]],
        engine: str = "auto",
        threads: int | None = None,
    ) -> None:
        from headstart.models import WithFeatures

        if engine not in ENGINES:
            raise UsageError(f"there is no engine {engine!r}", f"choose from {', '.join(ENGINES)}")
        if engine == "onnxruntime" and device.type != "cpu":
            raise UsageError("ONNX Runtime runs on the CPU here", "add --device cpu, or take engine auto")
        self.model = model
        self._identity, self._probabilities = identity, probabilities
        self._wanted, self._threads = engine, threads
        self._plain = module_forward(model, device)
        self._whole = module_forward(WithFeatures(model), device)
        self._head = module_forward(model.upper(model.head_stage), device)
        self._fixed = Choice("eager") if engine == "eager" or device.type != "cpu" else None
        self._chosen: dict[Size, Choice] = {}
        self._looked: set[Size] = set()
        self._seen: Counter[Size] = Counter()
        self._lock = threading.Lock()

    @property
    def choices(self) -> dict[Size, Choice]:
        """What was chosen for pictures of each size so far."""
        return dict(self._chosen)

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Return the logits (batch, classes) of uint8 pictures (batch, height, width, 3)."""
        engine = self._engine(np.asarray(batch.inputs))
        if engine is None:
            return self._plain(batch)
        return self._head(_activations(engine, batch))

    def logits_and_features(self, batch: Batch) -> NDArray[np.float32]:
        """Return the logits and, after them, what entered the head: (batch, classes + features)."""
        engine = self._engine(np.asarray(batch.inputs))
        if engine is None:
            return self._whole(batch)
        inside = _activations(engine, batch)
        features = np.asarray(inside.inputs, np.float32).reshape(len(inside), -1)
        return np.concatenate([self._head(inside), features], axis=1)

    def prepare(self, pictures: NDArray[np.uint8] | None = None) -> Choice:
        """Choose now what runs pictures of the network's own size, and make what that needs."""
        size = self.model.image_size
        if pictures is None:
            pictures = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
        if self._fixed is not None:
            return self._fixed
        with self._lock:
            if size not in self._chosen:
                self._chosen[size] = self._choose(pictures, size, make=True) or Choice("eager")
            return self._chosen[size]

    def _engine(self, pictures: NDArray[np.uint8]) -> Engine | None:
        """Return what runs these pictures, None for PyTorch."""
        if self._fixed is not None or not len(pictures):
            return None
        size = (pictures.shape[1], pictures.shape[2])
        chosen = self._chosen.get(size)
        # Where another thread makes the graph, PyTorch takes these; nobody waits.
        if chosen is None and self._lock.acquire(blocking=self._wanted == "onnxruntime"):
            try:
                chosen = self._chosen.get(size) or self._choose_for(pictures, size)
            finally:
                self._lock.release()
        return None if chosen is None else chosen.engine

    def _choose_for(self, pictures: NDArray[np.uint8], size: Size) -> Choice | None:
        self._seen[size] += len(pictures)
        make = self._wanted == "onnxruntime" or self._seen[size] > MADE_FROM
        chosen = self._choose(pictures, size, make=make)
        if chosen is not None:
            self._chosen[size] = chosen
        return chosen

    def _choose(self, pictures: NDArray[np.uint8], size: Size, *, make: bool) -> Choice | None:
        """Find a graph, or make one, and see that it agrees; None where there is none and none is made."""
        from headstart.models.engine import EagerEngine, cached_engine, frozen_engine

        engine: Engine | None = None
        if size not in self._looked:
            self._looked.add(size)
            engine = cached_engine(self._identity, size, threads=self._threads)
        if engine is None and make:
            engine = frozen_engine(
                self.model,
                size=size,
                line=self.model.head_stage,
                identity=self._identity,
                prefer=self._wanted,
                threads=self._threads,
                pictures=pictures,
            )
        if engine is None:
            return None
        if isinstance(engine, EagerEngine):
            return Choice("eager", engine.reason)
        return self._checked(engine, pictures[:_CHECKED])

    def _checked(self, engine: Engine, pictures: NDArray[np.uint8]) -> Choice:
        rows = np.arange(len(pictures))
        batch = Batch(pictures, rows, rows)
        ours, wanted = self._head(_activations(engine, batch)), self._plain(batch)
        difference = float(np.abs(self._probabilities(ours) - self._probabilities(wanted)).max())
        if difference <= AGREEMENT:
            return Choice(engine.name, engine=engine)
        reason = f"ONNX Runtime gives other probabilities, by up to {difference:.1e}"
        if self._wanted == "onnxruntime":
            raise UsageError(f"{self.model.arch}: {reason}", "take the engine auto or eager")
        log.warning("%s runs in eager PyTorch: %s", self.model.arch, reason)
        return Choice("eager", reason)


def _activations(engine: Engine, batch: Batch) -> Batch:
    return Batch(engine(np.asarray(batch.inputs)), batch.targets, batch.index)
