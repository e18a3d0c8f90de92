"""Decoding in other processes: what dies there dies alone, and the right file is blamed."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.unit.data.hostile_child import CRASH, FAULT, GREED, LAST, NONSENSE, ONCE, SLEEP, SPIN, STOP

from headstart.data import Audit, Colours, Limits, PixelCache, audit, decode_with_size, scan_folder
from headstart.data.children import DecodingChildren
from headstart.errors import DataError, StorageError

MakeFolder = Callable[..., Path]
HOSTILE = ("-P", str(Path(__file__).with_name("hostile_child.py")))

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="processes are counted in /proc"),
]


def spell(number: int) -> bytes:
    """A good picture which the hostile child's decoder cannot stand."""
    pixels = np.full((8, 8, 3), 200, np.uint8)
    pixels[0, 0] = (number, 77, 78)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


GOOD = spell(0)


@pytest.fixture(scope="module")
def hostile() -> Iterator[DecodingChildren]:
    limits = Limits(decode_seconds=1.0, decode_bytes=256 * 2**20)
    with DecodingChildren(short_side=8, limits=limits, count=2, command=HOSTILE) as children:
        yield children


def child_processes(parent: int | None = None) -> set[int]:
    """The processes whose parent is `parent` (this one), dead ones included that nobody waited for."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[1]) == (os.getpid() if parent is None else parent):
                    found.add(int(entry.name))
    return found


def is_alive(process: int) -> bool:
    try:
        return b"Z" not in (Path("/proc") / str(process) / "stat").read_bytes().rpartition(b")")[2][:3]
    except OSError:
        return False


def failure(children: DecodingChildren, data: bytes) -> DataError:
    with pytest.raises(DataError) as caught:
        children.decode(data)
    return caught.value


@pytest.mark.parametrize(
    ("number", "code", "words", "lasting"),
    [
        (CRASH, "DECODER_CRASH", "SIGSEGV", True),
        (NONSENSE, "DECODER_CRASH", "no sense", True),
        (FAULT, "DECODER_CRASH", "KeyError", True),
        (GREED, "TOO_MANY_PIXELS", "memory", True),
        (SPIN, "DECODE_TIMEOUT", "1 s", False),
        (STOP, "DECODE_TIMEOUT", "1 s", False),
    ],
)
def test_a_decoder_that_fails_is_named_and_the_next_picture_is_fine(
    hostile: DecodingChildren, number: int, code: str, words: str, lasting: bool
) -> None:
    hostile.decode(GOOD)  # so that its child is there
    start = time.monotonic()
    error = failure(hostile, spell(number))
    if code == "DECODE_TIMEOUT":
        assert 1.0 <= time.monotonic() - start < 5
    assert error.code == code
    assert words in error.message
    assert getattr(error, "lasting", True) is lasting
    assert hostile.decode(GOOD).pixels.shape == (8, 8, 3)


def test_a_crash_that_does_not_happen_again_is_forgiven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTILE_MARKER", str(tmp_path / "crashed"))
    with DecodingChildren(short_side=8, command=HOSTILE) as children:
        assert children.decode(spell(ONCE)).size == (8, 8)
    assert (tmp_path / "crashed").is_dir()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_child_that_somebody_else_ends_costs_no_picture(sent: signal.Signals) -> None:
    before = child_processes()
    with DecodingChildren(short_side=8) as children:
        children.decode(GOOD)
        (child,) = child_processes() - before
        os.kill(child, sent)
        assert children.decode(GOOD).size == (8, 8)
        assert child not in child_processes()


def test_a_child_that_somebody_stops_is_given_up_in_time_and_the_next_picture_is_fine() -> None:
    before = child_processes()
    with DecodingChildren(short_side=8, limits=Limits(decode_seconds=1.0)) as children:
        children.decode(GOOD)
        (child,) = child_processes() - before
        os.kill(child, signal.SIGSTOP)
        start = time.monotonic()
        error = failure(children, GOOD)
        assert (error.code, time.monotonic() - start < 10) == ("DECODE_TIMEOUT", True)
        assert not getattr(error, "lasting", True), "it is looked at again"
        assert children.decode(GOOD).size == (8, 8)


def test_without_a_limit_a_child_that_is_stopped_would_be_waited_for() -> None:
    before = child_processes()
    with DecodingChildren(short_side=8, limits=Limits(decode_seconds=100)) as children:
        children.decode(GOOD)
        (child,) = child_processes() - before
        os.kill(child, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(children.decode, GOOD)
            time.sleep(1.5)
            assert not asked.done()
            children.close()
            with pytest.raises(CancelledError):
                asked.result(5)


def test_what_a_library_prints_does_not_mix_with_the_answers(hostile: DecodingChildren) -> None:
    assert hostile.decode(spell(LAST)).size == (8, 8)


@pytest.mark.parametrize("colours", [Colours(), Colours((0, 0, 0), 1)])
def test_a_child_gives_what_the_parent_would(colours: Colours) -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 60, 4), np.uint8)).save(
        stream, "PNG", exif=exif
    )
    with DecodingChildren(short_side=20, colours=colours) as children:
        there = children.decode(stream.getvalue())
        with pytest.raises(DataError) as caught:
            children.decode(b"<html>")
    here = decode_with_size(stream.getvalue(), short_side=20, colours=colours)
    assert np.array_equal(there.pixels, here.pixels)
    assert (there.size, there.format, there.mode, there.orientation) == ((60, 90), "PNG", "RGBA", 6)
    assert (here.size, here.format, here.mode, here.orientation) == ((60, 90), "PNG", "RGBA", 6)
    assert caught.value.code == "NOT_AN_IMAGE"


def test_the_child_loads_only_what_decoding_needs() -> None:
    command = [sys.executable, "-X", "importtime", "-c", "import headstart.data.decoding_child"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    loaded = {line.rpartition("|")[2].strip() for line in listing.splitlines()}
    assert "simplejpeg" in loaded
    assert not loaded & {"torch", "pandas", "cv2", "yaml", "safetensors", "matplotlib", "fsspec", "scipy"}


def test_no_child_is_started_before_there_is_a_picture_and_none_is_left_at_the_end() -> None:
    before = child_processes()
    with DecodingChildren(short_side=8, count=2) as children:
        assert child_processes() == before
        with ThreadPoolExecutor(8) as pool:
            assert len(list(pool.map(children.decode, [GOOD] * 40))) == 40
        assert 1 <= len(child_processes() - before) <= 2
    assert child_processes() == before
    with pytest.raises(CancelledError):
        children.decode(GOOD)


def test_a_child_is_replaced_before_what_its_decoder_leaks_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.data.children._PICTURES_A_CHILD", 3)
    before, seen = child_processes(), []
    with DecodingChildren(short_side=8) as children:
        for _ in range(5):
            assert children.decode(GOOD).size == (8, 8)
            seen.append(child_processes() - before)
    assert [len(alive) for alive in seen] == [1, 1, 0, 1, 1]
    assert seen[1] != seen[3]


def test_another_child_is_started_only_when_there_are_many_pictures() -> None:
    before = child_processes()
    with (
        DecodingChildren(short_side=8, count=3, pictures_before_another=10) as children,
        ThreadPoolExecutor(8) as pool,
    ):
        alive = []
        for pictures in (9, 8, 40):
            list(pool.map(children.decode, [GOOD] * pictures))
            alive.append(len(child_processes() - before))
    assert alive[0] == 1
    assert 1 <= alive[1] <= 2
    assert alive[2] == 3
    with DecodingChildren(short_side=8, count=3, pictures_before_another=2) as children:
        for _ in range(9):  # nobody waits, so one is enough
            children.decode(GOOD)
        assert len(child_processes() - before) == 1


def test_closing_ends_a_child_that_hangs_at_once() -> None:
    before = child_processes()
    children = DecodingChildren(short_side=8, command=HOSTILE)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(children.decode, spell(SPIN))
        while child_processes() == before:
            time.sleep(0.01)
        time.sleep(0.3)
        start = time.monotonic()
        children.close()
        with pytest.raises(CancelledError):
            asked.result()
    assert time.monotonic() - start < 3
    assert child_processes() == before


def test_a_child_that_cannot_start_is_an_error_that_says_why() -> None:
    with (
        DecodingChildren(short_side=8, command=("-c", "raise SystemExit('no room')")) as children,
        pytest.raises(StorageError, match="no room"),
    ):
        children.decode(GOOD)


@pytest.mark.parametrize("fatal", [signal.SIGKILL, signal.SIGINT])
def test_a_parent_that_dies_leaves_no_child_behind(fatal: signal.Signals) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.unit.data.test_children import HOSTILE, SPIN, spell\n"
        "from headstart.data.children import DecodingChildren\n"
        "from headstart.data import Limits\n"
        "with DecodingChildren(short_side=8, limits=Limits(decode_seconds=1), command=HOSTILE) as children:\n"
        "    children.decode(spell(0)); print('ready', flush=True); children.decode(spell(SPIN))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(Path(__file__).parents[3])],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    children = child_processes(parent.pid)
    assert len(children) == 1
    if fatal == signal.SIGINT:
        os.killpg(parent.pid, fatal)
    else:
        parent.send_signal(fatal)
    parent.wait(timeout=10)
    parent.stdout.close()
    # A child that reads ends with its pipe, one that hangs by the alarm that it set itself: 2 s.
    end = time.monotonic() + 5
    while any(map(is_alive, children)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(is_alive, children))


@pytest.fixture
def cursed(make_folder: MakeFolder) -> Path:
    """Two classes of twenty, two files of the first being ones that the decoder cannot stand."""
    root = make_folder({"a": 20, "b": 20})
    (root / "a" / "3.png").write_bytes(spell(CRASH))
    (root / "a" / "7.png").write_bytes(spell(SLEEP))
    (root / "b" / "5.png").write_bytes(b"nothing")
    return root


def look(root: Path, threads: int) -> Audit:
    cache = PixelCache(scan_folder(root), short_side=16, limits=Limits(decode_seconds=1.0))
    hostile = DecodingChildren(short_side=16, limits=cache.limits, count=max(1, threads), command=HOSTILE)
    with hostile:
        return audit(cache, threads=threads, children=hostile)


@pytest.mark.parametrize("threads", [0, 4])
def test_an_audit_goes_on_when_decoders_crash_and_hang(
    cursed: Path, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    done = look(cursed, threads)
    codes = dict(zip(done.samples.paths, done.codes.tolist(), strict=True))
    assert {path: code for path, code in codes.items() if code} == {
        "a/3.png": "DECODER_CRASH",
        "a/7.png": "DECODE_TIMEOUT",
        "b/5.png": "NOT_AN_IMAGE",
    }
    assert done.ok.sum() == 37
    row = done.samples.paths.index("a/3.png")
    assert done.messages[row].startswith("a/3.png: ")


def test_a_crash_is_remembered_and_a_timeout_tried_again(
    cursed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    look(cursed, 1)
    cache = PixelCache(scan_folder(cursed), short_side=16, limits=Limits(decode_seconds=1.0))
    with DecodingChildren(short_side=16, limits=cache.limits) as kind:  # a decoder without faults
        assert audit(cache, children=kind).counts() == {"DECODER_CRASH": 1, "NOT_AN_IMAGE": 1}


def test_an_interrupted_audit_leaves_neither_threads_nor_children(cursed: Path) -> None:
    before, threads = child_processes(), threading.active_count()
    interrupted = []

    def interrupt(done: int, total: int) -> None:
        interrupted.append(time.monotonic())
        raise KeyboardInterrupt

    cache = PixelCache(scan_folder(cursed), short_side=16)
    with (
        DecodingChildren(short_side=16, count=2, command=HOSTILE) as hostile,
        pytest.raises(KeyboardInterrupt),
    ):
        audit(cache, threads=2, children=hostile, on_progress=interrupt)
    assert time.monotonic() - interrupted[0] < 3
    assert child_processes() == before
    time.sleep(0.1)
    assert threading.active_count() <= threads
