from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from headstart.errors import UsageError
from headstart.models import Classifier, create_backbone, create_classifier, fit_probe
from headstart.models.classifier import _group_starts


@pytest.fixture
def classifier() -> Classifier:
    return create_classifier("test_resnet", 4, from_scratch=True, image_size=32)


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=generator)


def batch_norms(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]


# ---- pixels in, logits out -------------------------------------------------------------------


def test_pixels_are_scaled_and_standardised_inside(classifier: Classifier, pixels: torch.Tensor) -> None:
    mean = torch.tensor(classifier.info.mean).view(1, 3, 1, 1)
    std = torch.tensor(classifier.info.std).view(1, 3, 1, 1)
    expected = (pixels / 255 - mean) / std
    torch.testing.assert_close(classifier.standardise(pixels), expected, rtol=1e-5, atol=1e-6)
    classifier.eval()
    assert torch.equal(classifier(pixels), classifier(pixels.float())), "uint8 and float are alike"


def test_the_state_has_timms_names_and_nothing_of_the_stages(classifier: Classifier) -> None:
    state = classifier.state_dict()
    body = {f"backbone.{name}" for name in classifier.backbone.state_dict()}
    assert set(state) == body | {"head.weight", "head.bias"}
    assert "backbone.layer1.0.conv1.weight" in state


def test_a_state_goes_round(classifier: Classifier, pixels: torch.Tensor) -> None:
    other = create_classifier("test_resnet", 4, from_scratch=True, image_size=32, seed=1).eval()
    assert not torch.equal(other(pixels), classifier.eval()(pixels))
    other.load_state_dict(classifier.state_dict())
    assert torch.equal(other(pixels), classifier(pixels))


def test_a_copy_is_on_its_own(classifier: Classifier, pixels: torch.Tensor) -> None:
    classifier.eval()
    before = classifier(pixels)
    other = copy.deepcopy(classifier)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(classifier(pixels), before)
    assert not torch.equal(other(pixels), before)


def test_a_move_to_another_type_reaches_all_stages(classifier: Classifier, pixels: torch.Tensor) -> None:
    assert classifier.double().eval()(pixels).dtype == torch.float64


# ---- the line --------------------------------------------------------------------------------


def test_groups_are_those_of_the_course(classifier: Classifier) -> None:
    assert classifier.group_names == ("stem … layer2", "layer3 … pool", "head")
    assert [stage.name for stage in classifier.stages][:3] == ["stem", "layer1", "layer2"]


def test_freezing_moves_one_line(classifier: Classifier) -> None:
    assert classifier.frozen_line == 0
    classifier.freeze()
    assert classifier.frozen_line == classifier.head_stage
    assert [len(group) for group in classifier.parameter_groups()] == [0, 0, 2]
    assert all(p.requires_grad == n.startswith("head.") for n, p in classifier.named_parameters())
    classifier.freeze_to(-2)
    assert classifier.frozen_line == classifier.group_starts[1]
    assert not classifier.parameter_groups()[0]
    classifier.freeze_to(1)
    assert classifier.frozen_line == classifier.group_starts[1]
    classifier.unfreeze()
    assert all(p.requires_grad for p in classifier.parameters())
    assert sum(map(len, classifier.parameter_groups())) == len(list(classifier.parameters()))


@pytest.mark.parametrize("group", [3, -4])
def test_there_are_only_so_many_groups(classifier: Classifier, group: int) -> None:
    with pytest.raises(UsageError, match="no group"):
        classifier.freeze_to(group)


@pytest.mark.parametrize("line", [-1, 7])
def test_there_are_only_so_many_stages(classifier: Classifier, line: int) -> None:
    with pytest.raises(UsageError, match="no stage"):
        classifier.freeze_at(line)


def test_what_is_frozen_stays_in_evaluation_while_the_rest_trains(
    classifier: Classifier, pixels: torch.Tensor
) -> None:
    classifier.freeze_to(1)
    classifier.train()
    modes = {name: module.training for name, module in classifier.backbone.named_modules()}
    assert not modes["bn1"]
    assert not modes["layer2.0.bn1"]
    assert modes["layer3.0.bn1"]
    before = {name: buffer.clone() for name, buffer in classifier.named_buffers()}
    classifier(pixels).sum().backward()
    changed = {name for name, buffer in classifier.named_buffers() if not torch.equal(buffer, before[name])}
    assert changed
    assert all(name.startswith(("backbone.layer3", "backbone.layer4")) for name in changed)
    assert all(p.grad is None for p in classifier.backbone.layer1.parameters())
    classifier.eval()
    assert not any(module.training for module in classifier.modules())


def test_batch_norm_below_the_line_may_go_on_training(classifier: Classifier, pixels: torch.Tensor) -> None:
    classifier.frozen_batch_norm = "train"
    classifier.freeze()
    classifier.train()
    assert all(module.training for module in batch_norms(classifier.backbone))
    trained = {name for name, p in classifier.named_parameters() if p.requires_grad}
    assert "backbone.bn1.weight" in trained
    assert "backbone.conv1.0.weight" not in trained
    before = classifier.backbone.bn1.running_mean.clone()
    classifier(pixels)
    assert not torch.equal(classifier.backbone.bn1.running_mean, before)
    classifier.frozen_batch_norm = "eval"
    assert not classifier.backbone.bn1.weight.requires_grad
    assert not classifier.backbone.bn1.training
    with pytest.raises(UsageError, match="cannot be 'off'"):
        classifier.frozen_batch_norm = "off"


def test_batch_norm_above_the_line_may_be_fixed(classifier: Classifier) -> None:
    classifier.fixed_batch_norm = True
    classifier.unfreeze()
    classifier.train()
    assert not any(module.training for module in batch_norms(classifier.backbone))
    assert classifier.backbone.bn1.weight.requires_grad, "its scales still train, as in the course"
    classifier.fixed_batch_norm = False
    assert all(module.training for module in batch_norms(classifier.backbone))


@settings(deadline=None)
@given(stages=st.integers(1, 40), groups=st.integers(2, 50) | st.just("stage"))
def test_groups_are_contiguous_and_nearly_equal(stages: int, groups: int | str) -> None:
    starts = _group_starts(stages, stages + 1, groups)  # type: ignore[arg-type]
    assert starts[0] == 0
    assert starts[-1] == stages + 1
    assert len(starts) == 1 + min(stages, stages if groups == "stage" else int(groups) - 1)
    lengths = np.diff([*starts[:-1], stages])
    assert lengths.max() - lengths.min() <= 1
    assert list(lengths) == sorted(lengths, reverse=True)


def test_groups_without_meaning_are_refused() -> None:
    for groups in (1, 0, "block"):
        with pytest.raises(UsageError, match="groups cannot be"):
            _group_starts(5, 6, groups)  # type: ignore[arg-type]


def test_a_group_per_stage_serves_layer_wise_decay() -> None:
    classifier = create_classifier("test_vit", 3, from_scratch=True, image_size=32, groups="stage")
    assert len(classifier.group_starts) == 8
    assert [len(group) > 0 for group in classifier.parameter_groups()] == [True] * 8


def test_what_an_architecture_holds_fixed_never_trains() -> None:
    backbone = create_backbone("test_vit", from_scratch=True, image_size=32)
    backbone.module.pos_embed.requires_grad_(False)
    classifier = create_classifier(backbone, 3)
    classifier.unfreeze()
    assert [n for n, p in classifier.named_parameters() if not p.requires_grad] == ["backbone.pos_embed"]


def test_a_body_of_ones_own_that_comes_frozen_can_be_unfrozen() -> None:
    classifier = create_classifier(TwoLayers(pooled=True).requires_grad_(False), 3, image_size=32)
    classifier.unfreeze()
    assert all(p.requires_grad for p in classifier.parameters())


# ---- parts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "test_efficientnet"])
def test_at_every_line_the_parts_are_the_whole(arch: str, pixels: torch.Tensor) -> None:
    classifier = create_classifier(arch, 4, from_scratch=True, image_size=32)
    twin = copy.deepcopy(classifier)
    for line in range(1, classifier.head_stage + 1):
        ours, whole = copy.deepcopy(classifier), copy.deepcopy(twin)
        lower, upper = ours.lower(line), ours.upper(line)
        expected = whole(pixels)
        activations = lower(pixels)
        assert activations.shape[1:] == ours.activation_shape(line)
        logits = upper(activations)
        torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)
        logits.sum().backward()
        expected.sum().backward()
        for (name, p), q in zip(ours.named_parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, msg=name)
        for mine, theirs in zip(ours.buffers(), whole.buffers(), strict=True):
            torch.testing.assert_close(mine, theirs)
        shared = {id(p) for p in [*lower.parameters(), *upper.parameters()]}
        assert shared == {id(p) for p in ours.parameters()}


def test_training_an_upper_part_trains_the_classifier(classifier: Classifier, pixels: torch.Tensor) -> None:
    classifier.freeze()
    activations = classifier.lower()(pixels)
    assert activations.shape == (5, classifier.feature_count)
    upper = classifier.upper()
    before = classifier.head.weight.detach().clone()
    torch.optim.SGD(upper.parameters(), 0.1).zero_grad()
    upper(activations).square().sum().backward()
    torch.optim.SGD(upper.parameters(), 0.1).step()
    assert not torch.equal(classifier.head.weight, before)


def test_modes_of_parts_obey_the_line(classifier: Classifier) -> None:
    classifier.freeze_to(1)
    lower, upper = classifier.lower(), classifier.upper()
    for part in (lower, upper):
        part.train()
    assert not any(module.training for module in batch_norms(lower))
    assert all(module.training for module in batch_norms(upper))
    upper.eval()
    assert not any(module.training for module in batch_norms(upper))


def test_nothing_lies_below_the_first_stage(classifier: Classifier) -> None:
    with pytest.raises(UsageError, match="nothing lies below"):
        classifier.lower()
    assert classifier.upper() is classifier
    with pytest.raises(UsageError, match="no stage"):
        classifier.upper(99)


def test_activations_take_so_many_bytes(classifier: Classifier) -> None:
    classifier.freeze()
    assert classifier.activation_bytes() == 4 * classifier.feature_count
    classifier.freeze_at(1)
    assert classifier.activation_bytes() == 4 * int(np.prod(classifier.activation_shape(1)))
    assert classifier.activation_bytes((64, 64)) == 4 * classifier.activation_bytes((32, 32))


# ---- other bodies and heads, other sizes -----------------------------------------------------


class TwoLayers(nn.Module):
    def __init__(self, *, pooled: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.pooled = pooled

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.norm(self.conv(pictures)))
        return features.mean((2, 3)) if self.pooled else features


@pytest.mark.parametrize(("pooled", "count"), [(True, 6), (False, 12)])
def test_any_module_is_a_body_and_any_module_a_head(pooled: bool, count: int, pixels: torch.Tensor) -> None:
    head = nn.Sequential(nn.Linear(count, 8), nn.ReLU(), nn.Linear(8, 3))
    classifier = create_classifier(TwoLayers(pooled=pooled), 3, image_size=32, head=head)
    assert classifier.group_names[-1] == "head"
    assert len(classifier.group_starts) == 2
    assert classifier.feature_count == count
    classifier.freeze()
    classifier.train()
    assert not classifier.backbone.norm.training
    assert [len(group) for group in classifier.parameter_groups()] == [0, 4]
    assert classifier(pixels).shape == (5, 3)
    assert "backbone.conv.weight" in classifier.state_dict()


class Flattening(nn.Module):
    """Flattens by `view`, as tutorials do, which channels-last memory does not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, stride=4)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        features = self.conv(pictures)
        return features.view(features.size(0), -1)


def test_a_body_that_needs_contiguous_memory_gets_it(pixels: torch.Tensor) -> None:
    classifier = create_classifier(Flattening(), 3, image_size=32)
    assert classifier.memory_format == torch.contiguous_format
    assert create_classifier(TwoLayers(pooled=True), 3, image_size=32).memory_format == torch.channels_last
    classifier = classifier.to(memory_format=classifier.memory_format)
    assert classifier(pixels.to(memory_format=torch.channels_last)).shape == (5, 3)


def test_convolutions_take_pictures_of_another_size(classifier: Classifier) -> None:
    classifier.freeze()
    assert classifier.set_image_size(48) == (48, 48)
    assert classifier.frozen_line == classifier.head_stage
    assert classifier.activation_shape(0) == (3, 48, 48)


def test_fixed_positions_are_resized_and_the_line_stays() -> None:
    classifier = create_classifier("test_vit", 4, from_scratch=True, image_size=32)
    classifier.freeze_to(1)
    assert classifier.set_image_size((50, 64)) == (48, 64)
    assert classifier.backbone.pos_embed.shape == (1, 1 + 3 * 4, 64)
    assert classifier.group_starts[1] == classifier.frozen_line
    assert not classifier.backbone.pos_embed.requires_grad
    pixels = torch.zeros(2, 3, 48, 64, dtype=torch.uint8)
    torch.testing.assert_close(classifier.upper()(classifier.lower()(pixels)), classifier(pixels))


def test_too_small_a_size_is_refused_and_leaves_the_classifier_as_it_was() -> None:
    classifier = create_classifier("densenet121", 2, from_scratch=True, image_size=32)
    with pytest.raises(UsageError, match="too small"):
        classifier.set_image_size(8)
    assert classifier.image_size == (32, 32)
    assert classifier(torch.zeros(2, 3, 32, 32)).shape == (2, 2)


def test_the_head_takes_the_probe_exactly(classifier: Classifier, pixels: torch.Tensor) -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(60, classifier.feature_count)).astype(np.float32)
    probe = fit_probe(features, np.arange(60) % 4, 4)
    classifier.init_head_from(probe.weight, probe.bias)
    classifier.freeze()
    classifier.eval()
    with torch.no_grad():
        logits = classifier(pixels).numpy()
        activations = classifier.lower()(pixels).numpy()
    np.testing.assert_allclose(logits, probe.logits(activations), rtol=1e-5, atol=1e-5)


def test_only_a_linear_head_of_the_same_shape_takes_weights(classifier: Classifier) -> None:
    with pytest.raises(UsageError, match=r"takes \(4, 192\) and got \(3, 192\)"):
        classifier.init_head_from(np.zeros((3, 192)), np.zeros(3))
    course = create_classifier("test_resnet", 4, from_scratch=True, image_size=32, head="course")
    with pytest.raises(UsageError, match="only a linear head"):
        course.init_head_from(np.zeros((4, 192)), np.zeros(4))


def test_the_summary_says_what_trains(classifier: Classifier) -> None:
    classifier.freeze()
    frozen = classifier.summary().splitlines()
    assert [line.split()[-1] for line in frozen[1:-1]] == ["frozen"] * 6 + ["trains"]
    total = sum(p.numel() for p in classifier.parameters())
    assert frozen[-1] == f"test_resnet at 32x32: {total:,} parameters, 772 of them train"
    classifier.unfreeze()
    assert "frozen" not in classifier.summary()
    assert classifier.summary().splitlines()[-1].count(f"{total:,}") == 2


def test_a_classifier_has_classes() -> None:
    with pytest.raises(UsageError, match="0 classes"):
        create_classifier("test_resnet", 0, from_scratch=True)


def test_creation_draws_from_its_seed_alone(pixels: torch.Tensor) -> None:
    state = torch.random.get_rng_state()
    first, second = (
        create_classifier("test_resnet", 4, from_scratch=True, image_size=32, seed=3).eval() for _ in range(2)
    )
    assert torch.equal(first(pixels), second(pixels))
    assert torch.equal(torch.random.get_rng_state(), state)
