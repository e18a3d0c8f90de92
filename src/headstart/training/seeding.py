"""Dropout and its like draw from a generator seeded for each step; the user's own is left alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """Return the seed (63 bits) of step `step` of a run on a rank: a pure function of the three numbers."""
    words = f"{seed}:{step}:{rank}" if rank else f"{seed}:{step}"
    digest = hashlib.blake2b(words.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Give back torch's random state, on the CPU and on `device`, as it was at the start.

    Within the block `device` is the current one of its kind.
    """
    with torch.random.fork_rng(devices=[]), _current(device):
        if device.type == "cpu":
            yield
            return
        generator = torch.get_device_module(device)
        state = generator.get_rng_state()
        try:
            yield
        finally:
            generator.set_rng_state(state)


def _current(device: torch.device) -> AbstractContextManager[object]:
    if device.type == "cuda":
        return torch.cuda.device(device)
    return torch.xpu.device(device) if device.type == "xpu" else nullcontext()


def seed_step(device: torch.device, seed: int, step: int, rank: int = 0) -> None:
    """Seed torch's generators, on the CPU and on `device`, for one step of a run.

    Each rank draws on its own: with dropout, several processes do not equal one, nor micro-batches a batch.
    """
    value = step_seed(seed, step, rank)
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value)
    elif device.type == "xpu":
        torch.xpu.manual_seed(value)
