"""The eight steps as a plan."""

from __future__ import annotations

from dataclasses import replace

from headstart.errors import UsageError
from headstart.training import Phase, Plan, Settings, one_cycle, sgdr
from headstart.types import Size

SCRATCH_EPOCHS = 30


def eight_steps(
    *,
    cycles: int = 3,
    epochs: float = 1.0,
    sizes: tuple[Size, ...] = (),
    from_scratch: bool = False,
    settings: Settings | None = None,
) -> Plan:
    """Return the recipe as a plan: the head on activations, the head augmented, then everything.

    `cycles` is how many cosine cycles the whole network gets at most, each twice as long as the one
    before; `epochs` scales all phases. With `sizes` (smallest first) steps 4 to 8 are run at each
    size in turn. A network from scratch has no head start: it gets one phase.
    """
    if not 1 <= cycles <= 8:
        raise UsageError(f"{cycles} cycles", "give 1 to 8: each is twice as long as the one before")
    if not 0 < epochs <= 100:
        raise UsageError(f"epochs scaled by {epochs}", "give a factor above 0, such as 0.5 or 2")
    shared = settings or Settings()
    if from_scratch:
        phase = Phase(
            name="whole network",
            epochs=SCRATCH_EPOCHS,
            schedule=one_cycle(),
            frozen_to=0,
            step=8,
            reason="Nothing is pretrained, so everything trains from the start, in one long cycle.",
        )
        return Plan((phase,), shared).scaled(epochs)
    phases = [
        Phase(
            name="head on activations",
            epochs=2,
            schedule=one_cycle(),
            frozen_to=-1,
            augment=False,
            precompute=True,
            step=3,
            reason="The body is frozen, so each picture goes through it once, and epochs cost nothing.",
        )
    ]
    for number, size in enumerate(sizes or (None,)):
        at = "" if size is None else f" at {size[0]}x{size[1]}"
        phases.append(
            Phase(
                name=f"head, augmented{at}",
                epochs=3,
                schedule=sgdr(cycles=3, cycle_len=1),
                frozen_to=-1,
                image_size=size,
                step=4,
                reason="New views of each picture every epoch; the rate restarts to leave narrow minima.",
            )
        )
        last = number == len(sizes) - 1 or not sizes
        phases.append(_whole_network(cycles if last else max(1, cycles - 1), size, at))
    return Plan(tuple(phases), shared).scaled(epochs)


def _whole_network(cycles: int, size: Size | None, at: str) -> Phase:
    schedule = sgdr(cycles=cycles, cycle_len=1, cycle_mult=2)
    phase = Phase(
        name=f"whole network{at}",
        epochs=sum(2**k for k in range(cycles)),
        schedule=schedule,
        frozen_to=0,
        stop_early=True,
        step=8,
        reason="Every layer trains, in cycles that double, until a whole cycle brings nothing.",
    )
    return phase if size is None else replace(phase, image_size=size)
