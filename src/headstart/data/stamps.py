"""Is a file still the one that the audit saw?"""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headstart.data.limits import Limits
from headstart.data.samples import Samples, row_numbers
from headstart.errors import DataError, StoppedError
from headstart.storage import sha256_bytes

Stamp = tuple[int, int]
"""A file's size in bytes and its time of change in nanoseconds."""

_HINT = "do not change the pictures while they are trained on; start again, so that they are looked at anew"


def stamp_of(samples: Samples, row: int) -> Stamp:
    """Return the stamp of a row's file as it is now; (0, 0) where there is none to be had."""
    try:
        # Put together by hand: a Path costs as much as the look itself.
        status = os.stat(os.path.join(samples.root, samples.paths[row]))
    except (OSError, ValueError):  # reading it will say why
        return (0, 0)
    return (status.st_size, status.st_mtime_ns)


class Stamps:
    """What the files of N rows were when they were audited: 48 bytes a row.

    A row without a stamp, one that was never audited or was found bad, is read as it is.
    """

    def __init__(self, count: int) -> None:
        self._sizes: NDArray[np.int64] = np.full(count, -1, np.int64)
        self._times: NDArray[np.int64] = np.zeros(count, np.int64)
        self._hashes: NDArray[np.void] = np.zeros(count, "V32")

    def note(self, row: int, stamp: Stamp, sha256: str) -> None:
        """Record what a row's file was; take the stamp before the bytes are read."""
        self._times[row] = stamp[1]
        self._hashes[row] = np.void(bytes.fromhex(sha256))
        self._sizes[row] = stamp[0]

    def content(self, row: int) -> bytes:
        """Return the SHA-256 of what a row's file held, or nothing where it was not audited."""
        recorded: bytes = self._hashes[row].tobytes()
        return recorded if self._sizes[row] >= 0 else b""

    def take(self, rows: ArrayLike) -> Stamps:
        """Return the stamps of some rows (row numbers or a mask), in that order."""
        numbers = row_numbers(rows, len(self._sizes))
        part = Stamps(0)
        part._sizes, part._times = self._sizes[numbers], self._times[numbers]
        part._hashes = self._hashes[numbers]
        return part

    def read(self, samples: Samples, row: int, *, limits: Limits | None = None) -> bytes:
        """Read a row's file as `Samples.read` does, and see that it is the one that was audited.

        Size and time of change decide where they are what they were, else the content does: a file that
        was only copied back is the same. Raises `DataError` where it cannot be read and was not audited,
        and `StoppedError` with the code CHANGED, VANISHED or UNREADABLE where it was good in the audit.
        """
        audited = self._sizes[row] >= 0
        try:
            data = samples.read(row, limits=limits)
        except DataError as error:
            if not audited:
                raise
            message = f"{error.message}; it was good when the pictures were looked at"
            raise StoppedError(message, _HINT, code=error.code) from error
        if audited and not self._same(samples, row, data):
            raise StoppedError(
                f"{samples.name(row)} has changed since the pictures were looked at", _HINT, code="CHANGED"
            )
        return data

    def _same(self, samples: Samples, row: int, data: bytes) -> bool:
        if stamp_of(samples, row) == (self._sizes[row], self._times[row]):
            return True
        return sha256_bytes(data) == self.content(row).hex()
