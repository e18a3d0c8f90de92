"""Pictures are decoded once, for the largest size that a plan asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from headstart.data import audit
from headstart.errors import UsageError
from headstart.imagedata import ImageData
from headstart.recipe import largest_size, make_plan

MakeFolder = Callable[..., Path]


@pytest.fixture
def folder(make_folder: MakeFolder) -> Path:
    return make_folder({"a": 6, "b": 6}, height=100, width=120)


def test_larger_sizes_that_were_foreseen_use_the_same_pixels(folder: Path) -> None:
    data = ImageData.from_folder(folder, image_size=16, largest_size="32x48", cache="memory", threads=0)
    for size in (24, "32x48", 48):
        assert data.resize(size).cache is data.cache
    assert data.resize(56).cache is not data.cache
    plain = ImageData.from_folder(folder, image_size=16, cache="memory", threads=0)
    assert plain.resize(32).cache is not plain.cache
    assert ImageData.from_folder(folder, image_size=32, largest_size=16).cache.short_side == 37


def test_the_mode_of_the_cache_is_the_one_asked_for(folder: Path) -> None:
    data = ImageData.from_folder(folder, image_size=16, cache="none", threads=0)
    assert (data.cache.mode, data.resize(64).cache.mode, data.cache.used_bytes) == ("none", "none", 0)
    assert audit(data.cache, threads=0).ok.all()
    with pytest.raises(UsageError, match="no cache 'tape'"):
        ImageData.from_folder(folder, cache="tape")  # type: ignore[arg-type]


def test_the_largest_size_of_a_plan_is_that_of_its_phases() -> None:
    assert largest_size(make_plan(None, sizes=((64, 64), (96, 224), (128, 128)))) == (96, 224)
    assert largest_size(make_plan(None)) is None
