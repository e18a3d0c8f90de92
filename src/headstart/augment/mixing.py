"""Two pictures become one, and so do their labels: mixup and cutmix, from batch to batch.

Neighbours 2k, 2k+1 of the epoch's order are mixed with each other, each with its own larger part in
mixup; they are delivered together, to the same process, by the loader, so the mixture does not depend
on how many processes train. (With an odd batch size the neighbours are those of the batch.) A last
sample without a neighbour stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from headstart.augment.draws import Slot, uniform
from headstart.errors import UsageError
from headstart.types import Array, Batch, BatchSource

if TYPE_CHECKING:
    import torch

Kind = Literal["mixup", "cutmix"]
ALPHAS: dict[str, float] = {"mixup": 0.4, "cutmix": 1.0}


@dataclass(frozen=True, slots=True)
class Mixing:
    """Mixes a batch: `mixup` (Zhang et al., arXiv 1710.09412) or `cutmix` (Yun et al., arXiv 1905.04899).

    The share of the first picture of a pair is drawn from Beta(`alpha`, `alpha`), a pure function of
    (seed, epoch, the pair's first row); None takes 0.4 for mixup and 1 for cutmix. In cutmix the box is cut
    off at the picture's edge, and the share is that of the pixels that are left.

    Targets come out as float32 (batch, classes): class numbers are spread over `classes`; tags are mixed
    as numbers, so that both losses are exactly the mean of the two pictures' losses, weighted by the share.
    (A union of tags would promise a tag of which one pixel in a hundred is left.)
    """

    kind: Kind
    classes: int
    alpha: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ALPHAS:
            raise UsageError(f"there is no mixing {self.kind!r}", f"choose from {', '.join(ALPHAS)}")
        if self.alpha is not None and not 0 < self.alpha <= 100:
            raise UsageError(f"alpha={self.alpha} is out of range", "give a number above 0, up to 100")

    def __call__(self, batch: Batch, epoch: int) -> Batch:
        """Return the mixed batch; pictures stay uint8, activations float32.

        Raises `UsageError` for cutmix of anything but pictures.
        """
        targets = self._soft(batch.targets)
        pairs = len(batch) // 2
        if pairs == 0:
            return dataclasses.replace(batch, targets=targets)
        first = np.asarray(batch.index)[0 : 2 * pairs : 2]
        numbers = uniform(self.seed, epoch, first[:, None], [Slot.MIX, Slot.MIX_RIGHT, Slot.MIX_DOWN])
        shares = _beta(ALPHAS[self.kind] if self.alpha is None else self.alpha, numbers[:, 0])
        if self.kind == "mixup":
            # The own part is the larger one: a pair's two mixtures are never almost the same.
            shares = np.maximum(shares, 1.0 - shares)
            inputs = _blended(batch.inputs, shares)
        else:
            inputs, shares = _pasted(batch.inputs, shares, numbers[:, 1:])
        own = np.ones(len(batch))
        own[: 2 * pairs] = np.repeat(shares, 2)
        partner = _partners(len(batch))
        mixed = own[:, None] * targets + (1.0 - own[:, None]) * targets[partner]
        weight = batch.weight
        if weight is not None:
            weight = np.asarray(weight)
            weight = (own * weight + (1.0 - own) * weight[partner]).astype(np.float32)
        return Batch(inputs, mixed.astype(np.float32), batch.index, weight)

    def _soft(self, targets: Array) -> NDArray[np.float32]:
        known: NDArray[Any] = np.asarray(targets)
        if known.ndim == 2:
            return known.astype(np.float32)
        return np.asarray(np.eye(self.classes, dtype=np.float32)[known])


def _partners(count: int) -> NDArray[np.int64]:
    partner = np.arange(count) ^ 1
    return np.asarray(np.minimum(partner, count - 1), np.int64)


def _beta(alpha: float, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn uniform numbers into draws of Beta(alpha, alpha), by the inverse of its distribution."""
    from scipy.special import betaincinv

    return np.asarray(betaincinv(alpha, alpha, numbers), np.float64)


def _blended(inputs: Array, shares: NDArray[np.float64]) -> Array:
    if isinstance(inputs, np.ndarray):
        out = inputs.copy()
        for pair, share in enumerate(shares.tolist()):
            first, second = inputs[2 * pair], inputs[2 * pair + 1]
            if inputs.dtype == np.uint8:
                out[2 * pair] = cv2.addWeighted(first, share, second, 1.0 - share, 0.0)
                out[2 * pair + 1] = cv2.addWeighted(second, share, first, 1.0 - share, 0.0)
            else:
                out[2 * pair] = share * first + (1.0 - share) * second
                out[2 * pair + 1] = share * second + (1.0 - share) * first
        return out
    return _blended_tensor(inputs, shares)


def _blended_tensor(inputs: torch.Tensor, shares: NDArray[np.float64]) -> torch.Tensor:
    import torch

    own = np.ones(len(inputs))
    own[: 2 * len(shares)] = np.repeat(shares, 2)
    share = torch.as_tensor(own, dtype=torch.float32, device=inputs.device)
    share = share.view(-1, *[1] * (inputs.ndim - 1))
    partner = torch.as_tensor(_partners(len(inputs)), device=inputs.device)
    mixed = share * inputs + (1.0 - share) * inputs[partner]
    return mixed.round().to(torch.uint8) if inputs.dtype == torch.uint8 else mixed.to(inputs.dtype)


def _pasted(
    inputs: Array, shares: NDArray[np.float64], place: NDArray[np.float64]
) -> tuple[Array, NDArray[np.float64]]:
    """Exchange a box within each pair; return the pictures, and the share of each that is its own."""
    if inputs.ndim != 4 or inputs.shape[-1] != 3:
        raise UsageError("cutmix cuts pictures, and these are activations", "use mixup, or no precompute")
    height, width = int(inputs.shape[1]), int(inputs.shape[2])
    reach = np.sqrt(1.0 - shares)[:, None] * (height, width) / 2
    centre = place[:, ::-1] * (height, width)
    low = np.clip(np.rint(centre - reach), 0, (height, width)).astype(int)
    high = np.clip(np.rint(centre + reach), 0, (height, width)).astype(int)
    # Arrays and tensors are indexed alike.
    source: Any = inputs
    out = source.copy() if isinstance(source, np.ndarray) else source.clone()
    for pair, ((top, left), (bottom, right)) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        box = (slice(top, bottom), slice(left, right))
        out[(2 * pair, *box)] = source[(2 * pair + 1, *box)]
        out[(2 * pair + 1, *box)] = source[(2 * pair, *box)]
    return out, 1.0 - (high - low).prod(axis=1) / (height * width)


class MixedSource:
    """Another source's batches, mixed; a `BatchSource`."""

    def __init__(self, source: BatchSource, mixing: Mixing) -> None:
        self.source = source
        self.mixing = mixing

    def __len__(self) -> int:
        return len(self.source)

    @property
    def sample_count(self) -> int:
        """The number of samples in an epoch."""
        return self.source.sample_count

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the source's batches of `epoch`, mixed, from batch number `start` on."""
        for batch in self.source.epoch(epoch, start=start):
            yield self.mixing(batch, epoch) if len(batch) else batch
