"""One running service for the tests that do not change it, and good pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tests.unit.deploy.conftest import Saved, picture, save_small
from tests.unit.deploy.service.running import Running

from headstart.deploy import Predictor, load_predictor
from headstart.deploy.service import Settings


def file_of(number: int, kind: str = "PNG", **shape: int) -> bytes:
    """The bytes of a picture file, another one for each number."""
    stream = io.BytesIO()
    Image.fromarray(picture(number, **shape)).save(stream, kind)
    return stream.getvalue()


@pytest.fixture(scope="session")
def two_models(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of two models with the same classes that say different things."""
    return {"first": saved.folder, "second": save_small(tmp_path_factory.mktemp("second") / "model", seed=7)}


@pytest.fixture(scope="session")
def small_settings() -> Settings:
    """Limits that a test reaches soon."""
    return Settings(
        body_bytes=2**20,
        pictures=4,
        held_bytes=8 * 2**20,
        header_seconds=1.0,
        body_seconds=1.0,
        body_rate=10**9,
    )


@pytest.fixture(scope="session")
def service(two_models: dict[str, Path], small_settings: Settings) -> Iterator[Running]:
    """A service that no test may change."""
    running = Running(two_models, small_settings)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def offline(saved: Saved) -> Predictor:
    """What the first model says without a service."""
    return load_predictor(saved.folder, device="cpu", threads=1)
