"""Mixing: neighbours, shares, soft targets, and what cannot be mixed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, kstest

from headstart.augment import MixedSource, Mixing
from headstart.augment.mixing import _beta
from headstart.errors import UsageError
from headstart.training import loss_for
from headstart.types import Batch, Task


def batch_of(count: int, *, classes: int = 5, size: tuple[int, int] = (16, 24), first: int = 0) -> Batch:
    """Pictures of one colour each: 10 times their place."""
    inputs = np.repeat(np.arange(count, dtype=np.uint8) * 10, size[0] * size[1] * 3).reshape(-1, *size, 3)
    return Batch(inputs, np.arange(count) % classes, np.arange(first, first + count))


def test_mixup_mixes_neighbours_pictures_and_labels_alike() -> None:
    batch = batch_of(4)
    mixed = Mixing("mixup", 5)(batch, 0)
    assert mixed.inputs.dtype == np.uint8
    assert mixed.targets.dtype == np.float32
    for row in range(4):
        own, other = mixed.targets[row, row], mixed.targets[row, row ^ 1]
        assert own >= 0.5
        assert own + other == pytest.approx(1)
        np.testing.assert_allclose(mixed.inputs[row], 10 * (own * row + other * (row ^ 1)), atol=0.51)
    np.testing.assert_array_equal(batch.inputs, batch_of(4).inputs)  # the source's array is left alone


def test_cutmix_exchanges_a_box_and_counts_its_pixels() -> None:
    batch = batch_of(6)
    mixing = Mixing("cutmix", 5)
    shares = []
    for epoch in range(30):
        mixed = mixing(batch, epoch)
        for row in range(6):
            own = (mixed.inputs[row] == 10 * row).mean()
            assert ((mixed.inputs[row] == 10 * row) | (mixed.inputs[row] == 10 * (row ^ 1))).all()
            assert mixed.targets[row].sum() == pytest.approx(1)
            assert mixed.targets[row, row % 5] >= own - 1e-6
            if row < 4:
                assert mixed.targets[row, row] == pytest.approx(own)
                shares.append(own)
    assert min(shares) < 0.2
    assert max(shares) > 0.9


@given(st.integers(1, 9), st.sampled_from(["mixup", "cutmix"]), st.integers(0, 5))
def test_targets_stay_a_distribution_and_a_last_sample_alone_stays_as_it_is(
    count: int, kind: str, epoch: int
) -> None:
    batch = batch_of(count)
    mixed = Mixing(kind, 5)(batch, epoch)  # type: ignore[arg-type]
    assert np.allclose(mixed.targets.sum(axis=1), 1)
    assert (mixed.targets >= 0).all()
    assert mixed.inputs.shape == batch.inputs.shape
    if count % 2:
        np.testing.assert_array_equal(mixed.inputs[-1], batch.inputs[-1])
        assert mixed.targets[-1].max() == 1


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_pair_is_mixed_alike_in_whatever_batch_it_comes(kind: str) -> None:
    mixing = Mixing(kind, 8, seed=4)  # type: ignore[arg-type]
    whole = batch_of(8, classes=8)
    together = mixing(whole, 3)
    for begin, end in ((0, 2), (2, 6), (6, 8)):
        part = Batch(whole.inputs[begin:end], whole.targets[begin:end], whole.index[begin:end])
        alone = mixing(part, 3)
        np.testing.assert_array_equal(alone.inputs, together.inputs[begin:end])
        np.testing.assert_array_equal(alone.targets, together.targets[begin:end])
    assert not np.array_equal(mixing(whole, 4).targets, together.targets)
    assert not np.array_equal(Mixing(kind, 8, seed=5)(whole, 3).targets, together.targets)  # type: ignore[arg-type]


@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_shares_are_drawn_from_the_beta_distribution(alpha: float) -> None:
    numbers = np.random.default_rng(0).uniform(size=4000)
    assert kstest(_beta(alpha, numbers), beta(alpha, alpha).cdf).pvalue > 0.01
    assert kstest(_beta(alpha, numbers), beta(0.7, 0.7).cdf).pvalue < 0.01


@pytest.mark.parametrize("task", [Task.SINGLE_LABEL, Task.MULTI_LABEL])
def test_the_loss_of_mixed_targets_is_the_mixture_of_the_losses(task: Task) -> None:
    draws = np.random.default_rng(1)
    single = task is Task.SINGLE_LABEL
    targets = draws.integers(0, 5, 6) if single else draws.integers(0, 2, (6, 5)).astype(np.float32)
    batch = Batch(batch_of(6).inputs, targets, np.arange(6))
    mixed = Mixing("mixup", 5)(batch, 0)
    logits, loss = torch.from_numpy(draws.normal(size=(6, 5))), loss_for(task)
    own = np.array(
        [(mixed.inputs[row].mean() - 10 * (row ^ 1)) / (10 * (row - (row ^ 1))) for row in range(6)]
    )
    each = loss(logits, torch.from_numpy(targets)).numpy()
    partner = loss(logits, torch.from_numpy(targets[np.arange(6) ^ 1])).numpy()
    got = loss(logits, torch.from_numpy(np.asarray(mixed.targets))).numpy()
    # Shares are read off pixels, and so known to 1/20 of a grey level in ten.
    np.testing.assert_allclose(
        got, own * each + (1 - own) * partner, atol=0.06 * np.abs(each - partner).max()
    )


def test_a_tag_that_both_have_stays_whole_and_weights_are_mixed() -> None:
    tags = np.array([[1, 1, 0], [1, 0, 1]], np.float32)
    weight = np.array([1, 3], np.float32)
    mixed = Mixing("cutmix", 3)(Batch(batch_of(2).inputs, tags, np.arange(2), weight), 1)
    np.testing.assert_allclose(mixed.targets[:, 0], 1)
    np.testing.assert_allclose(mixed.targets[:, 1:].sum(axis=1), 1)
    assert np.asarray(mixed.weight).sum() == pytest.approx(4)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_tensors_are_mixed_as_arrays_are(kind: str) -> None:
    inputs = np.random.default_rng(2).integers(0, 256, (5, 16, 24, 3), dtype=np.uint8)
    targets, index, mixing = np.arange(5), np.arange(5), Mixing(kind, 5)  # type: ignore[arg-type]
    array = mixing(Batch(inputs, targets, index), 0)
    tensor = mixing(Batch(torch.from_numpy(inputs), targets, index), 0)
    assert isinstance(tensor.inputs, torch.Tensor)
    assert tensor.inputs.dtype == torch.uint8
    assert np.abs(tensor.inputs.numpy().astype(int) - array.inputs).max() <= 1
    np.testing.assert_array_equal(tensor.targets, array.targets)


def test_activations_are_mixed_up_but_not_cut() -> None:
    batch = Batch(np.ones((4, 7), np.float32), np.arange(4), np.arange(4))
    np.testing.assert_allclose(Mixing("mixup", 4)(batch, 0).inputs, 1)
    with pytest.raises(UsageError, match="activations"):
        Mixing("cutmix", 4)(batch, 0)


def test_unknown_kinds_and_alphas_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="blend"):
        Mixing("blend", 3)  # type: ignore[arg-type]
    for alpha in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="alpha"):
            Mixing("mixup", 3, alpha)


def test_a_mixed_source_begins_at_any_batch() -> None:
    class Plain:
        sample_count = 8

        def __len__(self) -> int:
            return 2

        def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
            yield from [batch_of(4), batch_of(4, first=4)][start:]

    source = MixedSource(Plain(), Mixing("mixup", 5))
    assert (len(source), source.sample_count) == (2, 8)
    whole, rest = list(source.epoch(1)), list(source.epoch(1, start=1))
    np.testing.assert_array_equal(whole[1].inputs, rest[0].inputs)
    assert not np.array_equal(whole[0].targets, whole[1].targets)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_an_empty_batch_stays_empty(kind: str) -> None:
    class Emptied:
        sample_count = 4

        def __len__(self) -> int:
            return 2

        def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
            yield from [batch_of(0), batch_of(4)][start:]

    sizes = [len(batch) for batch in MixedSource(Emptied(), Mixing(kind, 5)).epoch(0)]  # type: ignore[arg-type]
    assert sizes == [0, 4]
