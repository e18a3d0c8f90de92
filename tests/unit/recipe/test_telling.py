"""What a run tells the model card: what was done and measured, and no path and no picture's name."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest

from headstart.deploy import About, TrainingStep
from headstart.deploy.about import about_from
from headstart.evaluation import Predictions, calibrate, cross_fitted, metric
from headstart.recipe.deciding import scaled_by_class
from headstart.recipe.telling import about_run

SUMMARY: dict[str, Any] = {
    "command": ["headstart", "train", "/home/someone/secret"],
    "settings": {
        "weights": "/home/someone/secret/w.safetensors",
        "batch_size": 8,
        "balance": "none",
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "precision": "float32",
        "device": "cpu",
        "seed": 3,
    },
    "data": {
        "root": "/home/someone/secret",
        "line": "60 pictures in /home/someone/secret",
        "classes": ["cat", "dog"],
        "counts": {"train": {"cat": 20, "dog": 16, "(no label)": 4}, "valid": {"cat": 12, "dog": 8}},
        "pictures": {"train": 40, "valid": 20},
        "quarantined": [{"path": "secret.jpg", "code": "TRUNCATED"}],
        "lost": [{"path": "secret.jpg", "code": "VANISHED"}],
    },
    "steps": [
        {"name": "Probe", "kept": True, "epochs": 0, "gain": None},
        {"name": "Unfreeze", "kept": None, "epochs": 0, "gain": None},
        {
            "name": "whole network",
            "kept": False,
            "epochs": 4,
            "gain": {"metric": "log_loss", "value": -0.1, "low": -0.2, "high": None, "probability": 0.1},
        },
    ],
    "final": {"valid": {}, "test": None, "note": "Keep a test part aside (--test 0.15)."},
    "calibration": {
        "temperature": 2.0,
        "log_loss_before": 0.5,
        "log_loss_after": 0.4,
        "ece_before": 0.1,
        "ece_after": 0.05,
    },
    "scaling": {"kept": False, "log_loss_after": 0.4, "ece_after": 0.05},
    "sets": {"coverage": {"value": 0.9, "low": 0.7, "high": 0.95}, "mean_size": 1.2, "level": 0.9},
    "none_of_these": {"rate": 0.05, "limit": 1.0, "turned_away": {"value": 0.06, "low": 0.0, "high": 0.2}},
    "versions": {"torch": "2.9"},
    "machine": {"system": "secret"},
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SUMMARY), **changes}


def test_a_run_tells_its_pictures_steps_settings_and_decisions() -> None:
    told = about_run(SUMMARY, "mirrors")
    assert told.pictures == {"train": 40, "valid": 20}
    assert told.counts == {"train": (20, 16), "valid": (12, 8)}
    assert told.note == "It was chosen among 2 by these validation figures, so they are a little optimistic."
    assert told.steps == (
        TrainingStep("Probe", True),
        TrainingStep("whole network", False, 4, {"value": -0.1, "low": -0.2, "high": None}),
    )
    assert told.settings["augmentation"] == "mirrors"
    assert told.settings["seed"] == "3"
    assert {name: figure["value"] for name, figure in told.decided.items()} == {
        "log_loss_before": 0.5,
        "log_loss_after": 0.4,
        "ece_before": 0.1,
        "ece_after": 0.05,
        "coverage": 0.9,
        "set_size": 1.2,
        "turned_away": 0.06,
    }


@pytest.mark.parametrize(
    "summary",
    [
        SUMMARY,
        changed(folds={"count": 3, "out_of_fold": True}, final={"test": {}, "note": "Out of fold."}),
        changed(sets=None, none_of_these=None, scaling=None, calibration=None),
    ],
)
def test_what_is_told_can_be_read_again_and_names_no_place_and_no_picture(summary: dict[str, Any]) -> None:
    told = about_run(summary, "mirrors")
    text = json.dumps(About(**vars(told)), default=vars)
    assert "secret" not in text
    assert "/" not in text
    assert about_from(json.loads(text), 2) == told


def test_of_folds_what_trains_and_judges_is_one_part_and_what_is_of_one_network_is_left_out() -> None:
    told = about_run(
        changed(folds={"count": 3, "out_of_fold": True}, final={"test": {}, "note": "Out of fold."}), ""
    )
    assert told.out_of_fold
    assert told.pictures == {"folds": 60}
    assert told.counts == {"folds": (32, 24)}
    assert told.note == "Out of fold."
    assert set(told.decided) == {"ece_after"}


def test_a_scaling_that_was_kept_is_what_the_figures_are_after() -> None:
    kept = about_run(changed(scaling={"kept": True, "log_loss_after": 0.3, "ece_after": 0.02}), "")
    assert kept.decided["log_loss_after"] == {"value": 0.3}
    assert kept.decided["ece_after"] == {"value": 0.02}


def test_the_figures_of_a_run_are_of_temperatures_that_other_rows_gave() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(60, 3))
    noise = -np.log(-np.log(random.uniform(size=logits.shape)))
    valid = Predictions(logits * 4, tuple("abc"), targets=(logits + noise).argmax(1))
    found = calibrate(valid)
    assert found.temperature > 1.0
    table, fair, _ = scaled_by_class(valid.with_temperature(found.temperature))
    assert table.temperature == found.temperature
    assert metric("log_loss")(fair) == metric("log_loss")(cross_fitted(valid)) == found.log_loss_after
    # The control: the temperature of all rows flatters those it was fitted to.
    assert metric("log_loss")(table) < found.log_loss_after


def test_where_no_temperature_helps_the_figures_are_of_the_table_as_it_is() -> None:
    valid = Predictions(np.zeros((40, 2)), ("a", "b"), targets=[0, 1] * 20)
    table, fair, _ = scaled_by_class(valid)
    assert fair is table is valid
