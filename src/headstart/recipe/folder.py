"""The run folder: what a run leaves on disk, while it goes on and at its end."""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.environment import process_seconds
from headstart.errors import OutputError, StorageError
from headstart.evaluation import Predictions
from headstart.lock import Lock, refuse_used
from headstart.storage import remove_leftovers, write_atomic, write_json
from headstart.types import Pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THUMBNAIL_SIDE = 256


class RunFolder:
    """A new folder for a run.

    Raises `OutputError` when it exists and has something in it, unless `replace` is set, or when it
    cannot be made. With `replace` only what an earlier run wrote is removed. A folder that is no run
    and has a `model` or `pictures` of its own is refused all the same: they may be somebody's pictures.
    `goes_on`: the folder of a run that was begun before. `shared` is where the files of the run are, which
    for all but one of several processes is elsewhere (see `folder_apart`).
    """

    WRITTEN = (
        "run.json",
        "history.jsonl",
        "history.csv",
        "summary.json",
        "predictions.csv",
        "probe_predictions.csv",
        "plan.yaml",
        "quarantine.csv",
        "augmentation.jpg",
        "report.html",
        "folds.json",
        "embedding.json",
    )
    FOLDERS = (
        *("model", "pictures", "doubts", "progress", "snapshots", "folds"),
        *("tensorboard", "wandb", "mlflow"),
    )

    def __init__(self, path: Path, *, replace: bool = False, goes_on: bool = False) -> None:
        self.path = self.shared = path
        self.goes_on = goes_on
        self._replace = replace
        self._lines: list[str] = []
        self._own: list[tuple[int, dict[str, Any]]] = []
        self._behind = False
        self.warn: Callable[[str], None] = lambda text: None
        if goes_on:
            return
        refuse_used(path)
        if not replace and path.exists() and not _is_empty(path):
            raise OutputError(
                f"{path} exists already", "choose another folder with --out, or replace it with --force"
            )

        own = [name for name in self.FOLDERS if (path / name).exists()]
        if own and not is_run(path):
            raise OutputError(
                f"{path} is not the folder of a run, and has {own[0]} in it, which a run would replace",
                "choose another folder with --out",
            )

    def begin(self) -> None:
        """Make the folder, and clear what an earlier run left in it; not before there is data."""
        try:
            if self._replace and self.path.is_dir():
                self._clear()
            self.path.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.path)
            (self.path / "history.jsonl").touch()
        except OSError as error:
            raise OutputError(
                f"the run folder {self.path} cannot be made: {error.strerror}",
                "choose another one with --out",
            ) from error

    def _clear(self) -> None:
        for name in self.WRITTEN:
            (self.path / name).unlink(missing_ok=True)
        for name in self.FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep other processes from writing to it; raises `OutputError`."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"the run folder {self.path} cannot be made: {error.strerror}",
                "choose another one with --out",
            ) from error
        with Lock(self.path):
            yield

    def history(self, **row: Any) -> None:
        """Append one row to history.jsonl, with the wall seconds since the process began."""
        row["seconds"] = round(process_seconds(), 3)
        plain_row = plain(row)
        self._own.append((len(self._lines) - len(self._own), plain_row))
        self._append(plain_row)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Append the row of an epoch to history.jsonl."""
        self._append(plain(row))

    def own_rows(self) -> list[tuple[int, dict[str, Any]]]:
        """Return the rows that no epoch gave, each after the number of epochs before it."""
        return list(self._own)

    def take_back(
        self, own: Iterable[tuple[int, dict[str, Any]]], epochs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Write history.jsonl anew from `own_rows` and the rows of the epochs."""
        self._own = list(own)
        rows: list[Any] = [plain(row) for row in epochs]
        for place, (before, row) in enumerate(self._own):
            rows.insert(before + place, row)
        self._lines = [_line(row) for row in rows]
        self.write_history()

    def _append(self, row: Mapping[str, Any]) -> None:
        """Write a line, and wait until it is on the disk; a disk that is full makes up for it later."""
        self._lines.append(_line(row))
        try:
            if self._behind:
                self.write_history()
                return
            with open(self.path / "history.jsonl", "ab") as stream:
                stream.write(self._lines[-1].encode("ascii"))
                stream.flush()
                os.fsync(stream.fileno())
        except (OSError, StorageError, OutputError) as error:
            if not self._behind:
                self.warn(f"history.jsonl is behind, and will be written later: {error}")
            self._behind = True

    def settle(self) -> None:
        """Make up for what a full disk left behind; raises `StorageError` where it still is full."""
        if self._behind:
            self.write_history()

    def write_history(self) -> None:
        """Write history.jsonl anew; raises `StorageError` where the disk is full."""
        write_atomic(self.path / "history.jsonl", "".join(self._lines).encode("ascii"))
        self._behind = False

    def save_picture(self, name: str, picture: Pixels) -> None:
        """Save a picture as JPEG, its longer side at most 256 pixels."""
        from headstart.data import thumbnail

        write_atomic(self.path / name, thumbnail(picture, THUMBNAIL_SIDE))

    def save_figure(self, name: str, figure: Figure) -> None:
        """Save a Matplotlib figure."""
        import io

        stream = io.BytesIO()
        figure.savefig(stream, format=Path(name).suffix[1:], dpi=80, bbox_inches="tight")
        write_atomic(self.path / name, stream.getvalue())

    def save_predictions(self, name: str, parts: Iterable[Predictions | None]) -> Predictions:
        """Write the predictions of several splits as one CSV; returns them as one table."""
        from headstart.evaluation import concatenate

        table = concatenate([part for part in parts if part is not None])
        table.to_csv(self.path / name)
        return table

    def save_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write JSON atomically; numbers that JSON has no word for become null."""
        write_json(self.path / name, plain(content))


def folder_apart(shared: Path, *, goes_on: bool = False) -> RunFolder:
    """Return a folder of its own for a process whose run another one writes to `shared`; it goes with it."""
    own = Path(tempfile.mkdtemp(prefix="headstart-rank-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    folder = RunFolder(own, goes_on=goes_on)
    folder.shared = shared
    return folder


def is_run(path: Path) -> bool:
    """Say whether a run was written here: its history is the first file that it makes."""
    return (path / "history.jsonl").is_file()


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n"


def next_free(path: Path) -> Path:
    """Return `path`, or `path-2`, `path-3` … where it is taken."""
    number, free = 1, path
    while free.exists() and not _is_empty(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _is_empty(path: Path) -> bool:
    if not path.is_dir():
        return False
    with os.scandir(path) as entries:
        return next(entries, None) is None


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it; numbers that JSON has no word for become None."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value
