"""A run of the recipe over a few made pictures, up to where its phases would begin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from headstart.imagedata import ImageData
from headstart.recipe import Body, Narrator, Saving, eight_steps, prepare_folder
from headstart.recipe.clock import Clock
from headstart.recipe.steps import EightSteps
from headstart.storage import save_tensors
from headstart.training import Plan


@pytest.fixture(scope="session")
def body(tmp_path_factory: pytest.TempPathFactory) -> Body:
    """A pretrained body's stand-in: seeded weights in timm's naming."""
    import timm

    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_tensors(path, timm.create_model("test_resnet", num_classes=0).state_dict())
    return Body("test_resnet", path)


@pytest.fixture
def make_steps(
    make_folder, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., EightSteps]:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))

    def make(
        plan: Plan | None = None,
        *,
        saving: Saving | None = None,
        out: str = "run",
        data: ImageData | None = None,
    ) -> EightSteps:
        if data is None:
            folder = make_folder({"cat": 30, "dog": 30})
            data = ImageData.from_folder(folder, image_size=32, valid=0.4, threads=0)
        run = prepare_folder(tmp_path / out, data.samples.root)
        chosen = plan or eight_steps()
        return EightSteps(data, chosen, body, run, Narrator(), clock=Clock(), saving=saving)

    return make


@pytest.fixture
def steps(make_steps: Callable[..., EightSteps]) -> EightSteps:
    """With a learner, before its first phase."""
    made = make_steps()
    made.folder.begin()
    made._start_learner(None)
    return made
