"""Explanations: overlays, where half of the heat is, and the folder that holds them all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headstart.errors import OutputError, UsageError
from headstart.evaluation import Explanation, area_of_half, overlay, share_of_heat, write_explanations


def heat_in(place: tuple[slice, slice], size: tuple[int, int] = (40, 60)) -> np.ndarray:
    heat = np.zeros(size, np.float32)
    heat[place] = 1
    return heat


CORNER = heat_in(np.s_[0:4, 50:60])
VIEW = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def of(path: str = "a.jpg", **changes: object) -> Explanation:
    fields = {"label": "cat", "probability": 0.9, "prediction": "cat", "method": "gradcam", "view": VIEW}
    return Explanation(path, 7, **{**fields, "heat": CORNER, **changes})  # type: ignore[arg-type]


def test_what_is_cold_stays_as_it_is_and_what_is_hot_does_not() -> None:
    laid = overlay(VIEW, CORNER)
    assert laid.dtype == np.uint8
    assert np.array_equal(laid[CORNER == 0], VIEW[CORNER == 0])
    assert np.abs(laid[CORNER > 0].astype(int) - VIEW[CORNER > 0]).mean() > 20
    with pytest.raises(UsageError, match="does not fit"):
        overlay(VIEW[:20], CORNER)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), power=st.sampled_from([0.0, 1.0, 6.0]))
def test_half_of_the_heat_lies_on_at_most_half_of_the_view(seed: int, power: float) -> None:
    heat = np.random.default_rng(seed).uniform(size=(9, 7)).astype(np.float32) ** power
    area = area_of_half(heat)
    assert 1 / 63 <= area <= 0.5 + 1 / 63
    hottest = np.zeros(63, bool)
    hottest[np.argsort(-heat, axis=None)[: round(area * 63)]] = True
    assert share_of_heat(heat, hottest.reshape(9, 7)) >= 0.5 - 1e-6
    assert share_of_heat(heat, np.ones((9, 7), bool)) == pytest.approx(1)


def test_a_mark_in_a_corner_is_told_apart_from_a_thing_that_fills_the_view() -> None:
    assert of().area_of_half == pytest.approx(20 / 2400)
    assert of(heat=np.ones((40, 60), np.float32)).area_of_half == pytest.approx(0.5)
    right, down = of(heat=heat_in(np.s_[2:3, 55:56])).hottest
    assert (right, down) == pytest.approx((55.5 / 60, 2.5 / 40))


def test_a_map_without_heat_has_no_place_and_a_picture_without_a_map_no_overlay() -> None:
    nothing = of(heat=np.zeros((40, 60), np.float32))
    assert np.isnan(nothing.area_of_half)
    assert nothing.to_dict()["hottest"] is None
    assert np.array_equal(nothing.overlay(), VIEW)
    unread = Explanation("b.jpg", 8, status="CORRUPT")
    with pytest.raises(UsageError, match=r"b\.jpg: CORRUPT"):
        unread.overlay()
    json.dumps(unread.to_dict(), allow_nan=False)


def test_a_folder_holds_the_overlays_the_views_the_page_and_the_table(tmp_path: Path) -> None:
    folder = tmp_path / "heat"
    bites = "pictures/ü <b>&'\n\udcff.jpg"
    given_ = [
        of(),
        of(bites, label="<script>", truth="dog", prediction="dog"),
        Explanation("c", 9, status="CORRUPT"),
    ]
    rows = write_explanations(folder, iter(given_), title="What <model> looks at")
    assert [row["status"] for row in rows] == ["ok", "ok", "CORRUPT"]
    assert json.loads((folder / "explanations.json").read_text("utf-8"))[0] == rows[0]
    for row in rows[:2]:
        assert re.fullmatch(r"overlays/\d{5}-[A-Za-z0-9_-]+\.png", row["overlay"])
        assert np.array_equal(np.asarray(Image.open(folder / row["view"])), VIEW)
        assert np.array_equal(np.asarray(Image.open(folder / row["overlay"])), given_[0].overlay())
    assert rows[2]["overlay"] is None
    page = (folder / "index.html").read_text("utf-8")
    assert "What &lt;model&gt; looks at" in page
    assert "&lt;script&gt; 90 %" in page
    assert "<script" not in page
    assert "http" not in page
    assert page.count("<img") == page.count("alt=") == 4
    assert "in truth dog; predicted dog" in page
    assert "not read: CORRUPT" in page
    assert "half of the heat on 1 % of the view" in page


def test_a_folder_is_replaced_only_where_it_holds_explanations(tmp_path: Path) -> None:
    folder = tmp_path / "heat"
    write_explanations(folder, [of(), of()])
    with pytest.raises(OutputError, match="exists already"):
        write_explanations(folder, [of()])
    write_explanations(folder, [of()], replace=True)
    assert len(list((folder / "overlays").iterdir())) == 1
    own = tmp_path / "photos"
    own.mkdir()
    (own / "me.jpg").write_bytes(b"mine")
    with pytest.raises(OutputError, match="something else"):
        write_explanations(own, [of()], replace=True)
    assert (own / "me.jpg").read_bytes() == b"mine"


def test_where_explaining_fails_nothing_is_left_behind(tmp_path: Path) -> None:
    def broken():
        yield of()
        raise UsageError("no")

    with pytest.raises(UsageError):
        write_explanations(tmp_path / "heat", broken())
    assert list(tmp_path.iterdir()) == []
