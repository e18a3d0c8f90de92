"""Fifty steps of a small body at a fixed seed give the losses agreed on, for each way to train, to 1e-4.

Each line of `learner_losses.txt` is an epoch: the way, the validation loss, the losses of its batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from headstart.imagedata import ImageData
from headstart.learner import Learner
from headstart.training import Phase, Settings, linear, one_cycle

AGREED = Path(__file__).with_name("learner_losses.txt")
ARCH, SIZE, EPOCHS = "test_resnet", 32, 5

WHOLE = Phase("whole", EPOCHS, one_cycle(), learning_rate=(2e-4, 6e-4, 2e-3), frozen_to=0)
HEAD = Phase("head", EPOCHS, one_cycle(), learning_rate=1e-2, frozen_to=-1)
WAYS: dict[str, tuple[Phase, Settings]] = {
    "frozen-head": (HEAD, Settings(precision="float32")),
    "precomputed-head": (
        Phase("head", EPOCHS, linear(), learning_rate=1e-2, frozen_to=-1, augment=False, precompute=True),
        Settings(precision="float32"),
    ),
    "upper-half": (
        Phase("upper", EPOCHS, one_cycle(), learning_rate=1e-3, frozen_to=1),
        Settings(precision="float32"),
    ),
    "whole-network": (WHOLE, Settings(precision="float32")),
    "mixup": (WHOLE, Settings(precision="float32", mixing="mixup")),
    "ema": (WHOLE, Settings(precision="float32", ema=0.9)),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small a body gains nothing by threads that wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeded weights that stand in for a pretrained body's."""
    from headstart.models import create_backbone
    from headstart.storage import save_tensors

    path = tmp_path_factory.mktemp("weights") / f"{ARCH}.safetensors"
    save_tensors(path, create_backbone(ARCH, from_scratch=True, image_size=SIZE).module.state_dict())
    return path


@pytest.fixture
def data(make_folder) -> ImageData:
    folder = make_folder({"cats": 17, "dogs": 17, "emus": 16}, height=40, width=48)
    return ImageData.from_folder(folder, image_size=SIZE, batch_size=4, valid=0.2, threads=0)


def losses(data: ImageData, weights: Path, way: str, seed: int = 7) -> list[list[float]]:
    """The validation loss and those of the batches, for each epoch."""
    phase, settings = WAYS[way]
    learner = Learner(
        data.with_options(seed=seed),
        ARCH,
        weights=weights,
        callbacks=(),
        settings=replace(settings, seed=seed),
        device="cpu",
    )
    learner.run_phase(phase)
    return [[row["valid_loss"], *row["batch_losses"]] for row in learner.run.history]


def agreed(way: str) -> list[list[float]]:
    lines = [line.split() for line in AGREED.read_text("utf-8").splitlines()]
    return [[float(value) for value in line[1:]] for line in lines if line[0] == way]


@pytest.mark.parametrize("way", WAYS)
def test_the_losses_are_those_agreed_on(data, weights, way: str) -> None:
    found, expected = losses(data, weights, way), agreed(way)
    assert len(expected) == EPOCHS
    assert sum(len(row) - 1 for row in expected) == 50
    for before, now in zip(expected, found, strict=True):
        assert now == pytest.approx(before, abs=1e-4)


def test_another_seed_would_be_noticed(data, weights) -> None:
    assert losses(data, weights, "frozen-head", seed=8)[0] != pytest.approx(
        agreed("frozen-head")[0], abs=1e-4
    )
