"""Facts: what is measured of a picture while its pixels are there."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headstart.data import decode_with_size
from headstart.data.facts import NOTHING, facts_of
from headstart.data.images import Decoded
from headstart.data.quality import BLANK_CONTRAST, FLAGS, flagged


def made(mode: str, format: str, *, orientation: int | None = None) -> bytes:
    picture = Image.linear_gradient("L").resize((60, 40)).convert(mode)
    stream, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[274] = orientation
    picture.save(stream, format, **({"exif": exif} if orientation else {}))
    return stream.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_orientation_that_was_applied_is_told(format: str, orientation: int) -> None:
    facts = facts_of(decode_with_size(made("RGB", format, orientation=orientation)))
    assert facts.orientation == orientation
    assert (facts.height, facts.width) == ((60, 40) if orientation == 6 else (40, 60))
    assert facts_of(decode_with_size(made("RGB", format))).orientation == 1


@pytest.mark.parametrize(
    ("mode", "format", "odd"),
    [
        ("RGB", "JPEG", False),
        ("L", "JPEG", False),
        ("CMYK", "JPEG", True),
        ("P", "PNG", False),
        ("RGBA", "PNG", True),
        ("LA", "PNG", True),
        ("1", "PNG", True),
        ("I;16", "PNG", True),
    ],
)
def test_the_mode_is_that_of_the_file(mode: str, format: str, odd: bool) -> None:
    facts = facts_of(decode_with_size(made(mode, format)))
    assert (facts.mode, facts.format) == (mode, format)
    assert flagged([facts], np.array([True]))["ODD_MODE"].tolist() == ([0] if odd else [])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 255), st.integers(1, 40), st.integers(1, 40))
def test_a_picture_of_one_colour_has_its_brightness_and_no_contrast(
    level: int, height: int, width: int
) -> None:
    pixels = np.full((height, width, 3), level, np.uint8)
    facts = facts_of(Decoded(pixels, (height, width), "PNG"))
    assert facts.brightness == pytest.approx(level)
    # A mean of squares less a squared mean: rounding leaves up to 255 times the root of 2e-16.
    assert facts.contrast == pytest.approx(0.0, abs=1e-5)
    assert flagged([facts], np.array([True]))["BLANK"].tolist() == [0]


def test_nearly_blank_is_blank_and_a_thin_text_on_white_is_not() -> None:
    random = np.random.default_rng(0)
    paper = np.clip(250 + random.normal(0, 1.5, (200, 200, 3)), 0, 255).astype(np.uint8)
    assert facts_of(Decoded(paper, (200, 200), "PNG")).contrast < BLANK_CONTRAST
    paper[20:180:13, 20:180] = 0
    assert facts_of(Decoded(paper, (200, 200), "PNG")).contrast > BLANK_CONTRAST


def test_what_could_not_be_decoded_is_flagged_as_nothing() -> None:
    found = flagged([NOTHING, NOTHING], np.array([False, False]))
    assert list(found) == list(FLAGS)
    assert all(len(rows) == 0 for rows in found.values())
