"""What one process does alone and two do together: the tests compare the outcomes.

As a script (with RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT): do all of it as one of several, and write
what came out to a file for each rank. What is measured is small and in float64, so that a wrong weight of a
share cannot hide behind rounding.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from headstart.errors import LostRankError
from headstart.inference import module_forward, predict
from headstart.models import TensorSource
from headstart.processes import current, in_order_of, joined
from headstart.training import (
    Callback,
    Checkpointer,
    Run,
    find_checkpoint,
    fit,
    load_checkpoint,
    loss_for,
    lr_find,
    make_optimizer,
    one_cycle,
    try_rates,
)
from headstart.training.gradients import Gradients, Statistics
from headstart.training.synchronised import NormsOfAllRanks
from headstart.types import Batch, Task

LOSS = loss_for(Task.SINGLE_LABEL)
# Of 37 the last batch has 5, three for one rank and two for the other; of 34 it has 2, none for the other.
UNEVEN, EMPTY = 37, 34
BATCH = 8


class Doubled(nn.Module):
    """Takes float32, goes on in float64."""

    def forward(self, inputs):
        return inputs.double()


class FixedBatchNorm(nn.BatchNorm1d):
    """A batch norm that stays in evaluation mode, as those of a pretrained body do."""

    def train(self, mode: bool = True):
        return super().train(False)


class LittleMemory(nn.Module):
    """Runs out of memory on rank 1 beyond two samples: on the way forward, or on the way `back`."""

    def __init__(self, *, back: bool = False) -> None:
        super().__init__()
        self.back = back

    def forward(self, inputs):
        if current().rank == 1 and self.training and len(inputs) > 2:
            if not self.back:
                self.run_out()
            inputs = inputs.detach().requires_grad_() * 1
            inputs.register_hook(self.run_out)
        return inputs

    @staticmethod
    def run_out(*_):
        raise torch.OutOfMemoryError("out of memory, for a test")


class Shapeless:
    """A source whose empty batches do not look like the others: they are pictures as yet."""

    def __init__(self, source: TensorSource) -> None:
        self.source, self.sample_count = source, source.sample_count

    def __len__(self) -> int:
        return len(self.source)

    def epoch(self, epoch: int, *, start: int = 0):
        for batch in self.source.epoch(epoch, start=start):
            yield batch if len(batch) else replace(batch, inputs=np.zeros((0, 9, 9, 3), np.uint8))


def make_run(norm: str, *first: nn.Module, last: tuple[nn.Module, ...] = ()) -> Run:
    torch.manual_seed(0)
    made = {
        "fixed batch norm": FixedBatchNorm,
        "layer norm": nn.LayerNorm,
        "batch norm": nn.BatchNorm1d,
    }[norm]
    layers = [*first, Doubled(), nn.Linear(6, 12), made(12), nn.GELU(), nn.Linear(12, 3), *last]
    net = nn.Sequential(*layers).double()
    return Run(net, make_optimizer([list(net.parameters())], [1e-2]), seed=3, precision="float32")


def source(count: int, seed: int, *, shuffle: bool) -> TensorSource:
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, 6)).astype(np.float32)
    targets = (features[:, 0] > 0).astype(np.int64) + (features[:, 1] > 0.5)
    return TensorSource(
        features, targets, np.arange(count), batch_size=BATCH, shuffle=shuffle, seed=1, world=current().world
    )


def predictions(run: Run) -> np.ndarray:
    held_out = source(21, 2, shuffle=False)
    ranks = current()
    logits, index = predict(module_forward(run.model, "cpu"), held_out, ranks=ranks)
    return in_order_of(np.arange(21), index, logits)[1]


class Seen(Callback):
    """Remembers the rows of each batch."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def before_batch(self, run: Run, batch: Batch) -> Batch:
        self.rows += batch.index.tolist()
        return batch


class At(Callback):
    """Does something at a step, on one rank."""

    def __init__(self, step: int, rank: int, action) -> None:
        self.step, self.rank, self.action = step, rank, action

    def after_step(self, run: Run) -> None:
        if run.step == self.step and run.ranks.rank == self.rank:
            self.action(run)


def train(run: Run, count: int, *callbacks: Callback, resume: bool = False, epochs: int = 3) -> Run:
    def validate() -> dict[str, float]:
        logits = predictions(run)
        return {"valid_loss": float(np.square(logits).mean())}

    return fit(
        run,
        Shapeless(source(count, 1, shuffle=True)),
        rates=[1e-2],
        schedule=one_cycle(),
        epochs=epochs,
        loss=LOSS,
        validate=validate,
        gradient_clip=1.0,
        callbacks=callbacks,
        resume=resume,
    )


def outcome(run: Run) -> dict:
    """What came out, as JSON can hold it, exactly."""
    kept = ("epoch", "train_loss", "valid_loss", "batch_losses", "rates")
    return {
        "weights": torch.cat([p.detach().flatten() for p in run.model.state_dict().values()]).tolist(),
        "predictions": predictions(run).tolist(),
        "history": [{name: row[name] for name in kept} for row in run.history],
        "step": run.step,
        "stop_reason": run.stop_reason,
    }


def trained(norm: str, count: int, *callbacks: Callback, first: tuple[nn.Module, ...] = ()) -> dict:
    return outcome(train(make_run(norm, *first), count, *callbacks))


def gradients(count: int) -> dict:
    """The gradients of one batch of `count` and the statistics after it, of all kinds of batch norm."""
    torch.manual_seed(0)
    net = nn.Sequential(
        Doubled(),
        nn.Unflatten(1, (1, 2, 3)),
        nn.Conv2d(1, 4, 2),
        BatchNormAct2d(4),  # timm's, with a ReLU inside
        nn.Conv2d(4, 4, 1, bias=False),
        nn.BatchNorm2d(4, affine=False),
        nn.Flatten(),
        nn.Linear(8, 5),
        nn.BatchNorm1d(5, momentum=None),
        nn.Linear(5, 3),
    ).double()
    run = Run(net, make_optimizer([list(net.parameters())], [1e-2]), seed=3, precision="float32")
    (batch,) = source(count, 1, shuffle=True).epoch(0)
    # That of the package is computed in float32.
    exact = partial(nn.functional.cross_entropy, reduction="none")
    Gradients(run, net.train(), exact, Statistics(net))(batch, 0)
    return {
        "gradients": torch.cat([p.grad.flatten() for p in net.parameters()]).tolist(),
        "statistics": torch.cat([buffer.double().flatten() for buffer in net.buffers()]).tolist(),
    }


def apart() -> dict:
    """The control: each rank normalises its share by itself."""
    with mock.patch.object(NormsOfAllRanks, "collect", False):
        return gradients(7)


def short_of_memory(norm: str) -> dict:
    """Rank 1 runs out of memory before the first norm, after the last, and when the others are done."""
    found = {}
    for where, first, last in (
        ("before", (LittleMemory(),), ()),
        ("after", (), (LittleMemory(),)),
        ("at the end", (LittleMemory(back=True),), ()),
    ):
        run = make_run(norm, *first, last=last)
        found[where] = outcome(train(run, UNEVEN)) | {
            "fits": run.adjustments.fits,
            "notices": run.adjustments.notices,
        }
    return found


def looked() -> dict:
    """What the finder and the trials see."""
    run = make_run("layer norm")
    before = outcome(run)
    shuffled = source(UNEVEN, 1, shuffle=True)
    found = lr_find(run, shuffled, loss=LOSS, iterations=20, start=1e-4, end=1.0)
    tried = try_rates(run, shuffled, loss=LOSS, candidates=(1e-3, 1e-1), steps=6)
    return {
        "losses": found.losses.tolist(),
        "changes": [trial.change for trial in tried.trials],
        "pictures": tried.pictures,
        "untouched": outcome(run) == before,
    }


def stopped(folder: Path, rank: int) -> dict:
    """Train until a signal comes on one rank in the second epoch; a checkpoint is left in `folder`."""

    def signalled(run: Run) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    run = make_run("layer norm")
    train(run, UNEVEN, At(7, rank, signalled), Checkpointer(folder))
    return outcome(run) | {"stop_signal": run.stop_signal}


def gone_on(folder: Path, norm: str = "layer norm") -> dict:
    run = make_run(norm)
    load_checkpoint(find_checkpoint(folder), run)
    return outcome(train(run, UNEVEN, resume=True))


def asked_to_stop(rank: int) -> dict:
    def ask(run: Run) -> None:
        run.stop_reason = f"rank {rank} has had enough"

    return trained("layer norm", UNEVEN, At(6, rank, ask))


def talk() -> dict:
    ranks = current()
    own = np.arange(6 * ranks.rank, dtype=np.float16).reshape(-1, 3)
    return {
        "table": ranks.table(ranks.rank, 0.1).tolist(),
        "gathered": [
            part.tolist() for part in ranks.gathered(own if ranks.rank else np.zeros(0, np.float16))
        ],
        "said": ranks.said("grüße" * ranks.rank),
        "of_first": ranks.of_first(7.5 + ranks.rank),
    }


class Dying(nn.Module):
    """Is killed on rank 1 in the forward pass of a step, when its batch norms have told the others theirs."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    def forward(self, inputs):
        self.left -= self.training
        if current().rank == 1 and self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return inputs


def lost(folder: Path) -> dict:
    """Rank 1 is killed within a step; what the other says and keeps, and how soon."""
    run, died = make_run("batch norm", last=(Dying(7),)), time.monotonic()

    def look_at_the_clock(run: Run) -> None:
        nonlocal died
        died = time.monotonic()

    try:
        train(run, UNEVEN, At(7, 0, look_at_the_clock), Checkpointer(folder))
    except LostRankError as error:
        return {
            "message": error.message,
            "exit_code": error.exit_code,
            "seconds": time.monotonic() - died,
            "step": run.step,
            "checkpoint": find_checkpoint(folder).state["step"],
        }
    return {"message": "nothing was noticed"}


def unweighed() -> dict:
    """The control: each rank's mean counts the same, however many samples it has."""
    with mock.patch.object(Gradients, "_share_of", lambda self, batch: 0.5 if len(batch) else 0.0):
        return trained("layer norm", UNEVEN)


def scenarios(folder: Path) -> dict:
    seen = Seen()
    found: dict = {"talk": talk()}
    for norm in ("fixed batch norm", "layer norm", "batch norm"):
        found[norm] = {str(count): trained(norm, count) for count in (UNEVEN, EMPTY)}
    train(make_run("layer norm"), UNEVEN, seen, epochs=1)
    found["seen"] = seen.rows
    found["little memory"] = {norm: short_of_memory(norm) for norm in ("layer norm", "batch norm")}
    found["gradients"] = {str(count): gradients(count) for count in (7, 2)}
    found["apart"] = apart()
    found["looked"] = looked()
    found["asked to stop"] = asked_to_stop(current().count - 1)
    found["gone on"] = gone_on(folder / "one")
    found["stopped"] = stopped(folder / "two", current().count - 1)
    found["unweighed"] = unweighed()
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    with joined() as ranks:
        found = scenarios(folder)
        (folder / f"rank-{ranks.rank}.json").write_text(json.dumps(found))
        ranks.wait()
        found = lost(folder / "lost")
        (folder / "lost.json").write_text(json.dumps(found))
        os._exit(0)


if __name__ == "__main__":
    main()
