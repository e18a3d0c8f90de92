"""A small bundle and a few pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.augment import EvalPrepare
from headstart.data.colours import WHITE, Background
from headstart.deploy import Manifest, member_of, save_bundle
from headstart.models import Classifier, create_classifier
from headstart.types import Task

CLASSES = ("cat", "Hund", "鳥 <b>")
SIZE = (48, 64)
SHORT_SIDE = 56


def small_model(
    arch: str = "test_resnet", *, seed: int = 0, class_count: int = 3, **options: object
) -> Classifier:
    """A network with random weights that tells its inputs apart."""
    import torch

    model = create_classifier(
        arch,
        class_count,
        from_scratch=True,
        image_size=SIZE,
        seed=seed,
        **options,  # type: ignore[arg-type]
    )
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)  # timm starts some residual branches at zero
        for parameter in model.head.parameters():
            parameter.normal_(std=0.5)
    return model.eval()


def manifest_of(*models: Classifier, background: Background = WHITE, **changes: object) -> Manifest:
    """The manifest of networks that take pictures of `SIZE`."""
    plain = EvalPrepare(SIZE, crop_fraction=0.9)
    members = tuple(member_of(model, plain, short_side=SHORT_SIDE, background=background) for model in models)
    fields: dict[str, object] = {
        "members": members,
        "classes": CLASSES,
        "task": Task.SINGLE_LABEL,
        "temperature": 1.5,
        "metrics": {"valid accuracy": {"value": 0.9, "low": 0.8, "high": 0.95}},
        "data": "0123",
    }
    return Manifest(**(fields | changes))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Saved:
    """A model, and the bundle that it was saved as."""

    model: Classifier
    manifest: Manifest
    folder: Path


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A bundle that no test may change."""
    model = small_model()
    folder = tmp_path_factory.mktemp("bundle") / "model"
    return Saved(model, save_bundle(folder, [model], manifest_of(model)), folder)


def save_small(folder: Path, *, seed: int = 0, **changes: object) -> Path:
    """Save another small model as a bundle, and return its folder."""
    model = small_model(seed=seed, class_count=len(changes.get("classes", CLASSES)))  # type: ignore[arg-type]
    save_bundle(folder, [model], manifest_of(model, **changes), replace_old=True)  # type: ignore[arg-type]
    return folder


def picture(number: int, height: int = 90, width: int = 120) -> np.ndarray:
    """A smooth coloured picture, another one for each number."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin((x * (number % 5 + 1) + y * (colour + 1)) / 17 + number) for colour in range(3)]
    return (127.5 + 127 * np.stack(waves, -1)).astype(np.uint8)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six picture files of several formats and shapes."""
    folder = tmp_path_factory.mktemp("pictures")
    names = ["a.png", "b.jpg", "c d.jpg", "é.bmp", "wide.png", "large.jpg"]
    shapes = [(90, 120), (90, 120), (120, 90), (64, 64), (60, 300), (700, 500)]
    for number, (name, (height, width)) in enumerate(zip(names, shapes, strict=True)):
        Image.fromarray(picture(number, height, width)).save(folder / name)
    return [folder / name for name in names]
