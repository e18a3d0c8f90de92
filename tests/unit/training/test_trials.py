"""Short trials: which rate they choose, what they refuse, what they cost, and that they leave no trace."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import DataError, UsageError
from headstart.training import Trial, constant, fit, loss_for, try_rates
from headstart.training.trials import CANDIDATES, choose
from headstart.types import Task

LOSS = loss_for(Task.SINGLE_LABEL)


def test_trials_leave_no_trace(make_run, make_source, trace) -> None:
    run, source = make_run(), make_source()
    fit(run, source, rates=[1e-2, 1e-2], schedule=constant(), epochs=1, loss=LOSS)
    before = trace(run)
    found = try_rates(run, source, loss=LOSS, rates=[1e-3, 1e-2])
    assert found.pictures > 0
    assert trace(run) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("call", [1, 11, 20])
def test_trials_leave_no_trace_when_they_are_broken_off(make_run, make_source, trace, error, call) -> None:
    run, source = make_run(), make_source()
    before, calls = trace(run), []

    def loss(logits, targets):
        calls.append(1)
        if len(calls) == call:
            raise error
        return LOSS(logits, targets)

    with pytest.raises(error):
        try_rates(run, source, loss=loss)
    assert trace(run) == before


def test_every_trial_starts_from_the_same_weights(make_run, make_source) -> None:
    alone = try_rates(make_run(), make_source(), loss=LOSS, candidates=[1e-3])
    among = try_rates(make_run(), make_source(), loss=LOSS, candidates=[1e-2, 1e-3])
    assert alone.trials[0] == next(trial for trial in among.trials if trial.rate == 1e-3)


def test_what_no_step_changed_is_zero_to_the_bit(make_run, make_source) -> None:
    """The same batch, with the same dropout, at the same weights: the noise between batches is out."""
    run, source = make_run(), make_source()
    for group in run.optimizer.param_groups:
        group["weight_decay"] = 0.0
    (trial,) = try_rates(run, source, loss=LOSS, candidates=[1e-30]).trials
    assert trial.change == 0
    assert trial.error == 0


def test_from_an_untrained_network_the_loss_falls_at_the_rate_chosen(make_run, make_source) -> None:
    found = try_rates(make_run(), make_source(400, 16), loss=LOSS, steps=12)
    assert found.helps
    assert 2e-3 < found.rate < 0.5
    assert found.low <= found.rate <= found.high
    assert found.range == slice(found.low, found.high)
    assert "fell most" in found.why


def test_from_an_optimum_no_rate_that_undoes_it_is_chosen(make_run, make_source, validate_with) -> None:
    """Where the fault was: what is chosen must leave the network as good as it was after many steps."""
    run, source = make_run(), make_source(400, 16)
    with torch.no_grad():
        run.model[3].p = 0.0
    fit(run, source, rates=[1e-2, 1e-2], schedule=constant(), epochs=12, loss=LOSS)
    run.model.eval()
    settled = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    validate = validate_with(run, source)
    before = validate()["valid_loss"]
    found = try_rates(run, source, loss=LOSS, candidates=[1e-4 * 3**k for k in range(10)])
    assert found.rate is not None
    assert any(trial.given_up for trial in found.trials)
    after = {}
    for rate in (found.rate, found.trials[-1].rate):
        run.model.load_state_dict(settled)
        fit(run, source, rates=[rate, rate], schedule=constant(), epochs=2, loss=LOSS)
        after[rate] = validate()["valid_loss"]
    assert after[found.rate] < before + 0.05
    assert after[found.trials[-1].rate] > before + 0.2, "a rate that wrecks must be told apart"


def test_rates_that_do_harm_are_given_up_at_once(make_run, make_source) -> None:
    found = try_rates(make_run(name="sgd"), make_source(), loss=LOSS, candidates=[1e8, 1e6], steps=16)
    assert all(trial.given_up and trial.steps <= 4 for trial in found.trials)
    assert found.rate is None
    assert "clearly worse" in found.why


def test_a_source_shorter_than_a_trial_is_gone_through_again(make_run, make_source) -> None:
    found = try_rates(make_run(), make_source(8, 8), loss=LOSS, candidates=[1e-3], steps=9)
    assert found.trials[0].steps == 9
    empty = make_source()
    empty.inputs = empty.inputs[:0]
    with pytest.raises(DataError):
        try_rates(make_run(), empty, loss=LOSS)


@pytest.mark.parametrize(
    "wrong", [{"steps": 3}, {"candidates": []}, {"candidates": [0.0]}, {"candidates": [math.nan]}]
)
def test_trials_that_cannot_be_are_refused(make_run, make_source, wrong) -> None:
    with pytest.raises(UsageError):
        try_rates(make_run(), make_source(), loss=LOSS, **wrong)


def _trial(rate: float, change: float | None, error: float) -> Trial:
    size = 9.0 if change is None else change
    return Trial(rate, 8, size, error, size, given_up=change is None)


def trials(*changes: float | None, error: float = 0.01) -> list[Trial]:
    """One for each change, by rising rate; None for one that was given up."""
    return [_trial(rate, change, error) for rate, change in zip(CANDIDATES, changes, strict=False)]


def test_the_deepest_fall_is_chosen_where_there_is_a_clear_one() -> None:
    found = choose(2.0, trials(-0.1, -0.5, -1.2, -1.19, 0.5, None))
    assert found.rate == CANDIDATES[2]
    assert (found.low, found.high) == (CANDIDATES[2], CANDIDATES[3])


def test_without_a_fall_the_highest_harmless_rate_is_chosen() -> None:
    found = choose(0.5, trials(0.0, -0.001, 0.02, 0.3, None))
    assert found.rate == CANDIDATES[2]
    assert not found.helps
    assert f"at {CANDIDATES[3]:.1e} it rises by 0.3" in found.why


def test_steps_go_to_the_rates_that_are_worth_them(make_run, make_source) -> None:
    """What ends badly ends at once, and rates far below one that does no harm are not tried at all."""
    found = try_rates(
        make_run(name="sgd"), make_source(), loss=LOSS, candidates=[1e-6 * 3**k for k in range(20)]
    )
    assert len(found.trials) < 12
    taken = sum(trial.steps for trial in found.trials)
    assert taken < 8 * len(found.trials)
    assert found.pictures == 8 * taken


def test_a_rise_on_the_way_counts_also_where_it_is_made_good() -> None:
    spiked = Trial(CANDIDATES[3], 8, 0.0, 0.01, 0.4)
    assert choose(0.5, [*trials(0.0, 0.0, 0.0), spiked]).rate == CANDIDATES[2]


def test_where_every_rate_harms_no_number_is_given() -> None:
    found = choose(0.5, trials(0.2, 0.4, None))
    assert (found.rate, found.low, found.high, found.range) == (None, None, None, None)
    assert found.why


@given(
    start=st.floats(1e-4, 5.0),
    changes=st.lists(st.none() | st.floats(-3.0, 8.0), min_size=1, max_size=8),
    error=st.floats(0.0, 0.5),
)
def test_what_is_chosen_was_never_given_up_and_does_no_clear_harm(start, changes, error) -> None:
    found = choose(start, trials(*changes, error=error))
    if found.rate is None:
        assert all(c is None or c > 0 for c in changes)
        return
    chosen = next(trial for trial in found.trials if trial.rate == found.rate)
    assert not chosen.given_up
    assert chosen.change <= 0.05 * max(start, 0.1) + error / 2
    assert found.low <= found.rate <= found.high


def test_the_plot_shows_what_was_chosen() -> None:
    figure = choose(
        0.5, [*trials(0.0, 0.0, 0.3), Trial(1.0, 2, math.inf, 0.0, math.inf, given_up=True)]
    ).plot()
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert any(label.startswith("chosen") for label in labels)
