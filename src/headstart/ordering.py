"""The order of an epoch and where its batches end: pure functions of seed, epoch and rank.

Pictures and precomputed activations are ordered by the same functions, so that a head sees its samples
in the same batches either way. Nothing advances: an epoch can be entered at any batch.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.errors import UsageError
from headstart.types import World

Balance: TypeAlias = Literal["none", "sampler", "loss"]
"""What is done for rare classes: nothing, more copies of them, or a loss in which they count for more."""
BALANCES = ("none", "sampler", "loss")

_WORD = 2**64 - 1
# An odd number with irregular bits (2**64 divided by the golden ratio): copies of a sample draw apart.
_COPY_STEP = 0x9E3779B97F4A7C15

# A balanced epoch has at most so many times the samples of a plain one. Up to four classes of any sizes
# become equal within it; a long tail (1,000 classes of 1,000 down to 1, 7,069 in all) would have 141 times.
LONGEST = 4.0


class EpochOrder(NamedTuple):
    """What an epoch gives to one process, in order.

    `positions`: int64, positions 0 … count-1. `copies`: int64, which occurrence of its position it is,
    numbered from 0 over the whole epoch and all processes, in no particular order.
    """

    positions: NDArray[np.int64]
    copies: NDArray[np.int64]


def _raw(count: int, seed: int, epoch: int, stream: int = 0) -> NDArray[np.uint64]:
    """Return `count` random words of the stream that belongs to seed and epoch."""
    # A bit generator's raw stream is fixed by NumPy's promise; `permutation` is not.
    key = np.array([seed & _WORD, epoch & _WORD], np.uint64)
    counter = np.array([0, 0, 0, stream], np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)


def _dealt(positions: NDArray[np.int64], world: World) -> NDArray[np.int64]:
    """Return a rank's share of the common order: neighbours 2k, 2k+1 go together, in turn."""
    if world.size == 1:
        return positions
    return np.asarray(positions[(np.arange(len(positions)) // 2) % world.size == world.rank], np.int64)


def order(
    count: int, *, seed: int, epoch: int, shuffle: bool = True, world: World = World()
) -> NDArray[np.int64]:
    """Return positions 0 … count-1 in the order of `epoch`, those of this rank only, int64.

    Over the ranks of `world` each position occurs exactly once. Ranks take neighbours 2k, 2k+1 of the
    common order together, in turn, so that what is paired on one process is paired on many. A million
    positions take 0.1 s, nearly all of it the sort.
    """
    positions = np.arange(count, dtype=np.int64)
    if shuffle:
        positions = np.argsort(_raw(count, seed, epoch), kind="stable").astype(np.int64, copy=False)
    return _dealt(positions, world)


def weighted_order(
    weights: ArrayLike, *, seed: int, epoch: int, count: int | None = None, world: World = World()
) -> EpochOrder:
    """Draw `count` positions (default: as many as there are weights) with replacement.

    `weights`: (N,), finite, at least 0; a position is drawn with probability weight / sum, and one of
    weight 0 never. Over the ranks the draws are those of one process, dealt as in `order`. Raises
    `UsageError` for weights that are negative, not finite, or all 0.
    """
    chances = checked_weights(weights)
    count = len(chances) if count is None else count
    if not len(chances):
        return EpochOrder(np.zeros(0, np.int64), np.zeros(0, np.int64))
    upto = np.cumsum(chances)
    # 53 bits make a float64 in [0, 1); rounding may still lift the product to the very end.
    drawn = (_raw(count, seed, epoch) >> np.uint64(11)).astype(np.float64) * 2.0**-53 * upto[-1]
    positions = np.searchsorted(upto, drawn, side="right")
    last = int(np.flatnonzero(chances)[-1])
    positions = np.minimum(positions, last).astype(np.int64, copy=False)
    ranked = np.argsort(positions, kind="stable")
    grouped = positions[ranked]
    starts = np.searchsorted(grouped, grouped)  # where the first of each position lies
    copies = np.empty(count, np.int64)
    copies[ranked] = np.arange(count) - starts
    return EpochOrder(_dealt(positions, world), _dealt(copies, world))


def balanced_order(
    labels: NDArray[Any],
    *,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    longest: float = LONGEST,
    world: World = World(),
) -> EpochOrder:
    """Return positions with the rare cases repeated until no class is rarer than the largest.

    `labels`: class numbers (N,), or tags as 0 and 1 (N, classes). A row of a class of n samples comes
    floor(m / n) or ceil(m / n) times, m being the size of the largest class: each class comes m times, and
    an epoch has classes x m samples. Which rows get the one copy more changes with the epoch. A row of
    several tags counts as one of its rarest. Rows without a label (-1) or without a tag come once.

    Where that would be more than `longest` x N samples, as with many classes of very different sizes, m is
    the largest number that stays within: classes below m come m times, those above keep each of their
    samples once, so that nothing is left out and the rarest gain most. The copies of rare classes are the
    over-sampling of Buda, Maki and Mazurowski (2018), arXiv:1710.05381, with the repeats of Gupta, Dollár
    and Girshick (2019), arXiv:1908.03195, for tags.
    """
    times = _times(labels, seed, epoch, longest)
    positions = np.repeat(np.arange(len(times), dtype=np.int64), times)
    copies = np.arange(len(positions)) - np.repeat(np.cumsum(times) - times, times)
    places = order(len(positions), seed=seed, epoch=epoch, shuffle=shuffle, world=world)
    return EpochOrder(positions[places], copies[places])


def _repeats(labels: NDArray[Any], longest: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """How often each row is to come, on average, and the class or rarest tag that asks for it."""
    if labels.ndim == 2:
        # Column 0: no tag. Where tags are equally rare, the first of them asks.
        sizes = np.concatenate([[0], np.count_nonzero(labels, axis=0)]).astype(np.int64)
        rarity = np.where(labels > 0, 1.0 / np.maximum(sizes[1:], 1), 0.0)
        tagged = rarity.any(axis=1)
        groups = np.zeros(len(labels), np.int64)
        if rarity.size:
            groups[tagged] = rarity[tagged].argmax(axis=1) + 1
    else:
        groups = labels.astype(np.int64) + 1  # 0: without a label
        sizes = np.bincount(groups, minlength=1)
    rows = np.bincount(groups, minlength=len(sizes))
    level = _level(sizes[1:], rows[1:], longest * len(labels) - rows[0])
    each = np.maximum(level / np.maximum(sizes, 1), 1.0)
    each[0] = 1.0
    return each[groups], groups


def _level(sizes: NDArray[np.int64], rows: NDArray[np.int64], most: float) -> int:
    """Return the size to which smaller classes are raised: that of the largest, or what `most` rows allow.

    `sizes`: samples of each class; `rows`: those that are repeated for its sake (for classes the same).
    """
    asking = rows > 0
    size, count = sizes[asking], rows[asking]

    def raised(level: int) -> float:
        return float(np.maximum(level / size, 1.0) @ count)

    return bisect.bisect_right(range(1, int(sizes.max(initial=0)) + 1), most, key=raised)


def _times(labels: NDArray[Any], seed: int, epoch: int, longest: float) -> NDArray[np.int64]:
    """How often each row comes in this epoch: its repeats, rounded so that every class has its sum."""
    repeats, groups = _repeats(labels, longest)
    whole = np.floor(repeats)
    # Rows of a class lie together, in a random order; a comb of step 1 laid over the sums of their
    # fractions picks as many rows of each class as its fractions add up to.
    within = np.lexsort((_raw(len(repeats), seed, epoch, stream=1), groups))
    combed = np.floor(np.cumsum((repeats - whole)[within]) + 0.5)
    extra = np.empty(len(repeats), np.float64)
    extra[within] = np.diff(combed, prepend=0.0)
    return (whole + extra).astype(np.int64)


def draw_ids(ids: NDArray[np.uint64], copies: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the ids by which augmentation draws, uint64: a sample's own, another for each of its copies.

    Draws are functions of the id, so that copies under one id would be the same picture twice.
    """
    return np.asarray(ids + copies.astype(np.uint64) * np.uint64(_COPY_STEP), np.uint64)


def checked_weights(weights: ArrayLike) -> NDArray[np.float64]:
    """Return weights as float64 (N,); raises `UsageError` unless they can be drawn by."""
    chances = np.asarray(weights, np.float64)
    if chances.ndim != 1 or not np.isfinite(chances).all() or (chances < 0).any():
        raise UsageError("weights of samples must be finite numbers, none below 0, one for each sample")
    if len(chances) and not chances.any():
        raise UsageError("all weights are 0: no sample can be drawn", "give one sample at least a weight")
    return chances


@dataclass(frozen=True, eq=False)
class Ordering:
    """Which samples an epoch has, and whether it mixes them.

    `shuffle`: a new order each epoch; without it, that of the table. `balance`: `"sampler"` repeats the
    rare cases up to the largest class, within an epoch of `longest` times the samples (`balanced_order`);
    `"loss"` leaves the order alone.
    `weights`: float (N,), one for each sample of the source: each epoch draws N of them with replacement
    (`weighted_order`), in random order whatever `shuffle` says. Raises `UsageError` for a balance that is
    unknown, a `longest` below 1, weights that cannot be drawn by, and the two together.
    """

    shuffle: bool = False
    balance: Balance = "none"
    weights: NDArray[np.float64] | None = None
    longest: float = LONGEST

    def __post_init__(self) -> None:
        if self.balance not in BALANCES:
            raise UsageError(
                f"there is no balance {self.balance!r}", f"the choices are {', '.join(BALANCES)}"
            )
        if not self.longest >= 1:
            raise UsageError(
                f"an epoch of {self.longest} times the samples would leave some out", "give 1 or more"
            )
        if self.weights is not None:
            checked_weights(self.weights)
            if self.balance == "sampler":
                raise UsageError("samples are drawn by weights, or balanced, not both", "choose one")

    def count(self, labels: NDArray[Any]) -> int:
        """Return how many samples an epoch over `labels` has, over all processes: the same each epoch."""
        if self.balance == "sampler":
            return int(_times(labels, 0, 0, self.longest).sum())
        if self.weights is not None and len(self.weights) != len(labels):
            raise UsageError(
                f"{len(self.weights)} weights do not match {len(labels)} samples", "give one for each sample"
            )
        return len(labels)

    def epoch(self, labels: NDArray[Any], *, seed: int, epoch: int, world: World = World()) -> EpochOrder:
        """Return the order of `epoch` over samples with `labels`: this rank's positions and copies."""
        if self.balance == "sampler":
            return balanced_order(
                labels, seed=seed, epoch=epoch, shuffle=self.shuffle, longest=self.longest, world=world
            )
        if self.weights is not None:
            return weighted_order(self.weights, seed=seed, epoch=epoch, count=self.count(labels), world=world)
        positions = order(len(labels), seed=seed, epoch=epoch, shuffle=self.shuffle, world=world)
        return EpochOrder(positions, np.zeros(len(positions), np.int64))


def share_of(count: int, world: World) -> int:
    """Return how many of `count` samples a rank gets when neighbours are dealt in turn."""
    return int(_shares(np.array(count), world))


def _shares(counts: NDArray[np.int64], world: World) -> NDArray[np.int64]:
    rounds, rest = np.divmod(counts, 2 * world.size)
    return np.asarray(2 * rounds + np.clip(rest - 2 * world.rank, 0, 2), np.int64)


def batch_bounds(count: int, batch_size: int, world: World = World()) -> NDArray[np.int64]:
    """Return where a rank's batches of an epoch of `count` samples begin and end, int64 (batches + 1,).

    `batch_size` is that of all ranks together: their batches of one number are the batch of that number
    that one process would have, whatever the sizes. A rank's share of a small last batch may be empty. A
    last batch of one joins the batch before it: batch norm cannot learn from a single sample. With an even
    `batch_size`, neighbours 2k, 2k+1 are in one batch of one rank.
    """
    bounds = np.arange(0, count, batch_size, dtype=np.int64)
    if len(bounds) > 1 and batch_size > 1 and count - bounds[-1] == 1:
        bounds = bounds[:-1]
    return _shares(np.append(bounds, count), world)
