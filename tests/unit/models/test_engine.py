from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from headstart.errors import ConfigError, UsageError
from headstart.models import (
    Classifier,
    EagerEngine,
    OnnxEngine,
    cached_engine,
    create_classifier,
    frozen_engine,
    weights_identity,
)
from headstart.models.graph import content_of, export_graph

SIZE = (32, 32)


@pytest.fixture
def classifier() -> Classifier:
    """A small one whose tensors are nowhere zero, so that no exporter can drop or merge them."""
    made = create_classifier("test_resnet", 4, from_scratch=True, image_size=32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    made.freeze()
    return made


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (7, *SIZE, 3), np.uint8)


def relative(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("arch", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext"])
def test_the_graph_agrees_with_eager_pytorch_at_every_group(arch: str, pixels: NDArray[np.uint8]) -> None:
    made = create_classifier(arch, 4, from_scratch=True, image_size=32)
    for line in made.group_starts[1:]:
        engine = frozen_engine(made, size=SIZE, line=line, prefer="onnxruntime")
        eager = frozen_engine(made, size=SIZE, line=line, prefer="eager")
        assert (engine.name, eager.name) == ("onnxruntime", "eager")
        assert engine(pixels).dtype == np.float32
        assert engine(pixels).shape == (7, *made.activation_shape(line))
        assert relative(engine(pixels), eager(pixels)) < 1e-4


def test_the_graph_agrees_with_eager_pytorch_on_real_weights_and_pictures(
    pretrained: Classifier, flowers: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    pictures = flowers[0][::50]
    engine = frozen_engine(pretrained, size=(224, 224), prefer="onnxruntime")
    eager = frozen_engine(pretrained, size=(224, 224), prefer="eager")
    assert relative(engine(pictures), eager(pictures)) < 1e-4


def test_how_pictures_are_batched_changes_no_bit(classifier: Classifier, pixels: NDArray[np.uint8]) -> None:
    engine = frozen_engine(classifier, size=SIZE)
    one_by_one = np.concatenate([engine(pixels[k : k + 1]) for k in range(len(pixels))])
    np.testing.assert_array_equal(engine(pixels), one_by_one)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_share_a_batch_by_twos_and_none_runs_a_picture_alone(
    classifier: Classifier, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some bodies tell by their last bits whether a picture ran alone: threads must not decide on that.
    ran: list[int] = []
    run = OnnxEngine._run

    def noted(engine: OnnxEngine, part: NDArray[np.uint8]) -> NDArray[np.float32]:
        ran.append(len(part))
        return run(engine, part)

    made = frozen_engine(classifier, size=SIZE, prefer="onnxruntime", threads=threads)
    assert isinstance(made, OnnxEngine)
    monkeypatch.setattr(OnnxEngine, "_run", noted)
    pixels = np.random.default_rng(1).integers(0, 256, (9, *SIZE, 3), np.uint8)
    for count, parts in ((1, [1]), (2, [2]), (3, [3]), (8, [2, 2, 2, 2]), (9, [2, 2, 2, 3])):
        ran.clear()
        np.testing.assert_array_equal(made(pixels[:count]), run(made, pixels)[:count])
        assert sorted(ran) == parts


def test_the_threads_of_an_engine_run_side_by_side_and_what_goes_wrong_in_one_is_raised(
    classifier: Classifier, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(3, timeout=60)
    run = OnnxEngine._run

    def waiting(engine: OnnxEngine, part: NDArray[np.uint8]) -> NDArray[np.float32]:
        together.wait()
        if threading.current_thread() is not threading.main_thread() and fails:
            raise RuntimeError("no memory")
        return run(engine, part)

    made = frozen_engine(classifier, size=SIZE, prefer="onnxruntime", threads=3)
    fails = False
    monkeypatch.setattr(OnnxEngine, "_run", waiting)
    assert made(pixels).shape == (7, *classifier.activation_shape())
    fails = True
    with pytest.raises(RuntimeError, match="no memory"):
        made(pixels)


class HoldsToItsExample(nn.Module):
    """Exports well, and then takes only as many pictures as it was exported with."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.conv(pictures)
        # A number of Python's own: the exporter takes it for a constant.
        return values + torch.zeros(len(pictures), 4, 1, 1)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_graph_that_takes_one_number_of_pictures_is_not_used(threads: int) -> None:
    made = create_classifier(HoldsToItsExample(), 2, image_size=32)
    made.freeze()
    assert isinstance(frozen_engine(made, size=SIZE, threads=threads), EagerEngine)


@pytest.mark.parametrize("training", [True, False])
def test_making_an_engine_leaves_modes_and_tensors_as_they_were(
    classifier: Classifier, pixels: NDArray[np.uint8], training: bool
) -> None:
    classifier.freeze_to(1)
    classifier.train(training)
    classifier.backbone.layer3.eval()
    modes = [module.training for module in classifier.modules()]
    trainable = [p.requires_grad for p in classifier.parameters()]
    state = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    for prefer in ("onnxruntime", "eager"):
        frozen_engine(classifier, size=SIZE, prefer=prefer)(pixels)
        assert [module.training for module in classifier.modules()] == modes
        assert [p.requires_grad for p in classifier.parameters()] == trainable
        assert all(torch.equal(t, state[name]) for name, t in classifier.state_dict().items())


def test_an_eager_engine_is_in_evaluation_even_above_the_frozen_line(
    classifier: Classifier, pixels: NDArray[np.uint8]
) -> None:
    classifier.unfreeze()
    classifier.train()
    whole_batch = EagerEngine(classifier.lower(classifier.head_stage))(pixels)
    alone = EagerEngine(classifier.lower(classifier.head_stage))(pixels[:1])
    np.testing.assert_allclose(whole_batch[:1], alone, rtol=1e-4, atol=1e-5)


class Solving(nn.Module):
    """Works in PyTorch and cannot be exported: ONNX has no such operator."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.linalg.matrix_exp(self.conv(pictures / 100).contiguous())


def test_a_body_that_cannot_be_exported_runs_in_eager_and_says_why(
    pixels: NDArray[np.uint8], capfd: pytest.CaptureFixture[str]
) -> None:
    made = create_classifier(Solving(), 2, image_size=32)
    made.freeze()
    engine = frozen_engine(made, size=SIZE)
    assert isinstance(engine, EagerEngine)
    assert engine.reason
    assert engine(pixels).shape == (7, 8)
    assert capfd.readouterr() == ("", ""), "the exporter prints graphs on standard output"
    with pytest.raises(UsageError, match="cannot be run by ONNX Runtime"):
        frozen_engine(made, size=SIZE, prefer="onnxruntime")


def test_a_graph_that_differs_from_pytorch_is_not_used(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.models import graph

    other = create_classifier("test_resnet", 4, from_scratch=True, image_size=32, seed=7)
    wrong = export_graph(other.lower(other.head_stage), SIZE)
    monkeypatch.setattr(graph, "export_graph", lambda part, size: wrong)
    engine = frozen_engine(classifier, size=SIZE)
    assert isinstance(engine, EagerEngine)
    assert "differ by" in engine.reason


def test_what_is_not_constant_gets_no_engine(classifier: Classifier) -> None:
    classifier.unfreeze()
    with pytest.raises(UsageError, match="nothing lies below"):
        frozen_engine(classifier, size=SIZE)
    classifier.freeze()
    with pytest.raises(UsageError, match="no engine 'tensorrt'"):
        frozen_engine(classifier, size=SIZE, prefer="tensorrt")
    classifier.frozen_batch_norm = "train"
    with pytest.raises(UsageError, match="batch norm below the line"):
        frozen_engine(classifier, size=SIZE)


def test_bytes_that_are_no_graph_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot read the graph"):
        OnnxEngine(b"not a graph")


# ---- the cache -------------------------------------------------------------------------------


def files(cache: Path) -> dict[str, Path]:
    return {path.suffix: path for path in (cache / "graphs").iterdir()}


def test_an_engine_of_known_weights_is_found_again(
    classifier: Classifier, pixels: NDArray[np.uint8], private_cache: Path
) -> None:
    assert cached_engine("one", SIZE) is None
    engine = frozen_engine(classifier, size=SIZE, identity="one")
    known = cached_engine("one", SIZE, threads=1)
    assert known is not None
    np.testing.assert_array_equal(known(pixels), engine(pixels))
    assert known.facts is not None
    assert known.facts.arch == "test_resnet"
    assert known.facts.mean == pytest.approx(classifier.info.mean)
    assert known.facts.crop_fraction == classifier.crop_fraction
    assert known.facts.interpolation == classifier.interpolation
    assert known.facts.feature_count == classifier.feature_count
    for identity, size, line in (("two", SIZE, None), ("one", (48, 48), None), ("one", SIZE, 3)):
        assert cached_engine(identity, size, line) is None


def test_without_an_identity_nothing_is_kept(classifier: Classifier, private_cache: Path) -> None:
    frozen_engine(classifier, size=SIZE)
    assert not (private_cache / "graphs").exists()


@pytest.mark.parametrize("place", [10, -10, "middle"])
def test_an_altered_graph_is_refused_and_made_again(
    classifier: Classifier, pixels: NDArray[np.uint8], private_cache: Path, place: int | str
) -> None:
    expected = frozen_engine(classifier, size=SIZE, identity="one")(pixels)
    path = files(private_cache)[".onnx"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if isinstance(place, str) else place] ^= 1
    path.write_bytes(data)
    assert cached_engine("one", SIZE) is None
    np.testing.assert_array_equal(frozen_engine(classifier, size=SIZE, identity="one")(pixels), expected)
    assert cached_engine("one", SIZE) is not None, "it was made again"


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"sha256": 1}', '{"sha256": "x", "facts": {}}'])
def test_a_spoilt_sidecar_is_no_engine(classifier: Classifier, private_cache: Path, said: str) -> None:
    frozen_engine(classifier, size=SIZE, identity="one")
    files(private_cache)[".json"].write_text(said)
    assert cached_engine("one", SIZE) is None


def test_facts_without_meaning_are_no_engine(classifier: Classifier, private_cache: Path) -> None:
    frozen_engine(classifier, size=SIZE, identity="one")
    sidecar = files(private_cache)[".json"]
    for name, value in (("mean", [1]), ("image_size", "x"), ("shape", None)):
        said = json.loads(sidecar.read_text())
        said["facts"][name] = value
        sidecar.write_text(json.dumps(said))
        assert cached_engine("one", SIZE) is None


def test_a_graph_of_other_tensors_under_the_same_identity_is_not_used(
    classifier: Classifier, pixels: NDArray[np.uint8], private_cache: Path
) -> None:
    stale = frozen_engine(classifier, size=SIZE, identity="one")(pixels)
    with torch.no_grad():
        classifier.backbone.layer4[0].conv1.weight.mul_(1.5)
    fresh = frozen_engine(classifier, size=SIZE, identity="one")
    assert relative(fresh(pixels), stale) > 1e-3
    assert relative(fresh(pixels), EagerEngine(classifier.lower())(pixels)) < 1e-4


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    classifier: Classifier, pixels: NDArray[np.uint8], private_cache: Path
) -> None:
    private_cache.mkdir()
    (private_cache / "graphs").write_text("in the way")
    assert frozen_engine(classifier, size=SIZE, identity="one")(pixels).shape == (7, 192)
    assert cached_engine("one", SIZE) is None


def test_old_graphs_make_room(
    classifier: Classifier, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.models import engine

    frozen_engine(classifier, size=SIZE, identity="one")
    monkeypatch.setattr(engine, "CACHE_BYTES", int(1.5 * files(private_cache)[".onnx"].stat().st_size))
    frozen_engine(classifier, size=SIZE, identity="two")
    assert cached_engine("one", SIZE) is None
    assert cached_engine("two", SIZE) is not None


class Strict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        assert pictures.shape[-1] == 32
        return self.conv(pictures)


def test_a_size_that_the_body_is_not_set_to_is_refused() -> None:
    made = create_classifier(Strict(), 4, image_size=32)
    made.freeze()
    with pytest.raises(UsageError, match=r"set to pictures of \(32, 32\) and does not take \(48, 48\)"):
        frozen_engine(made, size=(48, 48))


def test_the_hash_of_a_part_covers_all_its_tensors(classifier: Classifier) -> None:
    before = content_of(classifier.lower())
    assert content_of(classifier.lower()) == before
    with torch.no_grad():
        classifier.head.weight.add_(1)
    assert content_of(classifier.lower()) == before, "the head is no part of it"
    classifier.backbone.bn1.running_mean.add_(1)
    assert content_of(classifier.lower()) != before


def test_a_known_engine_runs_without_torch(private_cache: Path, tmp_path: Path) -> None:
    from headstart.storage import save_tensors

    scratch = create_classifier("test_resnet", 4, from_scratch=True, image_size=32)
    path = tmp_path / "test_resnet.safetensors"
    save_tensors(path, scratch.backbone.state_dict())
    made = create_classifier("test_resnet", 4, weights=path, image_size=32)
    made.freeze()
    identity = weights_identity("test_resnet", path)
    pixels = np.random.default_rng(3).integers(0, 256, (2, *SIZE, 3), np.uint8)
    np.save(tmp_path / "expected.npy", frozen_engine(made, size=SIZE, identity=identity)(pixels))
    code = (
        "import sys, numpy as np\n"
        "from headstart.models import cached_engine, weights_identity\n"
        f"engine = cached_engine(weights_identity('test_resnet', {str(path)!r}), (32, 32))\n"
        "pixels = np.random.default_rng(3).integers(0, 256, (2, 32, 32, 3), np.uint8)\n"
        f"assert np.array_equal(engine(pixels), np.load({str(tmp_path / 'expected.npy')!r}))\n"
        "assert not {'torch', 'timm', 'onnx'} & set(sys.modules)\n"
    )
    environment = os.environ | {"HEADSTART_CACHE": str(private_cache)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)


# ---- which engine ----------------------------------------------------------------------------


def test_the_faster_engine_is_taken_and_remembered(
    classifier: Classifier, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.models import engine

    slower = engine.Speeds(onnxruntime=10, eager=30)
    monkeypatch.setattr(engine, "_compare", lambda *arguments, **options: slower)
    made = frozen_engine(classifier, size=SIZE, identity="one")
    assert isinstance(made, EagerEngine)
    assert "30 pictures a second here, and ONNX Runtime does 10" in made.reason
    monkeypatch.undo()
    monkeypatch.setenv("HEADSTART_CACHE", str(private_cache))
    assert isinstance(frozen_engine(classifier, size=SIZE, identity="one"), EagerEngine), (
        "it is not timed again"
    )
    assert cached_engine("one", SIZE) is None
    asked = frozen_engine(classifier, size=SIZE, identity="one", prefer="onnxruntime")
    assert isinstance(asked, OnnxEngine)
    assert asked.speeds == slower


def test_nearly_the_same_speed_leaves_it_to_the_graph_that_needs_no_torch() -> None:
    from headstart.models.engine import Speeds

    assert not Speeds(10, 10.5).reason
    assert not Speeds(40, 10).reason
    assert Speeds(10, 12).reason


def test_speeds_are_measured_on_the_pictures_that_are_given(
    classifier: Classifier, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.models import engine

    seen: list[NDArray[np.uint8]] = []
    true = engine._compare

    def compare(ours, eager, pictures, tolerance, **options):
        seen.append(pictures)
        return true(ours, eager, pictures, tolerance, **options)

    monkeypatch.setattr(engine, "_compare", compare)
    made = frozen_engine(classifier, size=SIZE, pictures=pixels, prefer="onnxruntime")
    np.testing.assert_array_equal(seen[0], pixels[: engine.CHECKED])
    assert isinstance(made, OnnxEngine)
    assert made.speeds is not None
    assert min(made.speeds.onnxruntime, made.speeds.eager) > 0


def test_a_compiled_part_agrees_with_eager_and_fills_up_its_last_batch(
    classifier: Classifier, pixels: NDArray[np.uint8]
) -> None:
    from headstart.models.compiled import CompiledEngine

    eager = EagerEngine(classifier.lower())(pixels)
    compiled = CompiledEngine(classifier.lower(), backend="eager")
    np.testing.assert_allclose(compiled(pixels[:3]), eager[:3], rtol=1e-4, atol=1e-5)
    assert compiled(pixels).shape == eager.shape, "three batches of three, the last filled up"
    np.testing.assert_allclose(compiled(pixels), eager, rtol=1e-4, atol=1e-5)
    half = CompiledEngine(classifier.lower(), backend="eager", bfloat16=True)(pixels)
    assert half.dtype == np.float32
    assert 1e-5 < relative(half, eager) < 5e-2, "bfloat16 rounds"


def test_a_part_that_cannot_be_compiled_runs_in_eager_and_says_why(
    classifier: Classifier, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.models import compiled, engine

    def refuse(*arguments: object, **options: object) -> object:
        raise RuntimeError("no compiler here\nand more")

    monkeypatch.setattr(compiled.torch, "compile", refuse)
    with pytest.raises(UsageError, match="cannot be compiled: no compiler here"):
        frozen_engine(classifier, size=SIZE, prefer="compiled")
    made = engine._compiled(classifier.lower(), pixels, must=False)
    assert isinstance(made, EagerEngine)
    assert made.reason == "no compiler here"
