"""The probe for tags: one regression each, its own penalty, and tags that say nothing."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headstart.errors import UsageError
from headstart.models import fit_probe
from headstart.models.probe import _chances, _RowSpace

Arrays = tuple[NDArray[np.float32], NDArray[np.uint8]]


def tagged(rows: int, width: int, noises: list[float], *, share: float = 0.5, seed: int = 0) -> Arrays:
    """Rows with a tag per entry of `noises`: where a direction of its own, and noise, say so."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(rows, width))
    columns = []
    for noise in noises:
        score = features @ random.normal(size=width) / np.sqrt(width) + noise * random.normal(size=rows)
        columns.append(score > np.quantile(score, 1 - share))
    spread = random.uniform(0.1, 10, width)
    return (features * spread + 5).astype(np.float32), np.array(columns).T.astype(np.uint8)


def sigmoid(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


@pytest.mark.parametrize(("rows", "width"), [(80, 200), (200, 20)])
def test_each_tag_is_the_regularised_optimum_at_its_own_penalty(rows: int, width: int) -> None:
    from sklearn.linear_model import LogisticRegression

    features, tags = tagged(rows, width, [0.1, 1.0, 30.0])
    probe = fit_probe(features, tags, 3)
    assert probe.penalties is not None
    assert len(set(probe.penalties)) > 1, "the three tags are not equally clear"
    standard = (features - features.mean(0)) / features.std(0)
    ours = sigmoid(probe.logits(features))
    for tag, penalty in enumerate(probe.penalties):
        peer = LogisticRegression(C=1 / penalty, max_iter=5000, tol=1e-8).fit(standard, tags[:, tag])
        np.testing.assert_allclose(ours[:, tag], peer.predict_proba(standard)[:, 1], atol=2e-3)
        other = LogisticRegression(C=4 / penalty, max_iter=5000, tol=1e-8).fit(standard, tags[:, tag])
        assert np.abs(ours[:, tag] - other.predict_proba(standard)[:, 1]).max() > 2e-3


def test_a_tag_is_fitted_as_if_it_were_alone() -> None:
    features, tags = tagged(120, 60, [0.2, 2.0])
    both = fit_probe(features, tags, 2)
    for tag in range(2):
        alone = fit_probe(features, tags[:, [tag]], 1)
        np.testing.assert_allclose(
            sigmoid(both.logits(features)[:, tag]), sigmoid(alone.logits(features)[:, 0]), atol=2e-3
        )


def test_the_penalty_of_each_tag_follows_its_noise() -> None:
    features, tags = tagged(300, 40, [0.1, 50.0])
    probe = fit_probe(features, tags, 2)
    assert probe.penalties is not None
    assert probe.penalties[1] > 30 * probe.penalties[0]


def test_a_tag_that_is_always_or_never_there_gets_no_weight_and_a_likely_chance() -> None:
    features, tags = tagged(50, 10, [0.2])
    tags = np.column_stack([np.ones(50), tags[:, 0], np.zeros(50)]).astype(np.uint8)
    probe = fit_probe(features, tags, 3)
    assert not probe.weight[[0, 2]].any()
    chances = sigmoid(probe.logits(features))
    np.testing.assert_allclose(chances[:, 0], 51 / 52, rtol=1e-5)
    np.testing.assert_allclose(chances[:, 2], 1 / 52, rtol=1e-4)
    assert ((chances[:, 1] > 0.5) == tags[:, 1]).mean() > 0.9


def test_only_tags_without_a_choice_leave_nothing_to_hold_out() -> None:
    features, _ = tagged(20, 5, [1.0])
    probe = fit_probe(features, np.repeat([[1, 0]], 20, axis=0), 2)
    assert np.isnan(probe.cross_validated_log_loss)
    assert (probe.logits(features).argmax(1) == 0).all()


def test_a_tag_of_a_single_row_takes_the_penalty_of_the_others() -> None:
    features, tags = tagged(60, 30, [0.5])
    single = np.zeros((60, 1), np.uint8)
    single[7] = 1
    probe = fit_probe(features, np.column_stack([tags, single]), 2)
    assert probe.penalties is not None
    assert probe.penalties[1] == pytest.approx(probe.penalties[0])
    assert probe.logits(features)[:, 1].argmax() == 7


def test_no_tag_at_all_is_a_valid_row() -> None:
    features, tags = tagged(100, 20, [0.3, 0.3], share=0.2)
    nothing = ~tags.any(1)
    assert nothing.sum() > 20
    chances = sigmoid(fit_probe(features, tags, 2).logits(features))
    assert (chances[nothing] < 0.5).all(1).mean() > 0.8


def test_yes_or_no_is_as_likely_as_by_two_classes() -> None:
    logits = np.array([[[-90.0]], [[-1.5]], [[0.0]], [[2.0]], [[90.0]]])
    two = np.concatenate([np.zeros_like(logits), logits], axis=-1)
    np.testing.assert_allclose(_chances(logits)[..., 0], _chances(two)[..., 1], atol=1e-12)


def test_no_step_of_the_descent_makes_the_loss_of_a_tag_worse() -> None:
    # The curvature of a yes or no is at most a quarter; with less than that the steps are too long.
    features, tags = tagged(80, 120, [0.3])
    standard = ((features - features.mean(0)) / features.std(0)).astype(np.float32)
    space = _RowSpace(standard)
    rows = np.ones((80, 1), np.float32)
    nothing = np.zeros((space.scores.shape[1], 1, 1), np.float32)
    losses = []
    for tolerance in (0.5, 0.1, 0.02, 0.004):
        weight = space.descend(tags[:, :, None].astype(np.float32), rows, 1.0, nothing, tolerance=tolerance)
        logits = (space.scores @ weight[:, 0])[:, 0]
        misfit = np.logaddexp(0, np.where(tags[:, 0] == 1, -logits, logits)).sum()
        losses.append(float(misfit + 0.5 * np.square(weight[:-1]).sum()))
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (np.array([[0, 1], [2, 0], [1, 1]]), "other than 0 and 1"),
        (np.array([[0, 1], [np.nan, 0], [1, 1]]), "other than 0 and 1"),
        (np.array([[0, 1, 1]] * 3), "do not match"),
        (np.zeros((4, 2)), "do not match"),
    ],
)
def test_tags_without_meaning_are_refused(tags: NDArray[np.generic], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fit_probe(np.ones((3, 2)), tags, 2)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 14),
    width=st.integers(1, 8),
    tags=st.integers(1, 4),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_any_table_of_tags_gives_finite_logits_and_the_same_ones_again(
    rows: int, width: int, tags: int, share: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    features, targets = random.normal(size=(rows, width)), random.uniform(size=(rows, tags)) < share
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, again = (fit_probe(features, targets.astype(np.uint8), tags) for _ in range(2))
    assert first.weight.shape == (tags, width)
    assert np.isfinite(first.logits(features)).all()
    np.testing.assert_array_equal(first.weight, again.weight)
