"""Copies: which rows hold one picture, what that means for labels and parts, and that a split respects it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from headstart.data import PixelCache, audit, find_duplicates, merge_groups, scan_folder
from headstart.data.duplicates import Duplicates
from headstart.data.grouping import joined_groups, sets_of
from headstart.imagedata import ImageData

MakeFolder = Callable[..., Path]
GROUPS = st.lists(st.integers(-1, 5), min_size=1, max_size=20)

# Two messages of one MD5 (Wang, Feng, Lai & Yu 2004).
COLLISION = (
    "d131dd02c5e6eec4693d9a0698aff95c2fcab58712467eab4004583eb8fb7f8955ad340609f4b30283e488832571415a"
    "085125e8f7cdc99fd91dbdf280373c5bd8823e3156348f5bae6dacd436c919c6dd53e2b487da03fd02396306d248cda0"
    "e99f33420f577ee8ce54b67080a80d1ec69821bcb6a8839396f9652b6ff72a70",
    "d131dd02c5e6eec4693d9a0698aff95c2fcab50712467eab4004583eb8fb7f8955ad340609f4b30283e4888325f1415a"
    "085125e8f7cdc99fd91dbd7280373c5bd8823e3156348f5bae6dacd436c919c6dd53e23487da03fd02396306d248cda0"
    "e99f33420f577ee8ce54b67080280d1ec69821bcb6a8839396f965ab6ff72a70",
)


def looked_at(root: Path) -> Duplicates:
    return find_duplicates(audit(PixelCache(scan_folder(root), short_side=64), threads=0))


@settings(max_examples=100, deadline=None)
@given(GROUPS, st.data())
def test_merged_groups_keep_together_what_any_column_does_and_no_more(
    one: list[int], data: st.DataObject
) -> None:
    other = data.draw(st.lists(st.integers(-1, 5), min_size=len(one), max_size=len(one)))
    merged = merge_groups(np.array(one), None, np.array(other)).tolist()
    reached = {row: {row} for row in range(len(one))}
    for _ in one:
        for row, seen in reached.items():
            for near in list(seen):
                seen |= {
                    each
                    for each in range(len(one))
                    if one[each] == one[near] >= 0 or other[each] == other[near] >= 0
                }
            assert merged[row] <= row
    assert merged == [min(reached[row]) for row in range(len(one))]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=15), st.randoms())
def test_groups_of_pairs_do_not_depend_on_the_order_of_the_pairs(
    pairs: list[tuple[int, int]], random: object
) -> None:
    table = np.array(pairs, np.int64).reshape(-1, 2)
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = np.array(shuffled, np.int64).reshape(-1, 2)[:, ::-1]
    assert joined_groups(table, 10).tolist() == joined_groups(again, 10).tolist()


def test_files_of_one_md5_are_no_copies(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 2, "b": 2})
    blocks = [bytes.fromhex(text) for text in COLLISION]
    assert len({hashlib.md5(block).hexdigest() for block in blocks}) == 1
    for number, block in enumerate((*blocks, blocks[0])):
        (root / "a" / f"block{number}.jpg").write_bytes(block)
    found = looked_at(root)
    paths = scan_folder(root).paths
    names = {paths[row] for rows in sets_of(found.exact) for row in rows}
    assert names == {"a/block0.jpg", "a/block2.jpg"}


def test_blank_pictures_of_two_colours_are_not_nearly_the_same(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 2, "b": 2})
    for number, colour in enumerate((250, 251, 250)):
        Image.new("L", (40, 30), colour).save(root / "a" / f"blank{number}.png")
    found = looked_at(root)
    assert (found.exact_copies, found.near_copies) == (1, 0)


@pytest.fixture
def flowers(shared: Path, tmp_path: Path) -> Path:
    """Ten daisies and ten roses; of each of the first five a mirrored copy of 60 % quality beside it."""
    for name in ("daisy", "roses"):
        (tmp_path / name).mkdir()
        for number, file in enumerate(sorted((shared / "data" / "flowers" / name).iterdir())[:10]):
            shutil.copyfile(file, tmp_path / name / f"{number}.jpg")
            if number < 5:
                with Image.open(file) as picture:
                    ImageOps.mirror(picture).save(tmp_path / name / f"{number} again.jpg", quality=60)
    return tmp_path


def test_no_near_duplicate_crosses_the_split_and_without_groups_some_would(flowers: Path) -> None:
    crossed = 0
    for seed in range(6):
        data = ImageData.from_folder(flowers, image_size=64, seed=seed, valid=0.4, threads=0)
        assert data.duplicates is not None
        assert data.duplicates.near_copies == 10
        split = dict(zip(data.samples.paths, data.samples.split.tolist(), strict=True))
        assert all(
            split[f"{name}/{number}.jpg"] == split[f"{name}/{number} again.jpg"]
            for name in ("daisy", "roses")
            for number in range(5)
        )
        from headstart.data import split_samples

        apart = split_samples(scan_folder(flowers), seed=seed, valid=0.4)
        crossed += len(data.duplicates.leaks(apart.split))
    assert crossed > 0
    assert "10 pictures are nearly the same as another one" in data.report_lines()


def test_groups_of_a_source_and_copies_are_kept_together_as_one(flowers: Path) -> None:
    samples = scan_folder(flowers)
    # 0.jpg and 5.jpg come from one place; "0 again.jpg" is a copy of the first: three pictures, one side.
    group = np.full(len(samples), -1)
    group[[samples.paths.index("daisy/0.jpg"), samples.paths.index("daisy/5.jpg")]] = 7
    for seed in range(6):
        data = ImageData.from_samples(
            samples.with_group(group), image_size=64, seed=seed, valid=0.4, threads=0
        )
        split = dict(zip(data.samples.paths, data.samples.split.tolist(), strict=True))
        assert len({split[f"daisy/{name}.jpg"] for name in ("0", "0 again", "5")}) == 1


def test_leaks_and_conflicts_are_counted() -> None:
    found = Duplicates(exact=np.array([0, 1, 2, 0, 4, 5, 6]), near=np.array([0, 1, 2, 0, 1, 5, 6]))
    leaks = found.leaks(["train", "train", "train", "valid", "valid", "valid", "test"])
    assert list(leaks) == [("train", "valid")]
    leak = leaks["train", "valid"]
    assert (leak.exact, leak.near, leak.rows) == (1, 1, (3, 4))
    assert leak.words == "1 byte for byte, 1 nearly"
    assert found.conflicts(np.array([0, 0, 0, 1, 0, 0, 0])) == [[0, 3]]
    assert found.conflicts(np.array([0, 0, 0, -1, 0, 0, 0])) == []
    assert found.conflicts(np.array([[0], [1], [0], [0], [0], [0], [0]])) == [[1, 4]]
    assert found.take(np.array([3, 4])).near.tolist() == [0, 1]
