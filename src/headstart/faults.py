"""What a device says when it fails: that memory ran out, or that it is gone; and batches in smaller parts."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, TypeVar

from headstart.errors import DeviceLostError, HeadstartError, OutOfMemoryError
from headstart.types import Batch

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")

# torch has a class for CUDA alone; the others say it in words: CUDA, MPS and XPU, the allocator of the
# CPU on Unix and on Windows, the two CUDA libraries, ONNX Runtime, OpenCV, the system and its loader.
_OUT_OF_MEMORY = (
    "out of memory",
    "cannot allocate memory",
    "failed to map segment",
    "can't allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "failed to allocate memory",
    "insufficient memory",
)
_LOST = ("cuda error", "hip error", "cudnn_status_execution_failed", "mps backend failed", "device lost")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory of the host or of a device ran out."""
    if isinstance(error, MemoryError):
        return True
    return not isinstance(error, HeadstartError) and _says(error, _OUT_OF_MEMORY)


def is_device_failure(error: BaseException) -> bool:
    """Tell whether an error says that a device failed and must not be used again by this process."""
    return isinstance(error, RuntimeError) and not is_out_of_memory(error) and _says(error, _LOST)


def device_lost(device: torch.device | str, error: BaseException) -> DeviceLostError:
    """Return what a person is told of a device that failed with `error`."""
    reason = str(error).splitlines()[0][:200]
    return DeviceLostError(
        f"{device} failed: {reason}",
        "what was saved before is whole: go on with it in a new process, if need be on another device",
    )


def _says(error: BaseException, phrases: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(phrase in text for phrase in phrases)


def parts_of(batch: Batch, size: int) -> list[Batch]:
    """Return a batch as batches of `size` samples, in order; the last may be shorter. Copies nothing."""
    if size >= len(batch):
        return [batch]
    spans = [slice(first, first + size) for first in range(0, len(batch), size)]
    return [
        Batch(
            batch.inputs[span],
            batch.targets[span],
            batch.index[span],
            None if batch.weight is None else batch.weight[span],
        )
        for span in spans
    ]


def part_size(whole: int, *, fits: Mapping[str, int], key: str, most: int | None = None) -> int:
    """Return how many samples of `whole` are worked on at once; see `in_parts`."""
    return min(whole, fits.get(key, whole), most or whole)


def in_parts(
    work: Callable[[list[Batch]], Result],
    batch: Batch,
    device: torch.device | str,
    *,
    fits: MutableMapping[str, int],
    key: str,
    most: int | None = None,
    longest: int | None = None,
    before_retry: Callable[[int], None] | None = None,
) -> Result:
    """Return `work` of a batch in parts that fit in memory: of all of it at once where it fits.

    Where memory runs out the parts are halved and the whole batch is worked on again, after
    `before_retry` was called with the new size. The size that fits is kept in `fits` under `key` and
    taken from the start next time; `most` is the largest to begin with. `longest`: the samples that others
    have who work on theirs at the same time, in parts of the same size, where that is more. Raises
    `OutOfMemoryError` when a single sample does not fit.
    """
    while True:
        size = part_size(longest or len(batch), fits=fits, key=key, most=most)
        try:
            return work(parts_of(batch, size))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if size <= 1:
                shape = "x".join(str(side) for side in batch.inputs.shape[1:])
                raise OutOfMemoryError(
                    f"memory ran out for one sample of {shape} on {device}",
                    "take smaller pictures (--image-size) or a smaller body (--arch), or end other programs",
                ) from error
        # Only here, with the error gone, does nothing refer to the tensors of the failed pass.
        fits[key] = (size + 1) // 2
        release_memory(device)
        if before_retry is not None:
            before_retry(fits[key])


def release_memory(device: torch.device | str) -> None:
    """Give back what nothing refers to any more, and what torch keeps for later."""
    import torch

    gc.collect()
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.empty_cache()
    elif kind == "mps":
        torch.mps.empty_cache()
    elif kind == "xpu":
        torch.xpu.empty_cache()
