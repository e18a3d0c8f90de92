"""Pictures that can be decoded and yet may not be what was meant: blank, tiny, stretched out, turned, odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headstart.data.facts import Facts

BLANK_CONTRAST = 3.0
"""Below it a picture counts as blank. Of 4,500 real pictures the faintest, a meadow from above, has 5.8."""
TINY_SIDE = 32
"""A short side below it counts as tiny: the usual bodies reduce 32 pixels to one."""
EXTREME_ASPECT = 3.0
"""From it on, long over short side, the largest square holds a third of the picture or less."""

PLAIN_MODES = frozenset({"RGB", "L", "P", ""})
"""How nearly all pictures are stored: colour, grey, palette."""

FLAGS = ("BLANK", "TINY", "EXTREME_ASPECT", "ROTATED", "ODD_MODE")
"""What a picture can be marked as, beside the reason codes of those that cannot be used."""


def flagged(facts: Sequence[Facts], ok: NDArray[np.bool_]) -> dict[str, NDArray[np.int64]]:
    """Return the rows that each of `FLAGS` holds for, int64; only rows that are `ok`."""
    rows = np.flatnonzero(ok).tolist()
    sides = {row: sorted((facts[row].height, facts[row].width)) for row in rows}
    chosen = {
        "BLANK": [row for row in rows if facts[row].contrast < BLANK_CONTRAST],
        "TINY": [row for row in rows if sides[row][0] < TINY_SIDE],
        "EXTREME_ASPECT": [row for row in rows if sides[row][1] >= EXTREME_ASPECT * sides[row][0]],
        "ROTATED": [row for row in rows if facts[row].orientation != 1],
        "ODD_MODE": [row for row in rows if facts[row].mode not in PLAIN_MODES],
    }
    return {flag: np.array(chosen[flag], np.int64) for flag in FLAGS}


def modes(facts: Sequence[Facts], ok: NDArray[np.bool_]) -> dict[str, int]:
    """Return how many pictures are stored in each mode, most frequent first."""
    return dict(Counter(facts[row].mode for row in np.flatnonzero(ok).tolist()).most_common())
