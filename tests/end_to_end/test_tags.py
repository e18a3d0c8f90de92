"""Pictures with any number of tags, from a table to predictions on the command line."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import headstart as hs
from headstart.cli.main import main
from headstart.errors import UsageError
from headstart.evaluation import (
    Predictions,
    TagInterpretation,
    cross_decided,
    every_tag,
    fit_thresholds,
    interval,
    metric,
    rows_to_explain,
)
from headstart.imagedata import ImageData
from headstart.recipe import Narrator, eight_steps
from headstart.recipe.deciding import scaled_by_class
from headstart.types import Task


class Listening(Narrator):
    def __init__(self) -> None:
        self.told: dict[int, str] = {}

    def outcome(self, result) -> None:
        self.told[result.number] = result.outcome


def predict(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", *arguments, "--no-tta"])
    assert ended.value.code == 0


def test_tags_go_all_the_way(helmets, shared: Path, tmp_path: Path, capsys) -> None:
    samples = helmets(60)
    labels = samples.labels.copy()
    labels[:3] = 0  # no tag at all is an answer too
    data = ImageData.from_samples(replace(samples, labels=labels), image_size=96, valid=0.4)
    listening = Listening()
    plan = eight_steps(cycles=1, epochs=0.5)
    result = hs.train(
        data,
        plan,
        arch="mobilenetv2_100",
        weights=shared / "weights",
        out=tmp_path / "run",
        narrator=listening,
    )

    # What costs nothing stands beside the probe.
    nothing = metric("f2")(every_tag(result.valid))
    assert f"every tag always: {nothing:.1%}" in listening.told[0]
    assert set(listening.told) >= {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
    assert "f2" in listening.told[8]

    # The thresholds are those of all validation rows; the figures are of the other half's.
    thresholds = fit_thresholds(result.valid, "f2")
    manifest = json.loads((result.model / "manifest.json").read_text())
    assert manifest["thresholds"] == thresholds.tolist()
    assert result.summary["thresholds"] == dict(zip(data.classes, thresholds.tolist(), strict=True))
    final = result.summary["final"]["valid"]
    assert list(final)[:3] == ["f2", "average_precision", "macro_f1"]
    _, fair, _ = scaled_by_class(result.valid.with_scaling(None).with_thresholds(None))
    for name in final:
        assert final[name] == pytest.approx(interval(cross_decided(fair), name).to_dict()), name
    assert f"{final['f2']['value']:.1%}" in result.headline()

    # The table says what the model says, and the report of it tells of each tag.
    table = Predictions.from_csv(result.folder / "predictions.csv", task=Task.MULTI_LABEL)
    np.testing.assert_array_equal(table.predicted, result.valid.predicted)
    np.testing.assert_array_equal(table.targets, result.valid.targets)
    page = result.report.read_text()
    for words in (
        "Tag by tag",
        "Average precision",
        "Threshold",
        "What goes together",
        "Where it is most wrong",
    ):
        assert words in page
    assert "Confusion matrix" not in page

    # What the report shows beside the figures: doubts of each tag, heat of the tag that was judged worst.
    doubts = result.summary["doubts"]
    assert (doubts["pictures"], doubts["labels"]) == (60, 120)
    for each in doubts["examples"]:
        assert each["tag"] in data.classes
        assert {each["label"], each["suggested"]} == {f"with {each['tag']}", f"without {each['tag']}"}
        assert (result.folder / each["picture"]).is_file()
    heat = {int(path.name.split("_")[0]) for path in result.folder.glob("pictures/*_heat.jpg")}
    assert heat
    assert heat <= set(rows_to_explain(table).tolist())
    assert result.summary["slices"] == [] or {"column", "value", "worse"} <= set(result.summary["slices"][0])

    # The same decisions by the bundle, on the command line.
    few = [str(samples.root / path) for path in result.valid.paths[:6]]
    predict(str(result.model), *few)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["status"] for row in rows] == ["ok"] * 6
    for row in rows:
        said = [
            name
            for name, least in zip(data.classes, thresholds, strict=True)
            if float(row[f"p_{name}"]) >= least
        ]
        assert json.loads(row["prediction"]) == said
    predict(str(result.model), *few, "--json")
    for entry, row in zip(json.loads(capsys.readouterr().out), rows, strict=True):
        assert sorted(each["class"] for each in entry["classes"]) == json.loads(row["prediction"])


def test_a_learner_speaks_of_tags(helmets, shared: Path) -> None:
    data = ImageData.from_samples(helmets(60), image_size=96, valid=0.4)
    learner = hs.Learner(
        data, "mobilenetv2_100", weights=shared / "weights", metrics=("f2", "average_precision"), callbacks=()
    )
    probe = learner.fit_probe()
    features = learner.activations("valid")
    assert features is not None
    # The linear head is the probe.
    np.testing.assert_allclose(learner.predictions().logits, probe.logits(features.features), atol=1e-3)
    assert learner.validate()["f2"] == metric("f2")(cross_decided(learner.predictions(), "f2"))
    told = learner.interpret()
    assert isinstance(told, TagInterpretation)
    assert len(told.per_tag()) == 2
    titled = [axes.get_title() for axes in told.plot_top_losses(4).axes if axes.get_title()]
    assert len(titled) == 4


def test_a_metric_without_meaning_for_tags_is_refused_before_any_work(
    helmets, shared: Path, tmp_path: Path
) -> None:
    data = ImageData.from_samples(helmets(20), image_size=64)
    with pytest.raises(UsageError, match="balanced_accuracy needs one class"):
        hs.train(
            data,
            arch="mobilenetv2_100",
            weights=shared / "weights",
            out=tmp_path / "run",
            metric="balanced_accuracy",
            narrator=Narrator(),
        )
    assert not (tmp_path / "run").exists()
