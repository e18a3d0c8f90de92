"""The 102 odd files of the contract: each made, decoded, and given the verdict that is written there."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.unit.data.corpus import CASES, Case, black_png, corner, noise

from headstart.data import Audit, Limits, PixelCache, audit, decode, scan_folder, size
from headstart.data.children import DecodingChildren
from headstart.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

BOMBS = ("C01", "C02", "C03", "C06", "C07")


def outcome(decoder: Callable[[bytes], np.ndarray], data: bytes) -> tuple[str, np.ndarray | None]:
    try:
        return "", decoder(data)
    except DataError as error:
        return error.code if error.message else "no message", None


def test_all_102_files_are_here_and_each_has_a_number_of_its_own() -> None:
    assert len({case.id for case in CASES}) == len(CASES) == 102
    assert len({case.name for case in CASES}) == 102


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.id} {case.name}")
def test_each_file_gets_its_verdict_and_its_pixels_three_times_alike(case: Case) -> None:
    data = case.make()
    codes, pictures = zip(*(outcome(decode, data) for _ in range(3)), strict=True)
    assert codes[0] in case.verdicts
    assert len(set(codes)) == 1
    if pictures[0] is None:
        return
    assert pictures[0].dtype == np.uint8
    assert all(np.array_equal(pictures[0], other) for other in pictures[1:])
    assert size(data) == pictures[0].shape[:2]
    reduced = decode(data, short_side=16)
    assert min(reduced.shape[:2]) >= min(16, *pictures[0].shape[:2])
    if case.check:
        assert case.check(pictures[0])


def test_the_pixel_checks_can_fail() -> None:
    wrong = [np.asarray(noise(64)), np.asarray(corner())[::-1], np.full((8, 8, 3), 7, np.uint8)]
    for case in CASES:
        if case.check and case.id != "B21":  # of which only the size is known
            assert not all(case.check(pixels) for pixels in wrong), case.id


@pytest.mark.parametrize("case", [case for case in CASES if case.id in BOMBS], ids=lambda case: case.id)
def test_a_bomb_is_refused_at_once_and_costs_no_memory(case: Case) -> None:
    if sys.platform != "linux":
        pytest.skip("memory is read in /proc")
    data = case.make()
    outcome(decode, data)
    before, start = peak_after_reset(), time.thread_time()
    code, _ = outcome(decode, data)
    assert (code, time.thread_time() - start < 0.05) == ("TOO_MANY_PIXELS", True)
    assert peak() - before <= 20_000


def peak() -> int:
    """The most memory that this process has had since the last reset, in kB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise AssertionError


def peak_after_reset() -> int:
    """Return the peak from now on; what was freed is given back first, or a decoder would take it unseen."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def test_the_measure_of_memory_sees_a_picture_that_is_decoded() -> None:
    if sys.platform != "linux":
        pytest.skip("memory is read in /proc")
    data = black_png(6_000)
    before = peak_after_reset()
    decode(data, short_side=256)
    assert peak() - before > 100_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the corpus in two classes, in a folder to train on."""
    root = tmp_path_factory.mktemp("corpus")
    for number, case in enumerate(CASES):
        (root / "ab"[number % 2]).mkdir(exist_ok=True)
        (root / "ab"[number % 2] / case.name).write_bytes(case.make())
    return root


def look(root: Path, threads: int) -> Audit:
    return audit(PixelCache(scan_folder(root), short_side=32), threads=threads)


def test_an_audit_of_all_of_them_counts_each_once_whatever_the_threads(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for number, threads in enumerate((0, 1, 3)):
        monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / str(number)))
        results.append(look(folder, threads))
    results.append(look(folder, 2))  # which knows all of them already
    first = results[0]
    for other in results[1:]:
        assert other.codes.tolist() == first.codes.tolist()
        assert other.messages == first.messages
        assert other.facts == first.facts
    # The AppleDouble file, the name that says APNG and those that no picture ends in are left to the scan.
    assert len(first.samples) + sum(first.samples.skipped.values()) == 102
    assert first.samples.skipped["hidden or system files"] == 1
    assert int(first.ok.sum()) + sum(first.counts().values()) == len(first.samples)
    expected = {case.name: case.verdicts for case in CASES}
    for path, code in zip(first.samples.paths, first.codes.tolist(), strict=True):
        assert code in expected[os.path.basename(path)], path


def test_a_picture_that_needs_more_memory_than_it_may_is_refused_in_the_child() -> None:
    if sys.platform != "linux":
        pytest.skip("memory is limited on Linux only")
    with DecodingChildren(short_side=256, limits=Limits(decode_bytes=64 * 2**20)) as children:
        with pytest.raises(DataError) as caught:
            children.decode(black_png(8_000))
        assert caught.value.code == "TOO_MANY_PIXELS"
        assert children.decode(black_png(400)).size == (400, 400)
