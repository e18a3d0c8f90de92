"""Programs that torch itself runs (`torch.export`), and those for phones (ExecuTorch)."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from headstart.deploy.export.parts import GraphPart
from headstart.errors import ConfigError, UsageError
from headstart.models.graph import quiet
from headstart.types import Pixels

Run = Callable[[Pixels], NDArray[np.float32]]
"""One picture, ready or decoded → its probabilities (classes,)."""


def torch_files(part: GraphPart, *, prepared: bool) -> dict[str, bytes]:
    """Return the files of one graph for `torch.export.load`: `model`, and `prepare` for prepared pictures.

    Raises `ConfigError` where torch cannot express the body.
    """
    ready = torch.zeros(2, *part.given.size, 3, dtype=torch.uint8)
    decoded = torch.zeros(2, 40, 48, 3, dtype=torch.uint8)
    if not prepared:
        return {"model": _program(part.from_pictures, decoded, free=3)}
    return {
        "model": _program(part.from_prepared, ready, free=1),
        "prepare": _program(part.preparing, decoded, free=3),
    }


def _exported(module: nn.Module, example: torch.Tensor, free: int) -> Any:
    axes = dict.fromkeys(range(free), torch.export.Dim.DYNAMIC)
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(module, (example,), dynamic_shapes=(axes or None,))
    except Exception as error:  # torch has no one error for what it cannot trace
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ConfigError(
            f"torch.export cannot express the network: {reason}", "choose --format onnx"
        ) from error


def _program(module: nn.Module, example: torch.Tensor, *, free: int) -> bytes:
    stream = io.BytesIO()
    torch.export.save(_exported(module, example, free), stream)
    return without_example(stream.getvalue())


def without_example(data: bytes) -> bytes:
    """Return an archive of `torch.export.save` without the example that the program was traced with.

    It is the one member that is a pickle, and nothing needs it; torch takes an empty one for none.
    """
    kept = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(kept, "w", zipfile.ZIP_STORED) as new:
        for member in old.infolist():
            example = "/sample_inputs/" in member.filename
            new.writestr(zipfile.ZipInfo(member.filename), b"" if example else old.read(member))
    return kept.getvalue()


def torch_run(folder: Path, names: Sequence[str]) -> list[Run]:
    """Return what runs the programs of an export that has just been written."""
    with quiet():
        modules = [torch.export.load(str(folder / name)).module() for name in names]

    def run(module: nn.Module, picture: Pixels) -> NDArray[np.float32]:
        with torch.no_grad():
            found = module(torch.tensor(picture[None]))
        first: torch.Tensor = found[0] if isinstance(found, tuple | list) else found
        return np.asarray(first[0].numpy(), np.float32)

    return [partial(run, module) for module in modules]


def executorch_files(part: GraphPart) -> dict[str, bytes]:
    """Return the program of one graph for ExecuTorch, by XNNPACK, of one prepared picture at a time.

    Raises `UsageError` where ExecuTorch is not installed, `ConfigError` where it cannot express the body.
    """
    try:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    except ImportError as error:
        raise _not_installed() from error
    example = torch.zeros(1, *part.given.size, 3, dtype=torch.uint8)
    exported = _exported(part.from_prepared, example, 0)
    with quiet():
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        return {"model": bytes(lowered.to_executorch().buffer)}


def executorch_run(folder: Path, names: Sequence[str]) -> list[Run]:
    """Return what runs the programs of an export that has just been written."""
    try:
        from executorch.runtime import Runtime
    except ImportError as error:
        raise _not_installed() from error
    programs = [Runtime.get().load_program(folder / name) for name in names]
    methods = [program.load_method("forward") for program in programs]

    def run(method: Any, picture: Pixels) -> NDArray[np.float32]:
        found = method.execute([torch.tensor(picture[None])])
        return np.asarray(found[0][0].numpy(), np.float32)

    return [partial(run, method) for method in methods]


def _not_installed() -> UsageError:
    return UsageError("ExecuTorch is not installed", 'install it with: pip install "headstart[mobile]"')
