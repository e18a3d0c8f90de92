"""What a training step takes on this machine: a few are measured, and undone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headstart.environment import peak_memory_bytes

if TYPE_CHECKING:
    from headstart.learner import Learner


@dataclass(frozen=True)
class StepCost:
    """What a training step was measured to take: `memory` is the peak of the process or device, in bytes."""

    seconds: float
    pictures_per_second: float
    memory: int | None

    def __str__(self) -> str:
        memory = "" if self.memory is None else f", {in_gigabytes(self.memory)} at the most"
        return f"{self.pictures_per_second:,.0f} pictures per second{memory}"


def measure_step(learner: Learner) -> StepCost:
    """Measure a few training steps as things stand; all is put back bit for bit."""
    import torch

    on_device = learner.device.type == "cuda"
    if on_device:
        torch.cuda.reset_peak_memory_stats(learner.device)
    seconds = learner.seconds_per_step()
    memory = torch.cuda.max_memory_allocated(learner.device) if on_device else peak_memory_bytes()
    pictures = len(learner.data.rows("train")) / learner.data.steps_per_epoch
    return StepCost(seconds, pictures / max(seconds, 1e-9), memory)


def in_gigabytes(count: int) -> str:
    """Return a number of bytes for people.

    >>> in_gigabytes(1_640_000_000), in_gigabytes(80_000_000)
    ('1.6 GB', '0.1 GB')
    """
    return f"{count / 1e9:.1f} GB"
