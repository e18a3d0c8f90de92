"""Cleaning a run's pictures: which labels are probably wrong, which pictures are copies, what to label next.

A probe on the run's frozen features says of each labelled picture what models that never saw it find. What
comes of it is a table of suggestions and a page to decide on them; no picture is touched.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart import environment
from headstart.data import write_suggestions
from headstart.data.corrections import Suggestion, read_suggestions
from headstart.errors import DataError, OutputError, UsageError
from headstart.evaluation import Rise, rises
from headstart.imagedata import ImageData
from headstart.recipe.body import Body
from headstart.recipe.doubting import judge_labels
from headstart.recipe.folder import plain
from headstart.recipe.journal import Journal
from headstart.recipe.labelling import ToLabel, choose_to_label, read_unlabelled, unlabelled_rows
from headstart.recipe.narrator import Narrator, TerminalNarrator
from headstart.recipe.outoffold import frozen_body, out_of_fold
from headstart.recipe.run import read_folder
from headstart.recipe.suggesting import Judged, Suggested, suggest
from headstart.storage import write_json

if TYPE_CHECKING:
    from headstart.models import Engine

NAME = "clean"
TABLE = "suggestions.csv"
PAGE = "index.html"
TO_LABEL = "label_next.csv"


@dataclass(frozen=True, eq=False)
class Cleaning:
    """What cleaning found, and the folder that it was written to.

    `pictures`: how many were judged. `expected`: how many labels (of tags: decisions) are wrong, by the
    estimate of confident learning, which is high where the features tell the classes apart badly: 50 to 56
    of 800 flowers where 40 were flipped. `suggestions`: what to look at. `to_label`: which pictures to label
    next, where there are some without a label; else `rises`: how much each class still gains from more.
    """

    folder: Path
    pictures: int
    expected: float
    suggestions: tuple[Suggested, ...]
    to_label: ToLabel | None
    rises: tuple[Rise, ...]

    @property
    def table(self) -> Path:
        """The table to decide in and to train with: `headstart train --corrections`."""
        return self.folder / TABLE

    @property
    def page(self) -> Path:
        """The page on which to decide."""
        return self.folder / PAGE

    @property
    def counts(self) -> dict[str, int]:
        """How many suggestions there are of each kind."""
        actions = [each.suggestion.action for each in self.suggestions]
        return {action: actions.count(action) for action in ("relabel", "remove", "duplicate")}

    def to_dict(self) -> dict[str, Any]:
        """Return what was found as JSON can hold it."""
        return {
            "schema": 1,
            "folder": str(self.folder),
            "pictures": self.pictures,
            "expected_label_errors": round(self.expected, 1),
            "suggestions": self.counts,
            "to_label": None
            if self.to_label is None
            else {"chosen": len(self.to_label.rows), "among": self.to_label.among},
            "classes": [
                {
                    "name": rise.name,
                    "pictures": rise.pictures,
                    "recall_with_half": round(rise.half, 4),
                    "recall": round(rise.whole, 4),
                    "gain_low": round(rise.low, 4),
                    "gain_high": round(rise.high, 4),
                    "still_rises": rise.still_rises,
                }
                for rise in self.rises
            ],
            "versions": environment.versions(),
        }

    def lines(self) -> list[str]:
        """Return what was found in words, one line each."""
        counts = self.counts
        lines = [
            f"{self.pictures:,} pictures judged by models that never saw them",
            f"suggested: {counts['relabel']:,} to relabel, {counts['remove']:,} to leave out, "
            f"{counts['duplicate']:,} copies",
        ]
        if self.to_label is not None:
            lines.append(f"to label next: {len(self.to_label.rows):,} of {self.to_label.among:,} pictures")
        rising = [rise.name for rise in self.rises if rise.still_rises]
        if rising:
            lines.append(f"more pictures will help most in class {', '.join(rising[:5])}")
        return lines


def clean(
    run: str | Path,
    data: ImageData | None = None,
    *,
    unlabelled_pictures: str | Path | None = None,
    count: int = 24,
    device: str = "auto",
    force: bool = False,
    narrator: Narrator | None = None,
) -> Cleaning:
    """Look for wrong labels, copies and strangers among a run's pictures, and write what is found.

    Judged are the labels of the train and valid parts; copies are looked for in all parts. `run` is the
    run's folder, `data` what it was begun with, where that was not a folder. `count` pictures to label
    next are chosen from those without a label, or from those in the folder `unlabelled_pictures`. Written
    into `run`/clean: the table suggestions.csv, index.html to decide on it, thumbnails, summary.json, and
    label_next.csv. What is there already is not replaced, unless `force` is set; what was decided on the
    same suggestions is then kept.

    Raises `InputMissingError` where no run was begun, `UsageError` where the run started from random
    weights or its data must be handed in, `OutputError` where the folder is there already, `DataError`
    where there are too few pictures.
    """
    path, told = Path(run), narrator or TerminalNarrator()
    if count < 1:
        raise UsageError(f"{count} pictures to label next", "give a number from 1 on")
    journal = Journal.read(path)
    folder = path / NAME
    check_output(path, force=force)
    decided = _decisions(folder)
    if data is None:
        if journal.origin.kind != "folder":
            raise UsageError(
                f"{path} does not say how its pictures are found again",
                "hand them in: clean(run, data); or use headstart clean, if headstart train began it",
            )
        data = read_folder(journal.origin.options, told)
    judged, engine, identity = _judge(data, journal.body, told, device=device)
    found = [_with_decision(each, decided) for each in suggest(judged)]
    to_label = _to_label(judged, engine, identity, unlabelled_pictures, count, told)
    rising = () if to_label is not None else _rises(judged, told)
    result = Cleaning(folder, len(judged.rows), judged.doubts.expected, tuple(found), to_label, tuple(rising))
    with told.progress("writing the page"):
        _write(result, judged, path)
    return result


def _write(result: Cleaning, judged: Judged, run: Path) -> None:
    """Write the folder; what a person put there beside our files stays."""
    folder = result.folder
    try:
        shutil.rmtree(folder / "pictures", ignore_errors=True)
        (folder / "pictures").mkdir(parents=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror}", "look who may write there") from error
    (folder / TO_LABEL).unlink(missing_ok=True)
    # The page's room is no business of a run that only trains.
    from headstart.recipe.cleanpage import write_clean_folder

    write_clean_folder(folder, judged, result.suggestions, result.to_label, result.rises, run=run)
    if result.to_label is not None:
        result.to_label.write(folder / TO_LABEL)
    write_json(folder / "summary.json", plain(result.to_dict()))
    write_suggestions(folder / TABLE, [each.suggestion for each in result.suggestions])


def check_output(run: Path, *, force: bool = False) -> None:
    """Raise `OutputError` where a run was cleaned before, unless `force` is set."""
    table = run / NAME / TABLE
    if table.exists() and not force:
        raise OutputError(
            f"{table} exists already",
            "train with it (--corrections), or look again with --force, which keeps what was decided",
        )


def _decisions(folder: Path) -> dict[tuple[str, str], Suggestion]:
    """Return what was decided in an earlier table, by path and action."""
    if not (folder / TABLE).exists():
        return {}
    rows = read_suggestions(folder / TABLE)
    return {(row.path, row.action): row for _, row in rows if row.apply}


def _with_decision(each: Suggested, decided: dict[tuple[str, str], Suggestion]) -> Suggested:
    """Return a suggestion with what was said to it before, if its label is still the same."""
    before = decided.get((each.suggestion.path, each.suggestion.action))
    if before is None or before.label != each.suggestion.label:
        return each
    same = each.suggestion._replace(suggested=before.suggested, apply=before.apply)
    return Suggested(same, each.row, each.copies, each.likely)


def _judge(data: ImageData, body: Body, told: Narrator, *, device: str) -> tuple[Judged, Engine, str]:
    """Return the labelled rows of train and valid, and what out-of-fold models say of them."""
    data, engine, identity = frozen_body(data, body, device=device)
    with told.progress("looking at the labelled pictures") as on_progress:
        parts = [
            data.activations(split, engine, identity, on_progress=on_progress)
            for split in ("train", "valid")
            if len(data.rows(split))
        ]
    with told.progress("asking models that never saw the picture") as on_progress:
        return judge_labels(data, parts, on_progress=on_progress), engine, identity


def _to_label(
    judged: Judged,
    engine: Engine,
    identity: str,
    folder: str | Path | None,
    count: int,
    told: Narrator,
) -> ToLabel | None:
    pool, rows = judged.data, unlabelled_rows(judged.data)
    if folder is not None:
        pool = read_unlabelled(judged.data, Path(folder), told)
        rows = np.arange(len(pool.samples), dtype=np.int64)
    rows = rows[pool.samples.split[rows] == "test"]
    if not len(rows):
        return None
    return choose_to_label(judged, pool, rows, engine, identity, count=count, narrator=told)


def _rises(judged: Judged, told: Narrator) -> list[Rise]:
    """Compare what models of half the pictures say with what those of all do."""
    samples = judged.data.samples.take(judged.rows)
    try:
        with told.progress("asking models of half the pictures") as on_progress:
            half = out_of_fold(
                judged.features,
                samples,
                groups=judged.groups,
                part=0.5,
                seed=judged.data.seed,
                on_progress=on_progress,
            )
    except DataError:  # too few pictures to halve
        return []
    return rises(half, judged.predictions)
