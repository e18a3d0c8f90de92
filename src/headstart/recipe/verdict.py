"""Judging: whether a step pays, and whether a phase over-fitted, under-fitted or neither."""

from __future__ import annotations

from collections.abc import Sequence

from headstart.evaluation import Gain, Predictions, fit_temperature, paired
from headstart.recipe.result import Verdict

RISE = 1.05
CLOSE = 0.9
STILL_FALLING = 0.98
# See ADR 12 for what other shares would gain.
SURE_ENOUGH = 0.8


def gain_in_log_loss(before: Predictions, after: Predictions) -> Gain:
    """Return what a step gained in validation log loss, by the paired bootstrap.

    Over-confidence is taken from both sides first, by a temperature of 1 or more, as it will be taken
    from the model that is saved. Without this a few over-confident mistakes decide: on 200 digits a
    step that took the accuracy from 83.5 % to 96.0 % was undone.
    """
    return paired(softened(before), softened(after), "log_loss")


def softened(predictions: Predictions) -> Predictions:
    """Return the table with the over-confidence taken from it, as `gain_in_log_loss` does."""
    return predictions.with_temperature(max(1.0, fit_temperature(predictions)))


def pays(gain: Gain, *, clearly: bool = False) -> bool:
    """Say whether a step is kept: it is better in four of five resamples of the validation rows.

    One that makes each prediction dearer, or that seldom brings anything, is to be `clearly` better: the
    95 % interval of its gain lies above zero.
    """
    return gain.low > 0 if clearly else gain.probability >= SURE_ENOUGH


def diagnose(train_loss: float, valid_losses: Sequence[float]) -> Verdict:
    """Return the verdict on a phase.

    `train_loss` is the loss on training pictures in evaluation mode without augmentation, so that it
    can be compared with `valid_losses`, the validation loss after each epoch. Over-fitting: the
    validation loss has turned up while the training loss lies below it. Under-fitting: the two are
    close and the validation loss was still falling at the end.
    """
    last, best = valid_losses[-1], min(valid_losses)
    figures = f"loss {train_loss:.3f} on training pictures, {last:.3f} on validation pictures"
    if last > RISE * best and train_loss < last:
        return Verdict(
            "over-fitting",
            f"{figures}, up from {best:.3f}. Add pictures or augmentation, or start with smaller pictures.",
        )
    falling = len(valid_losses) > 1 and last < STILL_FALLING * valid_losses[-2]
    if train_loss > CLOSE * last and falling:
        return Verdict("under-fitting", f"{figures} and still falling. Train longer (--epochs 2).")
    return Verdict("neither", f"{figures}.")
