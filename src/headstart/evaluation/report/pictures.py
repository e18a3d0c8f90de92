"""The pictures inside a report: data URIs, each once, and not more bytes than a page should carry."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


class Pictures:
    """Reads the pictures of a run's folder, until `budget` bytes are spent; what is asked for again is free.

    A picture that is missing, too big or not what it claims to be is left out: an empty string.
    """

    def __init__(self, folder: Path, *, budget: int = 8 * 2**20, most_each: int = 2**20) -> None:
        self.folder = folder
        self.left = budget
        self.most_each = most_each
        self._known: dict[str, str] = {}
        self._rows: dict[int, str] = {}

    def keep(self, rows: Iterable[int]) -> None:
        """Take in the thumbnails of rows, the first ones first."""
        for row in rows:
            self.thumbnail(row)

    def thumbnail(self, index: int) -> str:
        """Return the thumbnail of a row of the predictions as a data URI, or an empty string."""
        uri = self.file(f"pictures/{index}.jpg")
        if uri:
            self._rows[index] = uri
        return uri

    def heat(self, index: int) -> str:
        """Return a row's picture with heat over it as a data URI, or an empty string."""
        return self.file(f"pictures/{index}_heat.jpg")

    @property
    def kept(self) -> list[tuple[int, str]]:
        """The thumbnails that were asked for: (row, data URI)."""
        return sorted(self._rows.items())

    def file(self, name: str) -> str:
        """Return a picture of the folder as a data URI, or an empty string."""
        if name not in self._known:
            uri = self._read(name)
            self._known[name] = uri if len(uri) <= self.left else ""
            self.left -= len(self._known[name])
        return self._known[name]

    def _read(self, name: str) -> str:
        path = self.folder / name
        try:
            if not path.is_file() or path.stat().st_size > self.most_each:
                return ""
            data = path.read_bytes()
        except OSError:
            return ""
        kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "")
        return f"data:{kind};base64,{base64.b64encode(data).decode()}" if kind else ""
