"""What freezing, groups and rates mean, for bodies of every family that is promised.

No picture goes through most of these tests: what trains, in which mode and at which rate is a matter of
parameters and modules. The bodies have random weights and small pictures.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tests.contract.test_backbones import body_of
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from headstart.models import Classifier, create_classifier
from headstart.training import group_rates, layer_decay, make_optimizer, move_line

# One of each family; architecture, side of the pictures, options that make it small.
FAMILIES = [
    ("resnet18", 32, {}),
    ("resnext50_32x4d", 32, {}),
    ("densenet121", 32, {}),
    ("vgg11_bn", 32, {"mlp_ratio": 1 / 64}),
    ("mobilenetv2_100", 32, {}),
    ("mobilenetv3_large_100", 32, {}),
    ("efficientnet_b0", 32, {}),
    ("convnext_atto", 32, {}),
    ("vit_tiny_patch16_224", 32, {}),
    ("deit3_small_patch16_224", 32, {"depth": 4}),
    ("swin_tiny_patch4_window7_224", 64, {"depths": (1, 1, 2, 1)}),
    ("regnety_002", 32, {}),
    ("levit_128s", 224, {}),
]


@pytest.fixture(scope="module", params=FAMILIES, ids=[family[0] for family in FAMILIES])
def classifier(request: pytest.FixtureRequest) -> Iterator[Classifier]:
    """One classifier of each family, made once: every test sets what it asks about."""
    arch, side, options = request.param
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield create_classifier(body_of(arch, side, options), 3)
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def as_made(classifier: Classifier) -> None:
    classifier.frozen_batch_norm = "eval"
    classifier.fixed_batch_norm = False
    classifier.set_groups(3)
    classifier.unfreeze()
    classifier.train()
    classifier.zero_grad()


def stage_of(classifier: Classifier) -> dict[str, int]:
    """The stage of every parameter, by its name."""
    return {
        name: number
        for number in range(len(classifier.stages))
        for name in classifier.stage_parameters(number, number + 1)
    }


def stage_of_norms(classifier: Classifier) -> dict[_BatchNorm, int]:
    found: dict[_BatchNorm, int] = {}
    for number in range(len(classifier.stages)):
        for module in classifier.stage_modules(number, number + 1).values():
            found |= {part: number for part in module.modules() if isinstance(part, _BatchNorm)}
    assert set(found) == {part for part in classifier.modules() if isinstance(part, _BatchNorm)}
    return found


def test_at_each_line_what_lies_above_trains_and_nothing_else(classifier: Classifier) -> None:
    stages = stage_of(classifier)
    assert stages.keys() == dict(classifier.named_parameters()).keys()
    for line in range(len(classifier.stages)):
        classifier.freeze_at(line)
        for name, parameter in classifier.named_parameters():
            assert parameter.requires_grad == (stages[name] >= line), (line, name)
        trained = [id(p) for group in classifier.parameter_groups() for p in group]
        assert sorted(trained) == sorted(id(p) for p in classifier.parameters() if p.requires_grad)
        for number, start in enumerate(classifier.group_starts[:-1]):
            if classifier.group_starts[number + 1] <= line:
                assert not classifier.parameter_groups()[number], (line, start)


def test_at_each_line_what_lies_below_is_in_evaluation(classifier: Classifier) -> None:
    for line in range(len(classifier.stages)):
        classifier.freeze_at(line)
        for mode in (True, False):
            classifier.train(mode)
            for module in classifier.stage_modules(0, line).values():
                assert not any(part.training for part in module.modules()), line
            for module in classifier.stage_modules(line, len(classifier.stages)).values():
                assert all(part.training == mode for part in module.modules()), line


@pytest.mark.parametrize("below", ["eval", "train"])
@pytest.mark.parametrize("fixed", [False, True])
def test_each_batch_norm_is_in_the_mode_that_the_policy_says(
    classifier: Classifier, below: str, fixed: bool
) -> None:
    norms = stage_of_norms(classifier)
    classifier.frozen_batch_norm = below
    classifier.fixed_batch_norm = fixed
    for line in (0, *classifier.group_starts[1:]):
        classifier.freeze_at(line)
        classifier.train()
        for norm, stage in norms.items():
            collects = not fixed and (stage >= line or below == "train")
            assert norm.training == collects, (line, stage)
            assert norm.weight.requires_grad == (stage >= line or below == "train")
        classifier.eval()
        assert not any(norm.training for norm in norms)


def test_a_step_above_the_line_leaves_no_trace_below(classifier: Classifier) -> None:
    line = classifier.group_starts[1]
    classifier.freeze_at(line)
    classifier.train()
    below = set(classifier.stage_parameters(0, line))
    lower = {
        f"{name}.{buffer}"
        for name, module in classifier.stage_modules(0, line).items()
        for buffer, _ in module.named_buffers()
    }
    before = {name: buffer.clone() for name, buffer in classifier.named_buffers()}
    side = classifier.image_size[0]
    pixels = torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8)
    classifier(pixels).square().sum().backward()
    for name, parameter in classifier.named_parameters():
        assert (parameter.grad is None) == (name in below), name
    changed = {name for name, buffer in classifier.named_buffers() if not torch.equal(buffer, before[name])}
    assert not changed & lower
    above = any(stage >= line for stage in stage_of_norms(classifier).values())
    assert bool(changed) == above, "batch norm above the line collects"


def test_three_groups_by_default_and_one_for_each_stage_when_asked(classifier: Classifier) -> None:
    assert len(classifier.group_starts) == 3
    assert classifier.group_starts[-1] == classifier.head_stage
    for group in range(-3, 3):
        classifier.freeze_to(group)
        assert classifier.frozen_line == classifier.group_starts[group]
    line = classifier.frozen_line
    classifier.set_groups("stage")
    assert classifier.frozen_line == line
    stages = len(classifier.stages) - ("pool" in [stage.name for stage in classifier.stages])
    assert len(classifier.group_starts) == stages
    classifier.unfreeze()
    assert all(classifier.parameter_groups()), "each of them holds something to train"


def rates_of(optimizer: torch.optim.Optimizer) -> dict[int, float]:
    return {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("rates", [slice(1e-4, 1e-2), slice(3e-3), 1e-3, (1e-5, 2e-4, 3e-3)], ids=str)
def test_every_parameter_trains_at_the_rate_of_its_group(classifier: Classifier, rates: object) -> None:
    wanted = group_rates(rates, 3)  # type: ignore[arg-type]
    stages = stage_of(classifier)
    for group in range(3):
        classifier.freeze_to(group)
        found = rates_of(make_optimizer(classifier.parameter_groups(), wanted))
        assert len(found) == sum(p.requires_grad for p in classifier.parameters())
        for name, parameter in classifier.named_parameters():
            if parameter.requires_grad:
                own = np.searchsorted(classifier.group_starts, stages[name], side="right") - 1
                assert found[id(parameter)] == wanted[own], name


def test_layer_wise_decay_falls_by_a_factor_for_each_stage(classifier: Classifier) -> None:
    classifier.set_groups("stage")
    count = len(classifier.group_starts)
    rates = layer_decay(1e-3, count, 0.75)
    assert rates == pytest.approx([1e-3 * 0.75 ** (count - 1 - k) for k in range(count)])
    found = rates_of(make_optimizer(classifier.parameter_groups(), rates))
    stages = stage_of(classifier)
    for name, parameter in classifier.named_parameters():
        above = count - np.searchsorted(classifier.group_starts, stages[name], side="right")
        assert found[id(parameter)] == pytest.approx(1e-3 * 0.75**above), name


def test_what_keeps_training_keeps_its_momentum_when_the_line_moves(classifier: Classifier) -> None:
    classifier.freeze()
    optimizer = make_optimizer(classifier.parameter_groups(), [1e-3] * 3)

    def step() -> None:
        for parameter in classifier.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3) if parameter.requires_grad else None
        optimizer.step()

    def moments(parameters: list[nn.Parameter]) -> list[torch.Tensor]:
        return [optimizer.state[parameter]["exp_avg"].clone() for parameter in parameters]

    step()
    head = list(classifier.head.parameters())
    before = moments(head)
    for group in (-2, 0, -1):
        classifier.freeze_to(group)
        move_line(optimizer, classifier.parameter_groups(), [1e-5, 1e-4, 1e-3])
        assert all(torch.equal(a, b) for a, b in zip(before, moments(head), strict=True)), group
        assert [int(optimizer.state[p]["step"]) for p in head] == [1] * len(head)
        trained = {id(p) for p in classifier.parameters() if p.requires_grad}
        assert set(rates_of(optimizer)) == trained
        assert {id(p) for p in optimizer.state} <= trained, "what is frozen leaves nothing behind"
    step()
    assert [int(optimizer.state[p]["step"]) for p in head] == [2] * len(head)
