"""What makes a figure doubtful is said, and only then."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from headstart.evaluation import Predictions
from headstart.evaluation.doubts import (
    FEWEST_DECIDING,
    constant_answer,
    missing_classes,
    smallest_difference,
    too_few_rows,
)
from headstart.types import Task

CLASSES = ("cat", "dog", "emu")


def test_six_is_what_the_exact_sign_test_needs() -> None:
    assert binomtest(0, FEWEST_DECIDING).pvalue < 0.05 < binomtest(0, FEWEST_DECIDING - 1).pvalue


@given(rows=st.integers(1, 10_000), difference=st.floats(0.005, 0.5))
def test_a_part_is_too_small_exactly_where_its_smallest_difference_is_larger(rows, difference) -> None:
    assert bool(too_few_rows(rows, difference)) is (smallest_difference(rows) > difference)


def test_the_words_name_what_can_be_told_and_what_it_takes() -> None:
    assert too_few_rows(40) == (
        "40 validation pictures cannot tell a difference below 15.0 points from chance: "
        "one of 5 points takes at least 120"
    )
    assert too_few_rows(120) == ""
    assert "cannot tell" in too_few_rows(0)


def test_classes_that_never_occur_are_named() -> None:
    assert missing_classes([3, 1, 2], CLASSES) == ""
    assert missing_classes([3, 0, 0], CLASSES) == (
        "no training picture is of class 'dog', 'emu': it cannot be learnt"
    )
    assert "and 2 more" in missing_classes([0] * 7, list("abcdefg"), part="test")


def table(logits, targets, task=Task.SINGLE_LABEL) -> Predictions:
    return Predictions(np.array(logits, np.float32), CLASSES, task, targets=targets)


@pytest.mark.parametrize(
    ("logits", "targets", "word"),
    [
        ([[2, 0, 1], [2, 0, 1], [2, 0, 1]], [0, 1, 2], "to the last digit"),
        ([[2, 0, 1], [3, 0, 1], [2.5, 0, 1]], [0, 1, 2], "every picture 'cat'"),
        ([[2, 0, 1], [3, 0, 1], [2.5, 0, 1]], [0, 0, 0], ""),  # they are all cats
        ([[2, 0, 1], [0, 3, 1], [2.5, 0, 1]], [0, 1, 2], ""),
        ([[2, 0, 1], [3, 0, 1]], [-1, -1], ""),
        ([[2, 0, 1]], [1], ""),
    ],
)
def test_one_answer_for_all_is_noticed(logits, targets, word) -> None:
    said = constant_answer(table(logits, targets))
    assert (word in said) if word else said == ""


def test_tags_are_constant_only_where_every_tag_is() -> None:
    tags = np.array([[1, 0, 0], [0, 1, 0]])
    assert constant_answer(table([[1, 2, 3], [1, 2, 3]], tags, Task.MULTI_LABEL))
    assert not constant_answer(table([[1, 2, 3], [1, 2, 3.1]], tags, Task.MULTI_LABEL))


def test_rows_that_were_not_predicted_do_not_count() -> None:
    logits = [[2, 0, 1], [3, 0, 1], [np.nan] * 3]
    assert "every picture 'cat'" in constant_answer(table(logits, [0, 1, 2]))
