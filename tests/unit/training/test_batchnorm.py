from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from headstart.errors import UsageError
from headstart.models import TensorSource, create_classifier
from headstart.training import (
    RecalibrateBatchNorm,
    Run,
    constant,
    fit,
    loss_for,
    make_optimizer,
    recalibrate_batch_norm,
)
from headstart.types import Batch, Task


class Pictures:
    """uint8 pictures in batches of the given sizes."""

    def __init__(self, sizes: list[int], side: int = 32, *, fails_at: int | None = None) -> None:
        self.sizes, self.fails_at = sizes, fails_at
        random = np.random.default_rng(0)
        self.batches = [random.integers(0, 256, (size, side, side, 3), np.uint8) for size in sizes]

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def sample_count(self) -> int:
        return sum(self.sizes)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        for number, pixels in enumerate(self.batches[start:], start):
            if number == self.fails_at:
                raise OSError("gone")
            yield Batch(pixels, np.zeros(len(pixels), np.int64), np.arange(len(pixels)))


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_equal_batches_give_what_torch_gives() -> None:
    ours = create_classifier("test_resnet", 3, from_scratch=True, image_size=32)
    theirs = copy.deepcopy(ours)
    source = Pictures([6, 6, 6])
    assert recalibrate_batch_norm(ours, source) == sum(isinstance(m, nn.BatchNorm2d) for m in ours.modules())
    loader = [torch.as_tensor(pixels).permute(0, 3, 1, 2) for pixels in source.batches]
    torch.optim.swa_utils.update_bn(loader, theirs)
    before = statistics(create_classifier("test_resnet", 3, from_scratch=True, image_size=32))
    for name, buffer in statistics(ours).items():
        torch.testing.assert_close(buffer, statistics(theirs)[name])
        assert not torch.equal(buffer, before[name])


def test_a_small_last_batch_weighs_no_more_than_its_samples() -> None:
    norm = nn.BatchNorm1d(2)
    rows = np.random.default_rng(0).normal(size=(13, 2)).astype(np.float32)
    source = TensorSource(rows, np.zeros(13, np.int64), np.arange(13), batch_size=5)
    recalibrate_batch_norm(norm, source)
    np.testing.assert_allclose(norm.running_mean, rows.mean(0), rtol=1e-5)
    variances = [rows[start : start + 5].var(0, ddof=1) for start in (0, 5, 10)]
    np.testing.assert_allclose(norm.running_var, np.average(variances, axis=0, weights=[5, 5, 3]), rtol=1e-5)


def test_dropout_and_all_modes_are_as_if_nothing_had_happened() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3)).train()
    model[0].eval()
    rows = np.ones((8, 3), np.float32) * [1, 2, 3]
    source = TensorSource(rows.astype(np.float32), np.zeros(8, np.int64), np.arange(8), batch_size=4)
    for training in (True, False):
        model.train(training)
        before, momentum = modes(model), model[1].momentum
        recalibrate_batch_norm(model, source)
        np.testing.assert_allclose(model[1].running_mean, [1, 2, 3])
        assert (modes(model), model[1].momentum) == (before, momentum)


def test_what_lies_below_the_line_stays_constant() -> None:
    model = create_classifier("test_resnet", 3, from_scratch=True, image_size=32)
    model.freeze_to(1)
    before = statistics(model)
    pictures = Pictures([4, 4])
    lower, upper = model.lower(), copy.deepcopy(model)
    assert recalibrate_batch_norm(model, pictures) > 0
    changed = {name for name, buffer in statistics(model).items() if not torch.equal(buffer, before[name])}
    assert changed
    assert all(name.startswith(("backbone.layer3", "backbone.layer4")) for name in changed)

    # The part above the line, on activations, comes to the same.
    with torch.no_grad():
        pixels = torch.as_tensor(np.concatenate(pictures.batches)).permute(0, 3, 1, 2)
        activations = lower.eval()(pixels).numpy()
    source = TensorSource(activations, np.zeros(8, np.int64), np.arange(8), batch_size=4)
    recalibrate_batch_norm(upper.upper(), source)
    for name, buffer in statistics(model).items():
        torch.testing.assert_close(statistics(upper)[name], buffer, msg=name)
    model.frozen_batch_norm = "train"
    assert recalibrate_batch_norm(model, pictures) > len(changed) / 2, "where it trains, it is no constant"


def test_a_single_sample_is_left_out_and_nothing_else_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3 * 8 * 8))
    recalibrate_batch_norm(model, Floats(Pictures([4, 1], side=8)))
    assert torch.isfinite(model[1].running_var).all()
    before = statistics(model)
    with pytest.raises(UsageError, match="no batch has two pictures"):
        recalibrate_batch_norm(model, Floats(Pictures([1, 1], side=8)))
    assert all(torch.equal(buffer, before[name]) for name, buffer in statistics(model).items())


class Floats:
    """Another source's pictures as floats, which a plain module takes."""

    def __init__(self, source: Pictures) -> None:
        self.source, self.sample_count = source, source.sample_count

    def __len__(self) -> int:
        return len(self.source)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        for batch in self.source.epoch(epoch, start=start):
            yield Batch(np.asarray(batch.inputs, np.float32), batch.targets, batch.index)


def test_a_source_that_fails_leaves_the_statistics_and_modes_as_they_were() -> None:
    model = create_classifier("test_resnet", 3, from_scratch=True, image_size=32).train()
    recalibrate_batch_norm(model, Pictures([4]))
    before, mode = statistics(model), modes(model)
    with pytest.raises(OSError, match="gone"):
        recalibrate_batch_norm(model, Pictures([4, 4], fails_at=1))
    assert all(torch.equal(buffer, before[name]) for name, buffer in statistics(model).items())
    assert modes(model) == mode


def test_a_body_without_batch_norm_asks_for_no_batch() -> None:
    model = create_classifier("test_vit", 3, from_scratch=True, image_size=32)
    assert recalibrate_batch_norm(model, Pictures([4], fails_at=0)) == 0


def test_progress_counts_samples() -> None:
    said: list[tuple[int, int]] = []
    model = create_classifier("test_resnet", 3, from_scratch=True, image_size=32)
    recalibrate_batch_norm(model, Pictures([4, 1, 3]), on_progress=lambda *done: said.append(done))
    assert said == [(4, 8), (5, 8), (8, 8)]


def test_the_callback_gives_validation_the_statistics_of_the_weights_of_the_moment() -> None:
    rows = np.random.default_rng(0).normal(3, 2, size=(12, 4)).astype(np.float32)
    source = TensorSource(rows, np.arange(12) % 2, np.arange(12), batch_size=6)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    run = Run(model, make_optimizer([list(model.parameters())], [0.1]), precision="float32")
    means: list[tuple[torch.Tensor, torch.Tensor]] = []

    def validate() -> dict[str, float]:
        with torch.no_grad():
            means.append((model[1].running_mean.clone(), model[0](torch.from_numpy(rows)).mean(0)))
        return {"valid_loss": 1.0}

    options = {"rates": [0.1], "schedule": constant(), "epochs": 2, "loss": loss_for(Task.SINGLE_LABEL)}
    fit(run, source, **options, validate=validate, callbacks=[RecalibrateBatchNorm(model, source)])
    for running, exact in means:
        torch.testing.assert_close(running, exact)
    assert not torch.equal(means[0][0], means[1][0])
    means.clear()
    fit(run, source, **options, validate=validate)
    assert not torch.allclose(*means[0], atol=1e-3), "running statistics lag behind"
