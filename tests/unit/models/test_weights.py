from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import timm
import torch

from headstart.errors import ConfigError, InputMissingError, StorageError, UsageError
from headstart.models import create_backbone, create_classifier, find_weights, weights_identity
from headstart.models.weights import cached_architectures
from headstart.storage import save_tensors, sha256_file


@pytest.fixture(autouse=True)
def no_weights_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADSTART_WEIGHTS", raising=False)


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the hub has it: with a classifier of 1000 classes."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_tensors(path, timm.create_model("test_resnet").state_dict(), {"architecture": "test_resnet"})
    return path


def test_a_file_with_a_classifier_loads_without_it(whole_file: Path) -> None:
    backbone = create_backbone("test_resnet", weights=whole_file, image_size=32)
    torch.manual_seed(3)
    expected = timm.create_model("test_resnet").state_dict()
    loaded = backbone.module.state_dict()
    assert loaded.keys() == expected.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())
    assert backbone.weights.kind == "file"
    assert backbone.weights.sha256 == sha256_file(whole_file)


def test_a_file_without_a_classifier_loads(whole_file: Path, tmp_path: Path) -> None:
    state = create_backbone("test_resnet", weights=whole_file, image_size=32).module.state_dict()
    save_tensors(tmp_path / "body.safetensors", state)
    again = create_backbone("test_resnet", weights=tmp_path / "body.safetensors", image_size=32)
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.module.state_dict().items())


def test_a_folder_and_the_environment_lead_to_the_file(
    whole_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_weights("test_resnet", whole_file.parent) == whole_file
    assert find_weights("test_resnet.r160_in1k", whole_file.parent) == whole_file
    assert find_weights("test_resnet") is None
    monkeypatch.setenv("HEADSTART_WEIGHTS", str(whole_file.parent))
    assert find_weights("test_resnet") == whole_file
    assert find_weights("test_vit") is None, "a folder of other weights leads to the hub"
    assert "test_resnet" in cached_architectures()


def test_what_was_asked_for_and_is_not_there_is_said(whole_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="not there"):
        find_weights("test_resnet", tmp_path / "nowhere.safetensors")
    with pytest.raises(InputMissingError, match=r"has no test_vit\.safetensors") as caught:
        find_weights("test_vit", whole_file.parent)
    assert "it has test_resnet.safetensors" in caught.value.hint
    with pytest.raises(InputMissingError, match=r"no \.safetensors file"):
        find_weights("test_vit", tmp_path)


def test_a_bundle_is_a_source_of_weights(tmp_path: Path) -> None:
    classifier = create_classifier("test_resnet", 4, from_scratch=True, image_size=32, seed=5)
    (tmp_path / "manifest.json").write_text("{}")
    save_tensors(tmp_path / "model.safetensors", classifier.state_dict())
    other = create_classifier("test_resnet", 7, weights=tmp_path, image_size=32)
    pairs = zip(classifier.backbone.state_dict().values(), other.backbone.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_weights_of_another_architecture_are_refused_with_the_first_keys(whole_file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        create_backbone("test_efficientnet", weights=whole_file, image_size=32)
    assert caught.value.exit_code == 78
    assert "keys differ: " in caught.value.message
    assert caught.value.message.count(";") == 4, "five keys are named"
    assert "for test_resnet: use --arch test_resnet" in caught.value.hint


def test_a_missing_an_unknown_and_a_wrongly_shaped_tensor_are_named(whole_file: Path, tmp_path: Path) -> None:
    state = create_backbone("test_resnet", weights=whole_file, image_size=32).module.state_dict()
    weight = state.pop("layer1.0.conv1.weight")
    state["bn1.weight"] = torch.zeros(3)
    state["layer9.weight"] = weight
    save_tensors(tmp_path / "bent.safetensors", state)
    with pytest.raises(ConfigError, match="3 of") as caught:
        create_backbone("test_resnet", weights=tmp_path / "bent.safetensors", image_size=32)
    for said in (
        "bn1.weight has shape (3,), not ",
        "layer1.0.conv1.weight is missing",
        "layer9.weight is unknown",
    ):
        assert said in caught.value.message


def test_counters_of_batches_may_be_missing(whole_file: Path, tmp_path: Path) -> None:
    state = create_backbone("test_resnet", weights=whole_file, image_size=32).module.state_dict()
    kept = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    save_tensors(tmp_path / "old.safetensors", kept)
    create_backbone("test_resnet", weights=tmp_path / "old.safetensors", image_size=32)


def test_a_pickle_by_another_name_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "test_resnet.safetensors"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(ConfigError, match="is not a safetensors file") as caught:
        create_backbone("test_resnet", weights=path, image_size=32)
    assert "pickle" in caught.value.hint


def test_positions_of_another_size_are_resized_on_loading(tmp_path: Path) -> None:
    small = create_classifier("test_vit", 3, from_scratch=True, image_size=64)
    save_tensors(tmp_path / "test_vit.safetensors", small.state_dict())
    again = create_classifier("test_vit", 3, weights=tmp_path, image_size=64)
    assert again.image_size == (64, 64)
    before, after = small.backbone.state_dict(), again.backbone.state_dict()
    assert torch.equal(before["blocks.0.attn.qkv.weight"], after["blocks.0.attn.qkv.weight"])
    assert after["pos_embed"].shape == before["pos_embed"].shape


def test_identities_differ_with_the_bytes_and_the_architecture(whole_file: Path, tmp_path: Path) -> None:
    first = weights_identity("test_resnet", whole_file)
    assert first == weights_identity("test_resnet", whole_file.parent)
    assert first != weights_identity("test_vit", whole_file)
    other = tmp_path / "test_resnet.safetensors"
    other.write_bytes(whole_file.read_bytes()[:-1] + b"\x01")
    assert weights_identity("test_resnet", other) != first
    assert "hub" in weights_identity("test_resnet")


def test_without_network_the_three_ways_out_are_named(tmp_path: Path) -> None:
    code = (
        "from headstart.errors import StorageError\n"
        "from headstart.models import create_backbone\n"
        "try:\n    create_backbone('resnet18')\n"
        "except StorageError as error:\n    print(error.exit_code, error.message, '|', error.hint)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_CACHE", None)
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )
    assert run.stdout.startswith("74 the weights of resnet18 could not be downloaded"), run.stderr
    for way in ("--weights FILE", "HEADSTART_WEIGHTS", "--arch", "--from-scratch"):
        assert way in run.stdout


def test_a_broken_network_is_a_storage_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from headstart.models import weights

    def refuse(*_: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(weights.socket, "getaddrinfo", refuse)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    with pytest.raises(StorageError, match="Name or service not known"):
        weights.download_weights("resnet18", "timm/no-such-repository-of-ours", None)


def test_an_architecture_without_weights_says_so() -> None:
    with pytest.raises(UsageError, match="no pretrained weights for test_mambaout"):
        create_backbone("test_mambaout")
