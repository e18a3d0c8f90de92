from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from headstart.errors import UsageError
from headstart.models import Backbone, create_backbone, create_classifier, list_architectures
from headstart.models.backbones import evaluating, seeded


def test_an_unknown_architecture_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="'resnet_34'") as caught:
        create_backbone("resnet_34")
    assert "resnet34" in caught.value.hint
    for name in ("hf-hub:someone/resnet34", "/etc/passwd", ""):
        with pytest.raises(UsageError, match="no architecture"):
            create_backbone(name)


def test_an_unknown_tag_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no weights tagged 'best'") as caught:
        create_backbone("resnet34.best")
    assert "tv_in1k" in caught.value.hint


def test_architectures_are_listed() -> None:
    assert "resnet34" in list_architectures("resnet3")
    assert len(list_architectures()) > 500


def test_a_body_carries_what_its_weights_expect() -> None:
    backbone = create_backbone("test_efficientnet", from_scratch=True)
    assert backbone.image_size == backbone.native_size == (160, 160)
    assert backbone.interpolation == "bicubic"
    assert backbone.crop_fraction == pytest.approx(0.95)
    assert backbone.weights.kind == "scratch"
    assert len(backbone.mean) == len(backbone.std) == 3
    assert backbone.module(torch.zeros(1, 3, 160, 160)).shape == (1, 256, 5, 5)


def test_from_scratch_is_a_pure_function_of_the_seed() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (
        create_backbone("test_resnet", from_scratch=True, image_size=32, seed=seed).module.conv1
        for seed in (1, 1, 2)
    )
    weights = [next(iter(module.parameters())) for module in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(state, torch.random.get_rng_state()), "the caller's random state is kept"


def test_fixed_positions_are_rounded_to_whole_patches_and_that_is_said() -> None:
    backbone = create_backbone("test_vit", from_scratch=True, image_size=(70, 100))
    assert backbone.image_size == (64, 96)
    assert "70x100 became 64x96" in backbone.note
    assert backbone.module(torch.zeros(1, 3, 64, 96)).shape == (1, 64)
    assert create_backbone("test_vit", from_scratch=True, image_size=64).note == ""
    assert create_backbone("test_resnet", from_scratch=True, image_size=(70, 100)).image_size == (70, 100)


def test_pictures_too_small_for_the_network_are_refused() -> None:
    with pytest.raises(UsageError, match=r"pictures of 8x8 are too small for densenet121"):
        create_backbone("densenet121", from_scratch=True, image_size=8)


def test_a_body_that_gives_no_single_tensor_is_refused() -> None:
    class Pair(nn.Module):
        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return pixels, pixels

    class Tokens(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.flatten(2)

    for body in (Pair(), Tokens()):
        with pytest.raises(UsageError, match=r"the body (Pair|Tokens) gives"):
            create_classifier(body, 2, image_size=16)


def test_evaluating_gives_every_part_its_own_mode_back() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm2d(3)))
    module[1].eval()
    with contextlib.suppress(ZeroDivisionError), evaluating(module):
        assert not any(part.training for part in module.modules())
        raise ZeroDivisionError
    assert [part.training for part in module.modules()] == [True, True, False, False]


def test_seeded_draws_do_not_touch_the_callers_generator() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    with seeded(9):
        first = torch.rand(3)
    with seeded(9):
        assert torch.equal(first, torch.rand(3))
    assert torch.equal(torch.rand(2), expected)


def test_a_body_of_ones_own_needs_nothing_but_a_module() -> None:
    backbone = Backbone("own", nn.Conv2d(3, 4, 3), image_size=(16, 16))
    assert create_classifier(backbone, 2).feature_count == 8
