"""What an audit found out is known the next time, by content, and only where the rules are the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from headstart.data import Audit, Colours, Limits, PixelCache, audit, scan_folder
from headstart.data.children import DecodingChildren
from headstart.data.facts import NOTHING, Facts
from headstart.data.verdicts import Known, Verdicts, rules_key
from headstart.storage import sha256_bytes

MakeFolder = Callable[..., Path]
ONE, TWO = sha256_bytes(b"one"), sha256_bytes(b"two")


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("HEADSTART_CACHE", str(folder))
    return folder


def opened(**changes: object) -> Verdicts:
    rules: dict[str, object] = {"short_side": 16, "limits": Limits(), "colours": Colours(), **changes}
    return Verdicts.open(**rules)  # type: ignore[arg-type]


class Untouchable(DecodingChildren):
    """No picture may reach these."""

    def decode(self, data: bytes) -> object:  # type: ignore[override]
        raise AssertionError("it was decoded")


def look(root: Path, **options: object) -> Audit:
    cache = PixelCache(scan_folder(root), short_side=16)
    done = audit(cache, **options)  # type: ignore[arg-type]
    if options.get("keep_pixels", True):
        assert cache.used_bytes
    return done


def test_what_was_recorded_is_found_by_the_next_process() -> None:
    first = opened()
    assert first.find(ONE) is None
    first.add(ONE, Known("", "", Facts(3, 4, "PNG")))
    first.add(TWO, Known("CORRUPT", "the PNG is damaged: ü", NOTHING))
    first.close()
    second = opened()
    assert second.find(ONE) == Known("", "", Facts(3, 4, "PNG"))
    assert second.find(TWO) == Known("CORRUPT", "the PNG is damaged: ü", NOTHING)
    second.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"short_side": 17},
        {"limits": Limits(pixels=100)},
        {"limits": Limits(decode_bytes=1)},
        {"colours": Colours(channels=1)},
    ],
    ids=str,
)
def test_other_rules_know_nothing_of_it(changes: dict[str, object]) -> None:
    first = opened()
    first.add(ONE, Known("CORRUPT", "", NOTHING))
    first.close()
    other = opened(**changes)
    assert other.find(ONE) is None
    other.close()


def test_the_rules_have_one_key_and_every_change_of_them_another() -> None:
    keys = [
        rules_key(16, Limits(), Colours()),
        rules_key(16, Limits(), Colours((0, 0, 0))),
        rules_key(None, Limits(), Colours()),
        rules_key(16, Limits(decode_seconds=1), Colours()),
    ]
    assert len(set(keys)) == len(keys)
    assert rules_key(16, Limits(), Colours()) == keys[0]


def test_a_second_audit_decodes_in_no_child_and_finds_the_same(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 6, "b": 6})
    (root / "a" / "0.png").write_bytes(b"text")
    first = look(root)
    with Untouchable(short_side=16) as children:
        again = look(root, children=children)
        spared = look(root, children=children, keep_pixels=False)
        for later in (again, spared):
            assert later.codes.tolist() == first.codes.tolist()
            assert later.messages == first.messages
            assert later.facts == first.facts
            assert later.sha256.tolist() == first.sha256.tolist()
        (root / "a" / "1.png").write_bytes((root / "a" / "1.png").read_bytes() + b"changed")
        with pytest.raises(AssertionError, match="it was decoded"):
            look(root, children=children)


def test_a_known_file_under_another_name_is_named_by_that(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3})
    (root / "a" / "0.png").write_bytes(b"text")
    look(root)
    (root / "a" / "0.png").rename(root / "a" / "other.png")
    done = look(root)
    assert [done.messages[row] for row in done.bad_rows] == ["a/other.png: it is not a picture"]


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\x00" + bytes(4096)])
def test_a_damaged_table_costs_time_and_nothing_else(
    make_folder: MakeFolder, fresh_cache: Path, content: bytes
) -> None:
    root = make_folder({"a": 3, "b": 3})
    first = look(root)
    (table,) = (fresh_cache / "verdicts").glob("*.sqlite")
    table.write_bytes(content)
    assert look(root).facts == first.facts


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written_is_done_without(make_folder: MakeFolder, fresh_cache: Path) -> None:
    fresh_cache.mkdir()
    fresh_cache.chmod(0o500)
    assert look(make_folder({"a": 3, "b": 3})).ok.all()


def test_a_cache_folder_that_is_a_file_is_done_without(make_folder: MakeFolder, fresh_cache: Path) -> None:
    fresh_cache.write_text("in the way")
    assert look(make_folder({"a": 3, "b": 3})).ok.all()


def test_only_the_tables_in_use_are_kept(fresh_cache: Path) -> None:
    for side in range(1, 13):
        opened(short_side=side).close()
    tables = list((fresh_cache / "verdicts").glob("*.sqlite"))
    assert len(tables) == 8
    assert f"{rules_key(12, Limits(), Colours())}.sqlite" in {table.name for table in tables}
