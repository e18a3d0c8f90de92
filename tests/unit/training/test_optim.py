"""Discriminative rates, and optimisers that outlive a move of the frozen line."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from headstart.errors import UsageError
from headstart.training import group_rates, layer_decay, make_optimizer, move_line

RATE = st.floats(1e-8, 10)
COUNT = st.integers(1, 40)


@given(RATE, COUNT)
def test_one_number_is_the_rate_of_all_groups(rate: float, count: int) -> None:
    assert group_rates(rate, count) == [rate] * count


@given(RATE, COUNT, st.floats(1, 100))
def test_a_slice_with_one_number_divides_all_but_the_last(high: float, count: int, ratio: float) -> None:
    rates = group_rates(slice(high), count, ratio)
    assert len(rates) == count
    assert rates[-1] == high
    assert rates[:-1] == [high / ratio] * (count - 1)


@given(RATE, RATE, st.integers(2, 40))
def test_a_slice_with_two_numbers_is_geometric_with_exact_ends(low: float, high: float, count: int) -> None:
    rates = group_rates(slice(low, high), count)
    assert len(rates) == count
    assert (rates[0], rates[-1]) == (low, high)
    steps = [math.log(after / before) for before, after in itertools.pairwise(rates)]
    assert steps == pytest.approx([math.log(high / low) / (count - 1)] * (count - 1), abs=1e-9)


@given(st.lists(RATE, min_size=1, max_size=10))
def test_a_sequence_gives_each_group_its_own(rates: list[float]) -> None:
    assert group_rates(rates, len(rates)) == rates
    assert group_rates(tuple(rates), len(rates)) == rates
    for count in (len(rates) - 1, len(rates) + 1):
        with pytest.raises(UsageError):
            group_rates(rates, count)


def test_the_course_s_own_examples() -> None:
    assert group_rates(slice(1e-4, 1e-2), 3) == pytest.approx([1e-4, 1e-3, 1e-2])
    assert group_rates(slice(3e-3), 3) == pytest.approx([3e-4, 3e-4, 3e-3])
    assert group_rates(slice(1e-2), 3, ratio=3) == pytest.approx([1e-2 / 3, 1e-2 / 3, 1e-2])
    assert group_rates(slice(1e-4, 1e-2), 1) == [1e-2]


@pytest.mark.parametrize(
    "rate",
    [
        0,
        -1e-3,
        math.nan,
        math.inf,
        slice(None),
        slice(1e-3, None),
        slice(1e-4, 1e-2, 3),
        slice(0, 1),
        "x",
        True,
        [],
    ],
)
def test_what_is_no_learning_rate_is_refused(rate: object) -> None:
    with pytest.raises(UsageError):
        group_rates(rate, 3)  # type: ignore[arg-type]


@pytest.fixture
def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 2))


def groups_of(net: nn.Sequential) -> list[list[nn.Parameter]]:
    return [list(net[:2].parameters()), list(net[2].parameters()), list(net[3].parameters())]


def step(net: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
    net(torch.ones(4, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_every_parameter_is_in_one_group_with_its_rate_and_vectors_do_not_decay(net, name) -> None:
    optimizer = make_optimizer(groups_of(net), [1e-4, 1e-3, 1e-2], name=name, weight_decay=0.1)
    found = [(id(p), group) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(number for number, _ in found) == sorted(id(p) for p in net.parameters())
    for number, members in enumerate(groups_of(net)):
        for parameter in members:
            (group,) = [group for key, group in found if key == id(parameter)]
            assert group["lr"] == [1e-4, 1e-3, 1e-2][number]
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


def test_frozen_and_tied_parameters_are_trained_never_and_once(net) -> None:
    net[0].requires_grad_(False)
    net[3].weight = nn.Parameter(torch.zeros(2, 4))
    groups = groups_of(net)
    groups[1].append(net[3].weight)
    optimizer = make_optimizer(groups, [1e-3] * 3)
    members = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(members) == len(set(members))
    assert not set(members) & {id(p) for p in net[0].parameters()}
    owner = next(g for g in optimizer.param_groups if any(p is net[3].weight for p in g["params"]))
    assert owner["number"] == 1


def test_nothing_to_train_is_an_error(net) -> None:
    with pytest.raises(UsageError, match="every parameter is frozen"):
        make_optimizer([[], []], [1, 1])
    with pytest.raises(UsageError, match="2 learning rates for 3"):
        make_optimizer(groups_of(net), [1, 1])
    with pytest.raises(UsageError, match="choose adamw or sgd"):
        make_optimizer(groups_of(net), [1, 1, 1], name="adam")


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_moving_the_line_keeps_the_state_of_what_stays(net, name) -> None:
    frozen = [[], [], groups_of(net)[2]]
    optimizer = make_optimizer(frozen, [1e-3] * 3, name=name)
    step(net, optimizer)
    head = net[3].weight
    kept = {key: value.clone() for key, value in optimizer.state[head].items() if value is not None}
    move_line(optimizer, groups_of(net), [1e-5, 1e-4, 1e-3])
    assert all(torch.equal(optimizer.state[head][key], value) for key, value in kept.items())
    assert net[0].weight not in optimizer.state
    step(net, optimizer)
    assert net[0].weight in optimizer.state
    assert {group["lr"] for group in optimizer.param_groups} == {1e-5, 1e-4, 1e-3}


def test_making_a_new_optimiser_instead_would_lose_the_state(net) -> None:
    optimizer = make_optimizer(groups_of(net), [1e-3] * 3)
    step(net, optimizer)
    assert net[3].weight not in make_optimizer(groups_of(net), [1e-3] * 3).state


def test_moving_the_line_up_forgets_what_no_longer_trains(net) -> None:
    optimizer = make_optimizer(groups_of(net), [1e-3] * 3)
    step(net, optimizer)
    move_line(optimizer, [[], [], groups_of(net)[2]], [1e-3] * 3)
    assert set(optimizer.state) == {net[3].weight, net[3].bias}
    optimizer.state_dict()


@given(RATE, COUNT, st.floats(0.1, 1))
def test_layer_decay_is_geometric_and_ends_at_the_rate(rate: float, count: int, decay: float) -> None:
    rates = layer_decay(rate, count, decay)
    assert len(rates) == count
    assert rates[-1] == rate
    for lower, higher in itertools.pairwise(rates):
        assert lower == pytest.approx(decay * higher)


@pytest.mark.parametrize("decay", [0, -0.5, 1.1, math.nan])
def test_a_layer_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(UsageError, match="layer decay"):
        layer_decay(1e-3, 3, decay)
