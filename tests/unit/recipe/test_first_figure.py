"""What a later run of a body does before its first figure: what it loads, and what it does once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headstart.models import create_classifier, frozen_engine, weights_identity
from headstart.recipe import Body

SIZE = (64, 64)

# Ends at the first figure, and tells what was loaded and done until then.
SCRIPT = """
import json, sys
from collections import Counter
from headstart import recipe
from headstart.data import cache, children
from headstart.imagedata import ImageData

done = Counter()

def counted(owner, name):
    function = getattr(owner, name)
    def call(*arguments, **options):
        done[name] += 1
        return function(*arguments, **options)
    setattr(owner, name, call)

counted(cache, "decode_with_size")
counted(children.DecodingChildren, "decode")

class UntilTheFirstFigure(recipe.Narrator):
    def say(self, text):
        if "pictures: accuracy" in text:
            print(json.dumps({"modules": sorted(sys.modules), "done": done}))
            raise SystemExit(0)

folder, weights, out = sys.argv[1:]
data = ImageData.from_folder(folder, image_size=64)
recipe.train(data, arch="test_resnet", weights=weights, out=out, narrator=UntilTheFirstFigure())
raise SystemExit("there was no figure")
"""


@pytest.fixture
def until_first_figure(
    make_folder: Callable[..., Path], body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Run the script over 170 pictures that nobody has seen; the body's graph is there, or is not."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    folder = make_folder({"cat": 90, "dog": 80})

    def run(*, graph: bool) -> dict[str, Any]:
        if graph:
            made = create_classifier("test_resnet", 2, weights=body.weights, image_size=SIZE)
            made.freeze()
            frozen_engine(made, size=SIZE, identity=weights_identity("test_resnet", body.weights))
        command = [sys.executable, "-c", SCRIPT, str(folder), str(body.weights), str(tmp_path / "run")]
        ended = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        assert ended.returncode == 0, ended.stderr[-2000:]
        told: dict[str, Any] = json.loads(ended.stdout)
        return told

    return run


def test_a_later_run_of_a_body_loads_nothing_heavy_and_decodes_each_picture_once(
    until_first_figure: Callable[..., dict[str, Any]],
) -> None:
    told = until_first_figure(graph=True)
    loaded = set(told["modules"])
    assert {"onnxruntime", "headstart.recipe.probing"} <= loaded
    assert not loaded & {"torch", "timm", "sklearn", "scipy", "matplotlib", "pandas", "headstart.learner"}
    # What no figure needs: each is some 10 to 30 ms of waiting.
    assert not loaded & {"headstart.evaluation.report", "urllib.request"}
    # All in the children, and none again for the features.
    assert told["done"] == {"decode": 170}


def test_a_first_run_of_a_body_would_be_seen_to_load_torch(
    until_first_figure: Callable[..., dict[str, Any]],
) -> None:
    assert {"torch", "timm"} <= set(until_first_figure(graph=False)["modules"])
