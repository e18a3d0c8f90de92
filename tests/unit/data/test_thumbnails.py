"""Small copies of pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from headstart.data import thumbnail


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(300, 200, (40, 60)), (10, 20, (20, 10)), (1, 900, (60, 1))]
)
def test_a_thumbnail_keeps_shape_and_colour_and_is_never_larger(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    pixels = np.full((height, width, 3), (200, 40, 60), np.uint8)
    small = Image.open(io.BytesIO(thumbnail(pixels, 60)))
    assert (small.format, small.size) == ("JPEG", expected)
    assert np.abs(np.asarray(small).astype(int) - (200, 40, 60)).max() <= 6
