"""Losses: a figure for each sample, from class numbers, probabilities or tags."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import UsageError
from headstart.training import binary_cross_entropy, cross_entropy, loss_for
from headstart.types import Task

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


def test_cross_entropy_is_minus_the_log_probability_of_the_class() -> None:
    expected = -torch.log_softmax(LOGITS, 1)[[0, 1], [2, 1]]
    assert torch.allclose(cross_entropy(LOGITS, torch.tensor([2, 1])), expected)


@given(st.floats(0, 0.9))
def test_class_numbers_equal_one_hot_probabilities(smoothing: float) -> None:
    numbers = torch.tensor([2, 1])
    hot = torch.nn.functional.one_hot(numbers, 3).double()
    first = cross_entropy(LOGITS, numbers, label_smoothing=smoothing)
    assert torch.allclose(first, cross_entropy(LOGITS, hot, label_smoothing=smoothing), atol=1e-6)


def test_label_smoothing_is_the_mean_over_all_classes() -> None:
    log_p = torch.log_softmax(LOGITS, 1)
    expected = -(0.9 * log_p[[0, 1], [0, 1]] + 0.1 * log_p.mean(1))
    assert torch.allclose(cross_entropy(LOGITS, torch.tensor([0, 1]), label_smoothing=0.1), expected)


def test_binary_cross_entropy_is_the_mean_over_the_tags() -> None:
    targets = torch.tensor([[1, 0, 0], [0, 1, 1]], dtype=torch.uint8)
    p = LOGITS.sigmoid()
    expected = -(targets * p.log() + (1 - targets.float()) * (1 - p).log()).mean(1)
    assert torch.allclose(binary_cross_entropy(LOGITS, targets), expected, atol=1e-6)


@given(st.floats(0, 0.9))
def test_smoothed_tags_move_towards_a_half(smoothing: float) -> None:
    targets = torch.tensor([[1.0, 0.0, 1.0]])
    moved = targets * (1 - smoothing) + smoothing / 2
    first = binary_cross_entropy(LOGITS[:1], targets, label_smoothing=smoothing)
    assert torch.allclose(first, binary_cross_entropy(LOGITS[:1], moved), atol=1e-6)


def test_losses_are_computed_in_float32() -> None:
    half = LOGITS.bfloat16().requires_grad_()
    for loss, targets in ((cross_entropy, torch.tensor([0, 1])), (binary_cross_entropy, torch.ones(2, 3))):
        assert loss(half, targets).dtype == torch.float32


def test_the_loss_follows_the_task() -> None:
    numbers, tags = torch.tensor([0, 1]), torch.ones(2, 3)
    single, tagged = loss_for(Task.SINGLE_LABEL), loss_for(Task.MULTI_LABEL, label_smoothing=0.1)
    assert torch.equal(single(LOGITS, numbers), cross_entropy(LOGITS, numbers))
    assert torch.equal(tagged(LOGITS, tags), binary_cross_entropy(LOGITS, tags, label_smoothing=0.1))
    with pytest.raises(UsageError):
        loss_for(Task.SINGLE_LABEL, label_smoothing=1.0)


def test_one_class_with_label_smoothing_stays_finite() -> None:
    assert torch.isfinite(cross_entropy(torch.zeros(2, 1), torch.zeros(2).long(), label_smoothing=0.1)).all()
