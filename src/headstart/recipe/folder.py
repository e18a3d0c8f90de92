"""The run folder: what a run leaves on disk, while it goes on and at its end."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.environment import process_seconds
from headstart.errors import OutputError, StorageError
from headstart.evaluation import Predictions
from headstart.storage import write_atomic, write_json
from headstart.types import Pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THUMBNAIL_SIDE = 256


class RunFolder:
    """A new folder for a run.

    Raises `OutputError` when it exists and has something in it, unless `replace` is set, or when it
    cannot be made. With `replace` only what an earlier run wrote is removed. A folder that is no run
    and has a `model` or `pictures` of its own is refused all the same: they may be somebody's pictures.
    """

    WRITTEN = (
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
    )
    FOLDERS = ("model", "pictures", "snapshots", "folds", "tensorboard", "wandb", "mlflow")

    def __init__(self, path: Path, *, replace: bool = False) -> None:
        self.path = path
        self._replace = replace
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

    def history(self, **row: Any) -> None:
        """Append one row to history.jsonl, with the wall seconds since the process began."""
        row["seconds"] = round(process_seconds(), 3)
        text = json.dumps({name: _plain(value) for name, value in row.items()}, allow_nan=False)
        try:
            with open(self.path / "history.jsonl", "a", encoding="utf-8") as stream:
                stream.write(text + "\n")
                stream.flush()
        except OSError as error:
            raise StorageError(
                f"{self.path / 'history.jsonl'} cannot be written: {error.strerror}", "free some disk space"
            ) from error

    def save_picture(self, name: str, picture: Pixels) -> None:
        """Save a picture as JPEG, its longer side at most 256 pixels."""
        import cv2

        scale = THUMBNAIL_SIDE / max(picture.shape[:2])
        if scale < 1:
            size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
        _, data = cv2.imencode(
            ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, 85)
        )
        write_atomic(self.path / name, data.tobytes())

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
        write_json(self.path / name, _plain(content))


def is_run(path: Path) -> bool:
    """Say whether a run was written here: its history is the first file that it makes."""
    return (path / "history.jsonl").is_file()


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


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value
