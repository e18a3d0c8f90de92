"""Strangers' pictures are decoded in children: one that crashes costs its own row and nothing else."""

from __future__ import annotations

import gc
import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.unit.data.hostile_child import CRASH, FAULT
from tests.unit.data.test_children import HOSTILE, child_processes, spell

from headstart.cli.main import run
from headstart.data import DecodingChildren, PixelCache, audit, from_paths
from headstart.deploy import Predictor, load_predictor, save_bundle
from headstart.errors import StorageError

from .conftest import SHORT_SIDE, Saved, manifest_of, picture, small_model

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="processes are counted in /proc"),
]

NO_CHILD = ("-c", "raise SystemExit('no child may be started here')")


@pytest.fixture(autouse=True)
def no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of any picture, and what is found out is forgotten."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))


def start_with(monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    """Let predictors start other children than the real ones."""
    monkeypatch.setattr(
        "headstart.deploy.decoding.DecodingChildren", partial(DecodingChildren, command=command)
    )


@pytest.fixture
def apart(saved: Saved) -> Iterator[Predictor]:
    with load_predictor(saved.folder, device="cpu", threads=2, trusted=False) as predictor:
        yield predictor


@pytest.fixture
def cursed(pictures: list[Path], tmp_path: Path) -> list[Path]:
    """Two good pictures, and between them two that the hostile decoder cannot stand."""
    for name, number in (("crash.png", CRASH), ("fault.png", FAULT)):
        (tmp_path / name).write_bytes(spell(number))
    return [pictures[0], tmp_path / "crash.png", tmp_path / "fault.png", pictures[1]]


def test_children_give_the_numbers_that_the_own_process_gives(
    saved: Saved, apart: Predictor, pictures: list[Path]
) -> None:
    here = load_predictor(saved.folder, device="cpu", trusted=True)
    np.testing.assert_array_equal(apart.predict(pictures).logits, here.predict(pictures).logits)
    given = [path.read_bytes() for path in pictures]
    np.testing.assert_array_equal(apart.predict(given).logits, here.predict(given).logits)


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_picture_that_crashes_the_decoder_costs_its_row_only(
    saved: Saved, cursed: list[Path], monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    start_with(monkeypatch, HOSTILE)
    given = [path.read_bytes() for path in cursed] if in_memory else cursed
    with load_predictor(saved.folder, device="cpu", threads=2) as predictor:
        found = predictor.predict(given)  # type: ignore[arg-type]
        alone = predictor.predict([given[0], given[3]])  # type: ignore[list-item]
    assert found.statuses.tolist() == ["", "DECODER_CRASH", "DECODER_CRASH", ""]
    np.testing.assert_allclose(found.logits[[0, 3]], alone.logits, atol=1e-5)
    assert np.isnan(found.probabilities[[1, 2]]).all()
    # These two are good pictures for a decoder without faults, as the one in this process is.
    here = load_predictor(saved.folder, device="cpu", trusted=True).predict(given)  # type: ignore[arg-type]
    assert here.statuses.tolist() == [""] * 4


def test_the_command_line_decodes_in_children_unless_pictures_are_trusted(
    saved: Saved, cursed: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start_with(monkeypatch, HOSTILE)
    command = ["predict", str(saved.folder), *map(str, cursed), "--device", "cpu"]
    before = child_processes()
    assert run(command) == 0
    said = capsys.readouterr()
    assert [line.split(",")[1] for line in said.out.splitlines()[1:]] == ["ok", *["DECODER_CRASH"] * 2, "ok"]
    assert "2 of 4 pictures could not be read" in said.err
    assert run([*command[:2], str(cursed[1]), "--device", "cpu"]) == 65, "a lone one, too"
    assert child_processes() == before
    capsys.readouterr()
    assert run([*command, "--trusted"]) == 0
    assert [line.split(",")[1] for line in capsys.readouterr().out.splitlines()[1:]] == ["ok"] * 4


def test_what_crashed_a_child_is_known_and_not_decoded_again(
    saved: Saved, cursed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        start_with(patched, HOSTILE)
        with load_predictor(saved.folder, device="cpu") as predictor:
            predictor.predict(cursed)
    start_with(monkeypatch, NO_CHILD)
    with load_predictor(saved.folder, device="cpu") as predictor:
        assert predictor.predict(cursed[1:3]).statuses.tolist() == ["DECODER_CRASH"] * 2
        with pytest.raises(StorageError, match="no child may be started"):
            predictor.predict(cursed)  # the good ones are not recorded


def test_what_an_audit_found_good_needs_no_child(
    saved: Saved, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with load_predictor(saved.folder, device="cpu", trusted=True) as predictor:
        wanted = predictor.predict(pictures).logits
    assert audit(PixelCache(from_paths(pictures), short_side=SHORT_SIDE), threads=1).ok.all()
    start_with(monkeypatch, NO_CHILD)
    with load_predictor(saved.folder, device="cpu", trusted=False) as predictor:
        np.testing.assert_allclose(predictor.predict(pictures).logits, wanted, atol=1e-5)
        with pytest.raises(StorageError, match="no child may be started"):
            predictor.predict(pictures[0].read_bytes())  # of bytes in memory nothing is looked up


def test_one_picture_and_pixels_start_no_child_and_several_files_do(
    saved: Saved, pictures: list[Path]
) -> None:
    before = child_processes()
    predictor = load_predictor(saved.folder, device="cpu", threads=2)
    for given in (pictures[0], [pictures[0]], iter([pictures[0]]), pictures[0].read_bytes()):
        predictor.predict(given)
    predictor.predict([picture(1), Image.fromarray(picture(2))])
    assert child_processes() == before
    assert len(predictor.predict(pictures)) == len(pictures)
    started = child_processes() - before
    assert len(started) == 1, "so few pictures are not worth a second one"
    predictor.predict(pictures)
    assert child_processes() - before == started, "it stays"
    predictor.close()
    assert child_processes() == before
    assert predictor.predict(pictures[:2]).statuses.tolist() == ["", ""]
    assert len(child_processes() - before) == 1
    del predictor
    gc.collect()
    assert child_processes() == before, "they end with the predictor"


@pytest.mark.parametrize(("trusted", "children"), [(False, 1), (True, 0)])
def test_trust_decides_whatever_is_given(
    saved: Saved, pictures: list[Path], trusted: bool, children: int
) -> None:
    before = child_processes()
    with load_predictor(saved.folder, device="cpu", trusted=trusted) as predictor:
        predictor.predict([picture(1)])
        assert child_processes() == before, "pixels never need a child"
        predictor.predict(pictures[0])
        predictor.predict(pictures[:3])
        assert len(child_processes() - before) == children


def test_members_that_want_other_pixels_have_children_of_their_own(
    pictures: list[Path], tmp_path: Path
) -> None:
    models = [small_model(seed=seed) for seed in (0, 1)]
    white, black = (
        manifest_of(model, background=background)
        for model, background in zip(models, ((255, 255, 255), (0, 0, 0)), strict=True)
    )
    both = replace(white, members=(*white.members, *black.members))
    save_bundle(tmp_path / "both", models, both)
    stream = io.BytesIO()
    Image.fromarray(np.dstack([picture(1), picture(2)[..., 0]])).save(stream, "PNG")
    glass = tmp_path / "glass.png"
    glass.write_bytes(stream.getvalue())
    before = child_processes()
    with load_predictor(tmp_path / "both", device="cpu", trusted=False) as predictor:
        found = predictor.predict([glass, pictures[0]])
        assert len(child_processes() - before) == 2
    with load_predictor(tmp_path / "both", device="cpu", trusted=True) as predictor:
        np.testing.assert_allclose(found.logits, predictor.predict([glass, pictures[0]]).logits, atol=1e-5)
