"""The predictor: a bundle and some pictures → `Predictions`.

The decode, the resize and the network are the ones that the model was validated with.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from headstart.augment import EvalPrepare, PolicyViews, policy_views
from headstart.augment.policies import Symmetries
from headstart.data import Colours, Samples
from headstart.data.facts import Facts, facts_of
from headstart.data.threads import thread_count
from headstart.deploy.bundle import Bundle, load_bundle
from headstart.deploy.decoding import Decoder
from headstart.deploy.explaining import check_labels, explained
from headstart.deploy.forwarding import Choice, Network
from headstart.deploy.hub import located
from headstart.deploy.manifest import Manifest, Member
from headstart.deploy.pictures import Item, Pictures, items_of, items_of_samples
from headstart.errors import DataError, InputMissingError, UsageError
from headstart.evaluation import Predictions, average, concatenate, sets_of
from headstart.inference import Forward, choose_device
from headstart.inference import predict as run_through
from headstart.storage import content_key
from headstart.types import Batch, Pixels, Prepare

if TYPE_CHECKING:
    from headstart.deploy.jobs import JobResult
    from headstart.evaluation import Explanation

Floats: TypeAlias = NDArray[np.float32]

CHUNK = 64
"""So many pictures at a time are made ready ahead of the network: it bounds the memory."""

MOST_FEATURES = 2000
"""Of at most so many pictures of a table is kept what enters the first network's head."""


class _Views(NamedTuple):
    """One picture as each look wants it, and what was measured of it, where that was asked for."""

    pixels: list[Pixels]
    facts: Facts | None


_Seen: TypeAlias = "_Views | DataError"
"""One picture as each look wants it, or why there is none."""


@dataclass(frozen=True)
class _Look:
    """One network's one view of a picture: how it is decoded, how it is resized, who judges.

    `weight`: what it counts in the average; `role`: "plain" for the network's plain view, "mirrored" for
    the mirror image of that. `features`: whether what enters the head comes after the logits.
    """

    decoder: Decoder
    prepare: Prepare
    forward: Forward
    weight: float
    role: str
    features: bool = False


@dataclass(frozen=True, eq=False)
class Seen:
    """Predictions of the same pictures: by all views, by the plain view, and by its mirror image.

    Where only the plain view is looked at, `averaged` is `plain`; `mirrored` is None where no view is the
    plain one's mirror image. `facts`: what was measured of each picture, None where it cannot be read.
    `features` float32 (some, features): what entered the first network's head, of at most 2,000 pictures
    spread over all, and `feature_rows` which they are; None where the bundle does not ask for it.
    """

    averaged: Predictions
    plain: Predictions
    mirrored: Predictions | None = None
    facts: tuple[Facts | None, ...] = ()
    features: NDArray[np.float32] | None = None
    feature_rows: NDArray[np.int64] | None = None


class Predictor:
    """Says what pictures show, as the model of a bundle sees it; made by `load_predictor`.

    Safe to use from several threads. Child processes that it started end with it, or with `close`, or at
    the end of a `with` block.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "auto",
        threads: int | None = None,
        batch_size: int = 32,
        trusted: bool | None = None,
        engine: str = "auto",
    ) -> None:
        if batch_size < 1:
            raise UsageError(
                f"a batch of {batch_size} pictures is no batch", "give a batch size of 1 or more"
            )
        self.manifest = bundle.manifest
        self.batch_size = batch_size
        self._threads = max(1, thread_count(threads))
        chosen = choose_device(device)
        self._models = [model.to(chosen) for model in bundle.models]
        self._novelty = bundle.novelty
        self._networks = [
            Network(
                model,
                chosen,
                identity=weights_of(self.manifest, member),
                probabilities=self._probabilities,
                engine=engine,
                threads=self._threads,
            )
            for model, member in zip(self._models, self.manifest.members, strict=True)
        ]
        self.trusted = trusted
        kinds = {_kind(member) for member in self.manifest.members}
        self._decoders = {kind: Decoder(*kind, count=self._threads) for kind in kinds}
        weakref.finalize(self, _close, tuple(self._decoders.values()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child processes that decode; they are started again where they are needed again."""
        _close(tuple(self._decoders.values()))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.manifest.classes

    @property
    def feature_count(self) -> int:
        """How many numbers enter the first network's head."""
        return int(np.prod(self._models[0].activation_shape(self._models[0].head_stage)))

    def predict(
        self,
        pictures: Pictures,
        *,
        tta: bool | str | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Predictions:
        """Return one row per picture, in the order given; a folder stands for all pictures in it.

        A picture that cannot be read has a reason code as its status, and no figures. `tta`: average
        over several views of each picture, those of the bundle's own policy or of the one that is named
        (see `augment.POLICIES`; None: as the bundle says). `on_progress` is called with the number of
        pictures that are done. Raises `InputMissingError` for a path that is not there, and when there is
        no picture at all; `UsageError` for a policy that is unknown, or mirrors pictures that must not be.
        """
        parts = []
        for part in self.stream(pictures, tta=tta):
            parts.append(part)
            if on_progress is not None:
                on_progress(int(part.rows[-1]) + 1)
        if not parts:
            raise InputMissingError("there are no pictures to predict", "give files, folders or pictures")
        return concatenate(parts)

    def predict_samples(
        self,
        samples: Samples,
        *,
        tta: bool | str | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Seen:
        """Return the predictions of the rows of a table, those of their plain views alone, and more.

        Labels are not looked at. Raises as `predict` does.
        """
        looks = self.looks(tta)
        if not len(samples):
            raise InputMissingError("there are no pictures to predict", "give files, folders or pictures")
        parts = []
        chunks = self._chunks(items_of_samples(samples), len(samples) > 1, looks, measured=True)
        for names, seen, first in chunks:
            # Views that were looked at are let go: of a whole table they would fill the memory.
            parts.append(
                replace(
                    self._judged(names, seen, looks, first, every=math.ceil(len(samples) / MOST_FEATURES)),
                    facts=tuple(None if isinstance(found, DataError) else found.facts for found in seen),
                )
            )
            if on_progress is not None:
                on_progress(int(parts[-1].averaged.rows[-1]) + 1)
        plain = concatenate([part.plain for part in parts])
        found = Seen(
            plain,
            plain,
            facts=tuple(itertools.chain.from_iterable(part.facts for part in parts)),
            features=_joined([part.features for part in parts]),
            feature_rows=_joined([part.feature_rows for part in parts]),
        )
        if len(looks) == len(self.manifest.members):
            return found
        mirrored = [part.mirrored for part in parts if part.mirrored is not None]
        return replace(
            found,
            averaged=concatenate([part.averaged for part in parts]),
            mirrored=concatenate(mirrored) if mirrored else None,
        )

    def stream(self, pictures: Pictures, *, tta: bool | str | None = None) -> Iterator[Predictions]:
        """Yield the rows of `predict` in parts, in order: memory stays bounded for any number of pictures.

        What is given as an iterator is read as it is needed; a file that is not there then has the
        status VANISHED.
        """
        looks = self.looks(tta)
        for names, seen, first in self._chunks(*_counted(pictures), looks):
            yield self._judged(names, seen, looks, first).averaged

    def features(self, pictures: Pictures, *, on_progress: Callable[[int], None] | None = None) -> Floats:
        """Return what enters the first network's head: float32 (pictures, features), one row per picture.

        Of the plain view. A picture that cannot be read has a row of NaN. Raises as `predict` does.
        """
        rows: list[Floats] = []
        items, _ = _counted(pictures)
        for seen in self.seen(items, self.looks(False, features=True)):
            part = np.full((len(seen.averaged), self.feature_count), np.nan, np.float32)
            if seen.features is not None and seen.feature_rows is not None:
                part[seen.feature_rows - seen.averaged.rows[0]] = seen.features
            rows.append(part)
            if on_progress is not None:
                on_progress(int(seen.averaged.rows[-1]) + 1)
        if not rows:
            raise InputMissingError("there are no pictures to predict", "give files, folders or pictures")
        return np.concatenate(rows)

    def predict_into(
        self,
        pictures: Pictures,
        out: str | Path,
        *,
        tta: bool | str | None = None,
        top: int | None = None,
        features: bool = False,
        replace_old: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> JobResult:
        """Predict pictures into a table, `.parquet` or CSV, in bounded memory; goes on after a kill.

        See `jobs.predict_into`.
        """
        from headstart.deploy.jobs import predict_into

        return predict_into(
            self,
            pictures,
            out,
            tta=tta,
            top=top,
            features=features,
            replace_old=replace_old,
            on_progress=on_progress,
        )

    def seen(self, items: Iterator[Item], looks: Sequence[_Look], *, first: int = 0) -> Iterator[Seen]:
        """Yield what the looks say of pictures, a chunk at a time, with all features where looks give them.

        `first`: the number of the first picture.
        """
        inside = looks[0].features
        for names, seen, number in self._chunks(items, True, looks):
            yield self._judged(names, seen, looks, first + number, every=1 if inside else 0)

    def explain(
        self,
        pictures: Pictures | Samples,
        *,
        label: str | Sequence[str] | None = None,
        method: str = "auto",
    ) -> Iterator[Explanation]:
        """Yield for each picture, in order, where the model finds what it says: see `Explanation`.

        `pictures`: as for `predict`, or the rows of a table. `label`: the class or tag to explain, or one for
        each picture (None: the most probable one of each). `method`:
        `gradcam`, `rollout`, or `auto`, which takes the latter for vision transformers. The heat lies on the
        plain view that the first network sees; of an ensemble it is the mean of the maps of all that see the
        same. A picture that cannot be read has a status and no heat. Raises `UsageError` for a label or a
        method that is not there, and as `stream` does.
        """
        check_labels(label, self.classes)
        looks = self.looks(None)
        plain = self.manifest.members[0].preprocessing
        alike = [
            number for number, member in enumerate(self.manifest.members) if member.preprocessing == plain
        ]
        for names, seen, first in self._chunks(*_counted(pictures), looks):
            views = [None if isinstance(found, DataError) else found.pixels[0] for found in seen]
            own = label if label is None or isinstance(label, str) else label[first : first + len(names)]
            yield from explained(
                [self._models[number] for number in alike],
                views,
                self._judged(names, seen, looks, first).averaged,
                label=own,
                method=method,
                batch_size=self.batch_size,
            )

    def _chunks(
        self, items: Iterator[Item], several: bool, looks: Sequence[_Look], *, measured: bool = False
    ) -> Iterator[tuple[list[str], list[_Seen], int]]:
        """Yield names and pictures as the looks want them, some at a time, and the number of the first."""
        apart = several if self.trusted is None else not self.trusted
        if not several:
            # One picture is not worth a thread of its own.
            for number, item in enumerate(items):
                yield [item.name], [self._ready(item, looks, apart, measured)], number
            return
        first = 0

        def begin() -> list[tuple[str, Future[_Seen]]]:
            chunk = itertools.islice(items, CHUNK)
            return [(item.name, pool.submit(_seen, item, looks, apart, measured)) for item in chunk]

        with ThreadPoolExecutor(self._threads, thread_name_prefix="predict") as pool:
            try:
                chunk = begin()
                while chunk:
                    # The next ones are made ready while the network is busy with these.
                    following = begin()
                    names, seen = [name for name, _ in chunk], [future.result() for _, future in chunk]
                    self._write()
                    yield names, seen, first
                    first += len(chunk)
                    chunk = following
            finally:
                pool.shutdown(cancel_futures=True)

    def prepare(self) -> tuple[Choice, ...]:
        """Choose now what runs each network, and make the graphs that needs, before the first picture comes.

        Without it, that is done while pictures are predicted. Returns one choice for each network.
        """
        return tuple(network.prepare() for network in self._networks)

    def _ready(self, item: Item, looks: Sequence[_Look], apart: bool, measured: bool) -> _Seen:
        found = _seen(item, looks, apart, measured)
        self._write()
        return found

    def _write(self) -> None:
        for decoder in self._decoders.values():
            decoder.write()

    def views(self, tta: bool | str | None = None) -> PolicyViews:
        """Return the views of a picture that `predict` would look at, and what each counts."""
        return self._views(self.manifest.members[0], tta)

    def _views(self, member: Member, tta: bool | str | None) -> PolicyViews:
        given = member.preprocessing
        plain = EvalPrepare(given.size, given.policy, given.crop_fraction, given.interpolation)
        symmetries = cast(Symmetries, self.manifest.views)
        averaged = self.manifest.tta if tta is None else tta
        policy = self.manifest.tta_policy if isinstance(averaged, bool) else averaged
        # A bundle of pictures that are never mirrored has always taken `tta=True` for the plain view.
        nothing = isinstance(averaged, bool) and policy == "flip" and symmetries == "plain"
        if not averaged or nothing:
            return PolicyViews((plain,), (1.0,))
        return policy_views(policy, plain, symmetries)

    def looks(self, tta: bool | str | None = None, *, features: bool = False) -> list[_Look]:
        """Return each network's views of a picture; with `features` the first gives what enters its head."""
        looks: list[_Look] = []
        for member, network in zip(self.manifest.members, self._networks, strict=True):
            chosen, decoder = self._views(member, tta), self._decoders[_kind(member)]
            inside = not looks and (features or self._novelty is not None)
            forward = network.logits_and_features if inside else network.logits
            plain = chosen.views[0]
            looks += [
                _Look(decoder, view, forward, weight, _role(view, chosen.views[0]), inside and view == plain)
                for view, weight in zip(chosen.views, chosen.weights, strict=True)
            ]
        return looks

    def _judged(
        self,
        names: Sequence[str],
        seen: Sequence[_Seen],
        looks: Sequence[_Look],
        first: int,
        *,
        every: int = 0,
    ) -> Seen:
        """Return what all looks together say; with `every`, the features of every so-many-th row, too."""
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
        parts, strangeness, features, kept = [], None, None, None
        for number, look in enumerate(looks):
            pictures = [found.pixels[number] for found in seen if not isinstance(found, DataError)]
            logits = empty.logits.copy()
            if good:
                outputs, _ = run_through(look.forward, _Ready(pictures, self.batch_size))
                logits[good] = outputs[:, : len(self.classes)]
            if number == 0 and self._novelty is not None:
                strangeness = np.full(len(seen), np.nan)
            if number == 0 and look.features and good:
                inside = outputs[:, len(self.classes) :]
                if self._novelty is not None and strangeness is not None:
                    strangeness[good] = self._novelty.strangeness(inside)
                if every:
                    numbers = first + np.array(good, np.int64)
                    features, kept = inside[numbers % every == 0], numbers[numbers % every == 0]
            parts.append(replace(empty, logits=logits, strangeness=strangeness))
        by_role = {
            role: [part for part, look in zip(parts, looks, strict=True) if look.role == role]
            for role in ("plain", "mirrored")
        }
        plain, mirrored = (
            self._decided(average(some) if len(some) > 1 else some[0]) if some else None
            for some in by_role.values()
        )
        assert plain is not None  # every network looks at the plain view
        if len(parts) == len(by_role["plain"]):
            return Seen(plain, plain, features=features, feature_rows=kept)
        averaged = self._decided(average(parts, [look.weight for look in looks]))
        return Seen(averaged, plain, mirrored, features=features, feature_rows=kept)

    def _probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return what this bundle makes of logits."""
        return self._decided(Predictions(logits, self.classes, self.manifest.task)).probabilities

    def _decided(self, predictions: Predictions) -> Predictions:
        """Return the table with what the bundle knows of its probabilities: temperature, scaling, sets."""
        manifest = self.manifest
        scaled = predictions.with_temperature(manifest.temperature).with_scaling(manifest.scaling)
        if manifest.sets is None:
            return scaled
        return replace(scaled, sets=sets_of(scaled, manifest.sets))


def _joined(parts: Iterable[NDArray[Any] | None]) -> NDArray[Any] | None:
    """The rows of all parts that have some; None where none has."""
    found = [part for part in parts if part is not None]
    return np.concatenate(found) if found else None


def _counted(pictures: Pictures | Samples) -> tuple[Iterator[Item], bool]:
    """The pictures one by one, and whether they are more than one."""
    items = items_of_samples(pictures) if isinstance(pictures, Samples) else items_of(pictures)
    two = tuple(itertools.islice(items, 2))
    return itertools.chain(two, items), len(two) > 1


def weights_of(manifest: Manifest, member: Member) -> str:
    """Return what a graph of a member depends on besides the size of its pictures, in one text."""
    given = member.preprocessing
    sha256 = manifest.files[member.file].sha256
    return content_key("bundle", member.arch, sha256, list(given.mean), list(given.std))


def _kind(member: Member) -> tuple[int, Colours]:
    """What a member asks of the decoder."""
    return member.preprocessing.short_side, Colours(member.preprocessing.background)


def _role(view: Prepare, plain: Prepare) -> str:
    if view == plain:
        return "plain"
    return "mirrored" if isinstance(plain, EvalPrepare) and view == replace(plain, flip=True) else ""


def _close(decoders: Iterable[Decoder]) -> None:
    for decoder in decoders:
        decoder.close()


def _seen(item: Item, looks: Sequence[_Look], apart: bool, measured: bool) -> _Seen:
    """Decode a picture, and make it ready for each look; what is wrong with it is returned, not raised."""
    try:
        data = item.read()
        decoded = {decoder: decoder(item, data, apart=apart) for decoder in {look.decoder for look in looks}}
    except DataError as error:
        # Its traceback holds the picture's bytes, and whatever else was at hand.
        return error.with_traceback(None)
    pixels = [look.prepare(decoded[look.decoder].pixels, 0, 0) for look in looks]
    return _Views(pixels, facts_of(decoded[looks[0].decoder]) if measured else None)


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
    folder: str | Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    batch_size: int = 32,
    trusted: bool | None = None,
    engine: str = "auto",
) -> Predictor:
    """Load a bundle for predicting: a folder, a `.headstart` file, or `hf://USER/NAME[@REVISION]`.

    `device`: `auto`, `cpu`, `cuda`, …; `threads`: how many decode pictures side by side (None: one for
    each processor); `batch_size`: how many pictures the network sees at once. Raises as `load_bundle`
    does.

    `trusted`: whether the bytes of pictures are decoded in this process (True), or in children (False) where
    a picture that crashes the decoder, hangs or asks for gigabytes costs its own row and nothing else: it
    has the status DECODER_CRASH, DECODE_TIMEOUT or TOO_MANY_PIXELS. None: in children where several are
    given at once, here where it is one, which has no other rows to lose. A child costs 0.23 s of
    processor time once, beside the 4 s in which torch and a model are loaded; it stays, and a picture of
    500 x 375 then costs it 1 ms more than here (500 pictures, mobilenetv2_100, two cores: 22.6 s in place of
    21.9 for the whole process). Arrays and PIL images are pixels already, and never need a child.

    `engine`: what runs the networks: `eager` (PyTorch), `onnxruntime`, or `auto`: on a CPU ONNX Runtime where
    it is not clearly slower and its probabilities agree within 1e-4; a graph is made after 128 pictures, and
    kept in the cache.
    """
    bundle = load_bundle(located(folder))
    return Predictor(
        bundle, device=device, threads=threads, batch_size=batch_size, trusted=trusted, engine=engine
    )
