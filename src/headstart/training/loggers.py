"""What a run tells other programs: a CSV of its epochs, TensorBoard, Weights & Biases, MLflow.

The packages are imported when training begins, and each is an extra: `pip install headstart[tensorboard]`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from headstart.errors import UsageError
from headstart.storage import write_atomic
from headstart.training.callbacks import Callback
from headstart.training.run import Row, Run
from headstart.training.values import unknown_name

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient
    from torch.utils.tensorboard import SummaryWriter
    from wandb.sdk.wandb_run import Run as WandbRun

EVERY_STEPS = 10
# Long, and of each batch: they are in history.jsonl.
_NOT_IN_CSV = ("batch_losses", "batch_rates", "rates")
_LABELS = ("step", "name", "epoch", "time", "seconds")


class CSVLogger(Callback):
    """Writes the epochs so far as CSV, anew and whole after each epoch: one column a figure, one a rate."""

    first_only = True

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_epoch(self, run: Run, row: Row) -> None:
        """Write the table; raises `StorageError` where the disk is full."""
        write_atomic(self.path, history_as_csv(run.history.rows).encode("utf-8"))


def history_as_csv(rows: Sequence[Row]) -> str:
    """Return epochs as CSV with all columns that any of them has; what one lacks is empty."""
    flat = [
        {
            **{name: value for name, value in row.items() if name not in _NOT_IN_CSV},
            **{f"rate_{number}": rate for number, rate in enumerate(row.get("rates", ()))},
        }
        for row in rows
    ]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return stream.getvalue()


def scalars_of(row: Row) -> dict[str, float]:
    """Return the figures of an epoch under the names of a board: `valid/loss`, `rate/group 0` …"""
    found: dict[str, float] = {}
    for name, value in row.items():
        if name in (*_LABELS, *_NOT_IN_CSV) or not isinstance(value, int | float):
            continue
        found["train/epoch_loss" if name == "train_loss" else f"valid/{name.removeprefix('valid_')}"] = value
    for number, rate in enumerate(row.get("rates", ())):
        found[f"rate/group {number}"] = rate
    return found


class BoardLogger(Callback):
    """Sends the loss of every `every`th step, and each epoch's figures, to a board; a subclass says where.

    It is opened when training begins, stays open over the phases of a run, and is closed by `close` or as
    a context manager.
    """

    first_only = True

    def __init__(self, every: int = EVERY_STEPS) -> None:
        if every < 1:
            raise UsageError(f"a log of every {every} steps", "give 1 or more")
        self.every = every
        self._open = False

    def open(self, run: Run) -> None:
        """Begin, at step `run.step`."""

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Send figures that belong to a step."""

    def flush(self) -> None:
        """See to it that what was sent has arrived."""

    def end(self) -> None:
        """End what `open` began."""

    def before_fit(self, run: Run) -> None:
        """Open the board, once."""
        if not self._open:
            self.open(run)
            self._open = True

    def after_step(self, run: Run) -> None:
        """Send the newest loss that is known, and the head's rate."""
        if run.step % self.every == 0 and run.span is not None and run.span.losses:
            self.write({"train/loss": run.span.losses[-1], "rate/head": run.span.rates[-1]}, run.step)

    def after_epoch(self, run: Run, row: Row) -> None:
        """Send the epoch's figures."""
        self.write(scalars_of(row), run.step)

    def after_fit(self, run: Run) -> None:
        """Flush; the next phase goes on from here."""
        if self._open:
            self.flush()

    def close(self) -> None:
        """End it; may be called more than once."""
        if self._open:
            self._open = False
            self.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TensorBoardLogger(BoardLogger):
    """Writes event files for TensorBoard into a folder; after a restart what came later is overwritten."""

    def __init__(self, folder: Path, every: int = EVERY_STEPS) -> None:
        super().__init__(every)
        _need("tensorboard", "tensorboard")
        self.folder = folder
        self._writer: SummaryWriter | None = None

    def open(self, run: Run) -> None:
        """Begin an event file."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder), purge_step=run.step)

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Write one event a figure."""
        assert self._writer is not None
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write what is still in memory."""
        assert self._writer is not None
        self._writer.flush()

    def end(self) -> None:
        """Close the event file."""
        assert self._writer is not None
        self._writer.close()


class WandbLogger(BoardLogger):
    """Sends figures to Weights & Biases.

    `mode` is `online`, `offline` (written below `folder`, to be synchronised later) or `disabled`; None is
    what WANDB_MODE says.
    """

    def __init__(
        self, folder: Path, *, project: str = "headstart", mode: str | None = None, every: int = EVERY_STEPS
    ) -> None:
        super().__init__(every)
        _need("wandb", "wandb")
        self.folder, self.project, self.mode = folder, project, mode
        self._run: WandbRun | None = None

    def open(self, run: Run) -> None:
        """Begin a run of theirs."""
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        mode: Any = self.mode
        self._run = wandb.init(
            project=self.project,
            name=self.folder.resolve().name,
            dir=str(self.folder),
            mode=mode,
            settings=wandb.Settings(console="off"),
        )

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Log the figures of a step."""
        assert self._run is not None
        self._run.log(dict(scalars), step=step)

    def end(self) -> None:
        """Finish the run of theirs, which sends what is left."""
        assert self._run is not None
        self._run.finish()


class MLflowLogger(BoardLogger):
    """Sends figures to MLflow: to MLFLOW_TRACKING_URI where that is set, else to files in `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        experiment: str = "headstart",
        tracking_uri: str | None = None,
        every: int = EVERY_STEPS,
    ) -> None:
        super().__init__(every)
        _need("mlflow", "mlflow")
        self.folder, self.experiment = folder, experiment
        self.tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        self._client: MlflowClient | None = None
        self._run_id = ""

    def open(self, run: Run) -> None:
        """Begin a run of theirs."""
        if self.tracking_uri is None:
            # MLflow 3 keeps a store of files for those who ask for it; the others need a database.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            self.folder.mkdir(parents=True, exist_ok=True)
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=self.tracking_uri or self.folder.resolve().as_uri())
        known = self._client.get_experiment_by_name(self.experiment)
        number = self._client.create_experiment(self.experiment) if known is None else known.experiment_id
        self._run_id = self._client.create_run(number, run_name=self.folder.resolve().name).info.run_id

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Log the figures of a step in one call."""
        from mlflow.entities import Metric

        assert self._client is not None
        now = int(time.time() * 1000)
        self._client.log_batch(
            self._run_id, metrics=[Metric(name, value, now, step) for name, value in scalars.items()]
        )

    def end(self) -> None:
        """Mark the run of theirs as finished."""
        assert self._client is not None
        self._client.set_terminated(self._run_id)


LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")


def make_loggers(names: str, folder: Path) -> list[Callback]:
    """Return the loggers of a list such as `csv,tensorboard`, which write into a run's folder.

    Raises `UsageError` for an unknown name, and for a package that is not installed.
    """
    found: list[Callback] = []
    for name in dict.fromkeys(part.strip() for part in names.split(",") if part.strip()):
        if name == "csv":
            found.append(CSVLogger(folder / "history.csv"))
        elif name == "tensorboard":
            found.append(TensorBoardLogger(folder / "tensorboard"))
        elif name == "wandb":
            found.append(WandbLogger(folder / "wandb"))
        elif name == "mlflow":
            found.append(MLflowLogger(folder / "mlflow"))
        else:
            error = unknown_name("log", name, LOGGERS)
            raise UsageError(error.message, error.hint)
    return found


@contextlib.contextmanager
def closing_loggers(callbacks: Sequence[Callback]) -> Iterator[None]:
    """Close those of the callbacks that are boards when the block ends, however it ends."""
    with contextlib.ExitStack() as stack:
        for callback in callbacks:
            if isinstance(callback, BoardLogger):
                stack.enter_context(callback)
        yield


def _need(module: str, extra: str) -> None:
    if find_spec(module) is None:
        raise UsageError(f"the package {module} is not installed", f'pip install "headstart[{extra}]"')
