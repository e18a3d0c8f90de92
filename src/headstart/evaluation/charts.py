"""Charts as inline SVG: small, sharp at any size, and coloured by the page's own style sheet.

Every function returns `Markup` that is safe to put into HTML: all text in it is escaped. Colours
come from CSS classes, so one chart serves light, dark and paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from headstart.evaluation.calibration import ReliabilityBin

WIDTH, HEIGHT = 420.0, 264.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 12.0, 34.0, 40.0
_MOST_POINTS = 300

Range = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line: values of x and y (not finite: a gap), its CSS class and its name in the legend."""

    x: Sequence[float]
    y: Sequence[float]
    style: str
    label: str = ""
    dots: bool = False


@dataclass(frozen=True)
class Mark:
    """Something at one place: a dot where `y` is given, else a line across at `x`."""

    x: float
    label: str
    y: float | None = None
    style: str = "mark"


@dataclass(frozen=True)
class Whisker:
    """A value with its interval, at `x`; `name` is written above, `label` shown on hover."""

    x: float
    value: float
    low: float
    high: float
    label: str = ""
    name: str = ""
    hollow: bool = False
    size: float = 4.5


@dataclass(frozen=True)
class Band:
    """A stretch of x with a name; shaded where it did not count."""

    start: float
    end: float
    name: str
    shaded: bool = False


@dataclass(frozen=True)
class Axes:
    """What the axes mean: labels, whether x is logarithmic or either in percent, and the limits."""

    x_label: str
    y_label: str
    log_x: bool = False
    x_percent: bool = False
    y_percent: bool = False
    x_range: Range | None = None
    y_range: Range | None = None


def line_chart(
    description: str,
    axes: Axes,
    series: Sequence[Series] = (),
    *,
    marks: Sequence[Mark] = (),
    whiskers: Sequence[Whisker] = (),
    bands: Sequence[Band] = (),
) -> Markup:
    """Draw lines, marks and whiskers; `description` is what a screen reader says."""
    xs = [*_finite(x for line in series for x in line.x), *(each.x for each in whiskers)]
    ys = [
        *_finite(y for line in series for y in line.y),
        *(edge for each in whiskers for edge in (each.low, each.high)),
    ]
    x_range = axes.x_range or _extent(xs, log=axes.log_x)
    y_range = axes.y_range or _padded(_extent(ys))
    place_x = _scale(x_range, _LEFT, WIDTH - _RIGHT, log=axes.log_x)
    place_y = _scale(y_range, HEIGHT - _BOTTOM, _TOP)
    parts = [_frame(axes, x_range, y_range, place_x, place_y)]
    parts += [_band(band, place_x) for band in bands]
    parts += [_vertical(place_x(mark.x), mark) for mark in marks if mark.y is None]
    parts.append(_plot_area([_line(line, place_x, place_y) for line in series]))
    parts += [_points(line, place_x, place_y) for line in series if line.dots]
    parts += [_dot(place_x(mark.x), place_y(mark.y), mark) for mark in marks if mark.y is not None]
    parts += _whiskers(whiskers, place_x, place_y)
    return _svg(description, WIDTH, HEIGHT, parts, "chart")


def reliability_chart(bins: Sequence[ReliabilityBin], description: str) -> Markup:
    """Draw how often the model is right against how sure it is; larger dots hold more pictures."""
    most = max((each.count for each in bins), default=1)
    whiskers = [
        Whisker(
            each.confidence,
            each.accuracy,
            each.low,
            each.high,
            f"{each.count} pictures: {100 * each.confidence:.0f} % sure, {100 * each.accuracy:.0f} % right",
            size=2.5 + 4.5 * math.sqrt(each.count / most),
        )
        for each in bins
    ]
    diagonal = Series((0.0, 1.0), (0.0, 1.0), "dashed")
    axes = Axes(
        "how sure", "how often right", x_percent=True, y_percent=True, x_range=(0.0, 1.0), y_range=(0.0, 1.0)
    )
    return line_chart(description, axes, [diagonal], whiskers=whiskers)


def interval_bar(value: float, low: float, high: float, limits: Range, *, zero: bool) -> Markup:
    """Draw one figure with its interval on a shared scale, to stand in a table cell.

    With `zero` there is a line at zero, and the dot is hollow where the interval holds zero.
    """
    width, height = 132.0, 18.0
    place = _scale(limits, 6.0, width - 6.0)
    middle = height / 2
    left, right = place(max(low, limits[0])), place(min(high, limits[1]))
    unsure = zero and low <= 0 <= high
    tone = "unsure" if unsure else ("bad" if zero and high < 0 else "good")
    edge = place(0.0) if zero else 6.0
    dot = place(min(max(value, limits[0]), limits[1]))
    parts = [
        Markup('<line class="track" x1="6" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
            width - 6, middle, middle
        ),
        Markup('<line class="zero" x1="{0:.1f}" x2="{0:.1f}" y1="1" y2="{1:.1f}"/>').format(edge, height - 1)
        if zero
        else Markup(""),
        Markup('<line class="reach {}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(
            tone, left, right, middle, middle
        ),
        Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="4"/>').format(tone, dot, middle),
    ]
    body = Markup("").join(parts)
    return Markup('<svg class="bar" viewBox="0 0 {:.0f} {:.0f}" aria-hidden="true">{}</svg>').format(
        width, height, body
    )


def confusion_map(matrix: NDArray[np.int64], classes: Sequence[str], description: str) -> Markup:
    """Draw a confusion matrix of many classes as a map: truth down, prediction across.

    The shade is the share of the row; each cell says on hover what it is.
    """
    count = len(classes)
    side = 600.0
    cell = side / count
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    parts = [Markup('<rect class="plane" x="0" y="0" width="{0:.0f}" height="{0:.0f}"/>').format(side)]
    for row, column in np.argwhere(matrix > 0).tolist():
        right = row == column
        strength = shares[row, column] if right else math.sqrt(shares[row, column])
        parts.append(
            Markup(
                '<rect class="{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}" '
                'opacity="{:.2f}"><title>{} called {}: {}</title></rect>'
            ).format(
                "hit" if right else "miss",
                column * cell,
                row * cell,
                cell,
                cell,
                0.15 + 0.85 * strength,
                classes[row],
                classes[column],
                matrix[row, column],
            )
        )
    return _svg(description, side, side, parts, "map")


def thinned(values: Sequence[float], most: int = _MOST_POINTS) -> list[tuple[float, float]]:
    """Return (position 0 … 1, mean) of at most `most` even stretches of a long series."""
    if not len(values):
        return []
    pieces = np.array_split(np.asarray(values, dtype=np.float64), min(most, len(values)))
    return [((number + 0.5) / len(pieces), float(piece.mean())) for number, piece in enumerate(pieces)]


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers within low … high."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def finder_range(losses: Sequence[float]) -> Range:
    """Return limits for a finder's curve: from the lowest loss to a little above where it began.

    The explosion after that says no more, and would flatten the rest. Where the loss never fell,
    half of its values are in view.
    """
    finite = _finite(losses)
    if not finite:
        return (0.0, 1.0)
    lowest = min(finite)
    highest = max(max(finite[: finite.index(lowest) + 1]), float(np.median(finite)))
    reach = max(highest - lowest, 0.05 * abs(lowest), 1e-6)
    return (lowest - 0.12 * reach, highest + 0.35 * reach)


def _finite(values: Iterable[float | None]) -> list[float]:
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def _extent(values: Sequence[float], *, log: bool = False) -> Range:
    kept = [value for value in _finite(values) if not log or value > 0]
    if not kept:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = min(kept), max(kept)
    if low == high:
        return (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    return (low, high)


def _padded(limits: Range) -> Range:
    reach = limits[1] - limits[0]
    return (limits[0] - 0.06 * reach, limits[1] + 0.06 * reach)


def _scale(limits: Range, start: float, end: float, *, log: bool = False) -> Callable[[float], float]:
    low, high = (math.log10(limits[0]), math.log10(limits[1])) if log else limits
    reach = (high - low) or 1.0

    def place(value: float) -> float:
        number = math.log10(max(value, 1e-300)) if log else value
        return start + (number - low) / reach * (end - start)

    return place


def _frame(
    axes: Axes,
    x_range: Range,
    y_range: Range,
    place_x: Callable[[float], float],
    place_y: Callable[[float], float],
) -> Markup:
    parts = []
    for tick in nice_ticks(*y_range):
        y = place_y(tick)
        label = f"{100 * tick:.4g} %" if axes.y_percent else f"{tick:.4g}"
        parts.append(
            Markup(
                '<line class="grid" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>'
                '<text class="tick end" x="{:.1f}" y="{:.1f}">{}</text>'
            ).format(_LEFT, WIDTH - _RIGHT, y, y, _LEFT - 6, y + 4, label)
        )
    for tick in _decades(x_range) if axes.log_x else nice_ticks(*x_range, count=6):
        label = f"{100 * tick:.4g} %" if axes.x_percent else f"{tick:.4g}"
        parts.append(
            Markup('<text class="tick middle" x="{:.1f}" y="{:.1f}">{}</text>').format(
                place_x(tick), HEIGHT - _BOTTOM + 16, label
            )
        )
    parts.append(
        Markup(
            '<text class="label middle" x="{:.1f}" y="{:.1f}">{}</text>'
            '<text class="label" x="4" y="10">{}</text>'
        ).format((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 5, axes.x_label, axes.y_label)
    )
    return Markup("").join(parts)


def _decades(limits: Range) -> list[float]:
    first, last = math.ceil(math.log10(limits[0]) - 1e-9), math.floor(math.log10(limits[1]) + 1e-9)
    step = max(1, math.ceil((last - first) / 6))
    return [10.0**power for power in range(first, last + 1, step)]


def _band(band: Band, place_x: Callable[[float], float]) -> Markup:
    left, right = place_x(band.start), place_x(band.end)
    bottom = HEIGHT - _BOTTOM
    return Markup(
        '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
        '<line class="divider" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>'
        '<text class="tick middle" x="{:.1f}" y="{:.1f}">{}</text>'
    ).format(
        "band shaded" if band.shaded else "band",
        left,
        _TOP,
        right - left,
        bottom - _TOP,
        right,
        right,
        _TOP,
        bottom,
        (left + right) / 2,
        _TOP - 5,
        band.name,
    )


def _vertical(x: float, mark: Mark) -> Markup:
    return Markup(
        '<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>'
        '<text class="tick middle" x="{:.1f}" y="{:.1f}">{}</text>'
    ).format(mark.style, x, x, _TOP, HEIGHT - _BOTTOM, x, _TOP - 5, mark.label)


def _plot_area(parts: Sequence[Markup]) -> Markup:
    """Cut off what goes beyond the axes: an inner picture shows nothing outside itself."""
    width, height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    return Markup(
        '<svg class="plot" x="{0:.0f}" y="{1:.0f}" width="{2:.0f}" height="{3:.0f}" '
        'viewBox="{0:.0f} {1:.0f} {2:.0f} {3:.0f}">{4}</svg>'
    ).format(_LEFT, _TOP, width, height, Markup("").join(parts))


def _line(line: Series, place_x: Callable[[float], float], place_y: Callable[[float], float]) -> Markup:
    pieces: list[list[str]] = [[]]
    for x, y in zip(line.x, line.y, strict=True):
        if math.isfinite(y):
            pieces[-1].append(f"{place_x(x):.1f},{place_y(y):.1f}")
        else:
            pieces.append([])
    return Markup("").join(
        Markup('<polyline class="{} line" points="{}"/>').format(line.style, " ".join(piece))
        for piece in pieces
        if len(piece) > 1
    )


def _points(line: Series, place_x: Callable[[float], float], place_y: Callable[[float], float]) -> Markup:
    dot = Markup('<circle class="{} point" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>')
    return Markup("").join(
        dot.format(line.style, place_x(x), place_y(y), f"{line.label} {y:.4g}")
        for x, y in zip(line.x, line.y, strict=True)
        if math.isfinite(y)
    )


def _dot(x: float, y: float, mark: Mark) -> Markup:
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="4.5"><title>{}</title></circle>').format(
        mark.style, x, y, mark.label
    )


def _whiskers(
    whiskers: Sequence[Whisker], place_x: Callable[[float], float], place_y: Callable[[float], float]
) -> list[Markup]:
    """Hollow ones below the others; of names that would overlap only the first, the filled ones first."""
    order = sorted(whiskers, key=lambda each: each.hollow)
    named: list[tuple[float, float]] = []
    names = []
    for each in order:
        x, y = place_x(each.x), place_y(each.high) - 4
        if each.name and all(abs(x - left) > 12 or abs(y - top) > 13 for left, top in named):
            named.append((x, y))
            text = Markup('<text class="tick middle" x="{:.1f}" y="{:.1f}">{}</text>')
            names.append(text.format(x, y, each.name))
    return [_whisker(each, place_x, place_y) for each in reversed(order)] + names


def _whisker(each: Whisker, place_x: Callable[[float], float], place_y: Callable[[float], float]) -> Markup:
    x, value, low, high = place_x(each.x), place_y(each.value), place_y(each.low), place_y(each.high)
    return Markup(
        '<g><title>{}</title><line class="whisker" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>'
        '<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/></g>'
    ).format(each.label, x, x, low, high, "unsure" if each.hollow else "good", x, value, each.size)


def _svg(description: str, width: float, height: float, parts: Sequence[Markup], style: str) -> Markup:
    return Markup('<svg class="{}" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        style, width, height, escape(description), Markup("").join(parts)
    )
