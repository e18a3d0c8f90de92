"""The predictor: a bundle and some pictures → `Predictions`.

The decode, the resize and the network are the ones that the model was validated with.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from headstart.augment import Augmentation, EvalPrepare, views
from headstart.data.threads import thread_count
from headstart.deploy.bundle import Bundle, load_bundle
from headstart.deploy.pictures import Item, Picture, items_of
from headstart.errors import DataError, InputMissingError, UsageError
from headstart.evaluation import Predictions, average, concatenate
from headstart.inference import Forward, choose_device, module_forward
from headstart.inference import predict as run_through
from headstart.types import Batch, Pixels, Prepare

if TYPE_CHECKING:
    pass

CHUNK = 64
"""So many pictures at a time are made ready ahead of the network: it bounds the memory."""

_ALLOWED = {
    "plain": Augmentation(),
    "flips": Augmentation(flip_horizontal=True),
    "dihedral": Augmentation(dihedral=True),
}

_Seen: TypeAlias = "list[Pixels] | DataError"
"""One picture as each look wants it, or why there is none."""


@dataclass(frozen=True)
class _Look:
    """One network's one view of a picture: what it is decoded towards, how it is resized, who judges."""

    short_side: int
    prepare: Prepare
    forward: Forward


class Predictor:
    """Says what pictures show, as the model of a bundle sees it; made by `load_predictor`.

    Safe to use from several threads.
    """

    def __init__(
        self, bundle: Bundle, *, device: str = "auto", threads: int | None = None, batch_size: int = 32
    ) -> None:
        if batch_size < 1:
            raise UsageError(
                f"a batch of {batch_size} pictures is no batch", "give a batch size of 1 or more"
            )
        self.manifest = bundle.manifest
        self.batch_size = batch_size
        self._threads = max(1, thread_count(threads))
        chosen = choose_device(device)
        self._forwards = [module_forward(model.to(chosen), chosen) for model in bundle.models]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.manifest.classes

    def predict(
        self,
        pictures: Picture | Iterable[Picture],
        *,
        tta: bool | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Predictions:
        """Return one row per picture, in the order given; a folder stands for all pictures in it.

        A picture that cannot be read has a reason code as its status, and no figures. `tta`: average
        over the views of each picture (None: as the bundle says). `on_progress` is called with the
        number of pictures that are done. Raises `InputMissingError` for a path that is not there, and
        when there is no picture at all.
        """
        parts = []
        for part in self.stream(pictures, tta=tta):
            parts.append(part)
            if on_progress is not None:
                on_progress(int(part.rows[-1]) + 1)
        if not parts:
            raise InputMissingError("there are no pictures to predict", "give files, folders or pictures")
        return concatenate(parts)

    def stream(
        self, pictures: Picture | Iterable[Picture], *, tta: bool | None = None
    ) -> Iterator[Predictions]:
        """Yield the rows of `predict` in parts, in order: memory stays bounded for any number of pictures.

        What is given as an iterator is read as it is needed; a file that is not there then has the
        status VANISHED.
        """
        looks = self._looks(self.manifest.tta if tta is None else tta)
        items = items_of(pictures)
        first = 0

        def begin() -> list[tuple[str, Future[_Seen]]]:
            return [(item.name, pool.submit(_seen, item, looks)) for item in itertools.islice(items, CHUNK)]

        with ThreadPoolExecutor(self._threads, thread_name_prefix="predict") as pool:
            try:
                chunk = begin()
                while chunk:
                    # The next ones are made ready while the network is busy with these.
                    following = begin()
                    names, seen = [name for name, _ in chunk], [future.result() for _, future in chunk]
                    yield self._judged(names, seen, looks, first)
                    first += len(chunk)
                    chunk = following
            finally:
                pool.shutdown(cancel_futures=True)

    def _looks(self, averaged: bool) -> list[_Look]:
        looks = []
        for member, forward in zip(self.manifest.members, self._forwards, strict=True):
            given = member.preprocessing
            plain = EvalPrepare(given.size, given.policy, given.crop_fraction, given.interpolation)
            seen = views(_ALLOWED[self.manifest.views], plain) if averaged else [plain]
            looks += [_Look(given.short_side, view, forward) for view in seen]
        return looks

    def _judged(
        self, names: Sequence[str], seen: Sequence[_Seen], looks: Sequence[_Look], first: int
    ) -> Predictions:
        good = [row for row, found in enumerate(seen) if not isinstance(found, DataError)]
        empty = Predictions(
            logits=np.full((len(seen), len(self.classes)), np.nan, np.float32),
            classes=self.classes,
            task=self.manifest.task,
            paths=tuple(names),
            index=np.arange(first, first + len(seen)),
            status=np.array([found.code if isinstance(found, DataError) else "" for found in seen]),
            thresholds=None if self.manifest.thresholds is None else np.array(self.manifest.thresholds),
        )
        parts = []
        for number, look in enumerate(looks):
            pictures = [found[number] for found in seen if not isinstance(found, DataError)]
            logits = empty.logits.copy()
            if good:
                logits[good], _ = run_through(look.forward, _Ready(pictures, self.batch_size))
            parts.append(replace(empty, logits=logits))
        whole = parts[0] if len(parts) == 1 else average(parts)
        return whole.with_temperature(self.manifest.temperature)


def _seen(item: Item, looks: Sequence[_Look]) -> _Seen:
    """Decode a picture, and make it ready for each look; what is wrong with it is returned, not raised."""
    try:
        decoded = {side: item.decode(side) for side in {look.short_side for look in looks}}
    except DataError as error:
        return error
    return [look.prepare(decoded[look.short_side], 0, 0) for look in looks]


class _Ready:
    """The batches of pictures that are ready for the network; a `BatchSource`."""

    def __init__(self, pictures: Sequence[Pixels], batch_size: int) -> None:
        self._pictures = pictures
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-self.sample_count // self._batch_size)

    @property
    def sample_count(self) -> int:
        """The number of pictures."""
        return len(self._pictures)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the pictures in order, the same in every epoch; their number is their index."""
        del epoch
        for first in range(start * self._batch_size, self.sample_count, self._batch_size):
            inputs = np.stack(self._pictures[first : first + self._batch_size])
            index = np.arange(first, first + len(inputs))
            yield Batch(inputs=inputs, targets=np.full(len(inputs), -1), index=index)


def load_predictor(
    folder: str | Path, *, device: str = "auto", threads: int | None = None, batch_size: int = 32
) -> Predictor:
    """Load a bundle for predicting.

    `device`: `auto`, `cpu`, `cuda`, …; `threads`: how many decode pictures side by side (None: one for
    each processor); `batch_size`: how many pictures the network sees at once. Raises as `load_bundle`
    does.
    """
    return Predictor(load_bundle(Path(folder)), device=device, threads=threads, batch_size=batch_size)
