"""Zip files: read where they lie, or refused with what to do; nothing is ever unpacked."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headstart.data import from_zip, scan_folder
from headstart.errors import DataError, HeadstartError, InputMissingError

MakeFolder = Callable[..., Path]


def zip_of(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def refusal(path: Path) -> HeadstartError:
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(HeadstartError) as caught:
        from_zip(path)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert sorted(path.parent.rglob("*")) == before, "something was unpacked"
    return caught.value


GOOD = {"a/1.jpg": b"one", "a/2.jpg": b"two", "b/1.jpg": b"three"}


@pytest.mark.parametrize("top", ["", "photos/", "photos/2024/"])
def test_stored_pictures_are_read_in_place_under_the_names_of_the_folder(
    make_folder: MakeFolder, tmp_path: Path, top: str
) -> None:
    root = make_folder({"train/a": 2, "train/b": 1, "valid/b": 1, "test": 2})
    expected = scan_folder(root)
    members = {f"{top}{path}": expected.read(row) for row, path in enumerate(expected.paths)}
    members |= {f"__MACOSX/{top}._x.png": b"x", f"{top}notes.txt": b"x"}
    samples = from_zip(zip_of(tmp_path / "photos.zip", members))
    assert samples.names == expected.paths
    assert samples.ids.tolist() == expected.ids.tolist()
    assert samples.fingerprint() == expected.fingerprint()
    assert [samples.read(row) for row in range(6)] == [expected.read(row) for row in range(6)]
    assert samples.name(0) == "photos.zip/train/a/0.png"
    assert samples.skipped == {".txt files": 1, "hidden or system files": 1}


def test_compressed_pictures_are_refused_with_how_to_unpack_them(tmp_path: Path) -> None:
    error = refusal(zip_of(tmp_path / "photos.zip", GOOD, zipfile.ZIP_DEFLATED))
    assert (error.code, error.exit_code) == ("COMPRESSED", 65)
    assert "unzip photos.zip -d photos" in error.hint
    with zipfile.ZipFile(tmp_path / "mixed.zip", "w") as archive:
        for name, data in GOOD.items():
            archive.writestr(name, data)
        archive.writestr("readme.txt", b"x" * 1000, zipfile.ZIP_DEFLATED)
    assert len(from_zip(tmp_path / "mixed.zip")) == 3


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "C:\\x.jpg", "a\\..\\..\\x.jpg", "a/../../x.jpg"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    error = refusal(zip_of(tmp_path / "a.zip", {**GOOD, name: b"x"}))
    assert (error.code, error.exit_code) == ("UNSAFE_ARCHIVE", 65)


def test_a_name_with_a_null_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {**GOOD, "a/xQ.jpg": b"x"})
    path.write_bytes(path.read_bytes().replace(b"a/xQ.jpg", b"a/x\0.jpg"))
    assert refusal(path).code == "UNSAFE_ARCHIVE"


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", GOOD)
    content = bytearray(path.read_bytes())
    for place in (content.index(b"PK\x03\x04") + 6, content.index(b"PK\x01\x02") + 8):
        content[place] |= 1
    path.write_bytes(content)
    error = refusal(path)
    assert (error.code, "password" in error.hint) == ("ENCRYPTED", True)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_links_and_names_given_twice_are_refused(tmp_path: Path) -> None:
    for names in (("a/1.jpg", "a/1.jpg"), ("a/1.jpg", "A/1.JPG")):
        with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
            for name in names:
                archive.writestr(name, b"x")
        assert refusal(tmp_path / "twice.zip").code == "UNSAFE_ARCHIVE"
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        link = zipfile.ZipInfo("a/1.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, b"/etc/passwd")
    assert refusal(tmp_path / "link.zip").code == "UNSAFE_ARCHIVE"


def test_members_that_share_bytes_are_refused(tmp_path: Path) -> None:
    # What a bomb of overlapping members does: the second entry of the index points at the first's bytes.
    path = zip_of(tmp_path / "a.zip", {"a/1.jpg": b"same", "b/1.jpg": b"same"})
    content = bytearray(path.read_bytes())
    second = content.rindex(b"PK\x01\x02")
    content[second + 42 : second + 46] = struct.pack("<I", 0)
    path.write_bytes(content)
    assert refusal(path).code in ("UNSAFE_ARCHIVE", "NOT_AN_ARCHIVE")


def test_what_is_no_zip_or_cut_short_is_said(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", GOOD)
    whole = path.read_bytes()
    for content in (b"", b"PK\x03\x04", b"x" * 500, whole[:-10], whole[:60]):
        path.write_bytes(content)
        assert (refusal(path).code, refusal(path).exit_code) == ("NOT_AN_ARCHIVE", 65)
    with pytest.raises(InputMissingError):
        from_zip(tmp_path / "none.zip")
    assert refusal(zip_of(tmp_path / "flat.zip", {"1.jpg": b"x"})).code == "NO_CLASS_FOLDERS"
    assert refusal(zip_of(tmp_path / "empty.zip", {})).exit_code == 66
    assert refusal(zip_of(tmp_path / "one.zip", {"train/a/1.jpg": b"x"})).code == "ONE_CLASS"


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.data.archives.MAX_MEMBERS", 2)
    assert refusal(zip_of(tmp_path / "a.zip", GOOD)).code == "UNSAFE_ARCHIVE"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_raises_anything_but_our_errors(tmp_path: Path, data: st.DataObject) -> None:
    path = zip_of(tmp_path / "a.zip", GOOD)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        samples = from_zip(path)
        for row in range(len(samples)):
            samples.read(row)
    except (DataError, InputMissingError):
        return
    assert samples.length is not None
    assert (samples.length <= len(content)).all()
