"""Heat maps against independent computations, and against a truth that is known."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn

from headstart.models import Backbone, Classifier, create_classifier, heat_maps
from headstart.models.backbones import resized, without_pool

SIZE = (64, 96)


def made(arch: str, size: tuple[int, int] = SIZE) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = timm.create_model(arch, num_classes=0)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        native = module.pretrained_cfg["input_size"][1:]
        classifier = create_classifier(
            without_pool(resized(Backbone(arch, module, image_size=native), size)), 3
        )
        nn.init.normal_(classifier.head.weight)
    return classifier.eval()


def some_pixels(count: int = 2, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def enlarged(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, with half-pixel centres, one axis after the other, then divided by the largest value."""
    for axis, side in enumerate(size, start=1):
        count = maps.shape[axis]
        place = np.clip((np.arange(side) + 0.5) * count / side - 0.5, 0, count - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, count - 1)
        shape = [1, 1, 1]
        shape[axis] = side
        share = (place - low).reshape(shape)
        maps = np.take(maps, low, axis) * (1 - share) + np.take(maps, high, axis) * share
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-300)


def last_activations(classifier: Classifier, pixels: np.ndarray) -> np.ndarray:
    """What timm's own module gives, (batch, channels, rows, columns)."""
    inputs = torch.as_tensor(pixels).permute(0, 3, 1, 2)
    with torch.no_grad():
        return np.asarray(classifier.backbone(classifier.standardise(inputs)).double())


@pytest.mark.parametrize("arch", ["resnet18", "mobilenetv2_100"])
def test_grad_cam_equals_its_closed_form_for_a_linear_head_on_pooled_features(arch: str) -> None:
    """Of max and mean pooling the mean gradient of channel c is (w_max + w_mean) / places: no autograd."""
    classifier, pixels = made(arch), some_pixels()
    activations = last_activations(classifier, pixels)
    weights = classifier.head.weight.detach().double().numpy()
    channels = activations.shape[1]
    for number in range(3):
        both = weights[number, :channels] + weights[number, channels:]
        expected = np.maximum(np.einsum("c,bcij->bij", both, activations), 0)
        if not expected.max(axis=(1, 2)).all():
            continue
        found = heat_maps(classifier, pixels, [number] * 2, method="gradcam")
        np.testing.assert_allclose(found, enlarged(expected, SIZE), atol=2e-5)
        wrong = np.maximum(np.einsum("c,bcij->bij", weights[number, :channels], activations), 0)
        assert np.abs(found - enlarged(wrong + 1e-9, SIZE)).max() > 1e-2, "another weighting is seen"


def test_grad_cam_equals_a_reference_that_hooks_the_layer_and_goes_back_through_the_whole_network() -> None:
    """As the method's authors write it: a hook on the last convolutional layer, `backward` of one logit."""
    classifier, pixels = made("resnet18"), some_pixels()
    kept: dict[str, torch.Tensor] = {}

    def keep(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        output.retain_grad()
        kept["activations"] = output

    handle = classifier.backbone.layer4.register_forward_hook(keep)
    expected = []
    asked = [(number, picture) for number in range(3) for picture in pixels]
    for number, picture in asked:
        classifier.zero_grad()
        classifier(torch.as_tensor(picture)[None].permute(0, 3, 1, 2))[0, number].backward()
        activations = kept["activations"]
        alpha = activations.grad.mean(dim=(2, 3), keepdim=True)  # type: ignore[union-attr]
        expected.append(torch.relu((alpha * activations).sum(1))[0].detach().numpy())
    handle.remove()
    classifier.zero_grad()
    assert np.stack(expected).any(axis=(1, 2)).sum() >= 3, "maps without heat would compare nothing"
    found = heat_maps(
        classifier,
        np.stack([picture for _, picture in asked]),
        [number for number, _ in asked],
        method="gradcam",
    )
    np.testing.assert_allclose(found, enlarged(np.stack(expected), SIZE), atol=2e-5)


def test_rollout_equals_attention_that_is_computed_by_hand() -> None:
    """Queries and keys from the weights, in float64; half of identity for the residual; the class's row."""
    classifier, pixels = made("vit_tiny_patch16_224"), some_pixels()
    entering: list[torch.Tensor] = []
    body = classifier.backbone
    handles = [
        block.attn.register_forward_hook(lambda module, inputs, output: entering.append(inputs[0]))
        for block in body.blocks
    ]
    last_activations(classifier, pixels)
    for handle in handles:
        handle.remove()
    rolled = np.eye(1 + 4 * 6)[None]
    for block, tokens in zip(body.blocks, entering, strict=True):
        heads = block.attn.num_heads
        weight, bias = (p.detach().double().numpy() for p in (block.attn.qkv.weight, block.attn.qkv.bias))
        mixed = np.asarray(tokens.double()) @ weight.T + bias
        query, key, _ = np.split(mixed, 3, axis=2)
        parts = []
        for q, k in zip(np.split(query, heads, axis=2), np.split(key, heads, axis=2), strict=True):
            scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[2])
            powers = np.exp(scores - scores.max(axis=2, keepdims=True))
            parts.append(powers / powers.sum(axis=2, keepdims=True))
        rolled = (np.mean(parts, axis=0) + np.eye(25)) / 2 @ rolled
    np.testing.assert_allclose(rolled.sum(axis=2), 1, atol=1e-9)
    expected = enlarged(rolled[:, 0, 1:].reshape(2, 4, 6), SIZE)
    found = heat_maps(classifier, pixels, [0, 0], method="rollout")
    np.testing.assert_allclose(found, expected, atol=1e-4)
    turned = enlarged(rolled[:, 0, 1:].reshape(2, 6, 4).transpose(0, 2, 1), SIZE)
    assert np.abs(found - turned).max() > 1e-2, "rows and columns that are swapped are seen"


class Bright(nn.Module):
    """A body of one channel that is the brightness of each field of 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 8, stride=8, bias=False)
        nn.init.constant_(self.layer.weight, 1 / 192)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        fields: torch.Tensor = torch.relu(self.layer(pictures))
        return fields


def test_the_heat_lies_where_the_thing_is() -> None:
    classifier = create_classifier(Bright(), 2, image_size=SIZE)
    with torch.no_grad():
        classifier.head.weight.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    pixels = np.zeros((1, *SIZE, 3), np.uint8)
    pixels[0, 8:16, 72:80] = 255  # one field: the second row, the tenth column
    heat = heat_maps(classifier, pixels, [0])[0]
    assert np.unravel_index(int(heat.argmax()), heat.shape)[0] in range(8, 16)
    assert np.unravel_index(int(heat.argmax()), heat.shape)[1] in range(72, 80)
    assert heat[:, :60].max() == 0
    against = heat_maps(classifier, pixels, [1])
    assert not against.any(), "what speaks against a class is not heat"
