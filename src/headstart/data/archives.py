"""Pictures in a zip or tar file that holds class folders: read where they lie, never unpacked."""

from __future__ import annotations

import os
import struct
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from headstart.data.classes import natural
from headstart.data.samples import Samples, shown
from headstart.data.scan import SPLIT_FOLDERS, scan
from headstart.data.tar import Member, check_member_name
from headstart.data.walk import Entry, Walk, has_picture_name, is_junk
from headstart.errors import DataError, InputMissingError

MAX_MEMBERS = 200_000
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_PARTS = {name for names in SPLIT_FOLDERS.values() for name in names}
_SYMBOLIC_LINK = 0o120000


@dataclass(frozen=True)
class _Node:
    """An entry of an archive, as a walk wants it."""

    name: str
    number: int

    def is_symlink(self) -> bool:
        return False

    def inode(self) -> int:
        return self.number


@dataclass
class ArchiveWalk(Walk):
    """A walk over the names in an archive, with the rules of a walk over a folder."""

    names: Sequence[str] = ()
    tree: dict[str, tuple[set[str], set[str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.tree:
            return
        self.tree[""] = (set(), set())
        for name in self.names:
            self._add(name)

    def _add(self, name: str) -> None:
        folder, _, file = name.rpartition("/")
        self.tree.setdefault(folder, (set(), set()))[1].add(file)
        while folder:
            above, _, last = folder.rpartition("/")
            known = above in self.tree
            self.tree.setdefault(above, (set(), set()))[0].add(last)
            if known:
                break
            folder = above

    def entries(self, folder: str) -> tuple[list[Entry], list[Entry]]:
        """Return the folders and the files of `folder`, sorted; hidden ones are counted."""
        found: list[list[Entry]] = []
        for names in self.tree.get(folder, (set(), set())):
            kept = [name for name in names if not is_junk(name)]
            self.skipped["hidden or system files"] += len(names) - len(kept)
            found.append([_Node(name, number) for number, name in enumerate(sorted(kept, key=natural))])
        return found[0], found[1]

    def _identity(self, path: str) -> tuple[int, int]:
        return (-1, -1)


def samples_in_archive(
    archive: Path,
    members: Iterable[Member],
    *,
    drop_empty_classes: bool = False,
    drop_unseen_classes: bool = False,
) -> Samples:
    """Read the layout of an archive's members as `scan_folder` reads that of a folder.

    Where everything lies in one folder whose own folders are the classes or parts, that folder is the root:
    names and ids are then those of the unpacked folder.
    """
    found = {member.name: member for member in members}
    start = _common_folder(list(found))
    inside = {name[len(start) :]: member for name, member in found.items() if name.startswith(start)}
    walk = ArchiveWalk(archive, names=tuple(inside))
    walk.skipped["hidden or system files"] += len(found) - len(inside)
    samples = scan(walk, drop_empty_classes=drop_empty_classes, drop_unseen_classes=drop_unseen_classes)
    places = [inside[name] for name in samples.paths]
    return replace(
        samples,
        root=archive.parent,
        paths=(archive.name,) * len(samples),
        names=samples.paths,
        offset=np.array([member.offset for member in places], np.int64),
        length=np.array([member.length for member in places], np.int64),
    )


def _common_folder(names: Sequence[str]) -> str:
    """Return the folder, with its slash, that holds all that is not junk and itself holds folders only."""
    start = ""
    while True:
        inside = [name[len(start) :] for name in names if name.startswith(start)]
        kept = [name for name in inside if not any(map(is_junk, name.split("/")))]
        tops = {name.split("/", 1)[0] for name in kept}
        deeper = all(name.count("/") >= 2 for name in kept if has_picture_name(name))
        if len(tops) != 1 or not deeper or tops & _PARTS:
            return start
        start += f"{tops.pop()}/"


def from_zip(
    path: str | os.PathLike[str], *, drop_empty_classes: bool = False, drop_unseen_classes: bool = False
) -> Samples:
    """Read class folders, or train/valid/test folders, in a zip file without unpacking it.

    The pictures must be stored, not compressed (`zip -0`, which loses nothing: pictures are compressed by
    themselves), so that each is a part of the file. Raises `InputMissingError` when there is no such file,
    and `DataError`: NOT_AN_ARCHIVE, COMPRESSED (the hint says how to unpack), ENCRYPTED, UNSAFE_ARCHIVE
    (names that lead out, links, names twice, members that overlap, more than 200,000), TRUNCATED, and
    those of `scan_folder`.
    """
    archive = Path(path).expanduser().absolute()
    if not archive.is_file():
        raise InputMissingError(f"there is no {shown(str(archive))}", "give a zip file of pictures")
    return samples_in_archive(
        archive,
        _zip_members(archive),
        drop_empty_classes=drop_empty_classes,
        drop_unseen_classes=drop_unseen_classes,
    )


def _zip_members(archive: Path) -> list[Member]:
    name = archive.name
    try:
        with zipfile.ZipFile(archive) as opened, open(archive, "rb") as stream:
            entries = [entry for entry in opened.infolist() if not entry.filename.endswith("/")]
            if len(entries) > MAX_MEMBERS:
                raise DataError(
                    f"{shown(name)} has {len(entries):,} members, more than {MAX_MEMBERS:,}",
                    f"unpack it: unzip {shown(name)} -d {shown(archive.stem)}",
                    code="UNSAFE_ARCHIVE",
                )
            _refuse_entries(entries, archive)
            size = archive.stat().st_size
            members = []
            for entry in entries:
                stream.seek(entry.header_offset)
                members.append(_located(entry, stream.read(_LOCAL_HEADER.size), size, name))
    # What the module raises for damaged files is not one family.
    except (zipfile.BadZipFile, RuntimeError, ValueError, OSError, OverflowError) as error:
        raise DataError(
            f"{shown(name)} is not a zip file that can be read: {shown(str(error))}",
            "fetch or pack it again",
            code="NOT_AN_ARCHIVE",
        ) from error
    _refuse_overlaps(members, name)
    return members


def _refuse_entries(entries: Sequence[zipfile.ZipInfo], archive: Path) -> None:
    name = archive.name
    for entry in entries:
        check_member_name(entry.orig_filename, name)
        if entry.flag_bits & 0x1:
            raise DataError(
                f"{shown(name)} is encrypted: {shown(entry.filename)}",
                f"unpack it with its password: unzip {shown(name)} -d {shown(archive.stem)}",
                code="ENCRYPTED",
            )
        if entry.external_attr >> 16 & 0o170000 == _SYMBOLIC_LINK:
            raise DataError(
                f"{shown(name)} has a link among its members: {shown(entry.filename)}",
                "pack the pictures themselves",
                code="UNSAFE_ARCHIVE",
            )
    folded = Counter(entry.filename.casefold() for entry in entries)
    twice = [entry.filename for entry in entries if folded[entry.filename.casefold()] > 1]
    if twice:
        raise DataError(
            f"{shown(name)} has several members called {shown(twice[0])}", "pack it anew",
            code="UNSAFE_ARCHIVE",
        )  # fmt: skip
    packed = [
        entry
        for entry in entries
        if entry.compress_type != zipfile.ZIP_STORED and has_picture_name(entry.filename)
        if not any(map(is_junk, entry.filename.split("/")))
    ]
    if packed:
        raise DataError(
            f"the pictures in {shown(name)} are compressed ({len(packed):,} of them), so that they cannot be "
            "read in place",
            f"unpack it: unzip {shown(name)} -d {shown(archive.stem)}; or pack the pictures with: zip -0 -r",
            code="COMPRESSED",
        )


def _located(entry: zipfile.ZipInfo, header: bytes, size: int, archive: str) -> Member:
    """Return where a member's bytes lie: behind its own header, which the index does not measure."""
    if len(header) == _LOCAL_HEADER.size and header[:4] == b"PK\x03\x04":
        *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        start = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        if start + entry.compress_size <= size:
            return Member(entry.filename, start, entry.compress_size)
    raise DataError(
        f"{shown(archive)} is damaged at {shown(entry.filename)}", "fetch or pack it again", code="TRUNCATED"
    )


def _refuse_overlaps(members: Sequence[Member], archive: str) -> None:
    end = 0
    for member in sorted(members, key=lambda member: (member.offset, member.length)):
        if member.offset < end and member.length:
            raise DataError(
                f"{shown(archive)} has members that share bytes: {shown(member.name)}",
                "do not trust this archive: pack the pictures anew",
                code="UNSAFE_ARCHIVE",
            )
        end = max(end, member.offset + member.length)
