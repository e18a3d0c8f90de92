"""`torch.compile`, where a phase is long enough to pay for it."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from headstart.training.finder import seconds_per_step
from headstart.training.losses import Loss
from headstart.training.run import Run
from headstart.training.synchronised import collects_statistics
from headstart.types import BatchSource

# Compiling is tried only in a phase that takes longer than this without it: it took 103 s for
# mobilenetv2_100 on two quiet cores, so what a try costs is less than a tenth of the phase.
WORTH_TRYING_SECONDS = 20 * 60.0
FASTER = 0.95


def can_pay(device: torch.device | str) -> bool:
    """Tell whether compiling can pay on a device at all: on CUDA from compute capability 7.0 on.

    On two CPU cores it never did: mobilenetv2_100 at 224 px and batch 32 trained 13.2 pictures a second,
    not compiled 13.4 to 13.7; resnet18 at 128 px took longer for a step (n = 1 each).
    """
    chosen = torch.device(device)
    return chosen.type == "cuda" and torch.cuda.get_device_capability(chosen) >= (7, 0)


def pays(run: Run, source: BatchSource, forward: nn.Module, loss: Loss, *, steps: int) -> bool:
    """Measure whether `steps` training steps are faster compiled; the run is left as it was, bit by bit.

    Costs a few steps, and in a phase that is long enough the compiling itself.
    """
    eager = run.ranks.of_first(seconds_per_step(run, source, forward=forward, loss=loss))
    if steps * eager < WORTH_TRYING_SECONDS:
        return False
    return seconds_per_step(run, source, forward=compiled(forward), loss=loss) < FASTER * eager


def compiled(forward: nn.Module) -> nn.Module:
    """Return a module that runs `forward` compiled, with the same parameters and modes.

    Batches of other sizes (the last of an epoch) are compiled once more, for any size.
    """
    return cast(nn.Module, torch.compile(forward))


def compiled_if_it_pays(
    run: Run,
    source: BatchSource,
    forward: nn.Module,
    loss: Loss,
    *,
    asked: str,
    steps: int,
    key: str,
    whole: bool,
) -> nn.Module:
    """Return the network compiled, where that was `asked` for (`on`) or was measured to pay (`auto`).

    Decided once for each `key`, which names a phase of `steps` steps, and kept with the run. Only where the
    `whole` network, or more of it than the head, trains is it worth a try. Batch norm that takes the
    statistics of several ranks stops at each layer for what the others say, so there it is never compiled.
    """
    decided = run.adjustments.compiled
    if key not in decided and not run.ranks.alone and collects_statistics(forward):
        decided[key] = False
        if asked == "on":
            run.adjustments.notices.append("not compiled: batch norm waits for the other ranks at each layer")
    if key not in decided:
        decided[key] = asked == "on" or (
            asked == "auto"
            and whole
            and can_pay(run.device)
            and bool(run.ranks.of_first(pays(run, source, forward, loss, steps=steps)))
        )
    return compiled(forward) if decided[key] else forward
