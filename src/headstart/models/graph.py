"""Makes ONNX graphs of the lower part of a classifier, for `OnnxEngine` to run."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

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
    example = torch.zeros(2, *size, 3, dtype=torch.uint8)
    with tempfile.TemporaryDirectory(prefix="headstart-") as folder, torch.no_grad(), _quiet():
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
def _quiet() -> Iterator[None]:
    """Silence what the exporter says of its age, and of size checks that it takes as constant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\..*")
        warnings.filterwarnings("ignore", message=".*legacy TorchScript-based ONNX export.*")
        warnings.filterwarnings("ignore", message=r"Converting a tensor to a Python", category=Warning)
        yield


def content_of(part: nn.Module) -> str:
    """Return a hash of all tensors of a part, by name: what its output depends on besides the input."""
    digest = hashlib.sha256()
    for name, tensor in part.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
