"""Whatever runs a network, a picture gets the same probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from headstart.deploy import Predictor, load_predictor, save_bundle
from headstart.deploy.forwarding import MADE_FROM
from headstart.deploy.predictor import weights_of
from headstart.errors import UsageError
from headstart.evaluation import fit_novelty
from headstart.models.engine import frozen_engine

from .conftest import SIZE, Saved, manifest_of, picture, small_model

PICTURES = [picture(number) for number in range(5)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))


def ready(folder: Path, engine: str = "auto") -> Predictor:
    return load_predictor(folder, device="cpu", engine=engine, threads=1, trusted=True)


def names(predictor: Predictor) -> list[str]:
    return [choice.name for network in predictor._networks for choice in network.choices.values()]


@pytest.mark.parametrize("count", [1, 2])
def test_onnx_runtime_gives_the_probabilities_of_pytorch(tmp_path: Path, count: int) -> None:
    models = [small_model(seed=seed) for seed in range(count)]
    save_bundle(tmp_path / "model", models, manifest_of(*models))
    graph, eager = ready(tmp_path / "model", "onnxruntime"), ready(tmp_path / "model", "eager")
    for tta in (False, True):
        found, wanted = graph.predict(PICTURES, tta=tta), eager.predict(PICTURES, tta=tta)
        np.testing.assert_allclose(found.probabilities, wanted.probabilities, rtol=0, atol=1e-4)
    assert names(graph) == ["onnxruntime"] * count
    assert names(eager) == []


def test_what_enters_the_head_is_the_same_too(tmp_path: Path) -> None:
    model = small_model()
    known, others = np.random.default_rng(0).normal(size=(2, 60, model.feature_count))
    report = fit_novelty(known, others)
    assert report is not None
    save_bundle(tmp_path / "model", [model], manifest_of(model), novelty=report.novelty)
    graph, eager = ready(tmp_path / "model", "onnxruntime"), ready(tmp_path / "model", "eager")
    found, wanted = graph.predict(PICTURES).strangeness, eager.predict(PICTURES).strangeness
    assert found is not None
    assert wanted is not None
    np.testing.assert_allclose(found, wanted, rtol=1e-3)
    assert wanted.std() > 0


def test_a_graph_is_made_after_some_pictures_and_found_again(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.models.engine.CLEARLY", 1e9)
    first = ready(saved.folder)
    first.predict(PICTURES)
    assert names(first) == []
    tiny = [picture(number, 20, 20) for number in range(MADE_FROM)]
    first.predict(tiny)
    assert names(first) == ["onnxruntime"]
    again = ready(saved.folder)
    again.predict(PICTURES[0])
    assert names(again) == ["onnxruntime"]


def test_a_service_can_have_it_made_before_the_first_picture(saved: Saved) -> None:
    predictor = ready(saved.folder, "onnxruntime")
    assert [choice.name for choice in predictor.prepare()] == ["onnxruntime"]
    assert names(predictor) == ["onnxruntime"]


def test_a_graph_that_disagrees_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Which is faster here is not the question.
    monkeypatch.setattr("headstart.models.engine.CLEARLY", 1e9)
    model = small_model()
    manifest = save_bundle(tmp_path / "model", [model], manifest_of(model))
    other = small_model(seed=5)
    identity = weights_of(manifest, manifest.members[0])
    frozen_engine(other, size=SIZE, line=other.head_stage, identity=identity, prefer="onnxruntime")
    with pytest.raises(UsageError, match="other probabilities"):
        ready(tmp_path / "model", "onnxruntime").predict(PICTURES)
    predictor = ready(tmp_path / "model")
    found = predictor.predict(PICTURES)
    (choice,) = predictor._networks[0].choices.values()
    assert choice.name == "eager"
    assert "other probabilities" in choice.reason
    wanted = ready(tmp_path / "model", "eager").predict(PICTURES)
    np.testing.assert_allclose(found.logits, wanted.logits, atol=1e-5)


def test_other_colours_or_weights_have_another_graph(saved: Saved, tmp_path: Path) -> None:
    first = weights_of(saved.manifest, saved.manifest.members[0])
    model = small_model()
    with torch.no_grad():
        next(iter(model.backbone.parameters())).mul_(1.5)
    manifest = save_bundle(tmp_path / "model", [model], manifest_of(model))
    assert weights_of(manifest, manifest.members[0]) != first


def test_an_engine_that_is_not_there_is_told(saved: Saved) -> None:
    with pytest.raises(UsageError, match="no engine 'abacus'"):
        ready(saved.folder, "abacus")
