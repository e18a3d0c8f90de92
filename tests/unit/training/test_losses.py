"""Losses: a figure for each sample, from class numbers, probabilities or tags."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import ConfigError, UsageError
from headstart.training import (
    LabelCounts,
    binary_cross_entropy,
    binary_focal,
    class_weights,
    cross_entropy,
    focal,
    logit_shifts,
    loss_for,
    tag_weights,
)
from headstart.training.plan import LOSSES
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


# ---- every loss against its formula, and its slopes against differences ---------------------

RANDOM = np.random.default_rng(3)
VALUES = RANDOM.normal(scale=2, size=(7, 4))
NUMBERS = RANDOM.integers(0, 4, 7)
SHARES = RANDOM.dirichlet(np.ones(4), 7)
TAGS = RANDOM.integers(0, 2, (7, 4))
COUNTS = LabelCounts(np.array([50, 5, 200, 1]), 256)


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def by_hand(name: str, task: Task, values: np.ndarray, target: np.ndarray, smoothing: float) -> np.ndarray:
    """A loss as the papers write it, in float64: `target` are probabilities, or tags."""
    gamma = 2 if name == "focal" else 0
    if task is Task.MULTI_LABEL:
        target = target * (1 - smoothing) + smoothing / 2
        rare, common = COUNTS.there, COUNTS.rows - COUNTS.there
        if name == "logit_adjusted":
            values = values + np.log(rare / common)
        p = sigmoid(values)
        weights = tag_weights(COUNTS) if name == "class_balanced" else np.ones((2, 4))
        there = weights[1] * target * (1 - p) ** gamma * -np.log(p)
        absent = weights[0] * (1 - target) * p**gamma * -np.log(1 - p)
        return (there + absent).mean(axis=1)
    target = target * (1 - smoothing) + smoothing / 4
    if name == "logit_adjusted":
        values = values + np.log(COUNTS.there / COUNTS.there.sum())
    p = softmax(values)
    weights = class_weights(COUNTS) if name == "class_balanced" else np.ones(4)
    return (weights * target * (1 - p) ** gamma * -np.log(p)).sum(axis=1)


NAMES = [(name, Task.SINGLE_LABEL) for name in LOSSES if name != "binary_cross_entropy"]
NAMES += [(name, Task.MULTI_LABEL) for name in LOSSES if name != "cross_entropy"]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("name", "task"), NAMES)
def test_every_loss_is_its_formula(name: str, task: Task, smoothing: float) -> None:
    loss = loss_for(task, name, label_smoothing=smoothing, counts=COUNTS)
    targets = [TAGS] if task is Task.MULTI_LABEL else [NUMBERS, SHARES]
    for target in targets:
        spread = np.eye(4)[target] if target.ndim == 1 else target
        got = loss(torch.from_numpy(VALUES), torch.from_numpy(target))
        assert got.shape == (7,)
        np.testing.assert_allclose(
            got.numpy(), by_hand(name, task, VALUES, spread, smoothing), rtol=2e-5, atol=1e-6
        )


@pytest.mark.parametrize(("name", "task"), NAMES)
def test_every_loss_slopes_as_differences_say(name: str, task: Task) -> None:
    target, spread = (TAGS, TAGS) if task is Task.MULTI_LABEL else (NUMBERS, np.eye(4)[NUMBERS])
    values = torch.from_numpy(VALUES).float().requires_grad_()
    loss_for(task, name, counts=COUNTS)(values, torch.from_numpy(target)).sum().backward()
    for place in np.ndindex(VALUES.shape):
        step = np.zeros_like(VALUES)
        step[place] = 1e-5
        above, below = (by_hand(name, task, VALUES + sign * step, spread, 0.0).sum() for sign in (1, -1))
        assert values.grad[place].item() == pytest.approx((above - below) / 2e-5, abs=2e-5)


@pytest.mark.parametrize(("name", "task"), NAMES)
def test_no_loss_or_slope_is_infinite_where_the_network_is_utterly_sure(name: str, task: Task) -> None:
    values = torch.tensor([[80.0, -80.0, 0.0, 0.0], [-80.0, 80.0, 0.0, 0.0]], requires_grad=True)
    target = torch.tensor([[1, 0, 0, 1]] * 2) if task is Task.MULTI_LABEL else torch.tensor([0, 0])
    loss = loss_for(task, name, counts=COUNTS)(values, target)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(values.grad).all()
    assert (loss >= 0).all()


@pytest.mark.parametrize(("plain", "easy"), [(cross_entropy, focal), (binary_cross_entropy, binary_focal)])
def test_focal_without_a_focus_is_the_plain_loss_and_with_one_it_is_never_more(
    plain: Callable[..., torch.Tensor], easy: Callable[..., torch.Tensor]
) -> None:
    values = torch.from_numpy(VALUES)
    target = torch.from_numpy(NUMBERS if plain is cross_entropy else TAGS)
    torch.testing.assert_close(easy(values, target, gamma=0.0), plain(values, target))
    assert (easy(values, target, gamma=0.5) < plain(values, target)).all()
    assert (easy(values, target, gamma=2.0) < easy(values, target, gamma=0.5)).all()


counts_lists = st.lists(st.integers(1, 10**6), min_size=2, max_size=30)


@given(counts=counts_lists, beta=st.floats(0, 0.9999))
def test_rarer_classes_count_more_and_the_mean_over_the_rows_is_one(counts: list[int], beta: float) -> None:
    there = np.array(counts)
    weights = class_weights(LabelCounts(there, int(there.sum())), beta=beta)
    assert (weights * there).sum() / there.sum() == pytest.approx(1)
    assert (np.diff(weights[np.argsort(there)]) <= 1e-9 * weights.max()).all()


def test_without_beta_all_count_alike_and_near_one_it_is_one_over_the_count() -> None:
    counts = LabelCounts(np.array([10, 40]), 50)
    np.testing.assert_allclose(class_weights(counts, beta=0.0), [1, 1])
    first, second = class_weights(counts, beta=1 - 1e-9)
    assert first / second == pytest.approx(4, rel=1e-5)
    with pytest.raises(UsageError):
        class_weights(counts, beta=1.0)


def test_tags_are_balanced_between_being_there_and_not() -> None:
    counts = LabelCounts(np.array([30, 10, 60]), 60)
    weights = tag_weights(counts)
    assert weights.shape == (2, 3)
    np.testing.assert_allclose(weights[:, 0], [1, 1])
    assert weights[1, 1] / weights[0, 1] == pytest.approx(5, rel=0.05)
    assert np.isfinite(weights).all()


@given(st.lists(st.integers(-1, 4), max_size=50))
def test_labels_are_counted_and_the_unknown_are_not(labels: list[int]) -> None:
    counts = LabelCounts.of(np.array(labels, np.int64), 5)
    assert counts.there.tolist() == [labels.count(number) for number in range(5)]
    assert counts.rows == sum(number >= 0 for number in labels)


def test_a_network_that_knows_the_shares_alone_is_right_about_them_under_logit_adjustment() -> None:
    """With the shares added to equal logits the probabilities are the shares: the slope is zero there."""
    for task in Task.SINGLE_LABEL, Task.MULTI_LABEL:
        values = torch.zeros(1, 4, requires_grad=True)
        counts = LabelCounts(np.array([50, 5, 200, 1]), 256)
        shares = counts.there / counts.rows
        loss = loss_for(task, "logit_adjusted", counts=counts)
        loss(values, torch.from_numpy(shares)[None].float()).sum().backward()
        assert values.grad.abs().max() < 1e-6
        assert np.isfinite(logit_shifts(LabelCounts(np.array([0, 7]), 7), task)).all()


def test_what_cannot_be_asked_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="focl"):
        loss_for(Task.SINGLE_LABEL, "focl")
    with pytest.raises(UsageError, match="no meaning for tags"):
        loss_for(Task.MULTI_LABEL, "cross_entropy")
    with pytest.raises(UsageError, match="how often"):
        loss_for(Task.SINGLE_LABEL, "class_balanced")
    with pytest.raises(UsageError, match="not both"):
        loss_for(Task.SINGLE_LABEL, "logit_adjusted", counts=COUNTS, balanced=True)
