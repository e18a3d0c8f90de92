"""447 odd files of decoders' own test suites: a picture or a reason, never anything else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.unit.data.mutations import mutated, photographs

from headstart.data import PixelCache, Samples, audit, decode, from_paths
from headstart.data.children import DecodingChildren
from headstart.errors import DataError

pytestmark = [pytest.mark.filterwarnings("ignore:::PIL"), pytest.mark.timeout(120)]

CODES = {
    *("EMPTY_FILE", "NOT_AN_IMAGE", "UNSUPPORTED_FORMAT", "TRUNCATED", "CORRUPT", "TOO_MANY_PIXELS"),
    *("TOO_MANY_BYTES", "METADATA_BOMB", "ZERO_DIM", "UNSUPPORTED_MODE"),
}
OUR_FORMATS = {"JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "MPO"}


def verdict(data: bytes) -> str:
    try:
        pixels = decode(data, short_side=256)
    except DataError as error:
        return error.code if error.message else "no message"
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    return ""


@pytest.fixture(scope="module")
def verdicts(shared: Path) -> dict[str, str]:
    folder = shared / "data" / "odd_pictures"
    files = sorted(file for file in folder.iterdir() if file.name != "index.json")
    assert len(files) == 447
    return {file.name: verdict(file.read_bytes()) for file in files}


@pytest.fixture(scope="module")
def index(shared: Path) -> list[dict[str, object]]:
    return json.loads((shared / "data" / "odd_pictures" / "index.json").read_text())


def test_each_is_a_picture_or_has_a_reason_code(verdicts: dict[str, str]) -> None:
    assert set(verdicts.values()) <= CODES | {""}
    assert Counter(verdicts.values())[""] > 150


def test_verdicts_do_not_change_from_one_look_to_the_next(shared: Path, verdicts: dict[str, str]) -> None:
    folder = shared / "data" / "odd_pictures"
    for name in sorted(verdicts)[::5]:
        assert verdict((folder / name).read_bytes()) == verdicts[name]


def odd_samples(shared: Path) -> Samples:
    folder = shared / "data" / "odd_pictures"
    return from_paths(sorted(file for file in folder.iterdir() if file.name != "index.json"))


def test_an_audit_gives_the_same_verdicts_for_any_number_of_threads_and_the_counts_add_up(
    shared: Path, verdicts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = odd_samples(shared)
    for cache, threads in (("first", 0), ("second", 3), ("second", 2)):  # the last one knows them all
        monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / cache))
        done = audit(PixelCache(samples, short_side=256), threads=threads)
        found = {Path(path).name: code for path, code in zip(samples.paths, done.codes.tolist(), strict=True)}
        assert found == verdicts
        assert int(done.ok.sum()) + sum(done.counts().values()) == 447


@pytest.fixture(scope="module")
def photos(shared: Path) -> dict[str, bytes]:
    return photographs(shared / "data" / "catsdogs" / "train" / "cats" / "cat.0.jpg")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.integers(0, 2**32 - 1))
def test_mutated_files_of_every_format_never_harm_their_decoder(
    photos: dict[str, bytes], decoders: DecodingChildren, data: st.DataObject, seed: int
) -> None:
    name = data.draw(st.sampled_from(sorted(photos)))
    random = np.random.default_rng(seed)
    hostile = mutated(photos[name], list(photos.values()), random)
    try:
        code = "" if decoders.decode(hostile).pixels.size else "no pixels"
    except DataError as error:
        code = error.code
    assert code in CODES | {""}


@pytest.fixture(scope="module")
def decoders() -> Iterator[DecodingChildren]:
    with DecodingChildren(short_side=64) as children:
        yield children


def test_the_unmutated_files_are_pictures(photos: dict[str, bytes], decoders: DecodingChildren) -> None:
    assert len(photos) >= 23
    for data in photos.values():
        assert min(decoders.decode(data).pixels.shape[:2]) >= 64


def test_what_pillow_refuses_is_refused(verdicts: dict[str, str], index: list[dict[str, object]]) -> None:
    refused = [entry["file"] for entry in index if entry["pillow"] != "ok"]
    assert len(refused) > 200
    assert [name for name in refused if not verdicts[str(name)]] == []


def test_what_pillow_reads_of_our_formats_is_read_with_few_exceptions(
    verdicts: dict[str, str], index: list[dict[str, object]]
) -> None:
    readable = [entry for entry in index if entry["pillow"] == "ok" and entry["format"] in OUR_FORMATS]
    lost = [(entry["format"], entry["mode"], verdicts[str(entry["file"])]) for entry in readable]
    counted = Counter(item for item in lost if item[2])
    # Damaged JPEGs that Pillow reads in silence, and TIFFs of numbers without a settled range.
    assert {key[0] for key in counted} <= {"JPEG", "TIFF"}
    assert counted[("TIFF", "F", "UNSUPPORTED_MODE")] + counted[("TIFF", "I", "UNSUPPORTED_MODE")] == 5
    assert sum(counted.values()) <= 15


def test_pixels_are_those_that_pillow_gives(shared: Path, index: list[dict[str, object]]) -> None:
    compared = 0
    for entry in index:
        plain = entry["mode"] in ("RGB", "L") and entry["exif_orientation"] in (None, 1)
        if entry["pillow"] != "ok" or entry["format"] not in ("JPEG", "PNG", "BMP", "GIF") or not plain:
            continue
        data = (shared / "data" / "odd_pictures" / str(entry["file"])).read_bytes()
        with Image.open(shared / "data" / "odd_pictures" / str(entry["file"])) as picture:
            if picture.has_transparency_data:
                continue
            expected = np.asarray(picture.convert("RGB"))
        try:
            pixels = decode(data)
        except DataError:
            continue
        # Decoders of JPEG may differ by a level in rounding.
        assert np.abs(pixels.astype(int) - expected).max() <= 3, entry["file"]
        compared += 1
    assert compared > 50
