"""The page of a check: what was found in a collection of pictures, with thumbnails."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from headstart.evaluation import charts
from headstart.evaluation.report import wording
from headstart.evaluation.report.figures import Figure
from headstart.evaluation.report.page import fill
from headstart.storage import write_atomic

Window = tuple[float, float, float, float]


@dataclass(frozen=True)
class Shot:
    """A thumbnail (JPEG, or nothing) with its path and what to say of it.

    `window`: the part that the network sees: left, top, right, bottom, as shares of the picture.
    """

    path: str
    words: str = ""
    jpeg: bytes = b""
    window: Window | None = None

    @property
    def image(self) -> str:
        """The thumbnail as a data URI, or an empty string."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode()}" if self.jpeg else ""


@dataclass(frozen=True)
class Gallery:
    """Pictures of one finding: a title, a line, and sets of pictures that belong together."""

    code: str
    title: str
    words: str
    sets: tuple[tuple[Shot, ...], ...]

    @property
    def paired(self) -> bool:
        """Whether the pictures of a set are to be compared."""
        return any(len(each) > 1 for each in self.sets)


def write_check_page(path: Path, content: Mapping[str, Any], galleries: Sequence[Gallery] = ()) -> None:
    """Write the page of a check as one HTML file that holds all it shows.

    `content`: as `data.Findings.to_dict` gives it. Raises `OutputError` or `StorageError` when the file
    cannot be written.
    """
    write_atomic(path, render_check(content, galleries).encode("utf-8", errors="backslashreplace"))


def render_check(content: Mapping[str, Any], galleries: Sequence[Gallery] = ()) -> str:
    """Return the page of a check as HTML: a pure function of what was found."""
    sizes = content["sizes"]
    counts = content["classes"]
    most = max(counts.values(), default=0) or 1
    return fill(
        "check.html.jinja",
        {
            "wording": wording,
            "root": content["root"],
            "title": Path(content["root"]).name or content["root"],
            "facts": _facts(content),
            "notes": content["notes"],
            "findings": content["findings"],
            "galleries": galleries,
            "classes": [(name, count, 100 * count / most) for name, count in counts.items()],
            "quantiles": _quantile_rows(sizes),
            "cut": _cut_rows(sizes),
            "charts": _charts(sizes),
            "suggested": sizes.get("suggested_size"),
            "resize": content["resize"],
            "stored": {"modes": content["modes"], "formats": content["formats"]},
        },
    )


def _facts(content: Mapping[str, Any]) -> list[str]:
    facts = [wording.plural(content["pictures"], "picture")]
    unusable = content["pictures"] - content["usable"]
    if unusable:
        facts.append(f"{wording.count(unusable)} cannot be used")
    facts.append(wording.plural(len(content["classes"]), "class", "classes"))
    facts += [f"{wording.count(count)} in {part}" for part, count in content["splits"].items()]
    return facts


def _quantile_rows(sizes: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    rows = []
    for name, values in sizes.get("quantiles", {}).items():
        digits = 2 if name == "aspect" else 0
        label = {"aspect": "Width over height"}.get(name, name.replace("_", " ").capitalize())
        rows.append((label, [wording.number(value, digits) for value in values.values()]))
    return rows


def _cut_rows(sizes: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    return [
        (name, [wording.percent(value, 0) for value in values.values()])
        for name, values in sizes.get("cut_away", {}).items()
    ]


def _charts(sizes: Mapping[str, Any]) -> list[Figure]:
    titles = {"width": "Width", "height": "Height", "aspect": "Width over height"}
    drawn = []
    for name, title in titles.items():
        histogram = sizes.get("histograms", {}).get(name)
        if histogram:
            unit = "" if name == "aspect" else "pixels"
            suggested = None if name == "aspect" else sizes["suggested_size"]
            drawn.append(Figure(title, _histogram(title, unit, histogram, suggested)))
    return drawn


def _histogram(title: str, unit: str, histogram: Mapping[str, Any], suggested: int | None) -> Any:
    """Draw a histogram as an outline; a mark shows the suggested training size."""
    edges, counts = histogram["edges"], histogram["counts"]
    steps = [(x, y) for span, y in zip(pairwise(edges), counts, strict=True) for x in span]
    xs = [edges[0], *(x for x, _ in steps), edges[-1]]
    ys = [0, *(y for _, y in steps), 0]
    marks = []
    if suggested is not None and edges[0] <= suggested <= edges[-1]:
        marks.append(charts.Mark(float(suggested), f"train at {suggested}"))
    axes = charts.Axes(unit or "width / height", "pictures", y_range=(0.0, 1.08 * max(*counts, 1)))
    peak = counts.index(max(counts))
    words = f"{title} of the pictures: most lie between {edges[peak]:g} and {edges[peak + 1]:g}."
    return charts.line_chart(words, axes, [charts.Series(xs, ys, "accent")], marks=marks)
