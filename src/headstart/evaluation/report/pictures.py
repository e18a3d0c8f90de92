"""The pictures inside a report: data URIs, and not more bytes than a page should carry."""

from __future__ import annotations

import base64
from pathlib import Path

_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


class Pictures:
    """Reads the pictures of a run's folder, until `budget` bytes are spent.

    A picture that is missing, too big or not what it claims to be is left out: an empty string.
    """

    def __init__(self, folder: Path, *, budget: int = 6 * 2**20, most_each: int = 2**20) -> None:
        self.folder = folder
        self.left = budget
        self.most_each = most_each
        self._known: dict[str, str] = {}

    def thumbnail(self, index: int) -> str:
        """Return the thumbnail of a row of the predictions as a data URI, or an empty string."""
        return self.file(f"pictures/{index}.jpg")

    def file(self, name: str) -> str:
        """Return a picture of the folder as a data URI, or an empty string."""
        if name not in self._known:
            self._known[name] = self._read(name)
        uri = self._known[name]
        if len(uri) > self.left:
            return ""
        self.left -= len(uri)
        return uri

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
