"""What a finished run still looks at, for its report: slices, heat maps, doubts about labels, a map.

It comes after the last figure and after the model is written, changes neither, and is done by the first of
several processes. A run that was stopped goes without what takes time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from headstart.evaluation import Explanation, Predictions
from headstart.recipe.diagnosing import (
    as_summary,
    left_out_if_it_fails,
    mean_heat,
    save_heat,
    save_map,
    slices_in,
    told_slices,
)
from headstart.recipe.doubting import TooLongError, judge_labels, judged_labels, within, write_doubts

if TYPE_CHECKING:
    from headstart.models import TensorSource
    from headstart.recipe.deciding import Seen
    from headstart.recipe.steps import EightSteps

# Out-of-fold models may take this share of the run, or so many seconds. Of 800 and 1,100 pictures in 2,560
# features they take 1.5 s on one core.
SHARE_FOR_DOUBTS = 0.03
SECONDS_FOR_DOUBTS = 6.0
# Fitting takes some three copies of the features: a finished run must not end for want of memory.
MOST_BYTES = 2**30


def frozen_features(steps: EightSteps) -> tuple[TensorSource, ...]:
    """Return the frozen features of train and valid where the run has them; of all processes at once."""
    first = steps.first
    if first is None or steps.stop_reason:
        return ()
    parts = [split for split in ("train", "valid") if len(steps.data.rows(split))]
    if all(split in first.sources for split in parts):
        return tuple(first.sources[split] for split in parts)
    # A run that was gone on with finds them in the cache, where the pictures were audited.
    if not all(steps.data.content_keys(split) for split in parts):
        return ()
    return tuple(steps.data.activations(split, first.engine, first.identity) for split in parts)


def look_back(
    steps: EightSteps,
    fair: Predictions,
    table: Predictions,
    seen: Seen | None,
    frozen: Sequence[TensorSource],
) -> dict[str, Any]:
    """Write heat maps, thumbnails of doubtful labels and the map; return what the summary keeps.

    `fair`: the validation rows as the figures are of them; `table`: what predictions.csv holds; `seen`: what
    enters the head of the best model; `frozen`: see `frozen_features`.
    """
    say, added = steps.narrator.say, dict[str, Any]()
    with left_out_if_it_fails("slices", say):
        slices = slices_in(fair, steps.data.columns)
        added["slices"] = as_summary(slices)
        if words := told_slices(slices):
            say(f"  {words}")
    if steps.stop_reason:
        return added
    if steps.clock.left() <= 0:
        say("  the budget is used up: no heat maps, no map, and doubts about validation labels only")
    with left_out_if_it_fails("label doubts", say):
        doubts = _doubts(steps, frozen)
        added |= {} if doubts is None else {"doubts": doubts}
    with left_out_if_it_fails("heat maps", say), steps.narrator.progress("looking for where it looks"):
        save_heat(steps.folder, table, partial(_explained, steps), in_time=lambda: steps.clock.left() > 0)
    if seen is not None and steps.clock.left() > 0:
        with left_out_if_it_fails("places on a map", say):
            save_map(steps.folder, table, *seen, seed=steps.data.seed)
    return added


def _doubts(steps: EightSteps, frozen: Sequence[TensorSource]) -> dict[str, Any] | None:
    """Doubt the labels of all pictures; those of the validation part where that would take long."""
    if steps.first is None:
        return None
    told = steps.first.valid
    allowed = max(SECONDS_FOR_DOUBTS, SHARE_FOR_DOUBTS * steps.clock.elapsed)
    allowed = min(allowed, steps.clock.left())
    size = sum(4 * part.features.size for part in frozen)
    if 0 < size <= MOST_BYTES and allowed > 0:
        with steps.narrator.progress("asking models that never saw the picture") as on_progress:
            in_time = within(allowed)

            def looked_at(done: int, total: int) -> None:
                in_time(done, total)
                on_progress(done, total)

            with contextlib.suppress(TooLongError):
                told = judged_labels(judge_labels(steps.data, frozen, repeats=1, on_progress=looked_at))
    return write_doubts(steps.folder, steps.data, told)


def _explained(steps: EightSteps, rows: Sequence[int], labels: Sequence[str]) -> list[Explanation]:
    """Explain pictures by the best model; of an ensemble by the mean over its members."""
    if not steps.best.members:
        return steps.learner.explain(rows, label=labels)
    parts = []
    try:
        for state in steps.best.members:
            steps.learner.set_state(state)
            parts.append(steps.learner.explain(rows, label=labels))
    finally:
        steps.learner.set_state(steps.best.state)
    return mean_heat(parts)
