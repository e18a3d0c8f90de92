"""Bodies: any timm architecture without its classifier, with what its weights expect of pictures."""

from __future__ import annotations

import contextlib
import difflib
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from headstart.errors import UsageError
from headstart.models.weights import WeightsSource, download_weights, find_weights, load_weights
from headstart.storage import sha256_file
from headstart.types import Size, parse_size

if TYPE_CHECKING:
    from collections.abc import Sequence

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
OWN_MODULE = WeightsSource("module")


@dataclass(frozen=True, eq=False)
class Backbone:
    """A body and what it expects of pictures.

    `module` maps float pictures (batch, 3, height, width), standardised by `mean` and `std` (of
    values in 0 … 1), to a feature map or to pooled features. `interpolation` and `crop_fraction`
    are how the weights' authors prepared pictures for evaluation. `image_size` is what the module
    is set to take, `native_size` what the weights were trained at; `note` says in words where the
    size differs from what was asked for. `channels_last` says that a feature map comes out as
    (batch, height, width, channels).
    """

    arch: str
    module: nn.Module
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bicubic"
    crop_fraction: float = 0.875
    image_size: Size = (224, 224)
    native_size: Size = (224, 224)
    channels_last: bool = False
    weights: WeightsSource = OWN_MODULE
    note: str = ""


def list_architectures(contains: str = "") -> list[str]:
    """Return the names of all timm architectures that contain a text."""
    import timm

    return [name for name in timm.list_models() if contains.lower() in name]


def create_backbone(
    arch: str,
    *,
    weights: str | Path | None = None,
    from_scratch: bool = False,
    image_size: int | str | Size | None = None,
    seed: int = 0,
) -> Backbone:
    """Create a timm body by name (`resnet34`, or with a tag: `resnet34.a1_in1k`).

    Weights come from `weights` (a safetensors file, a bundle or a folder of `<timm name>.safetensors`),
    else from `HEADSTART_WEIGHTS`, else from the hub; `from_scratch` draws them at random from `seed`.
    `image_size` (the weights' own by default) is rounded for bodies of fixed positions.

    Raises `UsageError` for an unknown name (with the nearest ones) and for pictures that are too
    small, `InputMissingError` and `ConfigError` for weights that are not there or do not fit, and
    `StorageError` when the hub cannot be reached.
    """
    check_architecture(arch)
    import timm

    with seeded(seed):
        module = timm.create_model(arch, pretrained=False, num_classes=0)
    told: dict[str, Any] = cast(Any, module).pretrained_cfg
    source = WeightsSource("scratch") if from_scratch else _load(module, arch, told, weights)
    native = cast(Size, tuple(told["input_size"][-2:]))
    backbone = Backbone(
        arch=arch,
        module=module,
        mean=tuple(told["mean"]),
        std=tuple(told["std"]),
        interpolation=told["interpolation"],
        crop_fraction=float(told["crop_pct"]),
        image_size=native,
        native_size=native,
        channels_last=getattr(module, "output_fmt", "NCHW") == "NHWC",
        weights=source,
    )
    return without_pool(resized(backbone, native if image_size is None else parse_size(image_size)))


def check_architecture(arch: str) -> None:
    """Raise `UsageError` for a name that timm does not know, with the nearest ones."""
    from timm.models import get_pretrained_cfg, is_model, list_models, list_pretrained, split_model_name_tag

    name, tag = split_model_name_tag(arch)
    if not is_model(name) or ":" in arch:
        near = difflib.get_close_matches(name.lower(), list_models(), n=5, cutoff=0.5)
        raise UsageError(
            f"there is no architecture {arch!r}",
            f"the nearest are {', '.join(near)}" if near else "`headstart models` lists them all",
        )
    try:
        get_pretrained_cfg(arch)
    except RuntimeError as error:
        tags = [known.partition(".")[2] for known in list_pretrained(f"{name}.*")]
        raise UsageError(
            f"{name} has no weights tagged {tag!r}", f"its tags are {', '.join(tags) or 'none'}"
        ) from error


def _load(module: nn.Module, arch: str, told: dict[str, Any], weights: str | Path | None) -> WeightsSource:
    path = find_weights(arch, weights)
    if path is None:
        kind, location = "hub", str(told.get("hf_hub_id"))
        path = download_weights(arch, told.get("hf_hub_id"), told.get("hf_hub_filename"))
        licence = str(told.get("license") or "")
    else:
        kind, location, licence = "file", str(path), ""
    classifier = told.get("classifier") or ()
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    load_weights(
        module,
        path,
        arch=arch,
        classifier=(classifier,) if isinstance(classifier, str) else tuple(classifier),
        convert=partial(convert, model=module) if convert else None,
    )
    return WeightsSource(kind, location, sha256_file(path), licence)


def resized(backbone: Backbone, size: Size) -> Backbone:
    """Return the body set to take pictures of `size`; its module is changed in place.

    Bodies of fixed positions (ViT, Swin) are resized by timm's `set_input_size`, to a multiple of
    the patch. Raises `UsageError` when the pictures are smaller than that.
    """
    module = backbone.module
    set_input_size = getattr(module, "set_input_size", None)
    told: dict[str, Any] = getattr(module, "pretrained_cfg", {})
    note = ""
    asked = size
    if set_input_size is not None and told.get("fixed_input_size") and size != backbone.image_size:
        size = _whole_patches(module, size)
        if size != asked:
            note = f"{backbone.arch} takes whole patches: {_text(asked)} became {_text(size)}"
        try:
            with warnings.catch_warnings():
                # What torch says of how timm interpolates tables of positions is not for the user.
                warnings.filterwarnings("ignore", category=UserWarning, module=r"timm\.")
                set_input_size(img_size=size)
        except (AssertionError, RuntimeError, ValueError, ZeroDivisionError) as error:
            raise _cannot_take(backbone.arch, asked, error) from error
    return replace(backbone, image_size=size, note=note)


def _whole_patches(module: nn.Module, size: Size) -> Size:
    patch = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    if patch is None:
        # Windows of a hybrid body (MaxViT) divide the map, whose side is a 32nd of the picture's.
        patch = (32, 32)
    steps = patch if isinstance(patch, tuple) else (patch, patch)
    height, width = (max(1, round(side / step)) * step for side, step in zip(size, steps, strict=True))
    return (height, width)


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _cannot_take(arch: str, size: Size, error: Exception) -> UsageError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
    return UsageError(
        f"pictures of {_text(size)} are too small for {arch}: {reason}", "choose a larger --image-size"
    )


def example_picture(backbone: Backbone) -> torch.Tensor:
    """Return one standardised picture (1, 3, height, width) of the body's image size, on its device.

    A ramp, since a network without biases would make nothing of a constant.
    """
    first = next(iter(backbone.module.parameters()), torch.zeros(()))
    height, width = backbone.image_size
    ramp = torch.linspace(-2, 2, 3 * height * width, device=first.device, dtype=first.dtype)
    return ramp.view(1, 3, height, width)


def example_features(backbone: Backbone) -> torch.Tensor:
    """Return what the body makes of one picture of its image size, in evaluation mode.

    Raises `UsageError` when the body cannot take the picture, or gives anything but a feature map
    (batch, channels, height, width) or features (batch, count).
    """
    features = _try(backbone, backbone.module)
    if not isinstance(features, torch.Tensor) or features.numel() == 0 or features.ndim not in (2, 4):
        kind = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise UsageError(
            f"the body {backbone.arch} gives {kind}",
            "a body gives a feature map (batch, channels, height, width) or features (batch, count)",
        )
    return features


def without_pool(backbone: Backbone) -> Backbone:
    """Take the pool off bodies that pool a feature map: the classifier pools in its own way.

    Bodies of tokens keep their own pool, which belongs to how they were pretrained, and so do those
    that know no other way.
    """
    module = cast(Any, backbone.module)
    features = _try(backbone, module.forward_features)
    if isinstance(features, torch.Tensor) and features.ndim == 4:
        with contextlib.suppress(AssertionError, TypeError, ValueError):
            module.reset_classifier(0, "")
    return backbone


def _try(backbone: Backbone, forward: Callable[[torch.Tensor], object]) -> object:
    with evaluating(backbone.module), torch.no_grad():
        try:
            return forward(example_picture(backbone))
        except (AssertionError, RuntimeError, ValueError, IndexError) as error:
            raise _cannot_take(backbone.arch, backbone.image_size, error) from error


def memory_format_of(backbone: Backbone) -> torch.memory_format:
    """Return channels-last, which convolutions are fastest in, unless the body cannot take it.

    Many a hand-written network flattens by `view`, which only contiguous memory allows.
    """
    if backbone.weights.kind != "module":
        return torch.channels_last
    picture = example_picture(backbone).to(memory_format=torch.channels_last)
    with evaluating(backbone.module), torch.no_grad():
        try:
            backbone.module(picture)
        except RuntimeError:
            return torch.contiguous_format
    return torch.channels_last


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode for a while; afterwards every part is in the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextlib.contextmanager
def seeded(seed: int, devices: Sequence[int] = ()) -> Iterator[None]:
    """Draw from torch's generator as from a fresh one of `seed`; the caller's state is kept."""
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        yield
