"""What to label next: uncertain pictures that differ, and classes that still learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.errors import UsageError
from headstart.evaluation import Predictions, choose_next, rises, uncertainty
from headstart.types import Task


def test_the_margin_says_how_unsure_a_row_is() -> None:
    table = Predictions(np.log([[0.5, 0.5, 1e-9], [0.9, 0.05, 0.05], [0.6, 0.3, 0.1]]), ("a", "b", "c"))
    np.testing.assert_allclose(uncertainty(table), [1.0, 0.15, 0.7], atol=1e-6)
    tags = Predictions([[0.0, 9.0], [9.0, -9.0]], ("x", "y"), Task.MULTI_LABEL)
    assert uncertainty(tags)[0] == pytest.approx(1.0)
    assert uncertainty(tags)[1] < 0.001


def clusters(each: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Five clusters of pictures that are much alike, of which one is the most uncertain."""
    random = np.random.default_rng(0)
    centres = np.eye(8)[:5] * 10
    features = np.repeat(centres, each, axis=0) + random.normal(0, 0.1, (5 * each, 8))
    unsure = np.repeat([0.9, 0.7, 0.7, 0.7, 0.7], each) + random.uniform(0, 0.05, 5 * each)
    return features, unsure


def test_what_is_chosen_is_unsure_and_differs() -> None:
    features, unsure = clusters()
    cluster = np.arange(len(unsure)) // 30
    chosen = choose_next(features, unsure, 15)
    assert set(cluster[chosen[:5]]) == {0, 1, 2, 3, 4}
    # The most uncertain alone are fifteen of one kind.
    assert set(cluster[np.argsort(-unsure)[:15]]) == {0}
    labelled = features[cluster == 3] + 0.05
    assert 3 not in cluster[choose_next(features, unsure, 4, labelled=labelled)]


@given(rows=st.integers(0, 30), count=st.integers(0, 40), seed=st.integers(0, 10**6), alike=st.booleans())
def test_each_is_chosen_once_and_no_more_than_there_are(
    rows: int, count: int, seed: int, alike: bool
) -> None:
    random = np.random.default_rng(seed)
    features = np.ones((rows, 4)) if alike else random.normal(size=(rows, 4))
    chosen = choose_next(features, random.uniform(size=rows), count)
    assert len(chosen) == min(rows, count)
    assert len(set(chosen.tolist())) == len(chosen)
    assert all(0 <= row < rows for row in chosen.tolist())


def test_columns_that_do_not_match_are_refused() -> None:
    with pytest.raises(UsageError):
        choose_next(np.zeros((3, 2)), np.zeros(2), 1)


def test_a_class_that_learns_from_more_pictures_is_told_from_one_that_does_not() -> None:
    random = np.random.default_rng(0)
    targets = np.repeat([0, 1], 100)
    sure = np.eye(2)[targets] * 4
    before = sure.copy()
    missed = random.choice(100, 20, replace=False)
    before[missed] = before[missed, ::-1]
    found = rises(
        Predictions(before, ("a", "b"), targets=targets), Predictions(sure, ("a", "b"), targets=targets)
    )
    assert [rise.name for rise in found] == ["a", "b"]
    assert found[0].still_rises
    assert (found[0].half, found[0].whole) == (0.8, 1.0)
    assert found[0].low < 0.2 < found[0].high
    assert not found[1].still_rises
    with pytest.raises(UsageError):
        rises(
            Predictions(sure, ("a", "b"), targets=targets), Predictions(sure, ("a", "b"), targets=1 - targets)
        )


def test_of_tags_it_is_the_pictures_that_have_the_tag_that_count() -> None:
    targets = np.array([[1, 0]] * 30 + [[0, 1]] * 30, np.uint8)
    whole = np.where(targets == 1, 3.0, -3.0)
    half = whole.copy()
    half[:30, 0] = -3.0
    tables = [Predictions(logits, ("x", "y"), Task.MULTI_LABEL, targets=targets) for logits in (half, whole)]
    found = rises(tables[0], tables[1])
    assert [(rise.name, rise.pictures, rise.half, rise.whole) for rise in found] == [
        ("x", 30, 0.0, 1.0),
        ("y", 30, 1.0, 1.0),
    ]
