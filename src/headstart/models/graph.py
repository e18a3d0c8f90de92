"""Makes ONNX graphs of the lower part of a classifier, for `OnnxEngine` to run."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from headstart.models.engine import AT_ONCE
from headstart.types import Size

# An ONNX file is one protobuf message, which holds at most 2 GiB.
MAX_GRAPH_BYTES = 2**31 - 2**20


class _FromPixels(nn.Module):
    """A part that takes pictures as they are decoded: uint8 (batch, height, width, 3)."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        activations: torch.Tensor = self.part(pixels.permute(0, 3, 1, 2))
        return activations


def export_graph(part: nn.Module, size: Size) -> bytes:
    """Return a part (pixels → activations) as an ONNX graph in evaluation mode.

    The graph takes uint8 pictures (batch, height, width, 3) of `size`. It is made by the exporter on
    TorchScript, which needs 0.7–2 s where the newer one needs 6–17, and of a copy, because exporting
    changes the modes of what it is given. Raises `ValueError` when the weights exceed what an ONNX
    file holds, and whatever the exporter raises about a body that it cannot express.
    """
    weighs = sum(tensor.numel() * tensor.element_size() for tensor in part.state_dict().values())
    if weighs > MAX_GRAPH_BYTES:
        raise ValueError(f"{weighs} bytes of weights are more than an ONNX file holds")
    lower = _FromPixels(copy.deepcopy(part).cpu()).eval().requires_grad_(False)
    # More than the engine ever runs at a time: a graph that holds to the example's number fails at once.
    example = torch.zeros(2 * AT_ONCE, *size, 3, dtype=torch.uint8)
    with tempfile.TemporaryDirectory(prefix="headstart-") as folder, torch.no_grad(), quiet():
        file = Path(folder) / "graph.onnx"
        torch.onnx.export(
            lower,
            (example,),
            str(file),
            input_names=["pixels"],
            output_names=["activations"],
            dynamic_axes={"pixels": {0: "batch"}, "activations": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
        return file.read_bytes()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter: on its age, on size checks that it takes as constant, on what it cannot do."""
    with warnings.catch_warnings(), _no_standard_output():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\..*")
        warnings.filterwarnings("ignore", message=".*legacy TorchScript-based ONNX export.*")
        warnings.filterwarnings("ignore", message=r"Converting a tensor to a Python", category=Warning)
        yield


@contextlib.contextmanager
def _no_standard_output() -> Iterator[None]:
    """Send what the process writes on standard output nowhere.

    Standard output carries data, and the exporter, from C++, prints graphs that it fails at there.
    """
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # there is no standard output
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            yield
    finally:
        sys.stdout.flush()
        if os.name == "posix":
            ctypes.CDLL(None).fflush(None)  # C's own buffer, which would come out later
        os.dup2(kept, 1)
        os.close(kept)


def content_of(part: nn.Module) -> str:
    """Return a hash of all tensors of a part, by name: what its output depends on besides the input."""
    digest = hashlib.sha256()
    for name, tensor in part.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
