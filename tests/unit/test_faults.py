"""Memory that runs out is recognised, and batches are taken in smaller parts that make the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import DataError, OutOfMemoryError
from headstart.faults import in_parts, is_device_failure, is_out_of_memory, parts_of
from headstart.inference import module_forward
from headstart.types import Batch


def batch_of(count: int, *, weighted: bool = False) -> Batch:
    rows = np.arange(count)
    weight = np.linspace(0.5, 1, count, dtype=np.float32) if weighted else None
    return Batch(rows[:, None].astype(np.float32), rows % 3, rows + 100, weight)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.05 GB, other allocations: 1 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 400 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError("Unable to allocate 4.00 GiB for an array"),
        MemoryError(),
    ],
)
def test_every_device_s_way_to_say_that_memory_ran_out_is_known(error) -> None:
    assert is_out_of_memory(error)
    assert not is_device_failure(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x3 and 4x3)"),
        ValueError("Expected more than 1 value per channel when training"),
        DataError("memory.jpg says it is out of memory"),
        RuntimeError("CUDA error: unspecified launch failure"),
    ],
)
def test_other_errors_are_not_taken_for_it(error) -> None:
    assert not is_out_of_memory(error)


def test_this_machine_s_allocator_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    with pytest.raises(MemoryError) as caught_by_numpy:
        np.empty(2**55, np.uint8)
    assert is_out_of_memory(caught_by_numpy.value)


def test_a_lost_device_is_known() -> None:
    assert is_device_failure(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_device_failure(RuntimeError("the size of tensor a must match"))
    assert not is_device_failure(ValueError("CUDA error: so says a value"))


@given(count=st.integers(1, 40), size=st.integers(1, 50), weighted=st.booleans())
def test_parts_make_the_whole_in_order(count: int, size: int, weighted: bool) -> None:
    batch = batch_of(count, weighted=weighted)
    parts = parts_of(batch, size)
    assert all(len(part) == size for part in parts[:-1])
    assert 1 <= len(parts[-1]) <= size or len(parts) == 1
    for column in ("inputs", "targets", "index", "weight"):
        whole = getattr(batch, column)
        if whole is not None:
            assert np.array_equal(np.concatenate([getattr(part, column) for part in parts]), whole)


@settings(max_examples=15, deadline=None)  # each retry collects garbage, which takes its time
@given(count=st.integers(1, 64), room=st.integers(1, 64))
def test_parts_are_halved_until_they_fit_and_the_size_is_kept(count: int, room: int) -> None:
    fits: dict[str, int] = {}
    sizes: list[int] = []

    def work(parts: list[Batch]) -> list[int]:
        sizes.append(len(parts[0]))
        if len(parts[0]) > room:
            raise MemoryError
        return [int(row) for part in parts for row in part.index]

    rows = in_parts(work, batch_of(count), "cpu", fits=fits, key="a")
    assert rows == list(range(100, 100 + count))
    assert sizes[-1] <= room
    assert all(size > room for size in sizes[:-1])
    assert len(sizes) <= 7
    sizes.clear()
    in_parts(work, batch_of(count), "cpu", fits=fits, key="a")
    assert len(sizes) == 1


def test_one_sample_that_does_not_fit_ends_with_its_size_and_what_to_do() -> None:
    def work(parts: list[Batch]) -> None:
        raise MemoryError

    with pytest.raises(OutOfMemoryError, match=r"one sample of 1 on cpu.*--image-size") as caught:
        in_parts(work, batch_of(8), "cpu", fits={}, key="a")
    assert caught.value.exit_code == 75


def test_another_error_is_not_tried_again() -> None:
    calls = []

    def work(parts: list[Batch]) -> None:
        calls.append(1)
        raise ValueError("shapes")

    with pytest.raises(ValueError, match="shapes"):
        in_parts(work, batch_of(8), "cpu", fits={}, key="a")
    assert len(calls) == 1


class Small(torch.nn.Module):
    """Takes at most so many rows at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.head = torch.nn.Linear(1, 3)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if len(values) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.head(values)


def test_evaluation_halves_too_and_says_the_same_of_every_row() -> None:
    torch.manual_seed(0)
    module, fits, batch = Small(3), {}, batch_of(10)
    logits = module_forward(module, "cpu", fits=fits)(batch)
    module.room = 10
    assert np.allclose(logits, module_forward(module, "cpu")(batch), rtol=0, atol=1e-6)
    assert list(fits.values()) == [3]
