"""One look at every picture: verdict, hash, size, and pixels into the cache."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headstart.data.cache import PixelCache
from headstart.data.children import CrashError, DecodingChildren
from headstart.data.facts import NOTHING, Facts, facts_of
from headstart.data.images import Decoded
from headstart.data.lost import Lost
from headstart.data.samples import Samples, shown
from headstart.data.stamps import stamp_of
from headstart.data.threads import thread_count
from headstart.data.verdicts import Known, Verdicts
from headstart.errors import DataError
from headstart.storage import sha256_bytes, write_atomic

_ROWS_AT_ONCE = 4096
# Rows that are known cost 40 µs each, of which a task of its own would be the half.
_ROWS_A_TASK = 16


class _Verdict(NamedTuple):
    code: str
    message: str
    sha256: str
    bytes: int
    facts: Facts


@dataclass(frozen=True, eq=False)
class Audit:
    """What was found out about each row of `samples`; columns of length N.

    `codes`: "" where the picture is good, else a reason code; `messages`: the reason in words.
    `sha256`: of the file's bytes, "" where it could not be read. `bytes`: the file's size, 0 where
    unread. `facts`: what was measured of the pixels.
    """

    samples: Samples
    codes: NDArray[np.str_]
    messages: tuple[str, ...]
    sha256: NDArray[np.str_]
    bytes: NDArray[np.int64]
    facts: tuple[Facts, ...]

    @property
    def height(self) -> NDArray[np.int64]:
        """The height of each whole picture, upright, 0 where it could not be decoded, int64 (N,)."""
        return np.array([facts.height for facts in self.facts], np.int64)

    @property
    def width(self) -> NDArray[np.int64]:
        """The width of each whole picture, upright, 0 where it could not be decoded, int64 (N,)."""
        return np.array([facts.width for facts in self.facts], np.int64)

    @property
    def ok(self) -> NDArray[np.bool_]:
        """True for each row whose picture can be used, bool (N,)."""
        return np.asarray(self.codes == "", np.bool_)

    @property
    def bad_rows(self) -> NDArray[np.int64]:
        """The row numbers of the pictures that cannot be used."""
        return np.flatnonzero(~self.ok).astype(np.int64)

    def counts(self) -> dict[str, int]:
        """Return how many rows have each reason code, most frequent first."""
        return dict(Counter(self.codes[~self.ok].tolist()).most_common())

    def duplicate_groups(self) -> NDArray[np.int64]:
        """Return a group number for each row, int64 (N,): equal where the files' bytes are equal.

        A row that could not be read is a group of its own.
        """
        names = np.where(self.sha256 == "", [f"row {row}" for row in range(len(self.samples))], self.sha256)
        return np.unique(names, return_inverse=True)[1].reshape(-1).astype(np.int64)

    @property
    def duplicates(self) -> int:
        """The number of good pictures whose bytes an earlier good row has too."""
        hashes = self.sha256[self.ok]
        return len(hashes) - len(np.unique(hashes))

    def write_quarantine(self, path: Path, lost: Lost | None = None) -> None:
        """Write the pictures that cannot be used as CSV: path, code, bytes, sha256, message.

        `lost`: which of the good ones (`ok`) went or changed since; they come last, with what they were.
        """
        text = io.StringIO(newline="")
        table = csv.writer(text)
        table.writerow(["path", "code", "bytes", "sha256", "message"])
        left_out = [(row, self.codes[row], self.messages[row]) for row in self.bad_rows.tolist()]
        if lost is not None:
            good = np.flatnonzero(self.ok)
            left_out += [(int(good[row]), code, lost.message(row)) for row, code in lost.codes().items()]
        for row, code, message in left_out:
            table.writerow([self.samples.place(row), code, self.bytes[row], self.sha256[row], shown(message)])
        # Names that are not UTF-8 are escaped: the file itself always is UTF-8.
        write_atomic(path, text.getvalue().encode("utf-8", errors="backslashreplace"))

    def allowed_bad(self, max_bad: int | None = None) -> int:
        """Return how many pictures may be left out: `max_bad`, else ten or one in a hundred of all."""
        return max(10, len(self.samples) // 100) if max_bad is None else max_bad

    def check_usable(self, *, max_bad: int | None = None) -> None:
        """Raise `DataError` where too little is left to train on.

        With code NO_USABLE_IMAGES when no picture is good; TOO_MANY_BAD when more than `max_bad` are
        not (by default more than ten and more than one in a hundred); EMPTY_CLASS when a class that
        had pictures for training has none left.
        """
        bad = len(self.bad_rows)
        table = ", ".join(f"{count} {code}" for code, count in self.counts().items())
        first = "; ".join(self.messages[row] for row in self.bad_rows[:3].tolist())
        if bad and bad == len(self.samples):
            raise DataError(
                f"none of the {bad} files is a usable picture: {table}", first, code="NO_USABLE_IMAGES"
            )
        allowed = self.allowed_bad(max_bad)
        if bad > allowed:
            raise DataError(
                f"{bad} of {len(self.samples)} pictures cannot be used: {table}",
                f"repair or remove them, or allow so many with --max-bad {bad}; the first: {first}",
                code="TOO_MANY_BAD",
            )
        self._check_classes()

    def _check_classes(self) -> None:
        split = self.samples.split
        learnable = split == "train" if np.any(split == "train") else split == ""
        before = self.samples.take(learnable).counts()
        after = self.samples.take(learnable & self.ok).counts()
        lost = [name for name, count in before.items() if count and not after[name]]
        if lost:
            raise DataError(
                f"class {', '.join(map(shown, lost[:5]))} has no usable picture left",
                "repair its pictures, or remove the class",
                code="EMPTY_CLASS",
            )


def audit(
    cache: PixelCache,
    *,
    threads: int | None = None,
    keep_pixels: bool = True,
    children: DecodingChildren | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Audit:
    """Read and hash every picture of `cache.samples` once, and decode it, filling the cache.

    Bytes that no audit has seen are decoded in child processes, which may crash, hang or need too much
    memory without harm; what becomes of them is recorded by content. Bytes that are known to be good are
    decoded in threads (with `keep_pixels=False`, not at all), bytes known to be bad not again.

    `threads`: how many pictures are looked at side by side (None: one for each processor; 0: in the
    caller's own thread, with one child all the same). `children`: which to use, made for the same short
    side, limits and colours; without them the audit starts its own, which end with it. `on_progress`:
    called in the caller's thread with (done, all). Bad pictures are recorded, not raised; whatever the
    number of threads the result is the same. Raises `StorageError` where no child can be started.
    """
    count = thread_count(threads)
    # A child takes as long to start as it does for some 120 pictures of 500 x 400.
    own = DecodingChildren(
        short_side=cache.short_side,
        limits=cache.limits,
        colours=cache.colours,
        count=min(count, 1 + len(cache) // 128),
    )
    known = Verdicts.open(short_side=cache.short_side, limits=cache.limits, colours=cache.colours)
    verdicts: list[_Verdict] = []
    look = _Look(cache, known, children or own, keep_pixels)
    with own, closing(known), closing(_in_order(look, len(cache), count)) as found:
        for verdict in found:
            verdicts.append(verdict)
            if on_progress:
                on_progress(len(verdicts), len(cache))
    return Audit(
        samples=cache.samples,
        codes=np.array([verdict.code for verdict in verdicts], np.str_),
        messages=tuple(verdict.message for verdict in verdicts),
        sha256=np.array([verdict.sha256 for verdict in verdicts], np.str_),
        bytes=np.array([verdict.bytes for verdict in verdicts], np.int64),
        facts=tuple(verdict.facts for verdict in verdicts),
    )


def _in_order(look: _Look, rows: int, threads: int) -> Generator[_Verdict, None, None]:
    """Yield the verdicts in the order of the rows."""
    if threads == 0:
        yield from map(look, range(rows))
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="audit")
    try:
        # In parts, since each waiting row costs memory before its turn comes.
        for start in range(0, rows, _ROWS_AT_ONCE):
            part = range(start, min(start + _ROWS_AT_ONCE, rows))
            few = max(1, min(_ROWS_A_TASK, len(part) // (4 * threads)))
            tasks = (part[begin : begin + few] for begin in range(0, len(part), few))
            for verdicts in pool.map(look.all, tasks):
                yield from verdicts
            look.known.write()
    except BaseException:
        # Whoever waits for a child is let go; what comes of it is not looked at.
        look.children.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Look:
    """One look at a row."""

    cache: PixelCache
    known: Verdicts
    children: DecodingChildren
    keep_pixels: bool

    def all(self, rows: range) -> list[_Verdict]:
        return [self(row) for row in rows]

    def __call__(self, row: int) -> _Verdict:
        cache = self.cache
        sha256, length = "", 0
        stamp = stamp_of(cache.samples, row)
        try:
            data = cache.samples.read(row, limits=cache.limits)
            sha256, length = sha256_bytes(data), len(data)
            facts = self._facts(row, data, sha256)
        except DataError as error:
            return _Verdict(error.code, error.message, sha256, length, NOTHING)
        cache.stamps.note(row, stamp, sha256)
        return _Verdict("", "", sha256, length, facts)

    def _facts(self, row: int, data: bytes, sha256: str) -> Facts:
        known = self.known.find(sha256)
        if known is not None and known.code:
            raise self._named(row, DataError(known.message, code=known.code))
        if known is not None and not self.keep_pixels:
            return known.facts
        if known is not None:
            return facts_of(self.cache.decode(row, data, sha256=sha256))
        decoded = self._decoded(row, data, sha256)
        facts = facts_of(decoded)
        self.known.add(sha256, Known("", "", facts))
        return facts

    def _decoded(self, row: int, data: bytes, sha256: str) -> Decoded:
        try:
            decoded = self.children.decode(data)
        except DataError as error:
            if not isinstance(error, CrashError) or error.lasting:
                self.known.add(sha256, Known(error.code, error.message, NOTHING))
            raise self._named(row, error) from error
        self.cache.store(row, decoded, sha256)
        return decoded

    def _named(self, row: int, error: DataError) -> DataError:
        return DataError(f"{self.cache.samples.name(row)}: {error.message}", error.hint, code=error.code)
