"""Figures of pictures: results, top losses, heat maps, the map of embeddings; and of slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from headstart.errors import UsageError
from headstart.evaluation.plots import (
    ACCENT,
    FAINT,
    GRID,
    INK,
    finish_axes,
    legend_above,
    new_figure,
    plain,
    show_pictures,
)
from headstart.types import Pixels

if TYPE_CHECKING:
    from headstart.evaluation.explanation import Explanation
    from headstart.evaluation.interpret_base import Example
    from headstart.evaluation.slicing import Slice

WRONG = "#b91c1c"
MOST_SLICES = 24
_MOST_COLOURS = 20
_THUMBNAIL = 48  # pixels
_PLACES = (11, 8)  # across, down: so many thumbnails at most


def show_results(examples: Sequence[Example], pictures: Sequence[Pixels]) -> Figure:
    """Show pictures titled `prediction / truth`; where these differ in red."""
    titles = [f"{example.prediction or '?'} / {example.truth}" for example in examples]
    colors = [ACCENT if example.prediction == example.truth else WRONG for example in examples]
    return show_pictures(pictures, titles, title="prediction / truth", colors=colors)


def plot_top_losses(
    examples: Sequence[Example],
    pictures: Sequence[Pixels] = (),
    *,
    explanations: Sequence[Explanation] = (),
) -> Figure:
    """Show examples titled `prediction / truth / loss`, of classes also `/ probability of the truth`.

    `explanations`, where they are given, take the place of the pictures: the view with its heat map. Raises
    `UsageError` where there are not as many as examples.
    """
    shown = [each.overlay() for each in explanations] if explanations else list(pictures)
    if len(shown) != len(examples):
        raise UsageError(f"{len(examples)} examples need as many pictures, not {len(shown)}")
    names = "prediction / truth / loss"
    titles = [f"{example.prediction} / {example.truth} / {example.loss:.2f}" for example in examples]
    if not any(example.tag for example in examples):
        names += " / probability of the truth"
        titles = [
            f"{title} / {example.truth_probability:.2f}"
            for title, example in zip(titles, examples, strict=True)
        ]
    return show_pictures(shown, titles, title=names)


def plot_explanations(explanations: Sequence[Explanation], *, columns: int = 3) -> Figure:
    """Show each view beside its heat map, titled with what is explained and its probability.

    Pictures that could not be read are left out.
    """
    seen = [each for each in explanations if each.view is not None and each.heat is not None]
    pictures: list[Pixels] = []
    titles: list[str] = []
    for each in seen:
        assert each.view is not None  # chosen so
        pictures += [each.view, each.overlay()]
        about = f", in truth {each.truth}" if each.truth and each.truth != each.label else ""
        titles += [f"{each.label} {100 * each.probability:.0f} %{about}", each.method]
    return show_pictures(pictures, titles, columns=2 * max(1, min(columns, len(seen))))


def plot_slices(slices: Sequence[Slice]) -> Figure:
    """Plot the accuracy of slices with 95 % intervals; the worse ones are marked, at most 24 are shown."""
    shown = [each for each in slices if not np.isnan(each.accuracy.value)][:MOST_SLICES]
    figure = new_figure(7.2, 1.4 + 0.32 * max(len(shown), 1))
    axes = figure.add_subplot()
    for number, each in enumerate(shown):
        color = WRONG if each.worse else ACCENT
        axes.plot([each.accuracy.low, each.accuracy.high], [number, number], color=color, linewidth=1.6)
        axes.plot([each.accuracy.value], [number], marker="o", color=color, linestyle="none")
        axes.plot([each.rest_accuracy], [number], marker="|", markersize=11, color=FAINT, linestyle="none")
    axes.plot([], [], color=ACCENT, marker="o", label="slice, 95 % interval")
    axes.plot([], [], color=WRONG, marker="o", label="worse than the rest")
    axes.plot([], [], color=FAINT, marker="|", markersize=11, linestyle="none", label="the rest")
    axes.set_yticks(range(len(shown)), [plain(_called(each)) for each in shown])
    axes.invert_yaxis()
    finish_axes(axes, "accuracy", "")
    legend_above(axes)
    return figure


def _called(each: Slice) -> str:
    return f"{each.column} = {each.value} ({each.count})"


def plot_embeddings(
    points: ArrayLike,
    labels: Sequence[str],
    *,
    picture: Callable[[int], Pixels] | None = None,
    wrong: ArrayLike | None = None,
    title: str = "",
) -> Figure:
    """Plot a map of pictures: a dot each, coloured by label, with thumbnails where `picture` is given.

    `points`: (rows, 2), see `project`; `labels`: the class of each row; `picture`: from a row of these to its
    pixels. `wrong`: bool (rows,), ringed. Of thumbnails as many are drawn as there is room for. Up to 20
    labels have a colour and a name each; of more, the colours repeat. Raises `UsageError` where the labels
    are not as many.
    """
    places = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    if len(labels) != len(places):
        raise UsageError(f"{len(places)} points need as many labels, not {len(labels)}")
    figure = new_figure(9.0, 7.2)
    axes = figure.add_subplot()
    names = sorted(set(labels))
    numbers = np.array([names.index(label) for label in labels], np.int64)
    colours = colormaps["tab10" if len(names) <= 10 else "tab20"](np.arange(len(names)) % _MOST_COLOURS)
    for number, name in enumerate(names):
        some = places[numbers == number]
        label = f"{plain(name)} ({len(some)})" if len(names) <= _MOST_COLOURS else None
        axes.scatter(
            some[:, 0], some[:, 1], s=16, color=colours[number], alpha=0.8, linewidths=0, label=label
        )
    if wrong is not None:
        ringed = places[np.asarray(wrong, dtype=np.bool_)]
        axes.scatter(
            ringed[:, 0],
            ringed[:, 1],
            s=60,
            facecolors="none",
            edgecolors=WRONG,
            label=f"wrong ({len(ringed)})",
        )
    if picture is not None:
        for row in _apart(places):
            _thumbnail(axes, picture(row), places[row], colours[numbers[row]])
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(GRID)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    if title:
        axes.set_title(plain(title), fontsize=11, color=INK)
    return figure


def _apart(places: NDArray[np.float64]) -> list[int]:
    """Return rows whose thumbnails do not cover each other: the one nearest the middle of each field."""
    if not len(places):
        return []
    low, reach = places.min(axis=0), np.maximum(np.ptp(places, axis=0), 1e-12)
    fields = (places - low) / reach * (np.array(_PLACES) - 1)
    nearest = np.rint(fields)
    away = ((fields - nearest) ** 2).sum(axis=1)
    order = np.lexsort((away, nearest[:, 1], nearest[:, 0]))
    first = np.unique(nearest[order], axis=0, return_index=True)[1]
    return [int(order[number]) for number in first]


def _thumbnail(axes: Axes, picture: Pixels, place: NDArray[np.float64], colour: NDArray[np.float64]) -> None:
    import cv2
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    scale = _THUMBNAIL / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    box = AnnotationBbox(
        OffsetImage(small),
        (float(place[0]), float(place[1])),
        pad=0.12,
        bboxprops={"edgecolor": colour, "linewidth": 2.0},
    )
    axes.add_artist(box)
