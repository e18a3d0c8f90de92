"""What the page of a cleaning shows: thumbnails, examples of the classes, copies side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headstart.data import shown, thumbnail
from headstart.data.corrections import label_cell
from headstart.evaluation import Rise
from headstart.evaluation.report.clean import Album, Card, CleanPage, Copy, Side, write_clean_page
from headstart.recipe.suggesting import Judged, Suggested
from headstart.storage import write_atomic
from headstart.types import Task

if TYPE_CHECKING:
    from headstart.recipe.labelling import ToLabel

THUMBNAIL_SIDE = 288
EXAMPLE_SIDE = 144
EXAMPLES = 4
# A picture of 288 pixels takes some 15 kB; what is beyond these is in the table, and has no thumbnail.
MOST_PICTURES = 600


def _thumbnails(judged: Judged, suggested: Sequence[Suggested]) -> list[bytes]:
    """Return a thumbnail for each suggestion, empty where there is none any more or beyond the most."""
    found = [judged.data.cache.found(each.row) for each in suggested[:MOST_PICTURES]]
    jpegs = [b"" if picture is None else thumbnail(picture, THUMBNAIL_SIDE) for picture in found]
    return jpegs + [b""] * (len(suggested) - len(jpegs))


def write_clean_folder(
    folder: Path,
    judged: Judged,
    suggested: Sequence[Suggested],
    to_label: ToLabel | None,
    rises: Sequence[Rise],
    *,
    run: Path,
) -> None:
    """Write the thumbnails, named by their row in the table as a spreadsheet counts, and the page."""
    pictures = _thumbnails(judged, suggested)
    for number, jpeg in enumerate(pictures, start=2):
        if jpeg:
            write_atomic(folder / "pictures" / f"{number}.jpg", jpeg)
    album = Album()
    examples = _Examples(judged, album)
    cards = tuple(
        Card(
            tuple(each.suggestion),
            album.add(f"row {each.row}", jpeg),
            tuple(examples.sides(each)),
            tuple(_copies(judged, each, album)),
        )
        for each, jpeg in zip(suggested, pictures, strict=True)
    )
    write_clean_page(
        folder / "index.html",
        CleanPage(
            title=run.resolve().name,
            run=str(run),
            pictures=len(judged.rows),
            classes=judged.data.classes,
            tags=judged.data.task is Task.MULTI_LABEL,
            cards=cards,
            album=album,
            to_label=tuple(_to_label(to_label, album)),
            among=0 if to_label is None else to_label.among,
            rises=tuple(rises),
        ),
    )


class _Examples:
    """Pictures that show a class best: those whose label the out-of-fold models doubt least."""

    def __init__(self, judged: Judged, album: Album) -> None:
        self.judged, self.album = judged, album
        self._known: dict[tuple[int, int], tuple[int, ...]] = {}

    def sides(self, each: Suggested) -> list[Side]:
        """The classes to compare a picture with: its label's, and the one that is suggested."""
        data, label = self.judged.data, self.judged.data.samples.labels[each.row]
        if isinstance(each.likely, tuple):
            changed = np.flatnonzero(np.asarray(each.likely) != label)[:1].tolist()
            return [
                Side(f"{'With' if there else 'Without'} {shown(data.classes[tag])}", self.of(tag, there))
                for tag in changed
                for there in (int(label[tag]), 1 - int(label[tag]))
            ]
        if data.task is Task.MULTI_LABEL:
            return []
        numbers = [int(label)] if label >= 0 else []
        if each.likely is not None and each.likely not in numbers:
            numbers.append(each.likely)
        return [Side(shown(data.classes[number]), self.of(number, 1)) for number in numbers]

    def of(self, number: int, there: int) -> tuple[int, ...]:
        """The pictures of a class (with a tag, or without it) in the album."""
        key = (number, there)
        if key not in self._known:
            self._known[key] = tuple(self._chosen(number, there))
        return self._known[key]

    def _chosen(self, number: int, there: int) -> list[int]:
        judged, targets = self.judged, self.judged.predictions.targets
        assert targets is not None
        chances = judged.predictions.probabilities[:, number]
        own = targets[:, number] == there if targets.ndim == 2 else targets == number
        ranked = np.argsort(-chances if there else chances, kind="stable")
        chosen: list[int] = []
        groups: set[int] = set()
        for place in ranked[own[ranked]].tolist():
            if len(chosen) == EXAMPLES:
                break
            if int(judged.groups[place]) in groups:
                continue
            groups.add(int(judged.groups[place]))
            picture = judged.data.cache.found(int(judged.rows[place]))
            if picture is not None:
                name = f"example {judged.rows[place]}"
                chosen.append(self.album.add(name, thumbnail(picture, EXAMPLE_SIDE)))
        return chosen


def _copies(judged: Judged, each: Suggested, album: Album) -> list[Copy]:
    samples = judged.data.samples
    copies = []
    for number, row in enumerate(each.copies[:6]):
        picture = judged.data.cache.found(row)
        jpeg = b"" if picture is None else thumbnail(picture, EXAMPLE_SIDE)
        words = ", ".join(filter(None, (shown(label_cell(samples, row)), str(samples.split[row]))))
        copies.append(Copy(album.add(f"example {row}", jpeg), samples.name(row), words, number == 0))
    return copies


def _to_label(chosen: ToLabel | None, album: Album) -> list[tuple[int, str, str]]:
    if chosen is None:
        return []
    cards = []
    for number, row in enumerate(chosen.rows.tolist()):
        picture = chosen.data.cache.found(row)
        jpeg = b"" if picture is None else thumbnail(picture, EXAMPLE_SIDE * 3 // 2)
        guess = shown(chosen.guess(number)) or "no tag"
        words = f"{guess}? {chosen.predictions.confidence[number]:.0%}"
        cards.append((album.add(f"next {row}", jpeg), chosen.data.samples.name(row), words))
    return cards
