"""Decoded pictures, kept in memory while a budget lasts."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from numpy.typing import ArrayLike

from headstart.data.images import Decoded, decode_with_size
from headstart.data.limits import Limits
from headstart.data.samples import Samples, row_numbers
from headstart.errors import DataError
from headstart.types import Pixels


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


class PixelCache:
    """Gives the decoded, upright, reduced pixels of each row of `samples`.

    `short_side`: pictures are reduced as `decode` says, so that their short side is at least this
    many pixels where the original has them; choose the largest that any later step resizes from.
    `budget_bytes`: pixels are kept up to this many bytes; what does not fit is decoded again each
    time. What a row gives does not depend on the budget. Safe to use from many threads.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        short_side: int,
        budget_bytes: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.samples = samples
        self.short_side = short_side
        self.budget_bytes = default_budget() if budget_bytes is None else budget_bytes
        self.limits = limits or Limits()
        self._kept: dict[int, Pixels] = {}
        self._used = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def used_bytes(self) -> int:
        """The bytes of the pixels that are kept."""
        return self._used

    def pixels(self, row: int) -> Pixels:
        """Return a row's pixels, uint8 (height, width, 3) RGB, read-only.

        Raises `DataError` with a reason code, naming the file.
        """
        kept = self._kept.get(row)
        if kept is not None:
            return kept
        return self.decode(row, self.samples.read(row, limits=self.limits)).pixels

    def decode(self, row: int, data: bytes) -> Decoded:
        """Decode the bytes of a row's file and keep the pixels while the budget lasts.

        Raises `DataError` with a reason code, naming the file.
        """
        try:
            decoded = decode_with_size(data, short_side=self.short_side, limits=self.limits)
        except DataError as error:
            message = f"{self.samples.name(row)}: {error.message}"
            raise DataError(message, error.hint, code=error.code) from error
        decoded.pixels.flags.writeable = False
        self.keep(row, decoded.pixels)
        return decoded

    def keep(self, row: int, pixels: Pixels) -> None:
        """Keep the pixels of a row while the budget lasts."""
        with self._lock:
            if row not in self._kept and self._used + pixels.nbytes <= self.budget_bytes:
                self._kept[row] = pixels
                self._used += pixels.nbytes

    def take(self, rows: ArrayLike) -> PixelCache:
        """Return a cache over `samples.take(rows)` that has the pixels which this one has."""
        numbers = row_numbers(rows, len(self))
        other = PixelCache(
            self.samples.take(numbers),
            short_side=self.short_side,
            budget_bytes=self.budget_bytes,
            limits=self.limits,
        )
        for new, old in enumerate(numbers.tolist()):
            if old in self._kept:
                other.keep(new, self._kept[old])
        return other

    def resized(self, short_side: int) -> PixelCache:
        """Return an empty cache over the same samples for another short side."""
        return PixelCache(
            self.samples, short_side=short_side, budget_bytes=self.budget_bytes, limits=self.limits
        )
