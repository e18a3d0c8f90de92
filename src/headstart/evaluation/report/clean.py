"""The page of a cleaning: a person looks at what is suggested, decides, and downloads the table."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from headstart.evaluation.label_next import Rise
from headstart.evaluation.report import wording
from headstart.evaluation.report.page import fill
from headstart.storage import content_key, write_atomic

# What all pictures of a page may weigh as data URIs; the rest is left out, and said to be.
BUDGET = 14 * 2**20


@dataclass
class Album:
    """The pictures of a page, each in it once: JPEG by name."""

    budget: int = BUDGET
    uris: list[str] = field(default_factory=list)
    _places: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, jpeg: bytes) -> int:
        """Return the place of a picture, -1 where there is none or no room for it."""
        if name in self._places:
            return self._places[name]
        uri = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
        if not jpeg or len(uri) > self.budget:
            return -1
        self.budget -= len(uri)
        self._places[name] = len(self.uris)
        self.uris.append(uri)
        return self._places[name]


@dataclass(frozen=True)
class Side:
    """Pictures to compare with: a title, and their places in the album."""

    title: str
    pictures: tuple[int, ...]


@dataclass(frozen=True)
class Copy:
    """One of several pictures that are the same: its place in the album, path, label, part; which stays."""

    picture: int
    path: str
    words: str
    stays: bool


@dataclass(frozen=True)
class Card:
    """A suggestion: its row of the table (eight cells), its picture, and what to compare it with."""

    row: tuple[str, ...]
    picture: int
    sides: tuple[Side, ...] = ()
    copies: tuple[Copy, ...] = ()


@dataclass(frozen=True, eq=False)
class CleanPage:
    """What the page shows.

    `to_label`: (place in the album, path, words) of pictures to label next, chosen from `among`.
    """

    title: str
    run: str
    pictures: int
    classes: tuple[str, ...]
    tags: bool
    cards: tuple[Card, ...]
    album: Album
    to_label: tuple[tuple[int, str, str], ...] = ()
    among: int = 0
    rises: tuple[Rise, ...] = ()


def write_clean_page(path: Path, page: CleanPage) -> None:
    """Write the page as one HTML file that holds all it shows.

    Raises `OutputError` or `StorageError` when the file cannot be written.
    """
    write_atomic(path, render_clean(page).encode("utf-8", errors="backslashreplace"))


def render_clean(page: CleanPage) -> str:
    """Return the page as HTML: a pure function of what it shows.

    Its policy lets no other script run than its own, which is named by its hash, and asks no network.
    """
    from markupsafe import Markup

    script = resources.files("headstart.evaluation.report").joinpath("clean.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return fill(
        "clean.html.jinja",
        {
            "title": page.title,
            "run": page.run,
            "facts": _facts(page),
            "script": Markup(script),
            "script_hash": f"sha256-{digest}",
            "data": Markup(_json(_data(page))),
            "count": len(page.cards),
            "to_label": [(_uri(page.album, place), path, words) for place, path, words in page.to_label],
            "among": page.among,
            "rises": [_rise(rise) for rise in page.rises],
            "without": sum(card.picture < 0 for card in page.cards),
        },
    )


def _facts(page: CleanPage) -> list[str]:
    kinds = [card.row[0] for card in page.cards]
    words = {"relabel": "to relabel", "remove": "to leave out", "duplicate": "copies"}
    return [
        f"{wording.plural(page.pictures, 'picture')} judged",
        *(f"{wording.count(kinds.count(kind))} {what}" for kind, what in words.items() if kind in kinds),
    ]


def _data(page: CleanPage) -> dict[str, Any]:
    rows = [list(card.row) for card in page.cards]
    return {
        "key": content_key(page.run, _spelled(rows)),
        "columns": ["action", "path", "label", "suggested", "confidence", "reason", "group", "apply"],
        "rows": rows,
        "cards": [
            {
                "picture": card.picture,
                "sides": [{"title": side.title, "pictures": list(side.pictures)} for side in card.sides],
                "copies": [vars(copy) for copy in card.copies],
            }
            for card in page.cards
        ],
        "classes": list(page.classes),
        "tags": page.tags,
        "images": page.album.uris,
    }


def _json(value: object) -> str:
    """JSON that no tag can be hidden in; bytes that are not UTF-8 are escaped as the table has them."""
    text = json.dumps(_spelled(value), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _spelled(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", errors="backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {name: _spelled(part) for name, part in value.items()}
    return [_spelled(part) for part in value] if isinstance(value, list) else value


def _uri(album: Album, place: int) -> str:
    return album.uris[place] if place >= 0 else ""


def _rise(rise: Rise) -> Sequence[str]:
    gain = f"{100 * (rise.whole - rise.half):+.1f} ({100 * rise.low:+.1f} … {100 * rise.high:+.1f})"
    verdict = "still rises: more pictures will help" if rise.still_rises else "one cannot tell"
    return (
        rise.name,
        wording.count(rise.pictures),
        wording.percent(rise.half),
        wording.percent(rise.whole),
        gain.replace("-", "\N{MINUS SIGN}"),
        verdict,
    )
