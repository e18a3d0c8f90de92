"""What is frozen, as `torch.compile` makes it: for a GPU and very many pictures."""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from headstart.models.backbones import evaluating


class CompiledEngine:
    """Runs the lower part of a classifier compiled, in bfloat16 where the device computes in it.

    The first call compiles. All batches are given to it at one size, that of the first call, and the last
    is filled up: each further size would be compiled anew. `bfloat16` and `backend` (of `torch.compile`)
    are chosen by the device unless given.
    """

    name = "compiled"

    def __init__(self, part: nn.Module, *, backend: str = "inductor", bfloat16: bool | None = None) -> None:
        self._part = part
        first = next(iter(part.parameters()), torch.zeros(()))
        self._device = first.device
        on_gpu = self._device.type == "cuda" and torch.cuda.is_bf16_supported()
        self._bfloat16 = on_gpu if bfloat16 is None else bfloat16
        self._run = torch.compile(part, backend=backend, dynamic=False)
        self._batch_size = 0

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return activations (batch, …) of uint8 pictures (batch, height, width, 3)."""
        self._batch_size = self._batch_size or len(pixels)
        starts = range(0, len(pixels), self._batch_size)
        return np.concatenate([self._batch(pixels[start : start + self._batch_size]) for start in starts])

    def _batch(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        count = len(pixels)
        if count < self._batch_size:
            empty = np.zeros((self._batch_size - count, *pixels.shape[1:]), np.uint8)
            pixels = np.concatenate([pixels, empty])
        inputs = torch.as_tensor(pixels).permute(0, 3, 1, 2).to(self._device, non_blocking=True)
        half = (
            torch.autocast(self._device.type, torch.bfloat16) if self._bfloat16 else contextlib.nullcontext()
        )
        with evaluating(self._part), torch.no_grad(), half:
            activations: NDArray[np.float32] = self._run(inputs)[:count].float().cpu().numpy()
        return activations
