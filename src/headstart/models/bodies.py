"""Bodies to choose from: what each is, whether its weights are at hand, what it costs on this machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from headstart.environment import core_count, machine
from headstart.errors import ConfigError, HeadstartError, InputMissingError
from headstart.models.backbones import Backbone, check_architecture, resized, seeded, without_pool
from headstart.models.classifier import Classifier, create_classifier
from headstart.models.engine import EagerEngine, frozen_engine
from headstart.models.weights import cached_architectures, find_weights
from headstart.storage import cache_dir, content_key, read_json, write_json
from headstart.types import Size

# Bodies that suit a few hundred to some ten thousand pictures, from small to large: the next one is for
# where one does not suffice. Any other timm name works as well.
LADDER = (
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "efficientnet_b0",
    "resnet34",
    "resnet50",
    "convnext_nano",
    "vit_small_patch16_224",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
)
# Part of every key of what was measured.
MEASURE_VERSION = 1
BATCH = 4
# AdamW holds weights, gradients and two moments, each float32.
TRAINING_COPIES = 4


@dataclass(frozen=True)
class BodyFacts:
    """What is known of a body without running it.

    `parameters`: without the classifier. `native_size`: the (height, width) that the weights were trained
    at. `licence`: what the registry says of the weights, empty when it says nothing. `weights`: the file
    that is at hand, `hub` where the hub's cache holds it, or empty. `next_up`: the body to try next where
    this one does not suffice.
    """

    arch: str
    parameters: int
    native_size: Size
    licence: str
    weights: str
    next_up: str


@dataclass(frozen=True)
class BodyCost:
    """What a body costs on this machine, at `image_size`.

    `frozen_rate`: pictures a second through the frozen body, by `engine`. `training_rate`: pictures a
    second that train with every layer unfrozen. `weight_bytes`: of the weights as float32.
    `bytes_per_picture`: what training keeps of each picture of a batch until its gradients are there.
    """

    image_size: Size
    engine: str
    frozen_rate: float
    training_rate: float
    weight_bytes: int
    bytes_per_picture: int

    def training_bytes(self, batch_size: int) -> int:
        """Return the memory that training the whole network takes, about: weights, AdamW, activations."""
        return TRAINING_COPIES * self.weight_bytes + batch_size * self.bytes_per_picture


def suitable_bodies(weights: str | Path | None = None) -> tuple[str, ...]:
    """Return the names of suitable bodies, from small to large, then others whose weights are at hand.

    `weights`: a folder of `<timm name>.safetensors`; by default `HEADSTART_WEIGHTS`.
    """
    here = [name.partition(".")[0] for name in cached_architectures()]
    if weights is not None and Path(weights).expanduser().is_dir():
        here += [file.stem.partition(".")[0] for file in Path(weights).expanduser().glob("*.safetensors")]
    return tuple(dict.fromkeys([*LADDER, *(name for name in sorted(here) if _is_known(name))]))


def _is_known(arch: str) -> bool:
    from timm.models import is_model

    return bool(is_model(arch))


def weights_at_hand(arch: str, weights: str | Path | None = None) -> str:
    """Return the file of a body's weights that needs no download, `hub` for the hub's cache, or nothing."""
    try:
        found = find_weights(arch, weights)
    except InputMissingError:
        return ""
    if found is not None:
        return str(found)
    return "hub" if any(_same(arch, name) for name in cached_architectures()) else ""


def _same(arch: str, cached: str) -> bool:
    """Whether cached weights are those that a name stands for; without a tag, timm's default is meant."""
    if "." in arch:
        return arch == cached
    from timm.models import get_pretrained_cfg

    told = get_pretrained_cfg(arch)
    return cached == (f"{arch}.{told.tag}" if told is not None and told.tag else arch)


def describe_body(arch: str, weights: str | Path | None = None) -> BodyFacts:
    """Return what is known of a timm body; nothing is downloaded, and no memory taken for its weights.

    Raises `UsageError` for an unknown name, with the nearest ones.
    """
    check_architecture(arch)
    import timm

    with torch.device("meta"):
        module = timm.create_model(arch, pretrained=False, num_classes=0)
    told: dict[str, Any] = cast(Any, module).pretrained_cfg
    name = arch.partition(".")[0]
    place = LADDER.index(name) + 1 if name in LADDER else len(LADDER)
    height, width = told["input_size"][-2:]
    return BodyFacts(
        arch=arch,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        native_size=(int(height), int(width)),
        licence=str(told.get("license") or ""),
        weights=weights_at_hand(arch, weights),
        next_up=LADDER[place] if place < len(LADDER) else "",
    )


def measure_body(arch: str, *, size: Size | None = None, device: str = "cpu") -> BodyCost:
    """Measure what a body costs here, with random weights: values make no difference to the time.

    Measured once for a machine, and kept in the cache folder; what was kept is returned. `size` is the
    native one unless given. Raises `UsageError` for an unknown name or pictures that are too small.
    """
    check_architecture(arch)
    path = cache_dir() / "bodies" / f"{_cost_key(arch, size, device)}.json"
    known = _read_cost(path)
    if known is not None:
        return known
    cost = _measured(arch, size, device)
    with contextlib.suppress(HeadstartError):  # a cache that cannot be written costs time alone
        write_json(path, asdict(cost))
    return cost


def known_cost(arch: str, *, size: Size | None = None, device: str = "cpu") -> BodyCost | None:
    """Return what `measure_body` found on this machine before, or None."""
    return _read_cost(cache_dir() / "bodies" / f"{_cost_key(arch, size, device)}.json")


def _cost_key(arch: str, size: Size | None, device: str) -> str:
    packages = [version(name) for name in ("torch", "timm", "onnxruntime")]
    here = [str(machine()["processor"]), core_count()]
    return content_key("body", MEASURE_VERSION, arch, size, device, here, packages)


def _read_cost(path: Path) -> BodyCost | None:
    try:
        said = read_json(path)
        height, width = said["image_size"]
        return BodyCost(
            image_size=(int(height), int(width)),
            engine=str(said["engine"]),
            frozen_rate=float(said["frozen_rate"]),
            training_rate=float(said["training_rate"]),
            weight_bytes=int(said["weight_bytes"]),
            bytes_per_picture=int(said["bytes_per_picture"]),
        )
    except (ConfigError, InputMissingError, KeyError, TypeError, ValueError):
        return None


def _measured(arch: str, size: Size | None, device: str) -> BodyCost:
    import timm

    with seeded(0):
        module = timm.create_model(arch, pretrained=False, num_classes=0)
    native = cast(Size, tuple(cast(Any, module).pretrained_cfg["input_size"][-2:]))
    layout = getattr(module, "output_fmt", "NCHW") == "NHWC"
    body = Backbone(arch, module, image_size=native, native_size=native, channels_last=layout)
    classifier = create_classifier(without_pool(resized(body, size or native)), 2)
    classifier.to(device, memory_format=classifier.memory_format)  # type: ignore[call-overload]
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, *classifier.image_size, 3), np.uint8)
    classifier.freeze()
    engine = frozen_engine(classifier, size=classifier.image_size, pictures=pixels)
    frozen = _best_of_two(lambda: engine(pixels))
    classifier.unfreeze()
    kept = _kept_bytes(classifier, pixels)
    training = _best_of_two(lambda: _step(classifier, pixels))
    return BodyCost(
        image_size=classifier.image_size,
        engine="PyTorch" if isinstance(engine, EagerEngine) else engine.name,
        frozen_rate=round(BATCH / frozen, 2),
        training_rate=round(BATCH / training, 2),
        weight_bytes=sum(p.numel() * p.element_size() for p in classifier.backbone.parameters()),
        bytes_per_picture=kept // BATCH,
    )


def _step(classifier: Classifier, pixels: np.ndarray) -> None:
    classifier.train()
    inputs = torch.as_tensor(pixels).permute(0, 3, 1, 2).to(classifier.pixel_mean.device)
    classifier(inputs).square().sum().backward()
    classifier.zero_grad()
    if classifier.pixel_mean.is_cuda:
        torch.cuda.synchronize()


def _kept_bytes(classifier: Classifier, pixels: np.ndarray) -> int:
    """The bytes that a step keeps for its gradients, each tensor's memory once and weights left out."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in classifier.state_dict().values()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _step(classifier, pixels)
    return sum(kept.values())


def _best_of_two(work: Callable[[], object]) -> float:
    """The seconds of the better of two runs."""
    taken = []
    for _ in range(2):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return max(min(taken), 1e-9)
