"""Dropout and its like draw from a generator seeded for each step; the user's own is left alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def step_seed(seed: int, step: int) -> int:
    """Return the seed (63 bits) of step `step` of a run: a pure function of both numbers."""
    digest = hashlib.blake2b(f"{seed}:{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Give back torch's random state, on the CPU and on `device`, as it was at the start."""
    if device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            yield
        return
    index = device.index if device.index is not None else torch.accelerator.current_device_index()
    with torch.random.fork_rng(devices=[index], device_type=device.type):
        yield


def seed_step(device: torch.device, seed: int, step: int) -> None:
    """Seed torch's generators, on the CPU and on `device`, for one step of a run."""
    value = step_seed(seed, step)
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value)
    elif device.type == "xpu":
        torch.xpu.manual_seed(value)
