"""Slices, labels to explain, doubts: what is chosen from a table of predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from headstart.evaluation import Predictions
from headstart.recipe.diagnosing import labels_to_explain, save_heat, save_map, slices_in
from headstart.recipe.doubting import TooLongError, within, write_doubts
from headstart.recipe.folder import RunFolder
from headstart.storage import read_json
from headstart.types import Task


def table(count: int = 80) -> Predictions:
    """Cats and dogs; every second of the last quarter is called the other."""
    targets = np.arange(count) % 2
    said = np.where(np.arange(count) >= count * 3 // 4, 0, targets)
    logits = np.where(said[:, None] == [0, 1], 2.0, 0.0)
    paths = tuple(f"{row}.jpg" for row in range(count))
    return Predictions(logits, ("cat", "dog"), targets=targets, paths=paths, index=np.arange(count)[::-1])


def test_a_column_is_found_by_the_rows_of_the_samples_and_one_that_tells_nothing_is_left_out() -> None:
    predictions = table()
    by_row = np.where(np.arange(80) >= 60, "old", "new").astype(object)
    columns = {
        "camera": by_row[::-1],  # the table's rows are those of the samples from behind
        "constant": np.full(80, "one", object),
        "name": np.array([f"picture {row}" for row in range(80)], object),
    }
    found = slices_in(predictions, columns)
    assert {each.column for each in found} == {"camera"}
    assert [(each.value, each.worse) for each in found] == [("old", True), ("new", False)]
    # The same column in another order finds nothing.
    shuffled = {"camera": np.random.default_rng(0).permutation(by_row)}
    assert not any(each.worse for each in slices_in(predictions, shuffled))


def test_explained_is_what_was_said_and_of_tags_what_was_judged_worst() -> None:
    predictions = table()
    rows = np.array([79, 0])
    assert labels_to_explain(predictions, rows) == ["cat", "cat"]
    tags = Predictions(
        [[3.0, 0.5], [-4.0, 1.0]], ("head", "helmet"), Task.MULTI_LABEL, targets=[[1, 0], [1, 1]]
    )
    assert labels_to_explain(tags, np.array([0, 1])) == ["helmet", "head"]


def test_heat_is_begun_worst_first_and_no_more_of_it_once_the_time_is_up(tmp_path: Path) -> None:
    from headstart.evaluation import Explanation, rows_to_explain

    asked: list[list[int]] = []

    def explain(rows: Any, labels: Any) -> list[Explanation]:
        asked.append(list(rows))
        heat = np.ones((8, 8), np.float32)
        cold = np.zeros((8, 8), np.float32)
        view = np.full((8, 8, 3), 90, np.uint8)
        return [Explanation("", row, view=view, heat=cold if row % 4 else heat) for row in rows]

    predictions = replace(table(), split=np.full(80, "valid"))
    folder = RunFolder(tmp_path / "run", goes_on=True)
    written = save_heat(folder, predictions, explain, in_time=lambda: len(asked) < 1)
    worst = rows_to_explain(predictions)[:8]
    assert asked == [predictions.rows[worst].tolist()]
    # A picture in which nothing speaks for the class has no heat to show.
    expected = {f"{row}_heat.jpg" for row in worst.tolist() if predictions.rows[row] % 4 == 0}
    assert {path.name for path in (tmp_path / "run" / "pictures").iterdir()} == expected
    assert 0 < written == len(expected)


@pytest.mark.parametrize(("count", "projection"), [(12, "pca"), (40, "tsne")])
def test_the_map_is_of_the_rows_whose_features_are_known(tmp_path: Path, count: int, projection: str) -> None:
    predictions = replace(table(), split=np.array(["valid"] * 60 + ["test"] * 20))
    known = predictions.rows[:count][::-1]
    features = np.random.default_rng(0).normal(size=(count, 30)).astype(np.float32)
    folder = RunFolder(tmp_path, goes_on=True)
    save_map(folder, predictions, features, known, seed=0)
    found = read_json(tmp_path / "embedding.json")
    assert found["projection"] == projection
    assert found["rows"] == list(range(count))
    if projection == "pca":  # the features of each row are its own, not those at its place
        from headstart.evaluation import project

        expected = project(features[::-1], method="pca")
        np.testing.assert_allclose(np.abs(found["x"]), np.abs(expected[:, 0]), atol=1e-3)


def test_what_takes_too_long_is_given_up_as_soon_as_it_is_known() -> None:
    # The first part takes 5 s, the others 1 s each: 14 s.
    for seconds, slow in ((14.5, False), (13.5, True)):
        clock = iter([0.0, 5.0, 6.0])
        looked_at = within(seconds, now=clock.__next__)
        looked_at(1, 10)
        if slow:
            with pytest.raises(TooLongError):
                looked_at(2, 10)
        else:
            looked_at(2, 10)
    clock = iter([0.0, 15.0])
    with pytest.raises(TooLongError):
        within(14.5, now=clock.__next__)(1, 10)


def test_doubts_of_tags_are_about_the_tag_that_is_most_in_doubt(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, (60, 2))
    logits = np.where(truth == 1, 3.0, -3.0) + random.normal(0, 0.3, (60, 2))
    logits[7] = np.where(truth[7] == 1, 6.0, -6.0)
    given = truth.copy()
    given[7, 1] = 1 - given[7, 1]  # planted
    told = Predictions(logits, ("head", "helmet"), Task.MULTI_LABEL, targets=given)
    data: Any = SimpleNamespace(
        cache=SimpleNamespace(found=lambda row: np.full((8, 8, 3), row, np.uint8)),
        samples=SimpleNamespace(place=lambda row: f"{row}.jpg"),
    )
    folder = RunFolder(tmp_path, goes_on=True)
    found = write_doubts(folder, data, told)
    assert (found["pictures"], found["labels"]) == (60, 120)
    (example,) = found["examples"]
    words = ["without helmet", "with helmet"]
    assert (example["path"], example["tag"]) == ("7.jpg", "helmet")
    assert (example["label"], example["suggested"]) == (words[given[7, 1]], words[truth[7, 1]])
    assert example["probability"] == pytest.approx(1 - example["label_probability"])
    # Without the planted one nothing is in doubt.
    assert write_doubts(folder, data, replace(told, targets=truth))["examples"] == []
