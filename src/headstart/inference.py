"""The one prediction loop: a function of pixels or activations, a source of batches → logits.

Validation during training, test-time augmentation and the `Predictor` all run through `predict`, so
that they cannot disagree about what a model says of a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import UsageError
from headstart.evaluation import Predictions
from headstart.faults import in_parts
from headstart.processes import ALONE, Ranks, in_order_of, local_rank
from headstart.types import Batch, BatchSource

if TYPE_CHECKING:
    import torch

    from headstart.data import Samples

Forward = Callable[[Batch], NDArray[np.float32]]


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of that name; `auto` takes the first of cuda, mps, xpu and cpu there is.

    Of several processes on one machine each gets a card of its own, where no card is named. Raises
    `UsageError` when the device is unknown or not there, or where there are fewer cards than processes.
    """
    import torch

    own = local_rank()
    if own is not None and (name == "cuda" or (name == "auto" and torch.cuda.is_available())):
        if own >= torch.cuda.device_count():
            raise UsageError(
                f"{torch.cuda.device_count()} CUDA devices are too few for the process {own} of this machine",
                "start as many processes as there are cards, or take --device cpu",
            )
        return torch.device("cuda", own)
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        if torch.xpu.is_available():
            return torch.device("xpu")
        return torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:120]
        raise UsageError(
            f"the device {name!r} cannot be used: {reason}", "use --device cpu, or auto"
        ) from error
    return device


def to_device(batch: Batch, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (inputs, targets) as tensors on `device`.

    uint8 pictures (batch, height, width, 3) become (batch, 3, height, width) in channels-last
    memory, without a copy on the CPU; activations stay as they are.
    """
    import torch

    inputs = torch.as_tensor(batch.inputs)
    targets = torch.as_tensor(batch.targets)
    if inputs.dtype == torch.uint8 and inputs.ndim == 4:
        inputs = inputs.permute(0, 3, 1, 2)
    return inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)


def module_forward(
    module: torch.nn.Module,
    device: torch.device | str,
    autocast: Callable[[], Any] | None = None,
    *,
    fits: MutableMapping[str, int] | None = None,
) -> Forward:
    """Return a function of a batch that runs `module` for inference and gives float32 logits.

    The module is put in evaluation mode for each batch and set back to how it was. Where memory runs
    out, a batch is taken in smaller parts; the size that fits is kept in `fits`, for the next time.
    """
    import contextlib

    import torch

    known: MutableMapping[str, int] = {} if fits is None else fits

    def of_part(part: Batch) -> NDArray[np.float32]:
        inputs, _ = to_device(part, device)
        logits: NDArray[np.float32] = module(inputs).float().cpu().numpy()
        return logits

    def of_parts(parts: list[Batch]) -> NDArray[np.float32]:
        found = [of_part(part) for part in parts]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def forward(batch: Batch) -> NDArray[np.float32]:
        training = module.training
        module.eval()
        try:
            with torch.inference_mode(), (autocast or contextlib.nullcontext)():
                return in_parts(of_parts, batch, device, fits=known, key=_evaluation_key(batch))
        finally:
            module.train(training)

    return forward


def _evaluation_key(batch: Batch) -> str:
    return f"evaluation {'x'.join(str(side) for side in batch.inputs.shape[1:])}"


def predict(
    forward: Forward,
    source: BatchSource,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    ranks: Ranks = ALONE,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Run `forward` over one epoch of `source`.

    Returns the logits (rows, classes) and the row numbers (rows,) in the order of `source`, without the
    rows that it left out. Of several `ranks`, each with its share of the rows, all get those of all, rank
    by rank.
    """
    logits, index = [], []
    done = 0
    for batch in source.epoch(0):
        if not len(batch):
            continue
        logits.append(forward(batch))
        index.append(np.asarray(batch.index))
        done += len(batch)
        if on_progress is not None:
            on_progress(done, source.sample_count)
    own = (
        np.concatenate(logits) if logits else np.zeros((0, 0), np.float32),
        np.concatenate(index) if index else np.zeros(0, np.int64),
    )
    if ranks.alone:
        return own
    parts = [part for part in ranks.gathered(own[0]) if len(part)]
    return np.concatenate(parts) if parts else own[0], np.concatenate(ranks.gathered(own[1]))


def predictions_of(
    samples: Samples,
    rows: NDArray[np.int64],
    logits: NDArray[np.float32],
    *,
    among: NDArray[np.int64] | None = None,
    lost: Mapping[int, str] | None = None,
) -> Predictions:
    """Join logits with the rows of `samples` that they were computed from.

    `among`: the rows that were asked for, in this order (default: `rows`). Those of them without logits are
    in the table with a status, the code that `lost` gives for the row, and in no figure.
    """
    status = None
    if among is not None and not np.array_equal(among, rows):
        place = {row: number for number, row in enumerate(rows.tolist())}
        found = np.array([place.get(row, -1) for row in among.tolist()], np.int64)
        codes = lost or {}
        status = np.array(
            ["" if k >= 0 else codes.get(row, "LOST") for row, k in zip(among.tolist(), found, strict=True)]
        )
        spread = np.full((len(among), len(samples.classes)), np.nan, np.float32)
        spread[found >= 0] = logits[found[found >= 0]]
        rows, logits = among, spread
    labels = samples.labels[rows]
    known = labels.ndim == 2 or bool((labels >= 0).all())
    return Predictions(
        logits=logits.astype(np.float32, copy=False),
        classes=samples.classes,
        task=samples.task,
        targets=labels if known else None,
        paths=tuple(samples.place(row) for row in rows),
        split=samples.split[rows],
        index=np.asarray(rows, np.int64),
        status=status,
    )


def predict_samples(
    forward: Forward,
    samples: Samples,
    source: BatchSource,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    among: NDArray[np.int64] | None = None,
    lost: Callable[[], Mapping[int, str]] = dict,
    ranks: Ranks = ALONE,
) -> Predictions:
    """Run `forward` over `source` and return the `Predictions` of its rows of `samples`.

    `among` and `lost`: see `predictions_of`; `lost` is asked when all rows have been read. Of several
    `ranks` each gives a source of its share of the rows `among`, and gets the predictions of all of them.
    """
    logits, index = predict(forward, source, on_progress, ranks=ranks)
    if among is not None and not ranks.alone:
        index, logits = in_order_of(among, index, logits)
    if not len(index):
        logits = np.zeros((0, len(samples.classes)), np.float32)
    return predictions_of(samples, index, logits, among=among, lost=lost())
