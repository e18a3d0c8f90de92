"""A bundle as one file, `model.headstart`: a zip of stored members, read more strictly than zip tools do.

One file follows the other without gaps, nothing is compressed, encrypted, linked or said twice, and the
directory at the end says of each what its own header says. So there is one way to read it, and nothing that
grows. It is never unpacked: files are read where they lie.
"""

from __future__ import annotations

import re
import shutil
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from headstart.errors import ConfigError, OutputError
from headstart.storage import NO_PICKLE, Piece, written_whole

ONE_FILE = ".headstart"
MAX_MEMBERS = 80

_NAME = re.compile(rb"(manifest\.json|README\.md|model(-[0-9]{1,2})?\.safetensors|novelty\.safetensors)")
_START = b"PK\x03\x04"
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_REGULAR_FILE = 0o100000
# The same bytes each time: a zip cannot hold an earlier day.
_DATE = (1980, 1, 1, 0, 0, 0)


class _Entry(NamedTuple):
    """What a header says of a member."""

    name: bytes
    flags: int
    method: int
    crc32: int
    packed: int
    size: int


def is_packed(path: Path) -> bool:
    """Tell by its first bytes whether a file may be a bundle."""
    with open(path, "rb") as stream:
        return stream.read(4) == _START


def pieces_of(path: Path) -> dict[str, Piece]:
    """Return where each file of a packed bundle lies; raises `ConfigError` for whatever is not as it must be.

    At most 64 KiB are read, whatever the file says of itself; CRCs are checked when a piece is read.
    """
    with open(path, "rb") as stream:
        # What another kind of zip is, is said before what is wrong with it: a torch file, most often.
        if not _NAME.match(stream.read(_LOCAL.size + 64)[_LOCAL.size :]):
            raise _no_bundle(path, "it holds what is no part of one", NO_PICKLE)
        size = stream.seek(0, 2)
        entries, start = _directory(stream, size, path)
        pieces: dict[str, Piece] = {}
        at = 0
        for entry, offset in entries:
            if offset != at:
                raise _no_bundle(path, "its members do not follow one another")
            at = _check_local(stream, entry, offset, path)
            name = entry.name.decode("ascii")
            if name in pieces:
                raise _no_bundle(path, f"it holds {name} twice")
            pieces[name] = Piece(path, name, at, entry.size, entry.crc32)
            at += entry.size
        if at != start:
            raise _no_bundle(path, "something lies between its members and its directory")
    return pieces


def _directory(stream: BinaryIO, size: int, path: Path) -> tuple[list[tuple[_Entry, int]], int]:
    """Return what the directory says of each member, and where it starts."""
    if size < _END.size:
        raise _no_bundle(path, "it is cut off")
    stream.seek(size - _END.size)
    mark, disk, first_disk, here, count, length, start, comment = _END.unpack(stream.read(_END.size))
    if mark != b"PK\x05\x06" or comment:
        raise _no_bundle(path, "it does not end with a directory: it is cut off, or something was added")
    if disk or first_disk or here != count or not 1 <= count <= MAX_MEMBERS:
        raise _no_bundle(path, f"it has {count} members")
    if start + length != size - _END.size or length > count * (_CENTRAL.size + 64 + 2**10):
        raise _no_bundle(path, "its directory is not where it says")
    stream.seek(start)
    data = stream.read(length)
    found, at = [], 0
    for _ in range(count):
        if at + _CENTRAL.size > len(data):
            raise _no_bundle(path, "its directory is cut off")
        fields = _CENTRAL.unpack_from(data, at)
        flags, method, crc32, packed, plain = fields[3], fields[4], *fields[7:10]
        name_length, extra, remark, disk, attributes, offset = *fields[10:14], fields[15], fields[16]
        if fields[0] != b"PK\x01\x02" or extra or remark or disk:
            raise _no_bundle(path, "its directory holds what no bundle has")
        name = data[at + _CENTRAL.size : at + _CENTRAL.size + name_length]
        _check_entry(name, flags, method, packed, plain, attributes, path)
        found.append((_Entry(name, flags, method, crc32, packed, plain), offset))
        at += _CENTRAL.size + name_length
    if at != length:
        raise _no_bundle(path, "its directory holds more than it says")
    return found, start


def _check_entry(
    name: bytes, flags: int, method: int, packed: int, size: int, attributes: int, path: Path
) -> None:
    shown = ascii(name.decode("utf-8", errors="replace"))[:80]
    if not _NAME.fullmatch(name):
        raise _no_bundle(path, f"it holds {shown}, which is no part of one")
    if flags & 1:
        raise _no_bundle(path, f"{shown} is encrypted")
    if flags or method != zipfile.ZIP_STORED or packed != size:
        raise _no_bundle(path, f"{shown} is compressed, or not stored as a bundle's files are")
    kind = attributes >> 16 & 0o170000
    if kind not in (0, _REGULAR_FILE) or attributes & 0x10:
        raise _no_bundle(path, f"{shown} is no plain file")


def _check_local(stream: BinaryIO, entry: _Entry, offset: int, path: Path) -> int:
    """Compare a member's own header with the directory; return where its bytes begin."""
    stream.seek(offset)
    data = stream.read(_LOCAL.size)
    if len(data) == _LOCAL.size:
        mark, _, flags, method, _, _, crc32, packed, size, name_length, extra = _LOCAL.unpack(data)
        name = stream.read(min(name_length, 64))
        if mark == _START and not extra and _Entry(name, flags, method, crc32, packed, size) == entry:
            return offset + _LOCAL.size + len(name)
    raise _no_bundle(path, f"{entry.name.decode('ascii')} is not what the directory says")


def _no_bundle(path: Path, why: str, hint: str = "") -> ConfigError:
    return ConfigError(
        f"{path} is no bundle: {why}", hint or "fetch it again, or make it with: headstart pack"
    )


def pack_folder(folder: Path, out: Path, names: Sequence[str]) -> None:
    """Write the files of a bundle as one, atomically, manifest first; raises `OutputError` beyond 2 GiB."""
    try:
        with written_whole(out) as stream, zipfile.ZipFile(stream, "w", allowZip64=False) as archive:
            for name in sorted(names, key=lambda name: (name != "manifest.json", name)):
                entry = zipfile.ZipInfo(name, _DATE)
                entry.external_attr = (_REGULAR_FILE | 0o644) << 16
                entry.create_system = 3
                entry.file_size = (folder / name).stat().st_size
                with open(folder / name, "rb") as source, archive.open(entry, "w") as target:
                    shutil.copyfileobj(source, target, 2**20)
    except (zipfile.LargeZipFile, RuntimeError) as error:
        raise OutputError(
            f"the bundle is too large for one file: {error}",
            "keep it as a folder",
        ) from error
