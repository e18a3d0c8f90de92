"""Soups and ensembles: what they are, that the choice is judged honestly, and that they reach the bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.deploy import load_predictor
from headstart.errors import UsageError
from headstart.evaluation import Predictions
from headstart.recipe import Journal, Narrator, Saving, go_on, soup
from headstart.recipe.interpolation import interpolated
from headstart.recipe.soup import Recipe, combine_snapshots, greedy_soup, soup_of
from headstart.recipe.steps import EightSteps
from headstart.training import Phase, Plan, Settings, sgdr


def state(seed: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {"weight": torch.randn(4, 3, generator=random), "seen": torch.tensor(seed)}


@settings(deadline=None)
@given(st.lists(st.integers(0, 99), min_size=1, max_size=6))
def test_a_soup_is_the_mean_of_its_weights(seeds: list[int]) -> None:
    mixed = soup_of([state(seed) for seed in seeds])
    expected = torch.stack([state(seed)["weight"].double() for seed in seeds]).mean(0)
    torch.testing.assert_close(mixed["weight"].double(), expected, rtol=1e-6, atol=1e-7)
    assert mixed["weight"].dtype == torch.float32
    assert int(mixed["seen"]) == seeds[-1]


def test_of_one_it_is_that_one_and_of_two_the_middle_and_of_none_an_error() -> None:
    assert torch.equal(soup_of([state(3)])["weight"], state(3)["weight"])
    middle = interpolated(state(1), state(2), 0.5)["weight"]
    torch.testing.assert_close(soup_of([state(1), state(2)])["weight"], middle)
    for wrong in ([], [state(1), {"weight": torch.zeros(2)}]):
        with pytest.raises(UsageError):
            soup_of(wrong)


class Kitchen:
    """Ingredients whose logits are means of noisy and good ones; counts what is tasted."""

    def __init__(self, logits: np.ndarray, truth: np.ndarray) -> None:
        self.logits, self.truth = logits, truth
        self.asked: list[Recipe] = []

    def __call__(self, recipe: Recipe) -> Predictions:
        self.asked.append(recipe)
        return Predictions(self.logits[list(recipe)].mean(axis=0), ("a", "b", "c"), targets=self.truth)


def kitchen(seed: int, *, margins: list[float], rows: int = 90) -> Kitchen:
    truth = np.arange(rows) % 3
    noise = np.random.default_rng(seed).normal(size=(len(margins), rows, 3))
    return Kitchen(np.array(margins)[:, None, None] * np.eye(3)[truth] + noise, truth)


def test_good_ingredients_go_in_and_a_bad_one_does_not() -> None:
    made = greedy_soup(4, kitchen(0, margins=[2.0, 2.0, -3.0, 2.0]))
    assert made.recipe == (0, 1, 3)
    assert made.valid.loss.mean() < kitchen(0, margins=[2.0, 2.0, -3.0, 2.0])((0,)).loss.mean()


def test_each_soup_is_tasted_once_and_there_are_few_of_them() -> None:
    several = kitchen(1, margins=[1.0, 1.2, 0.8, 1.1, 0.9])
    greedy_soup(5, several)
    assert len(several.asked) == len(set(several.asked)) < 4 * 5
    with pytest.raises(UsageError):
        greedy_soup(0, several)


def test_a_single_ingredient_is_the_soup() -> None:
    assert greedy_soup(1, kitchen(0, margins=[1.0])).recipe == (0,)


def test_one_that_is_not_finite_never_goes_in() -> None:
    with_broken = kitchen(0, margins=[2.0, 2.0, 2.0])
    with_broken.logits[1] = np.nan
    assert greedy_soup(3, with_broken).recipe == (0, 2)


def test_a_soup_that_pleases_by_chance_is_not_judged_better_than_it_is() -> None:
    """Of rows without any pattern none can be predicted; a soup chosen and judged by them seems to."""
    honest, flattering = [], []
    for trial in range(16):
        without = kitchen(trial, margins=[0.0] * 5, rows=45)
        made = greedy_soup(5, without, seed=trial)
        plain = np.log(3)
        honest.append(plain - made.judged.loss.mean())
        flattering.append(plain - made.valid.with_temperature(20).loss.mean())
    assert np.mean(honest) < 0.005
    assert np.mean(honest) < np.mean(flattering)


PLAN = Plan(
    (Phase("whole network", 3, sgdr(2, 1, 2), learning_rate=1e-3, frozen_to=0, augment=False, step=8),)
)


@pytest.mark.parametrize("how", ["soup", "ensemble"])
def test_what_pays_is_kept_saved_and_predicts_as_it_was_judged(
    make_steps: Callable[..., EightSteps], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(soup, "pays", lambda gain, clearly: True)
    steps = make_steps(replace(PLAN, settings=Settings(snapshots=how, precision="float32")))
    result = steps.run()
    step = next(step for step in result.steps if step.name == f"{how} of snapshots")
    assert step.kept
    files = sorted(path.name for path in (result.folder / "snapshots").iterdir())
    steps_per_epoch = steps.data.steps_per_epoch
    assert files == [f"step-{steps_per_epoch * epochs:09d}.safetensors" for epochs in (1, 3)]
    predictor = load_predictor(result.model)
    assert len(predictor.manifest.members) == (3 if how == "ensemble" else 1)
    valid = result.valid.part("valid") if result.valid.split is not None else result.valid
    paths = [steps.data.samples.root / path for path in valid.paths or ()]
    again = predictor.predict(paths, tta=predictor.manifest.tta)
    np.testing.assert_allclose(again.probabilities, valid.probabilities, atol=2e-4)


def test_what_does_not_pay_leaves_the_best_model(steps: EightSteps, monkeypatch: pytest.MonkeyPatch) -> None:
    before = steps.best
    other = {
        name: tensor + 0.3 if tensor.is_floating_point() else tensor for name, tensor in before.state.items()
    }
    monkeypatch.setattr(soup, "pays", lambda gain, clearly: False)
    for how in ("soup", "ensemble"):
        combine_snapshots(steps, PLAN.phases[0], before.state, [other], how)
        assert steps.best is before
        now = steps.learner.state()
        assert all(torch.equal(now[name], tensor) for name, tensor in before.state.items())
    assert [step.kept for step in steps.steps] == [False, False]


def test_a_run_that_was_killed_among_its_snapshots_ends_as_it_would_have(
    make_steps: Callable[..., EightSteps], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Within the phase, with a moving average; and once more after it, where the ensemble is the best."""
    monkeypatch.setattr(soup, "pays", lambda gain, clearly: True)
    settings = Settings(snapshots="ensemble", ema=0.9, precision="float32")
    plan = replace(PLAN, phases=(PLAN.phases[0], replace(PLAN.phases[0], name="again")), settings=settings)
    saving = Saving(most_of_time=1.0)
    steps = make_steps(plan, saving=saving)
    whole = steps.run()
    combine, calls = soup.combine_snapshots, []

    def killed(*given: Any) -> None:
        calls.append(1)
        if len(calls) in (1, 3):
            raise MemoryError
        combine(*given)

    monkeypatch.setattr("headstart.recipe.steps.combine_snapshots", killed)
    stopped = make_steps(plan, saving=saving, out="stopped", data=steps.data)
    with pytest.raises(MemoryError):
        stopped.run()
    with pytest.raises(MemoryError):
        go_on(Journal.read(tmp_path / "stopped"), steps.data, Narrator())
    again = go_on(Journal.read(tmp_path / "stopped"), steps.data, Narrator())
    assert len(calls) == 4
    assert [step.name for step in again.steps] == [step.name for step in whole.steps]
    np.testing.assert_array_equal(again.valid.logits, whole.valid.logits)
    for name in sorted(path.name for path in (whole.folder / "snapshots").iterdir()):
        one, other = (folder / "snapshots" / name for folder in (whole.folder, again.folder))
        assert one.read_bytes() == other.read_bytes()
