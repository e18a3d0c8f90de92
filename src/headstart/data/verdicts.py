"""What earlier audits found out, by content: no hostile file is decoded twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple, Self

from PIL import features

from headstart.data.colours import Colours
from headstart.data.facts import Facts
from headstart.data.limits import Limits
from headstart.errors import OutputError
from headstart.storage import cache_dir, content_key

_FILES_KEPT = 8
_LIBRARIES = ("libjpeg_turbo", "zlib", "webp", "avif", "libtiff")


class Known(NamedTuple):
    """The verdict over some bytes: `code` "" where they are a picture, with its `facts`."""

    code: str
    message: str
    facts: Facts


class Verdicts:
    """A table from the SHA-256 of a file's bytes to what was found out about them.

    One file in the cache folder for each set of rules: the decoders' versions, the sources of this room, the
    limits, the short side and the colours. Where that folder cannot be used nothing is recorded, and nothing
    is known: an audit takes longer, that is all. Safe to use from many threads and processes.
    """

    def __init__(self, connection: sqlite3.Connection | None) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._new: dict[bytes, Known] = {}

    @classmethod
    def open(cls, *, short_side: int | None, limits: Limits, colours: Colours) -> Self:
        """Open the table for these rules."""
        try:
            folder = cache_dir() / "verdicts"
            folder.mkdir(exist_ok=True)
            path = folder / f"{rules_key(short_side, limits, colours)}.sqlite"
            connection = _connect(path)
            _prune(folder, path)
        except (OSError, OutputError, sqlite3.Error):
            return cls(None)
        return cls(connection)

    def find(self, sha256: str) -> Known | None:
        """Return what is known about bytes of this hash, or None."""
        if self._connection is None:
            return None
        try:
            with self._lock:
                row = self._connection.execute(
                    "SELECT code, message, facts FROM verdicts WHERE sha256 = ?", (bytes.fromhex(sha256),)
                ).fetchone()
        except sqlite3.Error:  # an altered or a busy file: it is no more than a short cut
            return None
        return _known(*row) if row else None

    def add(self, sha256: str, known: Known) -> None:
        """Record a verdict; it is written by `write`."""
        if self._connection is not None:
            with self._lock:
                self._new[bytes.fromhex(sha256)] = known

    def write(self) -> None:
        """Write what was added since the last time."""
        with self._lock:
            rows = [
                (key, known.code, known.message, json.dumps(known.facts, default=_spelled))
                for key, known in self._new.items()
            ]
            self._new.clear()
            if self._connection is None or not rows:
                return
            # A full disk, or another process that keeps the file: the next audit looks again.
            with contextlib.suppress(sqlite3.Error), self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?)", rows)

    def close(self) -> None:
        """Write what is left, and close the file."""
        self.write()
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def rules_key(short_side: int | None, limits: Limits, colours: Colours) -> str:
    """Return a key that changes with anything that a verdict or a measured fact may depend on."""
    from importlib import resources  # 10 ms, which a child would spend too

    sources = hashlib.sha256()
    for source in sorted(resources.files("headstart.data").iterdir(), key=lambda file: file.name):
        if source.name.endswith(".py"):
            sources.update(source.read_bytes())
    packages = [_version_of("pillow"), _version_of("simplejpeg"), _version_of("pillow-heif")]
    versions = [*packages, *map(features.version, _LIBRARIES)]
    return content_key(sources.hexdigest(), versions, short_side, asdict(limits), asdict(colours))


def _version_of(package: str) -> str:
    """Return the version of an installed package, "" where there is none."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS verdicts"
            " (sha256 BLOB PRIMARY KEY, code TEXT, message TEXT, facts TEXT) WITHOUT ROWID"
        )
    except sqlite3.Error:
        connection.close()
        raise
    path.touch()
    return connection


def _known(code: object, message: object, facts: object) -> Known | None:
    """Return a row of the table, or None where it is not one that we would have written."""
    try:
        return Known(str(code), str(message), Facts(*_DECODER.decode(str(facts))))
    except (ValueError, TypeError, KeyError):
        return None


def _spelled(value: object) -> dict[str, str]:
    """Spell bytes for JSON, which has no word for them."""
    if not isinstance(value, bytes):
        raise TypeError(f"a fact of the type {type(value).__name__} cannot be recorded")
    return {"hex": value.hex()}


def _bytes(value: dict[str, str]) -> bytes:
    return bytes.fromhex(value["hex"])


_DECODER = json.JSONDecoder(object_hook=_bytes)


def _prune(folder: Path, used: Path) -> None:
    """Remove the tables of the rules that were not used for longest."""
    others = [path for path in folder.glob("*.sqlite") if path != used]
    for path in sorted(others, key=lambda path: path.stat().st_mtime)[: 1 - _FILES_KEPT]:
        path.unlink(missing_ok=True)
