"""What is known of each picture beside its label: the table's other columns, and what the audit measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from headstart.data import Audit, Samples


def columns_of(samples: Samples, audit: Audit | None) -> dict[str, NDArray[np.object_]]:
    """Return columns by name, object (N,), one cell for each of `samples`.

    Those of the table come first and keep their names. Of pictures that were audited also `short_side`
    (pixels), `format`, `brightness` and `contrast` (see `Facts`). `audit`: that of the rows
    which `samples` are the good ones of.
    """
    found = dict(samples.columns)
    if audit is None:
        return found
    facts = [audit.facts[row] for row in np.flatnonzero(audit.ok).tolist()]
    measured = {
        "short_side": [min(each.width, each.height) for each in facts],
        "format": [each.format for each in facts],
        "brightness": [round(each.brightness, 1) for each in facts],
        "contrast": [round(each.contrast, 1) for each in facts],
    }
    return {**{name: np.array(cells, object) for name, cells in measured.items()}, **found}
