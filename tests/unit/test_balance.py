"""Copies of the rare cases: in training alone, and the same whether pictures or activations come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headstart import augment
from headstart.errors import UsageError
from headstart.imagedata import ImageData
from headstart.models import TensorSource
from headstart.types import BatchSource

MakeFolder = Callable[..., Path]


@pytest.fixture
def data(make_folder: MakeFolder) -> ImageData:
    folder = make_folder({"train/a": 12, "train/b": 3, "valid/a": 6, "valid/b": 2})
    return ImageData.from_folder(
        folder,
        image_size=16,
        augment=augment.none(),
        batch_size=4,
        balance="sampler",
        cache="memory",
        threads=0,
    )


def drawn(source: BatchSource, epoch: int = 1) -> list[list[int]]:
    return [batch.index.tolist() for batch in source.epoch(epoch)]


def test_training_draws_each_class_equally_often(data: ImageData) -> None:
    source = data.source("train", shuffle=True)
    labels = data.samples.labels[np.concatenate(drawn(source))]
    assert np.bincount(labels).tolist() == [12, 12]
    assert (len(source), data.steps_per_epoch, source.sample_count) == (6, 6, 24)
    plain = data.with_options(balance="none")
    assert (plain.steps_per_epoch, plain.source("train", shuffle=True).sample_count) == (4, 15)


def test_what_is_judged_is_never_balanced(data: ImageData) -> None:
    for split, count in (("train", 15), ("valid", 8)):
        rows = np.concatenate(drawn(data.source(split)))
        assert rows.tolist() == data.rows(split).tolist()
        assert len(rows) == count


def test_activations_come_in_the_batches_of_the_pictures(data: ImageData) -> None:
    rows = data.rows("train")
    features = np.zeros((len(rows), 2), np.float32)
    known = TensorSource(features, data.samples.labels[rows], rows, batch_size=4, seed=data.seed)
    assert drawn(known.shuffled(4, data.training_order)) == drawn(data.source("train", shuffle=True))
    assert len(known) == 4


def test_an_unknown_balance_is_refused_before_any_picture_is_looked_at(data: ImageData) -> None:
    for file in data.samples.root.rglob("*.png"):
        file.write_bytes(b"no picture")
    with pytest.raises(UsageError, match="no balance 'weights'"):
        ImageData.from_samples(data.samples, balance="weights")  # type: ignore[arg-type]


def test_a_balanced_loss_leaves_the_order_alone(data: ImageData) -> None:
    by_loss, plain = (data.with_options(balance=balance) for balance in ("loss", "none"))
    assert drawn(by_loss.source("train", shuffle=True)) == drawn(plain.source("train", shuffle=True))


def test_a_plan_decides_on_the_balance_and_the_loss_follows_it(data: ImageData) -> None:
    import torch

    from headstart.learner import Learner
    from headstart.training import Settings

    def learner(**settings: str) -> Learner:
        return Learner(data, "test_resnet", from_scratch=True, callbacks=(), settings=Settings(**settings))

    logits, targets = torch.zeros(2, 2), torch.tensor([0, 1])
    assert learner().data.balance == "sampler"
    plain = learner(balance="none").loss(logits, targets)
    assert plain[0] == plain[1]
    weighted = learner(balance="loss")
    common, rare = weighted.loss(logits, targets).tolist()
    assert rare == pytest.approx(4 * common, rel=0.01)  # three pictures against twelve
    weighted.loss = own = torch.nn.CrossEntropyLoss()
    weighted.set_data(weighted.data.resize(48))
    assert weighted.loss is own
    with pytest.raises(UsageError, match="once more"):
        learner(loss="logit_adjusted")
