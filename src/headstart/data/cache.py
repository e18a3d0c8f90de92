"""Decoded pictures, kept in memory and on disk while the budgets last."""

from __future__ import annotations

import dataclasses
import os
import threading
from importlib import metadata
from pathlib import Path
from typing import Literal, TypeAlias

from numpy.typing import ArrayLike

from headstart.data.colours import Colours
from headstart.data.images import Decoded, decode_with_size
from headstart.data.limits import Limits
from headstart.data.lost import Lost
from headstart.data.pixelstore import PixelStore
from headstart.data.samples import Samples, row_numbers
from headstart.data.stamps import Stamps
from headstart.errors import DataError, OutputError, StoppedError, UsageError
from headstart.storage import content_key, sha256_bytes
from headstart.types import Pixels

CacheMode: TypeAlias = Literal["auto", "memory", "disk", "none"]
CACHE_MODES = ("auto", "memory", "disk", "none")

# Part of every key: pixels that another version of the decoding rules gave are not used.
DECODING_VERSION = 1
# Whole pictures of so many pixels are kept on disk for later runs, too; see `PixelCache`.
DEAR_JPEG = 4_000_000
DEAR_OTHER = 250_000


def default_budget() -> int:
    """Return a quarter of the memory that this process may use, in bytes."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not every system has them
        total = 4 * 2**30
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        total = min(total, int(limit))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        pass
    return total // 4


def _is_dear(decoded: Decoded) -> bool:
    height, width = decoded.size
    return height * width >= (DEAR_JPEG if decoded.format == "JPEG" else DEAR_OTHER)


def settings_key(short_side: int, *rules: Limits | Colours) -> str:
    """Return a key of all that decides on a picture's pixels besides the bytes of its file.

    `rules`: what else the decoder is given.
    """
    return content_key(
        "pixels",
        DECODING_VERSION,
        [metadata.version(package) for package in ("pillow", "simplejpeg")],
        [field.name for field in dataclasses.fields(Decoded)],
        short_side,
        [dataclasses.asdict(rule) for rule in rules],
    )


class PixelCache:
    """Gives the decoded, upright, reduced pixels of each row of `samples`.

    `short_side`: pictures are reduced as `decode` says, so that their short side is at least this
    many pixels where the original has them; choose the largest that any later step resizes from.
    `colours`: what becomes of transparency, and of grey. `stamps`: what the audit saw of each file. `lost`:
    where to count the rows whose file has changed since (`found`); None: such a file stops the work.

    `mode`: where pixels are kept. `"memory"`: up to `budget_bytes` (default: a quarter of the memory).
    `"disk"`: up to `disk_bytes` in files that are mapped into memory and shared by processes and later
    runs (`PixelStore`). `"auto"`: in memory, and on disk what does not fit there or would cost a later
    run much to decode anew. `"none"`: nowhere. What is not kept is decoded again each time. What a row
    gives does not depend on any of this. Safe to use from many threads.

    Dear are a JPEG of 4 million pixels and any other picture of 250,000. Measured in milliseconds of
    processor time a picture, at a short side of 256 (n = 2 x 800 flowers of 500 x 375; 2 x 12 JPEG and
    2 x 6 PNG made larger from them):

    | whole picture | decode | and write | find in a later run |
    |---|---|---|---|
    | JPEG, 0.2 million pixels | 1.0 | 1.5 | 0.26 |
    | JPEG, 3 million | 4.0 | 5.4 | 0.7 |
    | JPEG, 12 million | 9.6 | 11.2 | 1.0 |
    | PNG, 1 million | 25 | 26 | 1.0 |
    | PNG, 3 million | 63 | 65 | 1.5 |

    So a small JPEG earns what its writing cost only in the run after the next, and holds 300 kB of disk
    for 67 kB of file; a later epoch of the same run finds any picture in 0.01 ms.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        short_side: int,
        mode: CacheMode = "auto",
        budget_bytes: int | None = None,
        disk_bytes: int | None = None,
        limits: Limits | None = None,
        colours: Colours | None = None,
    ) -> None:
        if mode not in CACHE_MODES:
            raise UsageError(f"there is no cache {mode!r}", f"the choices are {', '.join(CACHE_MODES)}")
        self.samples = samples
        self.short_side = short_side
        self.mode = mode
        self.budget_bytes = default_budget() if budget_bytes is None else budget_bytes
        self.disk_bytes = disk_bytes
        self.limits = limits or Limits()
        self.colours = colours or Colours()
        self.stamps = Stamps(len(samples))
        self.lost: Lost | None = None
        self._kept: dict[int, Pixels] = {}
        self._used = 0
        self._lock = threading.Lock()
        self._store: PixelStore | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def used_bytes(self) -> int:
        """The bytes of the pixels that are kept in memory."""
        return self._used

    @property
    def settings(self) -> str:
        """A key that changes with anything that decides on pixels besides the bytes of the files."""
        return settings_key(self.short_side, self.limits, self.colours)

    def pixels(self, row: int) -> Pixels:
        """Return a row's pixels, uint8 (height, width, 3) RGB, read-only.

        Raises `DataError` with a reason code, naming the file; `StoppedError` where the file is not the
        one that the audit saw any more.
        """
        kept = self._kept.get(row)
        if kept is not None:
            return kept
        disk, content = self._disk(), self.stamps.content(row)
        if disk is not None and content:
            found = disk.find(content)
            if found is not None:
                return found.pixels
        return self.decode(row, self.stamps.read(self.samples, row, limits=self.limits)).pixels

    def found(self, row: int) -> Pixels | None:
        """Return a row's pixels as `pixels` does, or None where `lost` counts the row, from now on or before.

        Raises `StoppedError` where there is no `lost`, or too many are.
        """
        if self.lost is None:
            return self.pixels(row)
        if row in self.lost:
            return None
        try:
            return self.pixels(row)
        except StoppedError as error:
            self.lost.note(row, error)
            return None

    def decode(self, row: int, data: bytes, *, sha256: str = "") -> Decoded:
        """Decode the bytes of a row's file, or find what they were decoded to before; keep it.

        `sha256`: that of `data` in hexadecimal, where it is known already. Raises `DataError` with a
        reason code, naming the file.
        """
        if self._disk() is not None:
            sha256 = sha256 or sha256_bytes(data)
            found = self.find(row, sha256)
            if found is not None:
                return found
        try:
            decoded = decode_with_size(
                data, short_side=self.short_side, limits=self.limits, colours=self.colours
            )
        except DataError as error:
            message = f"{self.samples.name(row)}: {error.message}"
            raise DataError(message, error.hint, code=error.code) from error
        self.store(row, decoded, sha256)
        return decoded

    def find(self, row: int, sha256: str) -> Decoded | None:
        """Return what a row's file, its bytes having this SHA-256, was decoded to by an earlier run.

        None where that is not on disk; then give what it is decoded to now to `store`.
        """
        disk = self._disk()
        return None if disk is None else disk.find(bytes.fromhex(sha256))

    def store(self, row: int, decoded: Decoded, sha256: str) -> None:
        """Keep what a row's file, its bytes having this SHA-256, was decoded to: where `mode` says."""
        in_memory = self.keep(row, decoded.pixels)
        disk = self._disk()
        if disk is None:
            return
        if self.mode == "disk" or not in_memory or _is_dear(decoded):
            disk.add(bytes.fromhex(sha256), decoded)

    def keep(self, row: int, pixels: Pixels) -> bool:
        """Keep the pixels of a row in memory while the budget lasts; tell whether they are kept.

        They become read-only in any case: whoever gets them shares them.
        """
        pixels.flags.writeable = False
        if self.mode not in ("auto", "memory"):
            return False
        with self._lock:
            if row in self._kept:
                return True
            if self._used + pixels.nbytes > self.budget_bytes:
                return False
            self._kept[row] = pixels
            self._used += pixels.nbytes
            return True

    def _disk(self) -> PixelStore | None:
        # The files on disk hold colour pictures.
        if self.mode not in ("auto", "disk") or self.colours.channels != 3:
            return None
        with self._lock:
            if self._store is None:
                try:
                    self._store = PixelStore(self.settings, budget_bytes=self.disk_bytes)
                except OutputError:
                    if self.mode == "disk":
                        raise
                    self.mode = "memory"  # it costs time, not the run
            return self._store

    def take(self, rows: ArrayLike) -> PixelCache:
        """Return a cache over `samples.take(rows)` that has the pixels which this one has, and no `lost`."""
        numbers = row_numbers(rows, len(self))
        other = self._over(self.samples.take(numbers), self.short_side)
        other.stamps = self.stamps.take(numbers)
        other._store = self._store
        for new, old in enumerate(numbers.tolist()):
            if old in self._kept:
                other.keep(new, self._kept[old])
        return other

    def resized(self, short_side: int) -> PixelCache:
        """Return a cache over the same samples for another short side, with nothing in memory yet."""
        other = self._over(self.samples, short_side)
        other.stamps, other.lost = self.stamps, self.lost
        return other

    def _over(self, samples: Samples, short_side: int) -> PixelCache:
        return PixelCache(
            samples,
            short_side=short_side,
            mode=self.mode,
            budget_bytes=self.budget_bytes,
            disk_bytes=self.disk_bytes,
            limits=self.limits,
            colours=self.colours,
        )
