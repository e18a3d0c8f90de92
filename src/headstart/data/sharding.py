"""Samples are packed into tar shards, in the WebDataset convention."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from headstart.data.formats import sniff
from headstart.data.samples import Samples, shown
from headstart.data.shards import CONTENTS
from headstart.data.walk import PICTURE_SUFFIXES
from headstart.errors import OutputError, UsageError
from headstart.storage import folder_written_whole, write_json
from headstart.types import Task

_SUFFIX_OF = {"JPEG": ".jpg", "TIFF": ".tif"}


def write_shards(
    samples: Samples,
    folder: Path,
    *,
    pictures_per_shard: int = 1000,
    replace: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Pack pictures into `folder/shard-00000.tar` …; return the shards.

    The bytes of each picture are kept as they are. Beside `<key>.jpg` stand `<key>.json` (path, label or
    tags, split, group) and, for one label, `<key>.cls` with the number of its class, which other readers
    of shards understand; `shards.json` lists the classes. The same samples always give the same bytes, and
    `from_shards` gives the same rows, ids, labels and order. The folder appears whole or not at all.

    Raises `OutputError` when the folder exists and `replace` is False, or holds what is no shard of ours
    (nobody's pictures are replaced), `StorageError` when the disk is full, `DataError` when a picture
    cannot be read, `UsageError` for fewer than one picture in a shard.
    """
    if pictures_per_shard < 1:
        raise UsageError(f"{pictures_per_shard} pictures in a shard", "give 1 or more")
    _refuse_foreign(folder)
    starts = range(0, len(samples), pictures_per_shard)
    width = max(5, len(str(len(starts))))
    names = [f"shard-{number:0{width}d}.tar" for number in range(len(starts))]
    keys = _keys(samples)
    with folder_written_whole(folder, replace=replace) as partial:
        for name, start in zip(names, starts, strict=True):
            rows = range(start, min(start + pictures_per_shard, len(samples)))
            with tarfile.open(partial / name, "w", format=tarfile.PAX_FORMAT) as tar:
                for row in rows:
                    _add_row(tar, samples, row, keys[row])
                    if on_progress:
                        on_progress(row + 1, len(samples))
        contents = {"classes": list(samples.classes), "task": str(samples.task), "pictures": len(samples)}
        write_json(partial / CONTENTS, contents)
    return [folder / name for name in names]


def _refuse_foreign(folder: Path) -> None:
    if not folder.is_dir():
        return
    own = re.compile(r"shard-\d+\.tar|" + re.escape(CONTENTS)).fullmatch
    foreign = sorted(name for name in os.listdir(folder) if not own(name))
    if foreign:
        raise OutputError(
            f"{shown(str(folder))} has {shown(foreign[0])} in it, which shards would replace",
            "choose another folder with --out",
        )


def _add_row(tar: tarfile.TarFile, samples: Samples, row: int, key: str) -> None:
    data = samples.read(row)
    name = (samples.names or samples.paths)[row]
    suffix = Path(name).suffix.lower()
    if suffix not in PICTURE_SUFFIXES:
        kind = sniff(data)
        suffix = ".jpg" if kind is None else _SUFFIX_OF.get(kind, f".{kind.lower()}")
    said: dict[str, object] = {"path": name}
    if samples.task is Task.MULTI_LABEL:
        said["tags"] = [samples.classes[k] for k in np.flatnonzero(samples.labels[row])]
    elif samples.labels[row] >= 0:
        said["label"] = samples.classes[samples.labels[row]]
    if samples.split[row]:
        said["split"] = str(samples.split[row])
    if samples.group is not None:
        said["group"] = str(samples.group[row])
    _add(tar, key + suffix, data)
    if "label" in said:
        _add(tar, key + ".cls", str(samples.labels[row]).encode())
    _add(tar, key + ".json", json.dumps(said).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # no time and no owner: the same samples give the same bytes
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _keys(samples: Samples) -> list[str]:
    """Return a key for each row: its name without the suffix, where that is safe and its own.

    Readers end a key at the first dot of the last part; names that have more, or that lead out of the
    archive, or that differ only in their suffix, get the row's id.
    """
    keys = [re.sub(r"\.[^./]*$", "", name) for name in samples.names or samples.paths]
    seen: set[str] = set()
    for row, key in enumerate(keys):
        last = key.rpartition("/")[2]
        if not re.fullmatch(r"(?:[^/\\\0:.][^/\\\0:]*/)*[^/\\\0:.]+", key) or not last or key in seen:
            keys[row] = f"{int(samples.ids[row]):016x}"
        seen.add(keys[row])
    return keys
