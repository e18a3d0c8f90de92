"""Files that are whole or absent: atomic writes, hashes, capped safetensors and JSON.

Everything that headstart keeps goes through here: caches, features, checkpoints and bundles. A
reader never sees half a file: data is written beside its target, synced, and renamed over it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
import struct
import tempfile
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ConfigError, InputMissingError, OutputError, StorageError

if TYPE_CHECKING:
    import torch

_Tensor = TypeVar("_Tensor")


@dataclass(frozen=True)
class Piece:
    """A run of bytes in a file, which is read as if it were a file of its own.

    `name`: what it is called; `offset`, `length`: where it lies; `crc32`: what its bytes must have.
    """

    path: Path
    name: str
    offset: int
    length: int
    crc32: int

    def __str__(self) -> str:
        return f"{self.path}/{self.name}"


Place: TypeAlias = Path | Piece
"""Where bytes lie: a file of their own, or a piece of one."""

# safetensors parses its header before it checks it: a 40 MB header took 22 s and 830 MB, one of 16 MB
# 3.6 s, one of 2 MB 0.4 s. The weights, gradients' moments and buffers of the largest networks need 0.5 MB.
MAX_HEADER_BYTES = 2 * 2**20
MAX_TENSORS = 20_000
MAX_DIMENSIONS = 8
MAX_JSON_BYTES = 64 * 2**20

NO_PICKLE = "pickle-based files (.pt, .pth, .pkl) are not supported: convert them to safetensors first"


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's contents in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_key(*parts: object) -> str:
    """Return a short key (32 hexadecimal digits) that is equal only if all parts are equal.

    Parts are anything that JSON can hold; dictionaries count as equal whatever their order.
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def cache_dir() -> Path:
    """Return the folder for what can be made again: `HEADSTART_CACHE`, else the user's cache.

    Where that cannot be written (no home, a read-only disk), a private temporary folder is used.
    """
    chosen = os.environ.get("HEADSTART_CACHE")
    if chosen:
        path = Path(chosen).expanduser()
    else:
        base = os.environ.get("XDG_CACHE_HOME")
        home = os.environ.get("HOME") or os.environ.get("USERPROFILE")
        path = Path(base) / "headstart" if base else Path(home or "/nonexistent") / ".cache" / "headstart"
    try:
        path.mkdir(parents=True, exist_ok=True)
        if os.access(path, os.W_OK):
            return path
    except OSError as error:
        if chosen:
            raise OutputError(
                f"the cache folder {path} cannot be created: {error.strerror}",
                "set HEADSTART_CACHE to a folder that you can write to",
            ) from error
    if chosen:
        raise OutputError(
            f"the cache folder {path} cannot be written to", "set HEADSTART_CACHE to another folder"
        )
    return _private_temporary_folder()


def _private_temporary_folder() -> Path:
    if os.name != "posix":
        fallback = Path(tempfile.gettempdir()) / "headstart"
        fallback.mkdir(exist_ok=True)
        return fallback
    user = os.getuid()
    fallback = Path(tempfile.gettempdir()) / f"headstart-{user}"
    fallback.mkdir(mode=0o700, exist_ok=True)
    # Anybody may create a folder there first, and would then own what we read back.
    found = fallback.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o022:
        return fallback
    return Path(tempfile.mkdtemp(prefix="headstart-"))


def storage_error(error: OSError, path: Path) -> StorageError | OutputError:
    """Return what a person is told when writing `path` failed with `error`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(path.parent).free // 2**20 if path.parent.exists() else 0
        return StorageError(
            f"the disk is full: {path} could not be written ({free} MB free)",
            "free some space, or write elsewhere with --out",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(
            f"{path} cannot be written: {error.strerror}", "choose a folder that you can write to"
        )
    return StorageError(f"{path} could not be written: {error.strerror or error}")


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system has such a thing."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network and user-space file systems have no such thing as syncing a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def beside(path: Path, suffix: str) -> Path:
    """Return a hidden name in the same folder that no other process or thread uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.{suffix}")


_LEFTOVER = re.compile(r"\..+\.\d+-\d+\.(?:tmp|old)")


def remove_leftovers(folder: Path) -> int:
    """Remove what writers that were killed left half done in a folder; return how many there were.

    Only for a folder that no other process writes to.
    """
    if not folder.is_dir():
        return 0
    found = [entry for entry in folder.iterdir() if _LEFTOVER.fullmatch(entry.name)]
    for entry in found:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    return len(found)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that the file is the old one or the new one, never a part.

    Raises `StorageError` when the disk is full or fails, `OutputError` when writing is refused.
    """
    with written_whole(path) as stream:
        stream.write(data)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Give a stream to write to; at the end it becomes `path`, or nothing is left of it.

    Raises what `write_atomic` raises.
    """
    temporary = beside(path, "tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def json_bytes(value: object) -> bytes:
    """Return `value` as JSON that a person can read too; raises `ValueError` for NaN and infinity."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # Undecodable file names reach us as lone surrogates, which UTF-8 cannot hold but JSON can spell.
    return (text + "\n").encode("utf-8", errors="backslashreplace")


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON, atomically; text stays readable, NaN is refused."""
    write_atomic(path, json_bytes(value))


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file of at most `max_bytes`; NaN, infinity and repeated keys are refused.

    Raises `InputMissingError` when it is not there, `ConfigError` when it is not JSON or too big.
    """
    return parse_json(read_capped(path, max_bytes), path)


def read_capped(path: Place, max_bytes: int) -> bytes:
    """Read a file of at most `max_bytes`.

    Raises `InputMissingError` when it is not there, `ConfigError` when it is bigger or no file.
    """
    with _open_regular(path) as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ConfigError(f"{path} is larger than {max_bytes} bytes")
    _check_sum(data, path)
    return data


def _check_sum(data: bytes, place: Place) -> None:
    if isinstance(place, Piece) and zlib.crc32(data) != place.crc32:
        raise ConfigError(f"{place} was altered: its checksum does not fit", "fetch or make it again")


def parse_json(data: bytes, path: Place) -> Any:
    """Read JSON strictly; `path` is named in the error.

    Raises `ConfigError` for what is not JSON, for NaN, infinity and repeated keys, and for nesting
    that is too deep.
    """
    try:
        return json.loads(data, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {str(error)[:200]}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {repeated[:80]!r} is there twice")
    return unique


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


@contextlib.contextmanager
def _open_regular(place: Place) -> Iterator[BinaryIO]:
    """Open a regular file for reading; a pipe or a device is refused before it could keep us waiting."""
    path = place.path if isinstance(place, Piece) else place
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path} is not a file")
        with open(path, "rb") as stream:
            if isinstance(place, Piece):
                yield cast(BinaryIO, io.BufferedReader(_Window(stream, place.offset, place.length)))
            else:
                yield stream
    except OSError as error:
        raise InputMissingError(f"{path} cannot be read: {error.strerror}") from error


class _Window(io.RawIOBase):
    """The bytes of a stream from `offset` on, at most `length` of them."""

    def __init__(self, stream: BinaryIO, offset: int, length: int) -> None:
        self._stream, self._offset, self._length, self._at = stream, offset, length, 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be read from anywhere."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, counted from the first byte of the window."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, as far as the window reaches."""
        wanted = max(0, min(len(buffer), self._length - self._at))
        self._stream.seek(self._offset + self._at)
        data = self._stream.read(wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@contextlib.contextmanager
def folder_written_whole(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a temporary folder to fill; at the end it becomes `path`, or nothing is left of it.

    Raises `OutputError` when `path` exists and `replace` is False.
    """
    if path.exists() and not replace:
        raise OutputError(f"{path} exists already", "choose another folder, or replace it with --force")
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file, not a folder", "choose another folder")
    if path.is_symlink():
        path = path.resolve()
    temporary = beside(path, "tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        _sync_tree(temporary)
        _move_into_place(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for found in [folder, *folder.rglob("*")]:
        if found.is_symlink():
            continue
        if found.is_dir():
            sync_folder(found)
        else:
            # Windows syncs only what is open for writing; elsewhere a read-only file is synced too.
            with open(found, "rb" if os.name == "posix" else "rb+") as stream:
                os.fsync(stream.fileno())


def _move_into_place(new: Path, path: Path) -> None:
    if not path.exists():
        os.replace(new, path)
        return
    old = beside(path, "old")
    shutil.rmtree(old, ignore_errors=True)
    os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def check_safetensors(path: Place) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Check a safetensors file's size fields and header before a parser sees them.

    Returns the element type (as the format spells it: `F32`) and the shape of every tensor. Raises
    `InputMissingError` when the file cannot be read and `ConfigError` when it cannot be a safetensors
    file, or exceeds `MAX_HEADER_BYTES`, `MAX_TENSORS` or `MAX_DIMENSIONS`.
    """
    with _open_regular(path) as stream:
        return _check_header(stream, path)


def _check_header(stream: BinaryIO, path: Place) -> dict[str, tuple[str, tuple[int, ...]]]:
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    start = stream.read(9)
    if len(start) < 9:
        raise ConfigError(f"{path} is not a safetensors file: it has {size} bytes")
    (length,) = struct.unpack("<Q", start[:8])
    if start[8:9] != b"{" or not 2 <= length <= size - 8:
        raise ConfigError(f"{path} is not a safetensors file", NO_PICKLE)
    if length > MAX_HEADER_BYTES:
        raise ConfigError(f"{path} has a header of {length} bytes, more than {MAX_HEADER_BYTES}")
    header = parse_json(start[8:] + stream.read(length - 1), path)
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise ConfigError(f"{path} holds {len(header)} tensors, more than {MAX_TENSORS}")
    return {name: _tensor_entry(name, entry, path) for name, entry in header.items()}


def _tensor_entry(name: str, entry: object, path: Place) -> tuple[str, tuple[int, ...]]:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape]} if len(shape) <= MAX_DIMENSIONS:
            if all(type(length) is int and length >= 0 for length in shape):
                return dtype, tuple(shape)
    raise ConfigError(f"{path} describes no tensor under {name[:80]!r}")


def save_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write torch tensors as safetensors, atomically; shared and strided tensors are copied."""
    write_atomic(path, tensor_bytes(tensors, metadata))


def tensor_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return torch tensors as a safetensors file; shared and strided tensors are copied."""
    from safetensors.torch import save

    flat = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return save(flat, dict(metadata) if metadata else None)


def load_tensors(path: Place, *, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Read the tensors of a safetensors file onto the CPU; nothing in the file can run.

    With `sha256`, the very bytes that are parsed must have that hash. Raises `ConfigError` otherwise.
    """
    from safetensors.torch import load

    return _parse(load, path, sha256)


def save_arrays(
    path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write NumPy arrays as safetensors, atomically."""
    from safetensors.numpy import save

    flat = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_atomic(path, save(flat, dict(metadata) if metadata else None))


def load_arrays(path: Place, *, sha256: str | None = None) -> dict[str, NDArray[Any]]:
    """Read the arrays of a safetensors file, as `load_tensors` does."""
    from safetensors.numpy import load

    return _parse(load, path, sha256)


def _parse(
    load: Callable[[bytes], dict[str, _Tensor]], path: Place, sha256: str | None
) -> dict[str, _Tensor]:
    with _open_regular(path) as stream:
        _check_header(stream, path)
        stream.seek(0)
        data = stream.read()
    _check_sum(data, path)
    if sha256 is not None and sha256_bytes(data) != sha256:
        raise ConfigError(
            f"{path} was altered: its SHA-256 is not the recorded one", "fetch or make it again"
        )
    from safetensors import SafetensorError

    try:
        return load(data)
    # Unknown element types surface as a lookup that fails, differently for torch and for NumPy.
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not a valid safetensors file: {str(error)[:200]}") from error
