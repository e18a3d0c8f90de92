"""Transparent pictures are the same pixels in training, in evaluation and for the predictor."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import headstart as hs
from headstart.augment import EvalPrepare, TrainPrepare
from headstart.data import Colours, PixelCache, audit, decode, scan_folder
from headstart.deploy.predictor import run_through
from headstart.errors import UsageError
from headstart.imagedata import ImageData, short_side_for
from headstart.types import BatchSource

MakeFolder = Callable[..., Path]
SIZE = (32, 32)
BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "#ff8000": (255, 128, 0)}


@pytest.fixture
def glass(make_folder: MakeFolder) -> Path:
    """Two classes of pictures that fade away from left to right."""
    root = make_folder({"cat": 6, "dog": 6}, height=48, width=64)
    for file in root.rglob("*.png"):
        picture = Image.open(io.BytesIO(file.read_bytes()))
        picture.putalpha(Image.fromarray(np.tile(np.linspace(255, 0, 64).astype(np.uint8), (48, 1))))
        picture.save(file)
    return root


def data_of(root: Path, **options: Any) -> ImageData:
    return ImageData.from_folder(root, image_size=SIZE, batch_size=4, threads=0, seed=1, **options)


def inputs_of(source: BatchSource) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    batches = list(source.epoch(0))
    return np.concatenate([np.asarray(b.inputs) for b in batches]), np.concatenate([b.index for b in batches])


def learner_of(data: ImageData) -> hs.Learner:
    return hs.Learner(data, "test_resnet", from_scratch=True, device="cpu", callbacks=())


@pytest.mark.parametrize("spelled", BACKGROUNDS)
def test_training_evaluation_and_predictor_see_the_same_background(
    glass: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelled: str
) -> None:
    data = data_of(glass, background=spelled)
    learner = learner_of(data)
    data = learner.data
    colours = Colours(BACKGROUNDS[spelled])
    assert data.background == colours.background
    files = [data.samples.file(row) for row in range(len(data.samples))]
    by_hand = [decode(file.read_bytes(), short_side=data.cache.short_side, colours=colours) for file in files]
    assert not np.array_equal(by_hand[0], decode(files[0].read_bytes(), colours=Colours((1, 2, 3))))

    inputs, index = inputs_of(data.source("train", augment=True, shuffle=True))
    prepare = TrainPrepare(data.augmentation, SIZE, data.seed, crop_fraction=data.crop_fraction)
    ids = data.samples.ids.tolist()
    wanted = [prepare(by_hand[row], ids[row], 0) for row in index.tolist()]
    assert np.array_equal(inputs, wanted)

    inputs, index = inputs_of(data.source("valid"))
    plain = EvalPrepare(SIZE, "crop", data.crop_fraction, data.interpolation)
    assert np.array_equal(inputs, [plain(by_hand[row]) for row in index.tolist()])

    seen: list[NDArray[np.uint8]] = []

    def watched(forward: Any, source: BatchSource) -> Any:
        seen.append(inputs_of(source)[0])
        return run_through(forward, source)

    monkeypatch.setattr("headstart.deploy.predictor.run_through", watched)
    learner.export(tmp_path / "model")
    with hs.load(tmp_path / "model", device="cpu") as predictor:
        found = predictor.predict([files[row] for row in index.tolist()])
        assert np.array_equal(np.concatenate(seen), inputs)
        np.testing.assert_allclose(found.logits, learner.predictions("valid").logits, atol=1e-5)
        seen.clear()
        predictor.predict(Image.open(files[0]))
        predictor.predict(files[0].read_bytes())
        assert np.array_equal(seen[0], seen[1])
        assert np.array_equal(seen[0][0], plain(by_hand[0]))


def test_another_background_is_other_pixels(glass: Path) -> None:
    white, black = (data_of(glass, background=spelled) for spelled in ("white", "black"))
    assert white.samples.fingerprint() == black.samples.fingerprint()
    one, other = (inputs_of(data.source("valid"))[0].astype(int) for data in (white, black))
    assert (one - other)[:, :, -1].min() > 150
    assert abs(one - other)[:, :, 0].max() < 60


def test_activations_of_one_background_are_not_taken_for_those_of_another(
    glass: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    white, black = (data_of(glass, background=spelled) for spelled in ("white", "black"))
    learner = learner_of(white)
    learner.freeze()
    first = learner.activations("valid")
    learner.set_data(black)
    second = learner.activations("valid")
    learner.set_data(white)
    again = learner.activations("valid")
    assert first is not None
    assert second is not None
    assert again is not None
    assert np.abs(first.features - second.features).max() > 1e-3
    np.testing.assert_array_equal(first.features, again.features)


def test_the_report_says_it_where_it_is_not_white(glass: Path) -> None:
    assert not any("transparency" in line for line in data_of(glass).report_lines())
    lines = data_of(glass, background="#ff8000").report_lines()
    assert "background: transparency is laid on #ff8000" in lines


def test_a_wrong_background_is_said_before_any_picture_is_looked_at(glass: Path) -> None:
    with pytest.raises(UsageError, match="no background"):
        data_of(glass, background="red", on_progress=lambda *_: pytest.fail("a picture was looked at"))


def test_pictures_of_one_channel_are_refused(glass: Path) -> None:
    cache = PixelCache(scan_folder(glass), short_side=40, colours=Colours(channels=1))
    with pytest.raises(UsageError, match="one channel"):
        ImageData.from_audit(cache, audit(cache, threads=0), image_size=SIZE)


# --- the pixels that an augmentation needs ----------------------------------------------------------


def cropping(smallest: float, largest: float) -> hs.augment.Augmentation:
    return hs.augment.Augmentation(framing=hs.augment.Framing(crop_area=(smallest, largest)))


def test_the_cache_keeps_what_random_resized_crops_need_within_reason() -> None:
    assert short_side_for((224, 224), 0.875, hs.augment.side_on()) == 256
    assert short_side_for((224, 320), 1.0, hs.augment.none()) == 320
    assert short_side_for((224, 224), 0.875, cropping(0.08, 1)) == 305
    assert short_side_for((224, 224), 0.875, cropping(0.9, 1)) == 256, "evaluation needs more"
    assert short_side_for((224, 224), 0.875, cropping(0.01, 0.02)) == 448, "more would cost too much"


def test_data_decode_again_where_an_augmentation_needs_more_pixels(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 6, "dog": 6}, height=160, width=200)
    plain, cropped = (data_of(root, augment=augment) for augment in (None, cropping(0.08, 0.5)))
    assert (plain.cache.short_side, cropped.cache.short_side) == (37, 60)
    assert plain.with_options(augmentation=cropping(0.08, 0.5)).cache.short_side == 60
    assert cropped.with_options(augmentation=hs.augment.none()).cache is cropped.cache
    assert cropped.resize(16).cache is cropped.cache
    assert cropped.resize(64).cache.short_side == 119
    assert min(cropped.picture(0).shape[:2]) > min(plain.picture(0).shape[:2])
