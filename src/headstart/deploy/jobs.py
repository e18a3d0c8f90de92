"""Long prediction jobs: a table in a file that grows part by part, and goes on after a kill.

Beside the table lies, until it is done, a folder `<table>.parts`:

    job.json                            the model, the pictures and the options: only the same job goes on
    part-000003-<names>-<unread>.csv    512 rows, written whole or not at all

The parts are put together when all are there. Each row is there once, in the order of the pictures.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.deploy.pictures import Item, Pictures, items_of, listing_of
from headstart.deploy.tables import CsvTable, ParquetTable, feature_columns
from headstart.errors import ConfigError, InputMissingError, OutputError
from headstart.evaluation import concatenate
from headstart.evaluation.columns import check_top, columns_of
from headstart.lock import Lock
from headstart.storage import content_key, read_json, remove_leftovers, write_json

if TYPE_CHECKING:
    from headstart.data import Samples
    from headstart.deploy.predictor import Predictor, Seen

PART_ROWS = 512
"""Rows of a part: so many pictures are looked at again, at most, after a kill. A multiple of the chunk."""

_JOB = "job.json"
_PART = re.compile(r"part-(\d{6})-([0-9a-f]{16})-(\d+)")


@dataclass(frozen=True)
class JobResult:
    """A table that is done: its rows, those without a prediction, and those that were there before."""

    out: Path
    rows: int
    unread: int
    resumed: int


@dataclass(frozen=True)
class _Part:
    path: Path
    number: int
    names: str
    unread: int


def predict_into(
    predictor: Predictor,
    pictures: Pictures,
    out: str | Path,
    *,
    tta: bool | str | None = None,
    top: int | None = None,
    features: bool = False,
    replace_old: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    part_rows: int = PART_ROWS,
) -> JobResult:
    """Predict pictures into a table, `.parquet` or CSV; a job that was killed goes on where it was.

    Memory is bounded for any number of pictures that an iterator gives. `top`: the so many most probable
    classes in place of the probability of each. `on_progress` is called with the rows that are done, and how
    many there will be (0: unknown). `features`: what entered the first network's head, too. A
    picture that cannot be read has its reason code as `status`.

    An unfinished job over other pictures (names, order or sizes), of another model or with other options is
    refused, or begun anew with `replace_old`. Of an iterator only the names of what is done can be compared.
    Raises `OutputError` for that, for a table that is there already, and where another process works on it;
    otherwise as `Predictor.predict` does.
    """
    check_top(top)
    out = Path(out)
    table = ParquetTable(features=features) if out.suffix.lower() == ".parquet" else CsvTable()
    parts_folder = out.with_name(out.name + ".parts")
    refuse_existing(out, replace_old=replace_old)
    listed = listing_of(pictures)
    items = items_of(pictures)
    looks = predictor.looks(tta, features=features)
    count = predictor.feature_count if features else 0
    total = 0 if listed is None else len(listed)
    said = {
        "model": content_key(predictor.manifest.to_dict()),
        "pictures": "" if listed is None else fingerprint(listed),
        "tta": tta,
        "top": top,
        "features": features,
        "table": out.suffix.lower(),
        "part_rows": part_rows,
    }
    parts_folder.parent.mkdir(parents=True, exist_ok=True)
    _make(parts_folder)
    with Lock(parts_folder):
        remove_leftovers(parts_folder)
        _begin(parts_folder, said, replace_old)
        parts = _done(parts_folder)
        rows = _skip(items, parts, part_rows)
        resumed = rows
        if on_progress is not None and rows:
            on_progress(rows, total)
        chunks = predictor.seen(items, looks, first=rows)
        for group in _groups(chunks, part_rows):
            path = _write(parts_folder, len(parts), group, table, top, count)
            parts.append(path)
            rows += sum(len(seen.averaged) for seen in group)
            if on_progress is not None:
                on_progress(rows, total)
        if not rows:
            (parts_folder / _JOB).unlink()
            raise InputMissingError("there are no pictures to predict", "give files, folders or pictures")
        table.merge([part.path for part in parts], out)
        for part in parts:
            part.path.unlink()
        (parts_folder / _JOB).unlink()
    shutil.rmtree(parts_folder, ignore_errors=True)
    return JobResult(out, rows, sum(part.unread for part in parts), resumed)


def refuse_existing(out: Path, *, replace_old: bool) -> None:
    """Raise `OutputError` where a table is there already, unless an unfinished job was to replace it."""
    unfinished = out.with_name(out.name + ".parts") / _JOB
    if out.exists() and not replace_old and not unfinished.is_file():
        raise OutputError(f"{out} exists already", "choose another file, or replace it with --force")


def fingerprint(samples: Samples) -> str:
    """Return a hash of the names of files, in order, and of their sizes (-1 where one is not there)."""
    digest = hashlib.sha256()
    for row, name in enumerate(samples.paths):
        try:
            size = (samples.root / samples.paths[row]).stat().st_size
        except OSError:
            size = -1
        digest.update(f"{name}\0{size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror}", "choose another place") from error


def _begin(folder: Path, said: dict[str, Any], replace_old: bool) -> None:
    """Say what the job is, or see that it is the one that was begun here."""
    path = folder / _JOB
    if path.is_file():
        try:
            before = read_json(path)
        except ConfigError:
            before = None
        if before == said:
            return
        if not replace_old:
            words = {"model": "model", "pictures": "pictures"}
            known = before if isinstance(before, dict) else {}
            other = dict.fromkeys(words.get(key, "options") for key in said if known.get(key) != said[key])
            raise OutputError(
                f"an unfinished job for {folder.name.removesuffix('.parts')} has other {' and '.join(other)}",
                "finish it as it was begun, choose another --out, or begin anew with --force",
            )
    for old in folder.iterdir():
        if _PART.fullmatch(old.stem) and old.is_file():
            old.unlink()
    write_json(path, said)


def _done(folder: Path) -> list[_Part]:
    """Return the parts that are there, in order, up to the first that is not; later ones are removed."""
    found = []
    for path in sorted(folder.iterdir()):
        match = _PART.fullmatch(path.stem)
        if match is not None and path.suffix in {".csv", ".parquet"}:
            found.append(_Part(path, int(match[1]), match[2], int(match[3])))
    whole = [part for number, part in enumerate(found) if part.number == number]
    for part in found[len(whole) :]:
        part.path.unlink()
    return whole


def _skip(items: Iterator[Item], parts: Sequence[_Part], part_rows: int) -> int:
    """Pass over the pictures that are done, and see that they are the same; return how many they are."""
    rows = 0
    for part in parts:
        names = [item.name for item in itertools.islice(items, part_rows)]
        if _names_of(names) != part.names:
            raise OutputError(
                f"the pictures are not those of the unfinished job: those from number {rows} on differ",
                "give the same pictures in the same order, or begin anew with --force",
            )
        rows += len(names)
    return rows


def _names_of(names: Iterable[str]) -> str:
    return content_key(*names)[:16]


def _groups(chunks: Iterator[Seen], part_rows: int) -> Iterator[list[Seen]]:
    """Put chunks together to parts of `part_rows`; only the last is shorter."""
    group: list[Seen] = []
    for seen in chunks:
        group.append(seen)
        if sum(len(each.averaged) for each in group) >= part_rows:
            yield group
            group = []
    if group:
        yield group


def _write(
    folder: Path,
    number: int,
    group: Sequence[Seen],
    table: CsvTable | ParquetTable,
    top: int | None,
    count: int,
) -> _Part:
    whole = concatenate([seen.averaged for seen in group])
    columns = columns_of(whole, top=top)
    if count:
        columns |= feature_columns(group, table, count)
    unread = int((~whole.predicted_rows).sum())
    names = _names_of(whole.paths or ())
    part = _Part(folder / f"part-{number:06}-{names}-{unread}{table.suffix}", number, names, unread)
    table.write(part.path, columns)
    return part
