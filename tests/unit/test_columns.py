"""The columns that pictures have beside their labels: those of the table, and what was measured."""

from __future__ import annotations

import pytest

from headstart.data.facts import Facts
from headstart.imagedata.columns import MEASURED, measured_columns


@pytest.mark.parametrize(
    ("height", "width", "shape"),
    [(100, 100, "square"), (100, 104, "square"), (100, 106, "landscape"), (106, 100, "portrait")],
)
def test_the_shape_of_a_picture_has_a_name(height: int, width: int, shape: str) -> None:
    found = measured_columns([Facts(height, width, "PNG", brightness=12.34, contrast=5.67)])
    assert tuple(found) == MEASURED
    cells = {name: column.tolist() for name, column in found.items()}
    assert cells == {
        "short_side": [100],
        "shape": [shape],
        "format": ["PNG"],
        "brightness": [12.3],
        "contrast": [5.7],
    }


def test_a_picture_that_cannot_be_read_has_empty_cells() -> None:
    assert all(column.tolist() == [None] for column in measured_columns([None]).values())
