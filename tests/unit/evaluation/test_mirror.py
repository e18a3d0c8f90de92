"""The mirror check: it warns where mirroring changes labels, and is silent where it does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest

from headstart.errors import UsageError
from headstart.evaluation import Predictions, mirror_check
from headstart.evaluation.mirror import sided_names, sign_test
from headstart.models.probe import fit_probe
from headstart.types import Task

Pictures = NDArray[np.float32]


def probed(
    pictures: Pictures, labels: NDArray[np.int64], classes: tuple[str, ...]
) -> tuple[Predictions, ...]:
    """What a probe on pixels says of the last third of pictures (rows, height, width), plain and mirrored."""
    cut = 2 * len(pictures) // 3
    probe = fit_probe(pictures[:cut].reshape(cut, -1), labels[:cut], len(classes))
    rest, truth = pictures[cut:], labels[cut:]
    return tuple(
        Predictions(probe.logits(np.ascontiguousarray(view).reshape(len(rest), -1)), classes, targets=truth)
        for view in (rest, rest[:, :, ::-1])
    )


def arrows(count: int, *, seed: int = 0) -> tuple[Pictures, NDArray[np.int64]]:
    """Arrows that point left (0), right (1) or up (2), somewhere in a noisy picture of 12 x 12."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    arrow = np.array([[0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]])
    shapes = [arrow, arrow[:, ::-1], arrow.T]
    pictures = random.normal(0, 0.15, (count, 12, 12))
    for picture, label in zip(pictures, labels, strict=True):
        down, right = random.integers(3, 5, 2)
        picture[down : down + 5, right : right + 5] += shapes[label]
    return pictures.astype(np.float32), labels.astype(np.int64)


def test_digits_are_not_what_they_were_when_mirrored() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))[:900]
    classes = tuple("0123456789")
    found = mirror_check(*probed(digits.images[order].astype(np.float32), digits.target[order], classes))
    assert found.warned
    assert found.gain.high < -0.3
    assert {swap.label for swap in found.swaps} >= {"2", "3"}
    assert "8" not in {swap.label for swap in found.swaps}
    assert "accuracy falls by" in found.lines[0]
    assert any("names of the classes" in line for line in found.lines)


def test_arrows_to_the_left_become_arrows_to_the_right_and_those_that_point_up_stay() -> None:
    found = mirror_check(*probed(*arrows(300), ("turn left", "turn right", "up")))
    assert found.warned
    assert {(swap.label, swap.becomes) for swap in found.swaps} == {
        ("turn left", "turn right"),
        ("turn right", "turn left"),
    }
    assert found.named == ("turn left", "turn right")
    assert found.to_dict()["warned"] is True


def test_where_left_and_right_are_one_class_there_is_no_warning() -> None:
    pictures, labels = arrows(300)
    found = mirror_check(*probed(pictures, np.where(labels == 2, 1, 0), ("side", "up")))
    assert not found.warned
    assert found.lines == []


def test_by_chance_alone_a_warning_is_rare() -> None:
    random = np.random.default_rng(0)
    warned = 0
    for _ in range(100):
        truth = random.integers(0, 5, 160)
        tables = []
        for _ in range(2):
            logits = random.normal(size=(160, 5))
            logits[np.arange(160), truth] += 2.5
            tables.append(Predictions(logits, tuple("vwxyz"), targets=truth))
        warned += mirror_check(*tables).warned
    assert warned <= 3


def test_names_alone_warn_of_nothing() -> None:
    truth = np.arange(60) % 2
    table = Predictions(np.eye(2)[truth] * 4, ("left", "right"), targets=truth)
    found = mirror_check(table, table)
    assert (found.warned, found.named) == (False, ("left", "right"))


@pytest.mark.parametrize(
    ("classes", "named"),
    [
        (("left hand", "right_hand", "none"), ("left hand", "right_hand")),
        (("0", "1", "2"), ("0", "1", "2")),
        (("b", "d"), ("b", "d")),
        (("bright", "leftover", "10"), ()),
        (("a", "cat"), ()),
        ((), ()),
    ],
)
def test_names_that_speak_of_sides_are_known(classes: tuple[str, ...], named: tuple[str, ...]) -> None:
    assert sided_names(classes) == named


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 700), st.integers(0, 700))
def test_the_sign_test_is_that_of_scipy(more: int, fewer: int) -> None:
    if more + fewer == 0:
        assert sign_test(0, 0) == 1.0
        return
    expected = binomtest(more, more + fewer, alternative="greater").pvalue
    assert sign_test(more, fewer) == pytest.approx(expected, abs=1e-3 if more + fewer > 1000 else 1e-12)


def test_tags_are_judged_by_the_share_of_right_decisions() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, (100, 3)).astype(np.uint8)
    plain = Predictions(6.0 * truth - 3, ("a", "b", "c"), Task.MULTI_LABEL, truth)
    swapped = Predictions(plain.logits[:, [1, 0, 2]], plain.classes, Task.MULTI_LABEL, truth)
    found = mirror_check(plain, swapped)
    assert (found.warned, found.swaps) == (True, ())
    assert not mirror_check(plain, plain).warned


def test_other_rows_and_rows_without_labels_are_refused() -> None:
    table = Predictions([[1.0, 0.0]], ("a", "b"), targets=[0])
    with pytest.raises(UsageError):
        mirror_check(table, Predictions([[1.0, 0.0]], ("a", "b"), targets=[1]))
    unknown = Predictions([[1.0, 0.0]], ("a", "b"))
    with pytest.raises(UsageError, match="nothing to compare"):
        mirror_check(unknown, unknown)
