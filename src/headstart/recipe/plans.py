"""The eight steps as a plan, as long as the number of pictures asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from headstart.errors import UsageError
from headstart.training import Phase, Plan, Settings, one_cycle, sgdr
from headstart.types import Size

SCRATCH_EPOCHS = 30

# How long each part trains is counted in steps of 32 pictures, not in epochs: an epoch of 100 pictures is
# four steps, one of 100,000 is three thousand. What 300 to 1,000 pictures get is what was measured; fewer
# pictures get the epochs that make at least the steps of 300 (early stopping ends what is too long), more
# pictures are cut where the steps are many. Kolesnikov et al., arXiv 1912.11370, fine-tune on up to 20,000
# pictures with 500 steps of 512: as many pictures as 8,000 of ours. Above some thousands not measured here.
REFERENCE_BATCH = 32
FEWEST_STEPS = {"activations": 20, "head": 30, "whole": 70}
ENOUGH_STEPS = {"head": 300, "whole": 8000}


@dataclass(frozen=True)
class Lengths:
    """How long the three parts train: epochs on activations, one-epoch cycles of the head, cycles of all."""

    activations: int = 2
    head_cycles: int = 3
    whole_cycles: int = 3


def lengths_for(pictures: int) -> Lengths:
    """Return how long each part trains on so many training pictures; see the numbers above.

    >>> lengths_for(500)
    Lengths(activations=2, head_cycles=3, whole_cycles=3)
    >>> lengths_for(40), lengths_for(100_000).whole_cycles
    (Lengths(activations=10, head_cycles=10, whole_cycles=5), 2)
    """
    if pictures < 1:
        raise UsageError(f"a plan for {pictures} pictures", "give the number of training pictures")
    steps = math.ceil(pictures / REFERENCE_BATCH)
    usual = Lengths()
    activations = max(usual.activations, min(10, math.ceil(FEWEST_STEPS["activations"] / steps)))
    head = max(usual.head_cycles, min(10, math.ceil(FEWEST_STEPS["head"] / steps)))
    while head > 1 and (head - 1) * steps >= ENOUGH_STEPS["head"]:
        head -= 1
    whole = usual.whole_cycles
    while whole < 5 and _doubling(whole) * steps < FEWEST_STEPS["whole"]:
        whole += 1
    while whole > 1 and _doubling(whole - 1) * steps >= ENOUGH_STEPS["whole"]:
        whole -= 1
    return Lengths(activations, head, whole)


def _doubling(cycles: int) -> int:
    """Return the epochs of so many cycles, each twice as long as the one before."""
    return int(2**cycles - 1)


def eight_steps(
    *,
    cycles: int | None = None,
    pictures: int | None = None,
    epochs: float = 1.0,
    sizes: tuple[Size, ...] = (),
    from_scratch: bool = False,
    settings: Settings | None = None,
) -> Plan:
    """Return the recipe as a plan: the head on activations, the head augmented, then everything.

    The whole network trains in one cycle; with `cycles`, as the course did, in so many cosine cycles at
    most, each twice as long as the one before. `pictures`, the number of training pictures, decides how
    long each part trains (None: as long as for 500); `epochs` scales all phases. With `sizes` (smallest
    first) steps 4 to 8 are run at each size in turn. A network from scratch has no head start: it gets
    one phase.
    """
    lengths = Lengths() if pictures is None else lengths_for(pictures)
    if cycles is not None and not 1 <= cycles <= 8:
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
            epochs=lengths.activations,
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
                epochs=lengths.head_cycles,
                schedule=sgdr(cycles=lengths.head_cycles, cycle_len=1),
                frozen_to=-1,
                image_size=size,
                step=4,
                reason="New views of each picture every epoch; the rate restarts to leave narrow minima.",
            )
        )
        last = number == len(sizes) - 1 or not sizes
        longest = lengths.whole_cycles if cycles is None else cycles
        phases.append(_whole_network(longest if last else max(1, longest - 1), cycles is not None, size, at))
    return Plan(tuple(phases), shared).scaled(epochs)


def _whole_network(cycles: int, restarts: bool, size: Size | None, at: str) -> Phase:
    # On 554 pictures with tags, from the probe, four epochs of one cycle brought the log loss from 0.386 to
    # 0.336, and seven of cosine restarts to 0.39 at best, at three rates (n = 1 each).
    one = "Every layer trains, in one cycle: up to the rate and down to nothing."
    many = "Every layer trains, in cycles that double, until a whole cycle brings nothing."
    phase = Phase(
        name=f"whole network{at}",
        epochs=_doubling(cycles),
        schedule=sgdr(cycles=cycles, cycle_len=1, cycle_mult=2) if restarts else one_cycle(),
        frozen_to=0,
        stop_early=restarts,
        step=8,
        reason=many if restarts else one,
    )
    return phase if size is None else replace(phase, image_size=size)
