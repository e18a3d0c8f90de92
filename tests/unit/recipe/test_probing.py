"""The first look: where it stops to tell a figure, and that telling changes nothing."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.evaluation import Predictions
from headstart.imagedata import ImageData
from headstart.models import fit_probe
from headstart.recipe import Body, Narrator, eight_steps, prepare_folder
from headstart.recipe.clock import Clock
from headstart.recipe.probing import APART, FEWEST, FEWEST_OF_A_CLASS, _skill, look_first, part_sizes
from headstart.recipe.steps import EightSteps
from headstart.storage import save_tensors
from headstart.types import Task


@given(count=st.integers(0, 10**7), class_count=st.integers(2, 2000))
def test_parts_grow_to_a_half_and_none_is_too_small_to_say_anything(count: int, class_count: int) -> None:
    sizes = part_sizes(count, class_count)
    assert all(size >= max(FEWEST, FEWEST_OF_A_CLASS * class_count) for size in sizes)
    assert all(small == large // APART for small, large in itertools.pairwise(sizes))
    assert sizes[-1:] == ([count // 2] if count // 2 >= max(FEWEST, FEWEST_OF_A_CLASS * class_count) else [])


@given(count=st.integers(0, 10**6), class_count=st.integers(2, 200), batch_size=st.integers(1, 300))
def test_parts_end_with_a_batch_where_that_leaves_enough(
    count: int, class_count: int, batch_size: int
) -> None:
    exact = part_sizes(count, class_count)
    whole = part_sizes(count, class_count, batch_size)
    for size, wanted in zip(whole, exact, strict=True):
        fewest = max(FEWEST, FEWEST_OF_A_CLASS * class_count)
        assert size >= fewest
        assert 0 <= wanted - size < batch_size
        assert size % batch_size == 0 or (size == wanted and size - size % batch_size < fewest)


class Listening(Narrator):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import timm
    import torch

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_tensors(path, timm.create_model("test_resnet", num_classes=0).state_dict())
    return path


def test_the_probe_is_told_as_it_grows_and_ends_where_it_would_have_ended(
    make_folder, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    folder = make_folder({"cat": 90, "dog": 80})
    # Rare classes are repeated in training, but looked at once here.
    data = ImageData.from_folder(folder, image_size=64, balance="sampler")
    listening = Listening()
    steps = EightSteps(
        data,
        eight_steps(),
        Body("test_resnet", weights),
        prepare_folder(tmp_path / "run", folder),
        listening,
        clock=Clock(),
    )
    steps.folder.begin()
    found = look_first(steps)

    (half,) = part_sizes(len(data.rows("train")), 2, data.batch_size)
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [row["pictures"] for row in rows] == [half, len(data.rows("train"))]
    assert [line for line in listening.said if "from" in line] == [
        line for line in listening.said if f"from {half} pictures: accuracy {rows[0]['accuracy']:.1%}" in line
    ]
    assert "against" in steps.steps[0].outcome
    assert "its nearest neighbours alone: accuracy" in steps.steps[0].outcome

    # In order of the rows again, and the fit is that of an undivided pass.
    train = found.sources["train"]
    np.testing.assert_array_equal(train.index, data.rows("train"))
    again = steps.data.activations("train", found.engine, "other identity")
    np.testing.assert_array_equal(train.features, again.features)
    whole = fit_probe(again.features, again.targets, 2, seed=data.seed)
    np.testing.assert_array_equal(found.probe.weight, whole.weight)


def test_the_skill_of_tags_goes_from_guessing_to_perfect_however_rare_they_are() -> None:
    random = np.random.default_rng(0)
    targets = random.uniform(size=(3000, 3)) < [0.03, 0.3, 0.8]

    def skill(logits: np.ndarray) -> float:
        return _skill(Predictions(logits, ("a", "b", "c"), Task.MULTI_LABEL, targets=targets))

    noise = random.normal(size=targets.shape)
    assert skill(noise) == pytest.approx(0.0, abs=0.03)
    assert skill(targets + 0.001 * noise) == pytest.approx(1.0)
    assert 0.2 < skill(2 * targets + noise) < 0.8
    assert _skill(Predictions(np.zeros((4, 1)), ("a",), Task.MULTI_LABEL, targets=np.ones((4, 1)))) == 0.0
