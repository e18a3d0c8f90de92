"""Folders of checkpoints: each is there whole or not at all, and altered ones are found out.

A checkpoint is serialised in memory, written into a hidden folder beside its place, hashed as it is
written, synced file by file and then as a folder, renamed, and its parent synced. Only then are
older ones removed, and never the last that are known to be whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from headstart.errors import HeadstartError
from headstart.storage import beside, json_bytes, read_json, sha256_bytes, sha256_file, storage_error
from headstart.training.disk import Disk

SCHEMA = 2
FILES = (
    "callbacks.safetensors",
    "extra.safetensors",
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
)
_NAME = re.compile(r"step-(\d{9,})(?:\.(\d+))?")


def folder_name(step: object, part: object = 0) -> str:
    """Return the name of a checkpoint: `part` tells apart those of one step."""
    if not isinstance(step, int) or not isinstance(part, int):
        return ""
    return f"step-{step:09d}" + (f".{part}" if part else "")


def _order(name: str) -> tuple[int, int] | None:
    match = _NAME.fullmatch(name)
    return None if match is None else (int(match[1]), int(match[2] or 0))


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, the one with the highest step first."""
    if not folder.is_dir():
        return []
    found = [(order, entry) for entry in folder.iterdir() if (order := _order(entry.name)) is not None]
    return [entry for _, entry in sorted(found, reverse=True)]


def next_part(folder: Path, step: int) -> int:
    """Return the number of the next checkpoint at `step`: none ever takes the place of another."""
    taken = [order[1] for entry in checkpoints(folder) if (order := _order(entry.name)) and order[0] == step]
    return max(taken, default=-1) + 1


def write_checkpoint_folder(
    folder: Path, step: int, files: Mapping[str, bytes], *, disk: Disk | None = None
) -> Path:
    """Write the files of a checkpoint of `step` into a new folder below `folder`, and return it.

    Raises `StorageError` when the disk is full or fails, `OutputError` when writing is refused;
    nothing is left of it then.
    """
    disk = disk or Disk()
    try:
        _make_parents(folder, disk)
        part = next_part(folder, step)
        target = folder / folder_name(step, part)
        manifest = {
            "schema": SCHEMA,
            "step": step,
            "part": part,
            "files": {
                name: {"bytes": len(files[name]), "sha256": sha256_bytes(files[name])} for name in FILES
            },
        }
        _write_whole(target, {**files, "manifest.json": json_bytes(manifest)}, disk)
    except OSError as error:
        raise storage_error(error, folder) from error
    return target


def _make_parents(folder: Path, disk: Disk) -> None:
    if folder.is_dir():
        return
    _make_parents(folder.parent, disk)
    disk.make_folder(folder)
    disk.sync_folder(folder.parent)


def _write_whole(target: Path, files: Mapping[str, bytes], disk: Disk) -> None:
    temporary = beside(target, "tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        disk.make_folder(temporary)
        for name, data in files.items():
            disk.write(temporary / name, data)
        disk.sync_folder(temporary)
        disk.rename(temporary, target)
        disk.sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def prune(
    folder: Path, known: set[str], *, keep: int = 2, spare: Collection[str] = (), disk: Disk | None = None
) -> None:
    """Remove all checkpoints that are older than the newest `keep` whole ones; `spare` names others to keep.

    `known` has the names of those that were found whole before, and is added to: others are read and
    compared with their hashes first. Where the folder cannot be read, nothing is removed.
    """
    disk = disk or Disk()
    whole = 0
    try:
        found = checkpoints(folder)
    except OSError:
        return
    for entry in found:
        if whole >= max(1, keep):
            if entry.name not in spare:
                # What cannot be removed costs space, and that is all.
                with contextlib.suppress(OSError):
                    disk.remove(entry)
                known.discard(entry.name)
        elif entry.name in known or not fault_of(entry):
            known.add(entry.name)
            whole += 1


def fault_of(checkpoint: Path) -> str:
    """Return what is wrong with a checkpoint's files, "" if each is as it was written."""
    try:
        manifest = read_json(checkpoint / "manifest.json", max_bytes=2**16)
        return _manifest_fault(checkpoint, manifest) or _files_fault(checkpoint, manifest["files"])
    except (HeadstartError, OSError, AttributeError) as error:
        return f"it cannot be read ({error})"


def _manifest_fault(checkpoint: Path, manifest: Any) -> str:
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        return "its manifest is of another version"
    # Every byte of the manifest is then a hash, a size or a name that is checked.
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    if (checkpoint / "manifest.json").read_bytes() != text.encode():
        return "its manifest was altered"
    if checkpoint.name != folder_name(manifest.get("step"), manifest.get("part")):
        return "its manifest is that of another checkpoint"
    files = manifest.get("files")
    if not isinstance(files, dict) or tuple(files) != FILES or len(manifest) != 4:
        return "its manifest lists other files"
    return ""


def _files_fault(checkpoint: Path, files: Mapping[str, Any]) -> str:
    others = sorted(set(os.listdir(checkpoint)) - {*FILES, "manifest.json"})
    if others:
        return f"{others[0]} does not belong there"
    for name in FILES:
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        size = file.stat().st_size
        if size != files[name].get("bytes"):
            return f"{name} has {size} bytes instead of {files[name].get('bytes')}"
        if sha256_file(file) != files[name].get("sha256"):
            return f"{name} was altered"
    return ""
