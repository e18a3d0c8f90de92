"""Which of many named pictures are there: by listing their folders, not by asking for each."""

from __future__ import annotations

import os
import posixpath

import numpy as np
from numpy.typing import NDArray

from headstart.data.remote import is_remote, list_remote

# What a name without an ending most often lacks.
_USUAL_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".webp", ".tif", ".bmp", ".gif")


def present(
    root: str, paths: list[str], *, allow_outside: bool = False
) -> tuple[NDArray[np.bool_], list[str]]:
    """Return for each path (relative to `root`) whether a file has that name, bool (N,), and the paths.

    Each folder is listed once: a million rows in a second. What a listing does not have is asked for by
    itself, since a file system may fold case; and a name with backslashes is tried with slashes.
    """
    if is_remote(root):
        there = list_remote(root)
        return np.array([path in there for path in paths], np.bool_), paths
    listings: dict[str, frozenset[str]] = {}
    found = np.zeros(len(paths), np.bool_)
    for row, path in enumerate(paths):
        folder, _, name = path.rpartition("/")
        names = listings.get(folder)
        if names is None:
            names = listings[folder] = _listing(
                os.path.join(root, folder or ("/" if path[:1] == "/" else ""))
            )
        found[row] = name in names
    paths = list(paths)
    for row in np.flatnonzero(~found).tolist():
        candidates = [paths[row]]
        slashed = posixpath.normpath(paths[row].replace("\\", "/"))
        if "\\" in paths[row] and (allow_outside or not slashed.startswith(("/", "../"))):
            candidates.append(slashed)
        for candidate in candidates:
            if _exists(os.path.join(root, candidate)):
                paths[row], found[row] = candidate, True
                break
    return found, paths


def _listing(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except (OSError, ValueError):
        return frozenset()


def _exists(path: str) -> bool:
    try:
        os.stat(path)
    except (OSError, ValueError):  # also a name that no file can have
        return False
    return True


def suggestion(root: str, path: str) -> str:
    """Return what to try where `path` is not there, or "" where nothing near it is."""
    if is_remote(root):
        return ""
    for suffix in _USUAL_SUFFIXES:
        if _exists(os.path.join(root, path + suffix)):
            return f"the files end with {suffix}: give --suffix {suffix}"
    for folder in sorted(_listing(root)):
        for suffix in ("", *_USUAL_SUFFIXES):
            if _exists(os.path.join(root, folder, path + suffix)):
                return f"it is in {folder}: give --folder {folder}" + (suffix and f" --suffix {suffix}")
    return ""
