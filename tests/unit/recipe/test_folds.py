"""A fold ensemble: honest figures, one look at every picture, a bundle of all, and no fold done twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart import augment as augmentation
from headstart.data import Samples, scan_folder
from headstart.deploy import load_predictor
from headstart.errors import ConfigError, DataError, UsageError
from headstart.evaluation import Predictions, average, rows_to_explain
from headstart.imagedata import FeaturePool, ImageData
from headstart.models import OnnxEngine
from headstart.processes import Ranks
from headstart.recipe import Body, Narrator, Result, folds, prepare_folder, resume, run_steps
from headstart.recipe.clock import Clock
from headstart.recipe.steps import EightSteps
from headstart.training import Phase, Plan, Settings, constant
from headstart.types import Task, World

HEAD = Plan((Phase("head", 1, constant(), learning_rate=1e-3, augment=False, precompute=True),))
COUNT = 3


Train = Callable[..., Result]


class Counting:
    """Counts the pictures that any frozen body has seen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pictures = 0
        call = OnnxEngine.__call__

        def counted(engine: OnnxEngine, pixels: np.ndarray) -> np.ndarray:
            self.pictures += len(pixels)
            return call(engine, pixels)

        monkeypatch.setattr(OnnxEngine, "__call__", counted)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 cats and 24 dogs, all different, none of which is ever mirrored."""
    root = tmp_path_factory.mktemp("folds")
    random = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (root / "pictures" / kind).mkdir(parents=True)
        for number in range(24):
            corners = Image.fromarray(random.integers(0, 256, (2, 2, 3), dtype=np.uint8))
            corners.resize((32, 24), Image.Resampling.BILINEAR).save(
                root / "pictures" / kind / f"{number}.png"
            )
    return root


def pictures(place: Path) -> ImageData:
    augment = augmentation.none()
    return ImageData.from_folder(place / "pictures", image_size=32, valid=0.25, threads=0, augment=augment)


@pytest.fixture(scope="module")
def train(place: Path, body: Body) -> Callable[..., Result]:
    def run(out: str, *, plan: Plan = HEAD, folds: int = COUNT, budget: float | None = None) -> Result:
        folder = prepare_folder(place / out, place / "pictures", folds=folds)
        return run_steps(
            pictures(place), plan, body, folder, Narrator(), folds=folds, budget=budget, metric="macro_f1"
        )

    return run


@pytest.fixture(scope="module")
def whole(place: Path, train: Train) -> Iterator[tuple[Result, int]]:
    """A finished ensemble, and how many pictures its frozen bodies saw."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("HEADSTART_CACHE", str(place / "cache"))
        counting = Counting(patched)
        result = train("whole")
        yield result, counting.pictures


def stopped_at(call: int, trained: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the run of a fold fail the `call`-th time, and note the folds."""
    run = EightSteps.run

    def killed(steps: EightSteps, *given: Any) -> Result:
        trained.append(steps.folder.path.name)
        if len(trained) == call:
            raise MemoryError
        return run(steps, *given)

    monkeypatch.setattr(EightSteps, "run", killed)


def test_every_picture_is_predicted_once_by_a_model_that_never_saw_it(
    whole: tuple[Result, int], place: Path
) -> None:
    result = whole[0]
    samples = scan_folder(place / "pictures")
    assert result.valid.rows.tolist() == list(range(48))
    assert result.valid.paths == samples.paths
    np.testing.assert_array_equal(result.valid.targets, samples.labels)
    seen: list[str] = []
    for number in range(COUNT):
        fold = result.folder / "folds" / str(number + 1)
        table = Predictions.from_csv(fold / "predictions.csv")
        tested = set(table.part("test").paths or ())
        assert not tested & set(table.part("valid").paths or ())
        assert len(tested) == 16
        own = result.valid.take(np.isin(result.valid.paths, sorted(tested)))
        np.testing.assert_allclose(own.probabilities, table.part("test").probabilities, atol=1e-6)
        seen += sorted(tested)
    assert sorted(seen) == sorted(samples.paths)
    assert "out-of-fold pictures" in result.headline()


def test_no_picture_goes_through_the_frozen_body_twice(whole: tuple[Result, int]) -> None:
    # An engine looks at a few pictures to check itself; three runs without a pool look at 144.
    assert 48 <= whole[1] < 2 * 48


def test_the_bundle_gives_the_mean_of_the_calibrated_members(whole: tuple[Result, int], place: Path) -> None:
    predictor = load_predictor(whole[0].model)
    assert len(predictor.manifest.members) == COUNT
    files = sorted((place / "pictures" / "cat").iterdir())[:9]
    folds = [whole[0].folder / "folds" / str(number + 1) / "model" for number in range(COUNT)]
    expected = average([load_predictor(fold).predict(files, tta=False) for fold in folds])
    got = predictor.predict(files, tta=False)
    np.testing.assert_allclose(got.probabilities, expected.probabilities, atol=1e-5)


def test_the_report_and_the_summary_show_each_fold(whole: tuple[Result, int]) -> None:
    result = whole[0]
    summary = json.loads((result.folder / "summary.json").read_text("utf-8"))
    assert summary["folds"] == {"count": COUNT, "out_of_fold": True}
    assert [step["name"] for step in summary["steps"]] == ["fold 1", "fold 2", "fold 3"]
    assert "never saw" in summary["steps"][0]["reason"]
    report = result.report.read_text("utf-8")
    assert "fold 3" in report
    assert "on out-of-fold pictures" in report
    assert "spread over 3 folds" in report
    card = (result.model / "README.md").read_text("utf-8")
    assert "on 48 out-of-fold pictures" in card
    assert "48 pictures: 48 in the folds." in card


def test_an_ensemble_leaves_heat_doubts_and_a_map_of_what_each_network_never_saw(
    whole: tuple[Result, int],
) -> None:
    result = whole[0]
    summary = json.loads((result.folder / "summary.json").read_text("utf-8"))
    assert summary["slices"] == result.summary["slices"]
    assert summary["doubts"]["pictures"] == 48
    for each in summary["doubts"]["examples"]:
        assert (result.folder / each["picture"]).is_file()
        row = (result.valid.paths or ()).index(each["path"])
        number = result.valid.classes.index(each["suggested"])
        assert each["probability"] == pytest.approx(result.valid.probabilities[row, number])
    heat = {int(path.name.split("_")[0]) for path in result.folder.glob("pictures/*_heat.jpg")}
    assert heat
    assert heat <= set(rows_to_explain(result.valid).tolist())
    place = json.loads((result.folder / "embedding.json").read_text("utf-8"))
    assert place["rows"] == list(range(48))


def test_it_goes_on_with_the_first_fold_that_is_not_finished(
    whole: tuple[Result, int], train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    stopped_at(2, trained, monkeypatch)
    with pytest.raises(MemoryError):
        train("stopped")
    with pytest.raises(ConfigError, match="another number of folds"):
        train("stopped", folds=4)
    again = train("stopped")
    assert trained == ["1", "2", "2", "3"]
    np.testing.assert_array_equal(again.valid.logits, whole[0].valid.logits)
    assert again.summary["final"] == whole[0].summary["final"]


@pytest.fixture(scope="module")
def killed(place: Path, train: Train) -> Path:
    """An ensemble that fell over in its second fold, with a budget of 1000 s."""
    with pytest.MonkeyPatch.context() as patched:
        stopped_at(2, [], patched)
        with pytest.raises(MemoryError):
            train("killed", budget=1000.0)
    return place / "killed"


def test_resume_goes_on_with_the_first_fold_that_is_not_finished(
    whole: tuple[Result, int], killed: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, trained = tmp_path / "run", []
    shutil.copytree(killed, out)
    stopped_at(9, trained, monkeypatch)
    clocks: list[Clock] = []
    monkeypatch.setattr(folds, "Clock", lambda *given: clocks.append(Clock(*given)) or clocks[-1])
    result = resume(out, pictures(place), narrator=Narrator())
    assert result is not None
    assert trained == ["2", "3"]
    np.testing.assert_array_equal(result.valid.logits, whole[0].valid.logits)
    assert result.summary["final"] == whole[0].summary["final"]
    assert result.summary["metric"] == "macro_f1"
    assert clocks[0].budget == 1000.0
    first = json.loads((out / "folds" / "1" / "summary.json").read_text("utf-8"))
    assert clocks[0].elapsed >= first["seconds"] > 0, "what the first fold took has been spent"
    assert sorted(path.name for path in out.iterdir()) == sorted(
        path.name for path in whole[0].folder.iterdir()
    )
    assert resume(out, pictures(place), narrator=Narrator()) is None


def test_pictures_that_have_changed_are_named_before_any_fold_goes_on(
    killed: Path, place: Path, tmp_path: Path
) -> None:
    shutil.copytree(place / "pictures", tmp_path / "pictures")
    (tmp_path / "pictures" / "cat" / "3.png").unlink()
    with pytest.raises(DataError, match=r"cat/3.png is not there any more"):
        resume(killed, pictures(tmp_path), narrator=Narrator())


def test_several_processes_neither_begin_nor_resume_the_folds(
    killed: Path, train: Train, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    stopped_at(1, trained, monkeypatch)
    monkeypatch.setattr(folds, "current", lambda: Ranks(World(0, 2)))
    for attempt in (
        lambda: train("together"),
        lambda: resume(killed, pictures(place), narrator=Narrator()),
    ):
        with pytest.raises(UsageError, match="trained in one process"):
            attempt()
    assert not trained


def test_a_test_part_of_ones_own_is_predicted_by_the_ensemble_and_in_no_fold(
    make_folder, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    folder = make_folder({"train/cat": 16, "train/dog": 16, "test/cat": 5, "test/dog": 5})
    data = ImageData.from_folder(folder, image_size=32, threads=0, augment=augmentation.none())
    run = prepare_folder(tmp_path / "run", folder, folds=2)
    result = run_steps(data, HEAD, body, run, Narrator(), folds=2)
    assert result.test is not None
    assert sorted(result.test.rows.tolist()) == data.rows("test").tolist()
    assert not set(result.valid.rows.tolist()) & set(result.test.rows.tolist())
    assert len(result.valid) == 32
    assert not result.summary["folds"]["out_of_fold"]


def test_tags_have_thresholds_of_their_own_in_each_fold(
    helmets: Callable[[int], Samples], body: Body, tmp_path: Path
) -> None:
    data = ImageData.from_samples(helmets(60), image_size=32, threads=0, augment=augmentation.none())
    run = prepare_folder(tmp_path / "run", data.samples.root, folds=2)
    result = run_steps(data, HEAD, body, run, Narrator(), folds=2)
    assert result.valid.task is Task.MULTI_LABEL
    assert result.valid.thresholds is not None
    assert result.valid.thresholds.shape == (60, 2)
    assert len(load_predictor(result.model).manifest.thresholds or ()) == 2
    assert result.summary["final"]["test"]["f2"]["value"] > 0.5


def test_what_cannot_be_is_refused(train: Train) -> None:
    with pytest.raises(UsageError, match="1 folds"):
        train("other", folds=1)
    with pytest.raises(UsageError, match="ensemble of ensembles"):
        train("other", plan=replace(HEAD, settings=Settings(snapshots="ensemble")))


def test_a_pool_gives_back_what_was_put_in_by_content() -> None:
    pool, features = FeaturePool(), np.arange(6, dtype=np.float32).reshape(3, 2)
    pool.add("view", ["a", "b", "c"], features)
    assert pool.missing("view", ["b", "z"]).tolist() == [False, True]
    assert pool.missing("other view", ["b"]).tolist() == [True]
    np.testing.assert_array_equal(pool.take("view", ["c", "a"]), features[[2, 0]])
    assert pool.computed == 3
