"""A model is judged on labelled pictures: classes by name, views by policy, and what it decides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.augment import EvalPrepare, policy_views
from headstart.data import Samples, decode
from headstart.deploy import Predictor, evaluate, load_bundle, load_predictor, save_bundle
from headstart.deploy.evaluating import targets_by_name
from headstart.errors import ConfigError, DataError, InputMissingError, UsageError
from headstart.evaluation import Predictions, SetRule, fit_novelty, judge
from headstart.types import Task

from .conftest import CLASSES, SHORT_SIDE, SIZE, Saved, manifest_of, picture, small_model


def samples_in(folder: Path, classes: tuple[str, ...], count: int = 12, *, part: str = "") -> Samples:
    """Pictures with labels in turn."""
    folder.mkdir(exist_ok=True)
    for row in range(count):
        Image.fromarray(picture(row)).save(folder / f"{row}.png")
    return Samples(
        root=folder,
        paths=tuple(f"{row}.png" for row in range(count)),
        labels=np.arange(count) % len(classes),
        classes=classes,
        split=np.full(count, part, "<U5"),
    )


def saved_with(folder: Path, **changes: object) -> Predictor:
    """A predictor of a bundle with these fields."""
    model = small_model()
    novelty = changes.pop("novelty", None)
    save_bundle(folder, [model], manifest_of(model, **changes), novelty=novelty)  # type: ignore[arg-type]
    return load_predictor(folder, device="cpu", trusted=True)


@pytest.fixture(scope="module")
def predictor(saved: Saved) -> Iterator[Predictor]:
    with load_predictor(saved.folder, device="cpu", trusted=True) as loaded:
        yield loaded


def test_figures_are_those_of_the_predictions_with_classes_matched_by_name(
    predictor: Predictor, tmp_path: Path
) -> None:
    turned = (CLASSES[2], CLASSES[0], "no picture is of this", CLASSES[1])
    samples = samples_in(tmp_path / "p", turned)
    samples = replace(samples, labels=np.array([0, 1, 3] * 4))
    found = evaluate(predictor, samples)
    wanted = predictor.predict([samples.root / path for path in samples.paths])
    np.testing.assert_allclose(found.predictions.probabilities, wanted.probabilities, atol=1e-6)
    assert np.asarray(found.predictions.targets).tolist() == [2, 0, 1] * 4
    accuracy = float((wanted.predicted == found.predictions.targets).mean())
    assert found.evaluation.figures["accuracy"].value == pytest.approx(accuracy)
    assert found.evaluation.pictures == 12
    assert [each.name for each in found.evaluation.classes] == list(CLASSES)
    assert json.dumps(found.evaluation.to_dict(), allow_nan=False)


def test_an_own_function_of_predictions_is_a_figure_with_an_interval(
    predictor: Predictor, tmp_path: Path
) -> None:
    def sure(predictions: Predictions) -> float:
        return float((predictions.confidence > 0.5).mean())

    found = evaluate(predictor, samples_in(tmp_path / "p", CLASSES), metrics=(sure, "accuracy"))
    assert list(found.evaluation.figures) == ["sure", "accuracy"]
    value = found.evaluation.figures["sure"]
    assert value.low <= value.value <= value.high


def test_a_class_that_the_model_does_not_know_is_refused_with_the_nearest_one(
    predictor: Predictor, tmp_path: Path
) -> None:
    samples = samples_in(tmp_path / "p", ("cat", "Hunde", "鳥 <b>"))
    with pytest.raises(DataError, match=r"Hunde \(4 pictures\)") as caught:
        evaluate(predictor, samples)
    assert caught.value.hint == "rename Hunde to Hund"


@pytest.mark.parametrize(
    ("splits", "part", "told"),
    [("train valid test", "auto", "test"), ("train valid", "auto", "valid"), ("", "auto", "all")],
)
def test_the_part_that_is_judged_is_the_one_kept_aside_for_it(
    predictor: Predictor, tmp_path: Path, splits: str, part: str, told: str
) -> None:
    samples = samples_in(tmp_path / "p", CLASSES)
    names = splits.split() or [""]
    samples = samples.with_split(np.array([names[row % len(names)] for row in range(12)]))
    found = evaluate(predictor, samples, part=part)
    assert found.part == told
    assert found.predictions.split is not None
    assert set(found.predictions.split) == ({""} if told == "all" else {told})
    assert len(evaluate(predictor, samples, part="all").predictions) == 12


def test_pictures_without_labels_and_parts_that_do_not_exist_are_refused(
    predictor: Predictor, tmp_path: Path
) -> None:
    samples = samples_in(tmp_path / "p", CLASSES)
    with pytest.raises(UsageError, match="no part 'dev'"):
        evaluate(predictor, samples, part="dev")
    with pytest.raises(DataError, match="test part has a label"):
        evaluate(predictor, samples, part="test")
    with pytest.raises(DataError, match="has a label"):
        evaluate(predictor, replace(samples, labels=np.full(12, -1)))
    with pytest.raises(InputMissingError):
        predictor.predict_samples(samples.take([]))


def test_unreadable_pictures_are_left_out_and_counted(predictor: Predictor, tmp_path: Path) -> None:
    samples = samples_in(tmp_path / "p", CLASSES)
    (samples.root / "3.png").write_bytes(b"nothing")
    found = evaluate(predictor, samples)
    assert (found.evaluation.pictures, found.evaluation.left_out) == (11, 1)


def test_tags_are_matched_by_name_too() -> None:
    samples = Samples(
        Path(), ("a", "b"), np.array([[1, 0], [1, 1]], np.uint8), ("x", "y"), np.full(2, ""), Task.MULTI_LABEL
    )
    found = targets_by_name(samples, ("z", "y", "x"), Task.MULTI_LABEL)
    assert found.tolist() == [[0, 0, 1], [0, 1, 1]]
    with pytest.raises(UsageError, match="one class for each picture"):
        targets_by_name(samples, ("x", "y"), Task.SINGLE_LABEL)


# --- views ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["flip", "multi-scale", "course-2017", "course-2018", "course-2020"])
def test_a_policy_averages_its_views_with_its_weights(tmp_path: Path, policy: str) -> None:
    import torch

    predictor = saved_with(tmp_path / "m", views="flips", temperature=1.0)
    model = small_model()
    pixels = [picture(number) for number in range(3)]
    found = predictor.predict(pixels, tta=policy)
    chosen = policy_views(policy, EvalPrepare(SIZE, crop_fraction=0.9), "flips")
    wanted = np.zeros((3, 3))
    for row, given in enumerate(pixels):
        data = tmp_path / f"{row}.png"
        Image.fromarray(given).save(data)
        decoded = decode(data.read_bytes(), short_side=SHORT_SIDE)
        for view, weight in zip(chosen.views, chosen.weights, strict=True):
            seen = torch.from_numpy(view(decoded, 0, 0)).permute(2, 0, 1)[None]
            with torch.inference_mode():
                wanted[row] += weight * torch.softmax(model(seen).double(), 1).numpy()[0]
    np.testing.assert_allclose(found.probabilities, wanted, atol=1e-5)
    one_by_one = [predictor.predict(given, tta=policy).probabilities[0] for given in pixels]
    np.testing.assert_allclose(one_by_one, found.probabilities, atol=1e-6)


def test_the_gain_of_views_and_their_cost_are_reported(tmp_path: Path) -> None:
    predictor = saved_with(tmp_path / "m", views="flips")
    samples = samples_in(tmp_path / "p", CLASSES)
    views = evaluate(predictor, samples, tta="multi-scale").evaluation.views
    assert views is not None
    assert (views.policy, views.views) == ("multi-scale", 3)
    assert list(views.gains) == ["accuracy", "log_loss"]
    assert views.cost > 0
    assert evaluate(predictor, samples, tta=False).evaluation.views is None


def test_a_bundle_that_never_mirrors_refuses_mirror_images(tmp_path: Path) -> None:
    predictor = saved_with(tmp_path / "m", views="plain")
    with pytest.raises(UsageError, match="never mirrored"):
        predictor.predict(picture(0), tta="flip")
    plain = predictor.predict(picture(0), tta=False).probabilities
    assert predictor.predict(picture(0), tta=True).probabilities == pytest.approx(plain)
    assert len(predictor.views("course-2018").views) == 5


def test_the_policy_of_the_bundle_is_the_default(tmp_path: Path) -> None:
    predictor = saved_with(tmp_path / "m", views="flips", tta=True, tta_policy="multi-scale")
    named, own = predictor.predict(picture(0), tta="multi-scale"), predictor.predict(picture(0))
    assert own.probabilities == pytest.approx(named.probabilities)
    assert own.probabilities != pytest.approx(predictor.predict(picture(0), tta=False).probabilities)


# --- what it decides --------------------------------------------------------------------------------


def features_of(model: object, pixels: list[np.ndarray]) -> np.ndarray:
    import torch

    plain = EvalPrepare(SIZE, crop_fraction=0.9)
    with torch.inference_mode():
        below = model.lower(model.head_stage)  # type: ignore[attr-defined]
        rows = [below(torch.from_numpy(plain(each)).permute(2, 0, 1)[None]).numpy()[0] for each in pixels]
    return np.stack(rows)


def test_scaling_sets_and_strangers_travel_in_the_bundle(tmp_path: Path) -> None:
    model = small_model()
    found = fit_novelty(
        features_of(model, [picture(n, 50, 66) for n in range(60)]),
        features_of(model, [picture(n, 51, 67) for n in range(60)]),
        blocks=2,
    )
    assert found is not None
    scaling = ((2.0, 1.0, 0.5), (0.5, 0.0, -0.5))
    rule = SetRule("least", 0.9, 0.7)
    with saved_with(tmp_path / "m", scaling=scaling, sets=rule, novelty=found.novelty) as predictor:
        table = predictor.predict([picture(n) for n in range(4)])
        with saved_with(tmp_path / "plain") as other:
            plain = other.predict([picture(n) for n in range(4)])
    np.testing.assert_allclose(table.logits, plain.logits, atol=1e-5)
    np.testing.assert_allclose(table.scaled_logits, plain.scaled_logits * scaling[0] + scaling[1], atol=1e-5)
    assert table.sets is not None
    assert (table.sets >= (1 - table.probabilities <= 0.7)).all()
    assert table.strangeness is not None
    assert np.isfinite(table.strangeness).all()
    assert plain.strangeness is None
    bundle = load_bundle(tmp_path / "m")
    assert bundle.manifest.sets == rule
    assert bundle.novelty is not None
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
        "README.md",
        "manifest.json",
        "model.safetensors",
        "novelty.safetensors",
    ]


def test_an_altered_novelty_file_is_refused(tmp_path: Path) -> None:
    model = small_model()
    rows = np.random.default_rng(0).gamma(2.0, size=(80, model.feature_count))
    found = fit_novelty(rows, rows[:50])
    assert found is not None
    save_bundle(tmp_path / "m", [model], manifest_of(model), novelty=found.novelty)
    file = tmp_path / "m" / "novelty.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(ConfigError, match="altered"):
        load_bundle(tmp_path / "m")
    other = fit_novelty(rows[:, :-2], rows[:50, :-2])
    assert other is not None
    with pytest.raises(ConfigError, match="not those of its network"):
        save_bundle(tmp_path / "other", [model], manifest_of(model), novelty=other.novelty)


def test_judging_counts_sets_and_strangers() -> None:
    table = Predictions(
        np.eye(3)[[0, 1, 2, 2]] * 3,
        CLASSES,
        targets=np.array([0, 1, 2, 0]),
        sets=np.eye(3, dtype=bool)[[0, 1, 2, 2]],
        strangeness=np.array([0.1, 0.2, 0.3, 2.0]),
    )
    found = judge(table, level=0.9)
    assert found.sets is not None
    assert found.sets.coverage.value == 0.75
    assert found.none_of_these is not None
    assert found.none_of_these.value == 0.25
    assert found.classes[0].f1_ends[0] <= found.classes[0].f1 <= found.classes[0].f1_ends[1]


def test_what_was_measured_and_what_entered_the_head_stands_beside_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model()
    rows = np.random.default_rng(0).gamma(2.0, size=(80, model.feature_count))
    novelty = fit_novelty(rows, rows[:50])
    assert novelty is not None
    samples = samples_in(tmp_path / "p", CLASSES, count=12)
    (samples.root / "4.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    chosen = replace(samples, split=np.array(["train", "valid"] * 6))
    with saved_with(tmp_path / "m", novelty=novelty.novelty) as predictor:
        found = evaluate(predictor, chosen, part="train")
        monkeypatch.setattr("headstart.deploy.predictor.MOST_FEATURES", 3)
        some = evaluate(predictor, chosen, part="train")
    assert [None if each is None else (each.height, each.width, each.format) for each in found.facts] == [
        None if row == 4 else (*picture(row).shape[:2], "PNG") for row in (0, 2, 4, 6, 8, 10)
    ]
    brightness = [each.brightness for each in found.facts if each is not None]
    np.testing.assert_allclose(brightness[0], picture(0)[::4].mean(), atol=0.5)
    assert found.feature_rows is not None
    assert found.features is not None
    assert found.feature_rows.tolist() == [0, 2, 6, 8, 10]
    expected = features_of(model, [picture(row) for row in found.feature_rows])
    np.testing.assert_allclose(found.features, expected, atol=1e-4)
    # Every second one, where three of six are kept; the one that cannot be read is not replaced.
    assert some.feature_rows is not None
    assert some.feature_rows.tolist() == [0, 8]
    # A bundle that does not ask for features gives none.
    with saved_with(tmp_path / "plain") as predictor:
        assert evaluate(predictor, chosen, part="train").features is None


def test_rows_of_a_table_are_explained_each_by_a_label_of_its_own(
    predictor: Predictor, tmp_path: Path
) -> None:
    samples = samples_in(tmp_path / "p", CLASSES, count=3)
    labels = [CLASSES[2], CLASSES[0], CLASSES[2]]
    found = list(predictor.explain(samples, label=labels))
    assert [each.label for each in found] == labels
    for row, label in enumerate(labels):
        (alone,) = predictor.explain(samples.root / f"{row}.png", label=label)
        assert found[row].heat is not None
        assert alone.heat is not None
        np.testing.assert_allclose(found[row].heat, alone.heat, atol=1e-4)
    with pytest.raises(UsageError, match="no class 'none'"):
        next(predictor.explain(samples, label=["none"] * 3))
