"""The learning-rate finder: what it suggests, what it refuses, and that it leaves no trace."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import DataError, UsageError
from headstart.training import Run, constant, fit, group_rates, loss_for, lr_find, make_optimizer, try_rates
from headstart.training.finder import judge
from headstart.types import Batch, Task

LOSS = loss_for(Task.SINGLE_LABEL)


@pytest.mark.parametrize("trained_before", [False, True], ids=["fresh", "trained before"])
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_finder_leaves_no_trace(
    make_run, make_source, trace, trained_before, name, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, source = make_run(name=name), make_source()
    if trained_before:
        fit(run, source, rates=[1e-2, 1e-2], schedule=constant(), epochs=1, loss=LOSS)
        run.model[0].weight.grad = torch.ones_like(run.model[0].weight)
    run.model[3].eval()
    before = trace(run)
    lr_find(run, source, loss=LOSS, rates=group_rates(slice(1e-3), 2))
    assert trace(run) == before
    assert not list(tmp_path.iterdir())


def test_a_trace_would_be_seen(make_run, make_source, trace) -> None:
    run = make_run()
    before = trace(run)
    fit(run, make_source(), rates=[1e-2, 1e-2], schedule=constant(), epochs=1, loss=LOSS)
    after = trace(run)
    changed = {key.split()[0] for key in before.keys() | after if before.get(key) != after.get(key)}
    assert {"model", "state", "run"} <= changed
    torch.rand(1), np.random.random(), random.random()
    drawn = trace(run)
    assert all(drawn[key] != before[key] for key in ("torch", "numpy", "python"))


def test_the_finder_leaves_no_trace_when_it_fails(make_run, make_source, trace) -> None:
    run, source = make_run(), make_source()
    before = trace(run)
    calls = []

    def loss(logits, targets):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return LOSS(logits, targets)

    with pytest.raises(KeyboardInterrupt):
        lr_find(run, source, loss=loss)
    assert trace(run) == before


def frozen_below(net, layer: int) -> list[list[torch.nn.Parameter]]:
    """Freeze the layers of a net before `layer`; return what trains, in two groups."""
    for number, module in enumerate(net):
        module.requires_grad_(number >= layer)
    return [[p for p in net[:-1].parameters() if p.requires_grad], list(net[-1].parameters())]


@pytest.mark.parametrize("layer", range(5))
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("look", [lr_find, try_rates], ids=["sweep", "trials"])
def test_no_trace_is_left_on_any_line_at_any_precision(
    make_net, make_source, trace, layer, precision, look
) -> None:
    net = make_net()
    groups = frozen_below(net, layer)
    run = Run(net, make_optimizer(groups, [1e-3, 1e-2]), seed=5, precision=precision)
    net[:layer].eval()
    before = trace(run)
    look(run, make_source(), loss=LOSS, rates=[1e-3, 1e-2])
    assert trace(run) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
@pytest.mark.parametrize("step", [0, 1, 9])
def test_no_trace_is_left_when_a_step_is_broken_off(make_run, make_source, trace, error, step) -> None:
    """In the middle of the backward pass, when some gradients are there and others are not."""
    run, seen = make_run(), []
    before = trace(run)

    def stop(gradient: torch.Tensor) -> None:
        seen.append(1)
        if len(seen) > step:
            raise error

    handle = run.model[0].weight.register_hook(stop)
    with pytest.raises(error):
        lr_find(run, make_source(), loss=LOSS)
    handle.remove()
    assert trace(run) == before


def test_a_rate_that_the_finder_suggests_trains(make_run, make_source, validate_with) -> None:
    run, source = make_run(), make_source(400, 16)
    found = lr_find(run, source, loss=LOSS)
    assert found.note == ""
    assert 1e-4 < found.valley < 1
    rates = group_rates(found.valley, 2)
    fit(
        run,
        source,
        rates=rates,
        schedule=constant(),
        epochs=4,
        loss=LOSS,
        validate=validate_with(run, source),
    )
    assert run.history[-1, "accuracy"] > 0.9


def test_the_same_search_twice_gives_the_same_curve(make_run, make_source) -> None:
    run, source = make_run(), make_source()
    first, second = (lr_find(run, source, loss=LOSS, iterations=40) for _ in range(2))
    assert first.losses.tolist() == second.losses.tolist()
    assert first.suggestions == second.suggestions


def test_the_rates_grow_by_equal_factors_until_the_loss_explodes(make_run, make_source) -> None:
    found = lr_find(make_run(name="sgd"), make_source(), loss=LOSS, start=1e-5, end=1e5, iterations=50)
    assert found.rates[0] == pytest.approx(1e-5)
    factors = found.rates[1:] / found.rates[:-1]
    assert factors == pytest.approx(np.full(len(factors), 1e10 ** (1 / 50)))
    assert len(found.rates) < 50
    assert not found.smoothed[-1] <= 4 * np.nanmin(found.smoothed)


def test_groups_keep_their_proportions_and_the_last_is_searched(make_run, make_source) -> None:
    run, seen = make_run(), []

    def loss(logits, targets):
        seen.append([group["lr"] for group in run.optimizer.param_groups])
        return LOSS(logits, targets)

    found = lr_find(run, make_source(), loss=loss, rates=[1e-4, 1e-2], iterations=20)
    assert [row[-1] for row in seen] == pytest.approx(found.rates.tolist())
    assert [row[0] / row[-1] for row in seen] == pytest.approx([1e-2] * len(seen))


def test_a_source_shorter_than_the_search_is_gone_through_again(make_run, make_source) -> None:
    assert len(lr_find(make_run(), make_source(8, 8), loss=LOSS, end=1e-3, iterations=30).rates) == 30
    empty = make_source()
    empty.inputs = empty.inputs[:0]
    with pytest.raises(DataError):
        lr_find(make_run(), empty, loss=LOSS)


def test_a_search_that_cannot_be_is_refused(make_run, make_source) -> None:
    for wrong in ({"start": 1, "end": 1e-3}, {"start": 0}, {"iterations": 1}):
        with pytest.raises(UsageError):
            lr_find(make_run(), make_source(), loss=LOSS, **wrong)


RATES = 1e-7 * (10 / 1e-7) ** (np.arange(100) / 100)


def u_curve(noise: float = 0.0, depth: float = 1.5) -> np.ndarray:
    """A loss that falls around 1e-3 and explodes above 1e-1."""
    x = np.log10(RATES)
    falls = 2.0 - depth / (1 + np.exp(-3 * (x + 3)))
    explodes = np.exp(np.clip(4 * (x + 0.3), None, 8))
    return falls + explodes + noise * np.random.default_rng(0).normal(size=100)


def test_the_suggestions_on_a_textbook_curve_are_where_they_belong() -> None:
    found = judge(RATES, u_curve(), 100)
    assert found.note == ""
    lowest = RATES[found.smoothed.argmin()]
    assert found.minimum == pytest.approx(lowest / 10)
    assert found.steep < lowest
    assert 1e-5 < found.valley < lowest
    assert found.slide is not None
    assert lowest < found.rises < 10
    assert 1e-4 < found.low < found.high < 1e-2


@given(
    place=st.floats(-4.5, -2.0),
    depth=st.floats(0.3, 3.0),
    noise=st.floats(0.0, 0.02),
    seed=st.integers(0, 2**16),
)
def test_on_any_valley_the_suggestions_lie_where_the_loss_falls(place, depth, noise, seed) -> None:
    """The loss falls around 10^place and explodes a decade and a half above."""
    x = np.log10(RATES)
    losses = 3.2 - depth / (1 + np.exp(-4 * (x - place))) + np.exp(np.clip(5 * (x - place - 1.5), None, 8))
    losses = losses + noise * np.random.default_rng(seed).normal(size=100)
    found = judge(RATES, losses, 100)
    lowest = RATES[found.smoothed[10:-5].argmin() + 10]
    assert found.note == ""
    assert found.low < found.high <= lowest
    assert found.range == slice(found.low, found.high)
    assert place - 1 < math.log10(found.low) < math.log10(found.high) < place + 1.5
    assert all(rate <= lowest for name, rate in found.suggestions.items() if name != "slide")
    assert found.rises > lowest


@given(level=st.floats(0.05, 5.0), noise=st.floats(0.0, 1.0), seed=st.integers(0, 2**16))
def test_a_flat_curve_gives_no_number_or_a_fall_that_its_noise_allows(level, noise, seed) -> None:
    """Three standard errors: about one in a hundred flat curves may look like a fall, none a deep one."""
    losses = level * (1 + noise * np.random.default_rng(seed).normal(size=100))
    found = judge(RATES, losses, 100)
    if found.note:
        assert set(found.suggestions.values()) == {None}
        assert (found.low, found.high, found.range) == (None, None, None)
    else:
        assert found.smoothed[10] - found.smoothed[10:-5].min() < noise * level


@given(at=st.integers(2, 14), bad=st.sampled_from([math.nan, math.inf, 1e12]))
def test_a_curve_that_diverges_early_gives_no_number(at, bad) -> None:
    losses = np.full(at, 1.0)
    losses[-1] = bad
    found = judge(RATES[:at], losses, 100)
    assert found.range is None
    assert set(found.suggestions.values()) == {None}
    assert found.note


def reference_valley(rates: np.ndarray, losses: np.ndarray) -> float:
    """The longest falling subsequence and its middle, written naively."""
    best, at = [1] * len(losses), 0
    for i in range(1, len(losses)):
        for j in range(i):
            if losses[i] < losses[j] and best[i] < best[j] + 1:
                best[i] = best[j] + 1
        if best[i] > best[at]:
            at = i
    first = max(0, at - best[at])
    third = (at - first) / 3
    return float(rates[first + int(third) + int(third / 2)])


def reference_slide(rates: np.ndarray, losses: np.ndarray) -> float:
    """Move an interval of fifteen steps to the left while its ends differ in slope."""
    slopes = np.gradient(losses)
    right, left = len(losses) - 1, len(losses) - 16
    chosen = left
    while left >= 0 and abs(slopes[right] - slopes[left]) > 0.005:
        chosen = left
        right, left = right - 1, left - 1
    return float(rates[chosen])


@pytest.mark.parametrize("seed", range(5))
def test_each_suggestion_equals_its_definition(seed: int) -> None:
    losses = u_curve() + 0.05 * np.random.default_rng(seed).normal(size=100)
    found = judge(RATES, losses, 100)
    used, rates = found.smoothed[10:-5], RATES[10:-5]
    assert found.valley == pytest.approx(reference_valley(rates, used))
    slopes = (used[1:] - used[:-1]) / (np.log(rates[1:]) - np.log(rates[:-1]))
    assert found.steep == pytest.approx(rates[slopes.argmin()])
    assert found.minimum == pytest.approx(rates[used.argmin()] / 10)
    assert found.slide == pytest.approx(reference_slide(rates, used))


def test_fewer_steps_over_the_same_range_give_suggestions_nearby() -> None:
    whole, few = judge(RATES, u_curve(), 100), judge(RATES[::2], u_curve()[::2], 50)
    for name, rate in whole.suggestions.items():
        assert rate / 4 < few.suggestions[name] < rate * 4


def test_smoothing_is_a_bias_corrected_running_mean() -> None:
    losses = u_curve(0.1)
    weights = [[0.98 ** (i - j) for j in range(i + 1)] for i in range(100)]
    expected = [np.average(losses[: i + 1], weights=weights[i]) for i in range(100)]
    assert judge(RATES, losses, 100).smoothed == pytest.approx(np.array(expected))


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        (np.full(100, 0.7), "hardly moves"),
        (np.linspace(0.7, 3, 100), "hardly moves"),
        (u_curve(noise=0.5, depth=0.1), "too noisy|hardly moves"),
        (2 + 3 * np.random.default_rng(1).normal(size=100), "too noisy|hardly moves"),
    ],
    ids=["constant", "rising", "small fall under noise", "pure noise"],
)
def test_a_curve_that_says_nothing_gets_no_suggestion_but_a_reason(losses, reason) -> None:
    found = judge(RATES, losses, 100)
    assert set(found.suggestions.values()) == {None}
    assert any(word in found.note for word in reason.split("|"))


def test_pure_noise_is_refused_nearly_always_and_a_clear_fall_under_it_never() -> None:
    def curve(seed: int, depth: float) -> np.ndarray:
        return u_curve(depth=depth) + 0.4 * np.random.default_rng(seed).normal(size=100)

    read = [[judge(RATES, curve(seed, depth), 100).note == "" for seed in range(100)] for depth in (0, 1.5)]
    assert sum(read[0]) <= 3
    assert sum(read[1]) >= 97


def test_a_search_that_diverges_at_once_says_so() -> None:
    losses = np.full(12, 1.0)
    losses[-1] = math.nan
    found = judge(RATES[:12], losses, 100)
    assert found.valley is None
    assert "lower rate" in found.note


def test_the_end_that_is_not_finite_is_cut() -> None:
    losses = u_curve()
    losses[90:] = math.nan
    found = judge(RATES[:91], losses[:91], 100)
    assert found.note == ""
    assert found.valley is not None


def test_the_plot_shows_the_suggestions() -> None:
    figure = judge(RATES, u_curve(), 100).plot()
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [label.split(":")[0] for label in labels[2:]] == ["valley", "steep", "minimum", "slide"]
    assert axes.get_xscale() == "log"
    flat = judge(RATES, np.full(100, 0.7), 100)
    assert "hardly moves" in flat.plot().get_suptitle()


class Holed:
    """Another source with some of its batches empty, as those are whose pictures went."""

    def __init__(self, source, empty: set[int]) -> None:
        self.source, self.empty = source, empty

    def __len__(self) -> int:
        return len(self.source)

    def epoch(self, epoch: int, *, start: int = 0):
        for number, batch in enumerate(self.source.epoch(epoch, start=start), start=start):
            gone = number in self.empty
            yield Batch(batch.inputs[:0], batch.targets[:0], batch.index[:0]) if gone else batch


def test_empty_batches_are_passed_over_and_nothing_else_is_an_error(make_run, make_source) -> None:
    found = lr_find(make_run(), Holed(make_source(), {0, 3}), loss=LOSS, iterations=20, start=1e-6, end=1e-2)
    assert len(found.losses) == 20
    assert np.isfinite(found.losses).all()
    with pytest.raises(DataError, match="every batch of the epoch was empty"):
        lr_find(make_run(), Holed(make_source(), set(range(5))), loss=LOSS)
