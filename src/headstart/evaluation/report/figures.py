"""The charts of the report: from the rows of a run to drawings with a title and a legend."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from headstart.evaluation import charts
from headstart.evaluation.calibration import ReliabilityBin
from headstart.evaluation.metrics import Interval
from headstart.evaluation.report import wording

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A drawing with its title, a legend of (CSS class, words), and a caption."""

    title: str
    drawing: Markup
    legend: tuple[tuple[str, str], ...] = ()
    caption: str = ""
    facts: tuple[tuple[str, str], ...] = field(default=())


def against_time(steps: Sequence[Row], metric: str = "accuracy") -> list[Figure]:
    """What every step reached in a metric and in log loss, against the seconds spent until then."""
    drawn = [_against_time(steps, name) for name in dict.fromkeys((metric, "log_loss"))]
    return [each for each in drawn if each is not None]


def _against_time(steps: Sequence[Row], metric: str) -> Figure | None:
    share = metric == "accuracy"

    def write(value: float) -> str:
        return wording.metric_text(metric, value)

    spent = itertools.accumulate(float(step.get("seconds") or 0.0) for step in steps)
    whiskers = []
    for step, seconds in zip(steps, spent, strict=True):
        figure = _complete((step.get("metrics") or {}).get(metric))
        if figure is not None:
            text = f"{step.get('name')}: {write(figure['value'])} after {wording.duration(seconds)}"
            place = (seconds, figure["value"], figure["low"], figure["high"])
            undone = step.get("kept") is False
            whiskers.append(charts.Whisker(*place, text, name=str(step.get("number")), hollow=undone))
    kept = [each for each in whiskers if not each.hollow]
    if len(whiskers) < 2 or not kept:
        return None
    name = wording.metric_name(metric).lower() if "_" in metric or share else wording.metric_name(metric)
    line = charts.Series([each.x for each in kept], [each.value for each in kept], "accent")
    limits = (0.0, 1.04 * max(each.x for each in whiskers) + 1e-6)
    axes = charts.Axes("seconds spent", name, y_percent=share, x_range=limits)
    title = name[:1].upper() + name[1:]
    words = f"{title} after each step, from {write(kept[0].value)} to {write(kept[-1].value)}."
    return Figure(
        f"{title} against time",
        charts.line_chart(words, axes, [line], whiskers=whiskers),
        caption=f"Dots carry the step's number and {wording.INTERVAL}; hollow ones were undone.",
    )


def finder(found: Row) -> Figure:
    """One learning-rate finder: the loss over the rate, with what was suggested and chosen."""
    rates = [float(rate) for rate in found.get("rates") or []]
    losses = [_number(value) for value in found.get("losses") or []]
    smoothed = [_number(value) for value in found.get("smoothed") or []] or losses
    chosen = found.get("chosen")
    suggestions = {name: rate for name, rate in (found.get("suggestions") or {}).items() if rate}
    low, high = charts.finder_range(smoothed)
    series = [
        charts.Series(rates[: len(losses)], losses, "faint"),
        charts.Series(rates[: len(smoothed)], smoothed, "accent"),
    ]
    marks = [
        charts.Mark(rate, f"{name} {wording.rate(rate)}", _at(rate, rates, smoothed), "mark-dot")
        for name, rate in suggestions.items()
        if rates
    ]
    if chosen:
        marks.append(charts.Mark(float(chosen), f"chosen {wording.rate(chosen)}"))
    axes = charts.Axes("learning rate", "loss", log_x=True, y_range=(low, high))
    facts = [(name, wording.rate(rate)) for name, rate in suggestions.items()]
    facts += [("chosen", wording.rate(chosen))] if chosen else []
    title = str(found.get("title") or "Learning rates")
    return Figure(
        title,
        charts.line_chart(
            f"{title}: loss over the learning rate; {wording.rate(chosen)} was chosen.",
            axes,
            series,
            marks=marks,
        ),
        legend=(("faint", "each trial step"), ("accent", "smoothed")),
        caption=str(found.get("note") or ""),
        facts=tuple(facts),
    )


def training_curves(history: Sequence[Row], steps: Sequence[Row], metric: str = "accuracy") -> list[Figure]:
    """Losses, metric and rates over the epochs of the run, with the steps marked."""
    history = [row for row in history if not _is_part(row)]
    if not history:
        return []
    bands = _bands(history, steps)
    limits = (0.0, float(len(history)))
    epochs = [number + 1.0 for number in range(len(history))]
    figures = [_loss_curves(history, epochs, limits, bands)]
    values = [_number(row.get(metric)) for row in history]
    if metric != "log_loss" and any(map(math.isfinite, values)):
        name = metric.replace("_", " ") if metric != "f2" else "F2"
        axes = charts.Axes("epoch", name, y_percent=metric == "accuracy", x_range=limits)
        line = charts.Series(epochs, values, "accent", name, dots=True)
        best = max(filter(math.isfinite, values))
        drawing = charts.line_chart(
            f"Validation {name} by epoch; the highest is {wording.metric_text(metric, best)}.",
            axes,
            [line],
            bands=bands,
        )
        figures.append(Figure(f"Validation {name}", drawing, (("accent", "after each epoch"),)))
    figures += _step_curves(history, limits, bands)
    return figures


def _is_part(row: Row) -> bool:
    """Whether a row is of a probe that had not seen all pictures."""
    return bool(row.get("part"))


def more_pictures(history: Sequence[Row], metric: str = "accuracy") -> Figure | None:
    """How well the probe did with the first of the training pictures, and with more of them."""
    rows = [
        row for row in history if row.get("step") == 0 and row.get("pictures") and _complete_row(row, metric)
    ]
    if len(rows) < 2:
        return None
    name, share = metric.replace("_", " "), metric != "log_loss"
    write = wording.percent if share else "{:.3g}".format
    whiskers = [
        charts.Whisker(
            float(row["pictures"]),
            row[metric],
            row["low"],
            row["high"],
            f"{row['pictures']:,} pictures: {write(row[metric])}",
        )
        for row in rows
    ]
    line = charts.Series([each.x for each in whiskers], [each.value for each in whiskers], "accent")
    limits = (whiskers[0].x / 1.5, whiskers[-1].x * 1.5)
    axes = charts.Axes("training pictures", name, log_x=True, y_percent=share, x_range=limits)
    words = (
        f"{name.capitalize()} of the probe from {rows[0]['pictures']} pictures, {write(rows[0][metric])}, "
        f"to {rows[-1]['pictures']}, {write(rows[-1][metric])}."
    )
    return Figure(
        "What more pictures bring",
        charts.line_chart(words, axes, [line], whiskers=whiskers),
        caption=f"The probe on a part of the training pictures, with {wording.INTERVAL}: while it still "
        "rises, more pictures help.",
    )


def _complete_row(row: Row, metric: str) -> bool:
    return all(row.get(name) is not None for name in (metric, "low", "high"))


def _loss_curves(
    history: Sequence[Row],
    epochs: list[float],
    limits: charts.Range,
    bands: Sequence[charts.Band],
) -> Figure:
    train = [_number(row.get("train_loss")) for row in history]
    valid = [_number(row.get("valid_loss")) for row in history]
    series = [
        charts.Series(epochs, train, "plain", "training", dots=True),
        charts.Series(epochs, valid, "accent", "validation", dots=True),
    ]
    words = "Training and validation loss by epoch."
    finite = [value for value in valid if math.isfinite(value)]
    if finite:
        words += f" Validation went from {finite[0]:.3g} to {finite[-1]:.3g}, at best {min(finite):.3g}."
    drawing = charts.line_chart(words, charts.Axes("epoch", "loss", x_range=limits), series, bands=bands)
    legend = (("plain", "training"), ("accent", "validation"))
    return Figure("Loss by epoch", drawing, legend, "Shaded: epochs of steps that were undone.")


def _step_curves(history: Sequence[Row], limits: charts.Range, bands: Sequence[charts.Band]) -> list[Figure]:
    figures = []
    losses = _within_epochs(history, "batch_losses")
    if losses:
        xs, ys = zip(*losses, strict=True)
        series = [charts.Series(xs, ys, "faint"), charts.Series(xs, _smooth(ys), "accent")]
        axes = charts.Axes("epoch", "loss", x_range=limits)
        drawing = charts.line_chart("Training loss of every batch.", axes, series, bands=bands)
        legend = (("faint", "each batch"), ("accent", "smoothed"))
        figures.append(Figure("Training loss by batch", drawing, legend))
    rates = _within_epochs(history, "batch_rates")
    if rates:
        xs, ys = zip(*_apart(rates, history), strict=True)
        axes = charts.Axes("epoch", "learning rate", x_range=limits)
        known = [rate for _, rate in rates]
        words = f"Learning rate of the head, between {min(known):.2g} and {max(known):.2g}."
        drawing = charts.line_chart(words, axes, [charts.Series(xs, ys, "accent")], bands=bands)
        figures.append(Figure("Learning rate", drawing, (("accent", "of the last group, the head"),)))
    return figures


def reliability(bins: Sequence[ReliabilityBin]) -> Figure:
    """How often the model is right, against how sure it is."""
    worst = max(bins, key=lambda each: abs(each.confidence - each.accuracy) * each.count)
    words = (
        f"Reliability: of the pictures it is about {100 * worst.confidence:.0f} % sure of, "
        f"the model gets {100 * worst.accuracy:.0f} % right."
    )
    legend = (
        ("good", f"pictures of like confidence, with {wording.INTERVAL}"),
        ("dashed", "perfect calibration"),
    )
    return Figure("Sure and right", charts.reliability_chart(bins, words), legend)


def confusion_map(matrix: NDArray[np.int64], classes: Sequence[str]) -> Markup:
    """A confusion matrix of many classes."""
    right, total = int(np.trace(matrix)), int(matrix.sum())
    words = f"Confusion matrix of {len(classes)} classes: {right} of {total} pictures on the diagonal."
    return charts.confusion_map(matrix, classes, words)


def share_limits(shares: Sequence[Interval]) -> charts.Range:
    """The scale that the shares of all classes share: from a round figure below them all, to 1."""
    low = min((share.low for share in shares if not math.isnan(share.value)), default=0.0)
    return (min(math.floor(10 * low) / 10, 0.9), 1.0)


def share_bar(share: Interval, limits: charts.Range) -> Markup:
    """A share with its interval on the shared scale."""
    return charts.interval_bar(share.value, share.low, share.high, limits, zero=False)


def gain_limits(steps: Sequence[Row]) -> charts.Range:
    """The scale that the gains of all steps share; it holds zero."""
    gains = [gain for step in steps if (gain := _complete(step.get("gain"))) is not None]
    low = min((gain["low"] for gain in gains), default=0.0)
    high = max((gain["high"] for gain in gains), default=0.0)
    reach = max(high, -low, 1e-6)
    return (min(low, -0.1 * reach), max(high, 0.1 * reach))


def gain_bar(gain: Row, limits: charts.Range) -> Markup:
    """A gain with its interval on the shared scale."""
    if _complete(gain) is None:
        return Markup("")
    return charts.interval_bar(gain["value"], gain["low"], gain["high"], limits, zero=True)


def _complete(figure: Row | None) -> Row | None:
    """The figure if value, low and high are known."""
    if figure is None or any(figure.get(name) is None for name in ("value", "low", "high")):
        return None
    return figure


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _at(rate: float, rates: Sequence[float], losses: Sequence[float]) -> float:
    return float(np.interp(math.log(rate), np.log(rates[: len(losses)]), losses))


def _bands(history: Sequence[Row], steps: Sequence[Row]) -> list[charts.Band]:
    undone = {step.get("number") for step in steps if step.get("kept") is False}
    bands = []
    start = 0
    for step, rows in itertools.groupby(history, key=lambda row: row.get("step")):
        end = start + len(list(rows))
        bands.append(charts.Band(start, end, str(step), shaded=step in undone))
        start = end
    return bands


def _within_epochs(history: Sequence[Row], key: str) -> list[tuple[float, float]]:
    """Every batch of every epoch as (epoch with its fraction, value), thinned to fit a drawing."""
    points = []
    for epoch, row in enumerate(history):
        values = [_number(value) for value in _flat(row.get(key) or [])]
        most = max(20, 600 // len(history))
        points += [(epoch + place, value) for place, value in charts.thinned(values, most)]
    return [(x, y) for x, y in points if math.isfinite(y)]


def _apart(points: Sequence[tuple[float, float]], history: Sequence[Row]) -> list[tuple[float, float]]:
    """The points with a gap wherever another step begins: between two plans there is no rate."""
    begins = [
        float(epoch)
        for epoch in range(1, len(history))
        if history[epoch].get("step") != history[epoch - 1].get("step")
    ]
    return sorted([*points, *((epoch, math.nan) for epoch in begins)], key=lambda point: point[0])


def _flat(values: Sequence[Any]) -> list[float | None]:
    """Rates are kept as one list, or as a list for each group, of which the last is the head's."""
    if values and isinstance(values[-1], list):
        return list(values[-1])
    return list(values)


def _smooth(values: Sequence[float], share: float = 0.9) -> list[float]:
    """The exponential mean, corrected for its start (Kingma and Ba 2015)."""
    mean, smooth = 0.0, []
    for number, value in enumerate(values, start=1):
        mean = share * mean + (1 - share) * value
        smooth.append(mean / (1 - share**number))
    return smooth
