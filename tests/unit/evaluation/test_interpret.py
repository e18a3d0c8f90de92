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
