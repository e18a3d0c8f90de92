"""Bodies to choose from: what is told without a download, and what is measured once."""

from __future__ import annotations

from pathlib import Path

import pytest

from headstart.errors import UsageError
from headstart.models import (
    create_backbone,
    describe_body,
    known_cost,
    measure_body,
    suitable_bodies,
    weights_at_hand,
)
from headstart.models.bodies import LADDER
from headstart.storage import save_tensors


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the weights of one small body; no other weights are known."""
    for name in ("HEADSTART_WEIGHTS", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    body = create_backbone("test_resnet", from_scratch=True, image_size=32)
    path = tmp_path / "weights" / "test_resnet.safetensors"
    save_tensors(path, body.module.state_dict())
    (path.parent / "notes.safetensors").write_bytes(b"not a body")
    return path.parent


def test_bodies_are_listed_the_cheaper_first_and_then_what_lies_in_the_folder(folder: Path) -> None:
    assert suitable_bodies() == LADDER
    assert suitable_bodies(folder) == (*LADDER, "test_resnet")
    assert weights_at_hand("test_resnet", folder) == str(folder / "test_resnet.safetensors")
    assert weights_at_hand("resnet34", folder) == ""
    assert weights_at_hand("resnet34") == ""


def test_the_hubs_cache_counts_for_its_own_weights_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    kept = tmp_path / "hub" / "models--timm--resnet34.a1_in1k" / "snapshots" / "abc" / "model.safetensors"
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert weights_at_hand("resnet34") == weights_at_hand("resnet34.a1_in1k") == "hub"
    assert weights_at_hand("resnet34.a2_in1k") == ""
    assert "resnet34" in suitable_bodies()


@pytest.mark.parametrize(("arch", "millions"), [("mobilenetv2_100", 2.2), ("resnet34", 21.3)])
def test_a_body_is_described_without_its_weights(folder: Path, arch: str, millions: float) -> None:
    facts = describe_body(arch, folder)
    assert facts.parameters / 1e6 == pytest.approx(millions, abs=0.1)
    assert facts.native_size == (224, 224)
    assert facts.licence == "apache-2.0"
    assert facts.next_up == LADDER[LADDER.index(arch) + 1]
    assert describe_body(LADDER[-1]).next_up == ""
    with pytest.raises(UsageError, match="no architecture 'resnet35'"):
        describe_body("resnet35")


def test_a_cost_is_measured_once_for_a_machine(folder: Path, private_cache: Path) -> None:
    assert known_cost("test_resnet", size=(48, 48)) is None
    cost = measure_body("test_resnet", size=(48, 48))
    assert known_cost("test_resnet", size=(48, 48)) == cost == measure_body("test_resnet", size=(48, 48))
    assert known_cost("test_resnet", size=(32, 32)) is None
    assert cost.image_size == (48, 48)
    assert cost.frozen_rate > 0
    assert cost.training_rate > 0
    assert cost.weight_bytes == 4 * describe_body("test_resnet").parameters
    larger = measure_body("test_resnet", size=(96, 96))
    assert larger.bytes_per_picture == pytest.approx(4 * cost.bytes_per_picture, rel=0.1)
    assert cost.training_bytes(32) - cost.training_bytes(16) == 16 * cost.bytes_per_picture
    for path in (private_cache / "bodies").iterdir():
        path.write_text("{}")
    assert known_cost("test_resnet", size=(48, 48)) is None, "a spoilt file is no measurement"
