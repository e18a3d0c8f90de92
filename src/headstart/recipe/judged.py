"""What an evaluation leaves on disk: the predictions, the figures, and a report of them."""

from __future__ import annotations

import datetime
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart import environment
from headstart.data import Colours, Samples, decode
from headstart.deploy import Evaluated, Manifest, Predictor
from headstart.errors import DataError, OutputError, UsageError
from headstart.evaluation import Slice, rows_to_picture, write_report
from headstart.imagedata.columns import MEASURED, measured_columns
from headstart.recipe.diagnosing import (
    as_summary,
    heat_by,
    left_out_if_it_fails,
    save_heat,
    save_map,
    slices_in,
)
from headstart.recipe.folder import THUMBNAIL_SIDE, RunFolder, is_run
from headstart.recipe.narrator import Narrator
from headstart.recipe.steps import default_metric

EVALUATION = "evaluation.json"


def prepare_folder(path: Path, *, replace_old: bool) -> RunFolder:
    """Return the folder that an evaluation goes to; raises `OutputError` where it cannot.

    With `replace_old` an earlier evaluation is replaced; a run that was trained never is.
    """
    if is_run(path) or (path / "model").exists():
        raise OutputError(f"{path} is the folder of a run", "choose another folder with --out")
    used = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if used and not (replace_old and (path / EVALUATION).is_file()):
        hint = "replace it with --force" if (path / EVALUATION).is_file() else "choose another folder"
        raise OutputError(f"{path} exists already", hint)
    return RunFolder(path, goes_on=True)


def write_evaluation(
    folder: RunFolder,
    evaluated: Evaluated,
    samples: Samples,
    predictor: Predictor,
    metrics: tuple[str, ...] = (),
    slices: Sequence[Slice] = (),
    narrator: Narrator | None = None,
) -> Path:
    """Write the predictions, the figures and the report; returns the folder.

    Rows of a test part stay one for `headstart compare` and the report; any others count as validation rows,
    since nothing says that the model had no part in them. `metrics`: the names of the figures, first the one
    that the model is judged by. `slices`: see `slices_of_evaluation`. Heat maps by `predictor`, and a map of
    what enters its first network's head where the bundle asks for that, go with them. Raises `OutputError`
    where the folder cannot be made, `StorageError` where the disk is full.
    """
    manifest, say = predictor.manifest, (narrator or Narrator()).say
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        # Rows have other pictures now: none of an earlier evaluation's may stand beside them.
        shutil.rmtree(folder / "pictures", ignore_errors=True)
        (folder / "embedding.json").unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{folder.path} cannot be made: {error.strerror}") from error
    rows = np.full(len(evaluated.predictions), _counts_as(evaluated))
    table = folder.save_predictions("predictions.csv", [replace(evaluated.predictions, split=rows)])
    for row in rows_to_picture(table):
        _save_thumbnail(folder, f"pictures/{row}.jpg", samples, int(table.rows[row]), manifest)
    with left_out_if_it_fails("heat maps", say):
        save_heat(folder, table, heat_by(predictor, samples))
    if evaluated.features is not None and evaluated.feature_rows is not None:
        with left_out_if_it_fails("places on a map", say):
            save_map(folder, table, evaluated.features, evaluated.feature_rows, seed=0)
    summary = _summary(evaluated, samples, manifest, metrics) | {"slices": as_summary(slices)}
    folder.save_json("summary.json", summary)
    folder.save_json(EVALUATION, evaluated.evaluation.to_dict())
    write_report(folder.path)
    return folder.path


def check_columns(samples: Samples, asked: Sequence[str]) -> None:
    """Raise `UsageError` for a column to make slices by that there will not be."""
    columns = [*samples.columns, *(name for name in MEASURED if name not in samples.columns)]
    missing = [name for name in asked if name not in columns]
    if missing:
        raise UsageError(f"there is no column {missing[0]!r}", f"columns are {', '.join(columns)}")


def slices_of_evaluation(evaluated: Evaluated, samples: Samples, asked: Sequence[str] = ()) -> list[Slice]:
    """Return how the pictures fare by the table's columns and by what was measured of each; see `slices_in`.

    `asked`: only these columns.
    """
    columns = dict(samples.columns)
    for name, cells in measured_columns(evaluated.facts).items():
        if name not in columns:
            columns[name] = np.full(len(samples), None, object)
            columns[name][evaluated.predictions.rows] = cells
    return slices_in(evaluated.predictions, {name: columns[name] for name in asked or columns})


def _counts_as(evaluated: Evaluated) -> str:
    return "test" if evaluated.part == "test" else "valid"


def _save_thumbnail(folder: RunFolder, name: str, samples: Samples, row: int, manifest: Manifest) -> None:
    colours = Colours(manifest.members[0].preprocessing.background)
    try:
        picture = decode(samples.read(row), short_side=THUMBNAIL_SIDE, colours=colours)
    except DataError:
        return  # it was read a moment ago, and has gone since
    folder.save_picture(name, picture)


def _summary(
    evaluated: Evaluated, samples: Samples, manifest: Manifest, metrics: tuple[str, ...]
) -> dict[str, Any]:
    """Return what the report and `compare` read: that of a run, without what training would add."""
    judged, member = evaluated.evaluation, manifest.members[0]
    part = samples.take(evaluated.predictions.rows)
    first = [name for name in metrics if name in judged.figures]
    names = dict.fromkeys((*first, *judged.figures))
    where = "all pictures" if evaluated.part == "all" else f"the {evaluated.part} part"
    counts_as = _counts_as(evaluated)
    doubt = " Those that it was trained on or chosen by flatter it." if counts_as == "valid" else ""
    figures = {name: judged.figures[name].to_dict() for name in names}
    return {
        "schema": 1,
        "metric": next(iter(names), default_metric(manifest.task)),
        "headstart": environment.versions().get("headstart", ""),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "settings": {"tta": None if judged.views is None else judged.views.policy},
        "data": {
            "root": str(samples.root),
            "line": part.describe(),
            "classes": list(manifest.classes),
            "task": str(manifest.task),
            "counts": {counts_as: part.counts()},
            "pictures": {counts_as: len(part)},
            "notes": list(samples.notes),
        },
        "model": {
            "arch": member.arch,
            "weights": member.weights.source,
            "licence": member.weights.licence,
            "image_size": list(member.preprocessing.size),
        },
        "steps": [],
        "finders": [],
        "final": {
            "valid": figures if counts_as == "valid" else None,
            "test": figures if counts_as == "test" else None,
            "note": f"A finished model, asked about {where} of {samples.root}.{doubt}",
        },
        "stop_reason": "",
    }
