"""Thousands of damaged pictures: `make reliability`. What was counted is printed at the end.

HEADSTART_MUTATIONS says how many (100,000 if nothing does), HEADSTART_SEED where the draws begin.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.unit.data.mutations import mutated, photographs

from headstart.data import PixelCache, audit, from_paths
from headstart.data.children import DecodingChildren
from headstart.data.images import REASONS
from headstart.data.threads import thread_count
from headstart.errors import DataError

pytestmark = pytest.mark.timeout(3600)

COUNT = int(os.environ.get("HEADSTART_MUTATIONS", "100000"))
SEED = int(os.environ.get("HEADSTART_SEED", "0"))


def resident() -> int:
    """The memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_mutated_pictures_never_crash_or_hang_and_end_in_a_picture_or_a_reason(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = photographs(shared / "data" / "catsdogs" / "train" / "cats" / "cat.0.jpg")
    odd = shared / "data" / "odd_pictures"
    files |= {file.name: file.read_bytes() for file in sorted(odd.iterdir()) if file.name != "index.json"}
    names, contents = sorted(files), [files[name] for name in sorted(files)]
    threads = thread_count(None)

    with DecodingChildren(short_side=64, count=threads) as children:

        def outcome(number: int) -> tuple[str, str, float]:
            random = np.random.default_rng([SEED, number])
            name = names[int(random.integers(0, len(names)))]
            hostile = mutated(files[name], contents, random)
            start = time.perf_counter()
            try:
                children.decode(hostile)
                code = "picture"
            except DataError as error:
                code = error.code
            return f"{name} (seed {SEED}, number {number})", code, time.perf_counter() - start

        before = resident()
        with ThreadPoolExecutor(threads) as pool:
            outcomes = list(pool.map(outcome, range(COUNT)))
        grown = resident() - before
    codes = Counter(code for _, code, _ in outcomes)
    seconds = np.array([spent for _, _, spent in outcomes])
    with capsys.disabled():
        print(f"\n{COUNT:,} mutated pictures of {len(files)} files: {dict(codes.most_common())}")
        print(f"seconds: p99 {np.quantile(seconds, 0.99):.3f}, most {seconds.max():.3f}")
        print(f"memory: {grown / 2**20:.0f} MB grown")
    assert set(codes) <= REASONS | {"picture", "DECODE_TIMEOUT"}
    harmed = [(what, code) for what, code, _ in outcomes if code in ("DECODER_CRASH", "DECODE_TIMEOUT")]
    assert not harmed
    assert np.quantile(seconds, 0.99) <= 0.5
    assert seconds.max() <= 10
    assert grown < 512 * 2**20


def test_three_audits_of_the_odd_pictures_with_any_number_of_threads_agree(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = shared / "data" / "odd_pictures"
    samples = from_paths(sorted(file for file in odd.iterdir() if file.name != "index.json"))
    seen = set()
    for number, threads in enumerate((0, 1, 2, 8, 2, 2)):
        monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / str(number)))
        done = audit(PixelCache(samples, short_side=256), threads=threads)
        assert int(done.ok.sum()) + sum(done.counts().values()) == len(samples)
        seen.add((tuple(done.codes.tolist()), done.messages, done.facts))
    with capsys.disabled():
        print(f"\n{len(samples)} odd pictures, six audits: {int(done.ok.sum())} pictures, {done.counts()}")
    assert len(seen) == 1
