"""Tar shards in the WebDataset convention: indexed once, then each picture is a part of a file."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from headstart.data.archives import samples_in_archive
from headstart.data.classes import Labels, encode_labels, encode_tag_lists, encode_tags, natural
from headstart.data.remote import (
    glob_remote,
    is_remote,
    is_remote_folder,
    list_remote,
    open_remote,
    read_remote,
)
from headstart.data.rows import Rules, group_numbers, rows_of, settle
from headstart.data.samples import Samples, shown
from headstart.data.shardindex import Contents, Picture, remembered
from headstart.data.tar import Member, ReadAt, tar_members
from headstart.data.walk import PICTURE_SUFFIXES
from headstart.errors import DataError, InputMissingError, UsageError

CONTENTS = "shards.json"
MAX_SHARDS = 100_000
MAX_LABEL_BYTES = 1 << 20
LABEL_SUFFIXES = (".json", ".cls", ".txt")


def expand(places: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return the shards that are meant: files, a folder of them, `{000..011}` and `{a,b}`, `*`, or URLs.

    Braces are in the order given, folders and patterns in natural order. Raises `InputMissingError` where
    nothing is meant or one is missing, and `UsageError` for more than 100,000.
    """
    given = [places] if isinstance(places, str | os.PathLike) else list(places)
    shards: list[str] = []
    for place in given:
        meant = list(itertools.islice(_braces(os.path.expanduser(os.fspath(place))), MAX_SHARDS + 1))
        if len(meant) > MAX_SHARDS:
            raise UsageError(f"{shown(str(place))} means more than {MAX_SHARDS:,} shards", "give fewer")
        shards += [shard for part in meant for shard in _matching(part)]
    if not shards:
        named = ", ".join(shown(str(place)) for place in given[:3])
        raise InputMissingError(
            f"there are no shards in {named or 'an empty list'}",
            "give .tar files, a folder of them, or a pattern such as 'shards/part-{000..011}.tar'",
        )
    return shards


def _braces(text: str) -> Iterator[str]:
    """Yield what a text with braces means, as a shell would: `{1..3}`, `{01..12}`, `{a,b}`."""
    found = re.search(r"\{([^{}]*)\}", text)
    if found is None:
        yield text
        return
    numbers = re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", found[1])
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        width = len(numbers[1]) if numbers[1].startswith("0") else 0
        step = 1 if first <= last else -1
        count = min(abs(last - first) + 1, MAX_SHARDS + 1)
        options: list[str] = [f"{first + step * k:0{width}d}" for k in range(count)]
    elif "," in found[1]:
        options = found[1].split(",")
    else:
        options = [f"\0{found[1]}\1"]  # braces that mean themselves
    for option in options:
        for rest in _braces(text[: found.start()] + option + text[found.end() :]):
            yield rest.replace("\0", "{").replace("\1", "}")


def _matching(place: str) -> list[str]:
    if is_remote(place):
        if "*" in place or "?" in place:
            return sorted(glob_remote(place), key=natural)
        if not place.endswith(".tar") and is_remote_folder(place):
            names = (name for name in list_remote(place) if name.endswith(".tar") and "/" not in name)
            return [f"{place.rstrip('/')}/{name}" for name in sorted(names, key=natural)]
        return [place]
    if os.path.isdir(place):
        names = (name for name in os.listdir(place) if name.endswith(".tar") and not name.startswith("."))
        return [os.path.join(place, name) for name in sorted(names, key=natural)]
    if not os.path.exists(place) and glob.has_magic(place):
        return sorted(glob.glob(place), key=natural)
    if not os.path.isfile(place):
        raise InputMissingError(f"there is no shard {shown(place)}", "look for a slip in the name or pattern")
    return [place]


@contextmanager
def _opened(shard: str) -> Iterator[tuple[ReadAt, int]]:
    """Give a function that reads a part of a shard, and the shard's size."""
    if is_remote(shard):
        with open_remote(shard) as (stream, size):

            def read(place: int, count: int) -> bytes:
                stream.seek(place)
                return stream.read(count)

            yield read, size
        return
    try:
        # Unbuffered: a picture lies between two headers, so that what is read ahead is thrown away.
        with open(shard, "rb", buffering=0) as raw:

            def read_local(place: int, count: int) -> bytes:
                raw.seek(place)
                return raw.read(count) or b""

            yield read_local, os.fstat(raw.fileno()).st_size
    except OSError as error:
        raise InputMissingError(
            f"{shown(shard)} cannot be read: {error.strerror}", "look at its permissions"
        ) from error


def from_shards(
    places: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    label: str | None = None,
    label_delimiter: str | None = None,
    classes: Sequence[str] | None = None,
    rules: Rules | None = None,
) -> Samples:
    """Read tar shards: `<key>.jpg` with `<key>.json`, `.cls` or `.txt` beside it; see `expand`.

    The label is the `label` or `tags` of the JSON (or its field `label`, where that is given), else the
    text of `.cls` or `.txt`, which `label_delimiter` cuts into tags. Fields `path`, `split` and `group`
    of the JSON fill those columns: shards that `write_shards` wrote give back the very rows, ids and order
    that they were made from, and `shards.json` beside them the order of the classes. Without any label the
    folders in the names are the classes, as in a folder. Rows are in the order of shards and members.

    Raises `InputMissingError` for missing shards, `DataError` for a folder that has not all the pictures
    which its `shards.json` counts (MISSING_FILES), for damaged or unsafe shards (see `tar_members`), for
    several pictures under one key (AMBIGUOUS), and as `samples_from_rows` does.
    """
    shards = expand(places)
    contents = remembered(shards, _contents_of)
    pictures = [picture for each in contents for picture in each.pictures]
    skipped = sum((each.skipped for each in contents), Counter[str]())
    if not pictures:
        raise InputMissingError(
            f"there are no pictures in {len(shards)} shards, the first {shown(shards[0])}",
            "members are called <key>.jpg, with <key>.cls, .txt or .json beside it",
        )
    if not any(picture.said for picture in pictures):
        return _by_folder(shards, pictures, rules or Rules())
    listed, written = _contents(shards[0])
    folder = os.fspath(places) if isinstance(places, str | os.PathLike) else ""
    if folder and not _names_files(folder) and written not in (None, len(pictures)):
        raise DataError(
            f"{shown(folder)} has {len(pictures)} pictures, {CONTENTS} says {written}",
            "a shard is missing or one too many: copy the folder again, or name the shards that are meant",
            code="MISSING_FILES",
        )
    fields = [_fields(picture) for picture in pictures]
    labels = _labels(pictures, fields, label, label_delimiter, classes or listed)
    return _assembled(shards, pictures, fields, labels, skipped, rules or Rules())


def _contents_of(shard: str) -> Contents:
    """Go through a shard: its pictures in their order, with the text of their labels."""
    skipped: Counter[str] = Counter()
    images: dict[str, list[Member]] = defaultdict(list)
    labels: dict[str, dict[str, Member]] = defaultdict(dict)
    found: list[Picture] = []
    with _opened(shard) as (read, size):
        for member in tar_members(read, size, shard):
            suffix = _suffix(member.name)
            key = member.name[: len(member.name) - len(suffix)]
            if suffix in PICTURE_SUFFIXES:
                images[key].append(member)
            elif suffix in LABEL_SUFFIXES:
                labels[key][suffix] = member
            else:
                skipped[f"{suffix or 'nameless'} members"] += 1
        for key, members in images.items():
            said = {suffix: _said(read, member, shard) for suffix, member in labels.pop(key, {}).items()}
            if len(members) > 1 and said:
                names = ", ".join(shown(member.name) for member in members[:3])
                raise DataError(
                    f"{shown(shard)} has {len(members)} pictures for the label of {shown(key)}: {names}",
                    "a key has one picture",
                    code="AMBIGUOUS",
                )
            found += [Picture(shard, member, said) for member in members]
    skipped["labels without their picture"] += len(labels)
    return Contents(found, skipped)


def _suffix(name: str) -> str:
    """Return all behind the first dot of a name's last part, with it: there a key ends."""
    dot = name.find(".", name.rfind("/") + 2)
    return "" if dot < 0 else name[dot:].lower()


def _said(read: ReadAt, member: Member, shard: str) -> str:
    if member.length > MAX_LABEL_BYTES:
        raise DataError(
            f"{shown(shard)}/{shown(member.name)} has {member.length:,} bytes: too long for a label",
            f"a label has at most {MAX_LABEL_BYTES:,}",
            code="BAD_LABEL",
        )
    try:
        return read(member.offset, member.length).decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{shown(shard)}/{shown(member.name)} is not UTF-8 text", "write labels as UTF-8",
            code="NOT_TEXT",
        ) from error  # fmt: skip


def _fields(picture: Picture) -> dict[str, Any]:
    """Return what the .json member of a picture holds, {} where there is none."""
    try:
        found = json.loads(picture.said.get(".json", "{}"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"the .json member of {shown(picture.shard)}/{shown(picture.member.name)} is not JSON: {error}",
            "write it anew, or leave it out",
            code="BAD_LABEL",
        ) from error
    return found if isinstance(found, dict) else {}


def _names_files(place: str) -> bool:
    """Tell whether a place names shards, one or a pattern of them, and not a folder of them."""
    return place.endswith(".tar") or re.search(r"[{*?\[]", place) is not None


def _contents(shard: str) -> tuple[tuple[str, ...] | None, int | None]:
    """Return the classes and the number of pictures that `shards.json` beside a shard gives, if any."""
    folder = shard.rpartition("/")[0] if is_remote(shard) else os.path.dirname(os.path.abspath(shard))
    try:
        if is_remote(shard):
            data = read_remote(f"{folder}/{CONTENTS}", most=MAX_LABEL_BYTES * 64)
        else:
            data = Path(folder, CONTENTS).read_bytes()
    except (OSError, InputMissingError):
        return None, None
    try:
        found = json.loads(data)
        return tuple(map(str, found["classes"])), int(found["pictures"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{shown(folder)}/{CONTENTS} does not say what the classes are",
            "remove it, or write the shards anew",
            code="BAD_LABEL",
        ) from error


def _labels(
    pictures: Sequence[Picture],
    fields: Sequence[dict[str, Any]],
    label: str | None,
    label_delimiter: str | None,
    classes: Sequence[str] | None,
) -> Labels:
    wanted = ("label", "tags") if label is None else (label,)
    values = [next((found[name] for name in wanted if found.get(name) is not None), None) for found in fields]
    if any(isinstance(value, list) for value in values):
        tags = [list(map(str, value)) if isinstance(value, list) else [] for value in values]
        return encode_tag_lists(tags, classes)
    texts = [
        str(value) if value is not None else picture.said.get(".cls", picture.said.get(".txt", ""))
        for value, picture in zip(values, pictures, strict=True)
    ]
    if label_delimiter is not None:
        return encode_tags(texts, label_delimiter, classes)
    return encode_labels(texts, classes)


def _assembled(
    shards: Sequence[str],
    pictures: Sequence[Picture],
    fields: Sequence[dict[str, Any]],
    labels: Labels,
    skipped: Counter[str],
    rules: Rules,
) -> Samples:
    names = _names(pictures, fields)
    split = [str(found.get("split") or "") for found in fields]
    group = [str(found["group"]) if found.get("group") is not None else "" for found in fields]
    # A path for each picture would take as long as all the rest of this function.
    called = {shard: PurePosixPath(shard).name for shard in shards}
    rows = rows_of(
        [f"{called[picture.shard]}/{picture.member.name}" for picture in pictures],
        labels,
        split=split if any(split) else None,
        group=group if any(group) else None,
    )
    rows, parts, notes = settle(rows, rules, skipped)
    kept = [pictures[row] for row in rows.numbers.tolist()]
    root, paths = _rooted(shards)
    return Samples(
        root=root,
        paths=tuple([paths[picture.shard] for picture in kept]),
        labels=rows.labels.values,
        classes=rows.labels.classes,
        split=parts,
        task=rows.labels.task,
        offset=np.array([picture.member.offset for picture in kept], np.int64),
        length=np.array([picture.member.length for picture in kept], np.int64),
        group=group_numbers(rows.group),
        names=tuple([names[row] for row in rows.numbers.tolist()]),
        skipped={why: count for why, count in sorted(skipped.items()) if count},
        notes=notes,
    )


def _rooted(shards: Sequence[str]) -> tuple[Path, dict[str, str]]:
    """Return the folder of the shards, and the path of each shard relative to it; URLs stay as they are."""
    if any(map(is_remote, shards)):
        return Path.cwd(), {shard: shard if is_remote(shard) else os.path.abspath(shard) for shard in shards}
    full = {shard: os.path.abspath(shard) for shard in shards}
    root = os.path.commonpath([os.path.dirname(path) for path in full.values()])
    return Path(root), {shard: Path(os.path.relpath(path, root)).as_posix() for shard, path in full.items()}


def _names(pictures: Sequence[Picture], fields: Sequence[dict[str, Any]]) -> list[str]:
    """Return what the pictures are called: the path in the JSON, else the member's name.

    Where shards number their members alike, the shard's name comes before.
    """
    names = [
        found["path"] if isinstance(found.get("path"), str) and found["path"] else picture.member.name
        for found, picture in zip(fields, pictures, strict=True)
    ]
    if len(set(names)) == len(names):
        return names
    return [
        f"{PurePosixPath(picture.shard).name}/{name}" for picture, name in zip(pictures, names, strict=True)
    ]


def _by_folder(shards: Sequence[str], pictures: Sequence[Picture], rules: Rules) -> Samples:
    """Read one tar file without labels as the folder that it was made from."""
    if len(shards) > 1 or is_remote(shards[0]):
        raise DataError(
            f"the {len(pictures)} pictures in {len(shards)} shards have no labels",
            "put <key>.cls, .txt or .json beside each <key>.jpg",
            code="NO_LABEL",
        )
    return samples_in_archive(
        Path(os.path.abspath(shards[0])),
        itertools.chain(picture.member for picture in pictures),
        drop_unseen_classes=rules.drop_unseen_classes,
    )
