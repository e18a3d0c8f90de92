"""Real weights and the features of real pictures, for the tests that need them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from headstart.models import Classifier, create_classifier, frozen_engine


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from threads, and lose much where other tests run beside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def pretrained(shared: Path) -> Classifier:
    """mobilenetv2_100 with its real weights, the head frozen off; not to be changed."""
    classifier = create_classifier("mobilenetv2_100", 5, weights=shared / "weights")
    classifier.freeze()
    return classifier


@pytest.fixture(scope="session")
def flowers(shared: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The 800 flower pictures, prepared as the weights expect: short side 256, centre 224."""
    root = shared / "data" / "flowers"
    pictures, labels = [], []
    for label, folder in enumerate(sorted(path for path in root.iterdir() if path.is_dir())):
        for file in sorted(folder.iterdir()):
            with Image.open(file) as image:
                scale = 256 / min(image.size)
                size = (round(image.width * scale), round(image.height * scale))
                whole = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
            left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
            pictures.append(np.asarray(whole.crop((left, top, left + 224, top + 224))))
            labels.append(label)
    return np.stack(pictures), np.array(labels)


@pytest.fixture(scope="session")
def flower_features(
    pretrained: Classifier, flowers: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What lies before the head for each of the flower pictures."""
    pictures, labels = flowers
    engine = frozen_engine(pretrained, size=(224, 224))
    assert engine.name == "onnxruntime"
    parts = [engine(pictures[start : start + 32]) for start in range(0, len(pictures), 32)]
    return np.concatenate(parts), labels
