"""`torch.compile` only where it was measured to pay, and with the same parameters."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch

from headstart.training import compiling, loss_for
from headstart.types import Task

LOSS = loss_for(Task.SINGLE_LABEL)


def test_on_a_cpu_it_is_not_even_tried() -> None:
    assert not compiling.can_pay("cpu")


@pytest.mark.parametrize(
    ("steps", "seconds", "expected", "tried"),
    [
        (100, (1.0, 0.5), False, False),  # too short
        (2000, (1.0, 0.5), True, True),
        (2000, (1.0, 0.99), False, True),  # no faster
    ],
)
def test_it_is_tried_in_long_phases_and_kept_where_it_is_faster(
    make_run, make_source, bits, monkeypatch, steps, seconds, expected, tried
) -> None:
    run, source, asked = make_run(), make_source(), []
    clock = itertools.accumulate([0.0, 5 * seconds[0], 0.0, 5 * seconds[1]])
    # The module's own clock: other threads of the process ask the system's, too.
    monkeypatch.setattr("headstart.training.finder.time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(compiling, "compiled", lambda forward: asked.append(forward) or forward)
    before = bits(run)
    assert compiling.pays(run, source, run.model, LOSS, steps=steps) is expected
    assert bool(asked) is tried
    assert bits(run) == before


def test_a_compiled_network_has_the_parameters_and_follows_the_modes(make_net) -> None:
    net = make_net()
    network = compiling.compiled(net)
    assert [id(p) for p in network.parameters()] == [id(p) for p in net.parameters()]
    network.eval()
    assert not net.training
    network.train()
    assert net[3].training
    assert isinstance(network, torch.nn.Module)
