"""The schema in the docs says what the reader takes, and an old bundle always loads."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from headstart.deploy import load_predictor, pack
from headstart.deploy.bundle import seal
from headstart.deploy.manifest import manifest_from
from headstart.deploy.schema import manifest_schema, schema_text
from headstart.errors import ConfigError

from .conftest import Saved

ROOT = Path(__file__).resolve().parents[3]
OLD = ROOT / "tests" / "fixtures" / "bundles"

FULL: dict[str, Any] = {
    "tta_policy": "flip",
    "scaling": [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]],
    "sets": {"method": "aps", "level": 0.9, "limit": 0.5},
    "novelty": {"limit": 2.0, "rate": 0.05},
    "about": {
        "pictures": {"train": 3}, "counts": {"train": [1, 1, 1]}, "out_of_fold": False, "note": "",
        "decided": {}, "steps": [{"name": "a", "kept": None, "epochs": 1, "gain": {}}],
        "settings": {"a": "b"}, "versions": {},
    },
}  # fmt: skip


def full(saved: Saved) -> dict[str, Any]:
    """A manifest with every field there is, as JSON gives it."""
    from headstart.evaluation import SET_METHODS

    fields = json.loads(json.dumps(saved.manifest.to_dict() | copy.deepcopy(FULL)))
    fields["sets"]["method"] = next(iter(SET_METHODS))
    fields["files"]["novelty.safetensors"] = {"sha256": "0" * 64, "bytes": 100}
    fields["metrics"] = {"accuracy": {"value": 0.9, "low": 0.8, "high": None}}
    return fields


def fits(fields: dict[str, Any]) -> bool:
    return jsonschema.Draft202012Validator(manifest_schema()).is_valid(fields | {"checksum": "0" * 64})


def taken(fields: dict[str, Any]) -> bool:
    try:
        manifest_from(fields)
    except ConfigError:
        return False
    return True


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *[place for key, item in inside for place in places(item, (*path, key))]]


def changed(fields: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    other = copy.deepcopy(fields)
    at: Any = other
    for key in place[:-1]:
        at = at[key]
    if value is ...:
        del at[place[-1]]
    else:
        at[place[-1]] = value
    return other


def test_the_schema_in_the_docs_is_the_one_of_the_code() -> None:
    jsonschema.Draft202012Validator.check_schema(manifest_schema())
    assert (ROOT / "docs" / "manifest.schema.json").read_text("utf-8") == schema_text(), (
        "write it anew: python -m headstart.deploy.schema > docs/manifest.schema.json"
    )


def test_what_is_written_fits_the_schema(saved: Saved) -> None:
    fields = full(saved)
    assert taken(fields)
    assert fits(fields)
    assert fits(json.loads(seal(saved.manifest.to_dict())) | {"checksum": "0" * 64})


def test_schema_and_reader_take_and_refuse_the_same(saved: Saved) -> None:
    """What is wrong in one place: both see it. What needs two places to be seen, the reader alone sees."""
    fields = full(saved)
    strange = [..., None, True, "x", "", "../x", -1, 0, 3, 0.5, 1e300, 10**12, [], [1], {}, {"a": 1}]
    alone, tried = [], 0
    for place in places(fields)[1:]:
        for value in strange:
            other = changed(fields, place, value)
            tried += 1
            assert not (taken(other) and not fits(other)), (place, value)
            if fits(other) and not taken(other):
                alone.append(place[0])
    assert tried > 1000
    # Counts by class, names of files, and how many numbers belong to so many classes.
    assert set(alone) <= {
        "members",
        "classes",
        "files",
        "scaling",
        "sets",
        "novelty",
        "about",
        "thresholds",
        "task",
    }
    assert len(alone) < tried / 20


def test_the_schema_would_notice_a_field_of_the_wrong_type(saved: Saved) -> None:
    assert not fits(full(saved) | {"temperature": "hot"})
    assert not fits(full(saved) | {"later": 1})


@pytest.mark.parametrize("folder", sorted(OLD.iterdir()), ids=lambda path: path.name)
def test_a_bundle_of_an_earlier_release_gives_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    """`expected.json` beside each says what it gave when it was written."""
    expected = json.loads((folder / "expected.json").read_text("utf-8"))
    ramp = np.arange(40 * 50 * 3, dtype=np.uint32).reshape(40, 50, 3)
    pixels = (ramp * 7 % 251).astype(np.uint8)
    pack(folder / "model.headstart", tmp_path / "model")
    for model in (folder / "model.headstart", tmp_path / "model"):
        with load_predictor(model, device="cpu", engine="eager") as predictor:
            found = predictor.predict(pixels)
        assert list(found.classes) == expected["classes"]
        np.testing.assert_allclose(found.probabilities[0], expected["probabilities"], atol=1e-4)
