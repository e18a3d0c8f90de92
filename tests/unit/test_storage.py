"""Files are whole or absent, and nothing that was altered or blown up is read."""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart import storage
from headstart.errors import ConfigError, InputMissingError, OutputError, StorageError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        found.relative_to(folder).as_posix(): found.read_bytes()
        for found in folder.rglob("*")
        if found.is_file()
    }


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Make one call of `os` fail with an error number."""

    def fail(name: str, number: int) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(storage.os, name, refuse)

    return fail


def test_a_written_file_holds_what_was_given_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    storage.write_atomic(tmp_path / "new" / "file", b"abc")
    assert tree(tmp_path) == {"new/file": b"abc"}


@pytest.mark.parametrize(
    ("call", "number", "error"),
    [
        ("fsync", errno.ENOSPC, StorageError),
        ("fsync", errno.EIO, StorageError),
        ("replace", errno.EIO, StorageError),
        ("replace", errno.EACCES, OutputError),
        ("replace", errno.EROFS, OutputError),
    ],
)
def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, failing: Any, call: str, number: int, error: type[Exception]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    failing(call, number)
    with pytest.raises(error, match="file"):
        storage.write_atomic(path, b"new")
    assert tree(tmp_path) == {"file": b"old"}


def test_a_full_disk_is_told_with_what_is_free(tmp_path: Path, failing: Any) -> None:
    failing("fsync", errno.ENOSPC)
    with pytest.raises(StorageError, match=r"disk is full.*\d+ MB free") as caught:
        storage.write_atomic(tmp_path / "file", b"new")
    assert caught.value.exit_code == 74


def test_a_folder_that_cannot_be_synced_by_its_file_system_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def no_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(handle)

    monkeypatch.setattr(storage.os, "fsync", no_folders)
    storage.write_atomic(tmp_path / "file", b"abc")
    assert (tmp_path / "file").read_bytes() == b"abc"


def test_threads_that_write_one_file_leave_one_of_their_texts(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = [bytes([number]) * 20_000 for number in range(8)]
    threads = [threading.Thread(target=storage.write_atomic, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in texts
    assert list(tree(tmp_path)) == ["file"]


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with storage.folder_written_whole(tmp_path / "run") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "a").write_bytes(b"1")
        assert not (tmp_path / "run").exists()
    assert tree(tmp_path) == {"run/inner/a": b"1"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, ConfigError])
def test_a_folder_whose_filling_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), storage.folder_written_whole(tmp_path / "run") as folder:  # noqa: PT012
        (folder / "a").write_bytes(b"1")
        raise error("no")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_kept_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / "old").write_bytes(b"1")
    with pytest.raises(OutputError, match="exists already"), storage.folder_written_whole(path):
        pytest.fail("the body ran")
    assert tree(tmp_path) == {"run/old": b"1"}
    with storage.folder_written_whole(path, replace=True) as folder:
        (folder / "new").write_bytes(b"2")
        assert tree(path) == {"old": b"1"}
    assert tree(tmp_path) == {"run/new": b"2"}
    assert [found.name for found in tmp_path.iterdir()] == ["run"]


def test_a_replacement_that_fails_at_the_last_moment_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / "old").write_bytes(b"1")
    replace = os.replace

    def refuse_the_new(source: Path, target: Path) -> None:
        if Path(source).name.endswith(".tmp"):
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(storage.os, "replace", refuse_the_new)
    with (
        pytest.raises(StorageError),
        storage.folder_written_whole(path, replace=True) as folder,
    ):
        (folder / "new").write_bytes(b"2")
    assert tree(tmp_path) == {"run/old": b"1"}


def test_a_file_in_the_place_of_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"mine")
    with (
        pytest.raises(OutputError, match="is a file"),
        storage.folder_written_whole(tmp_path / "run", replace=True),
    ):
        pytest.fail("the body ran")
    assert tree(tmp_path) == {"run": b"mine"}


def test_replacing_a_link_to_a_folder_replaces_the_folder_and_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with storage.folder_written_whole(tmp_path / "link", replace=True) as folder:
        (folder / "new").write_bytes(b"2")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "new").read_bytes() == b"2"


@settings(max_examples=50, deadline=None)
@given(value=json_values)
def test_json_comes_back_as_it_went(value: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("json") / "value.json"
    try:
        storage.write_json(path, value)
    finally:
        written = path.exists()
    assert written
    assert storage.read_json(path) == value


def test_json_holds_a_file_name_that_is_no_text(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    storage.write_json(tmp_path / "x.json", {name: "é"})
    (tmp_path / "x.json").read_bytes().decode("utf-8")
    assert storage.read_json(tmp_path / "x.json") == {name: "é"}


def test_json_that_is_no_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        storage.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": NaN}',
        b"[-Infinity]",
        b'{"a": 1, "a": 2}',
        b"1" * 5000,
    ],
)
def test_json_that_is_not_strict_json_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(ConfigError, match=r"x\.json is not JSON"):
        storage.read_json(tmp_path / "x.json")


def test_json_over_its_cap_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps("a" * 100))
    assert storage.read_json(tmp_path / "x.json", max_bytes=102) == "a" * 100
    with pytest.raises(ConfigError, match="larger than 101 bytes"):
        storage.read_json(tmp_path / "x.json", max_bytes=101)


def test_reading_what_is_not_there_says_so(tmp_path: Path) -> None:
    for read in (storage.read_json, storage.load_arrays, storage.check_safetensors):
        with pytest.raises(InputMissingError, match="nothing"):
            read(tmp_path / "nothing")


@pytest.mark.skipif(os.name != "posix", reason="named pipes are of POSIX")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (storage.read_json, storage.load_arrays, storage.check_safetensors):
        with pytest.raises(ConfigError, match="is not a file"):
            read(tmp_path / "pipe")


@settings(max_examples=50, deadline=None)
@given(parts=st.lists(json_values, max_size=3), other=st.lists(json_values, max_size=3))
def test_keys_are_equal_when_and_only_when_the_parts_are(parts: list[Any], other: list[Any]) -> None:
    def text(value: object) -> str:
        return json.dumps(value, sort_keys=True)

    same = storage.content_key(*parts) == storage.content_key(*other)
    assert same == (text(parts) == text(other))
    assert len(storage.content_key(*parts)) == 32


def test_keys_do_not_depend_on_the_order_of_a_dictionary() -> None:
    assert storage.content_key({"a": 1, "b": 2}) == storage.content_key({"b": 2, "a": 1})
    assert storage.content_key("ab", "c") != storage.content_key("a", "bc")


# --- safetensors -----------------------------------------------------------------------------------


def safetensors_file(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}


def test_arrays_come_back_as_they_went(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "b": np.zeros((0, 3), np.int64),
        "c": np.array(True),
    }
    path = tmp_path / "x.safetensors"
    storage.save_arrays(path, arrays, {"note": "é"})
    loaded = storage.load_arrays(path, sha256=storage.sha256_file(path))
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype
    assert storage.check_safetensors(path) == {
        "a": ("F32", (3, 2)),
        "b": ("I64", (0, 3)),
        "c": ("BOOL", ()),
    }


def test_tensors_that_share_memory_or_are_strided_come_back_as_they_went(tmp_path: Path) -> None:
    import torch

    base = torch.arange(6.0).reshape(2, 3)
    tensors = {"a": base, "b": base, "c": base.T, "d": torch.zeros(2, 3, 4, 4).to(dtype=torch.bfloat16)}
    path = tmp_path / "x.safetensors"
    storage.save_tensors(path, tensors)
    loaded = storage.load_tensors(path)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    with pytest.raises(ConfigError, match="not a valid safetensors file"):
        storage.load_arrays(path)  # NumPy has no bfloat16


def test_every_altered_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    storage.save_arrays(path, {"weight": np.ones((2, 4), np.float32)})
    good, recorded = path.read_bytes(), storage.sha256_file(path)
    silent = 0
    for position in range(len(good)):
        altered = bytearray(good)
        altered[position] ^= 0x10
        path.write_bytes(altered)
        with pytest.raises(ConfigError):
            storage.load_arrays(path, sha256=recorded)
        try:
            storage.load_arrays(path)
            silent += 1
        except ConfigError:
            pass
    assert silent > 0, "without the hash some bytes pass: the hash is what notices them"


def test_every_beginning_of_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    storage.save_arrays(path, {"weight": np.ones((2, 4), np.float32)})
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(ConfigError):
            storage.load_arrays(path)


def huge_header(kind: str) -> tuple[bytes, bytes]:
    count = 600_000 if kind == "600k tensors" else 25_000
    match kind:
        case "99 MB of blanks":
            return b"{" + b" " * (99 * 2**20) + b"}", b""
        case "600k tensors" | "25k tensors":
            # Written by hand: the encoder would take longer than the check.
            entries = (f'"{n}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for n in range(count))
            return f"{{{','.join(entries)}}}".encode(), b""
        case _:
            return (
                b'{"a":{"dtype":"F32","shape":[' + b"1," * 900_000 + b'1],"data_offsets":[0,4]}}',
                b"\0" * 4,
            )


@pytest.mark.parametrize("kind", ["99 MB of blanks", "600k tensors", "25k tensors", "900k dimensions"])
def test_a_blown_up_header_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = safetensors_file(tmp_path / "x.safetensors", *huge_header(kind))

    def seconds() -> float:
        start = time.process_time()
        with pytest.raises(ConfigError):
            storage.load_arrays(path)
        return time.process_time() - start

    # Two threads of one core slow each other down: the best of three is what it takes.
    assert min(seconds() for _ in range(3)) < 0.5


HOSTILE = {
    "0 bytes": b"",
    "7 bytes": b"\x02\0\0\0\0\0\0",
    "header of 0 bytes": struct.pack("<Q", 0) + b"{}",
    "header over the file": struct.pack("<Q", 100) + b"{}",
    "header of 2**63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "a pickle": b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
    "a pickle of protocol 0": b"cos\nsystem\n(S'true'\ntR.",
    "a zip, as torch saves": b"PK\x03\x04" + b"\0" * 60,
    "an object array of NumPy": b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "HDF5": b"\x89HDF\r\n\x1a\n" + b"\0" * 60,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ConfigError, match="is not a safetensors file"):
        storage.load_arrays(path)


def test_a_pickle_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(HOSTILE["a pickle"])
    with pytest.raises(ConfigError) as caught:
        storage.load_arrays(path)
    assert "pickle" in caught.value.hint
    assert caught.value.exit_code == 78


DAMAGED: dict[str, tuple[object, bytes]] = {
    "not UTF-8": (b'{"\xff": 1}', b""),
    "not JSON": (b"{hello}", b""),
    "100k deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
    "the same key twice": (
        b'{"a":%s,"a":%s}' % (json.dumps(entry()).encode(), json.dumps(entry()).encode()),
        b"\0" * 4,
    ),
    "overlap": ({"a": entry(shape=[2], data_offsets=[0, 8]), "b": entry(data_offsets=[4, 8])}, b"\0" * 8),
    "gap": ({"a": entry(), "b": entry(data_offsets=[8, 12])}, b"\0" * 12),
    "negative offset": ({"a": entry(data_offsets=[-4, 0])}, b"\0" * 4),
    "negative length": ({"a": entry(shape=[-1])}, b"\0" * 4),
    "out of the file": ({"a": entry(shape=[100], data_offsets=[0, 400])}, b"\0" * 4),
    "bytes left over": ({"a": entry()}, b"\0" * 9),
    "shape overflow": ({"a": entry(shape=[2**40, 2**40])}, b"\0" * 4),
    "unknown element type": ({"a": entry(dtype="Q8")}, b"\0" * 4),
    "element type of no framework": ({"a": entry(dtype="F4", shape=[8])}, b"\0" * 4),
    "metadata that is no text": ({"__metadata__": {"a": 1}, "a": entry()}, b"\0" * 4),
    "entry that is no tensor": ({"a": 1}, b""),
    "shape that is no list": ({"a": entry(shape="1")}, b"\0" * 4),
    "length that is true": ({"a": entry(shape=[True])}, b"\0" * 4),
    "nine dimensions": ({"a": entry(shape=[1] * 9)}, b"\0" * 4),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("load", [storage.load_arrays, storage.load_tensors])
def test_a_damaged_header_is_refused(tmp_path: Path, name: str, load: Any) -> None:
    path = safetensors_file(tmp_path / "x.safetensors", *DAMAGED[name])
    with pytest.raises(ConfigError):
        load(path)


def test_the_same_hand_made_file_without_damage_loads(tmp_path: Path) -> None:
    path = safetensors_file(tmp_path / "x.safetensors", {"a": entry()}, struct.pack("<f", 1.5))
    assert storage.load_arrays(path)["a"].tolist() == [1.5]
    assert storage.load_tensors(path)["a"].tolist() == [1.5]


# --- the cache folder ------------------------------------------------------------------------------


def test_the_cache_is_where_the_user_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "a" / "b"))
    assert storage.cache_dir() == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()


def test_a_chosen_cache_that_cannot_be_made_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="HEADSTART_CACHE"):
        storage.cache_dir()


@pytest.mark.skipif(os.name != "posix", reason="owners and modes are of POSIX")
def test_without_a_home_the_cache_is_a_private_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HEADSTART_CACHE", "XDG_CACHE_HOME", "HOME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    # A file where the home should be: the superuser may create any folder, but not this one.
    (tmp_path / "no-home").write_bytes(b"")
    monkeypatch.setenv("HOME", str(tmp_path / "no-home"))
    monkeypatch.setattr(storage.tempfile, "tempdir", str(tmp_path))
    folder = storage.cache_dir()
    assert folder.parent == tmp_path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert storage.cache_dir() == folder

    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    assert storage.cache_dir().name.startswith("headstart-")
    assert storage.cache_dir().resolve() != (tmp_path / "elsewhere").resolve()
