"""Two runs are compared on the pictures that they share, and on nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from headstart.errors import ConfigError, InputMissingError, UsageError
from headstart.evaluation import HeldOut, Predictions, compare, compare_predictions, read_held_out
from headstart.types import Task

CLASSES = ("cat", "dog", "owl")


def table(
    count: int,
    *,
    skill: float = 1.5,
    seed: int = 0,
    split: str = "valid",
    classes: tuple[str, ...] = CLASSES,
    start: int = 0,
    noise: int = 0,
) -> Predictions:
    """Rows start … start + count - 1: the same pictures, and so labels, whatever the skill and the noise."""
    targets = np.array([hash_of(row) % 3 for row in range(start, start + count)])
    random = np.random.default_rng([seed, noise])
    logits = random.normal(size=(count, 3))
    logits[np.arange(count), targets] += skill
    places = [CLASSES.index(name) for name in classes]
    return Predictions(
        logits[:, places],
        classes,
        targets=np.array([classes.index(CLASSES[t]) for t in targets]),
        paths=tuple(f"{CLASSES[t]}/{row}.jpg" for row, t in enumerate(targets, start)),
        split=np.full(count, split),
    )


def hash_of(row: int) -> int:
    return (row * 2654435761) >> 7


def run(
    predictions: Predictions, name: str = "a", root: str = "/pictures", metric: str = "accuracy"
) -> HeldOut:
    return HeldOut(name, predictions, root, metric)


def test_a_clearly_better_run_is_called_better_and_the_other_way_round_worse() -> None:
    weak, strong = run(table(160, skill=0.3)), run(table(160, skill=3.0), "b")
    assert compare(weak, strong).verdict == "better"
    assert compare(strong, weak).verdict == "worse"
    assert compare(weak, strong).figures[0].metric == "accuracy"


def test_what_160_pictures_cannot_tell_is_said_so() -> None:
    found = compare(run(table(160)), run(table(160, noise=1), "b"))
    assert found.verdict == "cannot tell with 160 pictures"
    assert found.pictures == 160
    assert 0.03 < found.smallest < 0.04
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_only_shared_pictures_count_in_whatever_order() -> None:
    first, second = table(100), table(100, noise=1)
    shuffled = second.take(np.random.default_rng(0).permutation(100)[:60])
    found = compare(run(first), run(shuffled, "b"))
    assert found.pictures == 60
    rows = np.sort([first.paths.index(path) for path in shuffled.paths])  # type: ignore[union-attr]
    straight = compare_predictions(first.take(rows), second.take(rows), "accuracy")
    assert found.figures[0].gain.value == pytest.approx(straight.gain.value)


def test_runs_without_a_picture_in_common_are_refused_with_what_to_do() -> None:
    with pytest.raises(UsageError, match="share no picture") as caught:
        compare(run(table(20)), run(table(20, start=50), "b"))
    assert "a has 20" in caught.value.message
    assert "headstart evaluate" in caught.value.hint


def test_classes_are_matched_by_name_whatever_their_order() -> None:
    same = table(80, skill=2.0)
    turned = table(80, skill=2.0, classes=("owl", "cat", "dog"))
    found = compare(run(same), run(turned, "b"))
    assert all(each.gain.value == pytest.approx(0.0, abs=1e-6) for each in found.figures)
    with pytest.raises(UsageError, match="b alone has emu"):
        compare(run(same), run(Predictions(same.logits, ("cat", "dog", "emu"), paths=same.paths), "b"))


def test_test_pictures_are_taken_before_validation_pictures_which_are_doubted() -> None:
    def both(noise: int) -> Predictions:
        parts = [table(40, noise=noise), table(30, noise=noise, start=100, split="test")]
        from headstart.evaluation import concatenate

        return concatenate(parts)

    found = compare(run(both(0)), run(both(1), "b"))
    assert (found.part, found.pictures, found.notes) == ("test", 30, ())
    valid = compare(run(table(40)), run(table(40, noise=1), "b"))
    assert valid.part == "valid"
    assert "chosen by these pictures" in valid.notes[0]


def test_pictures_with_another_label_in_one_run_are_left_out_and_counted() -> None:
    first, second = table(50), table(50, noise=1)
    targets = np.asarray(second.targets).copy()
    targets[:5] = (targets[:5] + 1) % 3
    changed = Predictions(second.logits, CLASSES, targets=targets, paths=second.paths, split=second.split)
    found = compare(run(first), run(changed, "b"))
    assert found.pictures == 45
    assert "5 pictures have another label" in found.notes[0]


def write_pictures(folder: Path, predictions: Predictions, *, salt: str = "") -> None:
    for path in predictions.paths or ():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(f"picture {path} {salt}".encode())


def test_runs_of_two_folders_are_matched_by_the_bytes_of_their_pictures(tmp_path: Path) -> None:
    first, second = table(30), table(30, noise=1)
    write_pictures(tmp_path / "one", first)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    runs = [run(first, "a", str(tmp_path / "one")), run(second, "b", str(tmp_path / "two"))]
    assert compare(*runs).pictures == 30
    assert "same name" not in " ".join(compare(*runs).notes)
    # The control: other pictures of the same names are not the same pictures.
    write_pictures(tmp_path / "two", second, salt="another")
    with pytest.raises(UsageError, match="share no picture"):
        compare(*runs)


def test_pictures_that_are_gone_are_matched_by_name_which_is_said() -> None:
    found = compare(run(table(30), "a", "/gone"), run(table(30, noise=1), "b", "/elsewhere"))
    assert found.pictures == 30
    assert any("same name" in note for note in found.notes)


def test_five_pictures_one_way_are_not_enough_for_the_exact_test() -> None:
    right = np.tile(np.array([[2.0, 0, 0]]), (100, 1))
    wrong = right.copy()
    wrong[:5] = [[0.0, 2.0, 0.0]]
    truth = np.zeros(100, np.int64)
    five = compare_predictions(
        Predictions(wrong, CLASSES, targets=truth), Predictions(right, CLASSES, targets=truth), "accuracy"
    )
    assert five.gain.verdict == "better"  # the bootstrap by itself
    assert five.chance == pytest.approx(0.0625)
    assert five.verdict == "cannot tell with 100 pictures"
    wrong[5] = [0.0, 2.0, 0.0]
    six = compare_predictions(
        Predictions(wrong, CLASSES, targets=truth), Predictions(right, CLASSES, targets=truth), "accuracy"
    )
    assert six.verdict == "better"


def test_equal_runs_are_told_apart_no_more_often_than_stated_and_unequal_ones_are() -> None:
    def verdict(seed: int, skill: float) -> str:
        one, other = table(120, seed=seed), table(120, seed=seed, noise=1, skill=skill)
        return compare_predictions(one, other, "accuracy").verdict

    false = [verdict(seed, 1.5) for seed in range(120)]
    assert sum("cannot" not in each for each in false) <= 0.08 * len(false)
    # The control: where there is a difference, the same test finds it.
    true = [verdict(seed, 4.0) for seed in range(30)]
    assert sum(each == "better" for each in true) >= 28


def test_a_run_is_read_from_its_folder(tmp_path: Path) -> None:
    predictions = table(12)
    predictions.to_csv(tmp_path / "predictions.csv")
    summary = {"metric": "macro_f1", "data": {"root": "/p", "task": "single-label"}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    found = read_held_out(tmp_path)
    assert (found.metric, found.root, len(found.predictions)) == ("macro_f1", "/p", 12)
    assert found.predictions.task is Task.SINGLE_LABEL


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match=r"no predictions\.csv"):
        read_held_out(tmp_path)
    table(3).to_csv(tmp_path / "predictions.csv")
    (tmp_path / "summary.json").write_text("[]")
    with pytest.raises(ConfigError, match="not the summary"):
        read_held_out(tmp_path)


def test_tags_are_compared_too() -> None:
    random = np.random.default_rng(0)
    targets = random.integers(0, 2, size=(90, 2)).astype(np.uint8)

    def tags(skill: float) -> Predictions:
        logits = np.random.default_rng(1).normal(size=(90, 2)) + skill * (2.0 * targets - 1)
        paths = tuple(f"{row}.jpg" for row in range(90))
        return Predictions(logits, ("x", "y"), Task.MULTI_LABEL, targets=targets, paths=paths)

    found = compare(run(tags(0.5), metric="f2"), run(tags(3.0), "b", metric="f2"))
    assert [each.metric for each in found.figures] == ["f2", "macro_f1", "log_loss"]
    assert found.verdict == "better"
