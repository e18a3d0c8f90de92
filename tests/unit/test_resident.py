"""Batches made on the device: the loader's, within the executors' tolerance."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from headstart.augment import Own, TrainPrepare, side_on, top_down, trivial
from headstart.data import Loader, Lost, PixelCache, scan_folder
from headstart.errors import StoppedError, UsageError
from headstart.imagedata import ImageData
from headstart.ordering import Ordering
from headstart.resident import ResidentSource, fits, upload
from headstart.types import World


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> PixelCache:
    from PIL import Image

    root, draws = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in "ab":
        (root / name).mkdir()
        for number in range(9):
            pixels = draws.integers(0, 256, (40 + 3 * number, 60 - 2 * number, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return PixelCache(scan_folder(root), short_side=40)


ROWS = np.arange(1, 14)  # eight of one class, five of the other
ORDERING = Ordering(shuffle=True, balance="sampler")


def sources(cache: PixelCache, prepare: TrainPrepare, world: World, threads: int = 0) -> tuple:
    options = {"batch_size": 4, "ordering": ORDERING, "seed": 3, "world": world}
    samples = cache.samples
    pixels, _ = upload(cache, ROWS, "cpu", threads=threads)
    resident = ResidentSource(pixels, samples.labels[ROWS], ROWS, samples.ids[ROWS], prepare, **options)
    return Loader(cache, ROWS, prepare, threads=threads, **options), resident


@pytest.mark.parametrize("augmentation", [side_on(), top_down(), trivial()], ids=["side", "top", "trivial"])
@pytest.mark.parametrize("world", [World(), World(1, 2)], ids=["one", "two"])
def test_its_batches_are_the_loader_s(cache: PixelCache, augmentation, world: World) -> None:
    loader, resident = sources(cache, TrainPrepare(augmentation, (32, 32), 5), world)
    assert (len(loader), loader.sample_count) == (len(resident), resident.sample_count)
    for epoch in (0, 3):
        pairs = list(zip(loader.epoch(epoch), resident.epoch(epoch), strict=True))
        difference = []
        for expected, got in pairs:
            np.testing.assert_array_equal(got.index, expected.index)
            np.testing.assert_array_equal(got.targets, expected.targets)
            difference.append(np.abs(got.inputs.numpy().astype(int) - expected.inputs).ravel())
        assert np.concatenate(difference).mean() < 0.05
        assert (np.concatenate(difference) > 1).mean() < 0.001
        later = list(resident.epoch(epoch, start=1))
        assert len(later) == len(pairs) - 1
        np.testing.assert_array_equal(later[0].inputs, pairs[1][1].inputs)
    other = next(resident.epoch(1)).inputs.numpy().astype(int)
    assert np.abs(other - next(loader.epoch(0)).inputs).mean() > 5


@pytest.mark.parametrize("threads", [1, 8])
def test_the_number_of_threads_changes_nothing(cache: PixelCache, threads: int) -> None:
    prepare = TrainPrepare(side_on(), (32, 32))
    plain, many = sources(cache, prepare, World()), sources(cache, prepare, World(), threads)
    for a, b in zip(plain, many, strict=True):
        for first, second in zip(a.epoch(0), b.epoch(0), strict=True):
            np.testing.assert_array_equal(first.inputs, second.inputs)


def test_image_data_trains_from_a_device_and_sends_its_pictures_once(make_folder) -> None:
    folder: Path = make_folder({"a": 10, "b": 10}, height=40, width=48)
    data = ImageData.from_folder(folder, image_size=32, batch_size=8, valid=0.25, threads=0)
    source = data.source("train", augment=True, shuffle=True, resident="cpu")
    assert isinstance(source, ResidentSource)
    again = data.with_options(batch_size=4).source("train", augment=True, resident="cpu")
    assert isinstance(again, ResidentSource)
    assert again.pixels is source.pixels
    plain = data.source("train", augment=True, shuffle=True)
    for got, expected in zip(source.epoch(2), plain.epoch(2), strict=True):
        assert got.targets.dtype == expected.targets.dtype
        assert np.abs(got.inputs.numpy().astype(int) - expected.inputs).mean() < 0.05
    assert isinstance(data.source("train", resident="cpu"), Loader)
    own = dataclasses.replace(data.augmentation, before=Own(np.copy, "copy"))
    assert isinstance(
        data.with_options(augmentation=own).source("train", augment=True, resident="cpu"), Loader
    )


def test_only_a_cuda_device_is_asked_for_its_memory_and_a_change_of_one_s_own_is_refused(
    cache: PixelCache,
) -> None:
    assert not fits(cache, ROWS, torch.device("cpu"))
    own = dataclasses.replace(side_on(), before=Own(np.copy, "copy"))
    _, resident = sources(cache, TrainPrepare(own, (32, 32)), World())
    with pytest.raises(UsageError, match="copy"):
        next(resident.epoch(0))


def test_what_does_not_match_is_refused(cache: PixelCache) -> None:
    pixels, _ = upload(cache, ROWS, "cpu", threads=0)
    prepare, ids = TrainPrepare(side_on(), (32, 32)), cache.samples.ids[ROWS]
    with pytest.raises(UsageError, match="match"):
        ResidentSource(pixels, np.zeros(3), ROWS, ids, prepare, batch_size=4)
    with pytest.raises(UsageError, match="batch of 0"):
        ResidentSource(pixels, ROWS, ROWS, ids, prepare, batch_size=0)
    with pytest.raises(UsageError, match="no picture"):
        upload(cache, [], "cpu", threads=0)


@pytest.mark.parametrize("threads", [0, 2])
def test_lost_pictures_are_not_sent_and_the_rest_keep_their_rows(cache: PixelCache, threads: int) -> None:
    prepare = TrainPrepare(side_on(), (32, 32), 5)
    whole, rows = upload(cache, ROWS, "cpu", threads=threads)
    assert rows.tolist() == ROWS.tolist()
    there = cache.resized(40)
    there.lost = Lost(np.full(len(cache), "train"), 5)
    for row in (3, 8):
        there.lost.note(row, StoppedError("gone", code="VANISHED"))
    pixels, kept = upload(there, ROWS, "cpu", threads=threads)
    assert kept.tolist() == [row for row in ROWS.tolist() if row not in (3, 8)]
    assert len(pixels) == len(whole) - 2
    samples = cache.samples
    source = ResidentSource(pixels, samples.labels[kept], kept, samples.ids[kept], prepare, batch_size=4)
    loader = Loader(cache, kept, prepare, batch_size=4, threads=0)
    for mine, theirs in zip(source.epoch(2), loader.epoch(2), strict=True):
        assert mine.index.tolist() == theirs.index.tolist()
        assert np.abs(mine.inputs.numpy().astype(int) - theirs.inputs).mean() < 0.05
