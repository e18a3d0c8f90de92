"""What watches a phase beside what a person passes in: as the phase and the settings say."""

from __future__ import annotations

from torch import nn

from headstart.training.adjusting import ReduceOnPlateau, Scheduled
from headstart.training.averages import EMA
from headstart.training.batchnorm import RecalibrateBatchNorm
from headstart.training.callbacks import Callback, EarlyStop
from headstart.training.plan import Phase, Settings
from headstart.training.rollback import Rollback
from headstart.types import BatchSource


def phase_callbacks(
    phase: Phase, settings: Settings, *, guess: float, plain: tuple[BatchSource, nn.Module] | None = None
) -> tuple[Callback, ...]:
    """Return what moves, averages, ends and guards a phase.

    `guess` is the loss of a model that knows nothing (see `guess_loss`); `plain`, given where batch norm is
    to be recalibrated, the training pictures without augmentation and the module that takes them.
    """
    found: list[Callback] = []
    scheduled = (phase.weight_decay, phase.weight_decay_schedule, phase.momentum)
    if any(value is not None for value in scheduled):
        found.append(
            Scheduled(
                weight_decay=settings.weight_decay if phase.weight_decay is None else phase.weight_decay,
                weight_decay_schedule=phase.weight_decay_schedule,
                momentum=phase.momentum,
                momentum_schedule=phase.momentum_schedule,
            )
        )
    if phase.reduce_on_plateau is not None:
        found.append(ReduceOnPlateau(phase.reduce_on_plateau))
    if phase.stop_early:
        found.append(EarlyStop())
    if settings.ema is not None:
        found.append(EMA(settings.ema))
    if plain is not None:
        source, part = plain
        found.append(RecalibrateBatchNorm(part, source))
    return (*found, Rollback(guess=guess))
