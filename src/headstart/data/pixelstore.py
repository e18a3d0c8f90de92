"""Decoded pixels on disk, by the content of the picture file: for later runs and other processes.

Each process appends to segments of its own, so that writers need no lock: `NAME.pixels` holds pixels,
`NAME.index` one record for each picture, written after its pixels. A record carries a digest of
everything that it leads to, which is checked when a process first uses it: a torn, altered or foreign
entry is as good as none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import mmap
import os
import shutil
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from headstart.data.images import Decoded
from headstart.pruning import drop_least_recent, mark_used
from headstart.storage import cache_dir
from headstart.types import Pixels

# Each segment that is read costs an open file; the least recently used one is dropped as a whole.
_SEGMENT_BYTES = 512 * 2**20
_MOST_BYTES = 16 * 2**30
_REFRESH_SECONDS = 1.0
_ALIGNMENT = 64
# Content (SHA-256), offset, height, width, channels, length of the facts, digest.
_RECORD = struct.Struct("<32sQIIII16s")

log = logging.getLogger(__name__)


class _Entry(NamedTuple):
    segment: str
    offset: int
    height: int
    width: int
    channels: int
    facts: int
    digest: bytes

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels

    @property
    def pixel_bytes(self) -> int:
        return self.height * self.width * self.channels


def default_disk_budget(folder: Path) -> int:
    """Return a quarter of what is free on the disk of `folder`, at most 16 GiB, in bytes."""
    return min(shutil.disk_usage(folder).free // 4, _MOST_BYTES)


class PixelStore:
    """The decoded pictures of one way of decoding, in a folder that processes and runs share.

    `settings`: a key of all that decides on the pixels besides the file's content. `folder` (default:
    `pixels` in the cache folder) may hold `budget_bytes` over all settings (default: a quarter of what is
    free, at most 16 GiB); what was not used for longest is dropped for what comes, but never what this
    process uses: when that fills the budget, nothing more is added. Safe to use from many threads and
    processes. What cannot be written (a full disk, say) is not kept; that is said once.
    """

    def __init__(self, settings: str, *, folder: Path | None = None, budget_bytes: int | None = None) -> None:
        self.settings = settings
        self.folder = cache_dir() / "pixels" if folder is None else folder
        with contextlib.suppress(OSError):  # said when something is to be written
            self.folder.mkdir(parents=True, exist_ok=True)
        if budget_bytes is None:
            budget_bytes = default_disk_budget(self.folder) if self.folder.is_dir() else 0
        self.budget_bytes = budget_bytes
        self._segment_bytes = min(_SEGMENT_BYTES, budget_bytes // 4)
        self._lock = threading.Lock()
        self._index: dict[bytes, _Entry] = {}
        self._read: dict[Path, int] = {}
        self._maps: dict[str, mmap.mmap] = {}
        self._sound: set[bytes] = set()
        self._own, self._own_bytes = "", 0
        self._closed_to_new = False
        self._looked = -_REFRESH_SECONDS

    def __len__(self) -> int:
        """The number of pictures that are known to be there."""
        self._look_again()
        return len(self._index)

    def find(self, content: bytes) -> Decoded | None:
        """Return what a file with the SHA-256 `content` (32 bytes) was decoded to, or None.

        The pixels are a read-only view of a memory-mapped file. An entry that is not whole is forgotten.
        """
        entry = self._index.get(content)
        if entry is None:
            self._look_again()
            entry = self._index.get(content)
        if entry is None:
            return None
        found = self._decoded(content, entry)
        if found is None:
            self._index.pop(content, None)
        return found

    def add(self, content: bytes, decoded: Decoded) -> bool:
        """Keep what a file with the SHA-256 `content` was decoded to; tell whether it is kept."""
        if content in self._index:
            return True
        if self._closed_to_new:
            return False
        pixels, facts = np.ascontiguousarray(decoded.pixels), _facts_bytes(decoded)
        length = pixels.nbytes + len(facts)
        if length + _ALIGNMENT > self._segment_bytes:
            return False
        digest = self._digest(content, pixels.shape, pixels.data, facts)
        padding = bytes(-length % _ALIGNMENT)
        height, width, channels = pixels.shape
        with self._lock:
            try:
                if not self._has_room(length):
                    return False
                offset = _appended(self._path(self._own, "pixels"), pixels.data.cast("B"), facts + padding)
                if offset != self._own_bytes:
                    # Dropped by another process, or written by a fork, too: what is mapped is something else.
                    self._own = ""
                    return False
                entry = _Entry(self._own, offset, height, width, channels, len(facts), digest)
                _appended(self._path(self._own, "index"), _RECORD.pack(content, *entry[1:]))
            except OSError as error:
                self._give_up(error)
                return False
            self._own_bytes = offset + length + len(padding)
            self._index[content] = entry
            self._sound.add(content)
        return True

    def _digest(self, content: bytes, shape: tuple[int, ...], *payload: bytes | memoryview) -> bytes:
        head = f"{self.settings} {content.hex()} {shape};".encode()
        digest = hashlib.sha256(head)
        for part in payload:
            digest.update(part)
        return digest.digest()[:16]

    def _decoded(self, content: bytes, entry: _Entry) -> Decoded | None:
        length = entry.pixel_bytes + entry.facts
        mapped = self._mapped(entry.segment, entry.offset + length)
        if mapped is None:
            return None
        payload = memoryview(mapped)[entry.offset : entry.offset + length]
        if content not in self._sound:
            if self._digest(content, entry.shape, payload) != entry.digest:
                return None
            self._sound.add(content)
        pixels = np.frombuffer(payload, np.uint8, entry.pixel_bytes).reshape(entry.shape)
        return _with_facts(pixels, bytes(payload[entry.pixel_bytes :]))

    def _mapped(self, segment: str, end: int) -> mmap.mmap | None:
        """Return a segment as memory, or None where it is gone or ends before `end`."""
        known = self._maps.get(segment)
        if known is not None and len(known) >= end:
            return known
        path = self._path(segment, "pixels")
        try:
            with open(path, "rb") as stream:
                known = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # dropped by another process, or empty
            return None
        if len(known) < end:
            return None
        mark_used(path)
        self._maps[segment] = known
        return known

    def _look_again(self) -> None:
        """Read the records that were written since, by whomever; at most once a second."""
        now = time.monotonic()
        with self._lock:
            if now - self._looked < _REFRESH_SECONDS:
                return
            self._looked = now
            with contextlib.suppress(OSError):
                found = self.folder.glob(f"{self.settings}-*.index")
                # The newest record of a picture counts: an earlier one may have been found damaged.
                for path in sorted(found, key=lambda path: path.stat().st_mtime_ns):
                    for content, entry in self._records(path):
                        if content not in self._sound:
                            self._index[content] = entry

    def _records(self, path: Path) -> Iterator[tuple[bytes, _Entry]]:
        done = self._read.get(path, 0)
        with open(path, "rb") as stream:
            stream.seek(done)
            data = stream.read()
        whole = len(data) - len(data) % _RECORD.size  # the rest is being written, or was never finished
        self._read[path] = done + whole
        for content, *fields in _RECORD.iter_unpack(data[:whole]):
            yield content, _Entry(path.stem, *fields)

    def _has_room(self, length: int) -> bool:
        """Make sure that this process's segment takes `length` bytes more, or begin another one."""
        if self._own and self._own_bytes + length + _ALIGNMENT <= self._segment_bytes:
            return True
        used = {entry.segment for content, entry in self._index.items() if content in self._sound}
        if sum(map(self._held, used)) + self._segment_bytes > self.budget_bytes:
            self._closed_to_new = True
            return False
        drop_least_recent(self.folder, self.budget_bytes - self._segment_bytes)
        self._own, self._own_bytes = f"{self.settings}-{os.getpid()}-{os.urandom(4).hex()}", 0
        return True

    def _held(self, segment: str) -> int:
        try:
            return self._path(segment, "pixels").stat().st_size
        except OSError:  # dropped by another process
            return 0

    def _path(self, segment: str, kind: str) -> Path:
        return self.folder / f"{segment}.{kind}"

    def _give_up(self, error: OSError) -> None:
        self._closed_to_new = True
        log.warning(
            "decoded pictures are not kept on disk any more: %s: %s (pictures that do not fit into memory "
            "are decoded again each time)",
            self.folder,
            error.strerror or error,
        )


def _appended(path: Path, *parts: bytes | memoryview) -> int:
    """Append to a file and return where the data begins."""
    with open(path, "ab", buffering=0) as stream:
        offset = os.fstat(stream.fileno()).st_size
        for part in parts:
            left = memoryview(part)
            while left:
                left = left[stream.write(left) :]
    return offset


def _facts_bytes(decoded: Decoded) -> bytes:
    """What is known of a decoded picture besides its pixels, as JSON."""
    names = [field.name for field in dataclasses.fields(decoded) if field.name != "pixels"]
    return json.dumps({name: getattr(decoded, name) for name in names}).encode()


def _with_facts(pixels: Pixels, facts: bytes) -> Decoded | None:
    try:
        values: dict[str, Any] = json.loads(facts)
        # JSON knows no tuples.
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return Decoded(pixels=pixels, **values)
    except (ValueError, TypeError, AttributeError):
        return None
