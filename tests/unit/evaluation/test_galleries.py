"""Figures of pictures: each shows what it says it shows."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox

from headstart.errors import UsageError
from headstart.evaluation import (
    Example,
    Explanation,
    Interval,
    Slice,
    plot_embeddings,
    plot_explanations,
    plot_slices,
    plot_top_losses,
    show_results,
)
from headstart.evaluation.galleries import WRONG
from headstart.types import Pixels

PICTURES: list[Pixels] = [np.full((20, 30, 3), 40 * number, np.uint8) for number in range(4)]


def example(number: int, prediction: str = "cat", truth: str = "dog", tag: str = "") -> Example:
    return Example(number, number, f"{number}.jpg", prediction, truth, 1.5, 0.8, 0.2, tag)


def explanation(number: int, **changes: object) -> Explanation:
    heat = np.zeros((20, 30), np.float32)
    heat[:5, :5] = 1
    fields = {"label": "cat", "probability": 0.8, "view": PICTURES[number], "heat": heat, "method": "gradcam"}
    return Explanation(f"{number}.jpg", number, **{**fields, **changes})  # type: ignore[arg-type]


def shown(figure: Figure) -> list[tuple[str, np.ndarray]]:
    """The title and the pixels of each picture in a figure."""
    return [(axes.get_title(), np.asarray(axes.images[0].get_array())) for axes in figure.axes if axes.images]


def test_results_are_titled_with_prediction_and_truth_and_the_wrong_ones_are_red() -> None:
    figure = show_results([example(0), example(1, "dog", "dog")], PICTURES[:2])
    assert [title for title, _ in shown(figure)] == ["cat / dog", "dog / dog"]
    assert [axes.title.get_color() == WRONG for axes in figure.axes[:2]] == [True, False]
    assert figure.get_suptitle() == "prediction / truth"


def test_top_losses_show_the_picture_or_its_heat_map() -> None:
    examples = [example(0), example(1)]
    plain = shown(plot_top_losses(examples, PICTURES[:2]))
    assert [title for title, _ in plain] == ["cat / dog / 1.50 / 0.20"] * 2
    assert all(np.array_equal(pixels, PICTURES[k]) for k, (_, pixels) in enumerate(plain))
    explained = [explanation(0), explanation(1)]
    heated = shown(plot_top_losses(examples, explanations=explained))
    assert all(np.array_equal(pixels, explained[k].overlay()) for k, (_, pixels) in enumerate(heated))
    assert not np.array_equal(heated[0][1], plain[0][1])
    tags = plot_top_losses([example(0, tag="cat")], PICTURES[:1])
    assert [title for title, _ in shown(tags)] == ["cat / dog / 1.50"]
    with pytest.raises(UsageError, match="2 examples need as many"):
        plot_top_losses(examples, PICTURES[:1])


def test_explanations_stand_beside_their_views_and_unread_ones_are_left_out() -> None:
    some = [explanation(0, truth="dog"), Explanation("x", 9, status="CORRUPT"), explanation(2)]
    found = shown(plot_explanations(some))
    assert [title for title, _ in found] == ["cat 80 %, in truth dog", "gradcam", "cat 80 %", "gradcam"]
    assert np.array_equal(found[2][1], PICTURES[2])
    assert shown(plot_explanations([])) == []


def test_slices_are_named_with_their_counts_and_the_worse_are_marked() -> None:
    def one(value: str, *, worse: bool) -> Slice:
        figures = (Interval(0.8, 0.7, 0.9), Interval(0.5, 0.4, 0.6), 0.9, 0.3, 0.01, 0.02)
        return Slice("camera", value, 12, *figures, worse)

    figure = plot_slices([one("old", worse=True), one("new", worse=False)])
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "camera = old (12)",
        "camera = new (12)",
    ]
    assert [line.get_color() for line in axes.get_lines() if line.get_linewidth() == 1.6].count(WRONG) == 1
    plot_slices([]).canvas.draw()


def test_a_map_of_embeddings_has_a_dot_for_each_row_a_name_for_each_class_and_thumbnails() -> None:
    random = np.random.default_rng(0)
    places = random.normal(size=(300, 2))
    labels = ["cat"] * 200 + ["dog"] * 100
    asked: list[int] = []

    def picture(row: int) -> Pixels:
        asked.append(row)
        return PICTURES[row % 4]

    figure = plot_embeddings(places, labels, picture=picture, wrong=np.arange(300) < 5, title="$ map")
    axes = figure.axes[0]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["cat (200)", "dog (100)", "wrong (5)"]
    assert sum(len(dots.get_offsets()) for dots in axes.collections) == 305
    boxes = [artist for artist in axes.artists if isinstance(artist, AnnotationBbox)]
    assert 20 < len(boxes) == len(set(asked)) <= 88, "no more thumbnails than there is room for"
    figure.canvas.draw()
    with pytest.raises(UsageError, match="as many labels"):
        plot_embeddings(places, labels[:9])


@pytest.mark.parametrize("count", [0, 1, 50])
def test_a_map_of_nothing_of_one_and_of_many_classes_can_be_drawn(count: int) -> None:
    figure = plot_embeddings(
        np.zeros((count, 2)), [f"class {k}" for k in range(count)], picture=lambda k: PICTURES[0]
    )
    figure.canvas.draw()
