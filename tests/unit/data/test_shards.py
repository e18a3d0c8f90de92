"""Shards: what is packed comes back the same, and what is damaged or unsafe is named."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headstart.augment import EvalPrepare, TrainPrepare, side_on
from headstart.data import (
    Loader,
    PixelCache,
    Rules,
    Samples,
    Table,
    from_lists,
    from_shards,
    read_table,
    scan_folder,
    split_samples,
    write_shards,
)
from headstart.data.shards import expand
from headstart.data.tar import tar_members
from headstart.errors import DataError, HeadstartError, InputMissingError, OutputError, UsageError
from headstart.types import Task

MakeFolder = Callable[..., Path]


def tar_of(path: Path, members: Mapping[str, bytes], **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def refusal(places: object, **options: object) -> HeadstartError:
    with pytest.raises(HeadstartError) as caught:
        from_shards(places, **options)  # type: ignore[arg-type]
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return caught.value


def assert_same(packed: Samples, samples: Samples) -> None:
    assert packed.names == (samples.names or samples.paths)
    assert packed.ids.tolist() == samples.ids.tolist()
    assert packed.labels.tolist() == samples.labels.tolist()
    assert packed.labels.dtype == samples.labels.dtype
    assert packed.split.tolist() == samples.split.tolist()
    assert (packed.classes, packed.task) == (samples.classes, samples.task)
    assert packed.fingerprint() == samples.fingerprint()
    assert [packed.read(row) for row in range(len(packed))] == [
        samples.read(row) for row in range(len(samples))
    ]


def test_shards_give_back_the_rows_that_they_were_made_from(make_folder: MakeFolder, tmp_path: Path) -> None:
    samples = scan_folder(make_folder({"train/b": 3, "train/a": 12, "valid/a": 2, "test": 3}))
    shards = write_shards(samples, tmp_path / "shards", pictures_per_shard=8)
    assert [path.name for path in shards] == ["shard-00000.tar", "shard-00001.tar", "shard-00002.tar"]
    packed = from_shards(tmp_path / "shards")
    assert_same(packed, samples)
    assert packed.place(0) == "shard-00000.tar/train/a/0.png"
    assert packed.name(19) == "shard-00002.tar/test/2.png"
    assert packed.skipped == {}


def test_a_shard_that_is_missing_from_its_folder_is_noticed(make_folder: MakeFolder, tmp_path: Path) -> None:
    samples = scan_folder(make_folder({"a": 3, "b": 3}))
    shards = write_shards(samples, tmp_path / "shards", pictures_per_shard=2)
    shards[1].unlink()
    error = refusal(tmp_path / "shards")
    assert (error.code, error.exit_code) == ("MISSING_FILES", 65)
    assert "has 4 pictures, shards.json says 6" in error.message
    assert len(from_shards(str(tmp_path / "shards" / "*.tar"))) == 4  # these ones are meant
    (tmp_path / "shards" / "shards.json").write_text("[]")
    assert refusal(tmp_path / "shards").code == "BAD_LABEL"


def test_tags_groups_and_the_order_of_classes_come_back(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({".": 4})
    tags = [["z", "a"], [], ["a"], ["z"]]
    samples = from_lists(
        [f"{n}.png" for n in range(4)], tags, root=root, group=[1, 2, 1, None], classes=("z", "a")
    )
    write_shards(samples, tmp_path / "shards")
    packed = from_shards(tmp_path / "shards")
    assert_same(packed, samples)
    assert packed.classes == ("z", "a")
    assert packed.group is not None
    assert packed.group[0] == packed.group[2]
    assert len(set(packed.group.tolist())) == 3


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=12),
        min_size=2,
        max_size=6,
        unique=True,
    )
)
def test_any_name_of_a_file_comes_back(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    names = [f"n{name}" for name in names if len(f"n{name}.jpg".encode()) < 200]
    root = tmp_path_factory.mktemp("names")
    paths = [f"n{number}/{name}{'.jpg' if number % 2 else ''}" for number, name in enumerate(names)]
    for path in paths:
        (root / path).parent.mkdir()
        (root / path).write_bytes(path.encode())
    samples = Samples(root, tuple(paths), np.arange(len(paths)), tuple(paths), np.full(len(paths), "", "<U5"))
    if len(paths) < 2:
        return
    write_shards(samples, root / "shards", pictures_per_shard=2)
    assert_same(from_shards(root / "shards"), samples)


def test_the_same_samples_give_the_same_bytes(make_folder: MakeFolder, tmp_path: Path) -> None:
    samples = scan_folder(make_folder({"a": 2, "b": 2}))
    first, second = (write_shards(samples, tmp_path / name)[0] for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    with pytest.raises(OutputError):
        write_shards(samples, tmp_path / "one")
    write_shards(samples.take([0, 2]), tmp_path / "one", replace=True)
    assert len(from_shards(tmp_path / "one")) == 2
    with pytest.raises(UsageError):
        write_shards(samples, tmp_path / "three", pictures_per_shard=0)


def test_nobodys_pictures_are_replaced_by_shards(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": 2, "b": 2})
    for folder in (root, root / "a"):
        with pytest.raises(OutputError, match=r"which shards would replace"):
            write_shards(scan_folder(root), folder, replace=True)
    assert len(list(root.rglob("*.png"))) == 4


def test_a_picture_that_cannot_be_read_leaves_no_shards(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": 2, "b": 2})
    samples = scan_folder(root)
    (root / "b" / "1.png").unlink()
    with pytest.raises(DataError, match=r"b/1\.png"):
        write_shards(samples, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_other_readers_of_shards_find_the_number_of_the_class(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    samples = scan_folder(make_folder({"a": 1, "b": 1}))
    shard = write_shards(samples, tmp_path / "shards")[0]
    with tarfile.open(shard) as tar:
        assert tar.getnames() == ["a/0.png", "a/0.cls", "a/0.json", "b/0.png", "b/0.cls", "b/0.json"]
        member = tar.extractfile("b/0.cls")
        assert member is not None
        assert member.read() == b"1"
    contents = json.loads((tmp_path / "shards" / "shards.json").read_text("utf-8"))
    assert contents == {"classes": ["a", "b"], "task": "single-label", "pictures": 2}


@pytest.mark.parametrize("label", ["cls", "txt", "json"])
def test_labels_of_other_writers_are_read(tmp_path: Path, label: str) -> None:
    said = {"cls": (b"10", b"9"), "txt": (b"10\n", b"9\n"), "json": (b'{"label": 10}', b'{"label": "9"}')}[
        label
    ]
    members = {
        "x/1.jpg": b"one",
        f"x/1.{label}": said[0],
        "x/2.PNG": b"two",
        f"x/2.{label}": said[1],
        "x/2.wav": b"",
    }
    samples = from_shards(tar_of(tmp_path / "a.tar", members))
    assert samples.classes == ("9", "10")
    assert samples.label_names() == ["10", "9"]
    assert samples.names == ("x/1.jpg", "x/2.PNG")
    assert samples.read(1) == b"two"
    assert samples.skipped == {".wav members": 1}


def test_a_field_of_the_json_or_a_delimiter_may_say_the_label(tmp_path: Path) -> None:
    members = {
        "1.jpg": b"1",
        "1.json": b'{"breed": "pug", "tags": ["x"]}',
        "2.jpg": b"2",
        "2.json": b'{"breed": "boxer"}',
    }
    shard = tar_of(tmp_path / "a.tar", members)
    assert from_shards(shard, label="breed").label_names() == ["pug", "boxer"]
    assert from_shards(shard).label_names() == ["x", ""]
    texts = tar_of(tmp_path / "b.tar", {"1.jpg": b"1", "1.txt": b"a b", "2.jpg": b"2", "2.txt": b""})
    tags = from_shards(texts, label_delimiter=" ")
    assert (tags.task, tags.label_names()) == (Task.MULTI_LABEL, ["a b", ""])


def test_pictures_without_a_label_follow_the_rule(tmp_path: Path) -> None:
    members = {"1.jpg": b"1", "1.cls": b"a", "2.jpg": b"2", "2.cls": b"b", "3.jpg": b"3"}
    shard = tar_of(tmp_path / "a.tar", members)
    error = refusal(shard)
    assert (error.code, "a.tar/3.jpg" in error.message) == ("NO_LABEL", True)
    assert from_shards(shard, rules=Rules(unlabelled="test")).split.tolist() == ["", "", "test"]
    skipped = from_shards(shard, rules=Rules(unlabelled="skip"))
    assert (len(skipped), skipped.skipped) == (2, {"rows without a label": 1})
    assert skipped.read(1) == b"2"


def test_shards_that_number_their_members_alike_stay_apart(tmp_path: Path) -> None:
    for name, label in (("s-9.tar", b"a"), ("s-10.tar", b"b")):
        tar_of(tmp_path / name, {"0.jpg": label, "0.cls": label})
    samples = from_shards(tmp_path)
    assert samples.names == ("s-9.tar/0.jpg", "s-10.tar/0.jpg")
    assert samples.label_names() == ["a", "b"]
    assert len(set(samples.ids.tolist())) == 2


def test_a_tar_of_class_folders_is_read_as_the_folder(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"train/a": 2, "train/b": 1, "valid/b": 1})
    (root / "train" / "a" / ".DS_Store").write_bytes(b"")
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(root, "pictures")
    packed = from_shards(tmp_path / "photos.tar")
    assert_same(packed, scan_folder(root))
    (tmp_path / "more.tar").write_bytes((tmp_path / "photos.tar").read_bytes())
    assert refusal([tmp_path / "photos.tar", tmp_path / "more.tar"]).code == "NO_LABEL"


def test_braces_stars_and_folders_mean_shards_in_natural_order(tmp_path: Path) -> None:
    for number in range(12):
        tar_of(tmp_path / "s" / f"p-{number}.tar", {})
    (tmp_path / "s" / ".hidden.tar").write_bytes(b"")

    def names(place: str) -> list[str]:
        return [Path(shard).stem.removeprefix("p-") for shard in expand(str(tmp_path / "s" / place))]

    everything = [str(number) for number in range(12)]
    assert names("") == names("p-*.tar") == names("p-{0..11}.tar") == everything
    assert names("p-{3,1}.tar") == ["3", "1"]
    assert names("p-{2..0}.tar") == ["2", "1", "0"]
    assert names("{p,p}-1{0..1}.tar") == ["10", "11", "10", "11"]
    with pytest.raises(InputMissingError, match=r"p-12\.tar"):
        names("p-{0..12}.tar")
    with pytest.raises(InputMissingError, match=r"p-000\.tar"):
        names("p-{000..011}.tar")
    with pytest.raises(InputMissingError, match="no shards"):
        names("q*.tar")
    with pytest.raises(UsageError, match="100,000"):
        names("p-{1..1}{,,,,,,,,,}{,,,,,,,,,}{,,,,,,,,,}{,,,,,,,,,}{,,,,,,,,,}{,}.tar")


def test_shards_behind_a_url_are_read_in_place(make_folder: MakeFolder, tmp_path: Path) -> None:
    import fsspec

    samples = scan_folder(make_folder({"a": 3, "b": 2}))
    write_shards(samples, tmp_path / "shards", pictures_per_shard=2)
    files = fsspec.filesystem("memory")
    for path in (tmp_path / "shards").iterdir():
        files.pipe(f"/store/{path.name}", path.read_bytes())
    try:
        for place in ("memory://store", "memory://store/*.tar", "memory://store/shard-{00000..00002}.tar"):
            packed = from_shards(place)
            assert_same(packed, samples)
        assert packed.name(0) == "memory://store/shard-00000.tar/a/0.png"
        files.pipe("/store/shard-00001.tar", files.cat("/store/shard-00001.tar")[:700])
        with pytest.raises(DataError, match=r"shard-00001\.tar/a/2\.png ends after") as caught:
            packed.read(2)
        assert caught.value.code == "TRUNCATED"
        assert refusal("memory://store").code == "TRUNCATED"
        assert refusal("memory://nowhere/x.tar").exit_code == 66
    finally:
        files.rm("/store", recursive=True)


def test_a_shard_that_was_cut_short_is_named(make_folder: MakeFolder, tmp_path: Path) -> None:
    samples = scan_folder(make_folder({"a": 2, "b": 2}))
    shard = write_shards(samples, tmp_path / "shards")[0]
    whole = shard.read_bytes()
    ends = len(whole.rstrip(b"\0"))
    for length in (512, 700, 1024, 1536, ends - 1):
        shard.write_bytes(whole[:length])
        error = refusal(shard)
        assert (error.code, error.exit_code) == ("TRUNCATED", 65), length
        assert "shard-00000.tar" in error.message
    shard.write_bytes(b"")
    assert refusal(shard).code == "TRUNCATED"


def damaged(tmp_path: Path, change: Callable[[tarfile.TarInfo], None]) -> Path:
    info = tarfile.TarInfo("1.jpg")
    change(info)
    path = tmp_path / "odd.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    return path


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_devices_and_pipes_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname = kind, "/etc/passwd"

    error = refusal(damaged(tmp_path, change))
    assert (error.code, error.exit_code) == ("UNSAFE_ARCHIVE", 65)


@pytest.mark.parametrize(
    "name", ["../1.jpg", "/etc/1.jpg", "a/../../1.jpg", "C:\\1.jpg", "a\\..\\1.jpg", "\\\\host\\x.jpg"]
)
@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_names_that_lead_out_of_a_tar_are_refused(tmp_path: Path, name: str, format: int) -> None:
    assert refusal(tar_of(tmp_path / "a.tar", {name: b"x"}, format=format)).code == "UNSAFE_ARCHIVE"


def test_what_is_no_tar_is_said_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
    error = refusal(tmp_path / "a.tar")
    assert (error.code, "gunzip" in error.hint) == ("NOT_AN_ARCHIVE", True)
    twice = tar_of(tmp_path / "b.tar", {"1.jpg": b"x", "1.png": b"y", "1.cls": b"a"})
    assert refusal(twice).code == "AMBIGUOUS"
    assert refusal(tar_of(tmp_path / "c.tar", {"1.jpg": b"x", "1.json": b"{"})).code == "BAD_LABEL"
    assert refusal(tar_of(tmp_path / "d.tar", {"1.jpg": b"x", "1.txt": b"\xff"})).code == "NOT_TEXT"
    assert refusal(tar_of(tmp_path / "e.tar", {"1.jpg": b"x", "1.txt": bytes(2_000_000)})).code == "BAD_LABEL"
    assert refusal(tar_of(tmp_path / "f.tar", {"1.wav": b"x"})).exit_code == 66


def members_of(data: bytes) -> list[tuple[str, int, int]]:
    return [
        tuple(member)
        for member in tar_members(lambda place, count: data[place : place + count], len(data), "x")
    ]


TAR_NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\:."), min_size=1, max_size=90
)


@settings(max_examples=60, deadline=None)
@given(
    members=st.dictionaries(
        st.lists(TAR_NAMES, min_size=1, max_size=4).map("/".join), st.binary(max_size=1500), max_size=5
    ),
    format=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_the_index_is_that_of_pythons_own_reader(members: dict[str, bytes], format: int) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    data = stream.getvalue()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(info.name, info.offset_data, info.size) for info in tar if info.isfile()]
    assert members_of(data) == expected


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_to_a_tar_raises_anything_but_our_errors(data: st.DataObject) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("a.jpg", "é" * 60 + ".jpg"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    content = bytearray(stream.getvalue()[:5120])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = members_of(bytes(content))
    except DataError:
        return
    assert all(offset + length <= len(content) for _, offset, length in found)


def test_a_size_that_lies_is_caught() -> None:
    info = tarfile.TarInfo("a.jpg")
    info.size = 2**60
    header = info.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(DataError, match="ends within"):
        members_of(header + bytes(1024))
    broken = bytearray(tarfile.TarInfo("a.jpg").tobuf())
    broken[0] ^= 1
    with pytest.raises(DataError, match="not a tar file"):
        members_of(bytes(broken) + bytes(1024))
    assert struct.calcsize("512s") == len(header)


@pytest.mark.parametrize("collection", ["ants_bees", "dog_breeds", "helmets"])
def test_real_pictures_give_the_same_batches_from_shards(
    shared: Path, tmp_path: Path, collection: str
) -> None:
    root = shared / "data" / collection
    if collection == "dog_breeds":
        table = Table(image="id", label="breed", folder="train", suffix=".jpg")
        samples = read_table(root / "labels.csv", table)
    elif collection == "helmets":
        table = Table(image="image", label="tags", label_delimiter=" ", folder="images", suffix=".jpg")
        samples = read_table(root / "labels.csv", table)
    else:
        samples = scan_folder(root)
    write_shards(samples, tmp_path / "shards", pictures_per_shard=300)
    packed = from_shards(tmp_path / "shards")
    assert packed.fingerprint() == samples.fingerprint()
    one, other = split_samples(samples), split_samples(packed)
    assert one.split.tolist() == other.split.tolist()
    rows = one.rows("train")[:48]
    prepare = TrainPrepare(side_on(), (64, 64), 5)

    def batches(of: Samples, start: int) -> list[tuple[bytes, bytes, bytes]]:
        loader = Loader(PixelCache(of, short_side=64), rows, prepare, batch_size=16, shuffle=True, threads=2)
        return [
            (np.asarray(batch.inputs).tobytes(), np.asarray(batch.targets).tobytes(), batch.index.tobytes())
            for batch in loader.epoch(start)
        ]

    assert batches(one, 1) == batches(other, 1)
    assert batches(one, 1) != batches(other, 2)
    plain = EvalPrepare((64, 64), policy="crop", crop_fraction=1.0, interpolation="bicubic")
    cache = PixelCache(other, short_side=64)
    assert np.array_equal(plain(cache.pixels(0), 0, 0), plain(PixelCache(one, short_side=64).pixels(0), 0, 0))
