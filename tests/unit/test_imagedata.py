"""The constructors of `ImageData`: each is its reader in `data`, then the same way as from samples."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import headstart as hs
from headstart.data import write_shards
from headstart.imagedata import AuditedOptions, DataOptions, ImageData

MakeFolder = Callable[..., Path]


def test_the_options_that_constructors_hand_on_are_those_that_are_taken() -> None:
    samples = set(inspect.signature(ImageData.from_samples).parameters) - {"samples", "options"}
    audited = set(inspect.signature(ImageData.from_audit).parameters) - {"cache", "seen"}
    assert set(DataOptions.__annotations__) == samples | audited
    assert set(AuditedOptions.__annotations__) == audited


def test_every_source_makes_the_same_data(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"cat": 8, "dog": 8})
    options = {"image_size": 16, "threads": 0, "seed": 3}
    expected = ImageData.from_folder(root, **options)  # type: ignore[arg-type]
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    labels = [path.split("/")[0] for path in paths]
    frame = pd.DataFrame({"image": paths, "label": labels})
    frame.to_csv(tmp_path / "labels.csv", index=False)
    write_shards(expected.samples.with_split(np.full(16, "")), tmp_path / "shards", pictures_per_shard=5)
    made = [
        ImageData.from_csv(
            tmp_path / "labels.csv", hs.Table(image="image", label="label"), root=root, **options
        ),  # type: ignore[arg-type]
        ImageData.from_frame(frame, root=root, **options),  # type: ignore[arg-type]
        ImageData.from_lists(paths, labels, root=root, **options),  # type: ignore[arg-type]
        ImageData.from_function(root, lambda path: path.parent.name, **options),  # type: ignore[arg-type]
        ImageData.from_regex(root, r"^(\w+)/", **options),  # type: ignore[arg-type]
        ImageData.from_shards(tmp_path / "shards", **options),  # type: ignore[arg-type]
    ]
    for data in made:
        assert data.samples.fingerprint() == expected.samples.fingerprint()
        assert data.content_keys("valid") == expected.content_keys("valid")
        assert data.counts == expected.counts
        batch = next(iter(data.source("train", augment=True, shuffle=True).epoch(2)))
        same = next(iter(expected.source("train", augment=True, shuffle=True).epoch(2)))
        assert np.array_equal(np.asarray(batch.inputs), np.asarray(same.inputs))


def test_a_trial_is_cut_before_any_picture_is_opened(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 30, "dog": 30})
    seen: list[int] = []
    data = ImageData.from_folder(
        root, image_size=16, limit=12, on_progress=lambda done, count: seen.append(count)
    )
    assert len(data.samples) == 12
    assert set(seen) == {12}
    assert any("a trial with 12 of 60" in line for line in data.report_lines())
    with pytest.raises(hs.HeadstartError):
        ImageData.from_folder(root, image_size=16, limit=1)


def test_rules_reach_the_rows(make_folder: MakeFolder) -> None:
    root = make_folder({"cat": 6, "dog": 6, "unknown": 2})

    def label(path: Path) -> str | None:
        return None if path.parent.name == "unknown" else path.parent.name

    data = ImageData.from_function(root, label, rules=hs.Rules(unlabelled="test"), image_size=16)
    assert len(data.rows("test")) == 2
    assert data.counts["test"]["(no label)"] == 2
