"""Which tags are missed and invented, on which pictures; and tables of tags that come back whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import UsageError
from headstart.evaluation import Predictions, TagInterpretation, TagMistakes, per_class
from headstart.types import Task

TAGS = ("head", "hard hat", "[]")


def table(**columns: object) -> Predictions:
    logits = np.array([[3.0, -1.0, -3.0], [-2.0, 1.0, -3.0], [-0.5, -0.7, 2.0], [-4.0, -4.0, -4.0]])
    targets = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0]])
    paths = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    return Predictions(logits, TAGS, Task.MULTI_LABEL, targets=targets, paths=paths, **columns)  # type: ignore[arg-type]


def test_tags_are_counted_as_missed_and_invented_most_first() -> None:
    assert TagInterpretation(table()).most_mistaken() == [
        TagMistakes("head", 2, 0),
        TagMistakes("hard hat", 1, 0),
        TagMistakes("[]", 0, 1),
    ]
    assert [each.tag for each in TagInterpretation(table()).most_mistaken(min_count=2)] == ["head"]


def test_thresholds_decide_what_a_mistake_is() -> None:
    low = TagInterpretation(table(thresholds=np.array([0.1, 0.3, 0.95])))
    assert low.most_mistaken() == []


def test_the_least_probable_is_missed_most_and_the_surest_invented_most() -> None:
    told = TagInterpretation(table())
    assert [(each.path, each.tag) for each in told.most_missed()] == [
        ("b.jpg", "head"),
        ("c.jpg", "hard hat"),
        ("c.jpg", "head"),
    ]
    assert [each.path for each in told.most_missed(tag="hard hat")] == ["c.jpg"]
    invented = told.most_invented()
    assert [(each.path, each.tag, each.prediction, each.truth) for each in invented] == [
        ("c.jpg", "[]", "[]", "head, hard hat")
    ]
    assert invented[0].truth_probability == pytest.approx(1 - invented[0].probability)
    with pytest.raises(UsageError, match="no tag 'hat'"):
        told.most_missed(tag="hat")


def test_the_highest_losses_come_first_and_nothing_is_a_tag_too() -> None:
    losses = TagInterpretation(table()).top_losses(4)
    assert [each.path for each in losses] == ["c.jpg", "b.jpg", "a.jpg", "d.jpg"]
    assert losses[0].tag == "[]"
    assert (losses[3].prediction, losses[3].truth) == ("no tag", "no tag")


def test_what_goes_together_is_counted_by_truth_and_as_said() -> None:
    told = TagInterpretation(table())
    assert told.co_occurrence().tolist() == [[3, 2, 0], [2, 2, 0], [0, 0, 0]]
    assert told.co_occurrence(said=True).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_each_tag_has_an_average_precision_where_some_rows_have_it_and_others_not() -> None:
    from sklearn.metrics import average_precision_score

    every = per_class(table())
    assert np.isnan(every[2].average_precision), "no row has it"
    for number in range(2):
        expected = average_precision_score(table().targets[:, number], table().probabilities[:, number])  # type: ignore[index]
        assert every[number].average_precision == pytest.approx(expected)


def test_classes_and_rows_without_a_truth_are_refused() -> None:
    with pytest.raises(UsageError, match="about tags"):
        TagInterpretation(Predictions(np.eye(2), ("a", "b"), targets=[0, 1]))
    with pytest.raises(UsageError, match="known truth"):
        TagInterpretation(Predictions(np.eye(2), ("a", "b"), Task.MULTI_LABEL))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 12),
    thresholds=st.lists(st.floats(0.01, 0.99), min_size=3, max_size=3),
    seed=st.integers(0, 99),
)
def test_decisions_and_truth_survive_the_table_with_empty_lists_and_names_that_bite(
    tmp_path_factory: pytest.TempPathFactory, rows: int, thresholds: list[float], seed: int
) -> None:
    random = np.random.default_rng(seed)
    names = ("hard hat", 'a "b", c', "[]")
    before = Predictions(
        4 * random.normal(size=(rows, 3)),
        names,
        Task.MULTI_LABEL,
        targets=random.uniform(size=(rows, 3)) < 0.3,
        paths=tuple(f"{row}.jpg" for row in range(rows)),
        thresholds=np.array(thresholds),
    )
    path = Path(tmp_path_factory.mktemp("table")) / "predictions.csv"
    before.to_csv(path)
    after = Predictions.from_csv(path, task=Task.MULTI_LABEL)
    assert after.classes == names
    np.testing.assert_array_equal(after.targets, before.targets)
    np.testing.assert_array_equal(after.predicted, before.predicted)
    assert after.predicted_labels() == before.predicted_labels()
    frame = before.to_frame()
    assert frame["prediction"].tolist() == before.predicted_labels()
    assert frame["label"].tolist() == before.labels()


def test_thresholds_of_each_row_go_with_their_rows() -> None:
    each_row = np.array([[0.99] * 3, [0.1] * 3, [0.5] * 3, [0.01] * 3])
    decided = table(thresholds=each_row)
    assert decided.predicted.tolist() == [[0, 0, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1]]
    assert decided.take([3, 1]).predicted.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert decided.with_thresholds([0.5] * 3).take([0]).predicted.tolist() == [[1, 0, 0]]


def test_each_tag_is_a_table_of_two_by_two() -> None:
    found = TagInterpretation(table()).confusion().to_frame()
    assert found.columns.tolist() == ["tag", "both", "missed", "invented", "neither"]
    assert found.to_numpy()[:, 1:].tolist() == [[1, 2, 0, 1], [1, 1, 0, 2], [0, 0, 1, 3]]


def test_right_wrong_and_unsure_tags_are_found_overall_and_of_one_tag() -> None:
    told = TagInterpretation(table())
    assert [(each.path, each.tag) for each in told.most_correct()] == [
        ("a.jpg", "head"),
        ("b.jpg", "hard hat"),
    ]
    assert [(each.path, each.tag) for each in told.most_incorrect()] == [
        ("b.jpg", "head"),
        ("c.jpg", "[]"),
        ("c.jpg", "hard hat"),
        ("c.jpg", "head"),
    ]
    assert [each.path for each in told.most_incorrect(tag="head")] == ["b.jpg", "c.jpg"]
    assert [(each.path, each.tag) for each in told.most_uncertain(2)] == [
        ("c.jpg", "head"),
        ("c.jpg", "hard hat"),
    ]
    strict = TagInterpretation(table(thresholds=np.array([0.5, 0.73, 0.5])))
    assert (strict.lowest_margin(1)[0].path, strict.lowest_margin(1)[0].tag) == ("b.jpg", "hard hat")
    assert {each.tag for each in strict.lowest_margin(99, tag="[]")} == {"[]"}
    assert [each.path for each in told.top_losses(9, label="hard hat")] == ["c.jpg", "b.jpg"]
    with pytest.raises(UsageError, match="no tag 'hat'"):
        told.top_losses(label="hat")
