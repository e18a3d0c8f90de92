"""What is known of each picture beside its label: the table's other columns, and what the audit measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headstart.data import Audit, Samples
    from headstart.data.facts import Facts

# A picture whose longer side is at most so many times the other counts as square.
SQUARE = 1.05


MEASURED = ("short_side", "shape", "format", "brightness", "contrast")
"""The names of `measured_columns`."""


def columns_of(samples: Samples, audit: Audit | None) -> dict[str, NDArray[np.object_]]:
    """Return columns by name, object (N,), one cell for each of `samples`.

    Those of the table come first and keep their names. Of pictures that were audited also those of
    `measured_columns`. `audit`: that of the rows which `samples` are the good ones of.
    """
    found = dict(samples.columns)
    if audit is None:
        return found
    return measured_columns([audit.facts[row] for row in np.flatnonzero(audit.ok).tolist()]) | found


def measured_columns(facts: Sequence[Facts | None]) -> dict[str, NDArray[np.object_]]:
    """Return what was measured of pictures as columns, object (N,); cells are empty where `facts` are None.

    They are `short_side` (pixels), `shape` (portrait, square or landscape), `format`, `brightness` and
    `contrast` (see `Facts`).
    """
    cells: dict[str, list[object]] = {
        "short_side": [None if each is None else min(each.width, each.height) for each in facts],
        "shape": [None if each is None else _shape(each.height, each.width) for each in facts],
        "format": [None if each is None else each.format for each in facts],
        "brightness": [None if each is None else round(each.brightness, 1) for each in facts],
        "contrast": [None if each is None else round(each.contrast, 1) for each in facts],
    }
    return {name: np.array(values, object) for name, values in cells.items()}


def _shape(height: int, width: int) -> str:
    if max(height, width) <= SQUARE * min(height, width):
        return "square"
    return "portrait" if height > width else "landscape"
