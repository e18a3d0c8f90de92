"""The formats that a model is exported in: how each is made, what runs it, and what it must agree with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headstart.deploy.export.parts import GraphPart, Parts
from headstart.errors import UsageError
from headstart.runtime.deciding import combined
from headstart.runtime.export import Export
from headstart.runtime.manifest import ExportManifest
from headstart.types import Pixels

MOST_DIFFERENCE = 1e-4
"""The most by which a probability may differ, from identical decoded pixels, where nothing was rounded."""

Make = Callable[[GraphPart, bool, Sequence[Pixels]], dict[str, bytes]]
Runner = Callable[[Sequence[Pixels]], NDArray[np.float64]]


@dataclass(frozen=True)
class Format:
    """One format.

    `words`: what it is; `suffix`: of its files; `make(part, prepared, calibration)` gives the files of one
    graph. It is refused above `difference` (in a probability, None for any), or where less than `agreement`
    of the pictures are given the same class, or where fewer than `fewest` pictures can tell. `calibrated`:
    whether it needs pictures to be made; `only_prepared`: whether it takes none but prepared ones.
    """

    words: str
    suffix: str
    make: Make
    difference: float | None = None
    agreement: float = 0.0
    fewest: int = 1
    calibrated: bool = False
    only_prepared: bool = False


def _onnx(precision: str) -> Make:
    def make(part: GraphPart, prepared: bool, calibration: Sequence[Pixels]) -> dict[str, bytes]:
        from headstart.deploy.export.onnxgraphs import onnx_files

        return onnx_files(part, precision=precision, prepared=prepared, calibration=calibration)

    return make


def _torch(part: GraphPart, prepared: bool, calibration: Sequence[Pixels]) -> dict[str, bytes]:
    from headstart.deploy.export.programs import torch_files

    del calibration
    return torch_files(part, prepared=prepared)


def _executorch(part: GraphPart, prepared: bool, calibration: Sequence[Pixels]) -> dict[str, bytes]:
    from headstart.deploy.export.programs import executorch_files

    del prepared, calibration
    return executorch_files(part)


FORMATS: dict[str, Format] = {
    "onnx": Format("ONNX", "onnx", _onnx("float32"), difference=MOST_DIFFERENCE),
    "onnx-fp16": Format("ONNX in half precision, for GPUs", "onnx", _onnx("float16"), agreement=0.99),
    "onnx-int8": Format(
        "ONNX in whole numbers of 8 bits",
        "onnx",
        _onnx("int8"),
        agreement=0.98,
        fewest=100,
        calibrated=True,
    ),
    "torch": Format("a program for torch.export.load", "pt2", _torch, difference=MOST_DIFFERENCE),
    "executorch": Format(
        "a program for phones, of one prepared picture",
        "pte",
        _executorch,
        difference=MOST_DIFFERENCE,
        only_prepared=True,
    ),
}
"""The formats by name: a closed table."""


def format_named(name: str) -> Format:
    """Return a format; raises `UsageError` for an unknown one."""
    if name not in FORMATS:
        raise UsageError(f"there is no export format {name!r}", f"choose from {', '.join(FORMATS)}")
    return FORMATS[name]


def runner(folder: Path, manifest: ExportManifest, parts: Parts) -> Runner:
    """Return what runs an export that lies in `folder`, from decoded pictures to probabilities (rows,
    classes).

    ONNX runs in the small runtime, just as it will for those who load it.
    """
    if manifest.format.startswith("onnx"):
        export = Export(folder)
        return lambda pictures: export.probabilities(pictures)[0]
    from headstart.deploy.export.programs import executorch_run, torch_run

    names = [record.file for record in manifest.graphs]
    runs = executorch_run(folder, names) if manifest.format == "executorch" else torch_run(folder, names)
    prepares = [record.prepare for record in manifest.graphs]
    ready = torch_run(folder, [name for name in prepares if name is not None]) if all(prepares) else None

    def run(pictures: Sequence[Pixels]) -> NDArray[np.float64]:
        found = []
        for number, (part, run_one) in enumerate(zip(parts.graphs, runs, strict=True)):
            seen: list[Pixels] = list(pictures)
            if manifest.input == "prepared":
                seen = [
                    part.prepared(picture) if ready is None else np.asarray(ready[number](picture), np.uint8)
                    for picture in pictures
                ]
            found.append(np.stack([run_one(picture) for picture in seen]))
        return combined(found, manifest)

    return run
