"""What makes a figure doubtful, in plain words; each function returns "" where there is no doubt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headstart.evaluation.predictions import Predictions
from headstart.types import Task

# Six pictures that one model gets right and the other wrong, all one way, come about by chance in 3 of
# 100 cases (2 · 0.5⁶), five in 6: the exact sign test at 95 %.
FEWEST_DECIDING = 6
# Logits that differ less between pictures than this come from rounding.
_SAME = 1e-6


def smallest_difference(rows: int) -> float:
    """Return the smallest difference in accuracy, 0 … 1, that `rows` pictures can tell from chance.

    Two models are compared on the same pictures; where fewer than six are judged otherwise, the exact
    sign test (McNemar 1947) calls no difference significant at 95 %.
    """
    return min(1.0, FEWEST_DECIDING / rows) if rows > 0 else 1.0


def too_few_rows(rows: int, difference: float = 0.05, *, part: str = "validation") -> str:
    """Say so where a part has too few pictures to see a `difference` in accuracy (0 … 1)."""
    least = smallest_difference(rows)
    if least <= difference:
        return ""
    return (
        f"{rows} {part} pictures cannot tell a difference below {100 * least:.1f} points from chance: "
        f"one of {100 * difference:.0f} points takes at least {-(-FEWEST_DECIDING // difference):.0f}"
    )


def missing_classes(counts: Sequence[int], classes: Sequence[str], *, part: str = "training") -> str:
    """Name the classes of which a part has no picture; `counts` is how many it has of each."""
    absent = [repr(name) for name, count in zip(classes, counts, strict=True) if count == 0]
    if not absent:
        return ""
    names = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
    what = "it cannot be learnt" if part == "training" else "nothing is known about it"
    return f"no {part} picture is of class {names}: {what}"


def constant_answer(predictions: Predictions) -> str:
    """Say so where a model gives all pictures the same answer although their labels differ."""
    logits = predictions.logits[np.isfinite(predictions.logits).all(1)]
    if len(logits) < 2:
        return ""
    if bool((np.ptp(logits, axis=0) <= _SAME).all()):
        return "the model says the same of every picture, to the last digit: it has learnt nothing from them"
    if predictions.task is not Task.SINGLE_LABEL or predictions.targets is None:
        return ""
    said, true = np.unique(logits.argmax(1)), np.unique(predictions.targets[predictions.targets >= 0])
    if len(said) > 1 or len(true) < 2:
        return ""
    return f"the model calls every picture {predictions.classes[said[0]]!r}, whatever it shows"
