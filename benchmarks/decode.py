"""Claim: decoding whole JPEGs reaches 90 % of bare OpenCV's speed; the audit's children cost at most 1 s.

    python benchmarks/decode.py [--n 7] [--shared ../shared]

The pictures are the originals of `flowers`, their bytes already in memory, one thread:
`headstart.data.decode` (strict, upright, RGB), `cv2.imdecode` (which fills what is missing with grey) and
Pillow, in turn. Seconds are those of the processor, so that other work on the machine counts for none of
them. Then the audit of `catsdogs`, in seconds of all its processors, children's too: the first one, in child
processes; the same pictures in threads alone; another one that knows them; and one that wants no pixels. On
two processors half of them is what one waits for.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from harness import RESULTS, spread, write_row
from PIL import Image

from headstart.data import PixelCache, audit, decode, scan_folder

CLAIM = (
    "decoding whole JPEGs reaches at least 90 % of the speed of bare OpenCV (one thread, flowers), "
    "and the audit in child processes costs at most 1 s of processor time more than in threads (catsdogs)"
)


def pillow(data: bytes) -> Any:
    """What one gets without much thought: RGB pixels, not turned upright."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def bare_opencv(data: bytes) -> Any:
    """The decoder alone; its pixels are BGR."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


DECODERS: dict[str, Callable[[bytes], Any]] = {
    "headstart.data.decode": decode,
    "bare cv2.imdecode": bare_opencv,
    "Pillow": pillow,
}


def milliseconds(decoder: Callable[[bytes], Any], files: list[bytes]) -> float:
    """Processor time for one picture."""
    start = time.thread_time()
    for data in files:
        decoder(data)
    return (time.thread_time() - start) / len(files) * 1000


def decoding(shared: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds a picture of each decoder, a number for each round."""
    cv2.setNumThreads(1)
    files = [file.read_bytes() for file in sorted((shared / "data" / "flowers").rglob("*.jpg"))]
    found: dict[str, list[float]] = {name: [] for name in DECODERS}
    for number in range(rounds + 1):
        for name, decoder in DECODERS.items():
            value = milliseconds(decoder, files)
            if number > 0:
                found[name].append(value)
    return found


def threads_alone(cache: PixelCache) -> None:
    """What an audit would do without children: read, hash, decode and keep, in threads."""
    from concurrent.futures import ThreadPoolExecutor

    from headstart.data.threads import thread_count
    from headstart.storage import sha256_bytes

    def look(row: int) -> None:
        data = cache.samples.read(row, limits=cache.limits)
        sha256_bytes(data)
        cache.decode(row, data)

    with ThreadPoolExecutor(thread_count(None)) as pool:
        list(pool.map(look, range(len(cache))))


def auditing(shared: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of all processors that each kind of audit takes, a number for each round."""
    samples = scan_folder(shared / "data" / "catsdogs")
    kinds: dict[str, Callable[[PixelCache], object]] = {
        "threads alone": threads_alone,
        "first audit": audit,
        "audit again": audit,
        "audit again without pixels": lambda cache: audit(cache, keep_pixels=False),
    }
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HEADSTART_CACHE"] = folder
            for name, kind in kinds.items():
                start = processor_seconds()
                kind(PixelCache(samples, short_side=256))
                if number > 0:
                    found[name].append(processor_seconds() - start)
    return found


def processor_seconds() -> float:
    """What this process and all its children that have ended took."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    """Measure in turn and write the row."""
    parser = argparse.ArgumentParser(description="Decoding beside bare OpenCV, and what the audit costs.")
    parser.add_argument("--n", type=int, default=7, help="rounds, at least 5")
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("HEADSTART_SHARED", "../shared")))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.n < 5:
        parser.error("--n must be at least 5")
    decoders = decoding(options.shared, options.n)
    audits = auditing(options.shared, options.n)
    spreads = {f"{name}, ms": spread(values) for name, values in decoders.items()}
    spreads |= {f"{name}, processor s": spread(values) for name, values in audits.items()}
    ratios = [
        bare / ours
        for bare, ours in zip(decoders["bare cv2.imdecode"], decoders["headstart.data.decode"], strict=True)
    ]
    extra = [
        first - alone for first, alone in zip(audits["first audit"], audits["threads alone"], strict=True)
    ]
    results = {
        "speed beside bare OpenCV": spread(ratios),
        "processor seconds that the children cost": spread(extra),
        "holds": {
            "decode": spread(ratios)["median"] >= 0.9,
            "audit": spread(extra)["median"] <= 1.0,
        },
    }
    write_row(CLAIM, results, n=options.n, name="decode", spreads=spreads, folder=options.results)


if __name__ == "__main__":
    main()
