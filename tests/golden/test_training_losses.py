"""Fifty steps at a fixed seed give the losses that they gave before, as text, to 1e-4."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from headstart.training import Run, fit, group_rates, loss_for, make_optimizer, one_cycle
from headstart.types import Batch, Task

AGREED = Path(__file__).with_name("training_losses.txt")


class Blobs:
    """Two hundred pictures of 8 × 8 with a bright half: which half is the class."""

    sample_count = 200

    def __init__(self) -> None:
        draws = np.random.Generator(np.random.PCG64(0))
        self.targets = draws.integers(0, 2, 200)
        self.pictures = draws.integers(0, 160, (200, 8, 8, 3)).astype(np.uint8)
        for picture, target in zip(self.pictures, self.targets, strict=True):
            picture[:, 4 * target : 4 * target + 4] += 60

    def __len__(self) -> int:
        return 10

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        order = np.random.Generator(np.random.PCG64(epoch)).permutation(200)
        for number in range(start, 10):
            rows = order[20 * number : 20 * number + 20]
            yield Batch(self.pictures[rows], self.targets[rows], rows)


class Net(nn.Module):
    """Convolution, batch norm, dropout, linear; its weights are drawn by NumPy, whatever torch does."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.25), nn.Linear(32, 2))
        draws = np.random.Generator(np.random.PCG64(1))
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim > 1:
                    parameter.copy_(torch.from_numpy(draws.normal(0, 0.1, parameter.shape)))
                elif name.endswith("bias"):
                    parameter.zero_()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(pixels.float() / 255))


def losses(seed: int) -> list[float]:
    net, rates = Net(), group_rates(slice(2e-2), 2)
    optimizer = make_optimizer([list(net.body.parameters()), list(net.head.parameters())], rates)
    run = Run(net, optimizer, seed=seed, precision="float32")
    loss = loss_for(Task.SINGLE_LABEL, label_smoothing=0.1)
    fit(run, Blobs(), rates=rates, schedule=one_cycle(), epochs=5, loss=loss, gradient_clip=1.0)
    return [value for row in run.history for value in row["batch_losses"]]


def test_the_losses_are_those_agreed_on() -> None:
    agreed = [float(line) for line in AGREED.read_text("utf-8").split()]
    assert len(agreed) == 50
    assert losses(seed=7) == pytest.approx(agreed, abs=1e-4)


def test_another_seed_would_be_noticed() -> None:
    agreed = [float(line) for line in AGREED.read_text("utf-8").split()]
    assert losses(seed=8) != pytest.approx(agreed, abs=1e-4)
