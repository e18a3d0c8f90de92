"""What every method of heat maps must hold to, over bodies of all kinds, with random weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from headstart.errors import UsageError
from headstart.models import HEAT_METHODS, Backbone, Classifier, create_classifier, heat_maps, method_for
from headstart.models.backbones import resized, without_pool

# Architecture, (height, width), the method that `auto` takes.
BODIES = [
    ("resnet18", (64, 96), "gradcam"),
    ("mobilenetv2_100", (64, 96), "gradcam"),
    ("convnext_atto", (64, 96), "gradcam"),
    ("swin_tiny_patch4_window7_224", (64, 64), "gradcam"),
    ("caformer_s18", (64, 96), "gradcam"),
    ("vit_tiny_patch16_224", (64, 96), "rollout"),
    ("deit_tiny_distilled_patch16_224", (64, 96), "rollout"),
    ("test_vit", (48, 64), "rollout"),
    ("test_vit2", (48, 64), "rollout"),
    ("beit_base_patch16_224", (64, 96), "rollout"),
]
CASES = [
    pytest.param(arch, size, method, id=f"{arch}-{method}")
    for arch, size, auto in BODIES
    for method in HEAT_METHODS
    if method == "gradcam" or auto == "rollout"
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from threads, and lose much where other tests run beside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def classifier_of(arch: str, size: tuple[int, int]) -> Classifier:
    """A body whose weights are nowhere zero, and a head that tells three classes apart; made once."""
    options = {"depth": 2} if arch.startswith("beit") else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = timm.create_model(arch, num_classes=0, **options)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        native = module.pretrained_cfg["input_size"][1:]
        layout = getattr(module, "output_fmt", "NCHW") == "NHWC"
        body = Backbone(arch, module, image_size=native, channels_last=layout)
        made = create_classifier(without_pool(resized(body, size)), 3)
        nn.init.normal_(made.head.weight)
    return made.eval()


def some_pixels(size: tuple[int, int], count: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


@pytest.mark.parametrize(("arch", "size", "method"), CASES)
def test_heat_is_of_the_view_between_nothing_and_one_and_touches_nothing(
    arch: str, size: tuple[int, int], method: str
) -> None:
    classifier = classifier_of(arch, size).train()
    classifier.freeze()
    before = copy.deepcopy(classifier.state_dict())
    modes = [module.training for module in classifier.modules()]
    trains = [parameter.requires_grad for parameter in classifier.parameters()]
    fused = [getattr(module, "fused_attn", None) for module in classifier.modules()]
    pixels = some_pixels(size)
    heat = heat_maps(classifier, pixels, [0, 1, 2], method=method)
    assert heat.shape == (3, *size)
    assert heat.dtype == np.float32
    assert np.isfinite(heat).all()
    assert heat.min() >= 0
    peaks = heat.max(axis=(1, 2))
    assert np.all((np.abs(peaks - 1) < 1e-6) | (peaks == 0))
    assert peaks.any()

    # However batched, and again, the same; in training mode as in evaluation.
    alone = np.concatenate([heat_maps(classifier, pixels[[k]], [k], method=method) for k in range(3)])
    np.testing.assert_allclose(alone, heat, atol=2e-4)
    assert np.array_equal(heat_maps(classifier.eval(), pixels, [0, 1, 2], method=method), heat)

    classifier.train()
    assert [module.training for module in classifier.modules()] == modes
    assert [parameter.requires_grad for parameter in classifier.parameters()] == trains
    assert [getattr(module, "fused_attn", None) for module in classifier.modules()] == fused
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())
    assert not any(module._forward_hooks for module in classifier.modules())
    classifier.eval()


@pytest.mark.parametrize(("arch", "size", "auto"), BODIES, ids=[body[0] for body in BODIES])
def test_the_method_that_fits_the_body_is_taken(arch: str, size: tuple[int, int], auto: str) -> None:
    classifier = classifier_of(arch, size)
    assert method_for(classifier) == auto
    pixels = some_pixels(size, 1)
    chosen = heat_maps(classifier, pixels, [0])
    assert np.array_equal(chosen, heat_maps(classifier, pixels, [0], method=auto))
    if auto == "gradcam":
        with pytest.raises(UsageError, match=r"rollout|places"):
            heat_maps(classifier, pixels, [0], method="rollout")


def test_grad_cam_is_about_the_class_and_rollout_is_not() -> None:
    classifier = classifier_of("vit_tiny_patch16_224", (64, 96))
    pixels = some_pixels((64, 96), 1)

    def differ(method: str) -> bool:
        one, other = (heat_maps(classifier, pixels, [number], method=method) for number in (0, 1))
        return bool(np.abs(one - other).max() > 1e-3)

    assert differ("gradcam")
    assert not differ("rollout")


def test_what_is_not_there_is_refused() -> None:
    classifier = classifier_of("resnet18", (64, 96))
    pixels = some_pixels((64, 96), 2)
    with pytest.raises(UsageError, match="no method 'lime'"):
        heat_maps(classifier, pixels, [0, 1], method="lime")
    with pytest.raises(UsageError, match=r"classes are 0 … 2"):
        heat_maps(classifier, pixels, [0, 3])
    with pytest.raises(UsageError, match="as many classes"):
        heat_maps(classifier, pixels, [0])


class Vector(nn.Module):
    """A body that gives features without places."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.layer(pictures.mean((2, 3)))
        return features


def test_a_body_in_one_piece_without_places_is_refused() -> None:
    with pytest.raises(UsageError, match="without places"):
        heat_maps(create_classifier(Vector(), 2, image_size=32), some_pixels((32, 32), 1), [0])
