"""What every body must hold to: its stages run one after the other are the whole, in both modes.

The bodies are built at small sizes with random weights; drop path is switched on, so
that a stage which had one mode baked in, or drew in another order, would be seen.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import timm
import torch
from torch import nn

from headstart.models import Backbone, Classifier, concat_pool, create_classifier
from headstart.models.backbones import example_features, resized, without_pool

DROP_PATH = {"drop_path_rate": 0.2}
# Architecture, side of the pictures, number of the body's stages, what makes it draw in training.
BODIES = [
    ("resnet34", 64, 5, DROP_PATH),
    ("resnext50_32x4d", 64, 5, DROP_PATH),
    ("resnet50", 64, 5, DROP_PATH),
    ("convnext_tiny", 64, 5, DROP_PATH),
    ("vit_small_patch16_224", 64, 13, DROP_PATH),
    ("mobilenetv2_100", 64, 8, DROP_PATH),
    ("mobilenetv4_conv_small", 64, 7, DROP_PATH),
    ("efficientnet_b0", 64, 8, DROP_PATH),
    ("swin_tiny_patch4_window7_224", 64, 5, DROP_PATH),
    ("densenet121", 64, 5, {"proj_drop_rate": 0.1}),
    ("regnety_004", 64, 5, DROP_PATH),
    ("vgg16_bn", 64, 14, {"drop_rate": 0.1, "mlp_ratio": 1 / 64}),
    ("caformer_s18", 64, 1, DROP_PATH),
    ("test_resnet", 48, 5, DROP_PATH),
    ("test_efficientnet", 48, 6, DROP_PATH),
    ("test_vit", 48, 7, DROP_PATH),
    ("test_convnext", 64, 5, DROP_PATH),
    ("test_byobnet", 48, 5, DROP_PATH),
]
TOLERANCE = 1e-5


def body_of(arch: str, side: int, options: dict[str, float] = DROP_PATH) -> Backbone:
    """A body with drop path, weights that are nowhere zero, and its own layer scales."""
    torch.manual_seed(0)
    module = timm.create_model(arch, num_classes=0, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    native = module.pretrained_cfg["input_size"][1:]
    layout = getattr(module, "output_fmt", "NCHW") == "NHWC"
    return without_pool(
        resized(Backbone(arch, module, image_size=native, channels_last=layout), (side, side))
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from threads, and lose much where other tests run beside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Whole(nn.Module):
    """The body, called as timm made it, then the pool and the head: what the stages must equal."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.classifier.backbone(self.classifier.standardise(pixels))
        if features.ndim == 4:
            features = concat_pool(features, channels_last=self.classifier.info.channels_last)
        return self.classifier.head(features)


def traces(module: nn.Module, classifier: Classifier, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """All that a step in training mode under one seed leaves: output, gradients, buffers."""
    classifier.train()
    classifier.zero_grad()
    torch.manual_seed(1)
    output = module(pixels)
    output.square().sum().backward()
    found = {"output": output.detach()}
    found |= {f"gradient of {n}": p.grad for n, p in classifier.named_parameters() if p.grad is not None}
    return found | {f"buffer {n}": b for n, b in classifier.named_buffers()}


def differences(
    ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]
) -> Iterator[tuple[str, float]]:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        other = theirs[name].double()
        scale = max(float(other.abs().max()), 1e-6)
        yield name, float((tensor.double() - other).abs().max()) / scale


@pytest.mark.parametrize(("arch", "side", "stages", "options"), BODIES, ids=[body[0] for body in BODIES])
def test_the_stages_of_a_body_are_the_whole(
    arch: str, side: int, stages: int, options: dict[str, float]
) -> None:
    backbone = body_of(arch, side, options)
    classifier = create_classifier(backbone, 3)
    names = [stage.name for stage in classifier.stages]
    has_pool = "pool" in names
    assert len(names) == stages + has_pool + 1, names
    assert len(set(names)) == len(names)
    assert len(classifier.group_starts) == (3 if stages > 1 else 2)

    # Every parameter once, under the name that timm gives it.
    parts = [set(classifier.stage_parameters(k, k + 1)) for k in range(len(names))]
    assert sum(map(len, parts)) == len(set().union(*parts))
    assert set().union(*parts) == {name for name, _ in classifier.named_parameters()}
    grouped = [id(p) for group in classifier.parameter_groups() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in classifier.parameters())

    pixels = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8)
    twin = copy.deepcopy(classifier)
    whole = Whole(twin)
    classifier.eval()
    twin.eval()
    with torch.no_grad():
        torch.testing.assert_close(classifier(pixels), whole(pixels), rtol=TOLERANCE, atol=TOLERANCE)
    ours, theirs = traces(classifier, classifier, pixels), traces(whole, twin, pixels)
    worst = max(differences(ours, theirs), key=lambda entry: entry[1])
    assert worst[1] <= TOLERANCE, worst


def test_a_stage_in_the_wrong_mode_would_be_seen() -> None:
    classifier = create_classifier(body_of("test_efficientnet", 48), 3)
    twin = copy.deepcopy(classifier)
    pixels = torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8)

    class Baked(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            for module in classifier.stage_modules(2, 3).values():
                module.eval()
            return classifier(pixels)

    ours, theirs = traces(Baked(), classifier, pixels), traces(Whole(twin), twin, pixels)
    assert max(value for _, value in differences(ours, theirs)) > 1e-3


def test_other_draws_of_drop_path_would_be_seen() -> None:
    classifier = create_classifier(body_of("test_vit", 48), 3)
    pixels = torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8)
    classifier.train()
    torch.manual_seed(1)
    first = classifier(pixels)
    torch.manual_seed(2)
    assert not torch.equal(first, classifier(pixels))


def test_example_features_see_the_map_of_a_channels_last_body() -> None:
    backbone = body_of("swin_tiny_patch4_window7_224", 64)
    assert backbone.channels_last
    assert example_features(backbone).shape == (1, 2, 2, 768)
