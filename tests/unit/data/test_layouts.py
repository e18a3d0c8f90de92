"""Layouts that break other tools: a reason code or the right rows, the counts, and nothing touched."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import headstart
from headstart.data import PixelCache, Samples, audit, from_regex, read_table, scan_folder, split_samples
from headstart.errors import DataError, HeadstartError, InputMissingError

MakeFolder = Callable[..., Path]

SOURCES = Path(headstart.__file__).resolve().parents[1]
posix_only = pytest.mark.skipif(os.name != "posix", reason="this system has no such thing")


def tree_hash(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*"), key=os.fsencode):
        status = path.lstat()
        digest.update(os.fsencode(path.relative_to(root)))
        digest.update(f"{status.st_mode} {status.st_size} {status.st_mtime_ns}".encode())
        if path.is_file() and not path.is_symlink():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def looked_at(samples: Samples) -> list[str]:
    """The reason codes of an audit, "" for good pictures."""
    return audit(PixelCache(samples, short_side=16), threads=2).codes.tolist()


@pytest.fixture
def untouched() -> Iterator[Callable[[Path], Path]]:
    """A function that remembers a folder; at the end of the test it must be byte for byte as it was."""
    before: dict[Path, str] = {}

    def remember(root: Path) -> Path:
        before[root] = tree_hash(root)
        return root

    yield remember
    assert before
    for root, digest in before.items():
        assert tree_hash(root) == digest, f"{root} was touched"


Untouched = Callable[[Path], Path]


def test_a_class_whose_files_are_all_bad_is_named_and_an_empty_one_too(
    make_folder: MakeFolder, untouched: Untouched
) -> None:
    root = make_folder({"a": 12, "b": 12, "bad": 0, "none": 0})
    (root / "bad" / "1.png").write_bytes(b"not a picture")
    untouched(root)
    with pytest.raises(DataError) as caught:
        scan_folder(root)
    assert (caught.value.code, caught.value.exit_code) == ("EMPTY_CLASS", 65)
    assert "none" in caught.value.message
    seen = audit(PixelCache(scan_folder(root, drop_empty_classes=True), short_side=16))
    with pytest.raises(DataError) as caught:
        seen.check_usable()
    assert (caught.value.code, caught.value.exit_code) == ("EMPTY_CLASS", 65)
    assert "bad" in caught.value.message
    assert seen.counts() == {"NOT_AN_IMAGE": 1}


# Names of the big list of naughty strings' kinds, and of 255 bytes.
NAUGHTY = [
    *("undefined", "nil", "NULL", "NaN", "1E+02", "0xabad1dea", "1/2", "' OR 1=1 --", "$HOME", "$(touch x)"),
    *(
        "%d",
        "{0}",
        "{{7*7}}",
        "<script>alert(0)",
        "&lt;",
        "＜script＞",
        "ﾟ･✿ヾ╲(｡◕‿◕｡)╱✿･ﾟ",
        "田中さん",
        "👾 🙇",
        "ﷺ",
    ),
    *(
        "\u202etest",
        "\u200b",
        "Z̮̞̠͙͔ͅ",
        "Ω≈ç√∫",
        "--help",
        "CON",
        "test\u2029",
        "\x01\x7f",
        "é" * 127 + "e",
        "x" * 255,
    ),
]


@posix_only
def test_naughty_names_are_classes_like_any_other(make_folder: MakeFolder, untouched: Untouched) -> None:
    names = [name.replace("/", "∕") for name in NAUGHTY]
    root = untouched(make_folder(dict.fromkeys(names, 1)))
    samples = scan_folder(root)
    assert set(samples.classes) == set(names)
    assert looked_at(samples) == [""] * len(names)
    for row in range(len(samples)):
        assert len(samples.name(row).splitlines()) == 1
    frame = samples.to_frame()
    assert frame["label"].tolist() == [path.split("/")[0] for path in samples.paths]
    assert from_regex(root, r"(?s)^([^/]+)/").fingerprint() == samples.fingerprint()


@posix_only
def test_names_of_undecodable_bytes_go_through_a_table_as_through_a_folder(
    make_folder: MakeFolder, untouched: Untouched
) -> None:
    root = make_folder({"a": 1, "b": 1})
    os.rename(os.fsencode(root / "a" / "0.png"), os.fsencode(root / "a") + b"/\xff%s.png")
    untouched(root)
    samples = scan_folder(root)
    assert looked_at(samples) == ["", ""]
    assert from_regex(root, r"^([^/]+)/").ids.tolist() == samples.ids.tolist()


def test_many_classes_of_one_picture_all_train(tmp_path: Path) -> None:
    count = 20_000
    for number in range(0, count, 10):
        folder = tmp_path / f"class {number}"
        folder.mkdir()
        (folder / "x.jpg").write_bytes(b"")
    samples = scan_folder(tmp_path)
    assert len(samples.classes) == count // 10
    names = tuple(f"{number}/x.jpg" for number in range(count))
    labels = np.arange(count, dtype=np.int64)
    labels[1] = 0
    many = Samples(Path("x"), names, labels, tuple(map(str, range(count))), np.full(count, "", "<U5"))
    started = time.process_time()
    split = split_samples(many)
    assert time.process_time() - started < 15  # 0.3 s on a quiet core
    assert split.counts("valid")["0"] == 1
    assert len(split.rows("train")) == count - 1
    assert "too few pictures to validate on" in split.notes[0]


def test_many_files_in_one_folder_are_listed_in_linear_time(tmp_path: Path) -> None:
    for name, count in (("a", 20_000), ("b", 1)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{number}.jpg").touch()
    started = time.process_time()
    assert scan_folder(tmp_path).counts() == {"a": 20_000, "b": 1}
    assert time.process_time() - started < 10  # 0.3 s on a quiet core


def test_three_hundred_to_one_is_split_within_each_class(tmp_path: Path) -> None:
    labels = np.array([0] * 3000 + [1] * 10, np.int64)
    names = tuple(f"{row}.jpg" for row in range(3010))
    split = split_samples(Samples(tmp_path, names, labels, ("many", "few"), np.full(3010, "", "<U5")))
    assert split.counts("valid") == {"many": 600, "few": 2}


@pytest.mark.parametrize("each_class", [False, True], ids=["one picture", "one a class"])
def test_pictures_that_are_all_the_same_are_split_all_the_same_and_the_scores_called_nothing(
    make_folder: MakeFolder, untouched: Untouched, each_class: bool
) -> None:
    from headstart.imagedata import ImageData

    root = make_folder({"a": 6, "b": 6})
    for path in root.rglob("*.png"):
        path.write_bytes((root / (path.parent.name if each_class else "a") / "0.png").read_bytes())
    data = ImageData.from_folder(untouched(root), image_size=16)
    assert data.counts == {"train": {"a": 5, "b": 5}, "valid": {"a": 1, "b": 1}}
    first = "no class has two pictures that differ" if each_class else "all 12 pictures are one and the same"
    said = data.report_lines()
    assert any(first in line and "the scores mean nothing" in line for line in said)
    assert any("valid shares pictures with train: 2 byte for byte" in line for line in said)
    assert any("under different labels" in line for line in said) != each_class


def test_groups_of_the_source_are_not_given_up_for_copies(make_folder: MakeFolder) -> None:
    from headstart.imagedata import ImageData

    root = make_folder({"a": 6, "b": 6})
    for path in root.rglob("*.png"):
        path.write_bytes((root / "a" / "0.png").read_bytes())
    samples = scan_folder(root)
    with pytest.raises(DataError) as caught:
        ImageData.from_samples(samples.with_group(np.zeros(12, np.int64)), image_size=16)
    assert (caught.value.code, caught.value.exit_code) == ("TOO_FEW", 65)
    group = np.arange(12) // 3
    data = ImageData.from_samples(samples.with_group(group), image_size=16, valid=0.4)
    train, valid = (set(group[data.rows(part)].tolist()) for part in ("train", "valid"))
    assert not train & valid


def test_half_of_the_files_corrupt_is_too_many(make_folder: MakeFolder, untouched: Untouched) -> None:
    root = make_folder({"a": 20, "b": 20})
    for number in range(0, 20, 2):
        for name in ("a", "b"):
            (root / name / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    seen = audit(PixelCache(scan_folder(untouched(root)), short_side=16))
    with pytest.raises(DataError) as caught:
        seen.check_usable()
    assert (caught.value.code, caught.value.exit_code) == ("TOO_MANY_BAD", 65)
    assert "20 of 40" in caught.value.message
    assert "--max-bad 20" in caught.value.hint
    seen.check_usable(max_bad=20)


def test_a_file_of_two_gigabytes_is_refused_by_its_size(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 1, "b": 1})
    with open(root / "a" / "huge.jpg", "wb") as stream:
        stream.truncate(2_100_000_000)
    started = time.process_time()
    assert sorted(looked_at(scan_folder(root))) == ["", "", "TOO_MANY_BYTES"]
    assert time.process_time() - started < 5


@posix_only
def test_a_path_of_five_hundred_folders_is_walked(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 1, "b": 1})
    deep = root / "a" / "/".join("d" * 500)
    deep.mkdir(parents=True)
    shutil.copy(root / "b" / "0.png", deep / "x.png")
    assert looked_at(scan_folder(root)) == ["", "", ""]


@posix_only
def test_a_path_that_is_too_long_or_has_gone_is_one_clear_line(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_long = tmp_path / "/".join(["x" * 200] * 30)
    (tmp_path / "labels.csv").write_text(f"image,label\n{'y' * 5000}.jpg,a\n")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for read in (
        lambda: scan_folder(too_long),
        lambda: read_table(too_long / "x.csv"),
        lambda: read_table(tmp_path / "labels.csv"),
        lambda: scan_folder("."),
        lambda: scan_folder("pictures"),
        lambda: read_table("labels.csv"),
    ):
        with pytest.raises(HeadstartError) as caught:
            read()
        assert isinstance(caught.value, InputMissingError | DataError)
        assert len(str(caught.value).splitlines()) == 1


PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2


def like_any_user() -> None:
    """Give up root's right to read and write whatever it likes, so that permissions hold."""
    import ctypes

    libc = ctypes.CDLL(None)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def run(
    *arguments: str | Path, before: str = "", after: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a shell of its own: `before` sets limits, `after` redirects."""
    words = " ".join(f"'{argument}'" for argument in arguments)
    clean = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(SOURCES),
        "PYTHONDONTWRITEBYTECODE": "1",
        **environment,
    }
    return subprocess.run(
        ["sh", "-c", f"{before or 'true'}; exec {sys.executable} -m headstart {words} {after}"],
        env=clean, capture_output=True, text=True, errors="replace", timeout=120, cwd="/",
        stdin=subprocess.DEVNULL, preexec_fn=like_any_user if os.geteuid() == 0 else None,
    )  # fmt: skip


@posix_only
def test_files_and_folders_that_may_not_be_read_are_counted_and_named(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    root, out = make_folder({"a": 3, "b": 2, "b/closed": 2}), tmp_path / "out"
    (root / "b" / "closed").chmod(0)
    done = run("shard", root, "--out", out / "shards")
    assert done.returncode == 0, done.stderr
    assert "left out: 1 unreadable folders" in done.stderr
    (root / "a" / "1.png").chmod(0)
    done = run("shard", root, "--out", out / "again")
    (root / "b" / "closed").chmod(0o755)
    assert done.returncode == 65
    assert "error[UNREADABLE]: a/1.png cannot be read" in done.stderr
    assert not (out / "again").exists()


@posix_only
def test_a_read_only_folder_without_a_home_is_read_and_left_alone(
    make_folder: MakeFolder, tmp_path: Path, untouched: Untouched
) -> None:
    root = make_folder({"a": 3, "b": 2})
    for path in (*root.rglob("*"), root):
        path.chmod(0o555 if path.is_dir() else 0o444)
    untouched(root)
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    done = run("shard", root, "--out", tmp_path / "shards", HOME=str(home), XDG_CACHE_HOME=str(home))
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(root.stat().st_mode) == 0o555
    refused = run("shard", root, "--out", home / "shards")
    assert (refused.returncode, "error[CANNOT_CREATE]" in refused.stderr) == (73, True)
    for path in (*root.rglob("*"), root):
        assert not path.stat().st_mode & stat.S_IWUSR


@posix_only
@pytest.mark.parametrize(
    ("before", "after", "environment"),
    [
        ("ulimit -n 64", "", {}),
        ("ulimit -v 2000000", "", {}),
        ("", "", {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        ("unset HOME", "<&- >&-", {}),
        ("", "| true", {}),
    ],
    ids=["few files", "little memory", "C locale", "closed", "no reader"],
)
def test_a_poor_shell_is_enough(
    make_folder: MakeFolder, tmp_path: Path, before: str, after: str, environment: dict[str, str]
) -> None:
    root = make_folder({"café 🐈": 40, "b\nc": 40})
    done = run("shard", root, "--out", tmp_path / "out", "--quiet", before=before, after=after, **environment)
    assert "Traceback" not in done.stderr, done.stderr
    assert "BrokenPipe" not in done.stderr
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "shard-00000.tar").is_file()


@posix_only
def test_an_error_is_one_line_in_a_locale_without_its_letters(tmp_path: Path) -> None:
    done = run("shard", "/no/café\n🐈", "--out", tmp_path / "out", LANG="C", LC_ALL="C", PYTHONUTF8="0")
    assert (done.returncode, "error[NO_INPUT]" in done.stderr) == (66, True)
    assert len(done.stderr.splitlines()) == 2
