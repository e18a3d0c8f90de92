"""What lies in a tar shard, remembered: a shard is gone through once, not at every start."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headstart.data.remote import is_remote
from headstart.data.tar import Member
from headstart.errors import HeadstartError
from headstart.pruning import drop_least_recent, mark_used
from headstart.storage import cache_dir, content_key, read_capped, sha256_bytes, write_atomic

# To go through a picture's headers takes 37 µs; to write an index, and sync it, some milliseconds.
FEWEST_PICTURES = 256
BUDGET_BYTES = 2**30
_MAX_BYTES = 256 * 2**20
# A file may change again within the grain of its file system's clock, and look the same.
_SETTLED_NS = 2_000_000_000


@dataclass
class Picture:
    """A picture in a shard, and what the members of the same key say of it, by their suffix."""

    shard: str
    member: Member
    said: dict[str, str] = field(default_factory=dict)


@dataclass
class Contents:
    """The pictures of a shard in their order, and how many other members it has, by kind."""

    pictures: list[Picture]
    skipped: Counter[str]


def remembered(shards: list[str], look: Callable[[str], Contents]) -> list[Contents]:
    """Return what `look` finds in each shard, or found at an earlier start.

    What is remembered of a shard is used while its path, size, time of change and inode are the same, and
    the sources that read it. Shards behind URLs, small ones, and those that were written a moment ago are
    looked at each time, as all are where the cache folder cannot be used. For 200,000 pictures in 200 shards
    with a JSON each: 6.4 s of processor time, and 2.2 s when remembered.
    """
    try:
        folder = cache_dir() / "shards"
    except (OSError, HeadstartError):
        return [look(shard) for shard in shards]
    written = False
    found = []
    for shard in shards:
        key = _key(shard)
        known = _load(folder / f"{key}.index", shard) if key else None
        if known is None:
            known = look(shard)
            # A shard that changed meanwhile has another key now.
            if key and len(known.pictures) >= FEWEST_PICTURES and _key(shard) == key:
                written |= _store(folder / f"{key}.index", known)
        found.append(known)
    if written:
        drop_least_recent(folder, BUDGET_BYTES)
    return found


def _key(shard: str) -> str:
    """Return a key of a shard as it is now, "" where it is not to be remembered."""
    if is_remote(shard):
        return ""
    try:
        status = os.stat(shard)
    except (OSError, ValueError):  # looking at it will say why
        return ""
    if time.time_ns() - status.st_mtime_ns < _SETTLED_NS:
        return ""
    return content_key(
        "shard",
        _sources(),
        os.path.abspath(shard),
        status.st_size,
        status.st_mtime_ns,
        status.st_ino,
        status.st_dev,
    )


@functools.cache
def _sources() -> str:
    """A hash of what decides on the contents: an index that other rules made is not used."""
    here = Path(__file__).parent
    names = ("shardindex.py", "shards.py", "tar.py", "walk.py")
    return hashlib.sha256(b"".join((here / name).read_bytes() for name in names)).hexdigest()


def _store(path: Path, contents: Contents) -> bool:
    """Write what is in a shard, with a checksum before it; tell whether that could be done."""
    rows = [
        [*picture.member, *(text for pair in picture.said.items() for text in pair)]
        for picture in contents.pictures
    ]
    # Names that are not UTF-8 are spelled in ASCII, as JSON can.
    data = json.dumps([dict(contents.skipped), rows], separators=(",", ":")).encode("ascii")
    if len(data) > _MAX_BYTES:
        return False
    try:
        write_atomic(path, sha256_bytes(data).encode("ascii") + data)
    except HeadstartError:  # a full disk, or one that is read-only: the next start looks again
        return False
    return True


def _load(path: Path, shard: str) -> Contents | None:
    """Return what was written of a shard, or None where there is nothing, or not what was written."""
    try:
        data = read_capped(path, _MAX_BYTES + 64)
    except (OSError, HeadstartError):
        return None
    if sha256_bytes(data[64:]).encode("ascii") != data[:64]:
        return None
    skipped, rows = json.loads(data[64:])
    mark_used(path)
    return Contents([_picture(shard, row) for row in rows], Counter(skipped))


def _picture(shard: str, row: list[Any]) -> Picture:
    return Picture(shard, Member(*row[:3]), dict(zip(row[3::2], row[4::2], strict=True)))
