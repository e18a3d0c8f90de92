"""Numbers and names as people read them in the report."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

NO_FIGURE = "–"
INTERVAL = "its 95\N{NO-BREAK SPACE}% interval"
_SPACE = "\N{NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"
_METRICS = {
    "accuracy": ("Accuracy", "pictures (of tags: decisions) called rightly"),
    "error_rate": ("Error rate", "pictures (of tags: decisions) called wrongly"),
    "top_5": ("Top 5", "truth among the five most probable"),
    "balanced_accuracy": ("Balanced accuracy", "mean recall: every class counts the same"),
    "macro_precision": ("Precision", "mean over the classes"),
    "macro_recall": ("Recall", "mean over the classes"),
    "macro_f1": ("F1", "mean over the classes"),
    "micro_f1": ("F1 of all decisions", "every tag of every picture counts the same"),
    "f2": ("F2", "recall counts twice"),
    "log_loss": ("Log loss", "lower is better; punishes being sure and wrong"),
    "brier": ("Brier score", "lower is better; squared error of the probabilities"),
    "expected_calibration_error": ("Calibration error", "lower is better; how far sure and right differ"),
    "roc_auc": ("ROC AUC", "0.5 is chance, 1 is perfect ranking"),
    "average_precision": ("Average precision", "area under precision over recall, mean over classes or tags"),
    "cohen_kappa": ("Cohen's kappa", "agreement beyond chance"),
    "matthews": ("Matthews correlation", "0 is chance, 1 is perfect"),
}
_SHARES = {
    "accuracy",
    "error_rate",
    "top_5",
    "balanced_accuracy",
    "macro_precision",
    "macro_recall",
    "expected_calibration_error",
}


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as `94.6 %`; a dash where it is undefined."""
    return NO_FIGURE if _missing(value) else f"{100 * float(value or 0):.{digits}f}{_SPACE}%"


def probability(value: float) -> str:
    """Return a probability as `73.6 %`; never as 0 or 100 %, which nothing is."""
    if value < 0.001:
        return f"<{_SPACE}0.1{_SPACE}%"
    return percent(value) if value < 0.9995 else f">{_SPACE}99.9{_SPACE}%"


def percent_range(low: float | None, high: float | None) -> str:
    """Return two shares as `92.1 to 96.4 %`."""
    if _missing(low) or _missing(high):
        return NO_FIGURE
    return f"{100 * float(low or 0):.1f} to {percent(high)}"


def number(value: float | None, digits: int = 3) -> str:
    """Return a figure with a fixed number of digits, and a proper minus."""
    return NO_FIGURE if _missing(value) else f"{float(value or 0):.{digits}f}".replace("-", _MINUS)


def number_range(low: float | None, high: float | None, digits: int = 3) -> str:
    """Return two figures as `0.120 to 0.180`."""
    if _missing(low) or _missing(high):
        return NO_FIGURE
    return f"{number(low, digits)} to {number(high, digits)}"


def signed(value: float | None, digits: int = 3) -> str:
    """Return a difference with its sign; what rounds to zero has none."""
    text = number(value, digits)
    if text == NO_FIGURE or text.startswith(_MINUS):
        return text if text.strip(f"{_MINUS}0.") or text == NO_FIGURE else text.removeprefix(_MINUS)
    return f"+{text}" if text.strip("0.") else text


def signed_range(low: float | None, high: float | None, digits: int = 3) -> str:
    """Return two differences as `−0.010 to +0.052`."""
    if _missing(low) or _missing(high):
        return NO_FIGURE
    return f"{signed(low, digits)} to {signed(high, digits)}"


def count(value: float | None) -> str:
    """Return a whole number with separated thousands."""
    return NO_FIGURE if _missing(value) else f"{int(value or 0):,}"


def plural(value: int, word: str, words: str | None = None) -> str:
    """Return `1 picture`, `3,670 pictures`."""
    return f"{count(value)}{_SPACE}{word if value == 1 else words or word + 's'}"


def duration(seconds: float | None) -> str:
    """Return `0.8 s`, `42 s`, `4 min 12 s` or `2 h 5 min`."""
    if seconds is None or not math.isfinite(seconds):
        return NO_FIGURE
    if seconds < 9.95:
        return f"{seconds:.1f}{_SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{_SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{_SPACE}min {whole % 60}{_SPACE}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{_SPACE}h {minutes % 60}{_SPACE}min"


def rate(value: float | None) -> str:
    """Return a learning rate with two digits: `0.0012`, `3e-06`."""
    return NO_FIGURE if _missing(value) else f"{float(value or 0):.2g}"


def wrong_in_words(accuracy: float) -> str:
    """Return what an accuracy means: `about one picture in 19 is called wrong`."""
    wrong = 1.0 - accuracy
    if wrong <= 0:
        return "no picture of this part was called wrong"
    if wrong > 0.4:
        return f"about {round(10 * wrong)} pictures in ten are called wrong"
    return f"about one picture in {round(1 / wrong)} is called wrong"


def visible(text: str) -> str:
    """Return a name with its control characters, lone surrogates and line breaks spelled out."""
    return "".join(_spelled(letter) for letter in str(text))


def plain(value: object) -> str:
    """Return a setting as people read it: sizes as `224 × 224`, yes and no, a dash for nothing."""
    if value is None or value == "":
        return NO_FIGURE
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value) if abs(value) >= 10_000 else str(value)
    if isinstance(value, list) and len(value) == 2 and all(isinstance(each, int) for each in value):
        return f"{value[0]} × {value[1]}"
    return visible(json.dumps(value, ensure_ascii=False))


def metric_name(name: str) -> str:
    """Return the name of a metric as people write it."""
    return _METRICS.get(name, (name.replace("_", " ").capitalize(), ""))[0]


def metric_meaning(name: str) -> str:
    """Return what a metric means, in a few words; empty for one that is not known."""
    return _METRICS.get(name, ("", ""))[1]


def metric_text(name: str, value: float | None) -> str:
    """Return a metric's value, as a percentage where it is a share."""
    return percent(value) if name in _SHARES else number(value)


def metric_range(name: str, figure: Mapping[str, Any]) -> str:
    """Return a metric's interval, as percentages where it is a share."""
    write = percent_range if name in _SHARES else number_range
    return write(figure.get("low"), figure.get("high"))


def _spelled(letter: str) -> str:
    # Joiners (Cf) belong to emoji and to Indic and Arabic writing; the page isolates directions.
    if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp"):
        return letter.encode("unicode_escape").decode()
    return letter


def _missing(value: float | None) -> bool:
    return value is None or not math.isfinite(value)
