"""A manifest is read strictly: whatever is not as it must be is named and refused."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.deploy.about import About, TrainingStep
from headstart.deploy.manifest import (
    FileRecord,
    Head,
    Manifest,
    Member,
    NoveltyRule,
    Preprocessing,
    Provenance,
    manifest_from,
)
from headstart.errors import ConfigError
from headstart.evaluation import SetRule
from headstart.types import Task

GOOD = Manifest(
    members=(
        Member(
            arch="resnet34.a1_in1k",
            preprocessing=Preprocessing(size=(224, 320), short_side=256),
            head=Head("course", (512,), 0.5),
            weights=Provenance("hub timm/resnet34.a1_in1k", "ab" * 32, "apache-2.0"),
        ),
    ),
    classes=("cat", "dog", "鳥"),
    temperature=1.3,
    views="flips",
    tta=True,
    metrics={"valid accuracy": {"value": 0.9, "low": 0.8, "high": None}},
    data="f00d",
    headstart="0.1.0",
    files={"model.safetensors": FileRecord("0" * 64, 10_000)},
)


def fields() -> dict[str, Any]:
    return json.loads(json.dumps(GOOD.to_dict()))


def test_a_manifest_comes_back_as_it_went() -> None:
    assert manifest_from(fields()) == GOOD


def test_a_manifest_from_before_there_was_a_background_is_of_white() -> None:
    assert manifest_from(changed("members.0.preprocessing.background", DELETED)) == GOOD
    with pytest.raises(ConfigError, match="lacks short_side"):
        manifest_from(changed("members.0.preprocessing.short_side", DELETED))
    black = manifest_from(changed("members.0.preprocessing.background", [0, 0, 0]))
    assert black.members[0].preprocessing.background == (0, 0, 0)


DECIDED = replace(
    GOOD,
    tta_policy="course-2018",
    scaling=((0.9, 1.0, 1.2), (0.1, -0.1, 0.0)),
    sets=SetRule("least", 0.9, 0.85),
    novelty=NoveltyRule(0.4, 0.05),
    files={**GOOD.files, "novelty.safetensors": FileRecord("1" * 64, 500)},
)


def test_what_a_model_decides_comes_back_as_it_went() -> None:
    assert manifest_from(json.loads(json.dumps(DECIDED.to_dict()))) == DECIDED


def test_a_bundle_without_decisions_is_written_as_before_there_were_any() -> None:
    assert not {"tta_policy", "scaling", "sets", "novelty"} & set(GOOD.to_dict())
    assert {"tta_policy", "scaling", "sets", "novelty"} <= set(DECIDED.to_dict())


ABOUT = replace(
    GOOD,
    about=About(
        pictures={"train": 40, "valid": 10},
        counts={"train": (20, 15, 5), "valid": (5, 4, 1)},
        note="Chosen among 4.",
        decided={"coverage": {"value": 0.9, "low": 0.8, "high": None}},
        steps=(TrainingStep("Head", True, 2, {"value": 0.1, "low": 0.0, "high": 0.2}), TrainingStep("Rates")),
        settings={"seed": "0"},
        versions={"torch": "2.9"},
    ),
)


def test_what_people_read_comes_back_as_it_went_and_older_bundles_have_none() -> None:
    assert manifest_from(json.loads(json.dumps(ABOUT.to_dict()))) == ABOUT
    assert "about" not in GOOD.to_dict()


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("about", [], "about is not an object"),
        ("about.code", "x", "unknown fields: code"),
        ("about.pictures", {"hidden": 1}, "unknown fields: hidden"),
        ("about.pictures.train", -1, "about.pictures"),
        ("about.pictures.train", 0.5, "about.pictures"),
        ("about.counts.train", [1, 2], "about.counts"),
        ("about.counts.train", [1, 2, "3"], "about.counts"),
        ("about.out_of_fold", 1, "about.out_of_fold"),
        ("about.note", "x" * 1001, "about.note"),
        ("about.decided", {"accuracy": {"value": 1}}, "unknown fields: accuracy"),
        ("about.decided.coverage", 0.9, "about.decided"),
        ("about.decided.coverage.value", float("nan"), "about.decided"),
        ("about.steps.0.name", "", r"about.steps\[0\].name"),
        ("about.steps.0.kept", "yes", r"about.steps\[0\].kept"),
        ("about.steps.0.epochs", -1, r"about.steps\[0\].epochs"),
        ("about.steps.0.gain", {"low": 1}, r"about.steps\[0\].gain"),
        ("about.steps", [{}] * 101, "about.steps"),
        ("about.settings.seed", 0, "about.settings"),
        ("about.settings", {str(number): "" for number in range(101)}, "about.settings"),
        ("about.versions", None, "about.versions"),
    ],
)
def test_what_people_read_is_refused_where_it_is_not_as_it_must_be(
    path: str, value: object, named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        manifest_from(changed(path, value, of=ABOUT))


DECISIONS: list[tuple[str, object, str]] = [
    ("tta_policy", "os.system", "tta_policy"),
    ("tta_policy", None, "tta_policy"),
    ("scaling", [[1.0, 1.0, 1.0]], "scaling"),
    ("scaling", [[1.0, 1.0], [0.0, 0.0]], "scaling"),
    ("scaling", [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]], "scaling"),
    ("scaling", [[-1.0, 1.0, 1.0], [0.0, 0.0, 0.0]], "scaling"),
    ("scaling", [[1.0, 1.0, 1.0], [0.0, 0.0, 1e9]], "scaling"),
    ("sets.method", "eval", "sets.method"),
    ("sets.level", 1.0, "sets.level"),
    ("sets.limit", 1.5, "sets.limit"),
    ("sets.code", "x", "unknown fields: code"),
    ("sets", [], "sets"),
    ("novelty.limit", 0.0, "novelty.limit"),
    ("novelty.limit", "0.1", "novelty.limit"),
    ("novelty.rate", 2, "novelty.rate"),
    ("novelty", None, "files"),
    ("files", {"model.safetensors": {"sha256": "0" * 64, "bytes": 10_000}}, "files"),
    ("task", "multi-label", "sets"),
]


@pytest.mark.parametrize(("path", "value", "named"), DECISIONS)
def test_decisions_that_are_not_as_they_must_be_are_refused(path: str, value: object, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        manifest_from(changed(path, value, of=DECIDED))


finite = st.floats(-1e9, 1e9)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)


@settings(deadline=None)
@given(
    classes=st.lists(names, min_size=2, max_size=6, unique=True),
    size=st.tuples(st.integers(8, 4096), st.integers(8, 4096)),
    temperature=st.floats(0.01, 100),
    hidden=st.lists(st.integers(1, 64), max_size=3),
    thresholds=st.none() | st.just(0.25),
    metrics=st.dictionaries(names, st.fixed_dictionaries({"value": finite, "low": st.none() | finite})),
)
def test_any_honest_manifest_comes_back_as_it_went(
    classes: list[str],
    size: tuple[int, int],
    temperature: float,
    hidden: list[int],
    thresholds: float | None,
    metrics: dict[str, dict[str, float | None]],
) -> None:
    member = Member("vit_small_patch16_224", Preprocessing(size, 300), Head("course", tuple(hidden), 0.1))
    manifest = Manifest(
        members=(member,),
        classes=tuple(classes),
        task=Task.MULTI_LABEL,
        temperature=temperature,
        thresholds=None if thresholds is None else (thresholds,) * len(classes),
        metrics=metrics,
        files={"model.safetensors": FileRecord("a" * 64, 100_000)},
    )
    assert manifest_from(json.loads(json.dumps(manifest.to_dict()))) == manifest


def changed(path: str, value: object, *, of: Manifest = GOOD) -> dict[str, Any]:
    result = json.loads(json.dumps(of.to_dict()))
    place: Any = result
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
    for step in steps:
        place = place[step]
    if value is DELETED:
        del place[last]
    else:
        place[last] = value
    return result


DELETED = object()

WRONG: list[tuple[str, object, str]] = [
    ("schema", 2, "schema"),
    ("schema", "1", "schema"),
    ("schema", DELETED, "schema"),
    ("classes", DELETED, "lacks classes"),
    ("extra", 1, "unknown fields: extra"),
    ("members.0.code", "import os", "unknown fields: code"),
    ("members", [], "members"),
    ("members", {}, "members"),
    ("members", None, "members"),
    ("members.0", "resnet34", r"members\[0\]"),
    ("members.0.arch", "os.system()", "arch"),
    ("members.0.arch", "../x", "arch"),
    ("members.0.arch", "hf-hub:someone/model", "arch"),
    ("members.0.arch", "local-dir:/tmp", "arch"),
    ("members.0.arch", "/etc/passwd", "arch"),
    ("members.0.arch", "a" * 10_000_000, "arch"),
    ("members.0.arch", None, "arch"),
    ("members.0.file", "../model.safetensors", "file"),
    ("members.0.file", "/model.safetensors", "file"),
    ("members.0.file", "model.pth", "file"),
    ("members.0.file", "model-1.safetensors", "files"),
    ("members.0.groups", 0, "groups"),
    ("members.0.groups", 10**9, "groups"),
    ("members.0.groups", True, "groups"),
    ("members.0.head.kind", "__import__", "kind"),
    ("members.0.head.hidden", [10**9], "hidden"),
    ("members.0.head.hidden", [65_536, 65_536], "does not fit in the file"),
    ("members.0.head.hidden", [1] * 9, "hidden"),
    ("members.0.head.ps", 1.0, "ps"),
    ("members.0.preprocessing.size", [10**9, 224], "size"),
    ("members.0.preprocessing.size", [-1, 224], "size"),
    ("members.0.preprocessing.size", [224.5, 224], "size"),
    ("members.0.preprocessing.size", [224], "size"),
    ("members.0.preprocessing.size", 224, "size"),
    ("members.0.preprocessing.background", [0, 0, 256], "background"),
    ("members.0.preprocessing.background", [0, 0, 0.5], "background"),
    ("members.0.preprocessing.background", [0, 0], "background"),
    ("members.0.preprocessing.background", "white", "background"),
    ("members.0.preprocessing.background", None, "background"),
    ("members.0.preprocessing.short_side", 0, "short_side"),
    ("members.0.preprocessing.short_side", 10**9, "short_side"),
    ("members.0.preprocessing.policy", "eval", "policy"),
    ("members.0.preprocessing.crop_fraction", 0, "crop_fraction"),
    ("members.0.preprocessing.crop_fraction", 1.5, "crop_fraction"),
    ("members.0.preprocessing.interpolation", "random", "interpolation"),
    ("members.0.preprocessing.mean", [float("nan")] * 3, "mean"),
    ("members.0.preprocessing.mean", [0.5, 0.5], "mean"),
    ("members.0.preprocessing.mean", [1e9, 0, 0], "mean"),
    ("members.0.preprocessing.std", [0.2, 0, 0.2], "std"),
    ("members.0.preprocessing.std", [0.2, -0.2, 0.2], "std"),
    ("members.0.preprocessing.std", [0.2, float("inf"), 0.2], "std"),
    ("members.0.preprocessing.std", [True, 0.2, 0.2], "std"),
    ("members.0.weights.source", "a" * 1_000_000, "source"),
    ("classes", ["cat", "cat", "dog"], "twice"),
    ("classes", ["cat", "", "dog"], "classes"),
    ("classes", ["cat", "a" * 1_000_000, "dog"], "classes"),
    ("classes", ["cat"], "fewer than two"),
    ("classes", [str(number) for number in range(60_000)], "classes"),
    ("classes", [str(number) for number in range(3_000)], "does not fit in the file"),
    ("classes", [1, 2], "classes"),
    ("classes", "cat", "classes"),
    ("task", "regression", "task"),
    ("task", [], "task"),
    ("temperature", 0, "temperature"),
    ("temperature", -1, "temperature"),
    ("temperature", float("nan"), "temperature"),
    ("temperature", 10**400, "temperature"),
    ("temperature", "1", "temperature"),
    ("temperature", True, "temperature"),
    ("thresholds", [0.5], "thresholds"),
    ("thresholds", [0.5, 0.5, 2], "thresholds"),
    ("views", "rotations", "views"),
    ("tta", 1, "tta"),
    ("metrics", [], "metrics"),
    ("metrics.accuracy", 0.9, "metrics"),
    ("metrics.accuracy", {"low": 0.9}, "metrics"),
    ("metrics.accuracy", {"value": "0.9"}, "metrics"),
    ("metrics.accuracy", {"value": 0.9, "text": "<script>"}, "metrics"),
    ("data", {"a": 1}, "data"),
    ("files", {}, "files"),
    ("files", {"../x.safetensors": {"sha256": "0" * 64, "bytes": 8}}, "files"),
    (
        "files",
        {key: {"sha256": "0" * 64, "bytes": 8} for key in ["model.safetensors", "model-2.safetensors"]},
        "files",
    ),
]


@pytest.mark.parametrize(
    ("path", "value", "named"), WRONG, ids=[f"{path} {number}" for number, (path, *_) in enumerate(WRONG)]
)
def test_what_is_not_as_it_must_be_is_refused_and_named(path: str, value: object, named: str) -> None:
    given_fields = changed(path, value)
    start = time.process_time()
    with pytest.raises(ConfigError, match=named) as caught:
        manifest_from(given_fields)
    assert time.process_time() - start < 0.5
    assert caught.value.exit_code == 78
    assert len(caught.value.message) < 1000, "a hostile text is cut before it is shown"


@pytest.mark.parametrize("name", ["sha256", "bytes"])
def test_a_file_without_its_hash_or_size_is_refused(name: str) -> None:
    given_fields = fields()
    del given_fields["files"]["model.safetensors"][name]
    with pytest.raises(ConfigError, match=name):
        manifest_from(given_fields)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in parsed JSON."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


PLACES = places(fields())


@settings(max_examples=300, deadline=None)
@given(place=st.sampled_from(PLACES), value=json_values)
def test_any_value_anywhere_is_taken_or_refused_and_nothing_else(
    place: tuple[Any, ...], value: object
) -> None:
    given_fields: Any = copy.deepcopy(fields())
    target = given_fields
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    try:
        manifest_from(given_fields)
    except ConfigError:
        return


@settings(deadline=None)
@given(value=json_values)
def test_any_json_is_a_manifest_or_refused(value: object) -> None:
    with pytest.raises(ConfigError):
        manifest_from(value)
