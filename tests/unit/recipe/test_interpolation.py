"""Between two models: the points on the way, and that choosing among them is judged honestly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import UsageError
from headstart.evaluation import Predictions
from headstart.recipe.interpolation import (
    ALPHAS,
    can_interpolate,
    cross_fitted_choice,
    interpolated,
    mix_with_best,
)
from headstart.recipe.steps import EightSteps
from headstart.recipe.verdict import gain_in_log_loss, pays, softened
from headstart.types import Task


def state(seed: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(5, 3, generator=random),
        "running_var": torch.rand(5, generator=random),
        "batches": torch.tensor(7 * seed),
    }


def test_both_ends_are_the_states_themselves_bit_for_bit() -> None:
    before, after = state(1), state(2)
    for alpha, end in ((0.0, before), (1.0, after)):
        for name, tensor in interpolated(before, after, alpha).items():
            assert torch.equal(tensor, end[name])


@settings(deadline=None)  # the first call to torch takes a second
@given(alpha=st.floats(0, 1))
def test_a_point_between_lies_on_the_line_and_whole_numbers_come_from_the_nearer_end(alpha: float) -> None:
    before, after = state(1), state(2)
    mixed = interpolated(before, after, alpha)
    for name in ("weight", "running_var"):
        line = (1 - alpha) * before[name].double() + alpha * after[name].double()
        torch.testing.assert_close(mixed[name].double(), line, rtol=1e-5, atol=1e-6)
    assert int(mixed["batches"]) == (14 if alpha >= 0.5 else 7)


def test_a_point_between_shares_no_memory_with_its_ends() -> None:
    before, after = state(1), state(2)
    for alpha in (0.0, 0.5, 1.0):
        mixed = interpolated(before, after, alpha)
        mixed["weight"].zero_()
        mixed["batches"].zero_()
    assert torch.equal(before["weight"], state(1)["weight"])
    assert torch.equal(after["batches"], state(2)["batches"])


def test_states_of_other_names_or_shapes_are_refused() -> None:
    before = state(1)
    longer = {**before, "weight": torch.zeros(6, 3)}
    assert not can_interpolate(before, longer)
    assert not can_interpolate(before, {"weight": before["weight"]})
    with pytest.raises(UsageError, match="different networks"):
        interpolated(before, longer, 0.5)
    with pytest.raises(UsageError, match="alpha is"):
        interpolated(before, before, 1.5)


def noisy(truth: np.ndarray, seed: int, *, spread: float = 1.0, margin: float = 1.5) -> Predictions:
    noise = np.random.default_rng(seed).normal(scale=spread, size=(len(truth), 3))
    return Predictions(margin * np.eye(3)[truth] + noise, ("a", "b", "c"), targets=truth)


def test_each_row_is_predicted_by_what_the_other_half_chose() -> None:
    truth = np.arange(120) % 3
    good, bad = noisy(truth, 1, spread=0.5), noisy(truth, 2, margin=0.0)
    choice = cross_fitted_choice([bad, good])
    assert choice.number == 1
    np.testing.assert_allclose(choice.judged.probabilities, softened(good).probabilities, atol=1e-6)


def test_against_what_was_there_before_a_sure_gain_beats_a_larger_one_that_chance_may_have_made() -> None:
    truth = np.arange(120) % 3
    towards = np.eye(3)[truth] - 1 / 3
    before = Predictions(1.0 * towards, ("a", "b", "c"), targets=truth)
    sure = Predictions(1.35 * towards, before.classes, targets=truth)
    # Much better on most rows, much worse on every fifth; whole threes, so that halves are alike.
    turned = np.where((np.arange(120) // 3 % 5 == 0)[:, None], -0.5 * towards, 4.0 * towards)
    far = Predictions(turned, before.classes, targets=truth)
    gains = [(softened(before).loss - softened(table).loss) for table in (sure, far)]
    assert gains[1].mean() > gains[0].mean() > 0, "by the mean alone the other would win"
    assert cross_fitted_choice([sure, far]).number == 1
    assert cross_fitted_choice([sure, far], before=before).number == 0


def test_one_candidate_is_the_choice_and_none_is_refused() -> None:
    only = noisy(np.arange(30) % 3, 1)
    assert cross_fitted_choice([only]).number == 0
    with pytest.raises(UsageError):
        cross_fitted_choice([])


def test_a_candidate_that_is_not_finite_is_never_chosen() -> None:
    truth = np.arange(60) % 3
    good = noisy(truth, 1)
    broken = Predictions(np.full((60, 3), np.nan), good.classes, targets=truth)
    assert cross_fitted_choice([broken, good]).number == 1


def test_tags_are_chosen_for_as_well_and_rows_without_a_truth_take_the_common_choice() -> None:
    random = np.random.default_rng(0)
    tags = random.integers(0, 2, (80, 2))
    tables = [
        Predictions(
            margin * (2 * tags - 1) + random.normal(size=tags.shape), ("x", "y"), Task.MULTI_LABEL, tags
        )
        for margin in (0.1, 2.0)
    ]
    assert cross_fitted_choice(tables).number == 1
    truth = np.where(np.arange(60) < 40, np.arange(60) % 3, -1)
    candidates = [noisy(np.abs(truth), seed) for seed in (1, 2)]
    unknown = [Predictions(c.logits, c.classes, targets=truth) for c in candidates]
    judged = cross_fitted_choice(unknown)
    expected = softened(unknown[judged.number]).probabilities[40:]
    np.testing.assert_allclose(judged.judged.probabilities[40:], expected, atol=1e-6)


def test_choosing_among_equals_gains_nothing_though_the_chosen_one_seems_to() -> None:
    """Candidates that differ by noise alone: the best looks better than they are; the judged rows do not."""
    honest, flattering = [], []
    for trial in range(24):
        truth = np.arange(60) % 3
        candidates = [noisy(truth, 100 * trial + number) for number in range(5)]
        losses = [softened(table).loss.mean() for table in candidates]
        choice = cross_fitted_choice(candidates, seed=trial)
        honest.append(np.mean(losses) - choice.judged.loss.mean())
        flattering.append(np.mean(losses) - losses[choice.number])
    error = np.std(honest) / np.sqrt(len(honest))
    assert abs(np.mean(honest)) < 3 * error
    assert np.mean(flattering) > 4 * error


def spoil(steps: EightSteps) -> None:
    """Move the whole network a good way off."""
    steps.learner.unfreeze()
    with torch.no_grad():
        for parameter in steps.learner.model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


def test_the_learner_is_left_at_the_chosen_point_and_predicts_what_is_told(steps: EightSteps) -> None:
    before = steps.best.state
    spoil(steps)
    after = steps.learner.state()
    mixture = mix_with_best(steps, steps.plan.phases[-1], steps.learner.predictions("valid"))
    now = steps.learner.state()
    assert any(
        all(torch.equal(now[name], point[name]) for name in now)
        for point in (interpolated(before, after, alpha) for alpha in ALPHAS)
    )
    np.testing.assert_array_equal(steps.learner.predictions("valid").logits, mixture.valid.logits)
    assert steps.steps[-1].kept is None
    assert "part of the way" in steps.steps[-1].name


def test_a_phase_that_spoils_the_network_goes_a_short_way_only(steps: EightSteps) -> None:
    spoil(steps)
    trained = steps.learner.predictions("valid")
    mixture = mix_with_best(steps, steps.plan.phases[-1], trained)
    assert softened(mixture.valid).loss.mean() < softened(trained).loss.mean()
    assert not pays(gain_in_log_loss(steps.best.valid, trained))


def test_the_head_alone_and_an_interrupted_run_are_left_as_they_are(steps: EightSteps) -> None:
    spoil(steps)
    after = steps.learner.state()
    trained = steps.learner.predictions("valid")
    assert mix_with_best(steps, steps.plan.phases[0], trained).valid is trained
    steps.stop_reason = "interrupted"
    assert mix_with_best(steps, steps.plan.phases[-1], trained).judged is trained
    assert not steps.steps
    assert all(torch.equal(after[name], tensor) for name, tensor in steps.learner.state().items())
