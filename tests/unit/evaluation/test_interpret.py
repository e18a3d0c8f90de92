"""What is confused, what is most wrong, and the plots of both."""

from __future__ import annotations

import math

import numpy as np
import pytest

from headstart.errors import UsageError
from headstart.evaluation import Interpretation, Predictions
from headstart.types import Pixels, Task

CLASSES = ("ant", "bee", "cat")


def of(truths: list[int], probabilities: list[list[float]], **more: object) -> Interpretation:
    logits = np.log(np.array(probabilities))
    paths = tuple(f"{number}.jpg" for number in range(len(truths)))
    columns = {"targets": np.array(truths), "paths": paths, **more}
    return Interpretation(Predictions(logits, CLASSES, **columns))  # type: ignore[arg-type]


@pytest.fixture
def some() -> Interpretation:
    return of(
        [0, 0, 0, 1, 1, 2],
        [
            [0.8, 0.1, 0.1],
            [0.2, 0.7, 0.1],
            [0.3, 0.6, 0.1],
            [0.1, 0.85, 0.05],
            [0.05, 0.05, 0.9],
            [0.34, 0.33, 0.33],
        ],
        index=np.array([10, 11, 12, 13, 14, 15]),
    )


def test_the_confusion_matrix_is_of_counts_or_of_shares_of_the_row(some: Interpretation) -> None:
    assert some.confusion_matrix().tolist() == [[1, 2, 0], [0, 1, 1], [1, 0, 0]]
    assert some.confusion_matrix(normalise=True)[0].tolist() == pytest.approx([1 / 3, 2 / 3, 0])


def test_a_class_without_pictures_has_a_row_of_zeros() -> None:
    shares = of([0], [[0.9, 0.05, 0.05]]).confusion_matrix(normalise=True)
    assert shares.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_the_most_confused_come_first_and_from_a_least_count(some: Interpretation) -> None:
    found = [(pair.truth, pair.prediction, pair.count) for pair in some.most_confused(min_count=1)]
    assert found == [("ant", "bee", 2), ("bee", "cat", 1), ("cat", "ant", 1)]
    assert [pair.count for pair in some.most_confused()] == [2]


def test_top_losses_are_sorted_and_tell_the_probability_of_the_truth(some: Interpretation) -> None:
    examples = some.top_losses(2)
    assert [example.path for example in examples] == ["4.jpg", "1.jpg"]
    assert examples[0].truth_probability == pytest.approx(0.05)
    assert examples[0].loss == pytest.approx(-math.log(0.05))
    assert (examples[0].prediction, examples[0].truth) == ("cat", "bee")
    assert (examples[0].row, examples[0].index) == (4, 14)


def test_sure_and_right_sure_and_wrong_and_unsure_are_found(some: Interpretation) -> None:
    assert [example.row for example in some.most_correct(2)] == [3, 0]
    assert [example.row for example in some.most_incorrect(2)] == [4, 1]
    assert some.most_uncertain(1)[0].row == 5
    assert [example.row for example in some.most_incorrect(9, label="ant")] == [1, 2]
    assert [example.row for example in some.mistaken(some.most_confused()[0])] == [1, 2]
    with pytest.raises(UsageError):
        some.most_correct(label="dog")


def test_equal_losses_keep_the_order_of_the_samples() -> None:
    same = of([0, 0, 0], [[0.5, 0.3, 0.2]] * 3, index=np.array([7, 3, 5]))
    assert [example.index for example in same.top_losses(3)] == [3, 5, 7]


def test_what_is_not_finite_is_the_worst_and_not_the_best() -> None:
    broken = of([0, 1], [[0.9, 0.05, 0.05], [np.nan, 0.5, 0.5]])
    assert broken.top_losses(1)[0].row == 1
    assert [example.row for example in broken.most_correct(5)] == [0]


def test_unlabelled_rows_are_left_out_and_nothing_to_interpret_is_said() -> None:
    partly = of([0, -1], [[0.9, 0.05, 0.05], [0.1, 0.8, 0.1]])
    assert len(partly.top_losses(9)) == 1
    with pytest.raises(UsageError):
        of([-1], [[0.9, 0.05, 0.05]])
    tags = Predictions(np.zeros((1, 3)), CLASSES, task=Task.MULTI_LABEL, targets=np.zeros((1, 3)))
    with pytest.raises(UsageError):
        Interpretation(tags)


def test_top_losses_are_plotted_with_prediction_truth_loss_and_probability_of_the_truth() -> None:
    asked: list[int] = []

    def picture(index: int) -> Pixels:
        asked.append(index)
        return np.full((20, 30, 3), index, np.uint8)

    some = of([0, 1], [[0.2, 0.7, 0.1], [0.1, 0.8, 0.1]], index=np.array([40, 41]))
    figure = Interpretation(some.predictions, picture).plot_top_losses(2)
    assert asked == [40, 41]
    assert [axes.get_title() for axes in figure.axes[:2]] == [
        "bee / ant / 1.61 / 0.20",
        "bee / bee / 0.22 / 0.80",
    ]
    with pytest.raises(UsageError):
        some.plot_top_losses()


def test_the_confusion_matrix_is_plotted_with_the_names_of_the_classes(some: Interpretation) -> None:
    axes = some.plot_confusion_matrix().axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(CLASSES)


def test_the_least_sure_is_so_by_all_its_probabilities_or_by_the_two_best() -> None:
    told = of([0, 0], [[0.49, 0.47, 0.04], [0.5, 0.3, 0.2]])
    assert told.lowest_margin(1)[0].row == 0
    assert told.most_uncertain(1)[0].row == 1
    certain = of([0, 0], [[1.0, 1e-300, 1e-300], [0.9, 0.1, 1e-300]])
    assert [example.row for example in certain.most_uncertain()] == [1, 0]


@pytest.mark.parametrize(
    "question", ["top_losses", "most_correct", "most_incorrect", "most_uncertain", "lowest_margin"]
)
def test_every_question_is_asked_of_all_or_of_one_class(some: Interpretation, question: str) -> None:
    ask = getattr(some, question)
    everything = [example.row for example in ask(99)]
    parts = [[example.row for example in ask(99, label=name)] for name in CLASSES]
    assert sorted(row for part in parts for row in part) == sorted(everything)
    assert all(part == [row for row in everything if row in part] for part in parts)
    assert all(example.truth == "ant" for example in ask(99, label="ant"))
    with pytest.raises(UsageError, match="no class 'dog'"):
        ask(label="dog")


def test_what_is_found_is_a_list_and_a_table(some: Interpretation) -> None:
    found = some.top_losses(2)
    assert found == list(found)
    frame = found.to_frame()
    assert frame.columns.tolist() == [
        "row", "index", "path", "prediction", "truth", "loss", "probability", "truth_probability", "tag",
    ]  # fmt: skip
    assert frame["path"].tolist() == ["4.jpg", "1.jpg"]
    assert some.most_confused(min_count=99).to_frame().columns.tolist() == ["truth", "prediction", "count"]
    assert "<table" in found._repr_html_()
    matrix = some.confusion_frame()
    assert matrix.loc["ant", "bee"] == 2
    assert (matrix.index.name, matrix.columns.name) == ("truth", "prediction")


def test_pictures_drawn_by_a_seed_are_shown_with_truth_and_prediction(some: Interpretation) -> None:
    def picture(index: int) -> Pixels:
        return np.full((20, 30, 3), index, np.uint8)

    told = Interpretation(some.predictions, picture)
    titles = [axes.get_title() for axes in told.show_results(6).figure.axes if axes.images]
    assert sorted(titles) == sorted(
        ["ant / ant", "bee / ant", "bee / ant", "bee / bee", "cat / bee", "ant / cat"]
    )
    again = [axes.get_title() for axes in told.show_results(6).axes if axes.images]
    assert titles == again
    other = [axes.get_title() for axes in told.show_results(6, seed=3).axes if axes.images]
    assert titles != other


def test_top_losses_are_explained_where_there_is_a_way_to(some: Interpretation) -> None:
    from headstart.evaluation import Explanation

    def explain(indices: object) -> list[Explanation]:
        view, heat = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.float32)
        return [Explanation("", index, view=view, heat=heat) for index in indices]  # type: ignore[attr-defined]

    told = Interpretation(some.predictions, explain=explain)
    assert [each.index for each in told.explanations(told.top_losses(2))] == [14, 11]
    figure = told.plot_top_losses(2, heat=True)
    assert np.asarray(figure.axes[0].images[0].get_array()).any(), "the heat is laid over black"
    with pytest.raises(UsageError, match="no way to explain"):
        some.plot_top_losses(2, heat=True)
