"""Outer folds: pictures that a training run never sees to choose anything.

Supports the row `outer_folds` (the result of the eight steps is not worse than the probe and not worse than
fastai's `fine_tune(3)`), and the fixed split of `flowers` in `recipe_vs_fastai`.

    python benchmarks/folds.py flowers --seed 0 --fold 1 --into runs/folds

builds `train/<class>/…`, `valid/<class>/…` and `test/<class>/…` as links to the real pictures. The test part
is one fold of a stratified k-fold over all labelled pictures; what remains is split, stratified, into train
and valid. The same arguments give the same tree on every machine: pictures are sorted by their relative path
first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})

# Folders whose children are class folders, below the data set's own folder. The unlabelled test pictures of
# catsdogs are left out: they can show nothing.
LABELLED_PARTS: dict[str, tuple[str, ...]] = {
    "flowers": ("",),
    "aerial": ("",),
    "ants_bees": ("train", "valid"),
    "catsdogs": ("train", "valid"),
}


@dataclass(frozen=True)
class Picture:
    """One labelled picture: where it lies, its class, and a file name that is unique within its class."""

    file: Path
    label: str
    name: str


def shared_folder() -> Path:
    """The folder that holds `data/` and `weights/`: `HEADSTART_SHARED`, else `../shared` beside the
    repository."""
    default = Path(__file__).resolve().parents[2] / "shared"
    return Path(os.environ.get("HEADSTART_SHARED", default)).resolve()


def labelled_pictures(dataset: str) -> list[Picture]:
    """All labelled pictures of one data set, its parts pooled, sorted by relative path.

    Raises `KeyError` for an unknown data set and `FileNotFoundError` where the data are missing.
    """
    root = shared_folder() / "data" / dataset
    pictures: list[Picture] = []
    for part in LABELLED_PARTS[dataset]:
        folder = root / part
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}; set HEADSTART_SHARED")
        for file in folder.glob("*/*"):
            if file.suffix.lower() in SUFFIXES:
                # Pooled parts may use one file name twice, so the part becomes part of the name.
                name = f"{part}_{file.name}" if part else file.name
                pictures.append(Picture(file, file.parent.name, name))
    return sorted(pictures, key=lambda picture: picture.file.relative_to(root).as_posix())


def _stratified_holdout(
    pictures: list[Picture], share: float, seed: int
) -> tuple[list[Picture], list[Picture]]:
    from sklearn.model_selection import train_test_split

    kept, held_out = train_test_split(
        pictures, test_size=share, random_state=seed, stratify=[picture.label for picture in pictures]
    )
    return list(kept), list(held_out)


def _write_tree(parts: dict[str, list[Picture]], tree: Path, *, copy: bool) -> Path:
    if tree.exists():
        shutil.rmtree(tree)
    half_built = tree.with_name(tree.name + ".partial")
    shutil.rmtree(half_built, ignore_errors=True)
    for part, pictures in parts.items():
        for picture in pictures:
            target = half_built / part / picture.label / picture.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_symlink() or target.exists():
                raise FileExistsError(f"two pictures want the name {target}")
            if copy:
                shutil.copyfile(picture.file, target)
            else:
                target.symlink_to(picture.file)
    half_built.rename(tree)
    return tree


def outer_tree(
    dataset: str,
    seed: int,
    fold: int,
    *,
    folds: int = 2,
    valid: float = 0.2,
    into: Path,
    copy: bool = False,
) -> Path:
    """Build (or rebuild) the tree of one outer fold and return its folder.

    `valid` is the share of the pictures outside the test fold that is used to choose. Two folds are the
    default, because a fit must be affordable on two cores; seeds repeat the cross-validation with other
    folds.
    """
    from sklearn.model_selection import StratifiedKFold

    if not 0 <= fold < folds:
        raise ValueError(f"fold must lie in 0..{folds - 1}, got {fold}")
    pictures = labelled_pictures(dataset)
    labels = [picture.label for picture in pictures]
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels))
    rest_rows, test_rows = splits[fold]
    train_part, valid_part = _stratified_holdout([pictures[row] for row in rest_rows], valid, seed)
    parts = {"train": train_part, "valid": valid_part, "test": [pictures[row] for row in test_rows]}
    into.mkdir(parents=True, exist_ok=True)
    return _write_tree(parts, into / f"{dataset}_seed{seed}_fold{fold}of{folds}", copy=copy)


def fixed_tree(dataset: str, *, seed: int = 0, valid: float = 0.2, into: Path, copy: bool = False) -> Path:
    """Build a tree with a train and a valid part only and return its folder.

    A data set that comes with a train and a valid folder keeps its own split; any other is split, stratified.
    """
    pictures = labelled_pictures(dataset)
    if LABELLED_PARTS[dataset] == ("train", "valid"):
        root = shared_folder() / "data" / dataset
        parts = {
            part: [picture for picture in pictures if picture.file.is_relative_to(root / part)]
            for part in ("train", "valid")
        }
    else:
        train_part, valid_part = _stratified_holdout(pictures, valid, seed)
        parts = {"train": train_part, "valid": valid_part}
    into.mkdir(parents=True, exist_ok=True)
    return _write_tree(parts, into / f"{dataset}_fixed_seed{seed}", copy=copy)


def small_tree(dataset: str, *, per_class: int = 40, valid: float = 0.2, into: Path) -> Path:
    """Build a tree of a train and a valid part with few pictures of each class and return its folder."""
    chosen: list[Picture] = []
    seen: Counter[str] = Counter()
    for picture in labelled_pictures(dataset):
        if seen[picture.label] < per_class:
            seen[picture.label] += 1
            chosen.append(picture)
    train_part, valid_part = _stratified_holdout(chosen, valid, 0)
    into.mkdir(parents=True, exist_ok=True)
    return _write_tree(
        {"train": train_part, "valid": valid_part}, into / f"{dataset}_small{per_class}", copy=False
    )


def count_pictures(tree: Path) -> dict[str, dict[str, int]]:
    """Pictures per part and class of a tree."""
    counts: dict[str, Counter[str]] = {}
    for file in sorted(tree.glob("*/*/*")):
        part, label = file.relative_to(tree).parts[:2]
        counts.setdefault(part, Counter())[label] += 1
    return {part: dict(sorted(counter.items())) for part, counter in counts.items()}


def main() -> None:
    """Build one tree and print its folder and counts as JSON."""
    parser = argparse.ArgumentParser(description="Build the tree of one outer fold.")
    parser.add_argument("dataset", choices=sorted(LABELLED_PARTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--valid", type=float, default=0.2)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--copy", action="store_true", help="copy the pictures instead of linking to them")
    options = parser.parse_args()
    tree = outer_tree(
        options.dataset,
        options.seed,
        options.fold,
        folds=options.folds,
        valid=options.valid,
        into=options.into,
        copy=options.copy,
    )
    print(json.dumps({"tree": str(tree), "pictures": count_pictures(tree)}, indent=2))


if __name__ == "__main__":
    main()
