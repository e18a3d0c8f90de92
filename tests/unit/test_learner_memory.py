"""The learner where memory is short: training, finder, validation and prediction of real batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from headstart.imagedata import ImageData
from headstart.learner import Learner
from headstart.models import Classifier
from headstart.training import Callback, Settings

SIZE = 32


@pytest.fixture
def make_learner(make_folder):
    folder = make_folder({"cats": 12, "dogs": 12}, height=40, width=48)

    def make(**settings) -> Learner:
        data = ImageData.from_folder(folder, image_size=SIZE, batch_size=8, valid=0.25, threads=0)
        chosen = Settings(precision="float32", **settings)
        return Learner(data, "test_resnet", from_scratch=True, callbacks=(), settings=chosen)

    return make


@pytest.fixture
def at_most_three(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device on which more than three pictures at once do not fit; the sizes that were tried."""
    tried: list[int] = []
    run_stages = Classifier.run_stages

    def tight(self: Classifier, values: torch.Tensor, first: int, last: int) -> torch.Tensor:
        tried.append(len(values))
        if len(values) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return run_stages(self, values, first, last)

    monkeypatch.setattr(Classifier, "run_stages", tight)
    return tried


def test_a_short_memory_is_found_out_once_and_changes_no_step(make_learner, at_most_three) -> None:
    learner = make_learner()
    found = learner.lr_find(iterations=12, end=1e-3)
    assert np.isfinite(found.losses).all()
    assert at_most_three[:3] == [8, 4, 2]
    at_most_three.clear()
    learner.fit(2, 1e-3)
    assert learner.run.step == 2 * learner.data.steps_per_epoch
    # Training knows the size from the finder; validation finds its own, once.
    assert sum(size > 3 for size in at_most_three) <= 2
    assert sorted(learner.run.adjustments.fits.values()) == [2, 3]
    at_most_three.clear()
    assert len(learner.predictions("valid")) == 6
    assert max(at_most_three) <= 3


def test_a_micro_batch_that_is_asked_for_is_taken_from_the_start(make_learner, at_most_three) -> None:
    learner = make_learner(micro_batch=3)
    learner.fit(1, 1e-3)
    assert at_most_three[:3] == [3, 3, 2]
    (first, *_) = learner.run.adjustments.notices
    assert first == "batch norm takes the statistics of 3 samples at a time, as the micro-batch asks"


class Once(Callback):
    """Makes the loss of one step infinite."""

    def __init__(self) -> None:
        self.left = 1

    def after_loss(self, run, loss):
        if run.step == 4 and self.left:
            self.left = 0
            return loss * math.inf
        return loss


def test_training_that_leaves_its_course_goes_back_by_itself(make_learner) -> None:
    learner = make_learner()
    learner.callbacks = (Once(),)
    learner.fit(2, 1e-3)
    assert learner.run.adjustments.rollbacks == 1
    assert len(learner.run.history) == 2
    assert learner.run.history[-1, "rates"][-1] == pytest.approx(1e-3 / 3)
