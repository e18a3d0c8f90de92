"""A model repository for Triton Inference Server, made of an ONNX export."""

from __future__ import annotations

import re
from pathlib import Path

from headstart.errors import UsageError
from headstart.runtime.manifest import ExportManifest, read_export, read_graph
from headstart.storage import folder_written_whole, write_atomic

MOST_AT_ONCE = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def write_repository(
    export: Path, folder: Path, *, name: str = "classifier", replace_old: bool = False
) -> Path:
    """Write `folder`/`name`/{config.pbtxt, labels.txt, 1/model.onnx} from the ONNX export in `export`.

    Triton joins requests of equally sized pictures to batches. Raises `UsageError` for an export of another
    format or of several graphs, which one model of a repository cannot be, and for a name that is none;
    `OutputError` as `folder_written_whole` does.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name[:60]!r} is no name for a model", "take letters, digits, dots and hyphens")
    manifest = read_export(export)
    if not manifest.format.startswith("onnx"):
        raise UsageError(f"an export for {manifest.format} is nothing for Triton", "export ONNX")
    if len(manifest.graphs) != 1:
        raise UsageError(
            f"the {len(manifest.graphs)} networks take pictures that are prepared differently",
            "one model of Triton holds one graph: serve this bundle with headstart serve",
        )
    graph = read_graph(export, manifest.graphs[0].file, manifest)
    with folder_written_whole(folder, replace=replace_old) as temporary:
        model = temporary / name
        write_atomic(model / "1" / "model.onnx", graph)
        write_atomic(model / "labels.txt", "".join(f"{_line(each)}\n" for each in manifest.classes).encode())
        write_atomic(model / "config.pbtxt", configuration(manifest, name).encode())
    return folder / name


def configuration(manifest: ExportManifest, name: str) -> str:
    """Return the model's configuration as Triton's text format has it."""
    height, width = manifest.graphs[0].size if manifest.input == "prepared" else (-1, -1)
    outputs = [
        _port("probabilities", "TYPE_FP32", [len(manifest.classes)], 'label_filename: "labels.txt"'),
        # One number a picture, without an axis of its own.
        *([_port("strangeness", "TYPE_FP32", [1], "reshape { shape: [ ] }")] if manifest.novelty else []),
    ]
    return "\n".join(
        [
            f'name: "{name}"',
            'backend: "onnxruntime"',
            f"max_batch_size: {MOST_AT_ONCE}",
            f"input [\n{_port('pixels', 'TYPE_UINT8', [height, width, 3])}\n]",
            "output [\n" + ",\n".join(outputs) + "\n]",
            "dynamic_batching { }",
            "",
        ]
    )


def _port(name: str, kind: str, dims: list[int], more: str = "") -> str:
    lines = [f'name: "{name}"', f"data_type: {kind}", f"dims: [ {', '.join(map(str, dims))} ]", more]
    return "  {\n" + "".join(f"    {line}\n" for line in lines if line) + "  }"


def _line(name: str) -> str:
    """A class's name on one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
