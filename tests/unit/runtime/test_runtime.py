"""The small runtime needs no torch, says what the predictor says, and refuses what is not as it was
written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.unit.deploy.conftest import manifest_of, picture, small_model

from headstart.deploy import load_predictor
from headstart.deploy.export import export
from headstart.errors import ConfigError, InputMissingError, UsageError
from headstart.runtime import load_export
from headstart.runtime.manifest import MANIFEST, Record, read_export
from headstart.runtime.onnxfile import check_onnx
from headstart.storage import sha256_bytes

ALLOWED = {"headstart", "numpy", "PIL", "onnxruntime"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(["a.png", "b.jpg", "turned.jpg", "clear.png", "large.jpg"]):
        image = Image.fromarray(picture(number, 700 if name == "large.jpg" else 90, 400))
        exif = Image.Exif()
        if name == "turned.jpg":
            exif[274] = 6
        if name == "clear.png":
            image.putalpha(100)
        image.save(folder / name, exif=exif)
    (folder / "cut.jpg").write_bytes((folder / "b.jpg").read_bytes()[:700])
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from headstart.deploy import save_bundle

    folder = tmp_path_factory.mktemp("bundle") / "model"
    model = small_model()
    save_bundle(folder, [model], manifest_of(model, background=(0, 0, 0)))
    return folder


@pytest.fixture(scope="module")
def exported(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "onnx"
    export(bundle, folder, pictures=[picture(number) for number in range(3)])
    return folder


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """An export that a test may change."""
    return Path(shutil.copytree(exported, tmp_path / "export"))


# Refuses whatever the small runtime must do without, tells what was loaded, and predicts.
BLOCKED = """
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is not there")

BLOCKED = set(json.loads(sys.argv[1]))
sys.meta_path.insert(0, Blocker())
from headstart.runtime import load_export
rows = load_export(sys.argv[2], threads=1).predict(sys.argv[3:])
print(json.dumps({"rows": rows, "modules": sorted({name.split(".")[0] for name in sys.modules})}))
"""
WITHOUT = [
    *("torch", "torchvision", "timm", "cv2", "pandas", "sklearn", "scipy", "simplejpeg", "safetensors"),
    *("matplotlib", "onnx", "onnxscript", "typer", "rich", "yaml", "jinja2", "fsspec", "sympy"),
]


def test_without_torch_and_all_else_it_says_what_the_predictor_says(
    bundle: Path, exported: Path, files: list[Path]
) -> None:
    run = subprocess.run(
        [sys.executable, "-c", BLOCKED, json.dumps(WITHOUT), str(exported), *map(str, files)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    told = json.loads(run.stdout)
    strange = {
        name
        for name in told["modules"]
        if name not in ALLOWED and name not in sys.stdlib_module_names and not name.startswith("_")
    }
    # What ONNX Runtime and the editable install bring along, and nothing that was blocked.
    assert not strange & set(WITHOUT)
    assert {"numpy", "PIL", "onnxruntime"} <= set(told["modules"])
    with load_predictor(bundle, device="cpu", trusted=True) as predictor:
        wanted = predictor.predict(files)
    rows = told["rows"]
    assert [row["status"] for row in rows] == wanted.statuses.tolist()
    assert [row["status"] for row in rows if row["path"].endswith("cut.jpg")] == ["TRUNCATED"]
    for number in np.flatnonzero(wanted.predicted_rows):
        found = np.array(list(rows[number]["probabilities"].values()))
        assert np.abs(found - wanted.probabilities[number]).max() < 1e-4
        assert rows[number]["label"] == wanted.predicted_labels()[number]


def test_bytes_and_arrays_are_taken_like_files(exported: Path, files: list[Path]) -> None:
    loaded = load_export(exported)
    (by_path,) = loaded.predict(files[0])
    (by_bytes,) = loaded.predict(files[0].read_bytes())
    assert by_path["probabilities"] == by_bytes["probabilities"]
    assert loaded.predict(picture(3))[0]["label"] in loaded.classes
    assert len(list(loaded.stream(picture(number) for number in range(40)))) == 40


@pytest.mark.parametrize("what", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), 7])
def test_what_is_no_picture_is_refused(exported: Path, what: Any) -> None:
    with pytest.raises(UsageError):
        load_export(exported).predict([what])


def test_a_file_that_is_not_there_is_named(exported: Path) -> None:
    with pytest.raises(InputMissingError, match=r"nowhere\.jpg"):
        load_export(exported).predict("nowhere.jpg")


# --- attacks
# --------------------------------------------------------------------------------------------------


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and give it a checksum that fits: what a forger would do."""
    path = folder / MANIFEST
    fields = json.loads(path.read_bytes())
    change(fields)
    fields["checksum"] = "0" * 64
    data = json.dumps(fields).encode()
    path.write_bytes(data.replace(b"0" * 64, sha256_bytes(data).encode()))


def with_graph(folder: Path, data: bytes) -> None:
    """Exchange the graph, with a hash and a size that fit."""
    (folder / "model.onnx").write_bytes(data)
    record = {"sha256": sha256_bytes(data), "bytes": len(data)}
    rewritten(folder, lambda fields: fields["files"].update({"model.onnx": record}))


def test_a_rewritten_manifest_with_its_checksum_loads(copy: Path) -> None:
    rewritten(copy, lambda fields: fields.update(headstart="another"))
    assert load_export(copy).manifest.headstart == "another"


@pytest.mark.parametrize("place", [0, 100, -1])
@pytest.mark.parametrize("file", ["model.onnx", MANIFEST])
def test_an_altered_byte_is_refused(copy: Path, file: str, place: int) -> None:
    data = bytearray((copy / file).read_bytes())
    data[place] ^= 1
    (copy / file).write_bytes(data)
    with pytest.raises(ConfigError):
        load_export(copy)


FORGERIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "path": lambda fields: fields["graphs"][0].update(file="../../etc/passwd"),
    "absolute path": lambda fields: fields["files"].update(
        {"/etc/passwd": next(iter(fields["files"].values()))}
    ),
    "backslash": lambda fields: fields["graphs"][0].update(prepare="..\\prepare.onnx"),
    "unknown field": lambda fields: fields.update(run="rm"),
    "missing field": lambda fields: fields.pop("classes"),
    "schema": lambda fields: fields.update(schema=2),
    "format": lambda fields: fields.update(format="pickle"),
    "size": lambda fields: fields["graphs"][0].update(size=[10**9, 10**9]),
    "negative side": lambda fields: fields["graphs"][0].update(short_side=-1),
    "background": lambda fields: fields["graphs"][0].update(background=[0, 0, 256]),
    "two names": lambda fields: fields.update(classes=["a", "a", "b"]),
    "long name": lambda fields: fields.update(classes=["a" * 10**6, "b", "c"]),
    "temperature": lambda fields: fields.update(temperature=0),
    "truth": lambda fields: fields.update(novelty=1),
    "too few thresholds": lambda fields: fields.update(thresholds=[0.5]),
    "scaling": lambda fields: fields.update(scaling=[[1.0, 1.0, 1.0]]),
    "sets": lambda fields: fields.update(sets={"method": "os.system", "level": 0.9, "limit": 0.5}),
    "no graph": lambda fields: fields.update(graphs=[]),
    "a table": lambda fields: fields.update(graphs={"file": "model.onnx"}),
    "hash": lambda fields: fields["files"]["model.onnx"].update(sha256="x"),
    "bytes": lambda fields: fields["files"]["model.onnx"].update(bytes=2**60),
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forged_manifest_is_refused(copy: Path, change: Callable[[dict[str, Any]], object]) -> None:
    rewritten(copy, change)
    with pytest.raises(ConfigError):
        load_export(copy)


def test_what_is_not_its_own_is_refused(copy: Path) -> None:
    (copy / "model.pkl").write_bytes(b"\x80\x04.")
    with pytest.raises(ConfigError, match="does not hold what"):
        load_export(copy)


def test_links_and_folders_are_refused(copy: Path, tmp_path: Path) -> None:
    shutil.move(copy / "model.onnx", tmp_path / "elsewhere.onnx")
    (copy / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(ConfigError, match="not a plain file"):
        load_export(copy)
    (copy / "model.onnx").unlink()
    (copy / "model.onnx").mkdir()
    with pytest.raises(ConfigError, match="not a plain file"):
        load_export(copy)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"[" * 100_000, b'{"schema": 1, "schema": 1}', b"null"])
def test_a_manifest_that_is_none_is_refused(copy: Path, data: bytes) -> None:
    (copy / MANIFEST).write_bytes(data)
    with pytest.raises(ConfigError):
        load_export(copy)


def test_an_oversized_manifest_is_refused_before_it_is_read(copy: Path) -> None:
    with open(copy / MANIFEST, "ab") as stream:
        stream.truncate(2**30)
    with pytest.raises(ConfigError, match="larger than"):
        load_export(copy)


def test_no_folder_and_no_export_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError):
        load_export(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is no export"):
        load_export(tmp_path)


def graph_with(*nodes: Any, initializers: Any = (), domain: str = "") -> bytes:
    port = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes or [helper.make_node("Identity", ["pixels"], ["probabilities"])],
        "graph",
        [port("pixels", TensorProto.UINT8, [None, None, None, 3])],
        [port("probabilities", TensorProto.FLOAT, [None, 3])],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets).SerializeToString()


def outside(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return tensor


def huge() -> TensorProto:
    return TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**40, 2**20])


def inside(kind: str) -> Any:
    body = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "body", [], [])
    return helper.make_node(kind, ["pixels"], ["probabilities"], then_branch=body, else_branch=body)


REFUSED = {
    "external": lambda: graph_with(initializers=[outside("../../etc/passwd")]),
    "absolute": lambda: graph_with(initializers=[outside("/etc/passwd")]),
    "constant": lambda: graph_with(helper.make_node("Constant", [], ["probabilities"], value=outside("x"))),
    "huge": lambda: graph_with(initializers=[huge()]),
    "domain": lambda: graph_with(domain="evil.ops"),
    "operator": lambda: graph_with(helper.make_node("Run", ["pixels"], ["probabilities"], domain="evil")),
    "subgraph": lambda: graph_with(inside("If")),
    "cut": lambda: graph_with(initializers=[onnx.numpy_helper.from_array(np.ones(9), "w")])[:-20],
    "empty": lambda: b"",
    "pickle": lambda: b"\x80\x04\x95\x00\x00\x00\x00.",
    "zip": lambda: b"PK\x03\x04" + bytes(64),
    "ports": lambda: graph_with().replace(b"pixels", b"pixelx"),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_a_graph_that_asks_for_more_than_data_is_refused_before_any_engine_sees_it(
    copy: Path, make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    def seen(*arguments: object, **options: object) -> None:
        raise AssertionError("a session was made")

    monkeypatch.setattr(onnxruntime, "InferenceSession", seen)
    data = make()
    (copy / "model.onnx").write_bytes(data)
    record = {"sha256": sha256_bytes(data), "bytes": max(8, len(data))}
    rewritten(copy, lambda fields: fields["files"].update({"model.onnx": record}))
    with pytest.raises(ConfigError):
        load_export(copy)


def test_a_plain_graph_passes_the_same_look() -> None:
    ports = check_onnx(graph_with(), "it")
    assert (ports.inputs, ports.outputs) == (("pixels",), ("probabilities",))


def test_every_cut_of_a_graph_is_refused_or_read_but_never_a_crash() -> None:
    data = graph_with(initializers=[onnx.numpy_helper.from_array(np.ones(9), "w")])
    refused = 0
    for length in range(len(data)):
        try:
            check_onnx(data[:length], "it")
        except ConfigError:
            refused += 1
    assert refused > len(data) // 2


def test_the_manifest_reads_back_as_it_was_written(exported: Path) -> None:
    manifest = read_export(exported)
    assert isinstance(manifest.files["model.onnx"], Record)
    assert manifest.to_bytes() == (exported / MANIFEST).read_bytes()
