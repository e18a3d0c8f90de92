"""Activations on disk, under a key of all that they depend on: small ones whole, large ones mapped.

What memory should not hold is written as it is computed and mapped into memory afterwards, so that only
the rows of a batch are read. Of activations of feature maps half the bytes are kept, see `keeps_half`.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ConfigError, HeadstartError, StorageError, UsageError
from headstart.models.engine import Engine
from headstart.models.features import ActivationSource, Features, HalfRangeError, in_half, materialise
from headstart.pruning import drop_least_recent, mark_used
from headstart.storage import cache_dir, content_key, load_arrays, save_arrays, sha256_file, written_whole
from headstart.types import BatchSource

# What the folder may hold: so much, and not more than half of what is free or held by it.
MOST_BYTES = 16 * 2**30


def keeps_half(shape: tuple[int, ...]) -> bool:
    """Return whether activations of a shape (without the batch) are kept as float16.

    Feature maps and tokens are, being large; the pooled features before a head are few, and a probe is
    to be the head's exact optimum. What it changes, on 500 flowers under a probe, mobilenetv2_100: a
    probability by at most 0.007 at the first stage and 0.0003 from the second group on, and the class of
    one picture at the first stage and of none after it.
    """
    return len(shape) > 1


class FeatureCache:
    """Features on disk; the least recently used go when space is short.

    `budget_bytes` is what the folder (default: `features` in the cache folder) may hold; by default
    `MOST_BYTES`, or half of what is free where that is less.
    """

    def __init__(self, folder: Path | None = None, *, budget_bytes: int | None = None) -> None:
        self.folder = cache_dir() / "features" if folder is None else folder
        self._chosen = budget_bytes

    @property
    def budget_bytes(self) -> int:
        """The bytes that the folder may hold, and so the most that one table may take."""
        if self._chosen is not None:
            return self._chosen
        folder = next(path for path in (self.folder, *self.folder.parents) if path.is_dir())
        held = sum(file.stat().st_size for file in self.folder.glob("*")) if folder == self.folder else 0
        return min(MOST_BYTES, (shutil.disk_usage(folder).free + held) // 2)

    @staticmethod
    def key(picture_hashes: Any, prepare_key: str, identity: str) -> str:
        """Return the key of features: picture contents in order, preparation, and weights and line."""
        hashes = np.asarray(picture_hashes)
        digest = hashlib.sha256(f"{hashes.dtype} {hashes.shape};".encode() + hashes.tobytes())
        return content_key("features", digest.hexdigest(), prepare_key, identity)

    def load(self, key: str) -> Features | None:
        """Return the features under `key`, or None where there are none, or not the bytes stored."""
        path, mapped = self._path(key), self._mapped_path(key)
        if not path.is_file():
            return None
        try:
            arrays = load_arrays(path)
            values = arrays.get("features")
            if values is None:
                if sha256_file(mapped) != arrays["mapped"].tobytes().hex():
                    return None
                values = np.load(mapped, mmap_mode="r", allow_pickle=False)
                mark_used(mapped)
            features = (values, arrays["targets"], arrays["index"])
            if not np.array_equal(_checksum(arrays), arrays["checksum"]) or len(values) != len(features[2]):
                return None
        except (ConfigError, HeadstartError, KeyError, OSError, ValueError):
            return None
        mark_used(path)
        return features

    def store(self, key: str, features: Features) -> None:
        """Keep features under `key`, and drop the least recently used beyond the budget."""
        values, targets, index = features
        arrays: dict[str, NDArray[Any]] = {"features": values, "targets": targets, "index": index}
        budget = self.budget_bytes
        if sum(array.nbytes for array in arrays.values()) > budget:
            return
        save_arrays(self._path(key), arrays | {"checksum": _checksum(arrays)})
        drop_least_recent(self.folder, budget)

    def compute(
        self,
        source: BatchSource,
        engine: Engine,
        *,
        key: str | None = None,
        epoch: int = 0,
        half: bool = False,
        mapped: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
        on_part: Callable[[Features], None] | None = None,
    ) -> Features:
        """Run an epoch of `source` through `engine`, keep what comes under `key`, and return it.

        `half`: as float16, or as float32 after all where that cannot hold it. `mapped`: written while it
        is computed, and mapped from the file; that needs a key. See `materialise` for the rest. Raises
        `StorageError` where a mapped table finds no space on the disk.
        """
        try:
            if mapped and key is not None:
                return self._compute_mapped(source, engine, key, epoch, half, on_progress)
            features = materialise(source, engine, on_progress, on_part, epoch=epoch, half=half)
        except HalfRangeError:
            return self.compute(
                source,
                engine,
                key=key,
                epoch=epoch,
                mapped=mapped,
                on_progress=on_progress,
                on_part=on_part,
            )
        if on_part is not None:
            order = np.argsort(features[2])
            features = (features[0][order], features[1][order], features[2][order])
        # Where some were left out, what is left is not what the key says.
        if key is not None and len(features[2]) == source.sample_count:
            self.store(key, features)
        return features

    def _compute_mapped(
        self,
        source: BatchSource,
        engine: Engine,
        key: str,
        epoch: int,
        half: bool,
        on_progress: Callable[[int, int], None] | None,
    ) -> Features:
        path = self._mapped_path(key)
        with written_whole(path) as stream:
            targets, index, digest = _write_rows(stream, source, engine, epoch, half, on_progress)
        arrays = {"targets": targets, "index": index, "mapped": np.frombuffer(digest, np.uint8)}
        save_arrays(self._path(key), arrays | {"checksum": _checksum(arrays)})
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        drop_least_recent(self.folder, self.budget_bytes)
        return values, targets, index

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _mapped_path(self, key: str) -> Path:
        return self.folder / f"{key}.npy"


def _write_rows(
    stream: BinaryIO,
    source: BatchSource,
    engine: Engine,
    epoch: int,
    half: bool,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[NDArray[Any], NDArray[np.int64], bytes]:
    """Write activations as an .npy file, row by row; return targets, row numbers and the file's SHA-256.

    By ordinary writes: a write through a mapping ends the process where the disk is full.
    """
    targets, index = [], []
    total, done, digest = source.sample_count, 0, hashlib.sha256()
    for batch in ActivationSource(source, engine).epoch(epoch):
        values = np.ascontiguousarray(batch.inputs, np.float32)
        rows = in_half(values) if half else values
        if not done:
            header = io.BytesIO()
            form = {"descr": rows.dtype.str, "fortran_order": False, "shape": (total, *rows.shape[1:])}
            np.lib.format.write_array_header_1_0(header, form)
            digest.update(header.getvalue())
            stream.write(header.getvalue())
        data = rows.tobytes()
        digest.update(data)
        stream.write(data)
        targets.append(np.asarray(batch.targets))
        index.append(np.asarray(batch.index, np.int64))
        done += len(batch)
        if on_progress is not None:
            on_progress(done, total)
    if not done:
        raise UsageError("there is no picture to compute features of")
    if done != total:
        raise StorageError(f"the source gave {done} of {total} pictures")
    return np.concatenate(targets), np.concatenate(index), digest.digest()


def _checksum(arrays: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
    digest = hashlib.sha256()
    for name in ("features", "targets", "index", "mapped"):
        if name in arrays:
            array = arrays[name]
            digest.update(f"{array.dtype} {array.shape};".encode())
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return np.frombuffer(digest.digest(), np.uint8)
