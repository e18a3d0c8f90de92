"""An export is compared with PyTorch on real pictures before it is called done."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.deploy.export.formats import Format, Runner
from headstart.errors import ConfigError, InputMissingError
from headstart.types import Pixels

# Pictures at a time: two classes of batches, one and several, are both seen.
AT_ONCE = 8
# Pictures one by one, whose median time is told.
TIMED = 12


@dataclass(frozen=True)
class Verification:
    """How an export compares with eager PyTorch on the same decoded pictures.

    `difference`: the largest and `mean_difference` the mean one of a probability; `agreement`: the share of
    pictures (of tags: of all decisions) that get the same class; `clear_flips`: how many do not although
    PyTorch's best two classes lie more than 0.02 apart. `milliseconds`, `torch_milliseconds`: the median of
    one decoded picture; `bytes`, `torch_bytes`: of the files, and of the weights in the bundle.
    """

    pictures: int
    difference: float
    mean_difference: float
    agreement: float
    clear_flips: int
    milliseconds: float
    torch_milliseconds: float
    bytes: int
    torch_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return asdict(self)


def verify(
    run: Runner,
    reference: Runner,
    pictures: Sequence[Pixels],
    thresholds: NDArray[np.float64] | None,
    *,
    sizes: tuple[int, int],
    tags: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Verification:
    """Compare what `run` and PyTorch's `reference` say of decoded pictures, each (rows, classes).

    `thresholds`: of the tags; `sizes`: bytes of the export and of the bundle. Raises `InputMissingError`
    where there are no pictures.
    """
    if not len(pictures):
        raise InputMissingError(
            "there are no pictures to check the export on", "name a folder of them with --pictures"
        )
    ours, theirs = [], []
    for start in range(0, len(pictures), AT_ONCE):
        some = pictures[start : start + AT_ONCE]
        ours.append(run(some))
        theirs.append(reference(some))
        if on_progress is not None:
            on_progress(start + len(some))
    found, wanted = np.concatenate(ours), np.concatenate(theirs)
    same, clear = _agreement(found, wanted, thresholds, tags)
    timed = pictures[:TIMED]
    gap = np.abs(found - wanted)
    return Verification(
        pictures=len(pictures),
        difference=float(gap.max()),
        mean_difference=float(gap.mean()),
        agreement=float(same.mean()),
        clear_flips=int((~same & clear).sum()),
        milliseconds=_median_milliseconds(run, timed),
        torch_milliseconds=_median_milliseconds(reference, timed),
        bytes=sizes[0],
        torch_bytes=sizes[1],
    )


def refuse_disagreement(format: Format, found: Verification, name: str) -> None:
    """Raise `ConfigError` unless an export does what its format must, `InputMissingError` for too few
    pictures.

    A figure that is not a number is no agreement either.
    """
    if found.pictures < format.fewest:
        raise InputMissingError(
            f"{found.pictures} pictures are too few to check {name} on: it takes {format.fewest}",
            "name a folder of more with --pictures",
        )
    if format.difference is not None and not found.difference <= format.difference:
        raise ConfigError(
            f"the export does not agree with PyTorch: of {found.pictures} pictures a probability differs by "
            f"{found.difference:.1e}, and {format.difference:.0e} is let pass",
            "choose another --format; nothing was written",
            code="EXPORT_DISAGREES",
        )
    if not (found.agreement >= format.agreement and np.isfinite(found.difference)):
        raise ConfigError(
            f"the export does not agree with PyTorch: {found.agreement:.1%} of {found.pictures} pictures get "
            f"the same class, and {name} must reach {format.agreement:.0%}",
            "choose --format onnx, which rounds nothing; nothing was written",
            code="EXPORT_DISAGREES",
        )


def _agreement(
    found: NDArray[np.float64],
    wanted: NDArray[np.float64],
    thresholds: NDArray[np.float64] | None,
    tags: bool,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which decisions are the same, and which of them are clear."""
    if tags:
        limit = 0.5 if thresholds is None else thresholds
        return (found >= limit) == (wanted >= limit), np.abs(wanted - limit) > 0.02
    best = np.sort(wanted, axis=1)
    return found.argmax(1) == wanted.argmax(1), best[:, -1] - best[:, -2] > 0.02


def _median_milliseconds(run: Runner, pictures: Sequence[Pixels]) -> float:
    seconds = []
    for picture in pictures:
        started = time.perf_counter()
        run([picture])
        seconds.append(time.perf_counter() - started)
    return round(1000 * statistics.median(seconds), 3)
