"""What a run was begun with, picture by picture, and what is different now."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from headstart.errors import ConfigError
from headstart.imagedata import ImageData
from headstart.recipe.folder import plain
from headstart.storage import content_key, sha256_bytes

MOST_LINES = 9
_COLUMNS = ("picture", "label", "split", "sha256")


@dataclass(frozen=True)
class Changes:
    """What is different now, one line each; `harmful` where the classes are no longer the same."""

    lines: tuple[str, ...] = ()
    harmful: bool = False

    def __bool__(self) -> bool:
        return bool(self.lines)

    def told(self) -> str:
        """Return the differences as one line, at most `MOST_LINES` of them."""
        more = len(self.lines) - MOST_LINES
        return "; ".join((*self.lines[:MOST_LINES], *([f"and {more:,} more"] if more > 0 else [])))


def data_key(data: ImageData) -> str:
    """Return a key that is equal only for the same pictures, contents, labels, classes and split."""
    contents = sha256_bytes("\n".join(_contents(data)).encode())
    return content_key(data.samples.fingerprint(), contents)


def _contents(data: ImageData) -> list[str]:
    if data.audit is None:
        return [""] * len(data.samples)
    return [str(digest) for digest in data.audit.sha256[data.audit.ok]]


def table_of(data: ImageData) -> bytes:
    """Return the pictures as CSV: picture, label, split, sha256."""
    samples = data.samples
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(_COLUMNS)
    places = [samples.name(row) for row in range(len(samples))]
    writer.writerows(zip(places, samples.label_names(), samples.split.tolist(), _contents(data), strict=True))
    return text.getvalue().encode("utf-8", errors="backslashreplace")


def compare(table: bytes, classes: Iterable[str], data: ImageData) -> Changes:
    """Return how `data` differs from a `table_of` other data with these classes.

    Raises `ConfigError` for what is no such table.
    """
    before, now = _rows(table), _rows(table_of(data))
    lines = _class_lines(tuple(classes), data.classes)
    harmful = bool(lines)
    gone = {name: row for name, row in before.items() if name not in now}
    new = {name: row for name, row in now.items() if name not in before}
    moved = _moved(gone, new)
    lines += [f"{old} ({gone[old][0]}) is now {name} ({new[name][0]})" for old, name in moved.items()]
    lines += [f"{name} is not there any more" for name in gone if name not in moved]
    taken = set(moved.values())
    lines += [f"{name} is new" for name in new if name not in taken]
    split = 0
    for name, (label, part, contents) in before.items():
        if name not in now or now[name] == (label, part, contents):
            continue
        if now[name][2] != contents:
            lines.append(f"{name} has other contents")
        elif now[name][0] != label:
            lines.append(f"{name} was {label!r} and is {now[name][0]!r}")
        else:
            split += 1
    if split:
        lines.append(f"{split:,} other pictures are in another part of the split")
    if not lines and list(before) != list(now):
        lines.append("the pictures come in another order")
    return Changes(tuple(lines), harmful)


def _class_lines(before: tuple[str, ...], now: tuple[str, ...]) -> list[str]:
    lines = [f"the class {name!r} is not there any more" for name in before if name not in now]
    lines += [f"the class {name!r} is new" for name in now if name not in before]
    return lines or (["the classes come in another order"] if before != now else [])


def _moved(gone: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Return which of the new pictures are missing ones under another name, by their contents."""
    places = {row[2]: name for name, row in new.items() if row[2]}
    return {name: places[row[2]] for name, row in gone.items() if row[2] in places}


def _rows(table: bytes) -> dict[str, tuple[str, str, str]]:
    try:
        lines = list(csv.reader(io.StringIO(table.decode("utf-8"), newline="")))
        if tuple(lines[0]) != _COLUMNS:
            raise ValueError("other columns")
        return {picture: (label, split, contents) for picture, label, split, contents in lines[1:]}
    except (UnicodeDecodeError, ValueError, IndexError) as error:
        raise ConfigError(f"the run's list of pictures cannot be read: {error}", "begin a new run") from error


def settings_of(data: ImageData) -> dict[str, Any]:
    """Return what else decides what training sees."""
    settings = {
        "image_size": list(data.image_size),
        "batch_size": data.batch_size,
        "augmentation": data.augmentation.to_dict(),
        "policy": data.policy,
        "balance": data.balance,
        "seed": data.seed,
    }
    return dict(plain(settings))


def compare_settings(before: Mapping[str, Any], data: ImageData) -> Changes:
    """Return which settings are no longer the same."""
    now = settings_of(data)
    lines = [
        f"{name} was {before.get(name)} and is {now[name]}" for name in now if before.get(name) != now[name]
    ]
    return Changes(tuple(lines), harmful=bool(lines))
