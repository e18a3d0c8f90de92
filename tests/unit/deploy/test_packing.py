"""A bundle as one file is the bundle; whatever else is in one is refused, and nothing runs."""

from __future__ import annotations

import io
import json
import shutil
import struct
import sys
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.cli.main import run
from headstart.deploy import inspect_bundle, load_bundle, load_predictor, pack, read_manifest, save_bundle
from headstart.deploy.bundle import seal
from headstart.errors import ConfigError, OutputError
from headstart.storage import sha256_bytes

from .conftest import CLASSES, Saved, manifest_of, picture, small_model

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def packed(saved: Saved, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed bundle that no test may change."""
    path = tmp_path_factory.mktemp("packed") / "model.headstart"
    pack(saved.folder, path)
    return path


def test_one_file_is_the_same_model(saved: Saved, packed: Path) -> None:
    assert read_manifest(packed) == saved.manifest
    with load_predictor(packed, device="cpu") as one, load_predictor(saved.folder, device="cpu") as folder:
        np.testing.assert_array_equal(one.predict(picture(1)).logits, folder.predict(picture(1)).logits)


def test_it_is_a_zip_that_any_tool_can_open_and_the_same_each_time(
    saved: Saved, packed: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["manifest.json", "README.md", WEIGHTS]
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        for name in archive.namelist():
            assert archive.read(name) == (saved.folder / name).read_bytes()
    pack(packed, tmp_path / "again.headstart")
    assert (tmp_path / "again.headstart").read_bytes() == packed.read_bytes()


def test_it_becomes_the_folder_again(saved: Saved, packed: Path, tmp_path: Path) -> None:
    pack(packed, tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted(
        path.name for path in saved.folder.iterdir()
    )
    for path in saved.folder.iterdir():
        assert (tmp_path / "model" / path.name).read_bytes() == path.read_bytes()


def test_a_model_is_saved_as_one_file_where_its_name_says_so(tmp_path: Path) -> None:
    model = small_model()
    save_bundle(tmp_path / "m.headstart", [model], manifest_of(model))
    assert load_bundle(tmp_path / "m.headstart").manifest.classes == CLASSES
    with pytest.raises(OutputError, match="exists already"):
        save_bundle(tmp_path / "m.headstart", [model], manifest_of(model))
    save_bundle(tmp_path / "m.headstart", [model], manifest_of(model), replace_old=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m.headstart"]


def test_what_is_there_is_kept_unless_it_is_to_be_replaced(saved: Saved, tmp_path: Path) -> None:
    (tmp_path / "a.headstart").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        pack(saved.folder, tmp_path / "a.headstart")
    pack(saved.folder, tmp_path / "a.headstart", replace_old=True)
    assert read_manifest(tmp_path / "a.headstart") == saved.manifest


def test_what_is_inspected_is_checked_and_told(
    saved: Saved, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(packed), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["form"] == "file"
    assert said["files"][WEIGHTS]["sha256"] == saved.manifest.files[WEIGHTS].sha256
    assert said["parameters"] == [sum(tensor.numel() for tensor in saved.model.state_dict().values())]
    assert run(["inspect", str(saved.folder)]) == 0
    text = capsys.readouterr().out
    assert "one of 3 classes" in text
    assert "every hash checked" in text
    assert inspect_bundle(saved.folder).form == "folder"


def test_inspecting_notices_an_altered_byte(packed: Path, tmp_path: Path) -> None:
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.headstart").write_bytes(data)
    assert run(["inspect", str(tmp_path / "bad.headstart")]) == 78


# --- attacks ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A member as a forger writes it: what the local header says, and what the directory says."""

    name: bytes
    data: bytes
    flags: int = 0
    method: int = 0
    attributes: int = 0o100644 << 16
    size: int | None = None
    packed: int | None = None
    crc: int | None = None
    local_name: bytes | None = None
    local_size: int | None = None
    extra: bytes = b""
    offset: int | None = None


def forged(entries: list[Entry], *, before: bytes = b"", gap: bytes = b"", comment: bytes = b"",
           count: int | None = None) -> bytes:  # fmt: skip
    """A zip, header by header."""
    body, directory = io.BytesIO(), io.BytesIO()
    body.write(before)
    for entry in entries:
        offset = body.tell() if entry.offset is None else entry.offset
        size = len(entry.data) if entry.size is None else entry.size
        packed = len(entry.data) if entry.packed is None else entry.packed
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        local = entry.name if entry.local_name is None else entry.local_name
        local_size = size if entry.local_size is None else entry.local_size
        common = (20, entry.flags, entry.method, 0, 33, crc, packed)
        body.write(struct.pack("<4s5H3I2H", b"PK\3\4", *common, local_size, len(local), len(entry.extra)))
        body.write(local + entry.extra + entry.data)
        directory.write(
            struct.pack(
                "<4s6H3I5H2I", b"PK\1\2", 0x314, *common, size, len(entry.name), len(entry.extra), 0, 0, 0,
                entry.attributes, offset,
            ) + entry.name + entry.extra
        )  # fmt: skip
    body.write(gap)
    start, number = body.tell(), len(entries) if count is None else count
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, number, number, directory.tell(), start, len(comment))
    return body.getvalue() + directory.getvalue() + end + comment


def entries_of(saved: Saved) -> list[Entry]:
    names = ("manifest.json", "README.md", WEIGHTS)
    return [Entry(name.encode(), (saved.folder / name).read_bytes()) for name in names]


def resealed(entries: list[Entry], change: Callable[[dict[str, Any]], object]) -> list[Entry]:
    fields = json.loads(entries[0].data)
    del fields["checksum"]
    change(fields)
    return [replace(entries[0], data=seal(fields)), *entries[1:]]


def with_weights(entries: list[Entry], data: bytes) -> list[Entry]:
    """Exchange the weights, with a hash and a size that fit: what a forger would do."""
    record = {"sha256": sha256_bytes(data), "bytes": len(data)}
    changed = resealed(entries, lambda fields: fields["files"].update({WEIGHTS: record}))
    return [*changed[:2], replace(changed[2], data=data)]


def header(text: bytes, after: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + after


def tensor(name: str, shape: list[int], *ends: int, dtype: str = "F32") -> bytes:
    return json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": list(ends)}}).encode()


def other(entries: list[Entry], number: int, **changes: Any) -> list[Entry]:
    return [replace(entry, **changes) if k == number else entry for k, entry in enumerate(entries)]


def zip64(entries: list[Entry]) -> bytes:
    data = forged(entries)
    body, end = data[:-22], data[-22:]
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 3, 3, 10**12, 10**12)
    return body + record + struct.pack("<4sIQI", b"PK\6\7", 0, len(body), 1) + end


def deflated(entries: list[Entry]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in entries:
            archive.writestr(entry.name.decode(), entry.data)
    return stream.getvalue()


Attack = Callable[[list[Entry]], bytes]
BOMB = zlib.compress(bytes(10**7))

# M06: archives that lead outside, say things twice, or say one thing here and another there.
ARCHIVES: dict[str, Attack] = {
    "M06 a path upwards": lambda e: forged([*e, Entry(b"../evil", b"x")]),
    "M06 an absolute path": lambda e: forged([*e, Entry(b"/tmp/evil", b"x")]),
    "M06 a drive": lambda e: forged([*e, Entry(b"C:\\evil", b"x")]),
    "M06 backslashes": lambda e: forged([*e, Entry(b"a\\..\\evil", b"x")]),
    "M06 a NUL in a name": lambda e: forged(other(e, 1, name=b"README.md\0.exe")),
    "M06 a symbolic link": lambda e: forged(other(e, 1, attributes=0o120777 << 16)),
    "M06 a folder": lambda e: forged([*e, Entry(b"model/", b"", attributes=0x10)]),
    "M06 a device": lambda e: forged(other(e, 1, attributes=0o020666 << 16)),
    "M06 a name in capitals": lambda e: forged([*e, Entry(b"Manifest.json", b"{}")]),
    "M06 a name twice": lambda e: forged([*e, e[0]]),
    "M06 one place for two": lambda e: forged([*e, replace(e[0], name=b"novelty.safetensors", offset=0)]),
    "M06 encrypted": lambda e: forged(other(e, 2, flags=1)),
    "M06 sizes to come later": lambda e: forged(other(e, 2, flags=8)),
    "M06 a wrong CRC of the weights": lambda e: forged(other(e, 2, crc=1)),
    "M06 a wrong CRC of the card": lambda e: forged(other(e, 1, crc=1)),
    "M06 another name in the header": lambda e: forged(other(e, 1, local_name=b"READYOU.md")),
    "M06 another size in the header": lambda e: forged(other(e, 2, local_size=10)),
    "M06 an extra field": lambda e: forged(other(e, 1, extra=b"\1\0\4\0abcd")),
    "M06 two directories": lambda e: forged(e) + forged(e),
    "M06 a program before it": lambda e: forged(e, before=b"#!/bin/sh\n"),
    "M06 something between": lambda e: forged(e, gap=b"hidden"),
    "M06 a comment at its end": lambda e: forged(e, comment=b"PK\5\6" + bytes(18)),
    "M06 something after it": lambda e: forged(e) + b"x",
    "M06 lies in 64 bits": zip64,
    "M06 a zip in a zip": lambda e: forged([*e, Entry(b"model-1.safetensors", forged(e))]),
    "M06 cut off": lambda e: forged(e)[:-30],
    "M06 nothing but an end": lambda e: forged([]),
    "M06 a count that lies": lambda e: forged(e, count=2),
    # M07: what grows.
    "M07 compressed": deflated,
    "M07 a flat bomb": lambda e: forged(other(e, 2, data=BOMB, method=8, size=10**7)),
    "M07 a size that lies": lambda e: forged(other(e, 2, size=2**31, packed=2**31)),
    "M07 overlapping members": lambda e: forged([e[0], *other(e, 1, offset=0)[1:]]),
    "M07 60,000 empty members": lambda e: forged([*e, *[Entry(b"README.md", b"")] * 60_000]),
    # M01: pickles under our name.
    "M01 a torch file": lambda e: forged([Entry(b"archive/data.pkl", b"\x80\x02."), *e]),
    "M01 a pickle": lambda e: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "M01 weights that are a pickle": lambda e: forged(with_weights(e, b"\x80\x04" + bytes(2000))),
    # M09: graphs are no part of a bundle.
    "M09 a graph": lambda e: forged([*e, Entry(b"model.onnx", b"\x08\x07")]),
    # M05: forged manifests.
    "M05 an architecture of code": lambda e: forged(
        resealed(e, lambda f: f["members"][0].update(arch="os.system"))
    ),
    "M05 a file elsewhere": lambda e: forged(
        resealed(e, lambda f: f["members"][0].update(file="../../etc/passwd"))
    ),
    "M05 a deep manifest": lambda e: forged(other(e, 0, data=b"[" * 200_000)),
    "M05 not a number": lambda e: forged(
        other(e, 0, data=e[0].data.replace(b'"temperature": 1.5', b'"temperature": NaN'))
    ),
    "M05 a key twice": lambda e: forged(other(e, 0, data=e[0].data.replace(b"{", b'{"schema": 1, ', 1))),
    "M05 a size of 10^9": lambda e: forged(
        resealed(e, lambda f: f["members"][0]["preprocessing"].update(size=[10**9, 10**9]))
    ),
    "M05 a later schema": lambda e: forged(resealed(e, lambda f: f.update(schema=2))),
    "M05 an altered manifest": lambda e: forged(other(e, 0, data=e[0].data.replace(b"cat", b"cow"))),
    "M05 no manifest": lambda e: forged(e[1:]),
}  # fmt: skip

# M03: headers of weights, each with hash and size that fit.
HEADERS: dict[str, bytes] = {
    "no bytes": b"",
    "seven bytes": bytes(7),
    "a header of nothing": struct.pack("<Q", 0) + bytes(64),
    "a header longer than the file": struct.pack("<Q", 10**6) + b"{}" + bytes(64),
    "a header of 2^63": struct.pack("<Q", 2**63) + b"{}" + bytes(64),
    "a header of 3 MB of blanks": header(b"{" + b" " * 3 * 2**20 + b"}"),
    "a header that is no UTF-8": header(b'{"\xff": 1}', bytes(64)),
    "a header that is no JSON": header(b"{not json}", bytes(64)),
    "a deep header": header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a key twice": header(tensor("a", [1], 0, 4)[:-1] + b"," + tensor("a", [1], 0, 4)[1:], bytes(4)),
    "overlapping tensors": header(
        tensor("a", [2], 0, 8)[:-1] + b"," + tensor("b", [2], 4, 12)[1:], bytes(12)
    ),
    "a tensor beyond the file": header(tensor("a", [100], 0, 400), bytes(4)),
    "a negative place": header(tensor("a", [1], -4, 0), bytes(4)),
    "a shape that overflows": header(tensor("a", [2**40, 2**40], 0, 4), bytes(4)),
    "an unknown type": header(tensor("a", [1], 0, 4, dtype="F33"), bytes(4)),
    "30,000 tensors": header(json.dumps({f"t{k}": {} for k in range(30_000)}).encode()),
    "metadata that is no text": header(b'{"__metadata__": {"a": 3}}', bytes(64)),
}  # fmt: skip

WATCHED = (
    "os.system",
    "subprocess.Popen",
    "socket.connect",
    "os.exec",
    "os.posix_spawn",
    "pickle.find_class",
)


@pytest.fixture(scope="module")
def canary() -> Iterator[list[str]]:
    seen: list[str] = []
    listening = True

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        if listening and event in WATCHED:
            seen.append(f"{event} {arguments}")

    sys.addaudithook(listen)
    yield seen
    listening = False


def refused(path: Path, canary: list[str]) -> ConfigError:
    """Load it, which must fail at once, cheaply, and with nothing run or written."""
    del canary[:]
    before = sorted(path.parent.rglob("*"))
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(ConfigError) as error:
            load_bundle(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert canary == []
    assert sorted(path.parent.rglob("*")) == before
    assert peak < 50e6
    assert time.process_time() - started < 5  # half a second, were memory not traced
    assert error.value.exit_code == 78
    return error.value


def test_what_a_forger_writes_well_loads(saved: Saved, tmp_path: Path) -> None:
    # Were the forger's zips refused as such, the attacks below would show nothing.
    path = tmp_path / "model.headstart"
    path.write_bytes(forged(entries_of(saved)))
    assert load_bundle(path).manifest == saved.manifest
    path.write_bytes(forged(with_weights(entries_of(saved), entries_of(saved)[2].data)))
    assert load_bundle(path).manifest.classes == CLASSES


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_attack_by_one_file_is_refused_and_nothing_runs(
    saved: Saved, tmp_path: Path, canary: list[str], name: str
) -> None:
    path = tmp_path / "inside" / "model.headstart"
    path.parent.mkdir()
    path.write_bytes(ARCHIVES[name](entries_of(saved)))
    error = refused(path, canary)
    if name.startswith("M01"):
        assert "pickle" in error.hint
    assert [each.name for each in tmp_path.iterdir()] == ["inside"]


@pytest.mark.parametrize("form", ["folder", "file"])
@pytest.mark.parametrize("name", HEADERS)
def test_an_attack_by_the_header_of_the_weights_is_refused(
    saved: Saved, tmp_path: Path, canary: list[str], name: str, form: str
) -> None:
    # M03: the manifest is forged to fit, so that the header itself must be looked at.
    entries = with_weights(entries_of(saved), HEADERS[name])
    path = tmp_path / ("model" if form == "folder" else "model.headstart")
    if form == "file":
        path.write_bytes(forged(entries))
    else:
        shutil.copytree(saved.folder, path)
        for entry in entries:
            (path / entry.name.decode()).write_bytes(entry.data)
    refused(path, canary)


def test_each_flipped_byte_of_one_file_is_noticed(packed: Path, tmp_path: Path) -> None:
    data, path = packed.read_bytes(), tmp_path / "model.headstart"
    chosen = np.random.default_rng(0).choice(len(data), 60, replace=False).tolist()
    # Days, versions and who made it say nothing of the bundle; all else of the headers does.
    for at in [0, 6, 8, 14, 18, 22, 26, len(data) - 22, len(data) - 1, *chosen]:
        changed = bytearray(data)
        changed[at] ^= 0x10
        path.write_bytes(changed)
        with pytest.raises(ConfigError):
            load_bundle(path)


def test_a_tar_is_no_bundle(saved: Saved, tmp_path: Path, canary: list[str]) -> None:
    path = tmp_path / "model.headstart"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(saved.folder, "model")
        link = tarfile.TarInfo("model/up")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
    refused(path, canary)
