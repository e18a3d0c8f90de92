"""A bundle gives back the model that was saved, or is refused."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from headstart import storage
from headstart.deploy import load_bundle, load_predictor, model_card, read_manifest, save_bundle
from headstart.deploy.bundle import seal
from headstart.deploy.card import CARD
from headstart.errors import (
    ConfigError,
    InputMissingError,
    OutputError,
    StorageError,
    UsageError,
)
from headstart.models import create_classifier

from .conftest import CLASSES, SIZE, Saved, manifest_of, picture, small_model

WEIGHTS = "model.safetensors"


@pytest.fixture
def copy(saved: Saved, tmp_path: Path) -> Path:
    """A bundle that a test may change."""
    return Path(shutil.copytree(saved.folder, tmp_path / "model"))


def resealed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest and give it a checksum that fits: what a forger would do."""
    path = folder / "manifest.json"
    fields = json.loads(path.read_bytes())
    del fields["checksum"]
    change(fields)
    path.write_bytes(seal(fields))


def with_weights(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Exchange the weights, with hash and size that fit."""
    storage.save_tensors(folder / WEIGHTS, tensors)
    adopt(folder)


def adopt(folder: Path) -> None:
    """Write the hash and the size of what lies there into the manifest."""
    path = folder / WEIGHTS
    record = {"sha256": storage.sha256_file(path), "bytes": path.stat().st_size}
    resealed(folder, lambda fields: fields["files"].update({WEIGHTS: record}))


def pixels() -> torch.Tensor:
    return torch.linspace(0, 255, 2 * 3 * SIZE[0] * SIZE[1]).view(2, 3, *SIZE)


# --- it comes back ---------------------------------------------------------------------------------


def test_a_loaded_model_gives_the_same_numbers(saved: Saved) -> None:
    bundle = load_bundle(saved.folder)
    assert bundle.manifest == saved.manifest == read_manifest(saved.folder)
    assert bundle.manifest.classes == CLASSES
    (model,) = bundle.models
    assert not model.training
    with torch.inference_mode():
        torch.testing.assert_close(model(pixels()), saved.model(pixels()), rtol=0, atol=0)


def test_the_folder_holds_three_files_and_the_hash_of_the_weights(saved: Saved) -> None:
    assert sorted(path.name for path in saved.folder.iterdir()) == ["README.md", "manifest.json", WEIGHTS]
    record = saved.manifest.files[WEIGHTS]
    assert record.sha256 == storage.sha256_file(saved.folder / WEIGHTS)


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("test_resnet", {"head": "course", "hidden": (16, 8), "ps": 0.3}),
        ("test_resnet", {"head": "course", "hidden": (), "ps": 0.0}),
        ("test_resnet", {"groups": "stage"}),
        ("test_vit", {}),
        ("test_convnext", {"groups": 2}),
    ],
)
def test_bodies_and_heads_of_other_forms_come_back(
    tmp_path: Path, arch: str, options: dict[str, Any]
) -> None:
    model = small_model(arch, **options)
    plain_size = model.image_size
    manifest = manifest_of(model)
    member = replace(
        manifest.members[0], preprocessing=replace(manifest.members[0].preprocessing, size=plain_size)
    )
    save_bundle(tmp_path / "model", [model], replace(manifest, members=(member,)))
    (again,) = load_bundle(tmp_path / "model").models
    assert again.group_starts == model.group_starts
    assert repr(again.head) == repr(model.head)
    assert again.state_dict().keys() == model.state_dict().keys()


def test_an_ensemble_is_a_bundle(tmp_path: Path) -> None:
    models = [small_model(seed=0), small_model(seed=1)]
    written = save_bundle(tmp_path / "model", models, manifest_of(*models))
    assert sorted(written.files) == ["model-1.safetensors", "model-2.safetensors"]
    bundle = load_bundle(tmp_path / "model")
    with torch.inference_mode():
        for model, again in zip(models, bundle.models, strict=True):
            torch.testing.assert_close(again(pixels()), model(pixels()))


def test_a_model_in_training_stays_in_training(tmp_path: Path) -> None:
    model = small_model()
    model.train()
    save_bundle(tmp_path / "model", [model], manifest_of(model))
    assert model.training


def test_a_bundle_can_be_moved_and_linked_to(copy: Path, tmp_path: Path) -> None:
    moved = copy.rename(tmp_path / "a folder ü")
    (tmp_path / "link").symlink_to(moved)
    assert load_bundle(tmp_path / "link").manifest.classes == CLASSES


# --- the card --------------------------------------------------------------------------------------


def test_the_card_is_that_of_the_manifest_and_the_same_each_time(saved: Saved, tmp_path: Path) -> None:
    card = (saved.folder / CARD).read_bytes()
    assert card == model_card(read_manifest(saved.folder)).encode()
    save_bundle(tmp_path / "again", [saved.model], manifest_of(saved.model))
    assert (tmp_path / "again" / CARD).read_bytes() == card


@pytest.mark.parametrize(
    "text", ["", "# My model\n\nIt is mine. 鳥\n", "\ufeff---\r\nlicense: mit\r\n---\r\n"]
)
def test_a_card_may_be_edited(copy: Path, text: str) -> None:
    (copy / CARD).write_bytes(text.encode())
    assert load_bundle(copy).manifest.classes == CLASSES


def test_a_bundle_from_before_there_were_cards_loads(copy: Path) -> None:
    (copy / CARD).unlink()
    resealed(copy, lambda fields: fields.pop("about", None))
    assert load_bundle(copy).manifest.about is None


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"caf\xe9", "not UTF-8"),
        (pickle.dumps([1], 4), "not UTF-8"),
        (b"a\0b", "not text"),
        (b"a" * (2**20 + 1), "larger than"),
    ],
)
def test_a_card_that_is_no_text_or_too_large_is_refused(copy: Path, data: bytes, named: str) -> None:
    (copy / CARD).write_bytes(data)
    with pytest.raises(ConfigError, match=named):
        read_manifest(copy)


def test_a_card_that_is_a_link_is_refused(copy: Path) -> None:
    (copy / CARD).unlink()
    (copy / CARD).symlink_to(copy / "manifest.json")
    with pytest.raises(ConfigError, match=r"not a plain file: README\.md"):
        read_manifest(copy)


def test_what_the_hubs_tools_leave_beside_a_model_is_not_looked_at(copy: Path) -> None:
    (copy / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    for name in (".git", ".cache"):
        (copy / name / "huggingface").mkdir(parents=True)
    assert load_bundle(copy).manifest.classes == CLASSES
    (copy / ".other").mkdir()
    with pytest.raises(ConfigError, match="not a plain file"):
        load_bundle(copy)


# --- saving ----------------------------------------------------------------------------------------


def test_a_bundle_that_exists_is_kept_unless_it_is_to_be_replaced(saved: Saved, copy: Path) -> None:
    before = (copy / WEIGHTS).read_bytes()
    other = small_model(seed=3)
    with pytest.raises(OutputError, match="exists already"):
        save_bundle(copy, [other], manifest_of(other))
    assert (copy / WEIGHTS).read_bytes() == before
    save_bundle(copy, [other], manifest_of(other), replace_old=True)
    assert (copy / WEIGHTS).read_bytes() != before
    assert load_bundle(copy)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    model = small_model()
    with torch.no_grad():
        model.head.bias[1] = float("nan")  # type: ignore[index, union-attr, operator]
    with pytest.raises(ConfigError, match=r"not finite, in head\.bias"):
        save_bundle(tmp_path / "model", [model], manifest_of(model))
    assert list(tmp_path.iterdir()) == []


def test_large_finite_weights_are_finite() -> None:
    from headstart.deploy.bundle import _check_finite

    _check_finite({"a": torch.full((8,), 3e38)}, "model")


def test_a_model_that_does_not_come_back_the_same_is_not_saved(tmp_path: Path) -> None:
    model = small_model()
    model.register_forward_hook(lambda module, inputs, logits: logits * 2)
    with pytest.raises(ConfigError, match="own numbers"):
        save_bundle(tmp_path / "model", [model], manifest_of(model))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    manifest = manifest_of(model)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        save_bundle(tmp_path / "model", [model], manifest)
    assert list(tmp_path.iterdir()) == []


def test_what_holds_code_of_ones_own_cannot_be_bundled() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    own_body = create_classifier(body, 3, image_size=SIZE)
    own_head = create_classifier(
        "test_resnet", 3, from_scratch=True, image_size=SIZE, head=nn.Sequential(nn.Linear(192, 3))
    )
    exchanged = small_model(head="course")
    exchanged.head = nn.Sequential(*exchanged.head, nn.Sigmoid())  # type: ignore[misc]
    for model in (own_body, own_head, exchanged):
        with pytest.raises(UsageError, match="holds no code"):
            manifest_of(model)


def test_members_must_fit_the_networks(tmp_path: Path) -> None:
    model = small_model()
    with pytest.raises(UsageError, match="do not fit"):
        save_bundle(tmp_path / "model", [model, model], manifest_of(model))
    with pytest.raises(ConfigError):
        save_bundle(tmp_path / "model", [model], manifest_of(model, classes=("a", "b")))
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_names_no_path_of_the_machine_that_made_it(tmp_path: Path) -> None:
    model = small_model()
    weights = tmp_path / "secret project" / "test_resnet.safetensors"
    weights.parent.mkdir()
    body = {name.removeprefix("backbone."): t for name, t in model.state_dict().items() if name[0] == "b"}
    storage.save_tensors(weights, body)
    trained = create_classifier("test_resnet", 3, weights=weights, image_size=SIZE)
    member = manifest_of(trained).members[0]
    assert member.weights.source == "file test_resnet.safetensors"
    assert member.weights.sha256 == storage.sha256_file(weights)


# --- altered bytes ---------------------------------------------------------------------------------


def test_every_altered_byte_of_the_manifest_is_noticed(copy: Path) -> None:
    path = copy / "manifest.json"
    good = path.read_bytes()
    for position in range(len(good)):
        altered = bytearray(good)
        altered[position] ^= 1 if good[position] != ord("0") else 2
        path.write_bytes(altered)
        with pytest.raises(ConfigError):
            read_manifest(copy)
    path.write_bytes(good)
    read_manifest(copy)


def test_an_added_blank_in_the_manifest_is_noticed(copy: Path) -> None:
    path = copy / "manifest.json"
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ConfigError, match="altered"):
        read_manifest(copy)


def test_altered_bytes_of_the_weights_are_noticed(copy: Path) -> None:
    path = copy / WEIGHTS
    good = path.read_bytes()
    random = np.random.default_rng(0)
    for position in [0, 8, 9, len(good) - 1, *random.integers(0, len(good), 12).tolist()]:
        altered = bytearray(good)
        altered[position] ^= 1 << int(random.integers(8))
        path.write_bytes(altered)
        with pytest.raises(ConfigError):
            load_bundle(copy)
    path.write_bytes(good)
    load_bundle(copy)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
def test_weights_of_another_size_are_noticed_unread(copy: Path, change: Callable[[bytes], bytes]) -> None:
    path = copy / WEIGHTS
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ConfigError, match="bytes and not"):
        read_manifest(copy)


def test_weights_of_another_bundle_are_noticed(copy: Path, tmp_path: Path) -> None:
    other = small_model(seed=9)
    save_bundle(tmp_path / "other", [other], manifest_of(other))
    shutil.copy(tmp_path / "other" / WEIGHTS, copy / WEIGHTS)
    with pytest.raises(ConfigError, match="SHA-256"):
        load_bundle(copy)


# --- what does not belong --------------------------------------------------------------------------


def test_a_folder_that_is_not_there_or_is_no_bundle_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="nowhere"):
        load_bundle(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no bundle"):
        load_bundle(tmp_path)


def test_a_missing_file_is_told(copy: Path) -> None:
    (copy / WEIGHTS).unlink()
    with pytest.raises(ConfigError, match=f"lacks {WEIGHTS}"):
        load_bundle(copy)


@pytest.mark.parametrize("name", ["model.py", "setup.sh", ".hidden", "model-2.safetensors", "weights.pth"])
def test_an_unknown_file_is_refused(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"print(1)")
    with pytest.raises(ConfigError, match="no part of a bundle"):
        load_bundle(copy)


def test_folders_links_and_pipes_are_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "inner").mkdir()
    with pytest.raises(ConfigError, match="not a plain file: inner"):
        load_bundle(copy)
    (copy / "inner").rmdir()

    weights = (copy / WEIGHTS).rename(tmp_path / "elsewhere")
    (copy / WEIGHTS).symlink_to(weights)
    with pytest.raises(ConfigError, match="not a plain file: model"):
        load_bundle(copy)
    (copy / WEIGHTS).unlink()

    os.mkfifo(copy / WEIGHTS)
    with pytest.raises(ConfigError, match="not a plain file: model"):
        load_bundle(copy)


# --- pickles ---------------------------------------------------------------------------------------


class Canary:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("true",)


@pytest.fixture
def canary() -> Iterator[list[str]]:
    """The events of running, importing and connecting that happen during a test."""
    watched = (
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "subprocess.Popen",
        "socket.connect",
        "pickle.find_class",
    )
    seen: list[str] = []
    listening = True

    def listen(event: str, arguments: tuple[object, ...]) -> None:
        if listening and event in watched:
            seen.append(f"{event} {arguments}")

    sys.addaudithook(listen)
    yield seen
    listening = False


def pickles(folder: Path) -> dict[str, bytes]:
    """The same attack in the forms in which it is met."""
    torch.save({"a": torch.zeros(1), "b": Canary()}, folder / "new.pth")
    torch.save({"a": torch.zeros(1), "b": Canary()}, folder / "old.pth", _use_new_zipfile_serialization=False)
    np.save(folder / "x.npy", np.array([Canary()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Canary()))
    found = {name: (folder / name).read_bytes() for name in ("new.pth", "old.pth", "x.npy", "x.zip")}
    return found | {f"protocol {number}": pickle.dumps(Canary(), number) for number in range(6)}


def test_the_canary_sings(canary: list[str]) -> None:
    pickle.loads(pickle.dumps(Canary()))
    assert any("os.system" in event for event in canary)


def test_pickles_by_any_name_are_refused_and_nothing_runs(
    copy: Path, tmp_path: Path, canary: list[str]
) -> None:
    (tmp_path / "made").mkdir()
    attacks = pickles(tmp_path / "made")
    assert len(attacks) == 10
    for name, data in attacks.items():
        (copy / WEIGHTS).write_bytes(data)
        adopt(copy)
        with pytest.raises(ConfigError, match="safetensors") as caught:
            load_bundle(copy)
        assert "pickle" in caught.value.hint, name

        alone = tmp_path / "bundle.zip"
        alone.write_bytes(data)
        with pytest.raises(ConfigError, match="is no bundle"):
            load_bundle(alone)

        beside = copy / "export.pkl"
        beside.write_bytes(data)
        with pytest.raises(ConfigError, match=r"export\.pkl") as caught:
            load_bundle(copy)
        assert "pickle" in caught.value.hint
        beside.unlink()

        manifest = (copy / "manifest.json").read_bytes()
        (copy / "manifest.json").write_bytes(data)
        with pytest.raises(ConfigError):
            load_bundle(copy)
        (copy / "manifest.json").write_bytes(manifest)
    assert canary == []


# --- the right form with the wrong content ---------------------------------------------------------


def exchanged(change: Callable[[dict[str, torch.Tensor]], object], folder: Path) -> None:
    tensors = storage.load_tensors(folder / WEIGHTS)
    change(tensors)
    with_weights(folder, tensors)


def test_weights_that_were_resealed_unchanged_load(copy: Path) -> None:
    exchanged(lambda tensors: None, copy)
    load_bundle(copy)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop("head.bias"), r"head\.bias is missing"),
        (lambda t: t.update(extra=torch.zeros(2)), "extra is not expected"),
        (
            lambda t: t.update(head_bias=t.pop("head.bias")),
            r"head\.bias is missing; head_bias is not expected",
        ),
        (
            lambda t: t.update({"head.weight": t["head.weight"].T}),
            r"head\.weight is F32 192x3, not F32 3x192",
        ),
        (lambda t: t.update({"head.bias": t["head.bias"].double()}), r"head\.bias is F64 3, not F32 3"),
        (lambda t: t.update({"head.bias": torch.zeros(4)}), r"head\.bias is F32 4, not F32 3"),
        (lambda t: t.clear(), "and [0-9]+ more"),
        (lambda t: t["head.bias"].fill_(float("nan")), r"not finite, in head\.bias"),
        (lambda t: t["head.weight"].view(-1)[7:8].fill_(float("inf")), r"not finite, in head\.weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_named(
    copy: Path, change: Callable[[dict[str, torch.Tensor]], object], named: str
) -> None:
    exchanged(change, copy)
    with pytest.raises(ConfigError, match=named) as caught:
        load_bundle(copy)
    assert caught.value.message.count(" is ") <= 5


def test_weights_that_are_not_finite_load_only_when_asked_to(copy: Path) -> None:
    exchanged(lambda tensors: tensors["head.bias"].fill_(float("nan")), copy)
    (model,) = load_bundle(copy, allow_nonfinite=True).models
    assert bool(model.state_dict()["head.bias"].isnan().all())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda f: f.update(classes=["a", "b"]), r"head\.weight is F32 3x192, not F32 2x192"),
        (lambda f: f["members"][0].update(arch="no_such_net"), "no architecture"),
        (lambda f: f["members"][0].update(arch="os.system"), "no architecture"),
        (lambda f: f["members"][0].update(arch="test_vit"), "does not fit|does not take"),
        (lambda f: f["members"][0]["head"].update(kind="course", hidden=[8]), "does not fit"),
        (lambda f: f.update(schema=99), "upgrade headstart"),
    ],
)
def test_a_forged_manifest_is_refused(
    copy: Path, canary: list[str], change: Callable[[dict[str, Any]], object], named: str
) -> None:
    resealed(copy, change)
    before = set(sys.modules)
    with pytest.raises(ConfigError, match=named) as caught:
        load_bundle(copy)
    assert caught.value.exit_code == 78
    assert canary == []
    assert not {name for name in set(sys.modules) - before if not name.startswith(("timm.", "torch."))}


def test_a_deep_or_a_huge_manifest_is_refused(copy: Path) -> None:
    path = copy / "manifest.json"
    for data in (b"[" * 100_000, b'{"a":' * 50_000, b'{"a": "' + b"x" * 20_000_000 + b'"}', b"", b"{}"):
        path.write_bytes(data)
        with pytest.raises(ConfigError):
            read_manifest(copy)


def test_a_bundle_from_before_there_was_a_background_predicts_on_white(copy: Path) -> None:
    glass = np.dstack([picture(1), picture(2)[..., 0]])
    wanted = load_predictor(copy, device="cpu").predict(glass).logits
    resealed(copy, lambda fields: fields["members"][0]["preprocessing"].pop("background"))
    np.testing.assert_array_equal(load_predictor(copy, device="cpu").predict(glass).logits, wanted)
    resealed(copy, lambda fields: fields["members"][0]["preprocessing"].update(background=[0, 0, 0]))
    assert np.abs(load_predictor(copy, device="cpu").predict(glass).logits - wanted).max() > 1e-3
