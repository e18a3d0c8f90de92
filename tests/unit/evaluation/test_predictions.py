"""The table of predictions: shapes, files, averages."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import ConfigError, InputMissingError, UsageError
from headstart.evaluation import Predictions, average, concatenate
from headstart.types import Task

CLASSES = ("a", "b", "c")


def table(count: int = 6, **more: Any) -> Predictions:
    random = np.random.default_rng(count)
    columns: dict[str, Any] = {
        "logits": random.normal(size=(count, 3)).astype(np.float32) * 3,
        "classes": CLASSES,
        "targets": np.arange(count) % 3,
        "paths": tuple(f"{number}.jpg" for number in range(count)),
        "split": np.array(["valid", "test"] * count)[:count],
    }
    return Predictions(**(columns | more))


def test_probabilities_sum_to_one_and_the_loss_is_minus_the_log_of_the_truth() -> None:
    predictions = table()
    assert predictions.probabilities.sum(axis=1) == pytest.approx(np.ones(6))
    truth = predictions.probabilities[np.arange(6), np.asarray(predictions.targets)]
    assert predictions.loss == pytest.approx(-np.log(truth))


def test_the_loss_stays_exact_where_the_probability_rounds_to_zero() -> None:
    predictions = Predictions(np.array([[0.0, 2000.0]]), ("a", "b"), targets=np.array([0]))
    assert predictions.probabilities[0, 0] == 0.0
    assert predictions.loss[0] == 2000.0


def test_a_temperature_changes_probabilities_but_no_prediction() -> None:
    plain, hot = table(), table().with_temperature(4.0)
    assert np.array_equal(plain.predicted, hot.predicted)
    assert np.all(hot.confidence < plain.confidence)


def test_tags_have_a_sigmoid_each_and_their_own_thresholds() -> None:
    predictions = Predictions(
        np.array([[0.0, 1.0, -1.0]]),
        CLASSES,
        task=Task.MULTI_LABEL,
        targets=np.array([[1, 1, 0]]),
        thresholds=np.array([0.4, 0.8, 0.2]),
    )
    assert predictions.probabilities[0] == pytest.approx([0.5, 1 / (1 + math.e**-1), 1 / (1 + math.e)])
    assert predictions.predicted.tolist() == [[1, 0, 1]]
    right = [0.5, 1 / (1 + math.e**-1), 1 - 1 / (1 + math.e)]
    assert predictions.loss[0] == pytest.approx(-np.log(right).mean())


def test_a_row_that_failed_or_is_not_finite_has_no_prediction() -> None:
    logits = np.zeros((3, 3), np.float32)
    logits[1] = np.nan
    predictions = table(3, logits=logits, status=np.array(["", "", "TRUNCATED"]))
    assert predictions.predicted.tolist() == [0, -1, -1]
    assert np.isnan(predictions.loss).tolist() == [False, True, True]
    assert predictions.predicted_labels() == ["a", "", ""]


@pytest.mark.parametrize(
    "wrong",
    [
        {"logits": np.zeros((6, 2))},
        {"logits": np.zeros(6)},
        {"targets": np.zeros(5, np.int64)},
        {"targets": np.full(6, 3)},
        {"paths": ("a.jpg",)},
        {"split": np.array(["valid"])},
        {"index": np.arange(7)},
        {"thresholds": np.zeros(2)},
        {"temperature": 0.0},
        {"temperature": math.nan},
        {"targets": ["cat"] * 6},
    ],
)
def test_columns_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        table(**wrong)


def test_taking_rows_takes_every_column_along() -> None:
    predictions = table()
    taken = predictions.take([4, 1])
    assert taken.rows.tolist() == [4, 1]
    assert taken.paths == ("4.jpg", "1.jpg")
    assert np.array_equal(taken.logits, predictions.logits[[4, 1]])
    assert predictions.part("valid").rows.tolist() == [0, 2, 4]
    assert predictions.take(np.array([False, True] * 3)).rows.tolist() == [1, 3, 5]


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12)


@given(classes=st.lists(names, min_size=2, max_size=5, unique=True), path=names)
@settings(max_examples=80, deadline=None)
def test_any_names_survive_the_csv_file(
    tmp_path_factory: pytest.TempPathFactory, classes: list[str], path: str
) -> None:
    file = tmp_path_factory.mktemp("csv") / "predictions.csv"
    count = len(classes)
    logits = np.random.default_rng(0).normal(size=(count, count)).astype(np.float32) * 4
    predictions = Predictions(
        logits,
        tuple(classes),
        targets=np.arange(count),
        paths=(path,) * count,
        split=np.array(["valid"] * count),
    )
    predictions.to_csv(file)
    again = Predictions.from_csv(file)
    assert again.classes == predictions.classes
    assert again.paths == predictions.paths
    assert np.array_equal(np.asarray(again.targets), np.arange(count))
    assert again.probabilities == pytest.approx(predictions.probabilities, abs=1e-6)
    assert again.loss == pytest.approx(predictions.loss, abs=1e-5)


def test_the_csv_file_has_the_columns_that_are_promised(tmp_path: Path) -> None:
    file = tmp_path / "predictions.csv"
    table(2, targets=np.array([1, -1]), status=np.array(["", "TRUNCATED"])).to_csv(file)
    with open(file, encoding="utf-8", newline="") as stream:
        head, first, second = list(csv.reader(stream))
    assert head == ["path", "split", "label", "prediction", "probability", "p_a", "p_b", "p_c"]
    assert first[:3] == ["0.jpg", "valid", "b"]
    assert sum(map(float, first[5:])) == pytest.approx(1.0)
    assert second == ["1.jpg", "test", "", "", "", "", "", ""]
    again = Predictions.from_csv(file)
    assert again.predicted_rows.tolist() == [True, False]
    assert again.scored_rows.tolist() == [True, False]


def test_a_name_with_bytes_that_are_no_text_still_makes_a_utf_8_file(tmp_path: Path) -> None:
    file = tmp_path / "predictions.csv"
    table(1, paths=("caf\udce9.jpg",)).to_csv(file)
    assert "caf\\udce9.jpg" in file.read_bytes().decode("utf-8")


def test_tags_survive_the_csv_file(tmp_path: Path) -> None:
    predictions = Predictions(
        np.array([[5.0, -5.0], [-1.0, 1.0]]),
        ("red, round", "[blue]"),
        task=Task.MULTI_LABEL,
        targets=np.array([[1, 0], [0, 0]]),
    )
    predictions.to_csv(tmp_path / "tags.csv")
    again = Predictions.from_csv(tmp_path / "tags.csv", task=Task.MULTI_LABEL)
    assert np.asarray(again.targets).tolist() == [[1, 0], [0, 0]]
    assert again.logits == pytest.approx(predictions.logits, abs=1e-4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,b,c\n",
        "path,split,label,prediction,probability,p_a\nx,valid,a\n",
        "path,split,label,prediction,probability,p_a\nx,valid,b,a,1,1\n",
        "path,split,label,prediction,probability,p_a\nx,valid,a,a,1,one\n",
    ],
)
def test_a_file_that_is_no_such_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.csv").write_text(text, "utf-8")
    with pytest.raises(ConfigError):
        Predictions.from_csv(tmp_path / "x.csv")


def test_a_missing_file_and_bytes_that_are_no_text_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError):
        Predictions.from_csv(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError):
        Predictions.from_csv(tmp_path / "x.csv")


def test_the_frame_has_the_columns_of_the_file(tmp_path: Path) -> None:
    import pandas

    predictions = table()
    predictions.to_csv(tmp_path / "x.csv")
    frame = predictions.to_frame()
    read = pandas.read_csv(tmp_path / "x.csv")
    assert list(frame.columns) == list(read.columns)
    assert frame["p_b"].to_numpy() == pytest.approx(read["p_b"].to_numpy())


def test_putting_parts_together_gives_the_whole_back() -> None:
    predictions = table()
    whole = concatenate([predictions.take([0, 1]), predictions.take([2, 3, 4, 5])])
    assert np.array_equal(whole.logits, predictions.logits)
    assert whole.paths == predictions.paths
    with pytest.raises(UsageError):
        concatenate([predictions, predictions.with_temperature(2.0)])
    with pytest.raises(UsageError):
        concatenate([])


def test_an_average_has_the_mean_probability_with_each_ones_temperature() -> None:
    one, other = table(), table(logits=table(6).logits[::-1].copy()).with_temperature(2.0)
    mean = average([one, other], [3.0, 1.0])
    expected = 0.75 * one.probabilities + 0.25 * other.probabilities
    assert mean.probabilities == pytest.approx(expected, abs=1e-6)
    assert mean.temperature == 1.0


def test_an_average_of_tags_has_the_mean_probability() -> None:
    logits = np.array([[2.0, -1.0, 0.5]])
    shared: dict[str, Any] = {"classes": CLASSES, "task": Task.MULTI_LABEL}
    one, other = Predictions(logits, **shared), Predictions(-logits, **shared)
    assert average([one, other]).probabilities == pytest.approx(np.full((1, 3), 0.5), abs=1e-6)


def test_an_average_of_other_rows_is_refused_and_a_failed_row_stays_failed() -> None:
    one = table()
    with pytest.raises(UsageError):
        average([one, one.take([1, 0, 2, 3, 4, 5])])
    with pytest.raises(UsageError):
        average([one, table(5)])
    with pytest.raises(UsageError):
        average([one, one], [1.0])
    failed = table(status=np.array(["", "TRUNCATED", "", "", "", ""]))
    assert average([one, failed]).statuses.tolist() == failed.statuses.tolist()


def test_rows_of_a_known_class_stay_known_beside_a_table_without_any(tmp_path: Path) -> None:
    known = Predictions([[2.0, 0.0], [0.0, 1.0]], ("cat", "dog"), targets=[0, 0], paths=("a", "b"))
    unknown = Predictions([[1.0, 0.0]], ("cat", "dog"), paths=("c",))
    for parts in ([known, unknown], [unknown, known]):
        together = concatenate(parts)
        assert together.scored_rows.sum() == 2
        together.to_csv(tmp_path / "predictions.csv")
        read = Predictions.from_csv(tmp_path / "predictions.csv")
        assert read.scored_rows.tolist() == together.scored_rows.tolist()
    assert concatenate([unknown, unknown]).targets is None
