"""An export says of pictures what the bundle says of them, or there is none."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headstart.cli.exporting import validation_pictures
from headstart.cli.main import run as headstart
from headstart.deploy import load_bundle, load_predictor, save_bundle
from headstart.deploy.export import FORMATS, export, write_repository
from headstart.deploy.export import exporting as exporting_module
from headstart.deploy.export.parts import parts_of
from headstart.deploy.export.programs import without_example
from headstart.deploy.export.verifying import Verification, refuse_disagreement
from headstart.errors import ConfigError, InputMissingError, OutputError, UsageError
from headstart.evaluation import Predictions, SetRule, fit_novelty
from headstart.runtime import load_export
from headstart.storage import write_json
from headstart.types import Task

from .conftest import CLASSES, SIZE, Saved, manifest_of, picture, small_model

LIMIT = 1e-4


def arrays(count: int = 5) -> list[np.ndarray]:
    shapes = [(90, 120), (120, 90), (56, 300), (300, 60), (48, 64)]
    return [picture(number, *shapes[number % len(shapes)]) for number in range(count)]


def bundle_of(folder: Path, *models: Any, **changes: Any) -> Path:
    novelty = changes.pop("novelty", None)
    save_bundle(folder, models, manifest_of(*models, **changes), novelty=novelty)
    return folder


def predicted(bundle: Path, pictures: list[np.ndarray], **options: Any) -> Any:
    with load_predictor(bundle, device="cpu", trusted=True) as predictor:
        return predictor.predict(pictures, **options)


@pytest.fixture(scope="module")
def exported(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX export that no test may change."""
    folder = tmp_path_factory.mktemp("export") / "onnx"
    export(saved.folder, folder, pictures=arrays())
    return folder


def test_the_graph_alone_gives_the_predictors_probabilities(saved: Saved, exported: Path) -> None:
    pictures = arrays(10)
    found, strangeness = load_export(exported).probabilities(pictures)
    assert strangeness is None
    assert np.abs(found - predicted(saved.folder, pictures).probabilities).max() < LIMIT


def test_a_batch_of_equal_pictures_and_each_alone_give_the_same(exported: Path) -> None:
    loaded, pictures = load_export(exported), [picture(number) for number in range(4)]
    together = loaded.probabilities(pictures)[0]
    alone = np.concatenate([loaded.probabilities([each])[0] for each in pictures])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_the_figures_of_the_check_lie_in_the_export(exported: Path) -> None:
    figures = load_export(exported).manifest.verification
    assert figures["pictures"] == 5
    assert figures["difference"] <= LIMIT
    assert figures["agreement"] == 1.0
    assert figures["milliseconds"] > 0


def test_prepared_pictures_give_the_same_and_the_graph_that_prepares_lies_beside(
    saved: Saved, exported: Path, tmp_path: Path
) -> None:
    done = export(saved.folder, tmp_path / "out", pictures=arrays(), input="prepared")
    assert sorted(done.manifest.files) == ["model.onnx", "prepare.onnx"]
    pictures = arrays(7)
    found = load_export(tmp_path / "out").probabilities(pictures)[0]
    np.testing.assert_allclose(found, load_export(exported).probabilities(pictures)[0], atol=1e-6)


def test_tags_scaling_thresholds_and_mirrored_views_are_in_the_graph(tmp_path: Path) -> None:
    bundle = bundle_of(
        tmp_path / "bundle",
        small_model(),
        small_model(seed=1),
        task=Task.MULTI_LABEL,
        thresholds=(0.2, 0.5, 0.7),
        scaling=((1.2, 0.8, 1.0), (0.1, -0.3, 0.0)),
        views="flips",
        tta=True,
    )
    done = export(bundle, tmp_path / "out", pictures=arrays())
    assert (done.manifest.views, len(done.manifest.graphs), done.note) == (2, 1, "")
    wanted = predicted(bundle, arrays())
    found = load_export(tmp_path / "out").predict(arrays())
    probabilities = np.array([list(row["probabilities"].values()) for row in found])
    assert np.abs(probabilities - wanted.probabilities).max() < LIMIT
    said = [[name for name, yes in zip(CLASSES, row, strict=True) if yes] for row in wanted.predicted]
    assert [row["tags"] for row in found] == said


def test_networks_that_see_pictures_differently_are_a_graph_each_and_their_mean_is_taken(
    tmp_path: Path,
) -> None:
    models = [small_model(), small_model(seed=1)]
    manifest = manifest_of(*models, scaling=((1.2, 0.8, 1.0), (0.1, -0.3, 0.0)))
    other = replace(manifest.members[1].preprocessing, policy="squish")
    members = (manifest.members[0], replace(manifest.members[1], preprocessing=other))
    save_bundle(tmp_path / "bundle", models, replace(manifest, members=members))
    done = export(tmp_path / "bundle", tmp_path / "out", pictures=arrays())
    assert sorted(done.manifest.files) == ["model-1.onnx", "model-2.onnx"]
    found = load_export(tmp_path / "out").probabilities(arrays())[0]
    assert np.abs(found - predicted(tmp_path / "bundle", arrays()).probabilities).max() < LIMIT
    with pytest.raises(UsageError, match="prepared differently"):
        write_repository(tmp_path / "out", tmp_path / "triton")


def test_sets_and_none_of_these_are_those_of_the_predictor(tmp_path: Path) -> None:
    model = small_model()
    features = np.random.default_rng(0).normal(size=(80, model.feature_count)).astype(np.float32)
    report = fit_novelty(features, features[:50] + 0.1, blocks=2)
    assert report is not None
    novelty = replace(report.novelty, limit=1e-9)
    with_limit = []
    for limit in (1e-9, None):
        rule = novelty if limit else replace(novelty, limit=100.0)
        name = f"bundle-{limit}"
        bundle = bundle_of(tmp_path / name, model, novelty=rule, sets=SetRule("adaptive", 0.9, 0.8))
        export(bundle, tmp_path / f"{name}-out", pictures=arrays())
        wanted = predicted(bundle, arrays())
        loaded = load_export(tmp_path / f"{name}-out")
        rows = loaded.predict(arrays())
        np.testing.assert_allclose(loaded.probabilities(arrays())[1], wanted.strangeness, rtol=1e-3)
        assert [row["none_of_these"] for row in rows] == wanted.none_of_these.tolist()
        sets = [[name for name, yes in zip(CLASSES, row, strict=True) if yes] for row in wanted.sets]
        assert [row["set"] for row in rows] == sets
        with_limit.append(rows[0]["none_of_these"])
    assert with_limit == [True, False]


def test_views_that_a_graph_cannot_hold_are_left_out_and_said(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "bundle", small_model(), tta=True, tta_policy="multi-scale")
    parts = parts_of(load_bundle(bundle))
    assert len(parts.graphs[0].views) == 1
    assert "multi-scale" in parts.note
    assert not parts_of(load_bundle(bundle), tta=False).note


# --- what does not agree is refused ----------------------------------------------------------------------


def test_a_graph_with_a_wrong_mean_is_refused_and_nothing_is_left(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_wrong_mean(bundle: Any, **options: Any) -> Any:
        parts = parts_of(bundle, **options)
        model = parts.graphs[0].models[0]
        right = parts.reference(arrays())
        model.pixel_mean += 10.0
        # The comparison is with the numbers of the right network.
        monkeypatch.setattr(type(parts), "reference", lambda self, pictures: right[: len(pictures)])
        return parts

    monkeypatch.setattr(exporting_module, "parts_of", with_wrong_mean)
    with pytest.raises(ConfigError, match="does not agree with PyTorch") as refused:
        export(saved.folder, tmp_path / "out", pictures=arrays())
    assert (refused.value.code, refused.value.exit_code) == ("EXPORT_DISAGREES", 78)
    assert list(tmp_path.iterdir()) == []


def figures(**changes: Any) -> Verification:
    fields: dict[str, Any] = {"pictures": 200, "difference": 0.0, "mean_difference": 0.0, "agreement": 1.0}
    fields |= {"clear_flips": 0, "milliseconds": 1.0, "torch_milliseconds": 1.0, "bytes": 1, "torch_bytes": 1}
    return Verification(**(fields | changes))


@pytest.mark.parametrize(
    ("name", "changes", "error"),
    [
        ("onnx", {"difference": 2e-4}, ConfigError),
        ("torch", {"difference": float("nan")}, ConfigError),
        ("onnx-fp16", {"agreement": 0.98}, ConfigError),
        ("onnx-int8", {"agreement": 0.975}, ConfigError),
        ("onnx-int8", {"difference": float("nan")}, ConfigError),
        ("onnx-int8", {"pictures": 99}, InputMissingError),
    ],
)
def test_each_format_has_its_own_bounds(name: str, changes: dict[str, Any], error: type[Exception]) -> None:
    refuse_disagreement(FORMATS[name], figures(), name)
    with pytest.raises(error):
        refuse_disagreement(FORMATS[name], figures(**changes), name)


def test_whole_numbers_need_a_hundred_pictures(saved: Saved, tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="too few"):
        export(saved.folder, tmp_path / "out", format="onnx-int8", pictures=arrays())
    assert not (tmp_path / "out").exists()


def test_an_export_that_is_there_is_replaced_only_when_asked(exported: Path, saved: Saved) -> None:
    before = sorted(path.stat().st_mtime_ns for path in exported.iterdir())
    with pytest.raises(OutputError, match="exists already"):
        export(saved.folder, exported, pictures=arrays())
    assert sorted(path.stat().st_mtime_ns for path in exported.iterdir()) == before


@pytest.mark.parametrize("options", [{"format": "pickle"}, {"input": "tensors"}])
def test_unknown_formats_and_inputs_are_refused(
    saved: Saved, tmp_path: Path, options: dict[str, str]
) -> None:
    with pytest.raises(UsageError):
        export(saved.folder, tmp_path / "out", pictures=arrays(), **options)


# --- other formats ------------------------------------------------------------------------------------------


def test_the_program_for_torch_agrees_and_holds_no_pickle(saved: Saved, tmp_path: Path) -> None:
    import zipfile

    done = export(saved.folder, tmp_path / "out", format="torch", pictures=arrays())
    assert done.verification.difference <= LIMIT
    with zipfile.ZipFile(tmp_path / "out" / "model.pt2") as archive:
        assert not any(archive.read(name).startswith((b"\x80", b"PK")) for name in archive.namelist())
    with pytest.raises(UsageError, match="ONNX Runtime does not run"):
        load_export(tmp_path / "out")


def test_the_example_is_what_would_have_been_the_pickle() -> None:
    import io
    import zipfile

    class Twice(torch.nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return 2 * values

    stream = io.BytesIO()
    torch.export.save(torch.export.export(Twice(), (torch.ones(2),)), stream)

    def starts(data: bytes) -> set[bytes]:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {archive.read(name)[:2] for name in archive.namelist()}

    assert b"PK" in starts(stream.getvalue())
    assert b"PK" not in starts(without_example(stream.getvalue()))


def test_without_executorch_its_format_says_what_to_install(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)
    monkeypatch.setitem(sys.modules, "executorch.exir", None)
    monkeypatch.setitem(sys.modules, "executorch.backends.xnnpack.partition.xnnpack_partitioner", None)
    with pytest.raises(UsageError, match="ExecuTorch is not installed") as refused:
        export(saved.folder, tmp_path / "out", format="executorch", pictures=arrays())
    assert "headstart[mobile]" in refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_half_precision_agrees_on_the_classes(saved: Saved, tmp_path: Path) -> None:
    done = export(saved.folder, tmp_path / "out", format="onnx-fp16", pictures=arrays())
    assert 0 < done.verification.difference < 0.05


# --- Triton
# ---------------------------------------------------------------------------------------------------


def parsed(text: str) -> dict[str, Any]:
    """Protobuf's text format, as much of it as a configuration has: fields, messages and lists."""
    tokens = re.findall(r'"[^"\n]*"|[{}\[\],:]|[^\s{}\[\],:"]+', text)
    position = 0

    def value() -> Any:
        nonlocal position
        token = tokens[position]
        position += 1
        if token == "{":
            return message("}")
        if token == "[":
            found = []
            while tokens[position] != "]":
                found.append(value())
                position += tokens[position] == ","
            position += 1
            return found
        return (
            token.strip('"')
            if token.startswith('"')
            else int(token)
            if token.lstrip("-").isdigit()
            else token
        )

    def message(end: str) -> dict[str, Any]:
        nonlocal position
        found: dict[str, Any] = {}
        while position < len(tokens) and tokens[position] != end:
            name = tokens[position]
            assert re.fullmatch(r"[a-z_]+", name), name
            position += 1
            position += tokens[position] == ":"
            found[name] = value()
        position += 1
        return found

    return message("")


def test_the_repository_for_triton_says_what_the_graph_takes_and_gives(
    exported: Path, tmp_path: Path
) -> None:
    import onnx

    model = write_repository(exported, tmp_path / "repository", name="birds")
    assert sorted(str(path.relative_to(model)) for path in model.rglob("*") if path.is_file()) == [
        "1/model.onnx",
        "config.pbtxt",
        "labels.txt",
    ]
    told = parsed((model / "config.pbtxt").read_text("utf-8"))
    graph = onnx.load(model / "1" / "model.onnx").graph
    assert told["name"] == "birds"
    assert told["backend"] == "onnxruntime"
    assert told["max_batch_size"] > 1
    assert told["dynamic_batching"] == {}
    assert [port["name"] for port in told["input"]] == [port.name for port in graph.input] == ["pixels"]
    assert told["input"][0] | {"name": ""} == {"name": "", "data_type": "TYPE_UINT8", "dims": [-1, -1, 3]}
    assert [port["name"] for port in told["output"]] == [port.name for port in graph.output]
    assert told["output"][0]["dims"] == [len(CLASSES)]
    assert (model / "labels.txt").read_text("utf-8").splitlines() == list(CLASSES)
    with pytest.raises(UsageError, match="is no name"):
        write_repository(exported, tmp_path / "other", name="../birds")


# --- the command
# ------------------------------------------------------------------------------------------------


def test_the_command_writes_and_tells(
    saved: Saved, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--pictures", str(pictures[0].parent), "--out", str(tmp_path / "out"), "--quiet"]
    assert headstart(["export", str(saved.folder), *given]) == 0
    assert "6 pictures, beside PyTorch" in capsys.readouterr().out
    assert headstart(["export", str(saved.folder), *given]) == 73
    triton = [*given[:3], str(tmp_path / "triton"), "--format", "triton"]
    assert headstart(["export", str(saved.folder), *triton, "--json"]) == 0
    assert (tmp_path / "triton" / "classifier" / "1" / "model.onnx").is_file()


def test_a_model_outside_of_a_run_needs_pictures(saved: Saved, capsys: pytest.CaptureFixture[str]) -> None:
    assert headstart(["export", str(saved.folder)]) == 66
    assert "--pictures" in capsys.readouterr().err


# --- bodies
# -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["test_vit", "test_convnext", "test_efficientnet"])
def test_bodies_of_other_kinds_agree_on_real_pictures(arch: str, shared: Path, tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "bundle", small_model(arch))
    files = sorted((shared / "data" / "flowers" / "roses").glob("*.jpg"))[:8]
    done = export(bundle, tmp_path / "out", pictures=files)
    assert done.verification.difference <= LIMIT
    assert done.verification.agreement == 1.0
    assert done.manifest.graphs[0].size == SIZE


# --- the pictures of a run ----------------------------------------------------------------------------------


def run_folder(folder: Path, bundle: Path, pictures: list[Path]) -> Path:
    """What a run leaves, as far as export looks at it: every second picture was validated with."""
    shutil.copytree(bundle, folder / "model")
    root = pictures[0].parent
    write_json(folder / "summary.json", {"schema": 1, "data": {"root": str(root), "task": "single-label"}})
    Predictions(
        np.zeros((len(pictures), len(CLASSES)), np.float32),
        CLASSES,
        targets=np.zeros(len(pictures), np.int64),
        paths=tuple(path.name for path in pictures),
        split=np.array(["valid", "train"] * len(pictures))[: len(pictures)],
    ).to_csv(folder / "predictions.csv")
    return folder


def test_a_run_is_checked_on_the_pictures_that_it_validated_with(
    saved: Saved, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run", saved.folder, pictures)
    assert validation_pictures(run / "model") == pictures[::2]
    assert headstart(["export", str(run), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verification"]["pictures"] == 3
    assert (run / "export-onnx" / "model.onnx").is_file()


def test_a_run_whose_pictures_are_gone_asks_for_others(
    saved: Saved, pictures: list[Path], tmp_path: Path
) -> None:
    run = run_folder(tmp_path / "run", saved.folder, pictures)
    write_json(run / "summary.json", {"schema": 1, "data": {"root": str(tmp_path / "gone")}})
    with pytest.raises(InputMissingError, match="any more"):
        validation_pictures(run / "model")
